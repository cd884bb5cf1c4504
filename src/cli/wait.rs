//! `muster wait`: until all are final; a progress bar on a terminal.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::Global;
use super::client::Client;
use super::exit::{self, Failure};
use super::output::say;
use super::selection::Selected;
use crate::management::records::{ContainerRecord, Wait, WaitAnswer};

const WAIT_SECONDS: f64 = 20.0;
/// More failed ones than this are counted, not listed.
const FAILED_SHOWN: usize = 10;

/// Wait until containers have ended; exits 0 if all were Complete with exit code 0, else 1
///
/// Shows a progress bar on a terminal. Ctrl-C ends the wait, not the containers. A daemon that is restarted
/// meanwhile is waited for.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  muster wait UUID1 UUID2\n  muster wait --name 'align*'\n  muster submit --array 1-9 -- true | muster wait -"
)]
pub(super) struct Options {
    #[command(flatten)]
    selected: Selected,
}

pub(super) fn run(global: &Global, options: &Options) -> Result<u8, Failure> {
    let client = Client::new(global)?;
    let selection = options.selected.selection()?;
    let wait = Wait { uuids: selection.uuids, name: selection.name, state: selection.state, ..Wait::default() };
    let answer = wait_for(&client, wait)?;
    for unknown in &answer.unknown {
        say(&format!("muster: there is no container {unknown}"));
    }
    for failed in answer.failed.iter().take(FAILED_SHOWN) {
        say(&ending(failed));
    }
    if answer.failed.len() > FAILED_SHOWN {
        say(&format!("… and {} more that failed", answer.failed.len() - FAILED_SHOWN));
    }
    Ok(match (answer.unknown.is_empty(), answer.failed.is_empty()) {
        (false, _) => exit::NOT_FOUND,
        (true, false) => exit::FAILED,
        (true, true) => exit::DONE,
    })
}

/// `submit --wait`: one container's exit code, or 0 and 1 for several.
pub(super) fn for_submitted(client: &Client, uuids: Vec<String>) -> Result<u8, Failure> {
    let answer = wait_for(client, Wait { uuids, ..Wait::default() })?;
    for failed in answer.failed.iter().take(FAILED_SHOWN) {
        say(&ending(failed));
    }
    match &answer.only {
        Some(only) if only.state == "Complete" => {
            Ok(u8::try_from(only.exit_code.unwrap_or(1) & 0xff).unwrap_or(exit::FAILED))
        }
        Some(_) => Ok(exit::CANCELLED),
        None => Ok(if answer.failed.is_empty() { exit::DONE } else { exit::FAILED }),
    }
}

fn ending(record: &ContainerRecord) -> String {
    let how = match (record.exit_code, record.status.as_str()) {
        (Some(code), "") => format!("exit code {code}"),
        (Some(code), text) => format!("exit code {code}; {text}"),
        (None, text) => text.to_owned(),
    };
    format!("{} is {}: {how}", record.uuid, record.state).trim_end_matches(": ").to_owned()
}

fn wait_for(client: &Client, mut wait: Wait) -> Result<WaitAnswer, Failure> {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template("[{bar:40}] {pos}/{len} ended, {msg}, {elapsed}") {
        bar.set_style(style.progress_chars("=> "));
    }
    // The first answer comes at once: it says what is asked for and unknown.
    loop {
        let answer: WaitAnswer =
            client.patiently(|client| client.post("containers/wait", &wait), |text| bar.suspend(|| say(text)))?;
        bar.set_length(u64::try_from(answer.total).unwrap_or(u64::MAX));
        bar.set_message(format!("{} running", answer.running));
        bar.set_position(u64::try_from(answer.finished).unwrap_or(u64::MAX));
        if answer.finished + answer.unknown.len() >= answer.total {
            bar.finish_and_clear();
            return Ok(answer);
        }
        wait.known_final = answer.finished;
        wait.wait_s = WAIT_SECONDS;
    }
}
