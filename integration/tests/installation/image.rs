//! The image: static binaries, the licence, and always the same for the same.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

const BINARIES: [&str; 3] = ["cambric", "cambric-ipamd", "cambricctl"];

/// Has the compiler make stand-ins for the binaries.
fn binaries(folder: &Path, flags: &[&str]) -> Result<()> {
    let source = folder.join("main.c");
    fs::write(&source, "int main(void) { return 0; }\n")?;
    let binary = folder.join(BINARIES[0]);
    let status = Command::new("cc").args(flags).arg("-o").arg(&binary).arg(source).status()?;
    ensure!(status.success(), "cc: {status}");
    for name in &BINARIES[1..] {
        fs::copy(&binary, folder.join(name))?;
    }
    Ok(())
}

fn image(binaries: &Path, archive: &Path, more: &[&str]) -> Result<Output> {
    let mut image = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/image"));
    Ok(image.arg("--binaries").arg(binaries).arg("--output").arg(archive).args(more).output()?)
}

fn made(binaries: &Path, archive: &Path, more: &[&str]) -> Result<Vec<u8>> {
    let out = image(binaries, archive, more)?;
    ensure!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    Ok(fs::read(archive)?)
}

fn tar(args: &[&str], archive: &Path) -> Result<String> {
    let out = Command::new("tar").args(args).arg("-f").arg(archive).output()?;
    ensure!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    Ok(String::from_utf8(out.stdout)?)
}

#[test]
fn the_same_binaries_make_the_same_image() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let [one, other] = ["one", "other"].map(|name| folder.path().join(name));
    fs::create_dir(&one)?;
    fs::create_dir(&other)?;
    binaries(&one, &["-static", "-s"])?;
    for name in BINARIES {
        // Of another time, and with other permissions.
        fs::copy(one.join(name), other.join(name))?;
        fs::set_permissions(other.join(name), fs::Permissions::from_mode(0o700))?;
        let old = Command::new("touch").args(["-d", "2001-01-01"]).arg(other.join(name)).status()?;
        ensure!(old.success());
    }
    let archive = folder.path().join("image.tar");
    let first = made(&one, &archive, &[])?;
    ensure!(first == made(&other, &archive, &[])?, "the same binaries make two images");
    fs::write(other.join("cambric"), [fs::read(other.join("cambric"))?, vec![0]].concat())?;
    ensure!(first != made(&other, &archive, &[])?, "a binary does not count");
    Ok(())
}

#[test]
fn an_image_says_what_it_is_and_holds_nothing_else() -> Result<()> {
    let folder = tempfile::tempdir()?;
    binaries(folder.path(), &["-static", "-s"])?;
    let archive = folder.path().join("image.tar");
    made(folder.path(), &archive, &["--name", "registry.example/net/cambric:2", "--compress", "1"])?;
    let content = folder.path().join("content");
    fs::create_dir(&content)?;
    tar(&["-x", "-C", &content.display().to_string()], &archive)?;
    let blob = |descriptor: &Value| -> Result<PathBuf> {
        let digest = descriptor["digest"].as_str().context("a digest")?;
        let path = content.join("blobs").join(digest.replace(':', "/"));
        ensure!(descriptor["size"] == fs::metadata(&path)?.len(), "{descriptor}");
        let sum = Command::new("sha256sum").arg(&path).output()?;
        ensure!(digest.ends_with(String::from_utf8_lossy(&sum.stdout).split(' ').next().context("a sum")?));
        Ok(path)
    };
    let json = |path: PathBuf| -> Result<Value> { Ok(serde_json::from_slice(&fs::read(path)?)?) };
    ensure!(json(content.join("oci-layout"))?["imageLayoutVersion"] == "1.0.0");
    let index = json(content.join("index.json"))?;
    let annotations = &index["manifests"][0]["annotations"];
    ensure!(annotations["io.containerd.image.name"] == "registry.example/net/cambric:2", "{index}");
    ensure!(annotations["org.opencontainers.image.ref.name"] == "2", "{index}");
    let manifest = json(blob(&index["manifests"][0])?)?;
    let config = json(blob(&manifest["config"])?)?;
    ensure!(config["config"]["Entrypoint"][0] == "/usr/local/bin/cambric-ipamd", "{config}");
    ensure!(config["config"]["Labels"]["org.opencontainers.image.licenses"] == "Apache-2.0", "{config}");

    let layer = blob(&manifest["layers"][0])?;
    let listing = tar(&["-tvz", "--numeric-owner"], &layer)?;
    ensure!(listing.lines().all(|line| line.contains(" 0/0 ")), "somebody else's:\n{listing}");
    let mut files: Vec<_> = listing
        .lines()
        .filter(|line| line.starts_with('-'))
        .filter_map(|line| line.split_whitespace().last()?.strip_prefix("./"))
        .collect();
    files.sort_unstable();
    let expected =
        ["LICENSE", "usr/local/bin/cambric", "usr/local/bin/cambric-ipamd", "usr/local/bin/cambricctl"];
    ensure!(files == expected, "{files:?}");
    Ok(())
}

#[test]
fn a_binary_that_needs_libraries_is_refused() -> Result<()> {
    let folder = tempfile::tempdir()?;
    binaries(folder.path(), &[])?;
    let archive = folder.path().join("image.tar");
    let refused = image(folder.path(), &archive, &[])?;
    ensure!(!refused.status.success() && !archive.exists());
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(said.contains("cambric is not static"), "{said}");
    Ok(())
}
