//! `services` of a source or a destination: the endpoints of a Service, and in a destination their ports, too. Calico's checks hold:
//! the peer's side of a rule can have it, and nothing beside it that would say which addresses or ports are meant.

use std::sync::Arc;

use crate::field::Field;
use ipamd_model::{field::FieldError, policy::Direction, service_name::ServiceName};

/// What a side cannot say beside `services`, because the Service says it.
const ADDRESSES: [&str; 7] =
    ["selector", "notSelector", "namespaceSelector", "serviceAccounts", "nets", "notNets", "domains"];
/// The same for the side whose ports are those of the Service.
const PORTS: [&str; 2] = ["ports", "notPorts"];

/// A side of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Source,
    Destination,
}

impl Side {
    /// The field that it is in.
    pub fn key(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Destination => "destination",
        }
    }
}

/// The Service that a side of a rule means, in a policy of a namespace or of none.
pub(super) fn read(
    field: &Field<'_>,
    side: Side,
    direction: Direction,
    namespace: Option<&Arc<str>>,
) -> Result<Option<ServiceName>, FieldError> {
    let Some(services) = field.get("services")? else { return Ok(None) };
    services.only(&["name", "namespace"])?;
    match (direction, side) {
        (Direction::Ingress, Side::Source) | (Direction::Egress, Side::Destination) => {}
        _ => {
            let reason = "can be in the source of an ingress rule and in the destination of an egress rule";
            return Err(services.refuse(reason));
        }
    }
    let ports: &[_] = if side == Side::Destination { &PORTS } else { &[] };
    for key in ADDRESSES.iter().chain(ports) {
        if let Some(other) = field.get(key)?.filter(says_something) {
            return Err(other.refuse("is not possible together with services"));
        }
    }
    let Some(name) = services.optional_text("name")? else {
        return Err(services.refuse("names no Service"));
    };
    let namespace = match (services.optional_text("namespace")?, namespace) {
        (Some(namespace), _) => namespace.into(),
        (None, Some(own)) => Arc::clone(own),
        (None, None) => return Err(services.refuse("needs a namespace, because the policy is in none")),
    };
    Ok(Some(ServiceName { namespace, name: name.into() }))
}

/// An empty text or list constrains nothing.
fn says_something(field: &Field<'_>) -> bool {
    let value = field.value();
    value.as_str().is_none_or(|text| !text.is_empty()) && value.as_array().is_none_or(|list| !list.is_empty())
}
