//! Network configurations beside Cambric's. Runtimes take the first by name.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    fs, io,
    path::Path,
};

use serde_json::Value;

use super::plugin::Plugin;
use crate::preflight::finding::Finding;
use ipamd_config::cni_files::{CONFLIST, PLUGIN};

const NAME: &str = "cni-conf";

pub(super) fn check(dir: &Path) -> Vec<Finding> {
    match read(dir) {
        Ok(configurations) => judge(dir, &configurations),
        Err(error) => {
            let detail = format!("network configurations in {} cannot be read: {error}", dir.display());
            vec![Finding::warning(NAME, detail, "")]
        }
    }
}

/// The plugins that Cambric is chained with: in a configuration that is in place, or in the one that is to be.
pub(super) fn chained(dir: &Path, conflist: Option<&Path>) -> BTreeSet<Plugin> {
    let mut configurations = read(dir).unwrap_or_default().into_values().collect::<Vec<_>>();
    configurations.extend(conflist.map(|path| types(&fs::read_to_string(path).unwrap_or_default())));
    configurations.retain(|types| types.iter().any(|kind| kind == PLUGIN));
    configurations.iter().flatten().flat_map(|kind| Plugin::in_a_chain(kind)).copied().collect()
}

/// The configurations by their file names, each with the types of its plugins.
type Configurations = BTreeMap<String, Vec<String>>;

fn read(dir: &Path) -> io::Result<Configurations> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Configurations::new()),
        entries => entries?,
    };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let configurations = names.filter(|name| {
        let extension = Path::new(name).extension().and_then(OsStr::to_str);
        matches!(extension, Some("conf" | "conflist" | "json"))
    });
    Ok(configurations
        .map(|name| (name.clone(), types(&fs::read_to_string(dir.join(name)).unwrap_or_default())))
        .collect())
}

/// The types of the plugins in a configuration, or of its one plugin. None of what cannot be read, which runtimes pass over.
fn types(text: &str) -> Vec<String> {
    let configuration: Value = serde_json::from_str(text).unwrap_or_default();
    let kind = |plugin: &Value| plugin["type"].as_str().map(str::to_owned);
    match configuration["plugins"].as_array() {
        Some(plugins) => plugins.iter().filter_map(kind).collect(),
        None => kind(&configuration).into_iter().collect(),
    }
}

fn judge(dir: &Path, configurations: &Configurations) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut multus = None;
    for (name, types) in configurations {
        let is = |wanted: &str| types.iter().any(|kind| kind == wanted);
        let first = name.as_str() < CONFLIST;
        if types.is_empty() || is(PLUGIN) {
            continue;
        }
        if first && types.iter().any(|kind| kind.starts_with("multus")) {
            // Comes first on purpose, and has another plugin do the work.
            multus = Some(name);
            continue;
        }
        let plugin = types.iter().find_map(|kind| Plugin::of_type(kind));
        let consequence = match (first, plugin) {
            (true, _) => format!("which runtimes take before {CONFLIST}"),
            (false, Some(_)) => format!("which runtimes take whenever {CONFLIST} is not there"),
            // Such as Podman's, which others do not take before ours.
            (false, None) => continue,
        };
        let whose =
            plugin.map_or_else(|| format!("of {}", types.join(", ")), |plugin| format!("of {plugin}"));
        let path = dir.join(name);
        let path = path.display();
        findings.push(Finding::warning(
            NAME,
            format!("{path} is a network configuration {whose}, {consequence}"),
            format!("set it aside: mv {path} {path}.off"),
        ));
    }
    if findings.is_empty() {
        findings.push(Finding::ok(
            NAME,
            match multus {
                Some(name) => format!("{name} comes first, of Multus; its default network is to be Cambric"),
                None => format!("none is taken instead of Cambric's in {}", dir.display()),
            },
        ));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preflight::finding::Outcome;

    fn files(files: &[(&str, &str)]) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(dir.path().join(name), text).unwrap();
        }
        let shown = dir.path().display().to_string();
        check(dir.path()).iter().map(|finding| finding.to_string().replace(&shown, "D")).collect()
    }

    const CALICO: &str = r#"{"name": "k8s-pod-network", "cniVersion": "0.3.1",
        "plugins": [{"type": "calico"}, {"type": "portmap"}]}"#;
    const FLANNEL: &str = r#"{"name": "cbr0", "plugins": [{"type": "flannel"}, {"type": "portmap"}]}"#;
    const OURS: &str = r#"{"name": "cambric", "plugins": [{"type": "cambric"}]}"#;

    #[test]
    fn those_that_come_first_or_instead_are_named_with_what_sets_them_aside() {
        assert_eq!(
            files(&[
                ("10-calico.conflist", CALICO),
                ("10-cambric.conflist", OURS),
                ("10-flannel.conflist", FLANNEL),
                ("05-mine.conf", r#"{"type": "macsec", "name": "mine"}"#),
            ]),
            [
                "cni-conf: D/05-mine.conf is a network configuration of macsec, which runtimes take before \
                 10-cambric.conflist; set it aside: mv D/05-mine.conf D/05-mine.conf.off",
                "cni-conf: D/10-calico.conflist is a network configuration of Calico, which runtimes take before \
                 10-cambric.conflist; set it aside: mv D/10-calico.conflist D/10-calico.conflist.off",
                "cni-conf: D/10-flannel.conflist is a network configuration of Flannel, which runtimes take whenever \
                 10-cambric.conflist is not there; set it aside: mv D/10-flannel.conflist D/10-flannel.conflist.off",
            ]
        );
    }

    #[test]
    fn what_no_runtime_takes_instead_is_passed_over() {
        let nothing = ["cni-conf: none is taken instead of Cambric's in D"];
        assert_eq!(
            files(&[
                ("05-calico.conflist.off", CALICO),
                ("05-broken.conflist", "{"),
                ("05-chained.conflist", r#"{"plugins": [{"type": "ptp"}, {"type": "cambric"}]}"#),
                ("87-podman.conflist", r#"{"plugins": [{"type": "loopback"}]}"#),
                (".10-calico.conflist.new", CALICO),
            ]),
            nothing
        );
        assert_eq!(files(&[]), nothing);
        assert_eq!(check(Path::new("/nowhere/net.d"))[0].outcome, Outcome::Ok);
    }

    #[test]
    fn plugins_in_one_configuration_with_ours_are_chained_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let conflist = dir.path().join("chained");
        fs::write(&conflist, r#"{"plugins": [{"type": "flannel"}, {"type": "cambric"}]}"#).unwrap();
        let net_d = dir.path().join("net.d");
        fs::create_dir(&net_d).unwrap();
        fs::write(net_d.join("10-calico.conflist"), CALICO).unwrap();
        assert_eq!(chained(&net_d, None), BTreeSet::new());
        let of_flannel = BTreeSet::from([Plugin::Flannel, Plugin::Reference]);
        assert_eq!(chained(&net_d, Some(&conflist)), of_flannel);
        fs::copy(&conflist, net_d.join("10-cambric.conflist")).unwrap();
        assert_eq!(chained(&net_d, None), of_flannel);
    }

    #[test]
    fn multus_comes_first_on_purpose() {
        let multus = r#"{"name": "multus-cni-network", "type": "multus-shim"}"#;
        assert_eq!(
            files(&[("00-multus.conf", multus), ("10-cambric.conflist", OURS)]),
            ["cni-conf: 00-multus.conf comes first, of Multus; its default network is to be Cambric"]
        );
    }
}
