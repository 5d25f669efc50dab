//! The states of flows, as `progs/states.h` has them; docs/conntrack.md has the table.

use crate::layout::{
    CT_CONFIRMED, CT_FIN_OPENER, CT_FIN_REPLIER, CT_HOLDS_PORT, CT_OVER_SHARE, CT_REPLIED, CT_RESET,
    Lifetimes,
};

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;
const UDPLITE: u8 = 136;

/// What is known of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// No answer yet.
    New,
    /// TCP: half open; UDP: one exchange.
    Answered,
    /// TCP: the opener has acknowledged the answer; UDP: a stream.
    Established,
    /// TCP: one side has finished.
    Closing,
    /// TCP: somebody says that it is over, which may be a lie.
    Reset,
    /// TCP: both have finished, or it was refused.
    Closed,
    /// The same, but the other side would not take a new connection from the translated port yet.
    Held,
}

impl State {
    /// That of a flow of this protocol with these flags, `CT_*`.
    pub fn of(protocol: u8, flags: u32) -> Self {
        let is = |flag: u32| flags & flag == flag;
        let tcp = protocol == TCP;
        match () {
            () if tcp && is(CT_FIN_OPENER | CT_FIN_REPLIER | CT_HOLDS_PORT) => Self::Held,
            () if tcp && is(CT_FIN_OPENER | CT_FIN_REPLIER) => Self::Closed,
            () if tcp && is(CT_RESET | CT_CONFIRMED) => Self::Reset,
            () if tcp && is(CT_RESET) => Self::Closed,
            () if tcp && is(CT_CONFIRMED) && flags & (CT_FIN_OPENER | CT_FIN_REPLIER) != 0 => Self::Closing,
            () if !is(CT_REPLIED) => Self::New,
            () if is(CT_CONFIRMED) => Self::Established,
            () => Self::Answered,
        }
    }

    /// The word for it that people see.
    pub fn name(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Answered => "answered",
            Self::Established => "established",
            Self::Closing => "closing",
            Self::Reset => "reset",
            Self::Closed | Self::Held => "closed",
        }
    }
}

/// Ticks after its last packet for which a flow is remembered.
pub fn lifetime(lifetimes: &Lifetimes, protocol: u8, flags: u32) -> u32 {
    match (protocol, State::of(protocol, flags)) {
        (TCP, State::New | State::Answered) => lifetimes.tcp_opening,
        (TCP, State::Established) => lifetimes.tcp_established,
        (TCP, State::Closing | State::Reset) => lifetimes.tcp_closing,
        (TCP, State::Closed) => lifetimes.tcp_closed,
        (TCP, State::Held) => lifetimes.tcp_held,
        (UDP | UDPLITE, State::Established) => lifetimes.udp_stream,
        (UDP | UDPLITE, _) => lifetimes.udp,
        (ICMP | ICMPV6, _) => lifetimes.icmp,
        (_, State::New) => lifetimes.other_new,
        _ => lifetimes.other,
    }
}

/// Whether a flow with these flags has left the line of those that wait (`waiting4`, `waiting6`).
pub fn is_kept(flags: u32) -> bool {
    flags & (CT_CONFIRMED | CT_OVER_SHARE) == CT_CONFIRMED
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::LIFETIMES;

    #[test]
    fn what_is_confirmed_is_kept_unless_it_is_over_the_share() {
        let kept = [0, CT_REPLIED, CT_REPLIED | CT_CONFIRMED, CT_CONFIRMED | CT_OVER_SHARE].map(is_kept);
        assert_eq!(kept, [false, false, true, false]);
    }

    #[test]
    fn a_flow_lives_as_long_as_its_state_says() {
        let goes_on = CT_REPLIED | CT_CONFIRMED;
        let both = goes_on | CT_FIN_OPENER | CT_FIN_REPLIER;
        for (protocol, flags, name, expected) in [
            (TCP, 0, "new", LIFETIMES.tcp_opening),
            (TCP, CT_REPLIED, "answered", LIFETIMES.tcp_opening),
            (TCP, CT_REPLIED | CT_FIN_REPLIER, "answered", LIFETIMES.tcp_opening),
            (TCP, goes_on, "established", LIFETIMES.tcp_established),
            (TCP, goes_on | CT_FIN_OPENER, "closing", LIFETIMES.tcp_closing),
            (TCP, goes_on | CT_RESET, "reset", LIFETIMES.tcp_closing),
            (TCP, both, "closed", LIFETIMES.tcp_closed),
            (TCP, both | CT_HOLDS_PORT, "closed", LIFETIMES.tcp_held),
            (TCP, CT_RESET, "closed", LIFETIMES.tcp_closed),
            (UDP, 0, "new", LIFETIMES.udp),
            (UDP, CT_REPLIED, "answered", LIFETIMES.udp),
            (UDP, goes_on, "established", LIFETIMES.udp_stream),
            (ICMP, CT_REPLIED, "answered", LIFETIMES.icmp),
            (132, 0, "new", LIFETIMES.other_new),
            (132, goes_on, "established", LIFETIMES.other),
        ] {
            assert_eq!(State::of(protocol, flags).name(), name);
            assert_eq!(lifetime(&LIFETIMES, protocol, flags), expected);
        }
    }
}
