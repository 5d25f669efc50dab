//! The kustomizations: what each makes of the manifests. Where there is a kubectl with kustomize in it, it builds them, and the
//! API's types read the result; elsewhere the test says that it does not, and what can be seen without it is checked all the same.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use integration::manifests::{find, read};
use ipamd_config::{CommandLine, Config};
use k8s_openapi::api::{
    apps::v1::DaemonSet,
    core::v1::{ConfigMap, PodSpec},
};
use serde_json::Value;

/// Below conf/kustomize, each with a flag of the daemon that it adds.
const OVERLAYS: [(&str, &str); 5] = [
    ("base", ""),
    ("overlays/vxlan", "--routing=vxlan"),
    ("overlays/dsr", "--external-service-mode=dsr"),
    ("overlays/chained", ""),
    ("overlays/monitoring", "--metrics=$(NODE_IP):9477"),
];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../conf/kustomize")
}

/// What kubectl makes of a kustomization; `None`, told on standard error, where there is no kubectl that knows components.
fn built(overlay: &str) -> Result<Option<Vec<Value>>> {
    let version = Command::new("kubectl").args(["version", "--client", "--output=json"]).output();
    let version = version.ok().and_then(|out| serde_json::from_slice::<Value>(&out.stdout).ok());
    let kustomize = version.and_then(|it| it["kustomizeVersion"].as_str().map(str::to_owned));
    if !kustomize.is_some_and(|it| !it.starts_with("v2.") && !it.starts_with("v3.")) {
        let _ = writeln!(std::io::stderr(), "not built: {overlay}, for there is no kubectl of 1.21 or newer");
        return Ok(None);
    }
    let out = Command::new("kubectl").arg("kustomize").arg(folder().join(overlay)).output()?;
    ensure!(out.status.success(), "{overlay}: {}", String::from_utf8_lossy(&out.stderr));
    let text = String::from_utf8(out.stdout)?;
    Ok(Some(serde_saphyr::from_multiple(&text).with_context(|| format!("{overlay} makes no YAML"))?))
}

fn of_kind<'o>(objects: &'o [Value], kind: &str) -> Vec<&'o Value> {
    objects.iter().filter(|it| it["kind"] == kind).collect()
}

/// The daemon's DaemonSet and its ConfigMap, which the pod names with its digest.
fn parts(objects: &[Value]) -> Result<(DaemonSet, ConfigMap)> {
    let [set] = of_kind(objects, "DaemonSet")[..] else { anyhow::bail!("one DaemonSet") };
    let set: DaemonSet = serde_json::from_value(set.clone())?;
    let name =
        pod(&set)?.volumes.iter().flatten().find_map(|it| it.config_map.as_ref()).map(|it| it.name.clone());
    let name = name.context("a volume of a ConfigMap")?;
    ensure!(name.starts_with("cambric-") && name.len() == "cambric-".len() + 10, "{name} has no digest");
    let maps = of_kind(objects, "ConfigMap");
    let map = maps.iter().find(|it| it["metadata"]["name"] == *name).context("the ConfigMap of the pod")?;
    Ok((set, serde_json::from_value((*map).clone())?))
}

fn pod(set: &DaemonSet) -> Result<PodSpec> {
    set.spec.template.spec.clone().context("a pod")
}

/// Whether a daemon takes the configuration, with these flags.
fn is_taken(map: &ConfigMap, flags: &[String]) -> Result<Config> {
    let file = tempfile::NamedTempFile::new()?;
    fs::write(file.path(), map.data.as_ref().and_then(|it| it.get("ipamd.toml")).context("ipamd.toml")?)?;
    let plain =
        flags.iter().map(|flag| flag.replace("$(NODE_IP)", "192.0.2.1").replace("$(NODE_NAME)", "one"));
    let config = format!("--config={}", file.path().display());
    let words =
        ["cambric-ipamd".to_owned()].into_iter().chain(plain.filter(|it| !it.starts_with("--config=")));
    Ok(Config::load(CommandLine::try_parse_from(words.chain([config]))?)?)
}

#[test]
fn the_base_is_the_single_file() -> Result<()> {
    let map: ConfigMap = find("cambric.yaml", "ConfigMap")?;
    let in_file = map.data.context("data")?.remove("ipamd.toml").context("ipamd.toml")?;
    ensure!(
        fs::read_to_string(folder().join("base/ipamd.toml"))? == in_file,
        "base/ipamd.toml differs from cambric.yaml"
    );
    let Some(objects) = built("base")? else { return Ok(()) };
    for object in read("cambric.yaml")? {
        let kind = object["kind"].as_str().context("a kind")?;
        let name = &object["metadata"]["name"];
        if kind == "ConfigMap" {
            let (_, map) = parts(&objects)?;
            ensure!(serde_json::to_value(map.data)? == object["data"]);
            ensure!(serde_json::to_value(map.metadata.labels)? == object["metadata"]["labels"]);
            continue;
        }
        let made = of_kind(&objects, kind).into_iter().find(|it| it["metadata"]["name"] == *name);
        let mut made = made.with_context(|| format!("no {kind} {name}"))?.clone();
        if kind == "DaemonSet" {
            let volumes = made.pointer_mut("/spec/template/spec/volumes").and_then(Value::as_array_mut);
            for volume in volumes.context("volumes")?.iter_mut().filter(|it| it["configMap"].is_object()) {
                volume["configMap"]["name"] = "cambric".into();
            }
        }
        ensure!(made == object, "{kind} {name}: of\n{object:#}\nthe base makes\n{made:#}");
    }
    Ok(())
}

#[test]
fn each_overlay_is_built_into_what_its_daemon_takes() -> Result<()> {
    for (overlay, flag) in OVERLAYS {
        let Some(objects) = built(overlay)? else { continue };
        let (set, map) = parts(&objects).context(overlay)?;
        let container = pod(&set)?.containers.into_iter().next().context("a container")?;
        let flags = container.args.unwrap_or_default();
        ensure!(flag.is_empty() || flags.iter().any(|it| it == flag), "{overlay}: {flags:?}");
        let config = is_taken(&map, &flags).context(overlay)?;
        // Where probes look, the daemon serves.
        let probe = container.readiness_probe.and_then(|it| it.http_get).context("a probe")?;
        let served = config.metrics.context("metrics")?;
        ensure!(probe.host.is_none_or(|host| host == served.ip().to_string()), "{overlay}: {served}");
    }
    Ok(())
}

#[test]
fn another_configuration_rolls_the_daemons() -> Result<()> {
    let work = tempfile::tempdir_in(folder())?;
    let kustomization = |lines: &str| {
        let head = "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources: [../base]\n";
        fs::write(work.path().join("kustomization.yaml"), format!("{head}{lines}"))
    };
    let overlay = work.path().file_name().context("a name")?.to_string_lossy().into_owned();
    kustomization("")?;
    let Some(before) = built(&overlay)? else { return Ok(()) };
    let generator = "configMapGenerator:\n- { name: cambric, namespace: kube-system, behavior: merge, files: [ipamd.toml] }\n";
    kustomization(&format!("{generator}components: [../vxlan, ../monitoring]\n"))?;
    let text = fs::read_to_string(folder().join("base/ipamd.toml"))?;
    fs::write(work.path().join("ipamd.toml"), text.clone() + "mtu = 1400\n")?;
    let after = built(&overlay)?.context("built before")?;
    let name = |objects: &[Value]| Ok::<_, anyhow::Error>(parts(objects)?.1.metadata.name);
    ensure!(name(&before)? != name(&after)?, "the ConfigMap has the same name");
    let (set, map) = parts(&after)?;
    let flags = pod(&set)?.containers.into_iter().next().and_then(|it| it.args).context("flags")?;
    ensure!(is_taken(&map, &flags)?.mtu == Some(1400) && flags.contains(&"--routing=vxlan".to_owned()));
    Ok(())
}

#[test]
fn the_chained_configuration_is_the_bases_behind_another_plugin() -> Result<()> {
    let read = |name: &str| fs::read_to_string(folder().join(name));
    let conflist: Value = serde_json::from_str(&read("chained/chained.conflist")?)?;
    let types: Vec<_> =
        conflist["plugins"].as_array().context("plugins")?.iter().map(|it| it["type"].as_str()).collect();
    ensure!(types == [Some("flannel"), Some("cambric")], "{types:?}");
    let keys = |text: &str| {
        let is_key = |line: &&str| line.starts_with(|it: char| it.is_ascii_lowercase());
        text.lines().filter(is_key).map(str::to_owned).collect::<Vec<_>>()
    };
    let mut chained = keys(&read("chained/ipamd.toml")?);
    chained.retain(|line| !line.starts_with("chained ") && !line.starts_with("cni-conflist "));
    ensure!(chained == keys(&read("base/ipamd.toml")?), "{chained:?}");
    Ok(())
}
