//! `muster backup`: a copy of the queue.

use std::path::PathBuf;

use super::Global;
use super::client::Client;
use super::exit::{self, Failure};
use crate::management::records::Backup;

/// Write a consistent copy of the queue while the daemon runs
///
/// The file must not exist yet. Put in place of StateDir/queue.db (with the daemon stopped, and queue.db-wal and
/// queue.db-shm removed) it brings the queue back as it was.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  muster backup /backup/queue-$(date +%F).db")]
pub(super) struct Options {
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

pub(super) fn run(global: &Global, options: &Options) -> Result<u8, Failure> {
    let client = Client::new(global)?;
    let path = std::path::absolute(&options.file).map_err(|error| Failure::Usage(format!("FILE: {error}")))?;
    let backup = Backup { file: path.to_string_lossy().into_owned() };
    let body = serde_json::to_vec(&backup).map_err(|error| Failure::Failed(error.to_string()))?;
    client.call("POST", "backup", &body)?;
    Ok(exit::DONE)
}
