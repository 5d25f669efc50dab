//! `cambricctl policy trace`.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
};

use clap::Args;
use ipamd_api::{
    Reply, Request,
    policy::{KernelSays, StagedVerdict, Trace, TracePath, TraceQuery, TraceStep, TraceVerdict, Verdict},
};

use crate::{
    connections::{protocol, protocol_name},
    daemon::Daemon,
    flow,
    output::{Output, clean},
};
use ipamd_model::policy::protocol::{ICMP, has_ports, is_icmp};

/// Types of an echo request.
const ECHO: u8 = 8;
const ECHO_V6: u8 = 128;

/// A flow.
#[derive(Debug, Args)]
pub(crate) struct Flow {
    /// Who opens it
    #[arg(long, value_name = "[NAMESPACE/]POD|IP")]
    from: String,
    /// Whom it is opened to; what is opened to an address and port of a service is followed to each of its backends
    #[arg(long, value_name = "[NAMESPACE/]POD|IP")]
    to: String,
    /// tcp/80, udp/53, sctp/9; icmp (an echo request), icmp/TYPE, icmp/TYPE/CODE, icmpv6 likewise; or ip/47, the number
    /// of a protocol without ports
    #[arg(long, value_name = "PROTOCOL[/PORT]", value_parser = service)]
    port: Service,
    /// The port that it is opened from; any if it is not given
    #[arg(long, value_name = "PORT")]
    source_port: Option<u16>,
}

/// A protocol and what of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Service {
    /// IP protocol number.
    protocol: u8,
    /// Destination port; for ICMP `type << 8 | code`.
    port: u16,
}

fn service(text: &str) -> Result<Service, String> {
    if text.parse::<u16>().is_ok() {
        return Err(format!("{text} alone may be a port or a protocol: say tcp/{text} or ip/{text}"));
    }
    let text = text.strip_prefix("ip/").unwrap_or(text);
    let (name, rest) = match text.split_once('/') {
        Some((name, rest)) => (name, Some(rest)),
        None => (text, None),
    };
    let protocol = protocol(&name.to_ascii_lowercase())?;
    let port = match rest {
        None if has_ports(protocol) => return Err(format!("{name} needs a port: {name}/80")),
        Some(port) if has_ports(protocol) => {
            port.parse().map_err(|_| format!("{port} is not a port: 0 to 65535"))?
        }
        None if protocol == ICMP => u16::from_be_bytes([ECHO, 0]),
        None if is_icmp(protocol) => u16::from_be_bytes([ECHO_V6, 0]),
        Some(message) if is_icmp(protocol) => {
            let (kind, code) = message.split_once('/').unwrap_or((message, "0"));
            let number = |what: &str, text: &str| {
                text.parse().map_err(|_| format!("{text} is not {what} of {name}: 0 to 255"))
            };
            u16::from_be_bytes([number("a type", kind)?, number("a code", code)?])
        }
        None => 0,
        Some(_) => return Err(format!("protocol {name} has no ports")),
    };
    Ok(Service { protocol, port })
}

/// Returns whether the compiler and the kernel agree.
pub(super) fn trace(daemon: &mut Daemon, flow: Flow, output: &Output) -> anyhow::Result<bool> {
    let Flow { from, to, port: Service { protocol, port }, source_port } = flow;
    anyhow::ensure!(
        source_port.is_none() || has_ports(protocol),
        "--source-port is given, but protocol {} has no ports",
        protocol_name(protocol)
    );
    let query = TraceQuery { from, to, protocol, port, source_port };
    let trace = daemon.ask(Request::PolicyTrace(query.clone()), |reply| match reply {
        Reply::Trace(trace) => Some(*trace),
        _ => None,
    })?;
    output.print(&trace, |trace| text(trace, &query))?;
    if !trace.agree {
        // If nobody reads this, the exit status still says it.
        let _ = io::stderr().write_all(disagreement(&trace, query.protocol).as_bytes());
    }
    Ok(trace.agree)
}

/// A flow as people ask for it: the port, or type and code.
fn asked(query: &TraceQuery) -> String {
    let name = protocol_name(query.protocol);
    let what = if has_ports(query.protocol) {
        format!("{name}/{}", query.port)
    } else if is_icmp(query.protocol) {
        let [kind, code] = query.port.to_be_bytes();
        format!("{name}/{kind}/{code}")
    } else {
        format!("ip/{name}")
    };
    format!("{what} from {} to {}", clean(&query.from), clean(&query.to))
}

fn text(trace: &Trace, query: &TraceQuery) -> String {
    let mut text = trace.verdict.to_string();
    if trace.verdict == TraceVerdict::Mixed {
        let allowed = trace.paths.iter().filter(|path| path.verdict == Verdict::Allow).count();
        // Writing to a String does not fail.
        let _ = write!(text, " ({allowed} of {} allowed)", trace.paths.len());
    }
    let _ = writeln!(text, ": {}", asked(query));
    if trace.paths.is_empty() {
        text.push_str("\nThere is no family of addresses that both sides have.\n");
    }
    for path in &trace.paths {
        let _ = writeln!(text, "\n{}: {}", sides(path, query.protocol), path.verdict);
        if let Some(note) = &path.note {
            let _ = writeln!(text, "  {}", clean(note));
        }
        for step in &path.steps {
            text.push_str(&self::step(step));
        }
        if let Some(StagedVerdict { verdict, rule, policies }) = &path.staged {
            let because: Vec<_> = policies.iter().map(|it| clean(&it.to_string())).collect();
            let by = match rule {
                Some(rule) => flow::by(Some(rule)),
                None => format!(", because of {}", because.join(", ")),
            };
            let _ = writeln!(text, "  the staged policies would say otherwise: {verdict}{by}");
        }
    }
    if trace.left_out > 0 {
        let _ = writeln!(text, "\n{} more there is no room to tell of", trace.left_out);
    }
    text
}

fn sides(path: &TracePath, protocol: u8) -> String {
    let name = protocol_name(protocol);
    let side = |party| flow::address_and_names(party, &name);
    let by =
        path.service.as_deref().map(|service| format!(" by service {}", clean(service))).unwrap_or_default();
    format!("{} -> {}{by}", side(&path.source), side(&path.destination))
}

/// What an endpoint's policy says, on a few lines.
fn step(step: &TraceStep) -> String {
    let why = match (&step.rule, &step.note) {
        (Some(rule), Some(note)) => format!("{} ({})", flow::by(Some(rule)), clean(note)),
        (Some(rule), None) => flow::by(Some(rule)),
        (None, Some(note)) => format!(", {}", clean(note)),
        (None, None) => ", for no policy decides".to_owned(),
    };
    let mut text = format!("  {}: {}{why}\n", whose(step), step.verdict);
    // Writing to a String does not fail.
    if let Some(rule) = &step.logged {
        let _ = writeln!(text, "    logged{}", flow::by(Some(rule)));
    }
    let _ = match &step.kernel {
        KernelSays::Same => writeln!(text, "    the kernel says the same"),
        KernelSays::Other(what) => writeln!(text, "    THE KERNEL SAYS OTHERWISE: {}", clean(what)),
    };
    text
}

fn whose(step: &TraceStep) -> String {
    format!("{} of {}", clean(&step.direction), clean(&step.endpoint))
}

/// Where the kernel says something else, loudly.
fn disagreement(trace: &Trace, protocol: u8) -> String {
    let mut text = String::new();
    for path in &trace.paths {
        for step in &path.steps {
            if let KernelSays::Other(what) = &step.kernel {
                // Writing to a String does not fail.
                let _ = writeln!(
                    text,
                    "THE KERNEL DISAGREES on {}, {}: the compiler says {}, the kernel says {}",
                    whose(step),
                    sides(path, protocol),
                    step.verdict,
                    clean(what)
                );
            }
        }
    }
    if text.is_empty() {
        text.push_str("THE KERNEL DISAGREES with the compiler on this flow\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use ipamd_api::policy::{DecidingRule, Party};

    use super::*;

    #[test]
    fn ports_go_with_their_protocol() {
        for (text, protocol, port) in [
            ("tcp/80", 6, 80),
            ("TCP/0", 6, 0),
            ("udp/53", 17, 53),
            ("sctp/9", 132, 9),
            ("6/80", 6, 80),
            ("icmp", 1, 0x0800),
            ("icmp/0", 1, 0),
            ("icmp/3/4", 1, 0x0304),
            ("icmpv6", 58, 0x8000),
            ("icmpv6/129", 58, 0x8100),
            ("ip/47", 47, 0),
            ("ip/6/80", 6, 80),
        ] {
            assert_eq!(service(text), Ok(Service { protocol, port }), "{text}");
        }
        for bad in [
            "",
            "tcp",
            "tcp/",
            "tcp/65536",
            "tcp/-1",
            "tpc/80",
            "icmp/256",
            "icmp/8/",
            "icmp/8/0/1",
            "80",
            "ip/80/1",
            "ip/6",
            "ip/",
            "47/1",
            "256",
        ] {
            assert!(service(bad).is_err(), "{bad}");
        }
    }

    fn query() -> TraceQuery {
        TraceQuery {
            from: "shop/stranger".into(),
            to: "shop/guarded".into(),
            protocol: 6,
            port: 81,
            source_port: None,
        }
    }

    fn denied(kernel: KernelSays) -> Trace {
        let party = |address: &str, port, pod: &str| Party {
            address: address.parse().unwrap(),
            port,
            pod: Some(pod.into()),
            others: Vec::new(),
        };
        let step = |endpoint: &str, direction: &str, verdict, rule, kernel| TraceStep {
            endpoint: endpoint.into(),
            direction: direction.into(),
            verdict,
            rule,
            logged: None,
            note: None,
            kernel,
        };
        let guard = DecidingRule {
            text: "the default of tier default because of NetworkPolicy shop/guard".into(),
            direction: "ingress".into(),
            policies: Vec::new(),
            index: None,
        };
        Trace {
            verdict: TraceVerdict::Deny,
            left_out: 0,
            agree: kernel == KernelSays::Same,
            paths: vec![TracePath {
                source: party("10.0.0.2", 40_000, "shop/stranger"),
                destination: party("10.0.0.3", 81, "shop/guarded"),
                icmp: None,
                service: None,
                note: None,
                staged: None,
                verdict: Verdict::Deny,
                steps: vec![
                    step("shop/stranger", "egress", Verdict::Allow, None, KernelSays::Same),
                    step("shop/guarded", "ingress", Verdict::Deny, Some(guard), kernel),
                ],
            }],
        }
    }

    #[test]
    fn a_trace_begins_with_the_verdict_and_tells_each_step() {
        assert_eq!(
            text(&denied(KernelSays::Same), &query()),
            "deny: tcp/81 from shop/stranger to shop/guarded\n\n\
             10.0.0.2:40000 (shop/stranger) -> 10.0.0.3:81 (shop/guarded): deny\n  \
             egress of shop/stranger: allow, for no policy decides\n    the kernel says the same\n  \
             ingress of shop/guarded: deny by the default of tier default because of NetworkPolicy shop/guard\n    \
             the kernel says the same\n"
        );
    }

    #[test]
    fn a_kernel_that_disagrees_is_shouted_about() {
        let trace = denied(KernelSays::Other("allow by rule 3".into()));
        assert!(text(&trace, &query()).contains("THE KERNEL SAYS OTHERWISE: allow by rule 3"));
        let shout = disagreement(&trace, 6);
        assert!(
            shout.starts_with("THE KERNEL DISAGREES") && shout.contains("ingress of shop/guarded"),
            "{shout}"
        );
    }

    #[test]
    fn a_flow_is_repeated_as_it_was_asked_for() {
        let asked = |protocol, port| asked(&TraceQuery { protocol, port, ..query() });
        assert!(asked(1, 0x0800).starts_with("icmp/8/0 from"));
        assert!(asked(47, 0).starts_with("ip/47 from"));
    }

    #[test]
    fn of_a_service_each_backend_is_told() {
        let mut trace = denied(KernelSays::Same);
        trace.paths[0].service = Some("shop/web".into());
        let mut other = trace.paths[0].clone();
        (other.verdict, other.steps) = (Verdict::Allow, Vec::new());
        trace.paths.push(other);
        trace.verdict = TraceVerdict::Mixed;
        trace.left_out = 3;
        let text = text(&trace, &query());
        assert!(text.starts_with("mixed (1 of 2 allowed): tcp/81 from shop/stranger"), "{text}");
        assert!(text.contains("-> 10.0.0.3:81 (shop/guarded) by service shop/web: allow\n"), "{text}");
        assert!(text.ends_with("\n3 more there is no room to tell of\n"), "{text}");
    }

    #[test]
    fn nothing_in_common_and_nothing_policed_are_said() {
        assert_eq!(
            service("80"),
            Err("80 alone may be a port or a protocol: say tcp/80 or ip/80".to_owned())
        );
        let mut trace = denied(KernelSays::Same);
        trace.paths[0].steps.clear();
        trace.paths[0].note = Some("it is itself".into());
        assert!(text(&trace, &query()).ends_with("deny\n  it is itself\n"));
        trace.paths.clear();
        assert!(text(&trace, &query()).contains("no family"));
    }
}
