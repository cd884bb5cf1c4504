//! `muster-runner`: runs one container on a worker and answers its dispatcher (spec 50, 52). Each call does one thing and ends.
//!
//! `args` reads the command line; `place`, `lock` and `attempts` are the files on disk; `start` → `run` → `execute` → `job` is a
//! container's life, with `process` or `engine`, and `user`, `stream` and `outputs`; `list`, `kill`, `results`, `release` and `facts`
//! are the other commands; `owner` says who has the machine, `remove` takes away what a job left, `trouble` what its engines' errors
//! mean; `watchdog` powers a machine off that nobody asks for; `procs`, `cgroup`, `kmsg`, `signals` and `poll` ask the kernel; `null` is streams
//! of nothing. Exit status: 0 done, 1 failed, 2 wrong usage. One thread.

mod args;
mod attempts;
mod cgroup;
mod engine;
mod error;
mod execute;
mod facts;
mod handle;
mod job;
mod kill;
mod kmsg;
mod list;
mod lock;
mod null;
mod outputs;
mod owner;
mod place;
mod poll;
mod process;
mod procs;
mod program;
mod release;
mod remove;
mod results;
mod run;
mod signals;
mod start;
mod stream;
mod trouble;
mod user;
mod watchdog;

use std::io::Write;
use std::process::ExitCode;

use args::{Args, Command};
use error::{Error, Result};
use place::Place;

fn main() -> ExitCode {
    // The modes that are given where files are made count, and jobs start with the usual one, whatever the caller has.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    match words().and_then(|words| args::parse(&words).and_then(|args| execute(&args, &words))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody may be there to read it.
            let _ = writeln!(std::io::stderr(), "muster-runner: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

fn words() -> Result<Vec<String>> {
    let words = std::env::args_os().skip(1).map(std::ffi::OsString::into_string);
    words.collect::<std::result::Result<_, _>>().map_err(|word| Error::Usage(format!("{word:?} is not UTF-8 text")))
}

fn execute(args: &Args, words: &[String]) -> Result<()> {
    let attempt = || args.attempt.ok_or_else(|| Error::Usage("--attempt N is missing".into()));
    match &args.command {
        Command::Help => print(args::HELP),
        Command::Version => print(&format!("{}\n", muster_runner::protocol::version_line())),
        Command::Detach { uuid } => start::detach(args, uuid, words),
        Command::Supervise { uuid } => run::supervise(args, uuid),
        Command::Facts => facts::facts(&Place::open(args)?),
        Command::List { prices, wait_s, known } => {
            let options = list::Options {
                prices: *prices,
                wait_s: *wait_s,
                known: known.as_deref(),
                lease: args.lease.as_deref(),
            };
            let place = Place::open(args)?;
            if let Err(error) = watchdog::asked(args, &place) {
                // A list that fails for this would cost the machine all the same, and its containers.
                let _ = writeln!(std::io::stderr(), "muster-runner: {error}");
            }
            list::list(&place, &options)
        }
        Command::Kill { signal, uuid, wait_s } => kill::kill(&Place::open(args)?, uuid, args.attempt, *signal, *wait_s),
        Command::Watchdog => watchdog::watch(&Place::open(args)?),
        Command::Release { lease } => release::release(&Place::open(args)?, lease),
        Command::Reap { uuid } => kill::reap(&Place::open(args)?, uuid, args.attempt),
        Command::Collect { uuid } => results::collect(&Place::open(args)?, uuid, attempt()?),
        Command::Forget { uuid, keep_outputs } => results::forget(&Place::open(args)?, uuid, attempt()?, *keep_outputs),
        Command::Tail { uuid, stream, offset, wait_s } => {
            results::tail(&Place::open(args)?, uuid, attempt()?, stream, *offset, *wait_s)
        }
    }
}

fn print(text: &str) -> Result<()> {
    std::io::stdout()
        .lock()
        .write_all(text.as_bytes())
        .map_err(|source| Error::Io { what: "cannot write to standard output".into(), source })
}
