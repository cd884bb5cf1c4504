//! `muster priority`: what comes earlier, and what is on hold.

use super::client::Client;
use super::exit::Failure;
use super::selection::{Selected, post, report};
use super::{Global, values};

/// Change the priority of waiting containers: 1 to 1000, higher is earlier; 0 = on hold
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  muster priority 900 UUID\n  muster priority 0 --name 'later*'")]
pub(super) struct Options {
    #[arg(value_name = "N", value_parser = values::priority)]
    priority: i64,
    #[command(flatten)]
    selected: Selected,
}

pub(super) fn run(global: &Global, options: &Options) -> Result<u8, Failure> {
    let client = Client::new(global)?;
    let mut selection = options.selected.selection()?;
    selection.priority = Some(options.priority);
    report(global, &post(&client, "containers/priority", &selection)?)
}
