//! Where the programs under test are.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use anyhow::{Context, Result, ensure};

/// The folder with the programs under test, and that of Debian's plugins.
#[derive(Clone, Debug)]
pub struct Binaries {
    folder: PathBuf,
}

impl Binaries {
    /// Those that `CAMBRIC_BIN_DIR` names; otherwise those of the build that this test is of, made if need be.
    pub fn find() -> Result<Self> {
        static FOUND: OnceLock<Result<Binaries, String>> = OnceLock::new();
        let found = FOUND.get_or_init(|| Self::look().map_err(|error| format!("{error:#}")));
        found.clone().map_err(anyhow::Error::msg)
    }

    /// Those of another version, in a folder.
    pub fn in_folder(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    fn look() -> Result<Self> {
        if let Some(folder) = env::var_os("CAMBRIC_BIN_DIR") {
            return Ok(Self::in_folder(folder));
        }
        // <target>/<triple>/<profile>/deps/<test>
        let test = env::current_exe()?;
        let folder = test.ancestors().nth(2).context("the folder of the build")?.to_owned();
        let target = folder.ancestors().nth(2).context("the target folder")?;
        let mut build = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        build.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).arg("build").arg("--quiet");
        build.args(["--workspace", "--bins", "--target-dir"]).arg(target);
        // What cargo tells this test of its own package would make build scripts run anew that look at it, and with them
        // everything that depends on theirs.
        for (name, _) in env::vars_os() {
            if name
                .to_str()
                .is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_"))
            {
                build.env_remove(name);
            }
        }
        if folder.ends_with("release") {
            build.arg("--release");
        }
        ensure!(build.status()?.success(), "building cambric, cambric-ipamd and cambricctl failed");
        Ok(Self { folder })
    }

    /// The CNI plugin.
    pub fn plugin(&self) -> PathBuf {
        self.folder.join("cambric")
    }

    /// The daemon.
    pub fn daemon(&self) -> PathBuf {
        self.folder.join("cambric-ipamd")
    }

    /// The client.
    pub fn ctl(&self) -> PathBuf {
        self.folder.join("cambricctl")
    }

    /// The folders that a runtime looks for plugins in, as in `CNI_PATH`.
    pub fn cni_path(&self) -> String {
        format!("{}:{}", self.folder.display(), Self::others().display())
    }

    /// The plugins of the distribution.
    pub fn others() -> &'static Path {
        Path::new("/usr/lib/cni")
    }
}
