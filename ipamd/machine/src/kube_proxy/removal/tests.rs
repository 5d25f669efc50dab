use std::collections::BTreeMap;

use proptest::{collection::vec, prelude::*, sample::select};

use super::{super::iptables_save, *};

const SVC: &str = "KUBE-SVC-NPX46M4PTMTKRN6Y";
const SEP: &str = "KUBE-SEP-QIXBSCSWYK3TQ4BJ";

fn removal(saved: &str) -> Removal<'_> {
    Removal::of(&iptables_save::parse(saved).unwrap()[0])
}

/// A table whose rules are these.
fn nat(chains: &[&str], rules: &[&str]) -> String {
    let mut text =
        "*nat\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n".to_owned();
    text.extend(chains.iter().map(|chain| format!(":{chain} - [0:0]\n")));
    text.extend(rules.iter().map(|rule| format!("-A {rule}\n")));
    text + "COMMIT\n"
}

#[test]
fn the_transaction_empties_unlinks_and_deletes() {
    let saved = nat(
        &["KUBE-SERVICES", SVC, "DOCKER"],
        &[
            "PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES",
            "PREROUTING -j DOCKER",
            &format!("KUBE-SERVICES -d 10.96.0.1/32 -j {SVC}"),
        ],
    );
    let removal = removal(&saved);
    assert_eq!((removal.chains.len(), removal.rules, removal.jumps.len()), (2, 1, 1));
    assert_eq!(
        removal.transaction(),
        format!(
            "*nat\n:KUBE-SERVICES - [0:0]\n:{SVC} - [0:0]\n\
             -D PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
             -X KUBE-SERVICES\n-X {SVC}\nCOMMIT\n"
        )
    );
}

#[test]
fn what_an_older_kubelet_makes_stays() {
    let chains = ["KUBE-SERVICES", "KUBE-MARK-MASQ", "KUBE-POSTROUTING", "KUBE-MARK-DROP"];
    let mut rules = vec!["POSTROUTING -j KUBE-POSTROUTING", "OUTPUT -j KUBE-SERVICES"];
    // kube-proxy makes it too, but puts nothing in.
    assert_eq!(removal(&nat(&chains, &rules)).kept, BTreeMap::new());
    rules.push("KUBE-MARK-DROP -j MARK --set-xmark 0x8000/0x8000");
    let saved = nat(&chains, &rules);
    let removal = removal(&saved);
    assert_eq!(removal.chains, ["KUBE-SERVICES"]);
    assert_eq!(removal.jumps.len(), 1);
    let kubelet = Reason::Kubelet;
    assert_eq!(removal.kept, BTreeMap::from([("KUBE-MARK-MASQ", kubelet), ("KUBE-POSTROUTING", kubelet)]));
}

#[test]
fn what_others_use_stays_with_all_that_it_needs() {
    let chains = ["KUBE-SERVICES", "KUBE-MARK-MASQ", "KUBE-POSTROUTING", SVC, SEP, "CNI-HOSTPORT-SETMARK"];
    let rules = [
        "POSTROUTING -j KUBE-POSTROUTING",
        "OUTPUT -j KUBE-SERVICES",
        "CNI-HOSTPORT-SETMARK -j KUBE-MARK-MASQ",
    ];
    let saved = nat(&chains, &rules);
    let found = removal(&saved);
    assert_eq!(found.chains, ["KUBE-SERVICES", SVC, SEP]);
    assert_eq!(found.jumps.iter().map(|rule| rule.chain).collect::<Vec<_>>(), ["OUTPUT"]);
    assert_eq!(found.kept["KUBE-MARK-MASQ"], Reason::UsedIn("CNI-HOSTPORT-SETMARK"));
    assert_eq!(found.kept["KUBE-POSTROUTING"], Reason::NeededBy("KUBE-MARK-MASQ"));

    // A built-in chain jumps to a chain of one service only by somebody else's hand.
    let to_service = format!("OUTPUT -d 192.0.2.1/32 -j {SVC}");
    let to_endpoint = format!("{SVC} -j {SEP}");
    let saved = nat(&chains, &["OUTPUT -j KUBE-SERVICES", &to_service, &to_endpoint]);
    let found = removal(&saved);
    assert_eq!(found.kept, BTreeMap::from([(SVC, Reason::UsedIn("OUTPUT")), (SEP, Reason::NeededBy(SVC))]));
    assert_eq!(found.chains, ["KUBE-SERVICES", "KUBE-MARK-MASQ", "KUBE-POSTROUTING"]);
}

/// What `iptables-restore --noflush` does, as its manual says: by name, in order, and nothing if one step fails.
fn restore(saved: &str, transaction: &str) -> Result<String, String> {
    let mut lines = saved.lines().map(str::to_owned).collect::<Vec<_>>();
    for step in transaction.lines() {
        if let Some(chain) = step.strip_prefix(':') {
            let chain = chain.split(' ').next().unwrap();
            lines.retain(|line| !line.starts_with(&format!("-A {chain} ")));
        } else if let Some(rule) = step.strip_prefix("-D ") {
            let rule = format!("-A {rule}");
            let at = lines.iter().position(|line| *line == rule).ok_or(format!("no rule {rule}"))?;
            lines.remove(at);
        } else if let Some(chain) = step.strip_prefix("-X ") {
            let used = |line: &&String| {
                line.starts_with(&format!("-A {chain} "))
                    || line.ends_with(&format!(" -j {chain}"))
                    || line.ends_with(&format!(" -g {chain}"))
            };
            if let Some(line) = lines.iter().find(used) {
                return Err(format!("{chain} is in use: {line}"));
            }
            let at = lines.iter().position(|line| line.starts_with(&format!(":{chain} ")));
            lines.remove(at.ok_or(format!("no chain {chain}"))?);
        }
    }
    Ok(lines.join("\n") + "\n")
}

const OURS: [&str; 7] = [
    "KUBE-SERVICES",
    "KUBE-NODEPORTS",
    "KUBE-PROXY-CANARY",
    SVC,
    SEP,
    "KUBE-EXT-NPX46M4PTMTKRN6Y",
    "KUBE-FIREWALL",
];
const THEIRS: [&str; 6] = [
    "DOCKER",
    "cali-PREROUTING",
    "CNI-HOSTPORT-DNAT",
    "KUBE-KUBELET-CANARY",
    "KUBE-SVC-mine",
    "KUBE-ROUTER-INPUT",
];
const MATCHES: [&str; 6] = [
    "",
    "-d 10.96.0.1/32 -p tcp -m tcp --dport 443 ",
    "-m comment --comment \"kube-proxy: \\\"-j KUBE-SERVICES\\\"\" ",
    "-m comment --comment -j ",
    "-m comment --comment \"ends in -j KUBE-SERVICES\" ",
    "-m set --match-set KUBE-CLUSTER-IP dst,dst ",
];

fn foreign() -> impl Strategy<Value = String> {
    let chain = select([&["PREROUTING", "OUTPUT"][..], &THEIRS].concat());
    let target = prop_oneof![
        select(&THEIRS[..]).prop_map(|chain| format!("-j {chain}")),
        select(
            &["-j ACCEPT", "-j DNAT --to-destination 10.0.0.1:80", "-j LOG --log-prefix KUBE-SERVICES"][..]
        )
        .prop_map(str::to_owned),
    ];
    (chain, select(&MATCHES[..]), target)
        .prop_map(|(chain, matches, target)| format!("{chain} {matches}{target}"))
}

fn kube_proxys() -> impl Strategy<Value = String> {
    let inside = (select(&OURS[..]), select([&OURS[..], &THEIRS, &["ACCEPT"]].concat()));
    let entry = (select(&["PREROUTING", "OUTPUT"][..]), select(&OURS[..2]).prop_map(|entry| entry));
    (prop_oneof![inside, entry], select(&MATCHES[..]), select(&["-j", "-g"][..]))
        .prop_map(|((chain, target), matches, jump)| format!("{chain} {matches}{jump} {target}"))
}

proptest! {
    #[test]
    fn what_is_left_is_what_was_there_without_kube_proxys(
        rules in vec(prop_oneof![foreign().prop_map(|rule| (rule, false)), kube_proxys().prop_map(|rule| (rule, true))], 0..40),
    ) {
        let chains = [&OURS[..], &THEIRS].concat();
        let all = rules.iter().map(|(rule, _)| rule.as_str()).collect::<Vec<_>>();
        let others = rules.iter().filter(|(_, ours)| !ours).map(|(rule, _)| rule.as_str()).collect::<Vec<_>>();
        let saved = nat(&chains, &all);
        let found = removal(&saved);
        prop_assert_eq!(&found.chains[..], &OURS[..]);
        prop_assert_eq!(found.rules + found.jumps.len(), all.len() - others.len());
        let left = restore(&saved, &found.transaction());
        prop_assert_eq!(left, Ok(nat(&THEIRS, &others)));
    }

    #[test]
    fn any_transaction_succeeds_and_a_second_look_finds_nothing(
        rules in vec((
            select([&["PREROUTING", "OUTPUT"][..], &OURS, &THEIRS].concat()),
            select(&MATCHES[..]),
            select([&OURS[..], &THEIRS, &["ACCEPT"]].concat()),
        ), 0..20),
    ) {
        let rules = rules.iter().map(|(chain, matches, to)| format!("{chain} {matches}-j {to}")).collect::<Vec<_>>();
        let rules = rules.iter().map(String::as_str).collect::<Vec<_>>();
        let saved = nat(&[&OURS[..], &THEIRS].concat(), &rules);
        let found = removal(&saved);
        let left = restore(&saved, &found.transaction());
        prop_assert!(left.is_ok(), "{left:?}");
        let left = left.unwrap();
        let again = removal(&left);
        prop_assert!(again.is_empty() && again.jumps.is_empty(), "{left}");
        prop_assert_eq!(&again.kept.keys().collect::<Vec<_>>(), &found.kept.keys().collect::<Vec<_>>());
        for line in saved.lines().filter(|line| THEIRS.iter().any(|chain| line.starts_with(&format!("-A {chain} ")))) {
            prop_assert!(left.lines().any(|kept| kept == line), "{line} is gone");
        }
    }
}
