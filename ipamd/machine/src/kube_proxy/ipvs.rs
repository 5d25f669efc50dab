//! Virtual services of IPVS, as `/proc/net/ip_vs` lists them.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// A virtual service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct VirtualService {
    /// The flag of `ipvsadm` for its protocol.
    pub(super) flag: &'static str,
    pub(super) at: SocketAddr,
}

/// Reads the virtual services out of the list. Backends are ignored. Services by packet mark too: kube-proxy makes none.
pub(super) fn services(list: &str) -> Vec<VirtualService> {
    list.lines().filter_map(service).collect()
}

fn service(line: &str) -> Option<VirtualService> {
    let mut words = line.split(' ').filter(|word| !word.is_empty());
    let flag = match words.next()? {
        "TCP" => "-t",
        "UDP" => "-u",
        "SCTP" => "--sctp-service",
        _ => return None,
    };
    let (address, port) = words.next()?.rsplit_once(':')?;
    let address = match address.strip_prefix('[').and_then(|address| address.strip_suffix(']')) {
        Some(address) => IpAddr::V6(address.parse::<Ipv6Addr>().ok()?),
        None if address.len() == 8 => IpAddr::V4(u32::from_str_radix(address, 16).ok()?.into()),
        None => return None,
    };
    Some(VirtualService { flag, at: SocketAddr::new(address, u16::from_str_radix(port, 16).ok()?) })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "\
IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port Forward Weight ActiveConn InActConn
TCP  0A600001:01BB rr
  -> C0A80002:192B      Masq    1      0          0
UDP  [fd00:0096:0000:0000:0000:0000:0000:000a]:0035 rr
  -> [fd00:0088:0000:0000:0000:0000:0000:0005]:0035      Masq    1      0          0
FWM  00000001 wlc
TCP  nonsense:01BB rr
TCP
";

    #[test]
    fn services_are_read_in_both_families() {
        let services = services(LIST);
        assert_eq!(
            services,
            [
                VirtualService { flag: "-t", at: "10.96.0.1:443".parse().unwrap() },
                VirtualService { flag: "-u", at: "[fd00:96::a]:53".parse().unwrap() },
            ]
        );
    }
}
