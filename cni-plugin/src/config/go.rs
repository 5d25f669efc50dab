//! The same bytes, read by Go's own decoder and by this crate: texts made to differ where they can.

use std::{
    io::Write,
    process::{Command, Stdio},
};

use proptest::{
    collection::vec,
    prelude::*,
    strategy::ValueTree,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};
use serde_json::{Value, json};

use crate::document::{Document, Field};
use crate::error::CniError;
use crate::json::Json;

/// What Go makes of each text; `None` where there is no Go.
fn go(texts: &[String]) -> Option<Vec<Value>> {
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/go/decode.go");
    let mut command = Command::new("go");
    command.arg("run").arg(program).env("GO111MODULE", "off").env("GOFLAGS", "");
    if std::env::var_os("HOME").is_none() {
        command.env("GOCACHE", std::env::temp_dir().join("cambric-go-cache"));
    }
    let mut child = match command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn() {
        Ok(child) => child,
        Err(error) => {
            eprintln!("SKIPPED: no program `go` to compare with ({error}); scripts/setup installs it");
            return None;
        }
    };
    let mut stdin = child.stdin.take().unwrap();
    let input = json!(texts).to_string();
    let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let out = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert!(out.status.success(), "go run {program} failed");
    let seen: Vec<Value> = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(seen.len(), texts.len());
    Some(seen)
}

/// What this crate makes of a text, in the shape in which the Go program prints it; null where it refuses.
fn ours(text: &str) -> Value {
    let Ok(document) = Document::decode(text.as_bytes()) else { return Value::Null };
    seen(&document).unwrap_or(Value::Null)
}

fn seen(document: &Document) -> Result<Value, CniError> {
    let root = document.root();
    let (args, runtime) = (root.field("args"), root.field("runtimeConfig"));
    let (cni, dns, pod_dns) = (args.field("cni"), root.field("dns"), runtime.field("dns"));
    for object in [&args, &runtime, &cni, &dns, &pod_dns] {
        object.object()?;
    }
    let result = match root.field("prevResult").map()? {
        None => Value::Null,
        Some(map) => {
            let result = Document::of_map("prevResult", map);
            json!({
                "interfaces": list(&result.field("interfaces"), &|it| {
                    Ok(json!({"name": text(it, "name")?, "mac": text(it, "mac")?, "sandbox": text(it, "sandbox")?}))
                })?,
                "ips": list(&result.field("ips"), &|it| {
                    let interface = it.field("interface").pointer().number_in(0..=u32::MAX)?;
                    Ok(json!({"interface": interface, "address": text(it, "address")?, "gateway": text(it, "gateway")?}))
                })?,
                "routes": list(&result.field("routes"), &|it| Ok(json!({"dst": text(it, "dst")?, "gw": text(it, "gw")?})))?,
            })
        }
    };
    Ok(json!({
        "Config": {
            "cniVersion": text(&root, "cniVersion")?, "name": text(&root, "name")?, "mtu": number(&root, "mtu")?,
            "dns": {
                "nameservers": texts(&dns, "nameservers")?, "domain": text(&dns, "domain")?,
                "search": texts(&dns, "search")?, "options": texts(&dns, "options")?,
            },
            "args": {"cni": {
                "labels": list(&cni.field("labels"), &|it| Ok(json!({"key": text(it, "key")?, "value": text(it, "value")?})))?,
                "ips": texts(&cni, "ips")?, "mac": text(&cni, "mac")?,
            }},
            "runtimeConfig": {
                "portMappings": list(&runtime.field("portMappings"), &|it| Ok(json!({
                    "hostPort": number(it, "hostPort")?, "containerPort": number(it, "containerPort")?,
                    "protocol": text(it, "protocol")?, "hostIP": text(it, "hostIP")?,
                })))?,
                "ips": texts(&runtime, "ips")?, "mac": text(&runtime, "mac")?,
                "dns": {
                    "servers": texts(&pod_dns, "servers")?, "searches": texts(&pod_dns, "searches")?,
                    "options": texts(&pod_dns, "options")?,
                },
            },
            "prevResult": null,
            "cni.dev/valid-attachments": list(&root.field("cni.dev/valid-attachments"), &|it| {
                Ok(json!({"containerID": text(it, "containerID")?, "ifname": text(it, "ifname")?}))
            })?,
        },
        "Result": result,
    }))
}

fn text(field: &Field, name: &str) -> Result<String, CniError> {
    Ok(field.field(name).text()?.unwrap_or_default().to_owned())
}

fn number(field: &Field, name: &str) -> Result<u32, CniError> {
    Ok(field.field(name).number_in(0..=u32::MAX)?.unwrap_or_default())
}

fn list(field: &Field, read: &dyn Fn(&Field) -> Result<Value, CniError>) -> Result<Value, CniError> {
    let Some(entries) = field.list()? else { return Ok(Value::Null) };
    let read = |entry: &Field| {
        entry.object()?;
        read(entry)
    };
    entries.iter().map(read).collect()
}

fn texts(field: &Field, name: &str) -> Result<Value, CniError> {
    let Some(entries) = field.field(name).list()? else { return Ok(Value::Null) };
    entries.iter().map(|entry| Ok(Value::from(entry.text()?.unwrap_or_default()))).collect()
}

/// Fails if one of the texts is read otherwise by Go.
pub fn compare(texts: &[String]) {
    let Some(seen) = go(texts) else { return };
    let mut refused = 0;
    for (text, go) in texts.iter().zip(seen) {
        assert_eq!(ours(text), go, "what we read (left) and what Go reads (right) of\n{text}");
        refused += usize::from(go.is_null());
    }
    eprintln!("{} texts, of which Go and we refuse {refused}", texts.len());
}

/// A key as somebody may write it.
fn key(name: &'static str) -> BoxedStrategy<String> {
    let folded = name.replacen('s', "\u{17f}", 1).replacen('k', "\u{212a}", 1);
    let title = name[..1].to_uppercase() + &name[1..];
    prop_oneof![
        4 => Just(name.to_owned()),
        2 => Just(title),
        1 => Just(name.to_uppercase()),
        1 => Just(name.to_lowercase()),
        1 => Just(folded),
    ]
    .boxed()
}

/// An object with some of the members, some of them twice.
fn object(members: Vec<(&'static str, BoxedStrategy<Json>)>) -> BoxedStrategy<Json> {
    let each = members.into_iter().map(|(name, value)| vec((key(name), value), 0..3)).collect::<Vec<_>>();
    each.prop_map(|members| members.into_iter().flatten().collect::<Vec<_>>())
        .prop_shuffle()
        .prop_map(Json::Object)
        .boxed()
}

fn wrong() -> BoxedStrategy<Json> {
    prop_oneof![Just(json!(true)), Just(json!(1.5)), Just(json!("x")), Just(json!([])), Just(json!({})),]
        .prop_map(Json::from)
        .boxed()
}

/// Mostly that, at times null, and rarely something else.
fn mostly(value: impl Strategy<Value = Json> + 'static) -> BoxedStrategy<Json> {
    prop_oneof![60 => value, 10 => Just(Json::Null), 1 => wrong()].boxed()
}

fn some_text() -> BoxedStrategy<Json> {
    mostly(prop::sample::select(vec!["", "a", "eth0", "10.0.0.1"]).prop_map(|text| Json::from(json!(text))))
}

fn some_number() -> BoxedStrategy<Json> {
    mostly((0u32..70_000).prop_map(|number| Json::from(json!(number))))
}

/// What is wrong inside a list is not made: Go refuses it also where a later, shorter list takes the place.
fn list_of(members: &[(&'static str, bool)]) -> BoxedStrategy<Json> {
    let members = members.iter().map(|(name, is_number)| {
        let value = if *is_number {
            (0u32..9).prop_map(|n| json!(n)).boxed()
        } else {
            "[a-c]{0,2}".prop_map(|text| json!(text)).boxed()
        };
        (*name, prop_oneof![5 => value, 1 => Just(json!(null))].prop_map(Json::from).boxed())
    });
    let entry = object(members.collect());
    mostly(vec(prop_oneof![8 => entry, 1 => Just(Json::Null)], 0..4).prop_map(Json::List))
}

fn list_of_texts() -> BoxedStrategy<Json> {
    mostly(vec("[a-c]{0,2}".prop_map(Json::Text), 0..3).prop_map(Json::List))
}

fn configuration() -> BoxedStrategy<Json> {
    let dns = object(vec![
        ("nameservers", list_of_texts()),
        ("domain", some_text()),
        ("search", list_of_texts()),
        ("options", list_of_texts()),
    ]);
    let cni = object(vec![
        ("labels", list_of(&[("key", false), ("value", false)])),
        ("ips", list_of_texts()),
        ("mac", some_text()),
    ]);
    let pod_dns = object(vec![
        ("servers", list_of_texts()),
        ("searches", list_of_texts()),
        ("options", list_of_texts()),
    ]);
    let mapping = [("hostPort", true), ("containerPort", true), ("protocol", false), ("hostIP", false)];
    let runtime = object(vec![
        ("portMappings", list_of(&mapping)),
        ("ips", list_of_texts()),
        ("mac", some_text()),
        ("dns", mostly(pod_dns)),
    ]);
    let result = object(vec![
        ("interfaces", list_of(&[("name", false), ("mac", false), ("sandbox", false)])),
        ("ips", list_of(&[("interface", true), ("address", false), ("gateway", false)])),
        ("routes", list_of(&[("dst", false), ("gw", false)])),
    ]);
    object(vec![
        ("cniVersion", some_text()),
        ("name", some_text()),
        ("mtu", some_number()),
        ("dns", mostly(dns)),
        ("args", mostly(object(vec![("cni", mostly(cni))]))),
        ("runtimeConfig", mostly(runtime)),
        ("prevResult", mostly(result)),
        ("cni.dev/valid-attachments", list_of(&[("containerID", false), ("ifname", false)])),
        ("unknown", wrong()),
    ])
}

#[test]
fn texts_made_to_differ_are_read_as_go_reads_them() {
    let seed: [u8; 32] = match std::env::var("CAMBRIC_SEED") {
        Ok(text) => std::array::from_fn(|at| text.as_bytes().get(at).copied().unwrap_or_default()),
        Err(_) => [7; 32],
    };
    eprintln!("seed {seed:?}");
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let strategy = configuration();
    let text = |_| {
        let json = strategy.new_tree(&mut runner).unwrap().current();
        serde_json::to_string(&json).unwrap()
    };
    compare(&(0..2000).map(text).collect::<Vec<_>>());
}
