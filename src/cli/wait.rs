//! `muster wait`: until all are final; a progress bar on a terminal.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::client::Client;
use super::exit::{self, Failure};
use super::output::say;
use super::selection::Selected;
use super::{Global, list};
use crate::management::records::{ContainerRecord, Wait, WaitAnswer};
use crate::shell::threads;

const WAIT_SECONDS: f64 = 20.0;
/// The list is sent again for each answer: not more than a few hundred kilobytes.
const UUIDS_PER_WAIT: usize = 10_000;
/// What shells show for a process that SIGINT ended.
const INTERRUPTED: i32 = 130;
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
    let mut uuids = selection.uuids;
    // Once: what a filter finds later is not what was asked for, and what has ended must not drop out of it.
    if selection.name.is_some() || selection.state.is_some() {
        uuids.extend(list::matching(&client, selection.name.as_deref(), selection.state.as_deref())?);
    }
    if uuids.is_empty() {
        return Err(Failure::NotFound("nothing matches".to_owned()));
    }
    say_on_interrupt();
    let answer = wait_for(&client, uuids)?;
    for unknown in &answer.unknown {
        say(&format!("muster: there is no container {unknown}"));
    }
    for failed in answer.failed.iter().take(FAILED_SHOWN) {
        say(&format!("muster: {}", ending(failed)));
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
    say_on_interrupt();
    let answer = wait_for(client, uuids)?;
    for failed in answer.failed.iter().take(FAILED_SHOWN) {
        say(&format!("muster: {}", ending(failed)));
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

/// Ctrl-C ends the wait only: said, since people expect otherwise.
fn say_on_interrupt() {
    let Ok(mut signals) = signal_hook::iterator::Signals::new([signal_hook::consts::SIGINT]) else {
        return;
    };
    let told = move || {
        if signals.forever().next().is_some() {
            say("muster: not waiting any longer; the containers go on");
            leave(INTERRUPTED);
        }
    };
    // Without the thread Ctrl-C ends the process without a word, as it always does.
    let _ = threads::start_part("interrupt", told);
}

#[expect(clippy::exit, reason = "the main thread waits for an answer that may take long")]
fn leave(code: i32) {
    std::process::exit(code);
}

fn new_bar(total: usize) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template("[{bar:40}] {pos}/{len} ended, {msg}, {elapsed}") {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_length(u64::try_from(total).unwrap_or(u64::MAX));
    bar
}

/// In parts that fit a request, one after the other: all have to end anyway.
fn wait_for(client: &Client, uuids: Vec<String>) -> Result<WaitAnswer, Failure> {
    let bar = new_bar(uuids.len());
    let mut all = WaitAnswer::default();
    for part in uuids.chunks(UUIDS_PER_WAIT) {
        let answer = wait_for_part(client, part, &bar, all.finished)?;
        all.total += answer.total;
        all.finished += answer.finished;
        all.failed.extend(answer.failed);
        all.unknown.extend(answer.unknown);
        all.only = if uuids.len() == 1 { answer.only } else { None };
    }
    bar.finish_and_clear();
    Ok(all)
}

fn wait_for_part(client: &Client, part: &[String], bar: &ProgressBar, before: usize) -> Result<WaitAnswer, Failure> {
    let mut wait = Wait { uuids: part.to_vec(), ..Wait::default() };
    // The first answer comes at once: it says what is asked for and unknown.
    loop {
        let notice = |text: &str| bar.suspend(|| say(&format!("muster: {text}")));
        let answer: WaitAnswer = client.patiently(|client| client.post("containers/wait", &wait), notice)?;
        bar.set_message(format!("{} running", answer.running));
        bar.set_position(u64::try_from(before + answer.finished).unwrap_or(u64::MAX));
        if answer.finished + answer.unknown.len() >= answer.total {
            return Ok(answer);
        }
        wait.known_final = answer.finished;
        wait.wait_s = WAIT_SECONDS;
    }
}
