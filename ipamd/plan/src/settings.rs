//! Kernel settings that the plan knows, by their paths below `/proc/sys`.

/// Where IPv4 forwarding is switched on.
pub const FORWARDING_V4: &str = "net/ipv4/ip_forward";
/// Where IPv6 forwarding is switched on.
pub const FORWARDING_V6: &str = "net/ipv6/conf/all/forwarding";

/// Where it is said whether an interface takes its IPv6 configuration from routers.
pub fn accept_ra(ifname: &str) -> String {
    format!("net/ipv6/conf/{ifname}/accept_ra")
}
