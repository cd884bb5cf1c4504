//! Giving a host back (spec 46 §1): TERM to our runners there, what is left of them reaped, what is finished forgotten; then the broken
//! mark, the secret and the owner file go. Every step may be repeated; the owner file goes last, so that nobody else has the host before.

use std::time::{Duration, Instant};

use super::HostStep;
use super::claim::{place, run, script, shown};
use super::host::{Kind, Problem};
use super::shared::Shared;
use crate::core::errors::chain;
use crate::core::settings::COMMAND_DEADLINE;
use crate::core::worker::listing::RunnerState;
use crate::remote::runner::{CommandError, ListError, Runner, RunnerPlaces};
use crate::remote::wake::Wake;
use crate::remote::{ExecuteError, Executor};

/// For the first answer. The containers of a host that stopped answering wait for this before they get another attempt.
const REACH_LIMIT: Duration = Duration::from_secs(15);
const SCRIPT_LIMIT: Duration = Duration::from_secs(60);
/// A runner gives its job 10 s between TERM and KILL, and then writes the result.
const ENDING_LIMIT: Duration = Duration::from_secs(120);
/// Between two looks, unless the runner itself waited.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// For Arvados' sake (spec 20 §8).
const SECRET_FILE: &str = "/var/run/arvados-instance-secret";

/// `$1` = the directory of programs, empty for the default. Prints the path of the newest runner; nothing if none was ever there.
/// Fails for a program that somebody else could have put there.
const FIND_RUNNER: &str = r#"set -eu
directory=$1
if [ -z "$directory" ]; then
    if [ "$(id -u)" = 0 ]; then directory=/var/lib/muster-runner/bin; else directory=$HOME/.cache/muster-runner/bin; fi
fi
[ -d "$directory" ] || exit 0
names=$(ls -1t "$directory")
printf '%s\n' "$names" | while IFS= read -r name; do
    case $name in *.new.*) continue ;; muster-runner~*) ;; *) continue ;; esac
    program=$directory/$name
    user=$(stat -c %u "$program")
    if [ "$user" != 0 ] && [ "$user" != "$(id -u)" ]; then echo "$program belongs to user $user" >&2; exit 1; fi
    case $(stat -c %A "$program") in
        ?????w????|????????w?) echo "$program is writable for others" >&2; exit 1 ;;
    esac
    printf '%s\n' "$program"
    break
done
"#;

/// `$1` = set id, `$2` = the runner's directory, `$3` = its locks, empty for the defaults, `$4` = the secret file. Prints `released`,
/// or `foreign` and who has the host: then nothing there is ours.
const RELEASE: &str = r#"set -eu
set_id=$1
directory=$2
locks=$3
if [ "$(id -u)" = 0 ]; then
    directory=${directory:-/var/lib/muster-runner}
    default_locks='/run/lock /var/lock'
else
    directory=${directory:-$HOME/.local/state/muster-runner}
    default_locks=/tmp/muster-runner-$(id -u)
fi
owner=$directory/owner
if [ -e "$owner" ]; then
    other=$(head -c 256 "$owner")
    if [ "$other" != "$set_id" ]; then printf 'foreign %s\n' "$other"; exit 0; fi
fi
if [ -n "$locks" ]; then
    rm -f "$locks/crunch-run-broken"
else
    for locks in $default_locks; do rm -f "$locks/crunch-run-broken"; done
fi
rm -f "$4" 2>/dev/null || [ "$(id -u)" != 0 ]
rm -f "$owner"
echo released
"#;

/// How a clean-up ended that succeeded.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Released {
    /// Nothing of ours is there.
    Clean,
    /// Another dispatcher has it meanwhile: its marks were left alone.
    Foreign(String),
}

fn of_execute(error: ExecuteError) -> Problem {
    Problem::of_execute(&error)
}

/// Ends everything of `set` on the host, and releases it.
pub(super) fn clean(
    shared: &Shared,
    executor: &std::sync::Arc<dyn Executor>,
    cluster_id: &str,
    places: RunnerPlaces,
) -> Result<Released, Problem> {
    let (directory, locks) = (place(places.state_dir.as_ref()), place(places.lock_dir.as_ref()));
    let found = find_runner(&**executor, places.directory.as_deref().unwrap_or_default())?;
    if let Some(program) = places.program.clone().or(found) {
        let (set, cluster_id) = (shared.set.as_str().into(), cluster_id.into());
        end_runners(shared, &Runner::at(&program, executor.clone(), places.into(), set, cluster_id))?;
    }
    (shared.reached)(HostStep::Ended);
    let program = script(RELEASE, &[&shared.set, &directory, &locks, SECRET_FILE]);
    let output = run(&**executor, program, SCRIPT_LIMIT).map_err(of_execute)?;
    let answer = String::from_utf8_lossy(&output.stdout);
    match (output.succeeded(), answer.trim_end()) {
        (true, "released") => {
            (shared.reached)(HostStep::Released);
            Ok(Released::Clean)
        }
        (true, answer) if answer.starts_with("foreign ") => {
            Ok(Released::Foreign(shown(answer.trim_start_matches("foreign "))))
        }
        _ => Err(Problem::of_output("releasing the host", &output)),
    }
}

fn find_runner(executor: &dyn Executor, directory: &str) -> Result<Option<String>, Problem> {
    let output = run(executor, script(FIND_RUNNER, &[directory]), REACH_LIMIT).map_err(of_execute)?;
    if !output.succeeded() {
        return Err(Problem::of_output("looking for the runner", &output));
    }
    let path = String::from_utf8_lossy(&output.stdout).trim_end().to_owned();
    match path.as_str() {
        "" => Ok(None),
        path if path.starts_with('/') && !path.contains('\n') => Ok(Some(path.to_owned())),
        path => Err(Problem { kind: Kind::Failed, detail: format!("{:?} is not the path of a runner", shown(path)) }),
    }
}

/// Until the runner's list is empty.
fn end_runners(shared: &Shared, runner: &Runner) -> Result<(), Problem> {
    let failed = |detail: String| Problem { kind: Kind::Failed, detail };
    let wake = Wake::new().map_err(|error| failed(format!("cannot list what runs there: {error}")))?;
    let deadline = Instant::now() + ENDING_LIMIT;
    loop {
        let listing = runner.list(None, Duration::ZERO, COMMAND_DEADLINE, &wake).map_err(|error| match &error {
            ListError::Execute(execute) => Problem::of_execute(execute),
            _ => failed(format!("cannot list what runs there: {}", shown(&chain(&error)))),
        })?;
        if listing.runners.is_empty() {
            return Ok(());
        }
        let mut left = Vec::new();
        for (uuid, listed) in &listing.runners {
            let result = match listed.state {
                RunnerState::Alive => runner.kill(uuid, listed.attempt),
                RunnerState::Stale => runner.reap(uuid, listed.attempt),
                RunnerState::Finished => runner.forget(uuid, listed.attempt),
            };
            match result {
                Ok(()) => {}
                Err(CommandError::Execute(error)) => return Err(Problem::of_execute(&error)),
                Err(error) => left.push(shown(&error.text())),
            }
        }
        if Instant::now() >= deadline {
            return Err(failed(format!(
                "{} containers do not end: {}",
                listing.runners.len(),
                shown(&left.join("; "))
            )));
        }
        if !left.is_empty() {
            shared.pause(LOOK_AGAIN);
        }
        if shared.is_stopped() {
            return Err(Problem { kind: Kind::Unreachable, detail: "the driver has stopped".to_owned() });
        }
    }
}
