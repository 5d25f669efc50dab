# shellcheck shell=bash disable=SC2154
# What scripts/bench cluster does. Sourced, never run.

# wired_nodes NAME: two nodes on one wire, NAME-1 and NAME-2, at 192.0.2.1 and 192.0.2.2, and for each a container's
# namespace NAME-1-pod and NAME-2-pod without an interface.
wired_nodes() {
    local number
    add_netns "$1-1" "$1-2" "$1-1-pod" "$1-2-pod"
    add_wire "$1-1" uplink "$1-2" uplink
    for number in 1 2; do address "$1-$number" uplink "192.0.2.$number/24"; done
}

# plain_nodes NAME MTU: the same, the containers routed by the kernel alone; their prefixes are 10.9.1.0/24 and 10.9.2.0/24.
plain_nodes() {
    local number
    wired_nodes "$1"
    for number in 1 2; do
        inside "$1-$number" sysctl -qw net.ipv4.ip_forward=1
        add_wire "$1-$number" pod "$1-$number-pod" eth0
        ip -n "$prefix-$1-$number" link set pod mtu "$2"
        ip -n "$prefix-$1-$number-pod" link set eth0 mtu "$2"
        address "$1-$number" pod "10.9.$number.1/24"
        address "$1-$number-pod" eth0 "10.9.$number.2/24" "10.9.$number.1"
    done
}

# plain_vxlan NAME: the kernel's own VXLAN between them, which is told everything and learns nothing, as Cambric's.
plain_vxlan() {
    local number other
    for number in 1 2; do
        other=$((3 - number))
        ip -n "$prefix-$1-$number" link add vxlan0 address "02:00:00:00:00:0$number" type vxlan id 7 dstport 4789 \
            local "192.0.2.$number" dev uplink nolearning
        ip -n "$prefix-$1-$number" link set vxlan0 up
        inside "$1-$number" bridge fdb append "02:00:00:00:00:0$other" dev vxlan0 dst "192.0.2.$other"
        ip -n "$prefix-$1-$number" neigh add "10.9.$other.1" lladdr "02:00:00:00:00:0$other" dev vxlan0 nud permanent
        ip -n "$prefix-$1-$number" route add "10.9.$other.0/24" via "10.9.$other.1" dev vxlan0 onlink
    done
}

# cambric_nodes NAME MODE: daemons on both, that reach each other by this mode; the containers' addresses are
# ${pod_of[NAME-1]} and ${pod_of[NAME-2]}.
cambric_nodes() {
    local number node
    wired_nodes "$1"
    mkdir "$work/$1.cluster"
    for number in 1 2; do
        printf '%s\n' --- 'apiVersion: v1' 'kind: Node' "metadata: { name: $1-$number }" \
            "spec: { podCIDRs: [ 10.9.$number.0/24 ] }" \
            "status: { addresses: [ { type: InternalIP, address: 192.0.2.$number } ] }"
    done >"$work/$1.cluster/nodes.yaml"
    for number in 1 2; do
        node=$1-$number
        start_daemon "$node" --cluster "dir:$work/$1.cluster" --routing "$2" --uplink uplink
        cambric_config "$node" >"$work/$node.json"
        pod_of[$node]=$(attach "$node" "$node-pod")
    done
}

bench_node_to_node() {
    local -A pod_of=()
    plain_nodes routed 1500
    ip -n "$prefix-routed-1" route add 10.9.2.0/24 via 192.0.2.2
    ip -n "$prefix-routed-2" route add 10.9.1.0/24 via 192.0.2.1
    plain_nodes kernel-vxlan 1450
    plain_vxlan kernel-vxlan
    cambric_nodes direct direct
    cambric_nodes vxlan vxlan
    say "### From a container to one of another node, directly; limit of TCP_RR: 0.95"
    say
    "$tools/cambric-load" path "${load_options[@]}" \
        --path "routed by the kernel,$prefix-routed-1-pod,$prefix-routed-2-pod,10.9.2.2" \
        --path "cambric,$prefix-direct-1-pod,$prefix-direct-2-pod,${pod_of[direct-2]}"
    say
    say "### The same through VXLAN; limit of TCP_RR: 0.9"
    say
    "$tools/cambric-load" path "${load_options[@]}" \
        --path "VXLAN of the kernel,$prefix-kernel-vxlan-1-pod,$prefix-kernel-vxlan-2-pod,10.9.2.2" \
        --path "cambric,$prefix-vxlan-1-pod,$prefix-vxlan-2-pod,${pod_of[vxlan-2]}" \
        --path "no VXLAN: routed by the kernel,$prefix-routed-1-pod,$prefix-routed-2-pod,10.9.2.2"
}

bench_cluster() {
    lay_out cluster
    local options=() load_options=() status=0
    if [[ -n ${CAMBRIC_BENCH_QUICK-} ]]; then
        options=(--nodes 500 --pods 10000 --services 1000 --seconds 10) load_options=(--rounds 2 --millis 100)
    fi
    say "### A large cluster"
    say
    CAMBRIC_BIN_DIR=$binaries "$binaries/cambric-bench-cluster" --single "${options[@]}" || status=1
    say
    say "### The same with both families"
    say
    CAMBRIC_BIN_DIR=$binaries "$binaries/cambric-bench-cluster" "${options[@]}" || status=1
    say
    bench_node_to_node || status=1
    return "$status"
}
