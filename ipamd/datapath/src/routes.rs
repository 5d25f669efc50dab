//! Plain routes: whether the destination alone decides a packet's route. Then the programs need not look the route up
//! for each flow; `bpf/progs/way_out.h` is the other half.

use std::{io, mem::offset_of, os::fd::AsRawFd};

use bpf::layout::{PLAIN_ROUTES4, PLAIN_ROUTES6, PlainRoutes, SkBuff};
use libbpf_rs::libbpf_sys;

use super::{datapath::Datapath, error::DatapathError};

/// The program that tells how often the kernel's routes have changed.
pub const ROUTES: &str = "routes";

/// The loopback interface, which is number 1 in every namespace.
const LOOPBACK: u32 = 1;
/// As much of a frame as the kernel wants of a packet that a program is run on.
const FRAME: [u8; 64] = [0; 64];

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
        let (mut context, mut after) = ([0_u8; size_of::<SkBuff>()], [0_u8; size_of::<SkBuff>()]);
        context[offset_of!(SkBuff, ifindex)..][..size_of::<u32>()].copy_from_slice(&LOOPBACK.to_ne_bytes());
        #[allow(clippy::cast_possible_truncation, reason = "some bytes")]
        let mut options = libbpf_sys::bpf_test_run_opts {
            sz: size_of::<libbpf_sys::bpf_test_run_opts>() as libbpf_sys::size_t,
            data_in: FRAME.as_ptr().cast(),
            data_size_in: FRAME.len() as u32,
            ctx_in: context.as_mut_ptr().cast(),
            ctx_size_in: size_of::<SkBuff>() as u32,
            ctx_out: after.as_mut_ptr().cast(),
            ctx_size_out: size_of::<SkBuff>() as u32,
            ..Default::default()
        };
        let program = self.program(ROUTES)?;
        // SAFETY: frame and contexts are as large as is said, and outlive the call, as `options` does; the kernel writes into `after`
        // alone.
        let result = unsafe { libbpf_sys::bpf_prog_test_run_opts(program.as_raw_fd(), &raw mut options) };
        if result != 0 {
            return Err(DatapathError::Routes { source: io::Error::from_raw_os_error(-result) });
        }
        let told = |at: usize| {
            let place = after.get(offset_of!(SkBuff, cb) + at * size_of::<u32>()..)?;
            Some(u32::from_ne_bytes(*place.first_chunk()?))
        };
        let (families, count4, count6) = (told(0), told(1), told(2));
        Ok(PlainRoutes {
            families: families.unwrap_or_default(),
            count4: count4.unwrap_or_default(),
            count6: count6.unwrap_or_default(),
            pad: 0,
        }
        .into())
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
