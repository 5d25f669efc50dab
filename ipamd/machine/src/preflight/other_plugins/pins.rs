//! Pins of other network plugins on the node's bpffs, recognised by their file names.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use super::plugin::Plugin;

/// How deep their pins are: `tc/globals/...`, `cilium/devices/eth0/links/...`.
const DEPTH: usize = 6;
/// How many files are looked at.
const BOUND: usize = 50_000;

/// What a plugin has pinned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Pins {
    /// How much.
    pub(super) count: usize,
    /// Folders of its own, below the root.
    pub(super) folders: BTreeSet<String>,
    /// How its files in folders of everybody begin.
    pub(super) prefixes: BTreeSet<&'static str>,
}

impl Pins {
    fn note(&mut self, path: PinPath) {
        self.count += 1;
        match path {
            PinPath::Folder(folder) => drop(self.folders.insert(folder)),
            PinPath::Prefix(prefix) => drop(self.prefixes.insert(prefix)),
        }
    }

    /// What removes them.
    pub(super) fn removals(&self, root: &Path) -> Vec<String> {
        let root = root.display();
        let folders = self.folders.iter().map(|folder| format!("rm -rf {root}/{folder}"));
        let files =
            self.prefixes.iter().map(|prefix| format!("find {root} -name '{prefix}*' -type f -delete"));
        folders.chain(files).collect()
    }
}

/// Reads the names below a bpffs's root.
pub(super) fn read(root: &Path) -> BTreeMap<Plugin, Pins> {
    let mut found: BTreeMap<Plugin, Pins> = BTreeMap::new();
    let mut open = vec![(Vec::<String>::new(), root.to_owned())];
    let mut looked_at = 0;
    while let Some((names, folder)) = open.pop() {
        // Folders of others may be gone by now.
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            looked_at += 1;
            if looked_at > BOUND {
                return found;
            }
            let Ok(name) = entry.file_name().into_string() else { continue };
            let names = names.iter().cloned().chain([name]).collect::<Vec<_>>();
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                if names.len() < DEPTH {
                    open.push((names, entry.path()));
                }
            } else if let Some((plugin, path)) = whose(&names) {
                found.entry(plugin).or_default().note(path);
            }
        }
    }
    found
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum PinPath {
    Folder(String),
    Prefix(&'static str),
}

/// Whose file it is, by the names of its folders and its own.
fn whose(names: &[String]) -> Option<(Plugin, PinPath)> {
    const PREFIXES: [(&str, Plugin); 4] = [
        ("cali_", Plugin::Calico),
        ("calico_", Plugin::Calico),
        ("xdp_cali", Plugin::Calico),
        ("cilium_", Plugin::Cilium),
    ];
    let own = names.last()?;
    if let [first, _, ..] = names {
        let plugin = match first.as_str() {
            // Felix names the pins of its tcx links by interface and hook.
            "tcx" if own.ends_with("_ingress") || own.ends_with("_egress") => Some(Plugin::Calico),
            "ctlb" if own.starts_with("cali") => Some(Plugin::Calico),
            "calico" | "calico_connect4" => Some(Plugin::Calico),
            "cilium" => Some(Plugin::Cilium),
            _ => None,
        };
        if let Some(plugin) = plugin {
            return Some((plugin, PinPath::Folder(first.clone())));
        }
    }
    let (prefix, plugin) = PREFIXES.iter().find(|(prefix, _)| own.starts_with(prefix))?;
    Some((*plugin, PinPath::Prefix(prefix)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_are_known_by_their_folder_or_their_name() {
        let dir = tempfile::tempdir().unwrap();
        for path in [
            "tc/globals/cali_v4_nat_fe3",
            "tc/globals/cilium_lxc",
            "tc/globals/somebody",
            "tcx/eth0_ingress",
            "tcx/mine",
            "ctlb/calico_connect_v4",
            "calico/xdp/eth0",
            "cilium/devices/eth0/links/cil_from_netdev",
            "cambric/programs/from_endpoint",
            "cambric/maps/endpoints4",
            "cambric-test-7/links/eth0-ingress",
        ] {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let found = read(dir.path());
        assert_eq!(found.keys().copied().collect::<Vec<_>>(), [Plugin::Calico, Plugin::Cilium]);
        let (calico, cilium) = (&found[&Plugin::Calico], &found[&Plugin::Cilium]);
        assert_eq!((calico.count, cilium.count), (4, 2));
        assert_eq!(
            calico.removals(Path::new("/sys/fs/bpf")),
            [
                "rm -rf /sys/fs/bpf/calico",
                "rm -rf /sys/fs/bpf/ctlb",
                "rm -rf /sys/fs/bpf/tcx",
                "find /sys/fs/bpf -name 'cali_*' -type f -delete",
            ]
        );
        assert_eq!(
            cilium.removals(Path::new("/sys/fs/bpf")),
            ["rm -rf /sys/fs/bpf/cilium", "find /sys/fs/bpf -name 'cilium_*' -type f -delete"]
        );
    }

    #[test]
    fn without_a_bpffs_there_are_none() {
        assert!(read(Path::new("/nowhere/bpf")).is_empty());
    }
}
