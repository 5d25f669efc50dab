//! What network plugins leave on a node, made by hand in the forms that they give it.

/// What one of them leaves, and what is to be said of it.
pub struct Leftovers {
    pub label: &'static str,
    /// Files below the machine's folder.
    pub files: &'static [(&'static str, &'static str)],
    /// Commands that make the rest.
    pub script: &'static str,
    /// Commands that have its pods go.
    pub pods_go: &'static str,
    /// The warnings: check and what was found, in this order.
    pub found: &'static [(&'static str, &'static str)],
}

/// Flannel with VXLAN, its nftables tables beside the chains of both variants, and pods made by the plugin `bridge`.
pub const FLANNEL: Leftovers = Leftovers {
    label: "flannel",
    files: &[(
        "net.d/10-flannel.conflist",
        r#"{"name": "cbr0", "cniVersion": "0.3.1", "plugins": [{"type": "flannel"}, {"type": "portmap"}]}"#,
    )],
    script: r#"
        ip link add flannel.1 type vxlan id 1 local 192.0.2.1 dev up0 dstport 8472 nolearning
        ip link set flannel.1 up; ip address add 10.244.1.0/32 dev flannel.1
        ip route add 10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink
        ip route add 10.244.3.0/24 via 10.244.3.0 dev flannel.1 onlink
        ip link add cni0 type bridge; ip link set cni0 up; ip address add 10.244.1.1/24 dev cni0
        ip link add veth7 type veth peer name inner7; ip link set veth7 master cni0
        for save in iptables-legacy iptables-nft; do
            printf '%s\n' '*filter' ':FLANNEL-FWD - [0:0]' \
                '-A FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD' \
                '-A FLANNEL-FWD -s 10.244.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT' COMMIT \
                '*nat' ':FLANNEL-POSTRTG - [0:0]' ':CNI-HOSTPORT-DNAT - [0:0]' ':CNI-DN-0123456789abcdef01234 - [0:0]' \
                '-A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT' \
                '-A POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG' \
                '-A CNI-HOSTPORT-DNAT -p tcp -m tcp --dport 80 -j CNI-DN-0123456789abcdef01234' \
                '-A FLANNEL-POSTRTG -s 10.244.0.0/16 ! -d 224.0.0.0/4 -j MASQUERADE' COMMIT | $save-restore --noflush
        done
        nft add table ip flannel-ipv4; nft add table ip6 flannel-ipv6
    "#,
    pods_go: "ip link delete veth7",
    found: &[
        (
            "cni-conf",
            "/net.d/10-flannel.conflist is a network configuration of Flannel, which runtimes take whenever \
             10-cambric.conflist is not there",
        ),
        (
            "rules",
            "Flannel has left 2 chains of iptables-legacy, 2 chains of iptables-nft, the nftables table ip flannel-ipv4 and \
             the nftables table ip6 flannel-ipv6",
        ),
        ("rules", "the reference plugins have left 2 chains of iptables-legacy and 2 chains of iptables-nft"),
        ("other-plugins", "the reference plugins have left 1 interface of pods, such as veth7"),
        ("interfaces", "Flannel has left flannel.1 (vxlan, with 2 routes)"),
        ("interfaces", "the reference plugins have left cni0 (bridge, with 1 route)"),
    ],
};

/// Calico in its iptables mode, with VXLAN and its own addresses.
pub const CALICO: Leftovers = Leftovers {
    label: "calico",
    files: &[(
        "net.d/10-calico.conflist",
        r#"{"name": "k8s-pod-network", "cniVersion": "0.3.1", "plugins": [{"type": "calico"}, {"type": "portmap"}]}"#,
    )],
    script: r#"
        ip link add vxlan.calico type vxlan id 4096 local 192.0.2.1 dev up0 dstport 4789 nolearning
        ip link set vxlan.calico up; ip address add 10.244.235.192/32 dev vxlan.calico
        ip route add 10.244.9.64/26 via 10.244.9.64 dev vxlan.calico onlink proto 80
        ip route add blackhole 10.244.235.192/26 proto 80
        ip route add 10.244.7.64/26 via 192.0.2.7 proto bird
        ip route add blackhole 10.244.235.128/26 proto bird
        ip -6 route add blackhole fd00:244::/122 proto 80
        ip link add cali0123456789a type veth peer name inner7; ip link set cali0123456789a up
        ip route add 10.244.235.200/32 dev cali0123456789a scope link
        ipset create cali40masq-ipam-pools hash:net; ipset add cali40masq-ipam-pools 10.244.0.0/16
        ipset create cali60all-ipam-pools hash:net family inet6
        for save in iptables-legacy ip6tables-legacy iptables-nft ip6tables-nft; do
            printf '%s\n' '*filter' ':cali-INPUT - [0:0]' ':cali-FORWARD - [0:0]' ':cali-from-wl-dispatch - [0:0]' \
                '-A INPUT -m comment --comment "cali:Cz_u1IQiXIMmKD4c" -j cali-INPUT' \
                '-A FORWARD -m comment --comment "cali:wUHhoiAYhphO9Mso" -j cali-FORWARD' \
                '-A FORWARD -m comment --comment "cali:S93hcgKJrXEqnTfs" -m mark --mark 0x10000/0x10000 -j ACCEPT' \
                '-A cali-FORWARD -i cali+ -m comment --comment "cali:8ZoYfO5HKXWbB3pk" -j cali-from-wl-dispatch' \
                '-A cali-from-wl-dispatch -m comment --comment "cali:zTj6P0TIgYvgz-md" -m comment --comment "Unknown interface" -j DROP' \
                COMMIT '*nat' ':cali-POSTROUTING - [0:0]' \
                '-A POSTROUTING -m comment --comment "cali:O3lYWMrLQYEMJtB5" -j cali-POSTROUTING' COMMIT |
                $save-restore --noflush
        done
        printf '%s\n' '*nat' \
            '-A cali-POSTROUTING -m comment --comment "cali:Dw4T8UWPnCLxRJiI" -m set --match-set cali40masq-ipam-pools src -j MASQUERADE' \
            COMMIT | iptables-nft-restore --noflush
        nft add table ip calico; nft add table ip6 calico
    "#,
    pods_go: "ip link delete cali0123456789a",
    found: &[
        (
            "cni-conf",
            "/net.d/10-calico.conflist is a network configuration of Calico, which runtimes take before 10-cambric.conflist",
        ),
        (
            "rules",
            "Calico has left 4 chains of iptables-legacy, 4 chains of ip6tables-legacy, 4 chains of iptables-nft, 4 chains of \
             ip6tables-nft, the nftables table ip calico, the nftables table ip6 calico and 2 ipsets",
        ),
        ("other-plugins", "Calico has left 1 interface of pods, such as cali0123456789a"),
        ("interfaces", "Calico has left vxlan.calico (vxlan, with 1 route)"),
        (
            "routes",
            "Calico has left 2 routes of the protocol bird, unless a routing daemon of this node's own has, such as to \
             10.244.7.64/26, 1 of them blackholes; one to a smaller prefix goes before Cambric's",
        ),
        (
            "routes",
            "Calico has left 2 routes of the protocol 80, such as to 10.244.235.192/26, 2 of them blackholes; one to a \
             smaller prefix goes before Cambric's",
        ),
    ],
};

/// Calico in its eBPF mode: what it pins. What is attached has a test of its own.
pub const CALICO_EBPF: Leftovers = Leftovers {
    label: "calicobpf",
    files: &[
        (
            "net.d/10-calico.conflist",
            r#"{"name": "k8s-pod-network", "plugins": [{"type": "calico"}, {"type": "portmap"}]}"#,
        ),
        ("root/sys/fs/bpf/tc/globals/cali_v4_nat_fe3", ""),
        ("root/sys/fs/bpf/tc/globals/cali_v4_ct4", ""),
        ("root/sys/fs/bpf/tcx/eth0_ingress", ""),
        ("root/sys/fs/bpf/ctlb/calico_connect_v4", ""),
    ],
    script: r"
        ip link add bpfin.cali type veth peer name bpfout.cali; ip link set bpfin.cali up; ip link set bpfout.cali up
        ip route add 10.96.0.1/32 via 169.254.1.1 dev bpfin.cali onlink
        ip route add 169.254.1.1 dev bpfin.cali
    ",
    pods_go: "true",
    found: &[
        (
            "cni-conf",
            "/net.d/10-calico.conflist is a network configuration of Calico, which runtimes take before 10-cambric.conflist",
        ),
        ("interfaces", "Calico has left bpfout.cali (veth), bpfin.cali (veth, with 2 routes)"),
        ("programs", "Calico has left 4 pins below /sys/fs/bpf"),
    ],
};

/// Cilium with its own VXLAN port, whose interface would keep Cambric's overlay from that port.
pub const CILIUM: Leftovers = Leftovers {
    label: "cilium",
    files: &[
        ("net.d/05-cilium.conflist", r#"{"name": "cilium", "plugins": [{"type": "cilium-cni"}]}"#),
        ("root/sys/fs/bpf/tc/globals/cilium_lxc", ""),
        ("root/sys/fs/bpf/cilium/devices/eth0/links/cil_from_netdev", ""),
    ],
    script: r#"
        ip link add cilium_net type veth peer name cilium_host; ip link set cilium_host up
        ip link add cilium_vxlan type vxlan external dstport 8472 nolearning; ip link set cilium_vxlan up
        ip link add lxc0123456789ab type veth peer name inner7
        printf '%s\n' '*mangle' ':CILIUM_PRE_mangle - [0:0]' \
            '-A PREROUTING -m comment --comment "cilium-feeder: CILIUM_PRE_mangle" -j CILIUM_PRE_mangle' COMMIT |
            iptables-nft-restore --noflush
        ipset create cilium_node_set_v4 hash:ip
    "#,
    pods_go: "ip link delete lxc0123456789ab",
    found: &[
        (
            "cni-conf",
            "/net.d/05-cilium.conflist is a network configuration of Cilium, which runtimes take before 10-cambric.conflist",
        ),
        ("rules", "Cilium has left 1 chain of iptables-nft and 1 ipset"),
        ("other-plugins", "Cilium has left 1 interface of pods, such as lxc0123456789ab"),
        ("interfaces", "Cilium has left cilium_host (veth), cilium_net (veth), cilium_vxlan (vxlan)"),
        ("programs", "Cilium has left 2 pins below /sys/fs/bpf"),
    ],
};

/// kube-router, whose chains have kube-proxy's prefix.
pub const KUBE_ROUTER: Leftovers = Leftovers {
    label: "kuberouter",
    files: &[(
        "net.d/10-kuberouter.conf",
        r#"{"name": "kubernetes", "type": "bridge", "bridge": "kube-bridge"}"#,
    )],
    script: r"
        ip link add kube-bridge type bridge; ip link add veth7 type veth peer name inner7
        ip link set veth7 master kube-bridge
        for save in iptables-legacy ip6tables-legacy; do
            printf '%s\n' '*filter' ':KUBE-ROUTER-INPUT - [0:0]' ':KUBE-POD-FW-ABCDEFGHIJKLMNOP - [0:0]' \
                ':KUBE-NWPLCY-DEFAULT - [0:0]' '-A INPUT -j KUBE-ROUTER-INPUT' \
                '-A KUBE-ROUTER-INPUT -j KUBE-POD-FW-ABCDEFGHIJKLMNOP' \
                '-A KUBE-POD-FW-ABCDEFGHIJKLMNOP -j KUBE-NWPLCY-DEFAULT' COMMIT | $save-restore --noflush
        done
        ipset create KUBE-SRC-ABCDEFGHIJKLMNOP hash:ip; ipset create kube-router-local-ips hash:ip
        ipset create inet6:kube-router-local-ip hash:ip family inet6
    ",
    pods_go: "ip link delete veth7",
    found: &[
        (
            "cni-conf",
            "/net.d/10-kuberouter.conf is a network configuration of the reference plugins, which runtimes take whenever \
             10-cambric.conflist is not there",
        ),
        (
            "rules",
            "kube-router has left 3 chains of iptables-legacy, 3 chains of ip6tables-legacy and 3 ipsets",
        ),
        ("other-plugins", "kube-router has left 1 interface of pods, such as veth7"),
        ("interfaces", "kube-router has left kube-bridge (bridge)"),
    ],
};

/// Weave Net.
pub const WEAVE: Leftovers = Leftovers {
    label: "weave",
    files: &[(
        "net.d/10-weave.conflist",
        r#"{"name": "weave", "plugins": [{"type": "weave-net"}, {"type": "portmap"}]}"#,
    )],
    script: r"
        ip link add weave type bridge; ip link add vethwe-bridge type veth peer name inner7
        ip link set vethwe-bridge master weave; ip link add vxlan-6784 type vxlan external dstport 6784
        printf '%s\n' '*nat' ':WEAVE - [0:0]' '-A POSTROUTING -j WEAVE' COMMIT \
            '*filter' ':WEAVE-NPC - [0:0]' '-A FORWARD -o weave -j WEAVE-NPC' COMMIT | iptables-nft-restore --noflush
        ipset create weave-abcdefghijklmnop hash:ip
    ",
    pods_go: "true",
    found: &[
        (
            "cni-conf",
            "/net.d/10-weave.conflist is a network configuration of Weave Net, which runtimes take whenever \
             10-cambric.conflist is not there",
        ),
        ("rules", "Weave Net has left 2 chains of iptables-nft and 1 ipset"),
        ("interfaces", "Weave Net has left weave (bridge), vethwe-bridge (veth), vxlan-6784 (vxlan)"),
    ],
};
