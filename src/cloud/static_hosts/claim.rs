//! Taking a host: the owner file there says who has it ([`super::owner`]).
//!
//! The file is complete from the moment it is there, and made only where there is none: a temporary file with the content, given its
//! name with `ln`, which never replaces anything. One that is ours already, under a lease that nobody here has, is of a life that was
//! forgotten (the state file was lost): that has to be cleaned up first. Under one that somebody here has it is the same machine with
//! another name or address: it is left alone.

use std::time::{Duration, Instant};

use super::host::{Kind, Problem};
use super::owner::{Holding, LeaseId, Owner};
use crate::core::errors::chain;
use crate::remote::runner::RunnerPlaces;
use crate::remote::{Command, ExecuteError, Executor, Lane, Output, Program};

/// Connecting, and the claim.
const CLAIM_LIMIT: Duration = Duration::from_secs(60);
/// For the operator's init command: less than what a create has in all.
const INIT_LIMIT: Duration = Duration::from_secs(300);
/// Of what a host says that is shown.
const SHOWN_BYTES: usize = 1000;

/// `$1` = set id, `$2` = the host's name and lease, `$3` = the runner's directory, empty for its default. Prints `claimed`; or `held`
/// and the owner file as it is.
const CLAIM: &str = r#"set -eu
directory=$3
if [ -z "$directory" ]; then
    if [ "$(id -u)" = 0 ]; then directory=/var/lib/muster-runner
    else directory=$HOME/.local/state/muster-runner/$(uname -n); fi
fi
umask 066
mkdir -p "$directory"
user=$(stat -L -c %u "$directory")
if [ "$user" != "$(id -u)" ]; then echo "$directory belongs to user $user" >&2; exit 1; fi
case $(stat -L -c %A "$directory") in
    ?????w????|????????w?) echo "$directory is writable for others" >&2; exit 1 ;;
esac
# Before anything is written: the disk may be full.
if other=$(head -c 1024 "$directory/owner" 2>/dev/null); then printf 'held\n%s\n' "$other"; exit 0; fi
# Somebody has the machine as root. (What other users hold cannot be seen.)
if [ "$(id -u)" != 0 ] && [ -z "$3" ] && [ -e /var/lib/muster-runner/owner ]; then
    printf 'held\n%s\n' 'that of /var/lib/muster-runner/owner, as root,'
    exit 0
fi
new=$(mktemp "$directory/owner.XXXXXX")
trap 'rm -f "$new"' EXIT
printf '%s\n%s\n' "$1" "$2" > "$new"
sync "$new" 2>/dev/null || :
for _ in 1 2 3; do
    if ln "$new" "$directory/owner" 2>/dev/null; then echo claimed; exit 0; fi
    if other=$(head -c 1024 "$directory/owner" 2>/dev/null); then printf 'held\n%s\n' "$other"; exit 0; fi
done
ln "$new" "$directory/owner"
"#;

/// Why a host could not be taken.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) problem: Problem,
    /// Under this lease something of ours may be there: it has to be cleaned up before the host is anybody's.
    pub(super) left: Option<LeaseId>,
}

/// Whose a host is after it was asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Claimed {
    /// Ours, as it was asked for.
    Held,
    /// Ours, of a life that nobody here remembers.
    Forgotten(Holding),
    Not(Problem),
}

impl Problem {
    pub(super) fn of_execute(error: &ExecuteError) -> Self {
        let kind = match error {
            ExecuteError::NoAddress
            | ExecuteError::Connect { .. }
            | ExecuteError::Channel(_)
            | ExecuteError::Deadline
            | ExecuteError::Cancelled => Kind::Unreachable,
            ExecuteError::Handshake { .. } | ExecuteError::Authentication { .. } | ExecuteError::HostKey { .. } => {
                Kind::Barred
            }
            _ => Kind::Failed,
        };
        let advice = match error {
            ExecuteError::Authentication { .. } => {
                " — `muster check` shows the public key: append it to that user's ~/.ssh/authorized_keys there, and see that the user \
                 exists and may log in"
            }
            _ => "",
        };
        Self { kind, detail: format!("{}{advice}", chain(error)) }
    }

    /// A command that ran, and failed.
    pub(super) fn of_output(what: &str, output: &Output) -> Self {
        let mut said = shown(output.stderr_text().trim());
        if said.is_empty() {
            // Where a login is refused by a program, that says so on its standard output.
            said = shown(String::from_utf8_lossy(&output.stdout).trim());
        }
        let advice = if said.contains("sudo:") {
            " — the user needs sudo without a password and without a terminal (NOPASSWD), or User: root, or UseSudo: false"
        } else if said.is_empty() {
            "nothing was said — is the user's login shell a shell there, and may it run commands (ForceCommand)?"
        } else {
            ""
        };
        Self { kind: Kind::Failed, detail: format!("{what} ended with {}: {said}{advice}", output.ending()) }
    }
}

/// What a host says, within bounds.
pub(super) fn shown(text: &str) -> String {
    let end =
        text.char_indices().map(|(at, letter)| at + letter.len_utf8()).take_while(|end| *end <= SHOWN_BYTES).last();
    text[..end.unwrap_or(0)].to_owned()
}

/// A script for `sh` with arguments; as root, or with sudo where the user is not.
pub(super) fn script(text: &str, arguments: &[&str]) -> Program {
    let words = ["sh", "-c", text, "sh"];
    Program::Arguments(words.iter().chain(arguments).map(|word| (*word).to_owned()).collect())
}

/// On the probe's connection, which does not try again by itself when there is none: the next host waits, and a clean-up has a
/// rhythm of its own.
pub(super) fn run(executor: &dyn Executor, program: Program, limit: Duration) -> Result<Output, ExecuteError> {
    let command = Command { program, stdin: b"", open_until: None, deadline: Instant::now() + limit };
    executor.execute(Lane::Probe, &command)
}

/// The directory as text; empty for the runner's own default.
pub(super) fn place(directory: Option<&std::path::PathBuf>) -> String {
    directory.map(|path| path.to_string_lossy().into_owned()).unwrap_or_default()
}

/// A host to be asked for: by whom, as what, and which hosts of the same set are in use.
pub(super) struct Claim<'a> {
    pub(super) executor: &'a dyn Executor,
    pub(super) set: &'a str,
    pub(super) holding: &'a Holding,
    pub(super) places: &'a RunnerPlaces,
    /// The host of ours that has a lease.
    pub(super) holder: &'a dyn Fn(&LeaseId) -> Option<String>,
}

impl Claim<'_> {
    /// Makes the host ours unless it is somebody's. Repeatable.
    ///
    /// # Errors
    /// The host did not answer, or cannot do it.
    pub(super) fn ask(&self, limit: Duration) -> Result<Claimed, Unanswered> {
        let directory = place(self.places.state_dir.as_ref());
        let program = script(CLAIM, &[self.set, &self.holding.to_string(), &directory]);
        let output = run(self.executor, program, limit).map_err(|error| {
            // Nothing was sent before the connection stood.
            let untouched = matches!(
                error,
                ExecuteError::NoAddress
                    | ExecuteError::Start { .. }
                    | ExecuteError::Connect { .. }
                    | ExecuteError::Handshake { .. }
                    | ExecuteError::Authentication { .. }
                    | ExecuteError::HostKey { .. }
            );
            Unanswered { problem: Problem::of_execute(&error), touched: !untouched }
        })?;
        let answer = String::from_utf8_lossy(&output.stdout);
        match (output.succeeded(), answer.split_once('\n')) {
            (true, Some(("claimed", _))) => Ok(Claimed::Held),
            (true, Some(("held", owner))) => Ok(self.judge(owner)),
            _ => {
                // The script ends well once the owner file is there: with an exit status it is not.
                let touched = output.exit_code.is_none() || output.succeeded();
                Err(Unanswered { problem: Problem::of_output("taking the host", &output), touched })
            }
        }
    }

    fn judge(&self, owner: &str) -> Claimed {
        let not = |kind, detail| Claimed::Not(Problem { kind, detail });
        match Owner::read(owner, self.set) {
            Owner::Ours(holding) if holding == *self.holding => Claimed::Held,
            Owner::Ours(holding) => match (self.holder)(&holding.lease) {
                None => Claimed::Forgotten(holding),
                Some(name) => {
                    let advice = "a machine is one host: keep one of its names or addresses in the configuration";
                    not(Kind::Busy, format!("it is the same machine as {name}, which is in use; {advice}"))
                }
            },
            Owner::Other(set) => {
                let set = shown(&set);
                let detail = format!(
                    "the dispatcher {set} has it, says the file owner in the runner's directory there: if that dispatcher is gone for \
                     good, remove the file"
                );
                not(Kind::Foreign, detail)
            }
            Owner::Damaged => {
                let directory = place(self.places.state_dir.as_ref());
                let directory = if directory.is_empty() { "the runner's state directory" } else { &directory };
                let text = format!(
                    "its owner file says nobody ({:?}; damaged by a power failure?): remove the file `owner` in {directory} there \
                     (/var/lib/muster-runner, without root ~/.local/state/muster-runner/HOSTNAME) if no other dispatcher uses the host",
                    shown(owner.trim_end())
                );
                not(Kind::Failed, text)
            }
        }
    }
}

/// The host did not say whose it is.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unanswered {
    pub(super) problem: Problem,
    /// It may have been made ours all the same.
    pub(super) touched: bool,
}

/// Makes the host ours, and runs the operator's command for new instances there, which may have run before.
pub(super) fn claim(claim: &Claim<'_>, init: &str) -> Result<(), Refusal> {
    let own = || Some(claim.holding.lease.clone());
    match claim.ask(CLAIM_LIMIT) {
        Ok(Claimed::Held) => {}
        Ok(Claimed::Forgotten(holding)) => {
            let detail = "it was ours, and the state file does not know that: it is cleaned up first".to_owned();
            return Err(Refusal { problem: Problem { kind: Kind::Failed, detail }, left: Some(holding.lease) });
        }
        Ok(Claimed::Not(problem)) => return Err(Refusal { problem, left: None }),
        Err(Unanswered { problem, touched }) => return Err(Refusal { problem, left: touched.then(own).flatten() }),
    }
    if init.is_empty() {
        return Ok(());
    }
    let failed = |problem| Refusal { problem, left: own() };
    let program = Program::Arguments(["sh", "-c", init].map(str::to_owned).to_vec());
    match run(claim.executor, program, INIT_LIMIT) {
        Ok(output) if output.succeeded() => Ok(()),
        Ok(output) => Err(failed(Problem::of_output("InstanceInitCommand", &output))),
        Err(error) => Err(failed(Problem::of_execute(&error))),
    }
}
