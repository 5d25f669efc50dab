# shellcheck shell=bash disable=SC2154
# What scripts/bench service does. Sourced, never run.

# The endpoints of the service that is measured, the pods of one node.
readonly service_backends=10 service_port=8080 node_port=30080 metrics_port=9477

service_bench() { "$tools/cambric-bench-service" "$@"; }

# backends_of NODE: the addresses of its backends, joined by commas; targets_of the same with ports, joined by +, and
# servers_of with their namespaces.
backends_of() { paste -sd, "$work/$1.backends"; }
targets_of() { sed "s/$/:$service_port/" "$work/$1.backends" | paste -sd+; }
servers_of() {
    awk -v netns="$prefix-$1-" -v port="$service_port" \
        '{ printf "%s%s%d@%s:%s", (NR > 1 ? "+" : ""), netns, NR - 1, $1, port }' "$work/$1.backends"
}

# make_cgroup NAME: what the sockets of a bench belong to, so that no other node's programs see them.
make_cgroup() { mkdir "$cgroups/$prefix-$1"; }

# cambric_node NAME FLAGS...: a daemon in the namespace of that name, with a cgroup of its own.
cambric_node() {
    local name=$1
    shift
    start_daemon "$name" --cgroup "$cgroups/$prefix-$name" "$@"
    printf -v "daemon_${name//-/_}" '%s' "$daemon"
    cambric_config "$name" >"$work/$name.json"
}

# stop_daemon NAME
stop_daemon() {
    local pid=daemon_${1//-/_}
    kill "${!pid}"
    wait "${!pid}" 2>/dev/null || true
}

# cambric_pods NODE COUNT: so many backends; with a third argument a client too.
cambric_pods() {
    local number
    for ((number = 0; number < $2; number++)); do
        add_netns "$1-$number"
        attach "$1" "$1-$number" >>"$work/$1.backends"
    done
    [[ -z ${3-} ]] || { add_netns "$1-client" && attach "$1" "$1-client" >/dev/null; }
}

# routed_node NAME: a node that routes between pods as the ptp plugin has it, with backends and a client.
routed_node() {
    local number pod address
    add_netns "$1"
    inside "$1" sysctl -qw net.ipv4.ip_forward=1
    for ((number = 0; number <= service_backends; number++)); do
        pod=$number
        ((number < service_backends)) || pod=client
        address=10.88.0.$((number + 2))
        add_netns "$1-$pod"
        add_wire "$1" "pod-$pod" "$1-$pod" eth0
        ip -n "$prefix-$1" addr add 10.88.0.1/32 dev "pod-$pod"
        ip -n "$prefix-$1" route add "$address/32" dev "pod-$pod"
        ip -n "$prefix-$1-$pod" addr add "$address/32" dev eth0
        ip -n "$prefix-$1-$pod" route add 10.88.0.1/32 dev eth0
        ip -n "$prefix-$1-$pod" route add default via 10.88.0.1
        [[ $pod == client ]] || printf '%s\n' "$address" >>"$work/$1.backends"
    done
}

# manifests NODE BACKENDS-OF FLAGS...: a folder with $scale services for the daemon of NODE.
manifests() {
    local folder=$work/$1.cluster of=$2
    shift 2
    rm -rf "$folder"
    service_bench manifests --services "$scale" --backends "$(backends_of "$of")" --node "$of" "$@" "$folder"
}

load_rules() {
    local file
    service_bench iptables --services "$scale" --backends "$(backends_of iptables)" >"$work/rules"
    inside iptables iptables-legacy-restore <"$work/rules"
    inside nftables nft delete table ip kube-proxy 2>/dev/null || true
    rm -rf "$work/table"
    service_bench nftables --services "$scale" --backends "$(backends_of nftables)" "$work/table"
    for file in "$work/table"/*; do inside nftables nft -f "$file"; done
}

bench_cluster_ip() {
    local scale node address status=0
    for scale in 1 1000 10000; do
        for node in socket packet; do
            stop_daemon "$node"
            manifests "$node" "$node"
            cambric_node "$node" --pool 10.88.0.0/16 --cluster "dir:$work/$node.cluster" "${flags[$node]}"
        done
        load_rules
        address=$(service_bench address --services "$scale")
        say "### A pod to a ClusterIP; services: $scale"
        say
        service_load \
            "pod to backend directly" socket socket "$(targets_of socket)" \
            "ClusterIP" socket socket "$address" \
            "ClusterIP per packet" packet packet "$address" \
            "iptables" iptables peers "$address" \
            "nftables" nftables peers "$address" -- \
            "ClusterIP,pod to backend directly,0.97" "ClusterIP,iptables,1" "ClusterIP,nftables,1" \
            "ClusterIP per packet,pod to backend directly," "ClusterIP per packet,iptables," \
            "ClusterIP per packet,nftables," || status=1
        say
    done
    return "$status"
}

# service_load NAME NODE CGROUP TARGETS... -- RATIO...: loads these from the client of each node.
service_load() {
    local arguments=()
    while [[ $1 != -- ]]; do
        arguments+=(--row "$1,$prefix-$2-client,$cgroups/$prefix-$3,$4,$(servers_of "$2")")
        shift 4
    done
    shift
    for ratio; do arguments+=(--ratio "$ratio"); done
    "$tools/cambric-load" service "${load_options[@]}" "${arguments[@]}"
}

bench_fairness() {
    local node address status=0
    local -A ways=([socket]=ClusterIP [packet]="ClusterIP per packet")
    address=$(service_bench address --services 10000)
    say "### How evenly connections are spread"
    say
    say "| way | connections | fewest | most | furthest from even, % | limit |"
    say "| --- | ---: | ---: | ---: | ---: | ---: |"
    for node in socket packet; do
        "$tools/cambric-load" fairness --name "${ways[$node]}" --client "$prefix-$node-client" \
            --cgroup "$cgroups/$prefix-$node" --target "$address" --servers "$(servers_of "$node")" \
            --connections "$connections" || status=1
    done
    say
    return "$status"
}

bench_changes() {
    local scale=10000
    say "### A start and changes; services: $scale of 10 endpoints"
    say
    stop_daemon socket
    manifests socket socket
    cambric_node socket --pool 10.88.0.0/16 --cluster "dir:$work/socket.cluster" --metrics "127.0.0.1:$metrics_port"
    local start
    # The first change is that from nothing.
    start=$(inside socket curl -sf "http://127.0.0.1:$metrics_port/metrics" |
        awk '$1 == "cambric_service_change_seconds_sum" { printf "%.3f", $2 }')
    sleep 1
    say "| cambric-ipamd with that | | limit |"
    say "| --- | ---: | ---: |"
    say "| from the first compile to programmed | ${start:-not told} s | 1 s |"
    say "| resident | $(resident) MiB | 60 MiB |"
    say
    (
        echo "$BASHPID" >"$cgroups/$prefix-socket/cgroup.procs"
        inside socket "$tools/cambric-bench-service" changes --services "$scale" --backends "$(backends_of socket)" \
            --node socket --netns "/run/netns/$prefix-socket-0" --metrics "127.0.0.1:$metrics_port" \
            --count "$changes" "$work/socket.cluster"
    )
}

# lan_node NAME NUMBER: a node on the bridge, at 192.0.2.NUMBER, whose pods are of 10.9.NUMBER.0/24.
lan_node() {
    add_netns "$1"
    add_wire lan "port-$1" "$1" uplink
    ip -n "$prefix-lan" link set "port-$1" master br0
    address "$1" uplink "192.0.2.$2/24"
    make_cgroup "$1"
    cambric_node "$1" --pool "10.9.$2.0/24" --no-masquerade 10.9.0.0/16 --uplink uplink
}

# in_service NODE BACKENDS-OF NUMBER FLAGS...: the daemon of NODE, at NUMBER, now serves the backends of another.
in_service() {
    local scale=1 name=$1 number=$3
    manifests "$name" "$2" --node-port "$node_port"
    stop_daemon "$name"
    shift 3
    cambric_node "$name" --pool "10.9.$number.0/24" --no-masquerade 10.9.0.0/16 --uplink uplink \
        --cluster "dir:$work/$name.cluster" "$@"
}

bench_node_port() {
    local mode
    add_netns lan outside-client
    ip -n "$prefix-lan" link add br0 type bridge
    ip -n "$prefix-lan" link set br0 up
    add_wire lan port-outside outside-client eth0
    ip -n "$prefix-lan" link set port-outside master br0
    address outside-client eth0 192.0.2.100/24
    lan_node near 1
    lan_node snat 11
    lan_node snat-far 12
    lan_node dsr 21
    lan_node dsr-far 22
    cambric_pods near "$service_backends"
    cambric_pods snat-far "$service_backends"
    cambric_pods dsr-far "$service_backends"
    in_service near near 1
    for mode in snat:11:12 dsr:21:22; do
        IFS=: read -r mode here there <<<"$mode"
        ip -n "$prefix-$mode" route add "10.9.$there.0/24" via "192.0.2.$there"
        ip -n "$prefix-$mode-far" route add "10.9.$here.0/24" via "192.0.2.$here"
        in_service "$mode" "$mode-far" "$here" --external-service-mode "$mode"
        in_service "$mode-far" "$mode-far" "$there" --external-service-mode "$mode"
        ip -n "$prefix-outside-client" route add "10.9.$there.0/24" via "192.0.2.$there"
    done
    ip -n "$prefix-outside-client" route add 10.9.1.0/24 via 192.0.2.1
    say "### A client outside to a NodePort"
    say
    # Only by DSR does a backend elsewhere see the client.
    local seen=(--seen "NodePort by another node (snat),192.0.2.11" --seen "NodePort by another node (dsr),192.0.2.100")
    outside_load \
        "pod directly" near "$(targets_of near)" \
        "NodePort" near "192.0.2.1:$node_port" \
        "pod of another node directly" snat-far "$(targets_of snat-far)" \
        "NodePort by another node (snat)" snat-far "192.0.2.11:$node_port" \
        "NodePort by another node (dsr)" dsr-far "192.0.2.21:$node_port" -- \
        "NodePort,pod directly," \
        "NodePort by another node (snat),pod of another node directly," \
        "NodePort by another node (dsr),pod of another node directly," \
        "NodePort by another node (dsr),NodePort by another node (snat),"
}

# outside_load NAME NODE TARGETS... -- RATIO...: as service_load, from outside to the servers of each node.
outside_load() {
    local arguments=()
    while [[ $1 != -- ]]; do
        arguments+=(--row "$1,$prefix-outside-client,$cgroups/$prefix-peers,$3,$(servers_of "$2")")
        shift 3
    done
    shift
    for ratio; do arguments+=(--ratio "$ratio"); done
    "$tools/cambric-load" service "${load_options[@]}" "${seen[@]}" "${arguments[@]}"
}

bench_service() {
    lay_out service
    local node connections=100000 changes=300 load_options=()
    local -A flags=([socket]=--socket-lb=on [packet]=--socket-lb=off)
    if [[ -n ${CAMBRIC_BENCH_QUICK-} ]]; then
        connections=5000 changes=20 load_options=(--rounds 2 --millis 100)
    fi
    cgroups=$(findmnt -rn -t cgroup2 -o TARGET | head -n 1)
    [[ -n $cgroups ]] || die "no cgroup v2 hierarchy is mounted"
    make_cgroup peers
    for node in socket packet; do
        add_netns "$node"
        make_cgroup "$node"
        cambric_node "$node" --pool 10.88.0.0/16 "${flags[$node]}"
        cambric_pods "$node" "$service_backends" client
    done
    routed_node iptables
    routed_node nftables
    # What fails leaves the others to be measured.
    local status=0
    bench_cluster_ip || status=1
    bench_fairness || status=1
    bench_changes || status=1
    say
    bench_node_port || status=1
    return "$status"
}
