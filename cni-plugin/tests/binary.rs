//! The binary as a runtime meets it, as far as that goes without root: its output, its exit code, and its manners when
//! the daemon is away.

use std::{
    fs,
    io::Write,
    path::PathBuf,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
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
fn an_unknown_command_is_error_4_and_without_one_the_plugin_says_who_it_is() {
    let error = Call::new("add", &json!({})).fails();
    assert!(error["code"] == 4 && error["msg"].as_str().unwrap().contains("CNI_COMMAND"), "{error}");
    let about = format!(
        "CNI plugin cambric v{}\nCNI protocol versions supported: 0.1.0, 0.2.0, 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0\n",
        env!("CARGO_PKG_VERSION")
    );
    let mut unset = Call::new("", &json!({}));
    unset.command.env_remove("CNI_COMMAND");
    for call in [unset, Call::new("", &json!({}))] {
        let output = call.run();
        assert!(output.status.success() && output.stdout.is_empty(), "{output:?}");
        assert_eq!(String::from_utf8(output.stderr).unwrap(), about);
    }
    let mut asked = Call::new("", &json!({}));
    asked.command.arg("--version");
    let output = asked.run();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    assert_eq!(String::from_utf8(output.stdout).unwrap(), about);
}

/// Runs `work` and returns how long it took.
fn timed(work: impl FnOnce()) -> Duration {
    let began = Instant::now();
    work();
    began.elapsed()
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
    let patient = Duration::from_secs(8)..Duration::from_secs(20);
    let took = timed(|| {
        let error = Call::new("ADD", &config).attachment().env("CNI_NETNS_OVERRIDE", "1").fails();
        assert!(error["code"] == 11 && error["msg"].as_str().unwrap().contains("ipamd.sock"), "{error}");
        assert!(error["details"].as_str().unwrap().contains("cambric-ipamd"), "{error}");
    });
    assert!(patient.contains(&took), "ADD waited for {took:?}");
    assert_eq!(away.released(), Vec::<Value>::new(), "nothing was reserved");
    let took = timed(|| {
        let error = Call::new("STATUS", &config).fails();
        assert!(error["code"] == 50 && error["msg"].as_str().unwrap().contains("ipamd.sock"), "{error}");
        config["cni.dev/valid-attachments"] = json!([]);
        assert_eq!(Call::new("GC", &config).fails()["code"], 11);
    });
    assert!(took < Duration::from_secs(3), "STATUS and GC waited for {took:?}");
    config["prevResult"] = json!({});
    let took = timed(|| {
        let check = Call::new("CHECK", &config).attachment().env("CNI_NETNS_OVERRIDE", "true");
        assert_eq!(check.fails()["code"], 11);
    });
    assert!(patient.contains(&took), "CHECK waited for {took:?}");
}

#[test]
fn a_namespace_that_is_a_pipe_is_error_4_and_not_waited_for() {
    let away = Away::new("pipe");
    let pipe = away.folder.join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    for netns in [pipe.to_str().unwrap(), "/dev/zero", "/etc", "/etc/passwd", "/proc/self/ns/mnt"] {
        let error = Call::new("ADD", &away.config("1.1.0")).attachment().env("CNI_NETNS", netns).fails();
        assert!(error["code"] == 4 && error["msg"].as_str().unwrap().contains(netns), "{error}");
    }
}

#[test]
fn a_log_that_is_a_pipe_is_not_waited_for() {
    let away = Away::new("log-pipe");
    let pipe = away.folder.join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let mut config = away.config("1.1.0");
    config["logFile"] = json!(pipe);
    let output = Call::new("DEL", &config).attachment().run();
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("cannot open the log file"), "{output:?}");
}

#[test]
fn an_id_that_is_too_long_is_refused_by_its_name_and_leaves_no_note() {
    let away = Away::new("long");
    let long = "c".repeat(256);
    let call = |command| Call::new(command, &away.config("1.1.0")).attachment().env("CNI_CONTAINERID", &long);
    for command in ["ADD", "DEL"] {
        let error = call(command).fails();
        assert!(error["code"] == 4 && error["msg"].as_str().unwrap().contains("CNI_CONTAINERID"), "{error}");
    }
    assert_eq!(away.released(), Vec::<Value>::new(), "the daemon could do nothing with it");
}

/// The same call by a shell, which closes the standard output or turns it elsewhere.
fn with_output(call: &Call, to: &str) -> Output {
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("exec \"$0\" {to}"), env!("CARGO_BIN_EXE_cambric")]).env_clear();
    for (name, value) in call.command.get_envs() {
        shell.env(name, value.unwrap_or_default());
    }
    let mut child =
        shell.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let _ = child.stdin.take().unwrap().write_all(&call.config);
    child.wait_with_output().unwrap()
}

#[test]
fn an_output_that_takes_nothing_is_said_on_the_standard_error_output() {
    let away = Away::new("full");
    let add = Call::new("ADD", &away.config("1.1.0")).attachment().env("CNI_NETNS_OVERRIDE", "1");
    let closed = with_output(&add, ">&-");
    let said = String::from_utf8_lossy(&closed.stderr);
    assert!(
        !closed.status.success() && said.contains("write the result to the standard output"),
        "{closed:?}"
    );
    let full = with_output(&Call::new("VERSION", &away.config("1.1.0")), "> /dev/full");
    let said = String::from_utf8_lossy(&full.stderr);
    assert!(!full.status.success() && said.contains("write the versions to the standard output"), "{full:?}");
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
    assert!(output.status.code().is_some(), "{output:?}");
}
