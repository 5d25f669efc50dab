use super::*;

const RECORDED: &str = include_str!("recorded.txt");

/// What the messages of each scene concern, in their order. An interface is what the messages before have made of it.
fn scenes() -> Vec<(&'static str, Concerned)> {
    let (mut links, mut scenes) = (Links::default(), Vec::new());
    for line in RECORDED.lines().filter(|line| !line.starts_with('#')) {
        if let Some(name) = line.strip_prefix("= ") {
            scenes.push((name, Concerned::nothing()));
            continue;
        }
        let fields: Vec<_> = line.split(' ').collect();
        let [what, kind, flags, body] = fields[..] else { panic!("{line}") };
        let body = hex(body);
        match what {
            "link" => links.learn(&body),
            _ => scenes.last_mut().unwrap().1.add(concerned(
                kind.parse().unwrap(),
                flags.parse().unwrap(),
                &body,
                &mut links,
            )),
        }
    }
    scenes
}

fn hex(digits: &str) -> Vec<u8> {
    digits
        .as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

#[test]
fn what_is_told_of_containers_and_neighbours_concerns_no_flow() {
    let scenes = scenes();
    for name in [
        "a container starts behind a bridge, and ends",
        "a pod flaps its eth0 and its addresses",
        "neighbours come and go",
        "a queueing discipline comes and goes",
        "an endpoint is added and goes",
    ] {
        let of_scene: Vec<_> = scenes.iter().filter(|(it, _)| *it == name).collect();
        assert_eq!(of_scene, [&(name, Concerned::nothing())]);
    }
}

#[test]
fn a_change_of_ways_concerns_those_who_take_them() {
    let scenes = scenes();
    let concerned = |name| scenes.iter().find(|(it, _)| *it == name).map(|(_, concerned)| concerned.clone());
    let network = |it: &str| Some(Concerned::network(it.parse().unwrap()));
    assert_eq!(concerned("a route to another node comes and goes"), network("10.7.3.0/26"));
    assert_eq!(concerned("an IPv6 route to another node comes and goes"), network("fd00:0:0:7::/64"));
    assert_eq!(concerned("a secondary address comes"), network("203.0.113.9/32"));
    for name in [
        "an address goes",
        "a rule comes",
        "an IPv6 rule goes",
        "the uplink has another MTU",
        "the uplink loses its carrier",
        "the uplink is up again",
    ] {
        assert_eq!(concerned(name), Some(Concerned::everything()), "{name}");
    }
    assert_eq!(concerned("the default route changes"), network("0.0.0.0/0"));
}

#[test]
fn what_is_not_understood_concerns_every_flow() {
    for (kind, body) in
        [(RTM_NEWROUTE, &[AF_INET][..]), (RTM_NEWADDR, &[]), (RTM_NEWLINK, &[0; 9]), (999, &[0; 64])]
    {
        assert_eq!(concerned(kind, 0, body, &mut Links::default()), Concerned::everything(), "{kind}");
    }
}

#[test]
fn shared_next_hops_concern_every_flow_where_routes_may_have_them() {
    let told = |kind, flags| concerned(kind, flags, &[0; 8], &mut Links::default()).is_everything();
    assert!(!told(RTM_NEWNEXTHOP, 0));
    assert!(told(RTM_NEWNEXTHOP, NLM_F_REPLACE));
    assert!(told(RTM_NEWNEXTHOP + 1, 0));
}
