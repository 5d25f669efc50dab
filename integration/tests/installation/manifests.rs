//! The manifests are what an API server takes, and fit each other.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use integration::manifests::{find, folder, read};
use ipamd_config::Locations;
use k8s_openapi::{
    api::{
        apps::v1::DaemonSet,
        core::v1::{ConfigMap, Container, PodSpec, ServiceAccount},
        rbac::v1::{ClusterRole, ClusterRoleBinding},
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

const SETS: [&str; 2] = ["cambric.yaml", "uninstall.yaml"];

/// All manifests, by their paths below the folder.
fn all() -> Result<Vec<String>> {
    fn look(path: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
        for entry in fs::read_dir(path)? {
            let path = entry?.path();
            if path.is_dir() {
                look(&path, found)?;
            } else if path.extension().is_some_and(|it| it == "yaml") {
                // The guide lies beside them.
                found.push(path);
            }
        }
        Ok(())
    }
    let (folder, mut found) = (folder(), Vec::new());
    look(&folder, &mut found)?;
    found.iter().map(|path| Ok(path.strip_prefix(&folder)?.display().to_string())).collect()
}

/// What the API makes of an object: fields that it does not know are not in it.
fn as_the_api_reads(object: &Value) -> Result<Value> {
    fn through<T: DeserializeOwned + Serialize>(object: &Value) -> Result<Value> {
        Ok(serde_json::to_value(serde_json::from_value::<T>(object.clone())?)?)
    }
    match object["kind"].as_str() {
        Some("ClusterRole") => through::<ClusterRole>(object),
        Some("ClusterRoleBinding") => through::<ClusterRoleBinding>(object),
        Some("ConfigMap") => through::<ConfigMap>(object),
        Some("CustomResourceDefinition") => through::<CustomResourceDefinition>(object),
        Some("DaemonSet") => through::<DaemonSet>(object),
        Some("ServiceAccount") => through::<ServiceAccount>(object),
        other => bail!("objects of the kind {other:?} are not among those that are installed"),
    }
}

/// The same with every number as a fraction, as some types of the API have them.
fn numbers_alike(value: &Value) -> Value {
    match value {
        Value::Number(number) => number.as_f64().into(),
        Value::Array(items) => items.iter().map(numbers_alike).collect(),
        Value::Object(fields) => fields.iter().map(|(key, it)| (key.clone(), numbers_alike(it))).collect(),
        other => other.clone(),
    }
}

#[test]
fn every_field_is_one_of_the_api() -> Result<()> {
    for file in all()?.iter().filter(|file| !file.ends_with("kustomization.yaml")) {
        for object in read(file)? {
            let read = as_the_api_reads(&object).with_context(|| file.clone())?;
            ensure!(
                numbers_alike(&read) == numbers_alike(&object),
                "{file}: of\n{object:#}\nthe API reads\n{read:#}"
            );
        }
    }
    Ok(())
}

#[test]
fn kustomizations_name_all_that_is_installed() -> Result<()> {
    let mut named = BTreeSet::from([SETS[1].to_owned()]);
    let mut left = vec![PathBuf::new()];
    while let Some(base) = left.pop() {
        let file = base.join("kustomization.yaml").display().to_string();
        named.insert(file.clone());
        let kustomization = read(&file)?.pop().context("a document")?;
        ensure!(
            kustomization["apiVersion"] == "kustomize.config.k8s.io/v1beta1"
                && kustomization["kind"] == "Kustomization",
            "{file}"
        );
        for resource in kustomization["resources"].as_array().context("resources")? {
            let path = base.join(resource.as_str().context("a path")?);
            if folder().join(&path).is_dir() {
                left.push(path);
            } else {
                named.insert(path.display().to_string());
            }
        }
    }
    ensure!(named == all()?.into_iter().collect(), "{named:?} are named, there are {:?}", all()?);
    Ok(())
}

#[test]
fn the_daemon_understands_its_configuration_and_each_line_that_is_commented_out() -> Result<()> {
    let map: ConfigMap = find(SETS[0], "ConfigMap")?;
    let text = map.data.context("data")?.remove("ipamd.toml").context("ipamd.toml")?;
    let is_key = |line: &str| line.starts_with(|it: char| it.is_ascii_lowercase());
    let whole: String = text
        .lines()
        .map(|line| line.strip_prefix('#').filter(|it| is_key(it)).unwrap_or(line))
        .fold(String::new(), |mut whole, line| {
            whole.push_str(line);
            whole.push('\n');
            whole
        });
    ensure!(
        whole.lines().filter(|line| is_key(line)).count() > text.lines().filter(|line| is_key(line)).count()
    );
    let file = tempfile::NamedTempFile::new()?;
    for text in [&text, &whole] {
        fs::write(file.path(), text)?;
        let places = Locations::load(Some(file.path()))?;
        for set in SETS {
            are_mounted(&places, set)?;
        }
    }
    Ok(())
}

/// Whether the containers find at those places what the node has at the same, or below the root that is told.
fn are_mounted(places: &Locations, set: &str) -> Result<()> {
    let pod = pod(set)?;
    let on_node = |path: &Path| -> Result<PathBuf> {
        let mounts = pod.containers[0].volume_mounts.iter().flatten();
        let mount = mounts.filter(|it| path.starts_with(&it.mount_path)).max_by_key(|it| it.mount_path.len());
        let mount = mount.with_context(|| format!("{set} mounts nothing at {}", path.display()))?;
        let volume = pod.volumes.iter().flatten().find(|it| it.name == mount.name).context("its volume")?;
        let source = volume.host_path.as_ref().context("a path of the node")?;
        Ok(Path::new(&source.path).join(path.strip_prefix(&mount.mount_path)?))
    };
    let same = [&places.state_dir, &places.socket]
        .into_iter()
        .chain(&places.cni.conf_dir)
        .chain(&places.cni.bin_dir);
    for path in same {
        ensure!(on_node(path)? == *path, "{set}: {}", path.display());
    }
    // By which the plugin names them.
    ensure!(
        on_node(Path::new("/run/netns/pod"))? == Path::new("/run/netns/pod"),
        "{set}: namespaces of pods"
    );
    for path in ["proc/sys/net", "sys/fs/bpf"] {
        ensure!(on_node(&places.host_root.join(path))? == Path::new("/").join(path), "{set}: {path}");
    }
    Ok(())
}

fn pod(file: &str) -> Result<PodSpec> {
    let set: DaemonSet = find(file, "DaemonSet")?;
    set.spec.template.spec.context("a pod")
}

fn containers(pod: &PodSpec) -> impl Iterator<Item = &Container> {
    pod.init_containers.iter().flatten().chain(&pod.containers)
}

#[test]
fn pods_fit_their_sets_and_volumes_and_have_no_more_than_they_name() -> Result<()> {
    let image = format!("localhost/cambric:{}", env!("CARGO_PKG_VERSION"));
    for file in SETS {
        let set: DaemonSet = find(file, "DaemonSet")?;
        let labels = set.spec.template.metadata.as_ref().and_then(|it| it.labels.clone());
        ensure!(set.spec.selector.match_labels == labels, "{file} selects other pods than its own");
        let pod = pod(file)?;
        let volumes: BTreeSet<_> = pod.volumes.iter().flatten().map(|it| &it.name).collect();
        let mounted: BTreeSet<_> =
            containers(&pod).flat_map(|it| it.volume_mounts.iter().flatten()).map(|it| &it.name).collect();
        ensure!(volumes == mounted, "{file}: {volumes:?}, mounted are {mounted:?}");
        for container in containers(&pod) {
            ensure!(container.image.as_ref() == Some(&image), "{file}: {:?}", container.image);
            let context = container.security_context.as_ref().context("a security context")?;
            let dropped = context.capabilities.as_ref().and_then(|it| it.drop.clone());
            ensure!(dropped == Some(vec!["ALL".to_owned()]), "{file}: {context:?}");
            ensure!(context.privileged != Some(true) && context.read_only_root_filesystem == Some(true));
        }
    }
    Ok(())
}

#[test]
fn the_role_is_bound_to_the_account_of_the_daemon() -> Result<()> {
    let binding: ClusterRoleBinding = find(SETS[0], "ClusterRoleBinding")?;
    let role: ClusterRole = find(SETS[0], "ClusterRole")?;
    let account: ServiceAccount = find(SETS[0], "ServiceAccount")?;
    ensure!(Some(&binding.role_ref.name) == role.metadata.name.as_ref());
    let [subject] = &binding.subjects.unwrap_or_default()[..] else { bail!("one subject") };
    ensure!(subject.kind == "ServiceAccount" && Some(&subject.name) == account.metadata.name.as_ref());
    ensure!(subject.namespace == account.metadata.namespace);
    let set: DaemonSet = find(SETS[0], "DaemonSet")?;
    ensure!(set.metadata.namespace == account.metadata.namespace);
    ensure!(pod(SETS[0])?.service_account_name == account.metadata.name);
    Ok(())
}
