//! `cambricctl policy`.

mod check;
mod diff;
mod list;
mod show;
mod sources;
mod trace;

use std::path::PathBuf;

use clap::Subcommand;
use ipamd_api::policy::RefusedObject;

use super::{
    Daemon, Ending,
    output::{Output, clean},
};

/// What is asked of policy.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Lists the policies in force, in the order in which they are asked, and what is refused
    List,
    /// Shows one in full: whom it is for, its rules, and how many flows each of them decided here
    Show {
        /// Its kind, where several have the name
        #[arg(long, value_parser = show::kind)]
        kind: Option<String>,
        /// Its name
        #[arg(value_name = "[NAMESPACE/]NAME", value_parser = show::name)]
        policy: show::Name,
    },
    /// Says what would become of a flow, and why; fails if the kernel's maps say otherwise than the compiler
    Trace(trace::Flow),
    /// Says what is wrong with manifests, without applying them; needs no daemon
    Check {
        /// A tier that exists elsewhere; may be given several times
        #[arg(long = "tier", value_name = "NAME")]
        tiers: Vec<String>,
        /// Files, directories of *.yaml, *.yml and *.json, or - for the standard input
        #[arg(value_name = "FILE", required = true)]
        files: Vec<PathBuf>,
    },
    /// Says which of the flows seen lately would be judged otherwise if manifests were applied. Exit status: 0 if none
    /// would, 1 if some would, 2 if that is not known, as something is refused or the daemon does not answer
    Diff {
        /// Files, directories of *.yaml, *.yml and *.json, or - for the standard input
        #[arg(value_name = "FILE", required = true)]
        files: Vec<PathBuf>,
    },
}

/// Runs one command.
pub(super) fn run(command: Command, socket: Option<PathBuf>, output: &Output) -> anyhow::Result<Ending> {
    match command {
        Command::List => list::list(&mut Daemon::connect(socket)?, output).map(|()| Ending::Well),
        Command::Show { kind, policy } => {
            show::show(&mut Daemon::connect(socket)?, kind, policy, output).map(|()| Ending::Well)
        }
        Command::Trace(flow) => trace::trace(&mut Daemon::connect(socket)?, flow, output).map(Ending::of),
        Command::Check { tiers, files } => check::check(&files, &tiers, output).map(Ending::of),
        Command::Diff { files } => diff::diff(&mut Daemon::connect(socket)?, &files, output),
    }
}

/// A refusal on a line: `FILE:LINE: OBJECT: FIELD: REASON`, as far as each is known.
fn refusal_line(refused: &RefusedObject) -> String {
    let stays = if refused.in_force { "; what is in force of that name stays" } else { "" };
    format!("{}{}{stays}\n", place(refused), complaint(refused))
}

/// `FILE:LINE: `, as far as each is known.
fn place(refused: &RefusedObject) -> String {
    let Some(file) = &refused.file else { return String::new() };
    let file = clean(&file.to_string_lossy());
    refused.line.map_or_else(|| format!("{file}: "), |line| format!("{file}:{line}: "))
}

/// `OBJECT: FIELD: REASON`.
fn complaint(refused: &RefusedObject) -> String {
    let object = refused.object.as_ref().map(ToString::to_string).unwrap_or_default();
    let parts = [&object, &refused.field, &refused.reason].into_iter().filter(|part| !part.is_empty());
    parts.map(|part| clean(part)).collect::<Vec<_>>().join(": ")
}

/// So many of something.
fn counted(count: u64, thing: &str) -> String {
    if count == 1 { format!("1 {thing}") } else { format!("{count} {thing}s") }
}

#[cfg(test)]
mod tests {
    use ipamd_api::policy::ObjectName;

    use super::*;

    #[test]
    fn a_refusal_is_a_line_of_what_is_known() {
        let guard =
            ObjectName { kind: "NetworkPolicy".into(), namespace: Some("shop".into()), name: "guard".into() };
        let refused = RefusedObject {
            file: Some("a.yaml".into()),
            line: Some(9),
            object: Some(guard),
            field: "spec.ingres".into(),
            reason: "is not known".into(),
            in_force: false,
        };
        assert_eq!(refusal_line(&refused), "a.yaml:9: NetworkPolicy shop/guard: spec.ingres: is not known\n");
        let earlier = RefusedObject { in_force: true, ..refused.clone() };
        assert!(refusal_line(&earlier).ends_with("is not known; what is in force of that name stays\n"));
        let bare = RefusedObject {
            object: None,
            field: String::new(),
            file: Some("\u{1b}c".into()),
            reason: "odd\nline".into(),
            ..refused
        };
        assert_eq!(refusal_line(&bare), "\\u{1b}c:9: odd\\nline\n");
        let from_the_api = RefusedObject { line: None, ..bare.clone() };
        assert_eq!(refusal_line(&from_the_api), "\\u{1b}c: odd\\nline\n");
        let nowhere = RefusedObject { file: None, line: None, ..bare };
        assert_eq!(refusal_line(&nowhere), "odd\\nline\n");
    }

    #[test]
    fn one_is_not_many() {
        assert_eq!([0, 1, 2].map(|count| counted(count, "flow")), ["0 flows", "1 flow", "2 flows"]);
    }
}
