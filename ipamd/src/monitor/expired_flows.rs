//! End events for flows that end without a packet: UDP, ICMP and others, and TCP that falls silent. The sweep of
//! conntrack finds them.

use ipamd_api::wire::Connection;

use ipamd_policy::enforce::SeenFlow;

/// End events per sweep: fewer than a subscriber's queue holds.
const ENDS: usize = 512;

/// A connection as the flow that policies were asked about: before it was masqueraded, and to its backend.
pub fn flow_of(connection: &Connection) -> SeenFlow {
    let Connection { protocol, source, source_port, .. } = *connection;
    let (destination, destination_port) =
        connection.backend.unwrap_or((connection.destination, connection.destination_port));
    SeenFlow { protocol, source, source_port, destination, destination_port }
}

/// Collected end events.
#[derive(Debug)]
pub struct Ends {
    sample: u32,
    flows: Vec<SeenFlow>,
    beyond: u64,
}

impl Ends {
    /// Empty; one flow in `sample` is reported.
    pub(super) fn new(sample: u32) -> Self {
        Self { sample, flows: Vec::new(), beyond: 0 }
    }

    /// Adds a removed connection. For a closed connection the programs have reported the end already.
    pub fn note(&mut self, connection: &Connection) {
        if matches!(connection.state.as_str(), "closed" | "reset") || !is_sampled(connection, self.sample) {
            return;
        }
        if self.flows.len() < ENDS {
            self.flows.push(flow_of(connection));
        } else {
            self.beyond += 1;
        }
    }

    /// The flows.
    pub(super) fn flows(&self) -> &[SeenFlow] {
        &self.flows
    }

    /// How many more there are.
    pub(super) fn beyond(&self) -> u64 {
        self.beyond
    }
}

/// The same choice as `is_sampled` in events.h.
fn is_sampled(connection: &Connection, sample: u32) -> bool {
    if sample <= 1 {
        return true;
    }
    let words = |address: std::net::IpAddr| match address {
        std::net::IpAddr::V4(address) => u32::from_ne_bytes(address.octets()),
        std::net::IpAddr::V6(address) => {
            bpf::layout::Ip6::from(address).word.into_iter().fold(0, |mixed, word| mixed ^ word)
        }
    };
    let port = |port: u16| u32::from(port.to_be());
    let mixed = port(connection.source_port)
        ^ port(connection.destination_port)
        ^ u32::from(connection.protocol)
        ^ words(connection.source)
        ^ words(connection.destination);
    (mixed.wrapping_mul(0x9e37_79b1) >> 8).is_multiple_of(sample)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection(protocol: u8, state: &str) -> Connection {
        Connection {
            protocol,
            source: "10.0.0.1".parse().unwrap(),
            source_port: 77,
            destination: "10.0.0.2".parse().unwrap(),
            destination_port: 77,
            masquerade: Some(("192.0.2.1".parse().unwrap(), 10_000)),
            backend: None,
            state: state.to_owned(),
            expires_in: 0,
        }
    }

    #[test]
    fn a_connection_to_a_service_is_a_flow_to_its_backend() {
        let backend = ("10.0.0.9".parse().unwrap(), 8080);
        let flow = flow_of(&Connection { backend: Some(backend), ..connection(6, "new") });
        assert_eq!((flow.source_port, (flow.destination, flow.destination_port)), (77, backend));
    }

    fn ends(connections: impl IntoIterator<Item = Connection>, sample: u32) -> (usize, u64) {
        let mut ends = Ends::new(sample);
        connections.into_iter().for_each(|connection| ends.note(&connection));
        (ends.flows().len(), ends.beyond())
    }

    #[test]
    fn what_the_programs_have_told_is_not_told_again() {
        assert_eq!(ends([connection(17, "established"), connection(6, "new")], 0), (2, 0));
        assert_eq!(ends([connection(6, "closed"), connection(6, "reset")], 1), (0, 0));
    }

    #[test]
    fn what_is_too_much_is_counted() {
        assert_eq!(ends(vec![connection(17, "new"); ENDS + 7], 1), (ENDS, 7));
    }

    #[test]
    fn a_share_is_chosen() {
        let of_port = |source_port| Connection { source_port, ..connection(17, "new") };
        let (ended, beyond) = ends((0..4_000).map(of_port), 10);
        assert!((200..600).contains(&ended) && beyond == 0, "{ended}");
    }
}
