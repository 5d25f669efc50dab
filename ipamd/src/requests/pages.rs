//! Long answers in pages that fit into a frame.

use std::io;

use ipamd_api::{
    frame::MAX_FRAME,
    policy::{
        DecidingRule, Event, FlowChange, ObjectName, Party, PolicyDetail, PolicySummary, RefusedObject, Trace,
    },
    wire::DnsEntry,
};
use serde::Serialize;

/// What one page may have, in bytes; the rest of a frame is for what is around it.
pub(super) const PAGE: usize = MAX_FRAME as usize / 2;
/// What is larger is shortened.
const LARGE: usize = PAGE / 8;
/// How many items one page has at most.
const ITEMS: usize = 1_000;
/// How long a text of what is shortened may be, in bytes.
const TEXT: usize = 1_024;
/// How many names a list of what is shortened may have.
const NAMES: usize = 16;

/// What can be said in less, where it would be too much.
pub(super) trait Shorten: Serialize + Sized {
    /// Cuts texts and lists.
    fn shorten(&mut self);

    /// Itself, shortened if it is large.
    fn fitting(mut self) -> Self {
        if size(&self) > LARGE {
            self.shorten();
        }
        self
    }
}

/// The items in pages of at least one; one empty page if there are none.
pub(super) fn cut<T: Shorten>(items: Vec<T>) -> Vec<Vec<T>> {
    let mut pages = vec![Vec::new()];
    let mut filled = 0;
    for item in items {
        let item = item.fitting();
        let more = size(&item) + 1;
        let is_full = pages.last().is_some_and(|page| filled + more > PAGE || page.len() >= ITEMS);
        if is_full {
            pages.push(Vec::new());
            filled = 0;
        }
        filled += more;
        if let Some(page) = pages.last_mut() {
            page.push(item);
        }
    }
    pages
}

/// How many bytes a value has in JSON.
fn size(value: &impl Serialize) -> usize {
    struct Counted(usize);
    impl io::Write for Counted {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut counted = Counted(0);
    // What cannot be written cannot be sent, which is said then.
    let _ = serde_json::to_writer(&mut counted, value);
    counted.0
}

/// Cuts a text.
pub(super) fn text(text: &mut String) {
    if text.len() > TEXT {
        text.truncate(text.floor_char_boundary(TEXT));
        text.push_str(" ...");
    }
}

/// Cuts a list.
pub(super) fn names<T>(list: &mut Vec<T>) {
    list.truncate(NAMES);
}

fn object(name: &mut ObjectName) {
    text(&mut name.kind);
    text(&mut name.name);
    name.namespace.iter_mut().for_each(text);
}

fn party(party: &mut Party) {
    names(&mut party.others);
    party.others.iter_mut().for_each(text);
    party.pod.iter_mut().for_each(text);
}

fn rule(rule: &mut DecidingRule) {
    text(&mut rule.text);
    names(&mut rule.policies);
    rule.policies.iter_mut().for_each(object);
}

impl Shorten for PolicySummary {
    fn shorten(&mut self) {
        object(&mut self.policy);
        text(&mut self.tier);
        self.origin.iter_mut().for_each(text);
    }
}

impl Shorten for RefusedObject {
    fn shorten(&mut self) {
        self.object.iter_mut().for_each(object);
        text(&mut self.field);
        text(&mut self.reason);
    }
}

impl Shorten for FlowChange {
    fn shorten(&mut self) {
        party(&mut self.source);
        party(&mut self.destination);
        self.before_rule.iter_mut().chain(&mut self.after_rule).for_each(rule);
    }
}

impl Shorten for Event {
    fn shorten(&mut self) {
        party(&mut self.source);
        party(&mut self.destination);
        self.rule.iter_mut().for_each(rule);
    }
}

impl Shorten for DnsEntry {
    fn shorten(&mut self) {
        text(&mut self.endpoint);
        text(&mut self.name);
    }
}

impl Shorten for Trace {
    /// A service may have thousands of backends: those that a frame has no room for are counted.
    fn shorten(&mut self) {
        for path in &mut self.paths {
            party(&mut path.source);
            party(&mut path.destination);
            for step in &mut path.steps {
                step.rule.iter_mut().chain(&mut step.logged).for_each(rule);
                step.note.iter_mut().for_each(text);
            }
            if let Some(staged) = &mut path.staged {
                staged.rule.iter_mut().for_each(rule);
                names(&mut staged.policies);
            }
        }
        let fit = fitting(&self.paths, PAGE);
        self.left_out += (self.paths.len() - fit) as u64;
        self.paths.truncate(fit);
    }
}

impl Shorten for PolicyDetail {
    /// Rules and pods that a frame has no room for are left out, which the subject says.
    fn shorten(&mut self) {
        self.summary.shorten();
        text(&mut self.subject);
        for rule in &mut self.rules {
            text(&mut rule.matches);
            rule.name.iter_mut().for_each(text);
        }
        let fit = fitting(&self.selects, PAGE / 4);
        if fit < self.selects.len() {
            let more = format!(" (and {} pods more than are named)", self.selects.len() - fit);
            self.subject.push_str(&more);
            self.selects.truncate(fit);
        }
        if let Some(trial) = &mut self.trial {
            for group in &mut trial.flows {
                group.shorten();
            }
            for rule in &mut trial.rules {
                text(&mut rule.rule);
            }
            trial.flows.truncate(fitting(&trial.flows, PAGE / 8));
            trial.rules.truncate(fitting(&trial.rules, PAGE / 8));
        }
        let fit = fitting(&self.rules, PAGE);
        if fit < self.rules.len() {
            let more = format!(" (with {} rules more than are shown)", self.rules.len() - fit);
            self.subject.push_str(&more);
            self.rules.truncate(fit);
        }
    }
}

/// How many of the items fit into `room` bytes.
pub(super) fn fitting(items: &[impl Serialize], room: usize) -> usize {
    let mut filled = 0;
    let fits = items.iter().take_while(|item| {
        filled += size(*item) + 1;
        filled <= room
    });
    fits.count()
}

#[cfg(test)]
mod tests {
    use ipamd_api::{
        Reply,
        policy::{PolicyPage, PolicyRule},
    };

    use super::*;

    fn refused(reason: &str) -> RefusedObject {
        RefusedObject {
            file: Some("a.yaml".into()),
            line: Some(1),
            object: None,
            field: "spec".into(),
            reason: reason.to_owned(),
            in_force: false,
        }
    }

    fn fits(reply: &Reply) -> bool {
        ipamd_api::frame::encode(&serde_json::to_vec(reply).unwrap()).is_ok()
    }

    #[test]
    fn pages_hold_everything_in_order_and_fit_their_frames() {
        let items =
            (0..5_000).map(|at| refused(&format!("{at} {}", "x".repeat(at % 900)))).collect::<Vec<_>>();
        let pages = cut(items.clone());
        assert!(pages.len() > 2);
        assert!(pages.iter().all(|page| {
            fits(&Reply::Policies(PolicyPage { refused: page.clone(), ..PolicyPage::default() }))
        }));
        assert_eq!(pages.concat(), items);
        assert_eq!(cut(Vec::<RefusedObject>::new()), [vec![]]);
    }

    #[test]
    fn what_is_too_large_for_a_frame_is_shortened() {
        // Each of these characters takes six bytes.
        let pages = cut(vec![refused(&"\u{1}".repeat(1_000_000)), refused("short")]);
        assert_eq!(pages.len(), 1);
        assert!(pages[0][0].reason.ends_with("...") && pages[0][1].reason == "short");
    }

    #[test]
    fn a_policy_of_too_many_rules_says_how_many_are_left_out() {
        let rule = |index| PolicyRule {
            direction: "ingress".into(),
            index,
            name: None,
            action: "allow".into(),
            matches: "ö".repeat(2_000),
            hits: 0,
        };
        let detail = PolicyDetail {
            summary: PolicySummary {
                policy: ObjectName { kind: "NetworkPolicy".into(), namespace: None, name: "p".into() },
                tier: "default".into(),
                order: None,
                directions: Vec::new(),
                rules: 2_000,
                endpoints: 50_000,
                origin: None,
                staged: None,
            },
            subject: "all pods".into(),
            selects: (0..50_000).map(|at| format!("namespace/pod-{at}")).collect(),
            rules: (0..2_000).map(rule).collect(),
            trial: None,
        };
        let small = PolicyDetail { rules: vec![rule(0)], selects: Vec::new(), ..detail.clone() };
        assert_eq!(small.clone().fitting(), small);
        let shown = detail.fitting();
        assert!(shown.rules.len() > 100 && shown.rules.len() < 2_000);
        let left_out = 2_000 - shown.rules.len();
        assert!(shown.subject.contains(&format!("with {left_out} rules more")), "{}", shown.subject);
        assert!(fits(&Reply::Policy(Box::new(shown))));
    }
}
