//! The scripts that a dispatcher has `sh` run, known by what is in their text: the deployment's, and those that take and release a host
//! of the driver `static`. What the real ones do is in `src/remote/deploy/script.sh` and `src/cloud/static_hosts`.

use muster_runner::protocol::version_line;

use crate::exec::{Run, Sink};
use crate::runner::{OWNER, facts_line};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Script {
    /// Makes the owner file.
    Claim,
    /// Removes it where no runner is.
    GiveBackUnused,
    /// With `check` or `install` as its first argument.
    Deploy,
    /// Brings the runner if something comes on standard input.
    Unknown,
}

impl Script {
    fn of(text: &str) -> Self {
        let known =
            [("echo claimed", Self::Claim), ("echo released", Self::GiveBackUnused), ("judge_all()", Self::Deploy)];
        known.into_iter().find(|(mark, _)| text.contains(mark)).map_or(Self::Unknown, |(_, script)| script)
    }
}

/// Runs `sh -c TEXT sh ARGUMENT …`; its status.
pub(crate) async fn execute(run: &mut Run, words: &[String], sink: &Sink) -> u32 {
    let argument = |index: usize| words.get(index + 3).map(String::as_str).unwrap_or_default();
    let bytes = run.stdin.ended().await;
    let (text, status) = match Script::of(words.get(1).map(String::as_str).unwrap_or_default()) {
        Script::Claim => (claim(run, argument(0), argument(1)), 0),
        Script::GiveBackUnused => give_back_unused(run, argument(0), argument(1)),
        Script::Deploy => deploy(run, argument(0), (argument(1), argument(2)), bytes),
        Script::Unknown => (if bring(run, bytes) { "ok\n".to_owned() } else { String::new() }, 0),
    };
    sink.stdout(&mut run.output, text.as_bytes());
    status
}

/// The owner file is made only where there is none.
fn claim(run: &Run, set: &str, holding: &str) -> String {
    run.shared.change(|state| match state.files.get(OWNER) {
        None => {
            state.files.insert(OWNER.to_owned(), owner_text(set, holding).into_bytes());
            "claimed\n".to_owned()
        }
        Some(owner) => format!("held\n{}", String::from_utf8_lossy(owner)),
    })
}

fn owner_text(set: &str, holding: &str) -> String {
    format!("{set}\n{holding}\n")
}

/// Where no runner could be put: only if nothing was ever started.
fn give_back_unused(run: &Run, set: &str, holding: &str) -> (String, u32) {
    run.shared.change(|state| {
        if !state.worker.starts.is_empty() {
            return ("used\n".to_owned(), 0);
        }
        if state.files.get(OWNER).is_none_or(|owner| *owner != owner_text(set, holding).into_bytes()) {
            return (String::new(), 1);
        }
        state.files.remove(OWNER);
        ("released\n".to_owned(), 0)
    })
}

/// True if the runner is there afterwards.
fn bring(run: &Run, bytes: u64) -> bool {
    run.shared.change(|state| {
        state.counters.uploaded_bytes += bytes;
        state.deployed |= bytes > 0;
        state.deployed
    })
}

fn deploy(run: &Run, task: &str, (directory, name): (&str, &str), bytes: u64) -> (String, u32) {
    if run.shared.faults.borrow().no_runner || !bring(run, bytes) {
        return if task == "check" { ("missing\n".to_owned(), 0) } else { (String::new(), 1) };
    }
    (format!("ok {directory}/{name}\n{}\n{}", version_line(), facts_line(run)), 0)
}
