//! What a shell and `man` want to know of the command line: completions, manual pages, and the name that the program has as a
//! plugin of kubectl.

use std::{
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::Context;
use clap::{Command, CommandFactory, FromArgMatches, ValueEnum};
use clap_complete::{Shell, generate};
use clap_mangen::Man;

/// By this file name kubectl finds it as a plugin.
const PLUGIN: &str = "kubectl-cambric";

/// Shells that are known here.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Completed {
    Bash,
    Zsh,
    Fish,
}

/// The command line of a program, by its arguments; the first is the path that it was called by.
pub(super) fn parse<C: CommandFactory + FromArgMatches>(arguments: Vec<OsString>) -> Result<C, clap::Error> {
    let called = arguments.first().map(PathBuf::from);
    let is_plugin = called.is_some_and(|path| path.file_name().is_some_and(|name| name == PLUGIN));
    let mut command = C::command();
    if is_plugin {
        command = command.bin_name("kubectl cambric");
    }
    let mut matches = command.clone().try_get_matches_from(arguments)?;
    C::from_arg_matches_mut(&mut matches).map_err(|error| error.format(&mut command))
}

/// Writes a script that completes words of a command line.
pub(super) fn completion(shell: Completed, mut of: Command, to: &mut impl io::Write) {
    let shell = match shell {
        Completed::Bash => Shell::Bash,
        Completed::Zsh => Shell::Zsh,
        Completed::Fish => Shell::Fish,
    };
    generate(shell, &mut of, "cambricctl", to);
}

/// Writes the manual pages of the client, of each of its commands and of the daemon into a directory, and says which.
pub(super) fn manual(client: Command, directory: &Path) -> anyhow::Result<Vec<PathBuf>> {
    fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let mut pages = Vec::new();
    let mut command = client.disable_help_subcommand(true);
    command.build();
    collect(command, "cambricctl".to_owned(), "1", &mut pages);
    collect(ipamd_config::CommandLine::command(), "cambric-ipamd".to_owned(), "8", &mut pages);
    pages
        .into_iter()
        .map(|(name, page)| {
            let path = directory.join(name);
            fs::write(&path, page).with_context(|| format!("cannot write {}", path.display()))?;
            Ok(path)
        })
        .collect()
}

/// The pages of a command and those below it, by file name.
fn collect(command: Command, name: String, section: &str, pages: &mut Vec<(String, Vec<u8>)>) {
    for below in command.get_subcommands().filter(|it| !it.is_hide_set()) {
        collect(below.clone(), format!("{name}-{}", below.get_name()), section, pages);
    }
    let file = format!("{name}.{section}");
    let command = command.display_name(name);
    let mut page = Vec::new();
    // Writing into memory does not fail.
    let _ = Man::new(command).section(section).manual("Cambric").render(&mut page);
    pages.push((file, page));
}

#[cfg(test)]
mod tests {
    use std::process;

    use super::*;
    use crate::CommandLine;

    fn parsed(words: &[&str]) -> Result<CommandLine, clap::Error> {
        parse(words.iter().map(OsString::from).collect())
    }

    #[test]
    fn as_a_plugin_it_has_the_name_that_kubectl_calls_it_by() {
        let help = |program: &str| parsed(&[program, "policy", "trace", "--help"]).unwrap_err().to_string();
        let usage = help("/home/me/bin/kubectl-cambric");
        assert!(usage.contains("Usage: kubectl cambric policy trace"), "{usage}");
        let usage = help("/usr/local/bin/cambricctl");
        assert!(usage.contains("Usage: cambricctl policy trace"), "{usage}");
        assert!(parsed(&["kubectl-cambric", "status"]).is_ok());
    }

    #[test]
    fn each_shell_gets_a_script_that_knows_the_commands() {
        for (shell, word) in [
            (Completed::Bash, "complete -F"),
            (Completed::Zsh, "#compdef cambricctl"),
            (Completed::Fish, "complete -c cambricctl"),
        ] {
            let mut script = Vec::new();
            completion(shell, CommandLine::command(), &mut script);
            let script = String::from_utf8(script).unwrap();
            for word in [word, "sysdump", "item-timeout"] {
                assert!(script.contains(word), "{shell:?} has no {word}");
            }
        }
    }

    #[test]
    fn bash_takes_its_script() {
        let mut script = Vec::new();
        completion(Completed::Bash, CommandLine::command(), &mut script);
        let script = String::from_utf8(script).unwrap();
        let ask = "COMP_WORDS=(cambricctl endpoint l); COMP_CWORD=2; _cambricctl cambricctl l endpoint; echo ${COMPREPLY[@]}";
        let out = process::Command::new("bash").args(["-c", &format!("{script}\n{ask}")]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&out.stdout).trim(), "list", "{out:?}");
    }

    #[test]
    fn there_is_a_page_for_each_command() {
        let folder = tempfile::tempdir().unwrap();
        let pages = manual(CommandLine::command(), folder.path()).unwrap();
        let text = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
        for name in ["cambricctl.1", "cambricctl-policy-trace.1", "cambricctl-sysdump.1", "cambric-ipamd.8"] {
            assert!(pages.contains(&folder.path().join(name)), "no {name} in {pages:?}");
        }
        assert!(text("cambricctl-sysdump.1").contains(".SH SYNOPSIS"), "{}", text("cambricctl-sysdump.1"));
        assert!(text("cambricctl-policy-trace.1").contains("cambricctl\\-policy\\-trace"));
        assert!(text("cambric-ipamd.8").contains("conntrack\\-size"));
        assert!(!folder.path().join("cambricctl-man.1").exists());
    }
}
