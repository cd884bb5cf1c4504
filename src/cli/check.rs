//! `muster check`: what is wrong in the configuration, and what it amounts to.

use super::Global;
use super::exit::{self, Failure};
use super::locate::{load_options, variable};
use super::output::{Output, say};
use crate::config::check;
use crate::core::errors::chain;
use crate::shell::daemon::runner_fault;
use crate::shell::dispatch_key::public_key;

/// Load and judge the configuration
///
/// Every problem is shown with file, line, column and key, all in one run; unknown keys with the nearest known one. The
/// summary has the public key that workers must accept, if they are reached over SSH.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  muster check --config /etc/muster/config.yml")]
pub(super) struct Options {
    /// Print the effective configuration instead of a summary: every key, secrets masked
    #[arg(long)]
    dump: bool,
}

pub(super) fn run(global: &Global, options: &Options) -> Result<u8, Failure> {
    let key = |config: &_| public_key(config).map_err(|error| chain(&error));
    let mut checked = check(&load_options(global, &variable), options.dump, &key);
    if let Some(fault) = checked.config.as_ref().and_then(runner_fault) {
        checked.problems.insert(0, fault);
        checked.good = false;
    }
    for problem in &checked.problems {
        say(&format!("muster: {problem}"));
    }
    let mut output = Output::new();
    output.bytes(checked.text.as_bytes())?;
    output.done()?;
    Ok(if checked.good { exit::DONE } else { exit::FAILED })
}
