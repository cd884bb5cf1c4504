//! `muster logs`: output of a finished or running container.

use super::Global;
use super::client::{Client, encode};
use super::exit::{self, Failure};
use super::output::{Output, say};
use crate::management::records::{ATTEMPT_HEADER, END_HEADER, NEXT_OFFSET_HEADER};

const WAIT_SECONDS: u32 = 20;

/// Print what a container wrote to its standard output
///
/// Works while it runs, too; -f follows until it has ended. Long output keeps its beginning and its end; the cut is
/// marked.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  muster logs UUID\n  muster logs -f --stderr UUID")]
pub(super) struct Options {
    #[arg(value_name = "UUID")]
    uuid: String,
    /// Go on until the container has ended
    #[arg(short, long)]
    follow: bool,
    /// Standard error instead of standard output
    #[arg(long)]
    stderr: bool,
    /// Of this attempt [default: the last]
    #[arg(long, value_name = "N")]
    attempt: Option<u32>,
}

pub(super) fn run(global: &Global, options: &Options) -> Result<u8, Failure> {
    let client = Client::new(global)?;
    let stream = if options.stderr { "stderr" } else { "stdout" };
    let wait = if options.follow { WAIT_SECONDS } else { 0 };
    let mut attempt = options.attempt;
    let mut offset: u64 = 0;
    let mut output = Output::new();
    loop {
        let number = attempt.map(|attempt| format!("&attempt={attempt}")).unwrap_or_default();
        let path =
            format!("containers/{}/logs?stream={stream}&offset={offset}&wait_s={wait}{number}", encode(&options.uuid));
        let request = |client: &Client| client.call("GET", &path, b"");
        let answer = if options.follow { client.patiently(request, say)? } else { request(&client)? };
        let header = |name: &str| answer.header(name).unwrap_or_default();
        let next: u64 = header(NEXT_OFFSET_HEADER).parse().unwrap_or(offset + answer.body.len() as u64);
        let this: u32 = header(ATTEMPT_HEADER).parse().unwrap_or(0);
        // One attempt's output from its beginning: what a later one writes is another stream.
        if attempt.is_none() && this > 0 && !answer.body.is_empty() {
            attempt = Some(this);
        }
        output.bytes(&answer.body)?;
        output.flush()?;
        offset = next;
        if header(END_HEADER) == "true" || !options.follow && answer.body.is_empty() {
            return Ok(exit::DONE);
        }
    }
}
