//! What an open store costs in memory: how much the resident memory of a process grows that does nothing else.

use std::{collections::BTreeMap, env, fs, net::IpAddr, path::Path, process::Command};

use ipamd_addresses::attachment::Attachment;
use ipamd_api::{
    AttachmentKey,
    wire::{Assigned, NetnsId, Pod},
};
use ipamd_runtime::memory::keep_small;
use ipamd_store::{Batch, Store};

/// Resident memory of this process, in KiB.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn attachment(number: u8) -> Attachment {
    let key = AttachmentKey {
        network: "cambric".into(),
        container_id: format!("{number:064x}"),
        ifname: "eth0".into(),
    };
    let (host_mac, container_mac) = key.macs();
    let assigned = |address: IpAddr, gateway: IpAddr| Assigned { address, gateway };
    Attachment {
        key,
        addresses: vec![
            assigned([10, 88, 0, number].into(), [10, 88, 0, 1].into()),
            assigned(
                [0xfd00, 0x88, 0, 0, 0, 0, 0, number.into()].into(),
                [0xfd00, 0x88, 0, 0, 0, 0, 0, 1].into(),
            ),
        ],
        host_mac,
        container_mac,
        mtu: 1500,
        netns: format!("/run/netns/cni-{number:036}").into(),
        netns_id: NetnsId { dev: 4, ino: 4_026_531_840 },
        netns_cookie: None,
        pod: Some(Pod {
            namespace: "default".into(),
            name: format!("web-{number}"),
            uid: format!("{number:036}"),
        }),
        labels: BTreeMap::from([("app".into(), "web".into()), ("tier".into(), "front".into())]),
        port_mappings: Vec::new(),
        chained: false,
        created: 1_700_000_000,
    }
}

fn submit(store: &Store, fill: impl FnOnce(&mut Batch)) {
    let mut batch = Batch::new();
    fill(&mut batch);
    store.submit(batch).unwrap().wait_blocking().unwrap();
}

/// Set for the processes that are measured: what each does, and the store's directory.
const STEP: &str = "STORE_MEMORY_STEP";
const DIR: &str = "STORE_MEMORY_DIR";

fn measured(step: &str, dir: &Path) {
    // As the daemon does.
    keep_small().unwrap();
    let before = resident();
    let check = |what: &str| {
        let taken = resident() - before;
        println!("{what}: {taken} KiB over {before}");
        assert!(taken < 5 << 10, "{what}: {taken} KiB");
    };
    let (store, loaded) = Store::open(dir).unwrap();
    if step == "again" {
        assert_eq!(loaded.attachments.len(), 100);
        return check("opened again");
    }
    check("opened empty");
    for number in 2..102 {
        submit(&store, |batch| batch.put(&attachment(number)).unwrap());
    }
    check("filled");
    for _ in 0..20 {
        for number in 2..102 {
            submit(&store, |batch| batch.remove(&attachment(number).key));
        }
        for number in 2..102 {
            submit(&store, |batch| batch.put(&attachment(number)).unwrap());
        }
    }
    check("after 4000 changes");
    store.close().unwrap();
}

#[test]
fn an_open_store_with_a_hundred_attachments_takes_less_than_five_mebibytes() {
    if let (Ok(step), Some(dir)) = (env::var(STEP), env::var_os(DIR)) {
        return measured(&step, dir.as_ref());
    }
    let dir = tempfile::tempdir().unwrap();
    for step in ["fill", "again"] {
        let process = Command::new(env::current_exe().unwrap())
            .arg("--nocapture")
            .env(STEP, step)
            .env(DIR, dir.path())
            .status()
            .unwrap();
        assert!(process.success());
    }
}
