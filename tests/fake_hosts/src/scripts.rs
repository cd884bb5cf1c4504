//! The scripts that a dispatcher has `sh` run, known by what is in their text: the deployment's, and those that take and release a host
//! of the driver `static`. What the real ones do is in `src/remote/deploy/script.sh` and `src/cloud/static_hosts`.

use muster_runner::protocol::version_line;

use crate::exec::{Run, Sink};
use crate::runner::facts_line;

/// Where programs are put without a directory of the operator's, and what the one that is there is called.
const PROGRAMS: &str = "/var/lib/muster-runner/bin";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Script {
    /// Makes the owner file.
    Claim,
    /// Removes it.
    Release,
    FindRunner,
    /// With `check` or `install` as its first argument.
    Deploy,
    /// Brings the runner if something comes on standard input.
    Unknown,
}

impl Script {
    fn of(text: &str) -> Self {
        let known = [
            ("echo claimed", Self::Claim),
            ("echo released", Self::Release),
            ("ls -1t", Self::FindRunner),
            ("judge_all()", Self::Deploy),
        ];
        known.into_iter().find(|(mark, _)| text.contains(mark)).map_or(Self::Unknown, |(_, script)| script)
    }
}

/// Runs `sh -c TEXT sh ARGUMENT …`; its status.
pub(crate) async fn execute(run: &mut Run, words: &[String], sink: &Sink) -> u32 {
    let argument = |index: usize| words.get(index + 3).map(String::as_str).unwrap_or_default();
    let bytes = run.stdin.ended().await;
    let (text, status) = match Script::of(words.get(1).map(String::as_str).unwrap_or_default()) {
        Script::Claim => (claim(run, argument(0)), 0),
        Script::Release => (release(run, argument(0)), 0),
        Script::FindRunner => (find_runner(run, argument(0)), 0),
        Script::Deploy => deploy(run, argument(0), (argument(1), argument(2)), bytes),
        Script::Unknown => (if bring(run, bytes) { "ok\n".to_owned() } else { String::new() }, 0),
    };
    sink.stdout(&mut run.output, text.as_bytes());
    status
}

/// The owner file is made only where there is none.
fn claim(run: &Run, set: &str) -> String {
    run.shared.change(|state| match &state.owner {
        None => {
            state.owner = Some(set.to_owned());
            "claimed\n".to_owned()
        }
        Some(owner) if owner == set => "ours\n".to_owned(),
        Some(owner) => format!("foreign {owner}\n"),
    })
}

fn release(run: &Run, set: &str) -> String {
    let other = run.shared.change(|state| match &state.owner {
        Some(owner) if owner != set => Some(owner.clone()),
        _ => {
            state.owner = None;
            state.files.remove(crate::host::SECRET_FILE);
            None
        }
    });
    if other.is_none() {
        run.shared.change_list(|worker| worker.broken = false);
    }
    other.map_or_else(|| "released\n".to_owned(), |owner| format!("foreign {owner}\n"))
}

fn find_runner(run: &Run, directory: &str) -> String {
    let directory = if directory.is_empty() { PROGRAMS } else { directory };
    if run.shared.state().deployed { format!("{directory}/muster-runner~fake\n") } else { String::new() }
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
