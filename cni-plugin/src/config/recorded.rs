//! What runtimes really sent (`tests/recordings`), as it is read.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use super::go;
use crate::{environment::Command, invocation::Invocation};

/// A recorded call.
#[derive(serde::Deserialize)]
struct Recording {
    plugin: String,
    environment: BTreeMap<String, String>,
    stdin: String,
}

/// Every recorded call, by the path of its file.
fn recordings() -> Vec<(PathBuf, Recording)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recordings");
    let programs =
        fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir());
    let files =
        programs.flat_map(|program| fs::read_dir(program).unwrap()).map(|entry| entry.unwrap().path());
    let mut all: Vec<_> = files
        .map(|path| {
            let recording = serde_json::from_slice(&fs::read(&path).unwrap());
            (path.clone(), recording.unwrap_or_else(|error| panic!("{}: {error}", path.display())))
        })
        .collect();
    all.sort_by(|(a, _), (b, _)| a.cmp(b));
    assert!(all.len() > 50, "{} recordings in {}", all.len(), folder.display());
    all
}

fn parsed(recording: &Recording) -> Result<Invocation, String> {
    let lookup = |name: &str| recording.environment.get(name).map(Into::into);
    let command = Command::from_environment(&lookup).unwrap().unwrap();
    Invocation::parse(command, &lookup, Ok(recording.stdin.clone().into_bytes()))
        .map_err(|failure| failure.to_json())
}

#[test]
fn what_runtimes_sent_is_read_as_go_reads_it() {
    go::compare(&recordings().into_iter().map(|(_, recording)| recording.stdin).collect::<Vec<_>>());
}

#[test]
fn what_runtimes_sent_is_a_valid_call_and_says_what_was_asked_for() {
    for (path, recording) in recordings() {
        let name = path.file_name().unwrap().to_str().unwrap();
        let invocation = match parsed(&recording) {
            Ok(invocation) => invocation,
            // A list that is not there is no empty one.
            Err(error) if name.starts_with("refused.gc") && error.contains("is missing") => continue,
            // The chained plugin has a capability that Cambric leaves to others.
            Err(error) if recording.plugin != "cambric" && error.contains("runtimeConfig.bandwidth = ") => {
                continue;
            }
            Err(error) => panic!("{}: {error}", path.display()),
        };
        match invocation {
            Invocation::Add(sandbox, config) => {
                assert_eq!(sandbox.pod.is_some(), path.to_str().unwrap().contains("containerd"), "{name}");
                let ports: Vec<_> = config.port_mappings.iter().map(ToString::to_string).collect();
                let expected: &[&str] = match name.split('.').next().unwrap() {
                    "host-port" | "host-port-before-restart" | "host-port-dns-args" => &["54323/tcp to 8080"],
                    "host-port-host-ip" => &["192.0.2.1:54323/tcp to 8080"],
                    "host-port-host-ip6" => &["[2001:db8::1]:54323/tcp to 8080"],
                    "host-port-udp" => &["54323/udp to 8081", "54323/tcp to 8080"],
                    _ => &[],
                };
                assert_eq!(ports, expected, "{}", path.display());
                assert_eq!(!config.dns.nameservers.is_empty(), name.contains("dns"), "{name}");
                if name.contains("args") && recording.plugin == "cambric" {
                    assert_eq!(config.addresses, ["10.88.0.77".parse::<std::net::IpAddr>().unwrap()]);
                    assert_eq!(config.mac.unwrap().to_string(), "02:00:00:00:00:77");
                }
                let previous = config.previous.map(|previous| previous.result);
                assert_eq!(previous.is_some(), recording.plugin != "cambric", "{name}");
                if let Some(previous) = previous {
                    assert!(previous.container_end("eth0").is_some() && previous.ips.len() == 2, "{name}");
                }
            }
            Invocation::Check(_, config) => {
                assert!(config.prev_result.container_end("eth0").is_some(), "{name}");
            }
            Invocation::Gc(config) => {
                assert_eq!(config.valid.len(), if name.contains("nobody") { 0 } else { 2 }, "{name}");
                assert!(config.valid.iter().all(|it| it.container_id.is_some() && it.ifname.is_some()));
            }
            Invocation::Del(_, config) => {
                assert!(config.name.is_some() && config.version.is_some(), "{name}");
            }
            Invocation::Status(network) => assert_eq!(network.name, "pods"),
            Invocation::Version(_) => panic!("{name}"),
        }
    }
}
