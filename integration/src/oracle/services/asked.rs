//! What random services are asked.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
};

use ipamd_model::objects::{Change, Object, ObjectId};

use super::{
    documents::Here,
    generate::{NODES, Scene},
};
use crate::oracle::product::{manifest_text, objects};

/// The node that is asked about: the first of those that scenes name.
pub fn here() -> Here {
    let loopback = Ipv4Addr::LOCALHOST;
    let addresses = vec![IpAddr::from([192, 0, 2, 7]), v6([0x2001, 0xdb8], 7), loopback.into()];
    Here { name: NODES[0].to_owned(), addresses, cluster_ips_outside: false }
}

fn v6(first: [u16; 2], last: u16) -> IpAddr {
    IpAddr::from([first[0], first[1], 0, 0, 0, 0, 0, last])
}

/// The objects of a scene.
///
/// # Panics
/// If the product does not read them.
pub fn objects_of(scene: &Scene) -> Vec<Object> {
    if scene.is_empty() {
        Vec::new()
    } else {
        objects(&manifest_text(scene)).expect("documents that can be read")
    }
}

/// From one scene to the next: what is gone, then what is there.
pub fn changes(before: &Scene, after: &Scene) -> Vec<Change> {
    let there = objects_of(after);
    let ids: BTreeSet<ObjectId> = there.iter().map(Object::id).collect();
    let gone = objects_of(before).into_iter().map(|object| object.id()).filter(|id| !ids.contains(id));
    gone.map(Change::Remove).chain(there.into_iter().map(Change::Put)).collect()
}

/// Every address and port that a scene could have a service at, and some that it could not.
pub fn questions() -> Vec<(IpAddr, u16)> {
    let mut questions = Vec::new();
    for number in 0..4_u8 {
        let of_service = [
            IpAddr::from([10, 96, 0, number]),
            v6([0xfd00, 0x96], number.into()),
            IpAddr::from([198, 18, 0, number]),
            IpAddr::from([203, 0, 113, number]),
        ];
        for address in of_service {
            questions.extend([79, 80, 81, 82].map(|port| (address, port)));
        }
        for port in 0..4 {
            for address in here().addresses {
                questions.push((address, 30_000 + u16::from(number) * 10 + port));
            }
            for nowhere in [IpAddr::from([0; 4]), IpAddr::from([0; 16])] {
                questions.push((nowhere, 30_000 + u16::from(number) * 10 + port));
            }
        }
    }
    questions
}
