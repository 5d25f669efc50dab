//! What others do to the kernel's interfaces, addresses and maps.

use std::net::UdpSocket;

use anyhow::{Context, Result, ensure};
use integration::testbed::{FAR4, FAR6, Machine, NEIGHBOUR4, NEIGHBOUR6, NODE4, NODE6};
use libbpf_rs::{MapCore, MapFlags, MapHandle};

use crate::{
    harms::{Fault, NOTHING, uplink_up},
    scene::Scene,
};

/// What the entries that fill a map up consist of.
const JUNK: u8 = 0xee;
/// The maps that are filled up, one in each cell.
const FILLED: [&str; 4] = ["endpoints4", "endpoints6", "host_ends", "namespaces"];
/// More flows than conntrack has entries here.
const FLOOD: u16 = 20_000;

pub const FAULTS: &[Fault] = &[
    Fault {
        name: "the address of a pod is given to the node by hand",
        strike: |scene, _| {
            scene.node.netns().ip(&format!("address add {}/32 dev uplink", scene.pods[3].ipv4())).map(drop)
        },
        mend: |scene| {
            scene.node.netns().ip(&format!("address del {}/32 dev uplink", scene.pods[3].ipv4())).map(drop)
        },
        says: "is an address of this node's interface uplink, too",
        ..NOTHING
    },
    Fault {
        name: "the network namespace of a pod is gone",
        strike: |scene, turn| {
            let pod = scene.node.add_pod_of(&format!("shop/gone{turn}"), &[("app", "new")])?;
            drop(pod);
            Ok(())
        },
        // As a runtime does when it is told to remove the pod.
        mend: |scene| {
            for name in scene.recorded_names()?.iter().filter(|name| name.starts_with("shop-gone")) {
                scene.node.cni("DEL", name).run().context("DEL without a namespace")?;
            }
            Ok(())
        },
        says: "shop-gone",
        ..NOTHING
    },
    Fault {
        name: "the uplink flaps",
        strike: |scene, _| {
            for _ in 0..10 {
                scene.node.netns().ip("link set uplink down")?;
                scene.node.netns().ip("link set uplink up")?;
            }
            scene.node.netns().ip("link set uplink down").map(drop)
        },
        mend: uplink_up,
        says: "uplink",
        ..NOTHING
    },
    Fault {
        name: "the uplink is replaced",
        strike: |scene, _| scene.node.netns().ip("link delete uplink").map(drop),
        mend: |scene| {
            let (node, other) = (scene.node.netns(), scene.node.neighbour.netns());
            node.ip(&format!("link add uplink type veth peer name lan netns {}", other.path().display()))?;
            other.ip(&format!("address add {NEIGHBOUR4}/24 dev lan"))?;
            other.ip(&format!("address add {NEIGHBOUR6}/64 dev lan nodad"))?;
            other.ip("link set dev lan up")?;
            node.ip(&format!("address add {NODE4}/24 dev uplink"))?;
            node.ip(&format!("address add {NODE6}/64 dev uplink nodad"))?;
            uplink_up(scene)
        },
        says: "interface is no longer an uplink",
        ..NOTHING
    },
    Fault {
        name: "a pod floods conntrack",
        strike: |scene, turn| {
            let from = scene.pods[3].netns();
            from.inside(|| {
                let (v4, v6) = (UdpSocket::bind("0.0.0.0:0")?, UdpSocket::bind("[::]:0")?);
                for port in 1..FLOOD {
                    // What the node refuses is meant to be refused.
                    let _ = v4.send_to(b"flood", (FAR4, port));
                    if turn % 2 == 1 {
                        let _ = v6.send_to(b"flood", (FAR6, port));
                    }
                }
                Ok::<_, std::io::Error>(())
            })?;
            let dropped = scene.node.drops("opening_share")?;
            ensure!(dropped > 0, "no packet of the flood is dropped");
            Ok(())
        },
        ..NOTHING
    },
    Fault {
        name: "a map is full",
        strike: |scene, turn| fill(scene, FILLED[turn % FILLED.len()]),
        mend: |scene| FILLED.iter().try_for_each(|map| empty(scene, map)),
        says: "is full: all of its",
        ..NOTHING
    },
];

fn map(scene: &Scene<'_>, name: &str) -> Result<MapHandle> {
    MapHandle::from_pinned_path(scene.node.bpffs().join("maps").join(name)).context(name.to_owned())
}

/// Puts entries of nobody into a map until it takes no more.
fn fill(scene: &Scene<'_>, name: &str) -> Result<()> {
    let map = map(scene, name)?;
    let (key, value) = (map.key_size() as usize, map.value_size() as usize);
    for number in 0..=map.max_entries() {
        // Addresses of 238.x, which no pod has.
        let mut junk = vec![JUNK; key];
        junk[key - 3..].copy_from_slice(&number.to_be_bytes()[1..]);
        if map.update(&junk, &vec![JUNK; value], MapFlags::ANY).is_err() {
            return Ok(());
        }
    }
    anyhow::bail!("{name} takes more than its {} entries", map.max_entries())
}

/// Takes them out again, where the daemon has not.
fn empty(scene: &Scene<'_>, name: &str) -> Result<()> {
    let map = map(scene, name)?;
    let junk: Vec<_> = map.keys().filter(|key| key[0] == JUNK).collect();
    // The daemon may be faster.
    for key in &junk {
        drop(map.delete(key));
    }
    Ok(())
}
