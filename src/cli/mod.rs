//! The command line: one file per command (spec 80 §1), and what they share.
//!
//! Reading order: [`exit`] (codes and failures), [`client`] (the API's client; [`large`] for large answers), [`locate`] (where the daemon is), [`output`] and
//! [`table`], then the commands. Each command has its options and a `run`.

mod backup;
mod cancel;
mod check;
mod client;
mod cloudtest;
mod daemon;
mod exit;
mod generate;
mod instance;
mod instance_type;
mod large;
mod list;
mod locate;
mod logs;
mod output;
mod priority;
mod rerun;
mod selection;
mod show;
mod status;
mod submit;
mod table;
mod times;
mod values;
mod wait;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand};

use exit::Failure;

/// Runs queued containers on machines that come and go.
///
/// `muster daemon` is the dispatcher; every other command talks to it. Without a configuration file the daemon uses
/// this host as its worker.
#[derive(Debug, Parser)]
#[command(name = "muster", version, propagate_version = true, after_help = FIRST_SUCCESS, max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

const FIRST_SUCCESS: &str = "\
First success:
  muster daemon &
  muster submit --wait -- sh -c 'echo hello from $MUSTER_UUID'
  muster list
  muster logs UUID

Exit codes: 0 done, 1 it failed, 2 wrong usage, 3 no such container or instance, 4 the daemon cannot be reached.";

/// Options of every command, before or after its name.
#[derive(Args, Clone, Debug, Default)]
pub struct Global {
    /// Configuration file [default: $MUSTER_CONFIG, $ARVADOS_CONFIG, /etc/muster/config.yml, /etc/arvados/config.yml, else built in]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Cluster in the configuration file; needed only when it has several
    #[arg(long, global = true, value_name = "ID")]
    cluster: Option<String>,
    /// Print JSON where the output is a table or a record
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    Daemon(daemon::Options),
    Check(check::Options),
    #[command(name = "cloudtest")]
    CloudTest(cloudtest::Options),
    Submit(Box<submit::Options>),
    List(list::Options),
    Show(show::Options),
    Wait(wait::Options),
    Logs(logs::Options),
    Cancel(cancel::Options),
    Priority(priority::Options),
    Rerun(rerun::Options),
    Status(status::Options),
    #[command(subcommand)]
    Instance(instance::Command),
    #[command(subcommand)]
    InstanceType(instance_type::Command),
    Backup(backup::Options),
    #[command(hide = true)]
    Generate(generate::Options),
}

/// Parses and runs. Errors are one line on standard error.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(cloudtest::with_two_dashes(arguments.into_iter().collect())) {
        Ok(cli) => cli,
        Err(error) => {
            if !error.use_stderr() || error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
                // Help and version.
                let _ = error.print();
                return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(exit::USAGE));
            }
            let failure = Failure::Usage(usage_fault(&error));
            failure.print();
            return ExitCode::from(failure.code());
        }
    };
    match dispatch(&cli) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            failure.print();
            ExitCode::from(failure.code())
        }
    }
}

/// The parser's fault as one line: what is wrong, its tips, and where help is.
fn usage_fault(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let mut parts: Vec<&str> = text.lines().map(str::trim).take_while(|line| !line.starts_with("Usage:")).collect();
    parts.retain(|line| !line.is_empty() && !line.starts_with("For more information"));
    let usage = text.lines().find_map(|line| line.trim().strip_prefix("Usage: ")).unwrap_or("muster");
    let command = usage.split_whitespace().take_while(|word| word.chars().all(|c| c.is_ascii_lowercase() || c == '-'));
    let command: Vec<&str> = command.collect();
    let fault = parts.join("; ");
    let fault = fault.strip_prefix("error: ").unwrap_or(&fault);
    format!("{fault}; see `{} --help`", if command.is_empty() { "muster".to_owned() } else { command.join(" ") })
}

fn dispatch(cli: &Cli) -> Result<u8, Failure> {
    let global = &cli.global;
    match &cli.command {
        Command::Daemon(options) => daemon::run(global, options),
        Command::Check(options) => check::run(global, options),
        Command::CloudTest(options) => cloudtest::run(global, options),
        Command::Submit(options) => submit::run(global, options),
        Command::List(options) => list::run(global, options),
        Command::Show(options) => show::run(global, options),
        Command::Wait(options) => wait::run(global, options),
        Command::Logs(options) => logs::run(global, options),
        Command::Cancel(options) => cancel::run(global, options),
        Command::Priority(options) => priority::run(global, options),
        Command::Rerun(options) => rerun::run(global, options),
        Command::Status(options) => status::run(global, options),
        Command::Instance(command) => instance::run(global, command),
        Command::InstanceType(command) => instance_type::run(global, command),
        Command::Backup(options) => backup::run(global, options),
        Command::Generate(options) => generate::run(options, Cli::command()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definitions_are_consistent() {
        Cli::command().debug_assert();
    }

    /// A new user would succeed with the help alone: every command explains itself and shows an example.
    #[test]
    fn every_command_has_an_example() {
        fn look(command: &clap::Command, path: &str) {
            for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set() && sub.get_name() != "help") {
                let path = format!("{path} {}", sub.get_name());
                assert!(sub.get_about().is_some(), "{path} does not say what it does");
                if sub.get_subcommands().next().is_some() {
                    look(sub, &path);
                } else {
                    let text = sub.get_after_help().map(ToString::to_string).unwrap_or_default();
                    assert!(text.contains("Example") && text.contains(&path), "{path} has no example");
                }
            }
        }
        look(&Cli::command(), "muster");
    }
}
