//! Whatever a server tells is an event or garbage, and what is dropped of an object while it is read makes no difference.

use std::path::Path;

use ::fuzz::{Form, Target, one_sentence};
use serde_json::Value;

use super::*;
use crate::manifest::typed;
use ipamd_model::objects::{Kind, Origin};

const KINDS: [Kind; 13] = [
    Kind::Namespace,
    Kind::Pod,
    Kind::ServiceAccount,
    Kind::Node,
    Kind::NetworkSet,
    Kind::GlobalNetworkSet,
    Kind::Tier,
    Kind::NetworkPolicy,
    Kind::CalicoNetworkPolicy,
    Kind::GlobalNetworkPolicy,
    Kind::ClusterNetworkPolicy,
    Kind::Service,
    Kind::EndpointSlice,
];

fn holds(line: &[u8]) -> Result<(), String> {
    if let Ok(list) = serde_json::from_slice::<List>(line)
        && let Err(failure) = list.page(&Type::new("Pod", "v1"))
    {
        one_sentence(&failure.message())?;
    }
    // Of whichever type it is.
    let of = serde_json::from_slice::<Line>(line)
        .ok()
        .and_then(|it| serde_json::from_str::<Type>(it.object.get()).ok())
        .unwrap_or_default();
    let pruned = match event(line, &of) {
        Err(failure) => return one_sentence(&failure.message()),
        Ok(WireEvent::Bookmark { version, .. }) if version.is_empty() => {
            return Err("a bookmark without a version".into());
        }
        Ok(WireEvent::Bookmark { .. }) => return Ok(()),
        Ok(WireEvent::Added(pruned) | WireEvent::Modified(pruned) | WireEvent::Deleted(pruned)) => pruned,
    };
    let Line { object, .. } = serde_json::from_slice(line).map_err(|error| error.to_string())?;
    let whole: Value = serde_json::from_str(object.get()).map_err(|error| error.to_string())?;
    let whole = PrunedObject::of(whole);
    for kind in KINDS {
        let origin = || Origin { file: Path::new("fuzz").into(), line: 1 };
        let dropped = typed(kind, &pruned.body, origin());
        if let Err(error) = &dropped {
            one_sentence(&error.to_string())?;
        }
        match typed(kind, &whole.body, origin()) {
            Ok(object) if dropped.as_ref() != Ok(&object) => {
                return Err(format!("a {} reads {dropped:?}, and whole {object:?}", kind.name()));
            }
            _ => {}
        }
    }
    Ok(())
}

#[test]
fn whatever_a_server_tells_is_an_event_or_refused_in_a_sentence() {
    Target::new("watch", Form::Text).holds(holds);
}
