//! Conversion of policy tables to and from the maps' layout.

use bpf::layout::{
    CLASS_ANY, PEER_NODE, POLICY_ALLOW, POLICY_BRANCH, POLICY_BY_SOURCE, POLICY_DENY, POLICY_DOMAIN,
    POLICY_EGRESS, POLICY_INGRESS, POLICY_OF_SHIFT, POSTURE_EGRESS, POSTURE_FILLING_SHIFT, POSTURE_INGRESS,
    POSTURE_KNOWN, Peer as PeerValue, PolicyEntry, PolicyKey, Posture as PostureValue,
};

use ipamd_model::policy::Direction;
use ipamd_policy::tables::{
    ClassId, DomainList, EntryKey, EntryOf, EntryValue, Outcome, Peer, PolicyMap, Posture, RuleId,
};

/// Bits of a key before the port: whose entry it is, a zero and the protocol.
const UP_TO_PORT: u32 = 48;
/// Bits of a key that holds for any protocol.
const WHOLE: u32 = 32;

pub(super) fn key(key: EntryKey) -> PolicyKey {
    let (kind, number) = match key.of {
        EntryOf::Class(Direction::Ingress, class) => (POLICY_INGRESS, class.0),
        EntryOf::Class(Direction::Egress, class) => (POLICY_EGRESS, class.0),
        EntryOf::Branch(branch) => (POLICY_BRANCH, branch),
        EntryOf::Domain(list, _) => (POLICY_DOMAIN, list.0.into()),
    };
    let of = (kind << POLICY_OF_SHIFT | number & CLASS_ANY).to_be();
    if let EntryOf::Domain(_, domain) = key.of {
        return PolicyKey { length: UP_TO_PORT + 16, of, zero: 0, protocol: 0, port: domain.0.to_be() };
    }
    match key.protocol {
        None => PolicyKey { length: WHOLE, of, ..PolicyKey::default() },
        Some(protocol) => PolicyKey {
            length: UP_TO_PORT + u32::from(key.port_bits.min(16)),
            of,
            zero: 0,
            protocol,
            port: key.port.to_be(),
        },
    }
}

pub(super) fn entry(value: &EntryValue) -> PolicyEntry {
    let (outcome, rule) = match value.outcome {
        Outcome::Allow => (POLICY_ALLOW, value.rule.0),
        Outcome::Deny | Outcome::Reject => (POLICY_DENY, value.rule.0),
        Outcome::BySource(branch) => (POLICY_BY_SOURCE, branch),
    };
    let reject = u8::from(value.outcome == Outcome::Reject);
    PolicyEntry {
        rule,
        log: value.log.map_or(0, |log| log.0),
        outcome,
        reject,
        domains: value.domains.map_or(0, |list| list.0),
    }
}

pub(super) fn decoded_entry(value: PolicyEntry) -> EntryValue {
    let (outcome, rule) = match value.outcome {
        POLICY_ALLOW => (Outcome::Allow, RuleId(value.rule)),
        POLICY_BY_SOURCE => (Outcome::BySource(value.rule), RuleId(0)),
        _ if value.reject != 0 => (Outcome::Reject, RuleId(value.rule)),
        _ => (Outcome::Deny, RuleId(value.rule)),
    };
    EntryValue {
        outcome,
        rule,
        log: (value.log != 0).then_some(RuleId(value.log)),
        domains: (value.domains != 0).then_some(DomainList(value.domains)),
    }
}

pub(super) fn peer(peer: Peer) -> PeerValue {
    PeerValue { class: peer.class.0, flags: if peer.node { PEER_NODE } else { 0 } }
}

pub(super) fn decoded_peer(value: PeerValue) -> Peer {
    Peer { class: ClassId(value.class), node: value.flags & PEER_NODE != 0 }
}

/// `filling` is another for every map that an index is given to.
pub(super) fn posture(posture: Posture, filling: u32) -> PostureValue {
    let flag = |set: bool, flag: u32| if set { flag } else { 0 };
    PostureValue {
        // Without a map the programs drop what is policed.
        map: posture.map.map_or(u32::MAX, |map| map.0),
        flags: POSTURE_KNOWN
            | flag(posture.ingress, POSTURE_INGRESS)
            | flag(posture.egress, POSTURE_EGRESS)
            | filling << POSTURE_FILLING_SHIFT,
    }
}

pub(super) fn decoded_posture(value: PostureValue) -> Option<Posture> {
    (value.flags & POSTURE_KNOWN != 0).then(|| Posture {
        map: (value.map != u32::MAX).then_some(PolicyMap(value.map)),
        ingress: value.flags & POSTURE_INGRESS != 0,
        egress: value.flags & POSTURE_EGRESS != 0,
    })
}

const _: () = assert!(POLICY_DENY == 0, "an entry of zeroes drops");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_prefixes_of_what_the_programs_ask() {
        let of = EntryOf::Class(Direction::Egress, ClassId(5));
        let whole = key(EntryKey { of, protocol: None, port: 9, port_bits: 16 });
        assert_eq!((whole.length, whole.of, whole.protocol), (32, 0x4000_0005_u32.to_be(), 0));
        let range = key(EntryKey { of, protocol: Some(6), port: 8080, port_bits: 12 });
        assert_eq!((range.length, range.protocol, range.port), (60, 6, 8080_u16.to_be()));
        let any = key(EntryKey {
            of: EntryOf::Class(Direction::Ingress, ClassId::ANY),
            protocol: None,
            port: 0,
            port_bits: 0,
        });
        assert_eq!(any.of, CLASS_ANY.to_be());
    }

    #[test]
    fn what_is_written_is_read_again() {
        for value in [
            EntryValue { outcome: Outcome::Allow, rule: RuleId(7), log: Some(RuleId(3)), domains: None },
            EntryValue { outcome: Outcome::Reject, rule: RuleId(8), log: None, domains: None },
            EntryValue { outcome: Outcome::Deny, rule: RuleId(1), log: None, domains: Some(DomainList(3)) },
            EntryValue { outcome: Outcome::BySource(4), rule: RuleId(0), log: None, domains: None },
        ] {
            assert_eq!(decoded_entry(entry(&value)), value);
        }
        for value in [
            Posture { map: Some(PolicyMap(3)), ingress: true, egress: false },
            Posture { map: None, ingress: false, egress: false },
        ] {
            assert_eq!(decoded_posture(posture(value, 0)), Some(value));
            assert_eq!(decoded_posture(posture(value, u32::MAX)), Some(value));
        }
        assert_eq!(decoded_posture(PostureValue::default()), None);
        let node = Peer { class: ClassId(2), node: true };
        assert_eq!(decoded_peer(peer(node)), node);
    }
}
