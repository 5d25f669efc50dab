//! The nearest that Hubble has for each reason why a packet is dropped. The reason itself is in the flow's summary.

use crate::proto::flow::DropReason;

/// Which of Hubble's reasons is told for one of the drop counters.
pub fn nearest(reason: &str) -> DropReason {
    match reason {
        "malformed" | "checksum_place" | "martian" | "source_route" | "too_large" | "unasked_answer" => {
            DropReason::InvalidPacketDropped
        }
        "not_ip" => DropReason::UnsupportedL3Protocol,
        "foreign_source" | "forged_endpoint" | "link_scope" | "foreign_way" => DropReason::InvalidSourceIp,
        "foreign_mac" | "endpoint_frame" | "foreign_frame" => DropReason::InvalidSourceMac,
        "unknown_endpoint" => DropReason::NoMatchingLocalContainerFound,
        "unknown_fragment" | "early_fragment" => DropReason::FirstLogicalDatagramFragmentNotFound,
        "fragment_share" => DropReason::IpFragmentationNotSupported,
        "unrelated_error" => DropReason::UnknownConnectionTrackingState,
        "no_masquerade_address" | "no_masquerade_port" | "port_taken" => {
            DropReason::NoMappingForNatMasquerade
        }
        "conntrack_full" | "opening_share" => DropReason::CtMapInsertionFailed,
        "rewrite_failed" | "internal" => DropReason::ErrorWritingToPacket,
        "policy_egress" | "policy_ingress" => DropReason::PolicyDenied,
        "policy_unknown" => DropReason::NoConfigurationAvailableToPerformPolicyDecision,
        "no_backend" | "no_local_backend" => DropReason::ServiceBackendNotFound,
        "source_range" => DropReason::DeniedByLbSrcRangeCheck,
        "hops" => DropReason::TtlExceeded,
        "not_served" => DropReason::IsAClusterip,
        "vlan" => DropReason::VlanFiltered,
        "foreign_discovery" => DropReason::ForbiddenIcmpv6Message,
        _ => DropReason::Unknown,
    }
}

/// Whether it was dropped by policy.
pub fn is_by_policy(reason: &str) -> bool {
    matches!(reason, "policy_egress" | "policy_ingress")
}
