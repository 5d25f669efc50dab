//! The binary as a runtime meets it, as far as that goes without root: its output, its exit code, and its manners when
//! the daemon is away.

use std::{
    fs,
    io::Write,
    path::PathBuf,
    process::{Command, Output, Stdio},
};

use serde_json::{Value, json};

/// One call of the plugin.
struct Call {
    command: Command,
    config: Vec<u8>,
}

impl Call {
    fn new(command: &str, config: &Value) -> Self {
        let mut call = Self {
            command: Command::new(env!("CARGO_BIN_EXE_cambric")),
            config: config.to_string().into_bytes(),
        };
        call.command.env_clear().env("CNI_COMMAND", command);
        call
    }

    fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    /// With the parameters of one attachment, in a namespace that is not ours to change.
    fn attachment(self) -> Self {
        self.env("CNI_CONTAINERID", "c1")
            .env("CNI_IFNAME", "eth0")
            .env("CNI_NETNS", "/proc/self/ns/net")
            .env("CNI_PATH", "/opt/cni/bin")
    }

    fn stdin(mut self, bytes: &[u8]) -> Self {
        self.config = bytes.to_vec();
        self
    }

    fn run(mut self) -> Output {
        let mut child =
            self.command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // A plugin that fails early does not read it all.
        let _ = child.stdin.take().unwrap().write_all(&self.config);
        child.wait_with_output().unwrap()
    }

    /// Runs it; it must fail with an error object and say nothing else.
    fn fails(self) -> Value {
        let output = self.run();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(output.stderr.is_empty(), "{output:?}");
        let object: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(
            object["code"].is_u64() && object["msg"].is_string() && object["cniVersion"].is_string(),
            "{object}"
        );
        object
    }

    /// Runs it; it must succeed and print nothing.
    fn succeeds_silently(self) {
        let output = self.run();
        assert!(
            output.status.success() && output.stdout.is_empty() && output.stderr.is_empty(),
            "{output:?}"
        );
    }
}

/// A folder of the test's own, with the path of a socket in it that nobody listens on.
struct Away {
    folder: PathBuf,
}

impl Away {
    fn new(test: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("cambric-{test}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        Self { folder }
    }

    fn config(&self, version: &str) -> Value {
        json!({"cniVersion": version, "name": "net", "type": "cambric", "socket": self.folder.join("ipamd.sock")})
    }

    fn released(&self) -> Vec<Value> {
        let Ok(folder) = fs::read_dir(self.folder.join("released")) else { return vec![] };
        folder
            .map(|entry| serde_json::from_slice(&fs::read(entry.unwrap().path()).unwrap()).unwrap())
            .collect()
    }
}

impl Drop for Away {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

#[test]
fn version_lists_what_is_supported() {
    for (stdin, version) in [(&b""[..], "1.1.0"), (br#"{"cniVersion":"0.4.0"}"#, "0.4.0")] {
        let output = Call::new("VERSION", &json!({})).stdin(stdin).run();
        assert!(output.status.success() && output.stderr.is_empty());
        assert_eq!(
            serde_json::from_slice::<Value>(&output.stdout).unwrap(),
            json!({"cniVersion": version, "supportedVersions": ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]})
        );
    }
}

#[test]
fn a_missing_or_unknown_command_is_error_4() {
    let mut call = Call::new("", &json!({}));
    call.command.env_remove("CNI_COMMAND");
    let error = call.fails();
    assert!(error["code"] == 4 && error["msg"].as_str().unwrap().contains("CNI_COMMAND"), "{error}");
    assert_eq!(Call::new("add", &json!({})).fails()["code"], 4);
}

#[test]
fn missing_parameters_are_named_all_at_once() {
    let away = Away::new("parameters");
    for command in ["ADD", "CHECK"] {
        let error = Call::new(command, &away.config("1.0.0")).fails();
        assert_eq!((&error["code"], &error["cniVersion"]), (&json!(4), &json!("1.0.0")));
        for name in ["CNI_CONTAINERID", "CNI_IFNAME", "CNI_NETNS"] {
            assert!(error["msg"].as_str().unwrap().contains(name), "{error}");
        }
    }
    let error = Call::new("DEL", &away.config("1.0.0")).fails();
    assert!(error["code"] == 4 && !error["msg"].as_str().unwrap().contains("CNI_NETNS"), "{error}");
}

#[test]
fn a_malformed_input_is_error_6() {
    for stdin in [
        &b""[..],
        b"{",
        b"[]",
        b"\xff\xfe",
        b"{\"name\":\"\xff\"}",
        "[".repeat(200_000).as_bytes(),
        " ".repeat(17 << 20).as_bytes(),
    ] {
        for command in ["ADD", "CHECK", "GC", "STATUS"] {
            let error = Call::new(command, &json!({})).attachment().stdin(stdin).fails();
            assert_eq!(error["code"], 6, "{command} {:?}: {error}", &stdin[..stdin.len().min(20)]);
        }
        Call::new("DEL", &json!({})).attachment().stdin(stdin).succeeds_silently();
    }
}

#[test]
fn an_unsupported_version_is_error_1() {
    let away = Away::new("versions");
    for version in ["0.0.1", "0.3.2", "1.2.0", "2.0.0"] {
        assert_eq!(Call::new("ADD", &away.config(version)).attachment().fails()["code"], 1, "{version}");
    }
    assert_eq!(Call::new("CHECK", &json!({"name": "net"})).attachment().fails()["code"], 1);
    assert_eq!(Call::new("CHECK", &away.config("0.3.1")).attachment().fails()["code"], 1);
    for command in ["GC", "STATUS"] {
        let error = Call::new(command, &away.config("1.0.0")).fails();
        assert_eq!((&error["code"], &error["cniVersion"]), (&json!(1), &json!("1.0.0")));
    }
}

#[test]
fn the_plugins_own_namespace_is_no_containers() {
    let away = Away::new("own");
    let error = Call::new("ADD", &away.config("1.1.0")).attachment().fails();
    assert!(error["code"] == 4 && error["msg"].as_str().unwrap().contains("/proc/self/ns/net"), "{error}");
}

#[test]
fn while_the_daemon_is_away_add_and_check_say_try_again_and_status_not_available() {
    let away = Away::new("away");
    let mut config = away.config("1.1.0");
    let error = Call::new("ADD", &config).attachment().env("CNI_NETNS_OVERRIDE", "1").fails();
    assert!(error["code"] == 11 && error["msg"].as_str().unwrap().contains("ipamd.sock"), "{error}");
    assert_eq!(away.released(), Vec::<Value>::new(), "nothing was reserved");
    let error = Call::new("STATUS", &config).fails();
    assert!(error["code"] == 50 && error["msg"].as_str().unwrap().contains("ipamd.sock"), "{error}");
    config["cni.dev/valid-attachments"] = json!([]);
    assert_eq!(Call::new("GC", &config).fails()["code"], 11);
    config["prevResult"] = json!({});
    assert_eq!(
        Call::new("CHECK", &config).attachment().env("CNI_NETNS_OVERRIDE", "true").fails()["code"],
        11
    );
}

#[test]
fn a_delete_succeeds_whatever_is_missing_and_leaves_the_daemon_a_note() {
    let away = Away::new("delete");
    let key = json!({"network": "net", "container_id": "c1", "ifname": "eth0"});
    let mut config = away.config("0.4.0");
    config["prevResult"] = json!("garbage");
    config["mtu"] = json!("garbage");
    for netns in ["", "/nonexistent", "/etc/passwd"] {
        Call::new("DEL", &config)
            .attachment()
            .env("CNI_NETNS", netns)
            .env("CNI_ARGS", ";;garbage")
            .succeeds_silently();
        assert_eq!(away.released(), std::slice::from_ref(&key));
    }
    let mut call = Call::new("DEL", &config).attachment();
    call.command.env_remove("CNI_NETNS");
    call.succeeds_silently();
}

#[test]
fn a_delete_succeeds_whatever_is_wrong_with_the_configuration() {
    let away = Away::new("delete-wrong");
    let key = json!({"network": "net", "container_id": "c1", "ifname": "eth0"});
    for version in [json!("9.9.9"), json!(""), json!(null), json!(7)] {
        let mut config = away.config("");
        config["cniVersion"] = version;
        Call::new("DEL", &config).attachment().succeeds_silently();
        assert_eq!(away.released(), std::slice::from_ref(&key), "{config}");
        fs::remove_dir_all(away.folder.join("released")).unwrap();
    }
    // No attachment of any network is this container's, and so there is nothing to release.
    for name in [json!("../x"), json!("x".repeat(256)), json!(null), json!({})] {
        let mut config = away.config("1.0.0");
        config["name"] = name;
        Call::new("DEL", &config).attachment().succeeds_silently();
        assert_eq!(away.released(), Vec::<Value>::new(), "{config}");
    }
}

#[test]
fn logs_go_to_the_file_or_to_stderr_and_only_when_asked_for() {
    let away = Away::new("logs");
    let mut config = away.config("1.1.0");
    config["logLevel"] = json!("info");
    let output = Call::new("DEL", &config).attachment().run();
    assert!(output.stdout.is_empty() && !output.stderr.is_empty());
    let file = away.folder.join("cambric.log");
    config["logFile"] = json!(file);
    Call::new("DEL", &config).attachment().succeeds_silently();
    assert!(fs::read_to_string(&file).unwrap().contains("net/c1/eth0"));
    config["logFile"] = json!(away.folder.join("no/such/folder.log"));
    let output = Call::new("DEL", &config).attachment().run();
    assert!(
        output.status.success()
            && String::from_utf8_lossy(&output.stderr).contains("cannot open the log file")
    );
}

#[test]
fn a_closed_standard_output_is_no_crash() {
    let away = Away::new("closed");
    let mut call = Call::new("VERSION", &away.config("1.1.0"));
    let mut child =
        call.command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.code().is_some() && output.stderr.is_empty(), "{output:?}");
}
