//! External programs, which are run with a time limit.

use std::{
    env,
    ffi::OsString,
    io::{self, Read, Write},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::{Duration, Instant},
};

use thiserror::Error;

/// How long one may take. Tables of ten thousand services are saved in about a second.
const LIMIT: Duration = Duration::from_mins(1);
/// How often it is looked whether one has ended.
const POLL: Duration = Duration::from_millis(2);

/// Why a program did not do what it was asked to.
#[derive(Debug, Error)]
pub(super) enum ToolError {
    #[error("{program} is not installed")]
    Missing { program: String },
    #[error("{program} cannot be run: {source}")]
    Run { program: String, source: io::Error },
    #[error("{program} did not end within {} s", limit.as_secs())]
    Hung { program: String, limit: Duration },
    #[error("{program} failed ({status}): {said}")]
    Failed { program: String, status: ExitStatus, said: String },
}

/// Runs a program with this standard input and returns what it printed.
pub(super) fn run(program: &str, args: &[&str], input: &str) -> Result<String, ToolError> {
    run_within(LIMIT, program, args, input)
}

fn run_within(limit: Duration, program: &str, args: &[&str], input: &str) -> Result<String, ToolError> {
    let program_name = || program.to_owned();
    let failed = |source| ToolError::Run { program: program.to_owned(), source };
    let mut child = Command::new(program)
        .args(args)
        .env("PATH", path())
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => ToolError::Missing { program: program_name() },
            _ => failed(source),
        })?;
    if let Some(mut stdin) = child.stdin.take() {
        let input = input.to_owned();
        // One that ends without reading all of it says why by itself.
        thread::spawn(move || drop(stdin.write_all(input.as_bytes())));
    }
    let stdout = read(child.stdout.take());
    let stderr = read(child.stderr.take());
    let status = wait(&mut child, limit)
        .map_err(failed)?
        .ok_or_else(|| ToolError::Hung { program: program_name(), limit })?;
    // Somebody that it started may still hold the pipes.
    let all = |from: &Receiver<Vec<u8>>| from.recv_timeout(POLL * 500).unwrap_or_default();
    let (stdout, stderr) = (all(&stdout), all(&stderr));
    if status.success() {
        return Ok(String::from_utf8_lossy(&stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&stderr).trim().replace('\n', "; ");
    Err(ToolError::Failed { program: program_name(), status, said })
}

/// The programs of the administrator are not in everybody's PATH.
fn path() -> OsString {
    let mut path = env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/sbin:/sbin:/usr/bin:/bin");
    path
}

fn read(from: Option<impl Read + Send + 'static>) -> Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::sync_channel(1);
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut from) = from {
            // What was read until then is all that there is.
            let _ = from.read_to_end(&mut bytes);
        }
        let _ = sender.send(bytes);
    });
    receiver
}

/// Waits for the end; without one within the limit, the program is killed and there is no status.
fn wait(child: &mut Child, limit: Duration) -> io::Result<Option<ExitStatus>> {
    let began = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if began.elapsed() > limit {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(POLL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn input_goes_in_and_output_comes_out() {
        let long = "line\n".repeat(100_000);
        assert_eq!(run("cat", &[], &long).unwrap(), long);
    }

    #[test]
    fn what_goes_wrong_is_told() {
        let missing = run("cambric-no-such-program", &[], "").unwrap_err();
        assert_eq!(missing.to_string(), "cambric-no-such-program is not installed");
        let failed = run("sh", &["-c", "echo no; echo why >&2; exit 3"], "").unwrap_err();
        assert_eq!(failed.to_string(), "sh failed (exit status: 3): why");
    }

    #[test]
    fn nothing_hangs() {
        let began = Instant::now();
        let hung = run_within(Duration::from_millis(50), "sleep", &["30"], "").unwrap_err();
        assert!(matches!(hung, ToolError::Hung { .. }), "{hung}");
        let orphan = run_within(Duration::from_secs(5), "sh", &["-c", "sleep 30 & echo x"], "");
        assert!(orphan.is_ok() && began.elapsed() < Duration::from_secs(20));
    }
}
