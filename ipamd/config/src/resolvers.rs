//! Which DNS resolvers count.

use std::{
    net::{IpAddr, SocketAddr},
    str::FromStr,
    sync::Arc,
};

use ipamd_model::{domain::DomainPattern, field::shown};
use serde::Deserialize;

/// Resolvers by whose answers policies know the addresses of names.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum ResolverName {
    /// A Service: its addresses and its endpoints.
    Service {
        /// Its namespace.
        namespace: Arc<str>,
        /// Its name.
        name: Arc<str>,
    },
    /// An address and a port.
    Address(SocketAddr),
}

/// The port of DNS.
const DNS_PORT: u16 = 53;

impl ResolverName {
    /// The DNS of a Kubernetes cluster.
    pub(super) fn of_cluster() -> Self {
        Self::Service { namespace: "kube-system".into(), name: "kube-dns".into() }
    }
}

impl FromStr for ResolverName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::Address(SocketAddr::new(address, DNS_PORT)));
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(Self::Address(address));
        }
        match text.split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
                Ok(Self::Service { namespace: namespace.into(), name: name.into() })
            }
            _ => Err(format!(
                "{} is no resolver: write a Service as NAMESPACE/NAME, or an address as 10.0.0.53 or [fd00::53]:5353",
                shown(text)
            )),
        }
    }
}

impl TryFrom<String> for ResolverName {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// All names below one.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Below(pub DomainPattern);

impl FromStr for Below {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // A name with a star would get a second one, which is refused.
        Ok(Self(format!("*.{text}").parse()?))
    }
}

impl TryFrom<String> for Below {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resolver_is_a_service_or_an_address() {
        let parsed = |text: &str| text.parse::<ResolverName>();
        assert_eq!(parsed("kube-system/kube-dns"), Ok(ResolverName::of_cluster()));
        for (text, address) in [
            ("10.0.0.53", "10.0.0.53:53"),
            ("10.0.0.53:5353", "10.0.0.53:5353"),
            ("fd00::53", "[fd00::53]:53"),
            ("[fd00::53]:5353", "[fd00::53]:5353"),
        ] {
            assert_eq!(parsed(text), Ok(ResolverName::Address(address.parse().unwrap())), "{text}");
        }
        for text in ["", "kube-dns", "a/b/c", "/b", "10.0.0.300"] {
            assert!(parsed(text).unwrap_err().contains("is no resolver"), "{text}");
        }
    }

    #[test]
    fn a_search_name_is_a_plain_name() {
        assert_eq!("cluster.local".parse::<Below>().unwrap().0.to_string(), "*.cluster.local");
        assert!("*.cluster.local".parse::<Below>().is_err());
    }
}
