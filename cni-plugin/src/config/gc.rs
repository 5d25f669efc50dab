//! The configuration of a GC.

use std::collections::HashSet;

use ipamd_api::wire::ValidAttachment;

use super::Network;
use crate::document::{Document, Field};
use crate::{environment::Command, error::CniError};

/// What a GC takes from it.
#[derive(Clone, Debug, PartialEq)]
pub struct GcConfig {
    /// What every command takes.
    pub network: Network,
    /// `cni.dev/valid-attachments`: what stays, each once.
    pub valid: Vec<ValidAttachment>,
}

impl GcConfig {
    /// The configuration, or what is wrong with it. A missing list is an error rather than an empty one, which would
    /// remove every container's interface; libcni leaves it out where its caller gives none. With null it is an empty one:
    /// that is how Go writes a list without entries.
    pub fn parse(document: &Document) -> Result<Self, CniError> {
        let network = Network::parse(document, Command::Gc)?;
        let list = document.field("cni.dev/valid-attachments");
        // The name that an earlier text of the specification gave it.
        let earlier = document.field("cni.dev/attachments");
        let list = if list.is_given() { list } else { earlier };
        if !list.is_given() {
            return Err(document
                .field("cni.dev/valid-attachments")
                .must("must list the attachments that stay"));
        }
        let mut seen = HashSet::new();
        let mut valid: Vec<_> = list.list()?.unwrap_or_default().iter().map(attachment).collect();
        valid.retain(|attachment| seen.insert(attachment.clone()));
        Ok(Self { network, valid })
    }
}

/// One entry. What cannot be read of it stays open, and then every attachment that it may mean stays: an entry that is wrong
/// must neither cost a live container its network nor keep what is certainly gone.
fn attachment(entry: &Field) -> ValidAttachment {
    let part = |name: &str| {
        let field = entry.field(name);
        let text = field.text().ok().flatten().filter(|text| !text.is_empty()).map(str::to_owned);
        if text.is_none() {
            tracing::warn!(
                field = field.path(),
                "the field is empty or not a string; attachments that it could name are kept"
            );
        }
        text
    };
    ValidAttachment { container_id: part("containerID"), ifname: part("ifname") }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn parse(extra: &Value) -> Result<Vec<ValidAttachment>, CniError> {
        let mut config = json!({"cniVersion": "1.1.0", "name": "net", "type": "cambric"});
        config.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        GcConfig::parse(&Document::decode(config.to_string().as_bytes()).unwrap()).map(|config| config.valid)
    }

    fn one(container_id: Option<&str>, ifname: Option<&str>) -> ValidAttachment {
        ValidAttachment { container_id: container_id.map(Into::into), ifname: ifname.map(Into::into) }
    }

    #[test]
    fn it_needs_its_list() {
        let error = parse(&json!({})).unwrap_err();
        assert!(
            error.code() == 7 && error.to_string().contains("cni.dev/valid-attachments is missing"),
            "{error}"
        );
        for list in [json!({}), json!("x"), json!(1)] {
            let error = parse(&json!({"cni.dev/valid-attachments": list})).unwrap_err();
            assert!(error.code() == 7 && error.to_string().contains("must be a list"), "{error}");
        }
    }

    #[test]
    fn a_list_without_entries_is_null_where_go_writes_it() {
        for name in ["cni.dev/valid-attachments", "cni.dev/attachments"] {
            for list in [json!([]), json!(null)] {
                assert_eq!(parse(&json!({name: list})).unwrap(), []);
            }
            let list =
                json!([{"containerID": "c", "ifname": "eth0"}, {"ContainerID": "c", "IfName": "eth0"}]);
            assert_eq!(parse(&json!({name: list})).unwrap(), [one(Some("c"), Some("eth0"))]);
        }
        let both = json!({"cni.dev/valid-attachments": null, "cni.dev/attachments": [{"containerID": "c", "ifname": "e"}]});
        assert_eq!(parse(&both).unwrap(), [], "the list of today counts");
    }

    #[test]
    fn what_cannot_be_read_of_an_entry_stays_open() {
        let valid = parse(&json!({"cni.dev/valid-attachments": [
            {"containerID": "a", "ifname": "eth0"}, {"containerID": "b"}, {"ifname": "eth1", "containerID": 7},
            {"containerID": "", "ifname": ""}, "c", null,
        ]}));
        let expected =
            [one(Some("a"), Some("eth0")), one(Some("b"), None), one(None, Some("eth1")), one(None, None)];
        assert_eq!(valid.unwrap(), expected);
    }
}
