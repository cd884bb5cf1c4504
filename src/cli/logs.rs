//! `muster logs`: output of a finished or running container, from attempt to attempt.

use super::Global;
use super::client::{Client, encode};
use super::exit::{self, Failure};
use super::output::{Sink, say};
use crate::management::records::{
    ATTEMPT_HEADER, AttemptRecord, ContainerDetail, END_HEADER, NEXT_OFFSET_HEADER, is_final_state,
};
use crate::shell::threads;

const WAIT_SECONDS: u32 = 20;

/// Print what a container wrote to its standard output
///
/// Works while it runs, too; -f follows until it has ended. When its runner or instance is lost, and another attempt is made, -f says so
/// and goes on with that one, from its beginning. Long output keeps its beginning and its end, and the cut is marked; what lies behind the
/// beginning comes when the container has ended.
#[derive(Clone, Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  muster logs UUID\n  muster logs -f --both UUID\n  muster logs --stderr --attempt 1 UUID"
)]
pub(super) struct Options {
    #[arg(value_name = "UUID")]
    uuid: String,
    /// Go on until the container has ended
    #[arg(short, long)]
    follow: bool,
    /// Standard error instead of standard output
    #[arg(long)]
    stderr: bool,
    /// Both: its standard output to ours, its standard error to ours
    #[arg(long, conflicts_with = "stderr")]
    both: bool,
    /// Of this attempt only [default: the last]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    attempt: Option<u32>,
}

pub(super) fn run(global: &Global, options: &Options) -> Result<u8, Failure> {
    let stream = |client, is_stderr, speaks| Stream { client, options: options.clone(), is_stderr, speaks };
    if !options.both {
        return stream(Client::new(global)?, options.stderr, true).copy_all(&mut Sink::stdout());
    }
    let errors = stream(Client::new(global)?, true, false);
    let (sender, receiver) = crossbeam_channel::bounded(1);
    let copy_errors = move || drop(sender.send(errors.copy_all(&mut Sink::stderr())));
    let _thread = threads::start_part("stderr", copy_errors)
        .map_err(|error| Failure::Failed(format!("cannot start a thread: {error}")))?;
    let output = stream(Client::new(global)?, false, true).copy_all(&mut Sink::stdout());
    // Whoever read our output has gone, or it went wrong: then the rest is not waited for.
    let code = output?;
    receiver.recv().unwrap_or(Ok(exit::FAILED)).map(|errors| errors.max(code))
}

/// One of a container's two streams, and how it is to be copied.
struct Stream {
    client: Client,
    options: Options,
    is_stderr: bool,
    /// Tells what becomes of attempts; of two streams one does.
    speaks: bool,
}

/// What was copied of one attempt.
struct Copied {
    /// 0 = none has begun.
    attempt: u32,
    bytes: u64,
    /// Nothing more will come of it.
    is_all: bool,
}

impl Stream {
    fn copy_all(&self, output: &mut Sink) -> Result<u8, Failure> {
        if let Some(attempt) = self.options.attempt.filter(|_| self.options.follow) {
            // One that is to come would be waited for: only the next of a lost one is.
            self.piece(Some(attempt), 0, 0)?;
        }
        let mut attempt = self.options.attempt;
        loop {
            let copied = self.copy(attempt, output)?;
            attempt = match self.what_follows(&copied)? {
                Some(next) => Some(next),
                None => return Ok(exit::DONE),
            };
        }
    }

    /// One attempt's output from its beginning: what a later one writes is another stream.
    fn copy(&self, attempt: Option<u32>, output: &mut Sink) -> Result<Copied, Failure> {
        let wait = if self.options.follow { WAIT_SECONDS } else { 0 };
        let mut copied = Copied { attempt: attempt.unwrap_or(0), bytes: 0, is_all: false };
        loop {
            let wanted = Some(copied.attempt).filter(|attempt| *attempt > 0);
            let piece = self.piece(wanted, copied.bytes, wait)?;
            output.bytes(&piece.bytes)?;
            output.flush()?;
            let is_empty = piece.bytes.is_empty();
            copied = Copied { attempt: piece.attempt, bytes: piece.next_offset, is_all: piece.is_last };
            if copied.is_all || !self.options.follow && is_empty {
                return Ok(copied);
            }
        }
    }

    fn piece(&self, attempt: Option<u32>, offset: u64, wait: u32) -> Result<Piece, Failure> {
        let stream = if self.is_stderr { "stderr" } else { "stdout" };
        let number = attempt.map(|attempt| format!("&attempt={attempt}")).unwrap_or_default();
        let uuid = encode(&self.options.uuid);
        let path = format!("containers/{uuid}/logs?stream={stream}&offset={offset}&wait_s={wait}{number}");
        let answer = self.ask(|client| client.call("GET", &path, b""))?;
        let header = |name: &str| answer.header(name).unwrap_or_default();
        let next_offset = header(NEXT_OFFSET_HEADER).parse().unwrap_or(offset + answer.body.len() as u64);
        let is_last = header(END_HEADER) == "true";
        let attempt = header(ATTEMPT_HEADER).parse().unwrap_or(0);
        Ok(Piece { bytes: answer.body, next_offset, is_last, attempt })
    }

    /// While following, a daemon that is being restarted is waited for.
    fn ask<T>(&self, request: impl Fn(&Client) -> Result<T, Failure>) -> Result<T, Failure> {
        let notice = |text: &str| self.tell(text);
        if self.options.follow { self.client.patiently(request, notice) } else { request(&self.client) }
    }

    /// The attempt to go on with. Whatever is to be said of this one is said.
    fn what_follows(&self, copied: &Copied) -> Result<Option<u32>, Failure> {
        if copied.bytes > 0 && !copied.is_all {
            return Ok(None);
        }
        let uuid = &self.options.uuid;
        let detail: ContainerDetail = self.ask(|client| client.get(&format!("containers/{}", encode(uuid))))?;
        let is_over = is_final_state(&detail.container.state);
        let Some(record) = detail.attempts.iter().find(|record| record.attempt == copied.attempt) else {
            if is_over && detail.attempts.is_empty() {
                return Err(Failure::Failed(format!("{uuid} never ran: {}", detail.container.status)));
            }
            if is_over {
                self.tell(&format!("attempt {} was not made: {}", copied.attempt, detail.container.status));
                return Ok(None);
            }
            self.tell(&format!("{uuid} has not begun yet; -f waits for it"));
            return Ok(None);
        };
        let (number, next) = (record.attempt, record.attempt + 1);
        // One with a result may be lost too; what decided the container's end was not.
        let is_lost = !is_over || detail.container.attempt > number || record.collected == Some(false);
        if record.finished_at.is_none() || !is_lost {
            return self.kept(copied, record).map(|()| None);
        }
        let lost = format!("attempt {number} was lost ({})", record.ended_because);
        let goes_on = self.options.attempt.is_none() && (!is_over || detail.container.attempt > number);
        if goes_on {
            self.tell(&format!("{lost}; attempt {next} follows"));
            return Ok(Some(next).filter(|_| self.options.follow));
        }
        if copied.bytes == 0 && record.result_dir.is_none() && !self.options.follow {
            return Err(Failure::Failed(format!("{lost}, and its output with it")));
        }
        self.tell(&lost);
        Ok(None)
    }

    /// No output is no news, unless somebody has removed it.
    fn kept(&self, copied: &Copied, record: &AttemptRecord) -> Result<(), Failure> {
        if record.collected != Some(false)
            && record.finished_at.is_some()
            && record.result_dir.is_none()
            && copied.bytes == 0
        {
            let (attempt, uuid) = (record.attempt, &self.options.uuid);
            return Err(Failure::NotFound(format!(
                "the results of attempt {attempt} of {uuid} are not there any more"
            )));
        }
        Ok(())
    }

    fn tell(&self, text: &str) {
        if self.speaks {
            say(&format!("muster: {text}"));
        }
    }
}

struct Piece {
    bytes: Vec<u8>,
    next_offset: u64,
    is_last: bool,
    attempt: u32,
}
