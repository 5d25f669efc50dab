//! Which plugins a network's configuration chains, as far as it matters how programs are attached.
//!
//! A clsact filter is attached at once, a tcx link keeps its maker waiting for an RCU grace period, 10 to 15 ms, under the
//! kernel's network lock. But the qdisc of a filter takes the place that the `bandwidth` plugin's needs. So it matters whether
//! such a plugin comes after Cambric, which the plugin itself is not told. The runtime's configuration says so.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

/// Where runtimes look for configurations unless told otherwise.
const CUSTOMARY: &str = "/etc/cni/net.d";
/// What libcni takes for a configuration.
const EXTENSIONS: [&str; 3] = ["conf", "conflist", "json"];
/// Plugins that add no queueing discipline to the end on the node.
const WITHOUT_QDISC: [&str; 7] = ["cambric", "firewall", "loopback", "portmap", "sbr", "tuning", "vrf"];

/// The folder of a runtime's network configurations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configurations(PathBuf);

impl Configurations {
    /// Those in `dir`, or where runtimes look customarily.
    pub fn new(dir: Option<PathBuf>) -> Self {
        Self(dir.unwrap_or_else(|| CUSTOMARY.into()))
    }

    /// Whether it is known of all plugins of a network that none adds a queueing discipline. A network that no file here
    /// configures is not known.
    pub fn need_no_qdisc(&self, network: &str) -> bool {
        let mut types = BTreeSet::new();
        for (name, plugins) in files(&self.0).iter().filter_map(|file| read(file)) {
            if name == network {
                types.extend(plugins);
            }
        }
        !types.is_empty() && types.iter().all(|it| WITHOUT_QDISC.contains(&it.as_str()))
    }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok);
    let is_one = |path: &PathBuf| {
        path.extension().and_then(|it| it.to_str()).is_some_and(|extension| EXTENSIONS.contains(&extension))
    };
    entries.map(|entry| entry.path()).filter(is_one).collect()
}

/// The name of a file's network and the types of its plugins; one that cannot be told is an empty word, which is no plugin.
fn read(file: &Path) -> Option<(String, Vec<String>)> {
    let content: Value = serde_json::from_slice(&fs::read(file).ok()?).ok()?;
    let plugins = match &content["plugins"] {
        Value::Array(plugins) => plugins.iter().collect(),
        _ => vec![&content],
    };
    let types = plugins.iter().map(|plugin| plugin["type"].as_str().unwrap_or_default().to_owned());
    Some((content["name"].as_str()?.to_owned(), types.collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn need_no_qdisc(files: &[(&str, &str)]) -> bool {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in files {
            fs::write(dir.path().join(name), content).unwrap();
        }
        Configurations::new(Some(dir.path().into())).need_no_qdisc("net")
    }

    #[test]
    fn only_a_chain_that_is_known_needs_no_qdisc() {
        let alone = r#"{"name": "net", "plugins": [{"type": "cambric"}]}"#;
        let tuned =
            r#"{"name": "net", "plugins": [{"type": "cambric"}, {"type": "portmap"}, {"type": "tuning"}]}"#;
        let limited = r#"{"name": "net", "plugins": [{"type": "cambric"}, {"type": "bandwidth"}]}"#;
        assert!(need_no_qdisc(&[("10-a.conflist", alone)]));
        assert!(need_no_qdisc(&[
            ("10-a.conflist", tuned),
            ("20-b.conf", r#"{"name": "b", "type": "bridge"}"#)
        ]));
        assert!(need_no_qdisc(&[("a.conf", r#"{"name": "net", "type": "cambric"}"#)]));
        assert!(!need_no_qdisc(&[("10-a.conflist", limited)]));
        assert!(
            !need_no_qdisc(&[("10-a.conflist", alone), ("20-b.json", limited)]),
            "a name that two files give"
        );
        assert!(!need_no_qdisc(&[("10-a.conflist", &alone.replace("net", "other"))]));
        assert!(!need_no_qdisc(&[("10-a.conflist.old", alone)]));
    }

    #[test]
    fn what_cannot_be_read_is_not_known() {
        assert!(!need_no_qdisc(&[]));
        assert!(!need_no_qdisc(&[("a.conflist", "{")]));
        assert!(!need_no_qdisc(&[(
            "a.conflist",
            r#"{"name": "net", "plugins": [{"type": "cambric"}, {}]}"#
        )]));
        assert!(!need_no_qdisc(&[("a.conflist", r#"{"name": "net", "plugins": []}"#)]));
        assert!(!Configurations::new(Some("/nonexistent".into())).need_no_qdisc("net"));
    }

    #[test]
    fn the_shipped_configuration_needs_none() {
        let shipped = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../conf/10-cambric.conflist"));
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("10-cambric.conflist"), shipped).unwrap();
        assert!(Configurations::new(Some(dir.path().into())).need_no_qdisc("cambric"));
    }
}
