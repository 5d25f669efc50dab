//! Whatever a file holds, reading it ends soon and does not panic.

use std::time::{Duration, Instant};

use ::fuzz::{Form, Target, one_sentence, same};
use proptest::prelude::*;

use super::*;

const POLICY: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: p
  labels: {a: &x b, c: *x}
spec:
  podSelector:
    matchExpressions:
    - {key: k, operator: In, values: [a, 'b', \"c\"]}
  policyTypes: [Ingress, Egress]
  ingress:
  - from:
    - ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}
    - namespaceSelector: {}
      podSelector: {matchLabels: {a: b}}
    ports:
    - port: 80
      endPort: 90
    - protocol: UDP
      port: dns
---
apiVersion: v1
kind: Pod
metadata: {name: a, labels: {x: |
  text
  more
  }}
status:
  podIPs:
  - ip: 10.0.0.1
";

/// Pieces of YAML that mean something to its parser.
const PIECES: &[&str] = &[
    "- ",
    "? ",
    ": ",
    "\n",
    "  ",
    "\t",
    "{",
    "}",
    "[",
    "]",
    ",",
    "&a ",
    "*a",
    "!!str ",
    "!x ",
    "|",
    ">",
    "|-\n",
    "'",
    "\"",
    "#",
    "---\n",
    "...\n",
    "%YAML 1.2\n",
    "%TAG ! x\n",
    "<<: ",
    "null",
    "~",
    "1e999",
    "-",
    "\\",
    "\r",
    "\u{85}",
    "\u{feff}",
    "\u{2028}",
    "é",
    "\0",
    "apiVersion: v1\n",
    "kind: Pod\n",
    "kind: List\n",
    "items:\n",
    "metadata:\n",
    "  name: a\n",
    "spec:\n",
    "key: value\n",
    "- a: b\n",
];

fn read_in_time(text: &str) {
    let begun = Instant::now();
    let manifest = read(Path::new("fuzz.yaml"), text);
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert!(manifest.complete || !manifest.refusals.is_empty());
    let lines = text.len() + 2;
    for refusal in &manifest.refusals {
        assert!((1..=lines).contains(&usize::try_from(refusal.line).unwrap()), "{refusal}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        read_in_time(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn any_pieces_of_yaml(pieces in prop::collection::vec(prop::sample::select(PIECES), 0..60)) {
        read_in_time(&pieces.concat());
    }

    #[test]
    fn a_policy_that_has_been_tampered_with(
        cuts in prop::collection::vec((0..POLICY.len(), 0..6_usize, prop::sample::select(PIECES)), 1..6),
    ) {
        let mut text = POLICY.to_owned();
        for (at, length, piece) in cuts {
            // The text is longer or shorter by now.
            let at = at.min(text.len());
            let end = (at + length).min(text.len());
            if text.is_char_boundary(at) && text.is_char_boundary(end) {
                text.replace_range(at..end, piece);
            }
        }
        read_in_time(&text);
    }

    #[test]
    fn one_piece_many_times(
        before in prop::sample::select(PIECES), piece in prop::sample::select(PIECES),
        other in prop::sample::select(PIECES), times in 1..20_000_usize,
    ) {
        read_in_time(&format!("{before}{}", format!("{piece}{other}").repeat(times)));
    }
}

#[test]
fn the_policy_itself_is_read() {
    let manifest = read(Path::new("a.yaml"), POLICY);
    assert_eq!(manifest.objects.len(), 2, "{:?}", manifest.refusals);
}

/// What a manifest says, without where it says so.
fn said(manifest: &Manifest) -> Vec<Object> {
    let bare = |located: &Located| {
        let mut object = located.object.clone();
        if let Object::Policy(policy) = &mut object {
            Arc::make_mut(policy).origin = None;
        }
        object
    };
    manifest.objects.iter().map(bare).collect()
}

fn holds(input: &[u8]) -> Result<(), String> {
    let (file, text) = (Path::new("fuzz.yaml"), String::from_utf8_lossy(input));
    let manifest = read(file, &text);
    same("the same file, read again", &read(file, &text), &manifest)?;
    if !manifest.complete && manifest.refusals.is_empty() {
        return Err("something is missing, and nobody is told".into());
    }
    for refusal in &manifest.refusals {
        one_sentence(&refusal.to_string())?;
    }
    // The values of the documents, as JSON, are documents of the same objects.
    let values = Documents::of(&text).map(|step| match step {
        Step::Document(node) => Some(node.value().to_string()),
        Step::Malformed(_) | Step::Syntax(_) => None,
    });
    match values.collect::<Option<Vec<_>>>() {
        Some(values) if values.iter().map(String::len).sum::<usize>() < 16 << 10 => {
            let json = read(file, &values.join("\n---\n"));
            same("what YAML says, said in JSON", &said(&json), &said(&manifest))
        }
        _ => Ok(()),
    }
}

#[test]
fn whatever_a_file_holds_is_read_or_refused_in_a_sentence_and_json_says_what_yaml_does() {
    Target::new("manifests", Form::Text).holds(holds);
}
