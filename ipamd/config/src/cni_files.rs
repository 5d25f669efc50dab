//! The files that container runtimes read: the plugin, and the network configuration that names it.
//!
//! A kubelet takes its node for ready when there is a configuration. So it is written when the daemon can serve, after
//! the plugin. Both are replaced atomically.

use std::{
    ffi::OsStr,
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use ipamd_runtime::atomic_file;

/// Name of the configuration's file. Runtimes take the first by name.
pub const CONFLIST: &str = "10-cambric.conflist";
/// Name of the plugin: the type that configurations give.
pub const PLUGIN: &str = "cambric";

/// The network configuration with Cambric alone.
const ALONE: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../conf/10-cambric.conflist"));

/// Where things are put.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CniFiles {
    /// Where runtimes look for network configurations. Without it none is written.
    pub conf_dir: Option<PathBuf>,
    /// Where they look for plugins. Without it the plugin must be there already.
    pub bin_dir: Option<PathBuf>,
    /// The configuration to write, if not that of Cambric alone.
    pub conflist: Option<PathBuf>,
    /// The daemon's socket, which a configuration names unless it is the customary one.
    pub socket: PathBuf,
}

/// Something could not be put in its place.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CniFilesError {
    /// A file could not be read or written.
    #[error("cannot {what} {}: {source}", path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// There is no plugin to put there, and none that stands there.
    #[error(
        "cni-bin-dir is {}, but there is no plugin: neither {} nor one in that directory; put it there, or leave the key out",
        bin_dir.display(), plugin.display()
    )]
    NoPlugin {
        /// Where it is to be.
        bin_dir: PathBuf,
        /// Where it was looked for.
        plugin: PathBuf,
    },
    /// The configuration to write is none.
    #[error("cni-conflist: {} is no network configuration: {reason}", path.display())]
    Configuration {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

impl CniFiles {
    /// Whether there is what is to be put in place; nothing is touched.
    ///
    /// # Errors
    /// What is missing, or is not what it should be.
    pub fn check(&self) -> Result<(), CniFilesError> {
        self.configuration()?;
        self.plugin().map(drop)
    }

    /// Puts the plugin and then the configuration in place, over older ones.
    ///
    /// # Errors
    /// What could not be put there. What stood there before still does.
    pub fn install(&self) -> Result<(), CniFilesError> {
        let configuration = self.configuration()?;
        if let (Some(dir), Some(plugin)) = (&self.bin_dir, self.plugin()?) {
            let content = fs::read(&plugin).map_err(failed("read", &plugin))?;
            put(dir, PLUGIN, &content, 0o755)?;
        }
        if let Some(dir) = &self.conf_dir {
            put(dir, CONFLIST, configuration.as_bytes(), 0o644)?;
            if let Some(first) = earlier(dir) {
                tracing::warn!(
                    file = %dir.join(&first).display(),
                    "runtimes take this network configuration instead of Cambric's, because its name sorts first; remove it"
                );
            }
        }
        Ok(())
    }

    /// Takes the configuration away, so that nobody is told that this node has a network.
    ///
    /// # Errors
    /// It is still there.
    pub fn withdraw(&self) -> Result<(), CniFilesError> {
        match self.conf_dir.as_ref().map(|dir| dir.join(CONFLIST)) {
            Some(path) => remove(&path),
            None => Ok(()),
        }
    }

    /// What is installed, in the order in which to remove it.
    pub fn paths(&self) -> impl Iterator<Item = PathBuf> {
        let configuration = self.conf_dir.iter().map(|dir| dir.join(CONFLIST));
        configuration.chain(self.bin_dir.iter().map(|dir| dir.join(PLUGIN)))
    }

    /// The plugin to put in place: the one beside this daemon's binary. None if it stands there already, as after
    /// scripts/install, which keeps the two apart.
    fn plugin(&self) -> Result<Option<PathBuf>, CniFilesError> {
        let Some(dir) = &self.bin_dir else { return Ok(None) };
        let plugin = plugin_of_this_daemon()?;
        match (plugin.exists(), dir.join(PLUGIN).exists()) {
            (true, _) => Ok(Some(plugin)),
            (false, true) => Ok(None),
            (false, false) => Err(CniFilesError::NoPlugin { bin_dir: dir.clone(), plugin }),
        }
    }

    /// The configuration to write.
    fn configuration(&self) -> Result<String, CniFilesError> {
        let Some(path) = &self.conflist else { return Ok(with_socket(ALONE, &self.socket)) };
        let text = fs::read_to_string(path).map_err(failed("read cni-conflist", path))?;
        match check(&text) {
            Ok(()) => Ok(text),
            Err(reason) => Err(CniFilesError::Configuration { path: path.clone(), reason }),
        }
    }
}

/// The plugin that came with this daemon: the binary beside its own.
fn plugin_of_this_daemon() -> Result<PathBuf, CniFilesError> {
    let own = std::env::current_exe().map_err(failed("find", Path::new("/proc/self/exe")))?;
    Ok(own.with_file_name(PLUGIN))
}

/// Whether that is a list of plugins of which one is Cambric's.
fn check(text: &str) -> Result<(), String> {
    let list: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let plugins = list["plugins"].as_array().ok_or("it has no list \"plugins\"")?;
    if !list["name"].is_string() || !list["cniVersion"].is_string() {
        return Err("it lacks \"name\" or \"cniVersion\"".into());
    }
    if plugins.iter().any(|plugin| plugin["type"] == PLUGIN) {
        Ok(())
    } else {
        Err(format!("none of its plugins has the type {PLUGIN:?}"))
    }
}

/// The configuration, with the socket named in it if it is not the customary one.
fn with_socket(text: &str, socket: &Path) -> String {
    let mut list: Value = serde_json::from_str(text).unwrap_or_default();
    if socket == Path::new(ipamd_api::DEFAULT_SOCKET) {
        return text.to_owned();
    }
    if let Some(plugin) = list["plugins"].as_array_mut().and_then(|plugins| plugins.first_mut()) {
        plugin["socket"] = json!(socket);
    }
    format!("{list:#}\n")
}

/// Puts a file in a directory as a whole, unless it is there.
fn put(dir: &Path, name: &str, content: &[u8], mode: u32) -> Result<(), CniFilesError> {
    let path = dir.join(name);
    let same_mode = |path: &Path| fs::metadata(path).is_ok_and(|it| it.permissions().mode() & 0o777 == mode);
    if same_mode(&path) && fs::read(&path).is_ok_and(|there| there == content) {
        return Ok(());
    }
    fs::create_dir_all(dir).map_err(failed("make", dir))?;
    // Runtimes read whatever ends in .conf, .conflist or .json, so this does not.
    let new = dir.join(format!(".{name}.new"));
    let written = atomic_file::replace(&path, &new, content, mode);
    written.map_err(failed("write", &path))?;
    tracing::info!(file = %path.display(), "written");
    Ok(())
}

fn remove(path: &Path) -> Result<(), CniFilesError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(error)),
        _ => Ok(()),
    }
}

/// The configuration that runtimes take before Cambric's, if there is one.
fn earlier(dir: &Path) -> Option<String> {
    let names = fs::read_dir(dir).ok()?.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let configurations = names.filter(|name| {
        let extension = Path::new(name).extension().and_then(OsStr::to_str);
        matches!(extension, Some("conf" | "conflist" | "json"))
    });
    configurations.min().filter(|first| first.as_str() < CONFLIST)
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CniFilesError {
    let path = path.to_owned();
    move |source| CniFilesError::File { what, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(dir: &Path) -> CniFiles {
        CniFiles {
            conf_dir: Some(dir.join("net.d")),
            bin_dir: None,
            conflist: None,
            socket: ipamd_api::DEFAULT_SOCKET.into(),
        }
    }

    #[test]
    fn a_configuration_is_written_whole_over_an_older_one_and_taken_away() {
        let dir = tempfile::tempdir().unwrap();
        let files = files(dir.path());
        files.withdraw().unwrap();
        files.install().unwrap();
        let path = dir.path().join("net.d").join(CONFLIST);
        assert_eq!(fs::read_to_string(&path).unwrap(), ALONE);
        fs::write(&path, "{}").unwrap();
        files.install().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), ALONE);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
        assert_eq!(fs::read_dir(dir.path().join("net.d")).unwrap().count(), 1);
        files.withdraw().unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn another_socket_is_named() {
        let configuration: Value = serde_json::from_str(&with_socket(ALONE, Path::new("/s"))).unwrap();
        assert_eq!(configuration["plugins"][0]["socket"], "/s");
        assert_eq!(configuration["plugins"][0]["type"], PLUGIN);
        check(ALONE).unwrap();
    }

    #[test]
    fn what_is_no_configuration_is_not_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mine");
        let files = CniFiles { conflist: Some(path.clone()), ..files(dir.path()) };
        for (text, reason) in [
            ("{", "EOF"),
            ("{}", "no list \"plugins\""),
            (r#"{"plugins": []}"#, "lacks \"name\""),
            (
                r#"{"name": "n", "cniVersion": "1.0.0", "plugins": [{"type": "bridge"}]}"#,
                "none of its plugins",
            ),
        ] {
            fs::write(&path, text).unwrap();
            let error = files.install().unwrap_err().to_string();
            assert!(error.contains(reason) && error.contains("mine is no network configuration"), "{error}");
        }
        assert!(!dir.path().join("net.d").exists());
        let chained = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../conf/chained.conflist"));
        fs::write(&path, chained).unwrap();
        files.install().unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("net.d").join(CONFLIST)).unwrap(), chained);
    }

    #[test]
    fn a_plugin_that_stands_there_is_enough_and_none_is_said_with_its_key() {
        let dir = tempfile::tempdir().unwrap();
        let files = CniFiles { bin_dir: Some(dir.path().join("bin")), ..files(dir.path()) };
        // No plugin is beside the binary of the tests.
        let error = files.check().unwrap_err().to_string();
        assert!(error.starts_with("cni-bin-dir is ") && error.contains("leave the key out"), "{error}");
        fs::create_dir(dir.path().join("bin")).unwrap();
        fs::write(dir.path().join("bin").join(PLUGIN), "mine").unwrap();
        files.check().unwrap();
        files.install().unwrap();
        assert_eq!(fs::read(dir.path().join("bin").join(PLUGIN)).unwrap(), b"mine");
        let files = CniFiles { conflist: Some(dir.path().join("none")), ..files };
        let error = files.check().unwrap_err().to_string();
        assert!(error.contains("cni-conflist") && error.contains("none"), "{error}");
    }

    #[test]
    fn a_configuration_that_comes_first_is_found() {
        let dir = tempfile::tempdir().unwrap();
        for other in ["10-cambric.conflist", "87-podman.conflist", "00-notes.txt", ".5-x.conf.new"] {
            fs::write(dir.path().join(other), "").unwrap();
        }
        assert_eq!(earlier(dir.path()), None);
        fs::write(dir.path().join("10-calico.conflist"), "").unwrap();
        assert_eq!(earlier(dir.path()), Some("10-calico.conflist".into()));
    }
}
