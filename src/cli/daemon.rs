//! `muster daemon`: the dispatcher, in the foreground.

use std::path::PathBuf;

use super::Global;
use super::exit::{self, Failure};
use super::locate::{configuration, load_options, variable};
use crate::config::{Loaded, load};
use crate::shell::daemon::{DaemonOptions, Reload, run as run_daemon};

/// Run the dispatcher in the foreground until SIGTERM or SIGINT
///
/// Takes queued containers, makes or takes instances for them, runs them there and brings the results back. Running
/// containers go on when it stops or crashes; the next start finds them again. SIGHUP reopens the log file and reads
/// the configuration again, SIGUSR1 writes the present state to the log.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  muster daemon --log-file /var/log/muster.log &")]
pub(super) struct Options {
    /// Append the log to this file [default: Muster.Log.File, else standard error]
    #[arg(long, value_name = "FILE")]
    log_file: Option<PathBuf>,
    /// Write the process id to this file, and remove it at the end
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
}

pub(super) fn run(global: &Global, options: &Options) -> Result<u8, Failure> {
    let Loaded { config, warnings } = configuration(global)?;
    let again = global.clone();
    let reload: Reload = Box::new(move || {
        let loaded = load(&load_options(&again, &variable));
        loaded.map(|loaded| loaded.config).map_err(|faults| faults.iter().map(ToString::to_string).collect())
    });
    let options = DaemonOptions {
        config,
        warnings: warnings.iter().map(ToString::to_string).collect(),
        reload,
        log_file: options.log_file.clone(),
        pid_file: options.pid_file.clone(),
    };
    match run_daemon(options) {
        Ok(()) => Ok(exit::DONE),
        Err(error) => Err(Failure::Failed(crate::core::errors::chain(&error))),
    }
}
