//! Makes the datapath: loads the programs and sets what does not depend on pods or peers.

use std::{collections::BTreeMap, os::fd::AsFd, sync::Mutex};

use bpf::attach::{AttachError, program_id};
use libbpf_rs::MapHandle;

use super::{
    config::DatapathConfig,
    datapath::Datapath,
    deny::DenyList,
    error::DatapathError,
    load::{self, Loaded, probe_attach_mode},
    maps::TypedMap,
    routes::RouteCounts,
};

/// How many events one processor may tell a tick (1.07 s).
const EVENT_RATE: u32 = 2_000;

impl Datapath {
    /// Loads the programs with the maps that are pinned. The programs go into the links that an earlier daemon left when the uplinks are
    /// set, because by then all that they look up is there.
    pub fn open(config: &DatapathConfig) -> Result<Self, DatapathError> {
        let attach_mode = config.attach_mode.unwrap_or_else(probe_attach_mode);
        let Loaded { programs, mut maps, renewed } = load::load(config)?;
        let program_ids = programs
            .iter()
            .map(|(name, fd)| Ok((name.clone(), program_id(fd.as_fd())?)))
            .collect::<Result<_, AttachError>>()?;
        let untyped = |maps: &mut BTreeMap<String, MapHandle>, name: &str| {
            maps.remove(name).ok_or_else(|| DatapathError::Layout { map: name.to_owned() })
        };
        let datapath = Self {
            pins: config.pins.clone(),
            attach_mode,
            takes_filters: config.attach_mode.is_none(),
            programs,
            program_ids,
            node: TypedMap::take(&mut maps, "node")?,
            changes: TypedMap::take(&mut maps, "changes")?,
            wall_clock: TypedMap::take(&mut maps, "wall_clock")?,
            uplinks: TypedMap::take(&mut maps, "uplinks")?,
            host_policies: TypedMap::take(&mut maps, "host_policies")?,
            host_links: Mutex::default(),
            endpoints4: TypedMap::take(&mut maps, "endpoints4")?,
            endpoints6: TypedMap::take(&mut maps, "endpoints6")?,
            no_masquerade4: TypedMap::take(&mut maps, "no_masquerade4")?,
            no_masquerade6: TypedMap::take(&mut maps, "no_masquerade6")?,
            machines4: TypedMap::take(&mut maps, "machines4")?,
            machines6: TypedMap::take(&mut maps, "machines6")?,
            node_prefixes4: TypedMap::take(&mut maps, "node_prefixes4")?,
            node_prefixes6: TypedMap::take(&mut maps, "node_prefixes6")?,
            node_macs4: TypedMap::take(&mut maps, "node_macs4")?,
            node_macs6: TypedMap::take(&mut maps, "node_macs6")?,
            host_ends: TypedMap::take(&mut maps, "host_ends")?,
            domains: TypedMap::take(&mut maps, "domains")?,
            resolvers: TypedMap::take(&mut maps, "resolvers")?,
            dns_records: TypedMap::take(&mut maps, "dns_records")?,
            dns_settings: TypedMap::take(&mut maps, "dns_settings")?,
            asked_by_all: config.dns_search.clone(),
            plain_routes: TypedMap::take(&mut maps, "plain_routes")?,
            not_masqueraded: Mutex::default(),
            origins: Mutex::default(),
            conntrack4: TypedMap::take(&mut maps, "conntrack4")?,
            conntrack6: TypedMap::take(&mut maps, "conntrack6")?,
            lifetimes: config.lifetimes,
            held_ports: untyped(&mut maps, "held_ports")?,
            drops: untyped(&mut maps, "drops")?,
            counters: untyped(&mut maps, "counters")?,
            others: maps,
            links: Mutex::default(),
            to_take_over: Mutex::new(Some(renewed)),
            deny: DenyList::new(&config.pins, config.deny_mode),
            attaching: Mutex::new(()),
            alone: Mutex::default(),
        };
        datapath.change_node(|node| {
            node.masquerade = u32::from(config.masquerade);
            // Whoever listened to the last daemon is gone.
            node.events = 0;
            node.sample = 1;
            node.event_rate = EVENT_RATE;
        })?;
        datapath.raise_every_place()?;
        datapath.adopt_host_ends()?;
        // An earlier daemon may have told the counts of another network namespace.
        datapath.set_plain_routes(RouteCounts::default())?;
        Ok(datapath)
    }
}
