//! The plugins of a network, called as runtimes call them.

use std::{
    fs, io,
    io::Write as _,
    net::IpAddr,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::{Map, Value, json};

use ipamd_config::cni_files::PLUGIN;

/// Interface that a container gets.
const IFNAME: &str = "eth0";
/// What names of configurations end in.
const EXTENSIONS: [&str; 3] = ["conflist", "conf", "json"];

/// Why a network cannot be used.
#[derive(Debug, thiserror::Error)]
pub(in crate::connectivity) enum ChainError {
    #[error(
        "cannot read {}: {source}; --conf-dir names the directory of network configurations",
        path.display()
    )]
    File { path: PathBuf, source: io::Error },
    #[error("{} is no network configuration: {why}", path.display())]
    Configuration { path: PathBuf, why: String },
    #[error(
        "no network configuration in {} names the plugin {PLUGIN}; is Cambric installed here? --conf-dir names another folder",
        path.display()
    )]
    None { path: PathBuf },
    #[error("no network in {} is called {name:?}", path.display())]
    Unknown { path: PathBuf, name: String },
    #[error("the plugin {name} is not in {folders}; --bin-dir names another folder")]
    Plugin { name: String, folders: String },
    #[error("cannot run the plugin {name}: {source}")]
    Run { name: String, source: io::Error },
    #[error("{command} of the plugin {name} failed: {why}")]
    Failed { command: &'static str, name: String, why: String },
}

/// A container to be.
#[derive(Clone, Debug)]
pub(in crate::connectivity) struct Container {
    pub id: String,
    pub netns: PathBuf,
    /// The pod that it is said to be, by namespace and name.
    pub pod: (String, String),
    pub labels: Vec<(String, String)>,
    /// Ports of the node that lead to ports of the container.
    pub ports: Vec<(u16, u16)>,
}

/// A network: plugins in their order.
#[derive(Clone, Debug)]
pub(in crate::connectivity) struct Network {
    name: String,
    version: Value,
    plugins: Vec<Map<String, Value>>,
    folders: Vec<PathBuf>,
}

impl Network {
    /// The network of that name in a folder of configurations; without a name, the first one that Cambric is part of.
    pub fn find(conf_dir: &Path, folders: &[PathBuf], name: Option<&str>) -> Result<Self, ChainError> {
        let unreadable = |source| ChainError::File { path: conf_dir.into(), source };
        let mut files = Vec::new();
        for entry in fs::read_dir(conf_dir).map_err(unreadable)? {
            let path = entry.map_err(unreadable)?.path();
            if path.extension().is_some_and(|it| EXTENSIONS.iter().any(|known| it == *known)) {
                files.push(path);
            }
        }
        files.sort();
        for path in files {
            let text = fs::read_to_string(&path)
                .map_err(|source| ChainError::File { path: path.clone(), source })?;
            let network = Self::read(&text, folders.to_vec())
                .map_err(|why| ChainError::Configuration { path: path.clone(), why })?;
            let is_it = match name {
                Some(name) => network.name == name,
                None => network.has(|plugin| plugin["type"] == PLUGIN),
            };
            if is_it {
                return Ok(network);
            }
        }
        let path = conf_dir.to_owned();
        Err(match name {
            Some(name) => ChainError::Unknown { path, name: name.into() },
            None => ChainError::None { path },
        })
    }

    fn read(text: &str, folders: Vec<PathBuf>) -> Result<Self, String> {
        let read: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let plugins = match &read["plugins"] {
            Value::Array(plugins) => plugins.clone(),
            // A configuration of one plugin.
            _ => vec![read.clone()],
        };
        let plugins = plugins.into_iter().map(|plugin| match plugin {
            Value::Object(plugin) if plugin.get("type").is_some_and(Value::is_string) => Ok(plugin),
            _ => Err("a plugin has no type"),
        });
        Ok(Self {
            name: read["name"].as_str().ok_or("it has no name")?.to_owned(),
            version: read.get("cniVersion").cloned().unwrap_or_else(|| json!("0.2.0")),
            plugins: plugins.collect::<Result<_, _>>()?,
            folders,
        })
    }

    fn has(&self, is_it: impl Fn(&Map<String, Value>) -> bool) -> bool {
        self.plugins.iter().any(is_it)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether one of its plugins has containers meet ports of the node.
    pub fn maps_ports(&self) -> bool {
        self.has(|plugin| capable(plugin, "portMappings"))
    }

    /// ADD: the container's addresses, and the result for DEL.
    pub fn add(&self, container: &Container) -> Result<(Vec<IpAddr>, Value), ChainError> {
        let mut result = Value::Null;
        for plugin in &self.plugins {
            result = self.call("ADD", plugin, container, &result)?;
        }
        let addresses = result["ips"].as_array().into_iter().flatten();
        let address = |ip: &Value| ip["address"].as_str()?.split('/').next()?.parse().ok();
        Ok((addresses.filter_map(address).collect(), result))
    }

    /// DEL: all plugins are called, the last one first, whatever becomes of the others. What failed is told.
    pub fn del(&self, container: &Container, result: &Value) -> Vec<ChainError> {
        let plugins = self.plugins.iter().rev();
        plugins.filter_map(|plugin| self.call("DEL", plugin, container, result).err()).collect()
    }

    /// The configuration that a plugin gets.
    fn configuration(&self, plugin: &Map<String, Value>, container: &Container, result: &Value) -> Value {
        let mut config = plugin.clone();
        config.insert("name".into(), json!(self.name));
        config.insert("cniVersion".into(), self.version.clone());
        if !result.is_null() {
            config.insert("prevResult".into(), result.clone());
        }
        if capable(plugin, "portMappings") && !container.ports.is_empty() {
            let mapping = |(host, inside): &(u16, u16), protocol: &str| json!({"hostPort": host, "containerPort": inside, "protocol": protocol});
            let mappings: Vec<_> = container
                .ports
                .iter()
                .flat_map(|ports| ["tcp", "udp"].map(|protocol| mapping(ports, protocol)))
                .collect();
            config.insert("runtimeConfig".into(), json!({"portMappings": mappings}));
        }
        if config["type"] == PLUGIN {
            let labels = container.labels.iter().map(|(key, value)| json!({"key": key, "value": value}));
            config.insert("args".into(), json!({"cni": {"labels": labels.collect::<Vec<_>>()}}));
        }
        config.into()
    }

    fn call(
        &self,
        command: &'static str,
        plugin: &Map<String, Value>,
        container: &Container,
        result: &Value,
    ) -> Result<Value, ChainError> {
        let name = plugin["type"].as_str().unwrap_or_default().to_owned();
        let path = std::env::join_paths(&self.folders).unwrap_or_default();
        let found = self.folders.iter().map(|folder| folder.join(&name)).find(|path| path.exists());
        let Some(program) = found else {
            return Err(ChainError::Plugin { name, folders: path.to_string_lossy().into_owned() });
        };
        let (namespace, pod) = &container.pod;
        let mut process = Command::new(program);
        // A group of its own: Ctrl-C is for us, who see to it that what was begun is taken back.
        process.process_group(0).env("CNI_COMMAND", command).env("CNI_CONTAINERID", &container.id);
        process.env("CNI_NETNS", &container.netns).env("CNI_IFNAME", IFNAME).env("CNI_PATH", path);
        process.env("CNI_ARGS", format!("IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={pod}"));
        process.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let config = self.configuration(plugin, container, result).to_string();
        let mut run = || {
            let mut child = process.spawn()?;
            if let Some(mut stdin) = child.stdin.take() {
                // One that ends before it has read all says why.
                let _ = stdin.write_all(config.as_bytes());
            }
            child.wait_with_output()
        };
        let out = run().map_err(|source| ChainError::Run { name: name.clone(), source })?;
        let printed: Value = serde_json::from_slice(&out.stdout).unwrap_or_default();
        if out.status.success() {
            return Ok(printed);
        }
        let text = |key: &str| printed[key].as_str().unwrap_or_default().to_owned();
        let mut why = [text("msg"), text("details")].join(" ").trim().to_owned();
        if why.is_empty() {
            why = format!("{}: {}", out.status, String::from_utf8_lossy(&out.stderr).trim());
        }
        Err(ChainError::Failed { command, name, why })
    }
}

fn capable(plugin: &Map<String, Value>, of: &str) -> bool {
    plugin.get("capabilities").is_some_and(|them| them[of] == true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container() -> Container {
        Container {
            id: "c".into(),
            netns: "/run/netns/c".into(),
            pod: ("ns".into(), "server-0".into()),
            labels: vec![("role".into(), "server".into())],
            ports: vec![(24681, 8080)],
        }
    }

    #[test]
    fn the_first_network_of_cambric_is_taken_or_the_one_that_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let put = |file: &str, name: &str, kind: &str| {
            let text = json!({"cniVersion": "1.0.0", "name": name, "plugins": [{"type": kind}]}).to_string();
            fs::write(folder.path().join(file), text).unwrap();
        };
        let find = |name: Option<&str>| Network::find(folder.path(), &[], name).map(|it| it.name);
        assert!(matches!(find(None), Err(ChainError::None { .. })));
        put("20-b.conflist", "b", "cambric");
        put("10-a.conflist", "a", "bridge");
        put("00-c.conflist.bak", "c", "cambric");
        assert_eq!(find(None).unwrap(), "b");
        assert_eq!(find(Some("a")).unwrap(), "a");
        assert!(matches!(find(Some("c")), Err(ChainError::Unknown { .. })));
        fs::write(folder.path().join("05-x.conf"), "{").unwrap();
        assert!(matches!(find(None), Err(ChainError::Configuration { .. })));
    }

    #[test]
    fn each_plugin_gets_what_it_is_capable_of() {
        let text = json!({"cniVersion": "1.0.0", "name": "n", "plugins": [
            {"type": "cambric"}, {"type": "portmap", "capabilities": {"portMappings": true}},
        ]});
        let network = Network::read(&text.to_string(), Vec::new()).unwrap();
        assert!(network.maps_ports());
        let config =
            |at: usize| network.configuration(&network.plugins[at], &container(), &json!({"ips": []}));
        let (first, second) = (config(0), config(1));
        assert_eq!(first["args"]["cni"]["labels"], json!([{"key": "role", "value": "server"}]));
        assert!(first.get("runtimeConfig").is_none() && second.get("args").is_none());
        assert_eq!(second["runtimeConfig"]["portMappings"][1]["protocol"], "udp");
        assert_eq!(second["prevResult"], json!({"ips": []}));
        assert_eq!((&first["name"], &first["cniVersion"]), (&json!("n"), &json!("1.0.0")));
    }
}
