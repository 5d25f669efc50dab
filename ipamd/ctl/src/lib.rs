//! `cambricctl`: asks the daemon, and prints.

mod connections;
mod connectivity;
mod daemon;
mod deny;
mod dns;
mod ending;
mod endpoints;
mod flow;
mod machine;
mod monitor;
mod output;
mod policy;
mod pools;
mod service;
mod shell;
mod status;
mod sysdump;

use std::{ffi::OsString, io, net::IpAddr, path::PathBuf};

use clap::{CommandFactory, Parser, Subcommand};

use daemon::Daemon;
pub use ending::Ending;
use output::{Format, Output};

/// The command line of `cambricctl`.
#[derive(Debug, Parser)]
#[command(name = "cambricctl", version, about = "Looks into Cambric on this node", max_term_width = 110)]
pub struct CommandLine {
    /// The daemon's socket [default: /run/cambric/ipamd.sock]
    #[arg(long, global = true, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// table or json
    #[arg(short, long, global = true, value_name = "FORMAT", default_value = "table")]
    output: Format,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Says how the node does: readiness (fails unless it is), uplinks, endpoints, dropped packets
    Status,
    /// Checks what Cambric needs of this machine; needs no daemon
    Preflight(machine::Preflight),
    /// Endpoints: containers' interfaces
    #[command(subcommand)]
    Endpoint(EndpointCommand),
    /// Address pools and who has which address
    #[command(subcommand)]
    Ipam(IpamCommand),
    /// Connections that the programs remember
    #[command(subcommand)]
    Ct(CtCommand),
    /// Deny sets: prefixes whose packets are dropped at the uplinks before all else
    #[command(subcommand)]
    Deny(DenyCommand),
    /// DNS names that pods were told, by which policies may allow them to connect
    #[command(subcommand)]
    Dns(DnsCommand),
    /// Policies: what is in force and why, what would be
    #[command(subcommand)]
    Policy(policy::Command),
    /// Services: where they are reached and where their connections go
    #[command(subcommand)]
    Service(service::Command),
    /// Tries who reaches whom, with pods of its own
    #[command(subcommand)]
    Connectivity(connectivity::Command),
    /// Tells of new flows, ends and drops as they happen, until it is interrupted; times are UTC
    Monitor(monitor::Filter),
    /// Collects what a bug report needs into one archive, without secrets; works without the daemon, too
    Sysdump(sysdump::Sysdump),
    /// Prints a script by which a shell completes words of this command line
    Completion {
        /// The shell
        shell: shell::Completed,
    },
    /// Writes the manual pages of cambricctl and of the daemon
    #[command(hide = true)]
    Man {
        /// Into which directory
        directory: PathBuf,
    },
    /// Removes all of Cambric from this machine's kernel, its records, and the CNI configuration and plugin in the
    /// directories that the daemon's configuration names; refused while the daemon runs
    Uninstall(machine::Uninstall),
}

#[derive(Debug, Subcommand)]
enum EndpointCommand {
    /// Lists all endpoints
    List,
    /// Shows one in full
    Show {
        /// Its container id (or the beginning of it), address, host interface, or pod as NAMESPACE/NAME
        #[arg(value_name = "ENDPOINT")]
        which: String,
    },
}

#[derive(Debug, Subcommand)]
enum IpamCommand {
    /// Lists the pools and the addresses in use
    List,
    /// Shows who has an address
    Show {
        /// The address
        address: IpAddr,
    },
    /// Releases an address and the whole attachment that has it
    Release {
        /// The address
        address: IpAddr,
        /// Even if the attachment's interface exists, which is removed then
        #[arg(long)]
        force: bool,
    },
}

#[derive(Debug, Subcommand)]
enum CtCommand {
    /// Lists connections
    List(connections::Filter),
}

#[derive(Debug, Subcommand)]
enum DenyCommand {
    /// Lists the sets, and what was dropped because of each
    List,
}

#[derive(Debug, Subcommand)]
enum DnsCommand {
    /// Lists the names, with their addresses
    List(dns::Filter),
}

impl CommandLine {
    /// That of a program by its arguments, the first of which is how it was called: as `kubectl-cambric` it is a plugin of
    /// kubectl.
    ///
    /// # Errors
    /// What is wrong with it, or the help that was asked for.
    pub fn of(arguments: Vec<OsString>) -> Result<Self, clap::Error> {
        shell::parse(arguments)
    }

    /// The exit status of a command that cannot be carried out: where 1 is an answer, it is another.
    pub fn failure(&self) -> u8 {
        match self.command {
            Command::Policy(policy::Command::Diff { .. })
            | Command::Connectivity(connectivity::Command::Test(_)) => 2,
            _ => 1,
        }
    }
}

/// Runs one command.
///
/// # Errors
/// Why the command could not be carried out.
pub fn run(command_line: CommandLine) -> anyhow::Result<Ending> {
    let CommandLine { socket, output, command } = command_line;
    let output = Output::new(output);
    match command {
        Command::Preflight(what) => return machine::preflight(&what, &output).map(Ending::of),
        Command::Uninstall(what) => machine::uninstall(&what, socket, &output)?,
        Command::Completion { shell } => shell::completion(shell, CommandLine::command(), &mut io::stdout()),
        Command::Man { directory } => {
            let pages = shell::manual(CommandLine::command(), &directory)?;
            let lines = |pages: &[PathBuf]| pages.iter().map(|it| it.display().to_string() + "\n").collect();
            output.print(&pages[..], lines)?;
        }
        Command::Sysdump(what) => sysdump::run(&what, socket, &output)?,
        Command::Policy(command) => return policy::run(command, socket, &output),
        Command::Connectivity(command) => return connectivity::run(command, socket, &output).map(Ending::of),
        command => {
            let mut daemon = Daemon::connect(socket)?;
            match command {
                Command::Status => return status::show(&mut daemon, &output).map(Ending::of),
                Command::Endpoint(EndpointCommand::List) => endpoints::list(&mut daemon, &output)?,
                Command::Endpoint(EndpointCommand::Show { which }) => {
                    endpoints::show(&mut daemon, &which, &output)?;
                }
                Command::Ipam(IpamCommand::List) => pools::list(&mut daemon, &output)?,
                Command::Ipam(IpamCommand::Show { address }) => pools::show(&mut daemon, address, &output)?,
                Command::Ipam(IpamCommand::Release { address, force }) => {
                    pools::release(&mut daemon, address, force, &output)?;
                }
                Command::Ct(CtCommand::List(filter)) => connections::list(&mut daemon, &filter, &output)?,
                Command::Deny(DenyCommand::List) => deny::list(&mut daemon, &output)?,
                Command::Dns(DnsCommand::List(filter)) => dns::list(&mut daemon, filter, &output)?,
                Command::Service(command) => service::run(&mut daemon, command, &output)?,
                Command::Monitor(filter) => monitor::run(&mut daemon, filter, &output)?,
                Command::Preflight(_)
                | Command::Uninstall(_)
                | Command::Sysdump(_)
                | Command::Completion { .. }
                | Command::Man { .. }
                | Command::Policy(_)
                | Command::Connectivity(_) => {}
            }
        }
    }
    Ok(Ending::Well)
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        CommandLine::command().debug_assert();
    }

    /// The commands of a document, with values for what it leaves open.
    fn commands(document: &str) -> Vec<Vec<String>> {
        let shown = document.lines().flat_map(|line| {
            let block = line.strip_prefix("    ").map(|it| it.trim_start_matches("ping -c 1 $("));
            let inline = line.split('`').skip(1).step_by(2);
            inline.chain(block).filter(|it| it.starts_with("cambricctl ")).collect::<Vec<_>>()
        });
        let word = |word: &str| match word.trim_end_matches("...") {
            "ADDRESS" => "10.88.0.7".to_owned(),
            "NAMESPACE/POD" | "NAMESPACE/NAME" => "shop/web".to_owned(),
            other => other.to_owned(),
        };
        let until = ['#', '|', ')', ';', '<'];
        shown
            .map(|it| it.split(until).next().unwrap_or(it).split_whitespace().map(word).collect::<Vec<_>>())
            .filter(|words| words.iter().skip(1).any(|word| !word.is_empty()))
            .collect()
    }

    #[test]
    fn the_commands_of_the_documents_are_understood() {
        use clap::error::ErrorKind::{
            DisplayHelp, DisplayHelpOnMissingArgumentOrSubcommand, DisplayVersion, MissingRequiredArgument,
        };

        let mut seen = 0;
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let pages = fs::read_dir(root.join("docs")).unwrap().map(|it| it.unwrap().path());
        for page in
            pages.chain([root.join("README.md")]).filter(|it| it.extension().is_some_and(|it| it == "md"))
        {
            for command in commands(&fs::read_to_string(&page).unwrap()) {
                seen += 1;
                if let Err(error) = CommandLine::try_parse_from(&command) {
                    // A sentence may leave the arguments out.
                    let is_understood = matches!(
                        error.kind(),
                        MissingRequiredArgument
                            | DisplayHelpOnMissingArgumentOrSubcommand
                            | DisplayHelp
                            | DisplayVersion
                    );
                    assert!(is_understood, "{}: {command:?}: {error}", page.display());
                }
            }
        }
        assert!(seen > 20, "only {seen} commands were found");
    }

    #[test]
    fn only_a_diff_keeps_1_for_what_changes() {
        let failure = |args: &[&str]| CommandLine::try_parse_from(args).unwrap().failure();
        assert_eq!(failure(&["cambricctl", "policy", "diff", "a.yaml"]), 2);
        assert_eq!(failure(&["cambricctl", "policy", "list"]), 1);
        assert_eq!([Ending::Well, Ending::Otherwise, Ending::Unanswered].map(Ending::status), [0, 1, 2]);
    }

    #[test]
    fn global_flags_may_stand_anywhere() {
        for args in [["-o", "json", "endpoint", "list"], ["endpoint", "list", "-o", "json"]] {
            let parsed = CommandLine::try_parse_from([&["cambricctl"][..], &args[..]].concat()).unwrap();
            assert!(matches!(parsed.output, Format::Json));
        }
    }
}
