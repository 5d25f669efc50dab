//! Orphans: what Cambric left in the kernel and no record mentions.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipamd_api::{AttachmentKey, key::is_host_ifname};
use ipnetwork::IpNetwork;

use crate::{
    observed::Observed,
    plan::Plan,
    records::Records,
    step::{Adoption, Step},
};
use ipamd_kernel::netlink::{Link, Route, RouteKind};
use ipamd_model::endpoint::{EndpointEntry, Slot};

/// What the alias of a host end starts with.
const ALIAS_PREFIX: &str = "cambric ";

/// The attachment that a host end's alias names.
pub fn key_of_alias(alias: &str) -> Option<AttachmentKey> {
    let mut parts = alias.strip_prefix(ALIAS_PREFIX)?.split('/').map(str::to_owned);
    let key = AttachmentKey { network: parts.next()?, container_id: parts.next()?, ifname: parts.next()? };
    parts.next().is_none().then_some(key)
}

/// Who made a host end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whose {
    Cambric,
    OtherPlugin,
}

/// Cambric's name for a host end, if the interface is one: its first name, or a second one if another plugin made it.
fn name_of_host_end(link: &Link) -> Option<(&str, Whose)> {
    if !link.veth {
        return None;
    }
    if is_host_ifname(&link.name) {
        return Some((&link.name, Whose::Cambric));
    }
    link.second_names.iter().find(|name| is_host_ifname(name)).map(|name| (name.as_str(), Whose::OtherPlugin))
}

pub(super) fn plan(records: &Records, observed: &Observed, plan: &mut Plan) {
    let held =
        records.committed.iter().flat_map(|endpoint| endpoint.attachment.ips()).collect::<BTreeSet<_>>();
    let mut unheld = BTreeMap::<u32, BTreeMap<_, _>>::new();
    for (ip, entry) in observed.endpoints.iter().filter(|(ip, _)| !held.contains(ip)) {
        unheld.entry(entry.ifindex).or_default().insert(*ip, *entry);
    }
    for link in &observed.links {
        let Some((name, whose)) = name_of_host_end(link) else { continue };
        if records.host_ifnames.contains(name) || records.leaving.contains(&link.index) {
            continue;
        }
        match (unheld.get(&link.index), key_of_alias(&link.alias)) {
            // It is that plugin's to remove. Until then the programs drop what comes.
            (None, _) if whose == Whose::OtherPlugin => {
                plan.host_ends.push((name.to_owned(), link.index));
                if link.up {
                    plan.problems.push(format!(
                        "the interface {} has no record, so all its packets are dropped; restart its pod",
                        link.name
                    ));
                }
            }
            // It may be that of a running container whose record is lost.
            (None, Some(key)) if records.has_lost && link.up && key.host_ifname() == name => {
                plan.steps.push(match routed(&key, link, observed) {
                    entries if entries.is_empty() => {
                        Step::RemoveLink { ifname: link.name.clone(), ifindex: link.index }
                    }
                    entries => {
                        plan.host_ends.push((name.to_owned(), link.index));
                        Step::Adopt(Adoption { key, entries })
                    }
                });
            }
            (None, _) => plan.steps.push(Step::RemoveLink { ifname: link.name.clone(), ifindex: link.index }),
            (Some(entries), Some(key)) if key.host_ifname() == name => {
                plan.host_ends.push((name.to_owned(), link.index));
                plan.steps.push(Step::Adopt(Adoption { key, entries: entries.clone() }));
            }
            (Some(_), _) => plan.problems.push(format!(
                "the interface {} forwards for addresses without a record, and its alias does not say whose it is; \
                 delete its container, or the interface",
                link.name
            )),
        }
    }
    for (ifindex, entries) in &unheld {
        if observed.link(*ifindex).is_none() {
            plan.steps.extend(entries.keys().map(|ip| Step::Forget(*ip)));
        }
    }
    let exists = |ifname: &String| observed.links.iter().any(|link| link.is_named(ifname));
    for ifname in &observed.pinned {
        // Uplinks have pinned links too; whoever attaches them looks after those.
        if is_host_ifname(ifname) && !records.host_ifnames.contains(ifname) && !exists(ifname) {
            plan.steps.push(Step::Unpin(ifname.clone()));
        }
    }
}

/// What the programs would know of a host end's addresses, by the routes that lead there.
fn routed(key: &AttachmentKey, link: &Link, observed: &Observed) -> BTreeMap<IpAddr, EndpointEntry> {
    let (host_mac, container_mac) = key.macs();
    let entry = |address: IpAddr| {
        let neighbour =
            observed.neighbours.iter().find(|it| (it.ifindex, it.address) == (link.index, address));
        EndpointEntry {
            ifindex: link.index,
            container_mac: neighbour.map_or(container_mac, |it| it.mac),
            host_mac: link.mac.unwrap_or(host_mac),
            mtu: u16::try_from(link.mtu).unwrap_or(u16::MAX),
            shaped: false,
            chained: false,
            slot: Slot(0),
        }
    };
    let leads_there = |route: &&Route| {
        let by = matches!(&route.kind, RouteKind::Unicast { ifindexes, .. } if *ifindexes == [link.index]);
        by && is_one_address(route.destination)
    };
    observed
        .routes
        .iter()
        .filter(leads_there)
        .map(|route| route.destination.ip())
        .map(|ip| (ip, entry(ip)))
        .collect()
}

fn is_one_address(network: IpNetwork) -> bool {
    network.prefix() == if network.is_ipv4() { 32 } else { 128 }
}

#[cfg(test)]
mod tests {
    use ipamd_api::MacAddr;

    use super::*;
    use ipamd_kernel::netlink::Neighbour;

    fn key() -> AttachmentKey {
        AttachmentKey { network: "n".into(), container_id: "c".into(), ifname: "eth0".into() }
    }

    fn host_end() -> Link {
        Link {
            index: 7,
            name: key().host_ifname(),
            alias: format!("cambric {}", key()),
            veth: true,
            ..Link::default()
        }
    }

    fn entry(ifindex: u32) -> EndpointEntry {
        let mac = MacAddr([2; 6]);
        EndpointEntry {
            ifindex,
            container_mac: mac,
            host_mac: mac,
            mtu: 1500,
            shaped: false,
            chained: false,
            slot: Slot(1),
        }
    }

    fn planned(records: &Records, observed: &Observed) -> Plan {
        let mut made = Plan::default();
        plan(records, observed, &mut made);
        made
    }

    #[test]
    fn an_alias_names_its_attachment() {
        assert_eq!(key_of_alias("cambric n/c/eth0"), Some(key()));
        for alias in ["", "n/c/eth0", "cambric n/c", "cambric n/c/eth0/x"] {
            assert_eq!(key_of_alias(alias), None, "{alias}");
        }
    }

    #[test]
    fn an_endpoint_without_a_record_is_taken_over() {
        let entries = BTreeMap::from([("10.88.0.2".parse().unwrap(), entry(7))]);
        let observed =
            Observed { links: vec![host_end()], endpoints: entries.clone(), ..Observed::default() };
        let made = planned(&Records::default(), &observed);
        assert_eq!(made.steps, [Step::Adopt(Adoption { key: key(), entries })]);
    }

    #[test]
    fn half_made_interfaces_without_a_record_are_removed() {
        let observed = Observed { links: vec![host_end()], ..Observed::default() };
        let made = planned(&Records::default(), &observed);
        assert_eq!(made.steps, [Step::RemoveLink { ifname: key().host_ifname(), ifindex: 7 }]);
    }

    #[test]
    fn where_records_are_lost_routes_tell_whose_an_interface_is() {
        let [four, six] = ["10.88.0.2", "fd00::2"].map(|ip| ip.parse::<IpAddr>().unwrap());
        let link = Link { up: true, mtu: 1500, ..host_end() };
        let observed = Observed {
            links: vec![link.clone()],
            routes: [four, six].map(|ip| Route::to_endpoint(ip, 7, ip)).to_vec(),
            neighbours: vec![Neighbour { ifindex: 7, address: four, mac: MacAddr([2; 6]) }],
            ..Observed::default()
        };
        let lost = Records { has_lost: true, ..Records::default() };
        let (host_mac, container_mac) = key().macs();
        let of_four = EndpointEntry { host_mac, slot: Slot(0), ..entry(7) };
        let entries = [(four, of_four), (six, EndpointEntry { container_mac, ..of_four })].into();
        assert_eq!(planned(&lost, &observed).steps, [Step::Adopt(Adoption { key: key(), entries })]);
        // Nothing is lost, or it leads nowhere, or was never set up: it is left of an ADD or a DEL.
        let removed = [Step::RemoveLink { ifname: key().host_ifname(), ifindex: 7 }];
        assert_eq!(planned(&Records::default(), &observed).steps, removed);
        let down = Observed { links: vec![Link { up: false, ..link }], ..observed.clone() };
        assert_eq!(planned(&lost, &down).steps, removed);
        assert_eq!(planned(&lost, &Observed { routes: Vec::new(), ..observed }).steps, removed);
    }

    #[test]
    fn what_is_under_way_or_leaving_or_not_ours_is_left_alone() {
        let observed = Observed { links: vec![host_end()], ..Observed::default() };
        let under_way = Records { host_ifnames: [key().host_ifname()].into(), ..Records::default() };
        let leaving = Records { leaving: [7].into(), ..Records::default() };
        assert_eq!(planned(&under_way, &observed), Plan::default());
        assert_eq!(planned(&leaving, &observed), Plan::default());
        for foreign in [Link { veth: false, ..host_end() }, Link { name: "cmb0".into(), ..host_end() }] {
            let observed = Observed { links: vec![foreign], ..Observed::default() };
            assert_eq!(planned(&Records::default(), &observed), Plan::default());
        }
    }

    #[test]
    fn what_is_left_of_a_gone_interface_is_cleared() {
        let observed = Observed {
            endpoints: [("10.88.0.2".parse().unwrap(), entry(7))].into(),
            pinned: vec![key().host_ifname(), "eth0".into()],
            ..Observed::default()
        };
        let made = planned(&Records::default(), &observed);
        assert_eq!(
            made.steps,
            [Step::Forget("10.88.0.2".parse().unwrap()), Step::Unpin(key().host_ifname())]
        );
    }

    #[test]
    fn a_forwarding_interface_of_unknown_owner_is_left_to_a_person() {
        let observed = Observed {
            links: vec![Link { alias: String::new(), ..host_end() }],
            endpoints: [("10.88.0.2".parse().unwrap(), entry(7))].into(),
            ..Observed::default()
        };
        let made = planned(&Records::default(), &observed);
        assert_eq!((made.steps.len(), made.problems.len()), (0, 1));
    }
}
