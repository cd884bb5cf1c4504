//! Giving a host back (spec 46 §1): TERM to our runners there, what is left of them reaped; then the secret, the broken mark and the owner
//! file go. Every step may be repeated; the owner file goes last, so that nobody else has the host before.
//!
//! The host is made ours first, if it is nobody's: what is ended is ours then, and nobody else's. A runner of this daemon's own version
//! is put there, whatever was there before, and it gives the host back under the lock that starts take: a start that is still on its way
//! finds the lease over. Results that nobody has collected stay for the set's next life there, and are collected late (spec 70 §3).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::HostStep;
use super::claim::{Claim, Claimed, place, run, script, shown};
use super::host::{HostSpec, Kind, Problem};
use super::owner::{Holding, LeaseId};
use super::shared::Shared;
use crate::core::errors::chain;
use crate::core::ids::{Attempt, ContainerUuid};
use crate::core::settings::COMMAND_DEADLINE;
use crate::core::worker::listing::{Listed, Listing, RunnerState};
use crate::remote::deploy::{DeployError, deploy};
use crate::remote::runner::{CommandError, ListError, Runner, RunnerPlaces};
use crate::remote::supply::RunnerSupply;
use crate::remote::wake::Wake;
use crate::remote::{Executor, Program};

/// For the first answer. The containers of a host that stopped answering wait for this before they get another attempt.
const REACH_LIMIT: Duration = Duration::from_secs(15);
const SCRIPT_LIMIT: Duration = Duration::from_secs(60);
/// A runner gives its job 10 s between TERM and KILL, and then writes the result.
const ENDING_LIMIT: Duration = Duration::from_secs(120);
/// TERM is repeated after so long (TimeoutSignal's default); a list waits for a change in between.
const SIGNAL_AGAIN: Duration = Duration::from_secs(5);
/// Between two looks where nothing announces a change.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// For Arvados' sake (spec 20 §8).
const SECRET_FILE: &str = "/var/run/arvados-instance-secret";

/// Gives a host back that no runner can be put on, if none has ever started anything there in our name: an attempt has a directory before
/// anything of it runs, and only then looks for the owner file. So one of the two is seen, whoever comes first.
///
/// `$1` = set id, `$2` = name and lease, `$3` = the runner's directory, empty for the default. Prints `released`, or `used`.
const GIVE_BACK_UNUSED: &str = r#"set -eu
directory=$3
if [ -z "$directory" ]; then
    if [ "$(id -u)" = 0 ]; then directory=/var/lib/muster-runner
    else directory=$HOME/.local/state/muster-runner/$(uname -n); fi
fi
owner=$directory/owner
attempts=$directory/set-$1
if [ -e "$attempts" ]; then echo used; exit 0; fi
if [ "$(head -c 1024 "$owner")" != "$(printf '%s\n%s' "$1" "$2")" ]; then echo "$owner has changed" >&2; exit 1; fi
aside=$(mktemp "$directory/owner.XXXXXX")
mv -f "$owner" "$aside"
if [ -e "$attempts" ]; then ln "$aside" "$owner"; rm -f "$aside"; echo used; exit 0; fi
# Another life may have begun since the look at it.
if [ "$(head -c 1024 "$aside")" != "$(printf '%s\n%s' "$1" "$2")" ]; then
    ln "$aside" "$owner"
    rm -f "$aside"
    echo "$owner has changed" >&2
    exit 1
fi
rm -f "$aside"
echo released
"#;

/// How a clean-up ended that succeeded.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Released {
    /// Nothing of ours is there.
    Clean,
    /// It is not ours any more, for this reason: nothing there was touched.
    NotOurs(Problem),
}

/// One clean-up.
pub(super) struct Cleanup<'a> {
    pub(super) shared: &'a Shared,
    pub(super) executor: &'a Arc<dyn Executor>,
    pub(super) supply: &'a Arc<RunnerSupply>,
    pub(super) places: RunnerPlaces,
}

fn failed(detail: String) -> Problem {
    Problem { kind: Kind::Failed, detail }
}

impl Cleanup<'_> {
    /// Ends everything of the set on the host, and gives the host back.
    pub(super) fn run(self, spec: &HostSpec, lease: LeaseId) -> Result<Released, Problem> {
        let asked = Holding { name: spec.id.to_string(), lease };
        let claim = Claim {
            executor: &**self.executor,
            set: &self.shared.set,
            holding: &asked,
            places: &self.places,
            holder: &|lease| self.shared.holder(lease, &spec.id),
        };
        let holding = match claim.ask(REACH_LIMIT) {
            Ok(Claimed::Held) => asked,
            // Asked once more: had it been given back since, and taken by another name of the machine, that one would be known now.
            Ok(Claimed::Forgotten(holding)) => match claim.ask(REACH_LIMIT) {
                Ok(Claimed::Forgotten(again)) if again == holding => holding,
                Ok(_) => return Err(failed("its owner file has changed meanwhile".to_owned())),
                Err(unanswered) => return Err(unanswered.problem),
            },
            Ok(Claimed::Not(problem)) if problem.is_elsewhere() => {
                return Ok(Released::NotOurs(problem));
            }
            Ok(Claimed::Not(problem)) => return Err(problem),
            Err(unanswered) => return Err(unanswered.problem),
        };
        let (executor, set) = (self.executor.clone(), self.shared.set.as_str().into());
        let places = Arc::new(self.places.clone());
        // Of every cluster: its id may have been changed since.
        let runner = Runner::new(executor, places, self.supply.clone(), set, "".into());
        match deploy(&runner) {
            Ok(_) => self.end(&runner, &holding.lease),
            Err(error) => match of_deploy(&error) {
                problem if problem.kind != Kind::Failed => Err(problem),
                problem => self.give_back_unused(&holding, problem),
            },
        }
    }

    /// Until nothing runs, and the runner says that it has given the host back.
    fn end(&self, runner: &Runner, lease: &LeaseId) -> Result<Released, Problem> {
        let wake = Wake::new().map_err(|error| failed(format!("cannot list what runs there: {error}")))?;
        let deadline = Instant::now() + ENDING_LIMIT;
        let mut signalled = BTreeMap::new();
        let mut listing: Option<Listing> = None;
        self.remove_secret()?;
        loop {
            let (token, wait) = match &listing {
                Some(last) if runs(last).next().is_some() => (last.token.as_deref(), SIGNAL_AGAIN),
                _ => (None, Duration::ZERO),
            };
            let now = runner.list(token, wait, COMMAND_DEADLINE, &wake).map_err(|error| match &error {
                ListError::Execute(execute) => Problem::of_execute(execute),
                _ => failed(format!("cannot list what runs there: {}", shown(&chain(&error)))),
            })?;
            let left = if runs(&now).next().is_none() {
                (self.shared.reached)(HostStep::Ended);
                match runner.release(lease.as_str()) {
                    Ok(_) => {
                        (self.shared.reached)(HostStep::Released);
                        return Ok(Released::Clean);
                    }
                    Err(error) => vec![of_command(error)?],
                }
            } else {
                end_runners(runner, &now, &mut signalled)?
            };
            if self.shared.is_stopped() {
                return Err(Problem { kind: Kind::Unreachable, detail: "the driver has stopped".to_owned() });
            }
            if Instant::now() >= deadline {
                let count = runs(&now).count();
                return Err(failed(format!(
                    "not everything there ends ({count} containers): {}",
                    shown(&left.join("; "))
                )));
            }
            // Where something runs the next list waits for it.
            if runs(&now).next().is_none() {
                self.shared.pause(LOOK_AGAIN);
            }
            listing = Some(now);
        }
    }

    /// Without root it cannot be ours.
    fn remove_secret(&self) -> Result<(), Problem> {
        let words = ["rm", "-f", SECRET_FILE].map(str::to_owned).to_vec();
        let output = run(&**self.executor, Program::Arguments(words), SCRIPT_LIMIT);
        let output = output.map_err(|error| Problem::of_execute(&error))?;
        match output.succeeded() || !self.executor.runs_as_root() {
            true => Ok(()),
            false => Err(Problem::of_output("removing the secret", &output)),
        }
    }

    /// `why`: what kept the runner away.
    fn give_back_unused(&self, holding: &Holding, why: Problem) -> Result<Released, Problem> {
        let directory = place(self.places.state_dir.as_ref());
        self.remove_secret()?;
        let arguments = [self.shared.set.as_str(), &holding.to_string(), &directory];
        let output = run(&**self.executor, script(GIVE_BACK_UNUSED, &arguments), SCRIPT_LIMIT)
            .map_err(|error| Problem::of_execute(&error))?;
        match (output.succeeded(), output.stdout.trim_ascii_end()) {
            (true, b"released") => Ok(Released::Clean),
            (true, b"used") => Err(why),
            _ => Err(Problem::of_output("releasing the host", &output)),
        }
    }
}

/// What has not ended. Results that wait do not count.
fn runs(listing: &Listing) -> impl Iterator<Item = (&ContainerUuid, &Listed)> {
    listing.runners.iter().filter(|(_, listed)| listed.state != RunnerState::Finished)
}

/// Tells all of them to end, without waiting for any; what they answer.
fn end_runners(
    runner: &Runner,
    listing: &Listing,
    signalled: &mut BTreeMap<(ContainerUuid, Attempt), Instant>,
) -> Result<Vec<String>, Problem> {
    let mut left = Vec::new();
    for (uuid, listed) in runs(listing) {
        let result = match listed.state {
            RunnerState::Stale => runner.reap(uuid, listed.attempt),
            _ => {
                let key = (uuid.clone(), listed.attempt);
                if signalled.get(&key).is_some_and(|at| at.elapsed() < SIGNAL_AGAIN) {
                    continue;
                }
                signalled.insert(key, Instant::now());
                runner.terminate(uuid, listed.attempt)
            }
        };
        if let Err(error) = result {
            left.push(of_command(error)?);
        }
    }
    Ok(left)
}

/// What the runner said; a problem if it could not be asked.
fn of_command(error: CommandError) -> Result<String, Problem> {
    match error {
        CommandError::Execute(error) => Err(Problem::of_execute(&error)),
        error => Ok(shown(&error.text())),
    }
}

fn of_deploy(error: &DeployError) -> Problem {
    match error {
        DeployError::Execute(execute) => Problem::of_execute(execute),
        DeployError::PreInstalled { source: CommandError::Execute(execute), .. } => Problem::of_execute(execute),
        _ => failed(format!("no runner can be put there to see what runs: {}", shown(&error.text()))),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// Runs the script where something happens just before it takes the owner file away: `meanwhile`, with `$OWNER` and `$ATTEMPTS`.
    /// What it says, its standard error, and the owner file afterwards.
    fn give_back(meanwhile: &str) -> (String, String, Option<String>) {
        let folder = tempfile::tempdir().expect("a folder");
        let directory = folder.path().join("state");
        let (owner, attempts, tools) =
            (directory.join("owner"), directory.join("set-ours"), folder.path().join("tools"));
        std::fs::create_dir(&directory).expect("made");
        std::fs::create_dir(&tools).expect("made");
        std::fs::write(&owner, "ours\nnode1 5e\n").expect("written");
        let tool = tools.join("mv");
        std::fs::write(&tool, format!("#!/bin/sh\n{meanwhile}\nexec /bin/mv \"$@\"\n")).expect("written");
        std::fs::set_permissions(&tool, std::fs::Permissions::from_mode(0o755)).expect("set");
        let mut command = std::process::Command::new("sh");
        command.args(["-c", GIVE_BACK_UNUSED, "sh", "ours", "node1 5e"]).arg(&directory);
        command.env("PATH", format!("{}:/usr/bin:/bin", tools.display()));
        let output = command.env("OWNER", &owner).env("ATTEMPTS", &attempts).output().expect("starts");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        let left = std::fs::read_dir(&directory).expect("there").count();
        assert!(left <= 2, "no temporary file is left: {left}");
        (text(&output.stdout), text(&output.stderr), std::fs::read_to_string(&owner).ok())
    }

    /// A start, or another life, that comes between the look and the taking away keeps the owner file there.
    #[test]
    fn what_comes_between_keeps_the_owner_file() {
        assert_eq!(give_back(":"), ("released".to_owned(), String::new(), None));
        let (said, _, owner) = give_back("mkdir \"$ATTEMPTS\"");
        assert_eq!((said.as_str(), owner.as_deref()), ("used", Some("ours\nnode1 5e\n")));
        for other in ["theirs\\nnode1 5e\\n", "ours\\nnode1 6f\\n"] {
            let (said, stderr, owner) = give_back(&format!("printf '{other}' > \"$OWNER\""));
            assert!(said.is_empty() && stderr.contains("has changed"), "{said} {stderr}");
            assert_eq!(owner, Some(other.replace("\\n", "\n")));
        }
    }
}
