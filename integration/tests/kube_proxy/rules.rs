//! Rules as a node has them on which kube-proxy has run, beside those of others.

/// What kube-proxy writes in the mode iptables for a service with a node port and for one without backends: chains in the
/// table nat. In the rules `{ip}` and `{none}` stand for the services' addresses, `{a}`, `{b}`, `{a_port}` and `{b_port}`
/// for those of the backends, `{host}` for the length of a whole prefix.
pub const NAT_CHAINS: &str = "\
:KUBE-EXT-HUVZTVQMIOKRWVRV - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-PROXY-CANARY - [0:0]
:KUBE-SEP-FDWIB6DUYBX7RMRC - [0:0]
:KUBE-SEP-QIXBSCSWYK3TQ4BJ - [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-SVC-HUVZTVQMIOKRWVRV - [0:0]
:KUBE-SVC-NPX46M4PTMTKRN6Y - [0:0]
";

/// Its rules in the table nat.
pub const NAT_RULES: &str = r#"-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
-A KUBE-EXT-HUVZTVQMIOKRWVRV -m comment --comment "masquerade traffic for shop/web:http external destinations" -j KUBE-MARK-MASQ
-A KUBE-EXT-HUVZTVQMIOKRWVRV -j KUBE-SVC-HUVZTVQMIOKRWVRV
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A KUBE-NODEPORTS -p tcp -m comment --comment "shop/web:http" -m tcp --dport 30080 -j KUBE-EXT-HUVZTVQMIOKRWVRV
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0
-A KUBE-POSTROUTING -m comment --comment "kubernetes service traffic requiring SNAT" -j MASQUERADE --random-fully
-A KUBE-SEP-FDWIB6DUYBX7RMRC -s {a}/{host} -m comment --comment "shop/web:http" -j KUBE-MARK-MASQ
-A KUBE-SEP-FDWIB6DUYBX7RMRC -p tcp -m comment --comment "shop/web:http" -m tcp -j DNAT --to-destination {a_port}
-A KUBE-SEP-QIXBSCSWYK3TQ4BJ -s {b}/{host} -m comment --comment "shop/web:http" -j KUBE-MARK-MASQ
-A KUBE-SEP-QIXBSCSWYK3TQ4BJ -p tcp -m comment --comment "shop/web:http" -m tcp -j DNAT --to-destination {b_port}
-A KUBE-SERVICES -d {ip}/{host} -p tcp -m comment --comment "shop/web:http cluster IP" -m tcp --dport 80 -j KUBE-SVC-HUVZTVQMIOKRWVRV
-A KUBE-SERVICES -m comment --comment "kubernetes service nodeports; NOTE: this must be the last rule in this chain" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
-A KUBE-SVC-HUVZTVQMIOKRWVRV -m comment --comment "shop/web:http" -m statistic --mode random --probability 0.50000000000 -j KUBE-SEP-FDWIB6DUYBX7RMRC
-A KUBE-SVC-HUVZTVQMIOKRWVRV -m comment --comment "shop/web:http" -j KUBE-SEP-QIXBSCSWYK3TQ4BJ
"#;

/// Its chains in the table filter.
pub const FILTER_CHAINS: &str = "\
:KUBE-EXTERNAL-SERVICES - [0:0]
:KUBE-FORWARD - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-PROXY-CANARY - [0:0]
:KUBE-PROXY-FIREWALL - [0:0]
:KUBE-SERVICES - [0:0]
";

/// Its rules in the table filter.
pub const FILTER_RULES: &str = r#"-A INPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes load balancer firewall" -j KUBE-PROXY-FIREWALL
-A INPUT -m comment --comment "kubernetes health check service ports" -j KUBE-NODEPORTS
-A INPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes externally-visible service portals" -j KUBE-EXTERNAL-SERVICES
-A FORWARD -m conntrack --ctstate NEW -m comment --comment "kubernetes load balancer firewall" -j KUBE-PROXY-FIREWALL
-A FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD
-A FORWARD -m conntrack --ctstate NEW -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A FORWARD -m conntrack --ctstate NEW -m comment --comment "kubernetes externally-visible service portals" -j KUBE-EXTERNAL-SERVICES
-A OUTPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes load balancer firewall" -j KUBE-PROXY-FIREWALL
-A OUTPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A KUBE-FORWARD -m comment --comment "kubernetes forwarding rules" -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FORWARD -m comment --comment "kubernetes forwarding conntrack rule" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A KUBE-SERVICES -d {none}/{host} -p tcp -m comment --comment "shop/none has no endpoints" -m tcp --dport 80 -j REJECT
"#;

/// The kubelet's own chains (of 1.28 or newer), Docker's, Calico's, portmap's, a policy controller's, and an
/// administrator's, with whatever might be mistaken for kube-proxy's.
pub const FOREIGN: &str = r#"*mangle
:KUBE-IPTABLES-HINT - [0:0]
:KUBE-KUBELET-CANARY - [0:0]
-A FORWARD -p tcp -m tcp --tcp-flags SYN,RST SYN -m comment --comment "kube-proxy: -j KUBE-SERVICES" -j TCPMSS --clamp-mss-to-pmtu
COMMIT
*filter
:DOCKER - [0:0]
:KUBE-FIREWALL - [0:0]
:KUBE-KUBELET-CANARY - [0:0]
:KUBE-ROUTER-INPUT - [0:0]
:KUBE-SVC-mine - [0:0]
:cali-INPUT - [0:0]
-A INPUT -m comment --comment "cali:Cz_u1IQiXIMmKD4c" -j cali-INPUT
-A INPUT -j KUBE-FIREWALL
-A INPUT -j KUBE-ROUTER-INPUT
-A INPUT -p tcp -m tcp --dport 22 -m comment --comment "KUBE-SERVICES" -j ACCEPT
-A FORWARD -j DOCKER
-A OUTPUT -j KUBE-FIREWALL
-A OUTPUT -j KUBE-SVC-mine
-A KUBE-FIREWALL -m comment --comment "block incoming localnet connections" -m mark --mark 0x8000/0x8000 -j DROP
-A cali-INPUT -m comment --comment "ends in \"-j KUBE-SERVICES\""
COMMIT
*nat
:CNI-HOSTPORT-DNAT - [0:0]
:DOCKER - [0:0]
:KUBE-KUBELET-CANARY - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
-A OUTPUT -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -o eth0 -m comment --comment "-j" -j MASQUERADE
COMMIT
"#;

/// What kube-proxy writes in the mode nftables, in the words of `nft`, for one service; `{f}` is the
/// family, `{kind}` that of its addresses' type, `{to}` a backend.
pub const NFTABLES: &str = r#"table {f} kube-proxy {
    comment "rules for kube-proxy";
    map service-ips {
        type {kind}_addr . inet_proto . inet_service : verdict
        elements = { {ip} . tcp . 80 : goto service-ULMVA6XW-shop/web/tcp/http }
    }
    map service-nodeports {
        type inet_proto . inet_service : verdict
        elements = { tcp . 30080 : goto external-ULMVA6XW-shop/web/tcp/http }
    }
    chain mark-for-masquerade {
        meta mark set meta mark | 0x4000
    }
    chain masquerading {
        meta mark & 0x4000 == 0 return
        meta mark set meta mark ^ 0x4000
        masquerade fully-random
    }
    chain services {
        {f} daddr . meta l4proto . th dport vmap @service-ips
        fib daddr type local meta l4proto . th dport vmap @service-nodeports
    }
    chain nat-prerouting {
        type nat hook prerouting priority dstnat; policy accept;
        jump services
    }
    chain nat-output {
        type nat hook output priority -100; policy accept;
        jump services
    }
    chain nat-postrouting {
        type nat hook postrouting priority srcnat; policy accept;
        jump masquerading
    }
    chain service-ULMVA6XW-shop/web/tcp/http {
        numgen random mod 1 vmap { 0 : goto endpoint-5OJB2KTY-shop/web/tcp/http__a/8080 }
    }
    chain external-ULMVA6XW-shop/web/tcp/http {
        jump mark-for-masquerade
        goto service-ULMVA6XW-shop/web/tcp/http
    }
    chain endpoint-5OJB2KTY-shop/web/tcp/http__a/8080 {
        meta l4proto tcp dnat to {to}
    }
}
table {f} mine {
    chain KUBE-SERVICES {
        comment "not kube-proxy's, for the table is another"
        accept
    }
}
"#;
