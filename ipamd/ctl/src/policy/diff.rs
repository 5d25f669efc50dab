//! `cambricctl policy diff`.

use std::{
    fmt::Write as _,
    io,
    path::{Path, PathBuf},
};

use anyhow::{anyhow, bail};
use ipamd_api::{
    Client, ClientError, Reply, Request,
    frame::MAX_FRAME,
    policy::{DiffPage, FlowChange, ManifestText, RefusedObject, Verdict},
};
use serde::Serialize;

use super::{refusals::refusal_line, sources};
use crate::{
    daemon::Daemon,
    ending::Ending,
    flow,
    output::{Output, clean, counted},
};

/// What manifests would change.
#[derive(Debug, Default, PartialEq, Serialize)]
struct Difference {
    changes: Vec<FlowChange>,
    changed: u64,
    examined: u64,
    refused: Vec<RefusedObject>,
}

impl Difference {
    fn take(&mut self, page: DiffPage) {
        self.changes.extend(page.changes);
        self.refused.extend(page.refused);
        // Not every page says these.
        self.changed = self.changed.max(page.changed);
        self.examined = self.examined.max(page.examined);
    }

    /// As a pipeline wants to know: whether anything would change, or whether that is not known.
    fn ending(&self) -> Ending {
        if self.refused.is_empty() { Ending::of(self.changed == 0) } else { Ending::Unanswered }
    }
}

pub(super) fn diff(
    daemon: &mut Daemon,
    paths: &[PathBuf],
    staged: bool,
    output: &Output,
) -> anyhow::Result<Ending> {
    let client = &mut daemon.client;
    let mut blank = true;
    sources::each(paths, |file, text| match text {
        Ok(text) => {
            blank &= text.trim().is_empty();
            hand_over(client, file, text)
        }
        Err(reason) => bail!("{}: {reason}", clean(&file.to_string_lossy())),
    })?;
    if blank && !paths.is_empty() {
        bail!(
            "there is no manifest in what is named: it is empty, as when the program that makes it has failed"
        );
    }
    client.send(if staged { Request::PolicyDiffStaged } else { Request::PolicyDiff })?;
    let mut difference = Difference::default();
    loop {
        let Reply::PolicyDiff(page) = client.receive()? else {
            return Err(client.confused("the answer is of another sort".into()).into());
        };
        let last = page.last;
        difference.take(page);
        if last {
            break;
        }
    }
    output.print(&difference, text)?;
    Ok(difference.ending())
}

/// Shows a comparison that is one page.
pub(super) fn show(page: DiffPage, output: &Output) -> anyhow::Result<Ending> {
    let mut difference = Difference::default();
    difference.take(page);
    output.print(&difference, text)?;
    Ok(difference.ending())
}

/// Gives the daemon a file.
fn hand_over(client: &mut Client, file: &Path, text: String) -> anyhow::Result<()> {
    let name = file.to_string_lossy().into_owned();
    let request = Request::PolicyDiffFile(ManifestText { file: name.clone().into(), text });
    match client.call(request) {
        Ok(Reply::Done) => Ok(()),
        Ok(_) => Err(client.confused("the answer is of another sort".into()).into()),
        // It was not sent.
        Err(ClientError::Exchange { source, .. }) if source.kind() == io::ErrorKind::InvalidInput => {
            let most = MAX_FRAME >> 20;
            Err(anyhow!("{} is larger than the daemon takes at once, {most} MiB; cut it up", clean(&name)))
        }
        Err(error) => Err(error.into()),
    }
}

fn text(difference: &Difference) -> String {
    let Difference { changes, changed, examined, refused } = difference;
    let mut text: String = refused.iter().map(refusal_line).collect();
    if !refused.is_empty() && changes.is_empty() {
        return text + "something is refused, so what the rest would change is not known\n";
    }
    text.extend(changes.iter().map(|change| line(change) + "\n"));
    let told = changes.iter().map(|change| change.flows).sum::<u64>();
    if let more @ 1.. = changed.saturating_sub(told) {
        // Writing to a String does not fail.
        let _ = writeln!(text, "and {} that there is no room to tell of", counted(more, "flow"));
    }
    let would = match changed {
        0 => "none".to_owned(),
        count => count.to_string(),
    };
    let without = if refused.is_empty() { "" } else { ", not counting what is refused" };
    text + &format!("{} examined, {would} would be judged otherwise{without}\n", counted(*examined, "flow"))
}

/// What changes for some flows, on a line.
pub(super) fn line(change: &FlowChange) -> String {
    let FlowChange { protocol, flows, source, destination, icmp, before, before_rule, after, after_rule } =
        change;
    let mut line = format!(
        "{} {} -> {} ({}): {before} -> {after}",
        flow::protocol(protocol, *icmp),
        flow::pod_or_address(source, protocol),
        flow::pod_or_address(destination, protocol),
        counted(*flows, "flow"),
    );
    match (after, after_rule, before_rule) {
        (_, Some(rule), _) => line = format!("{line},{}", flow::by(Some(rule))),
        (Verdict::Allow, None, Some(rule)) => {
            line = format!("{line}, no longer denied{}", flow::by(Some(rule)));
        }
        _ => {}
    }
    line
}

#[cfg(test)]
mod tests {
    use ipamd_api::policy::{DecidingRule, IcmpMessage, Party};

    use super::*;

    fn cut() -> FlowChange {
        let party = |address: &str, port, pod: &str| Party {
            address: address.parse().unwrap(),
            port,
            pod: Some(pod.into()),
            others: Vec::new(),
        };
        FlowChange {
            protocol: "tcp".into(),
            flows: 3,
            source: party("10.0.0.2", 0, "shop/friend"),
            destination: party("10.0.0.3", 8_080, "shop/stranger"),
            icmp: None,
            before: Verdict::Allow,
            before_rule: None,
            after: Verdict::Deny,
            after_rule: Some(rule("NetworkPolicy shop/new")),
        }
    }

    fn rule(text: &str) -> DecidingRule {
        DecidingRule { text: text.into(), direction: "ingress".into(), policies: Vec::new(), index: None }
    }

    #[test]
    fn a_change_is_a_line_with_both_verdicts_and_the_rule() {
        assert_eq!(
            line(&cut()),
            "tcp shop/friend -> shop/stranger:8080 (3 flows): allow -> deny, by NetworkPolicy shop/new"
        );
        let ping = FlowChange {
            protocol: "icmp".into(),
            flows: 1,
            icmp: Some(IcmpMessage { kind: 8, code: 0 }),
            destination: Party { port: 0, ..cut().destination },
            ..cut()
        };
        assert!(
            line(&ping).starts_with("icmp/8/0 shop/friend -> shop/stranger (1 flow): "),
            "{}",
            line(&ping)
        );
        let freed = FlowChange {
            before: Verdict::Deny,
            before_rule: Some(rule("NetworkPolicy shop/old")),
            after: Verdict::Allow,
            after_rule: None,
            ..cut()
        };
        assert!(line(&freed).ends_with("deny -> allow, no longer denied by NetworkPolicy shop/old"));
    }

    #[test]
    fn pages_are_one_answer_that_says_how_many_flows_were_looked_at() {
        let mut difference = Difference::default();
        assert_eq!(text(&difference), "0 flows examined, none would be judged otherwise\n");
        difference.take(DiffPage { changes: vec![cut()], examined: 40, ..DiffPage::default() });
        assert_eq!(difference.ending(), Ending::Well);
        let last =
            DiffPage { changes: vec![cut()], changed: 7, examined: 41, last: true, ..DiffPage::default() };
        difference.take(last);
        let text = text(&difference);
        assert!(text.ends_with("\n41 flows examined, 7 would be judged otherwise\n"), "{text}");
        assert!(text.contains("and 1 flow that there is no room to tell of"), "{text}");
        assert_eq!(difference.ending(), Ending::Otherwise);
    }

    #[test]
    fn what_is_refused_is_said_first_and_that_nothing_follows() {
        let refused = RefusedObject {
            file: Some("a.yaml".into()),
            line: Some(9),
            object: None,
            field: "spec.ingres".into(),
            reason: "is not known".into(),
            in_force: false,
        };
        let mut difference = Difference::default();
        difference.take(DiffPage { refused: vec![refused], examined: 40, last: true, ..DiffPage::default() });
        assert_eq!(difference.ending(), Ending::Unanswered);
        let text = text(&difference);
        assert!(text.starts_with("a.yaml:9: spec.ingres: is not known\nsomething is refused"), "{text}");
    }

    #[test]
    fn a_file_that_no_frame_holds_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("s");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let mut client = Client::connect(&socket).unwrap();
        let text = "#".repeat(MAX_FRAME as usize);
        let error = hand_over(&mut client, Path::new("big.yaml"), text).unwrap_err().to_string();
        assert!(error.starts_with("big.yaml is larger than"), "{error}");
    }
}
