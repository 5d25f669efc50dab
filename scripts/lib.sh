# shellcheck shell=bash
# What the scripts share. Sourced, never run.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# rustup's place, which root's PATH often lacks.
command -v cargo >/dev/null || PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin

# Debian's cnitool, built by scripts/setup.
# shellcheck disable=SC2034
cnitool=${XDG_CACHE_HOME:-$HOME/.cache}/cambric/cnitool

say() { printf '%s\n' "$*"; }

die() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

# Prints the comment at the head of the script, which is its manual.
usage() { awk 'NR > 1 { if (!/^#/) exit; sub(/^# ?/, ""); print }' "$0"; }

need_root() { ((EUID == 0)) || die "must run as root"; }

# Where cargo puts binaries of a profile's directory (debug or release).
built() {
    local target host
    target=$(cd "$root" && cargo metadata --format-version 1 --no-deps --locked | jq -r .target_directory)
    host=$(rustc -vV | sed -n 's/^host: //p')
    printf '%s/%s/%s\n' "$target" "$host" "$1"
}

systemd_runs() { [[ -d /run/systemd/system ]]; }

# parse_places OPTIONS...: where scripts/install puts things and scripts/uninstall finds them.
# shellcheck disable=SC2034
parse_places() {
    bin_dir=/usr/local/bin cni_bin_dir=/opt/cni/bin cni_conf_dir=/etc/cni/net.d conf_dir=/etc/cambric
    unit_dir=/etc/systemd/system destdir='' start=true binaries=''
    while (($#)); do
        case $1 in
            -h | --help) usage && exit ;;
            --no-start) start=false && shift && continue ;;
            --bin-dir | --cni-bin-dir | --cni-conf-dir | --conf-dir | --unit-dir | --destdir | --binaries) ;;
            *) die "unknown argument $1; see --help" ;;
        esac
        [[ ${2-} == /* ]] || die "$1 needs an absolute path"
        local name=${1#--}
        printf -v "${name//-/_}" '%s' "${2%/}"
        shift 2
    done
    [[ -z $destdir ]] || start=false
}

# What follows makes namespaces and runs daemons in them, for scripts/demo and scripts/bench. The names of all of them
# begin with $prefix, as do those of cgroups below $cgroups where a script makes any; all files lie in $work; `dismantle`,
# at the script's exit, removes everything.

# lay_out NAME: a prefix and a folder of this run's own, and the release binaries.
lay_out() {
    binaries=$(built release)
    prefix=cambric-$1-$$
    work=$(mktemp -d "/tmp/$prefix.XXXX")
    bpffs=/sys/fs/bpf/$prefix
    trap dismantle EXIT
    trap 'exit 130' INT TERM
}

# dismantle [STATUS]: what was laid out, and the script's end; where it failed, the daemons' last words before that.
dismantle() {
    local status=${1-$?} pid netns
    trap - EXIT
    set +e
    ((status == 0 || status == 130)) || tail -n 5 "$work"/*/log >&2 2>/dev/null
    for pid in $(jobs -p); do kill "$pid" 2>/dev/null; done
    wait 2>/dev/null
    for netns in $(ip netns list | awk -v prefix="$prefix-" 'index($1, prefix) == 1 { print $1 }'); do
        ip netns del "$netns"
    done
    [[ -z ${cgroups-} ]] || rmdir "$cgroups/$prefix"-* 2>/dev/null
    rm -rf "$work" "$bpffs"-*
    exit "$status"
}

# inside NAMESPACE COMMAND...: enters the network of the namespace only, so that /sys/fs stays in sight.
inside() {
    local netns=$prefix-$1
    shift
    nsenter --net="/run/netns/$netns" "$@"
}

# add_netns NAME...: namespaces with their loopback up.
add_netns() {
    local name
    for name; do
        ip netns add "$prefix-$name"
        inside "$name" ip link set lo up
        # Client ports are used again at once, as load generators need; and addresses need no duplicate detection.
        inside "$name" sysctl -qw net.ipv4.tcp_tw_reuse=1 net.ipv6.conf.default.accept_dad=0
    done
}

# add_wire NAME IFNAME NAME IFNAME: a veth pair between two namespaces, up, without addresses.
add_wire() {
    ip -n "$prefix-$1" link add "$2" type veth peer name "$4" netns "$prefix-$3"
    ip -n "$prefix-$1" link set "$2" up
    ip -n "$prefix-$3" link set "$4" up
}

# start_daemon NAME FLAGS...: a cambric-ipamd in the namespace NAME with everything of its own, which serves when this
# returns. Its process is $daemon.
start_daemon() {
    local name=$1 socket=$work/$1/ipamd.sock
    shift
    mkdir -p "$work/$name"
    nsenter --net="/run/netns/$prefix-$name" "$binaries/cambric-ipamd" --config /dev/null --node-name "$name" \
        --socket "$socket" --state-dir "$work/$name/state" --bpffs "$bpffs-$name" "$@" 2>"$work/$name/log" &
    daemon=$!
    for _ in {1..200}; do
        "$binaries/cambricctl" --socket "$socket" status >"$work/$name/status" 2>&1 && return
        kill -0 "$daemon" 2>/dev/null || break
        sleep 0.05
    done
    cat "$work/$name/log" >&2
    die "the daemon of $name does not start"
}
