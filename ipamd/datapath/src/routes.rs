//! Plain routes: whether the destination alone decides a packet's route. Then the programs need not look the route up
//! for each flow; `bpf/progs/way_out.h` is the other half.

use std::os::fd::AsFd;

use bpf::layout::{PLAIN_ROUTES4, PLAIN_ROUTES6, PlainRoutes};

use super::{datapath::Datapath, error::DatapathError, run::words};

/// The program that tells how often the kernel's routes have changed.
pub const ROUTES: &str = "routes";

/// The loopback interface, which is number 1 in every namespace.
const LOOPBACK: u32 = 1;

/// How often the kernel has changed its routes, as it counts itself, by family. `None`: it does not tell, or there are rules, which
/// may ask for anything of a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RouteCounts {
    /// Of IPv4.
    pub ipv4: Option<u32>,
    /// Of IPv6.
    pub ipv6: Option<u32>,
}

impl RouteCounts {
    /// Those of the families that it says yes to.
    #[must_use]
    pub fn of(self, ipv4: bool, ipv6: bool) -> Self {
        Self { ipv4: self.ipv4.filter(|_| ipv4), ipv6: self.ipv6.filter(|_| ipv6) }
    }
}

impl From<PlainRoutes> for RouteCounts {
    fn from(value: PlainRoutes) -> Self {
        let of = |family, count| (value.families & family != 0).then_some(count);
        Self { ipv4: of(PLAIN_ROUTES4, value.count4), ipv6: of(PLAIN_ROUTES6, value.count6) }
    }
}

impl From<RouteCounts> for PlainRoutes {
    fn from(counts: RouteCounts) -> Self {
        let flag = |count: Option<u32>, family| count.map_or(0, |_| family);
        Self {
            families: flag(counts.ipv4, PLAIN_ROUTES4) | flag(counts.ipv6, PLAIN_ROUTES6),
            count4: counts.ipv4.unwrap_or_default(),
            count6: counts.ipv6.unwrap_or_default(),
            pad: 0,
        }
    }
}

impl Datapath {
    /// What the kernel has counted in the namespace of the calling thread.
    pub fn route_counts(&self) -> Result<RouteCounts, DatapathError> {
        let program = self.program(ROUTES)?;
        let told = words(program.as_fd(), LOOPBACK).map_err(|source| DatapathError::Routes { source })?;
        let [families, count4, count6, ..] = told;
        Ok(PlainRoutes { families, count4, count6, pad: 0 }.into())
    }

    /// Tells the programs when nothing but a packet's destination decided: at these counts.
    pub fn set_plain_routes(&self, counts: RouteCounts) -> Result<(), DatapathError> {
        self.plain_routes.put(&0, &counts.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_programs_are_told_is_what_was_counted() {
        for counts in [
            RouteCounts::default(),
            RouteCounts { ipv4: Some(0), ipv6: None },
            RouteCounts { ipv4: Some(7), ipv6: Some(u32::MAX) },
        ] {
            assert_eq!(RouteCounts::from(PlainRoutes::from(counts)), counts);
        }
        let both = RouteCounts { ipv4: Some(7), ipv6: Some(8) };
        assert_eq!(both.of(true, false), RouteCounts { ipv4: Some(7), ipv6: None });
        assert_eq!(PlainRoutes::from(both.of(false, false)).families, 0);
    }
}
