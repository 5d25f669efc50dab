//! How long connections are remembered: `conntrack-timeout`.

use std::{fmt, str::FromStr};

use bpf::layout::{LIFETIMES, Lifetimes, TICK_SHIFT};
use serde::Deserialize;

/// A week.
const LONGEST: u64 = 604_800;

/// A state with the field that has its time. docs/conntrack.md says what the states are.
type State = (&'static str, fn(&mut Lifetimes) -> &mut u32);

const STATES: [State; 10] = [
    ("tcp-opening", |it| &mut it.tcp_opening),
    ("tcp-established", |it| &mut it.tcp_established),
    ("tcp-closing", |it| &mut it.tcp_closing),
    ("tcp-closed", |it| &mut it.tcp_closed),
    ("tcp-time-wait", |it| &mut it.tcp_held),
    ("udp", |it| &mut it.udp),
    ("udp-stream", |it| &mut it.udp_stream),
    ("icmp", |it| &mut it.icmp),
    ("other-new", |it| &mut it.other_new),
    ("other", |it| &mut it.other),
];

/// The time of one state: `STATE=SECONDS`.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct ConntrackTimeout {
    state: State,
    seconds: u64,
}

impl FromStr for ConntrackTimeout {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = || STATES.map(|(name, _)| name).join(", ");
        let (name, seconds) = text
            .split_once('=')
            .ok_or_else(|| format!("{text:?} is no STATE=SECONDS; the states are {}", names()))?;
        let state = STATES
            .into_iter()
            .find(|(known, _)| *known == name)
            .ok_or_else(|| format!("there is no state {name:?}; the states are {}", names()))?;
        let seconds = seconds.parse().ok().filter(|seconds| (1..=LONGEST).contains(seconds));
        let seconds = seconds.ok_or_else(|| format!("{name} is 1 to {LONGEST} seconds, not {text:?}"))?;
        Ok(Self { state, seconds })
    }
}

impl TryFrom<String> for ConntrackTimeout {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// A state that has two times.
#[derive(Debug, PartialEq, Eq)]
pub struct TwoTimes(&'static str);

impl fmt::Display for TwoTimes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "conntrack-timeout has {} twice: leave one of them out", self.0)
    }
}

/// The usual times with those that are configured.
pub(super) fn lifetimes(configured: &[ConntrackTimeout]) -> Result<Lifetimes, TwoTimes> {
    let mut lifetimes = LIFETIMES;
    for (at, ConntrackTimeout { state: (name, field), seconds }) in configured.iter().enumerate() {
        if configured[..at].iter().any(|other| other.state.0 == *name) {
            return Err(TwoTimes(name));
        }
        // A flow lives at least as long as it is said to.
        let ticks = (seconds * 1_000_000_000).div_ceil(1 << TICK_SHIFT);
        *field(&mut lifetimes) = u32::try_from(ticks).unwrap_or(u32::MAX >> 1);
    }
    Ok(lifetimes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(texts: &[&str]) -> Result<Lifetimes, String> {
        let times: Vec<_> = texts.iter().map(|text| text.parse()).collect::<Result<_, _>>()?;
        lifetimes(&times).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_not_configured_has_its_usual_time() {
        let times = times(&["tcp-established=3600", "udp=1"]).unwrap();
        assert_eq!((times.tcp_established, times.udp), (3_353, 1));
        assert_eq!((times.tcp_opening, times.other), (LIFETIMES.tcp_opening, LIFETIMES.other));
    }

    #[test]
    fn each_state_has_a_time_of_its_own() {
        for (at, (name, _)) in STATES.iter().enumerate() {
            let mut times = times(&[&format!("{name}=604800")]).unwrap();
            let changed: Vec<_> =
                (0..STATES.len()).filter(|other| STATES[*other].1(&mut times) == &mut 563_264).collect();
            assert_eq!(changed, [at], "{name}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        for (text, named) in [
            ("tcp-closed", "STATE=SECONDS"),
            ("tcp-new=5", "tcp-new"),
            ("icmp=0", "icmp is 1 to"),
            ("icmp=604801", "604801"),
            ("icmp=-1", "-1"),
            ("icmp=soon", "soon"),
        ] {
            let error = times(&[text]).unwrap_err();
            assert!(error.contains(named), "{error}");
        }
        assert!(times(&["udp=5", "udp=6"]).unwrap_err().contains("udp twice"));
    }
}
