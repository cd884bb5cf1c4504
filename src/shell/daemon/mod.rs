//! The dispatcher process: assembled in order, told by signals, stopped in reverse order (spec 20 §9, 80 §3).
//!
//! Start: log, state directory, driver, queue, runner, pool, the API's addresses; then the threads: central, sync, scheduler,
//! queue's keeper. Reading order: here, [`assembly`] (with [`drivers`](super::drivers)), [`settings`], [`runner`] (which one workers get), [`running`] (stop,
//! reload, dump), [`process`] (limits of the
//! process, pid file, service manager).

mod assembly;
mod keeper;
mod process;
mod runner;
mod running;
mod settings;

pub use runner::runner_fault;
pub(super) use runner::runner_supply;

use std::path::PathBuf;
use std::sync::Arc;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;

use crate::config::{Config, LogFormat};
use crate::core::effect::{Level, Note};
use crate::log::write_note;

/// Reads the configuration again, for SIGHUP; on failure every fault as a line.
pub type Reload = Box<dyn Fn() -> Result<Config, Vec<String>> + Send>;

/// What the command line decided.
pub struct DaemonOptions {
    pub config: Config,
    /// Faults of the configuration that do not keep the daemon from running, for the log.
    pub warnings: Vec<String>,
    pub reload: Reload,
    /// Wins over the configuration's.
    pub log_file: Option<PathBuf>,
    pub pid_file: Option<PathBuf>,
}

impl std::fmt::Debug for DaemonOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DaemonOptions").field("config", &self.config).finish_non_exhaustive()
    }
}

/// Why the daemon did not start. The text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    #[error("cannot open the log")]
    Log(#[source] std::io::Error),
    #[error(transparent)]
    StateDir(#[from] super::state_dir::StateDirError),
    #[error(transparent)]
    DispatchKey(#[from] super::dispatch_key::DispatchKeyError),
    #[error("error initializing driver")]
    Driver(#[source] std::io::Error),
    #[error("{0}")]
    NotBuilt(String),
    #[error(transparent)]
    Queue(#[from] crate::queue::local::OpenError),
    #[error("cannot start a thread")]
    Thread(#[source] std::io::Error),
    #[error("cannot set up the metrics: check Metrics.Prefix")]
    Metrics(#[source] prometheus::Error),
    #[error("cannot serve the management API")]
    Listen(#[source] std::io::Error),
    #[error("cannot {0}")]
    Process(String, #[source] std::io::Error),
}

/// Runs until SIGTERM or SIGINT. Containers and instances go on after that.
///
/// # Errors
/// It could not start; nothing was changed that matters to a later start.
pub fn run(options: DaemonOptions) -> Result<(), DaemonError> {
    let log = &options.config.log;
    crate::log::init(&crate::log::Options {
        format: match log.format {
            LogFormat::Logfmt => crate::log::Format::Logfmt,
            LogFormat::Json => crate::log::Format::Json,
        },
        filter: log.level.clone(),
        file: options.log_file.clone().or_else(|| log.file.clone()),
        output_bytes_max: None,
    })
    .map_err(DaemonError::Log)?;
    crate::log::install_panic_hook();
    let version = env!("CARGO_PKG_VERSION");
    let note = Note::new(Level::Info, "daemon", "muster daemon starting").with("Version", version);
    write_note(&note.with("Config", &options.config.source).with("StateDir", options.config.state_dir.display()));
    for warning in &options.warnings {
        write_note(&Note::new(Level::Warn, "config", "configuration").with("error", warning));
    }
    // Before any thread: signals that come during the start are kept.
    let signals = Signals::new([SIGTERM, SIGINT, SIGHUP, SIGUSR1])
        .map_err(|error| DaemonError::Process("handle signals".to_owned(), error))?;
    let logs_to_file = options.log_file.is_some() || options.config.log.file.is_some();
    let result = serve(options, signals);
    match &result {
        Ok(()) => write_note(&Note::new(Level::Info, "daemon", "muster daemon stopped")),
        // Otherwise the caller's message on standard error is enough.
        Err(_) if !logs_to_file => {}
        Err(error) => {
            let note = Note::new(Level::Error, "daemon", "muster daemon cannot start");
            write_note(&note.with("error", crate::core::errors::chain(error)));
        }
    }
    result
}

fn serve(options: DaemonOptions, mut signals: Signals) -> Result<(), DaemonError> {
    let DaemonOptions { config, reload, pid_file, .. } = options;
    let daemon = assembly::start(Arc::new(config))?;
    // Not before the state directory is ours: the file of a daemon that runs must not be touched.
    let pid_file = pid_file.as_deref().map(process::PidFile::write).transpose()?;
    process::tell_service_manager("READY=1");
    for signal in signals.forever() {
        match signal {
            SIGHUP => daemon.reload(&reload),
            SIGUSR1 => daemon.dump(),
            _ => {
                let name = if signal == SIGINT { "SIGINT" } else { "SIGTERM" };
                let note = Note::new(Level::Info, "daemon", "stopping; containers and instances go on");
                write_note(&note.with("Reason", name));
                break;
            }
        }
    }
    process::tell_service_manager("STOPPING=1");
    process::hurry_on_second_signal();
    daemon.stop();
    drop(pid_file);
    Ok(())
}
