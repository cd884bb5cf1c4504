//! `muster cancel`: containers that are not wanted any more.

use super::Global;
use super::client::Client;
use super::exit::Failure;
use super::selection::{Selected, post, report};

/// Cancel containers
///
/// Waiting ones are Cancelled at once; running ones get SIGTERM, and SIGKILL after 10 seconds.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  muster cancel UUID\n  muster cancel --name 'align*' --state Queued")]
pub(super) struct Options {
    #[command(flatten)]
    selected: Selected,
}

pub(super) fn run(global: &Global, options: &Options) -> Result<u8, Failure> {
    let client = Client::new(global)?;
    report(global, &post(&client, "containers/cancel", &options.selected.selection()?)?)
}
