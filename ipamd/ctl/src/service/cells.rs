//! What is in the cells of the tables.

use std::{fmt, net::IpAddr};

use ipamd_api::services::BackendCount;

/// Several values in one cell.
pub(super) fn cell(values: impl IntoIterator<Item = impl fmt::Display>) -> String {
    let cell = values.into_iter().map(|value| value.to_string()).collect::<Vec<_>>().join(",");
    if cell.is_empty() { "-".to_owned() } else { cell }
}

/// Several values below each other.
pub(super) fn lines(values: impl IntoIterator<Item = impl fmt::Display>) -> String {
    values.into_iter().map(|value| value.to_string()).collect::<Vec<_>>().join("\n")
}

/// Addresses by which a service is reached from outside, each once.
pub(super) fn outside<'a>(
    external: &'a [IpAddr],
    load_balancer: &'a [IpAddr],
) -> impl Iterator<Item = &'a IpAddr> {
    let others = load_balancer.iter().filter(|address| !external.contains(address));
    external.iter().chain(others)
}

/// How many backends are ready.
pub(super) fn ready(backends: BackendCount) -> String {
    format!("{}/{}", backends.ready, backends.all)
}
