//! Taking a host: the owner file there says who has it, for all dispatchers that know the host (spec 46 §1).
//!
//! The file is complete from the moment it is there, and made only where there is none: a temporary file with the content, given its
//! name with `ln`, which never replaces anything. One that is ours already is of a life that nobody remembers (the state file was lost):
//! that has to be cleaned up first.

use std::time::{Duration, Instant};

use super::host::{Kind, Problem};
use crate::core::errors::chain;
use crate::remote::runner::RunnerPlaces;
use crate::remote::{Command, ExecuteError, Executor, Lane, Output, Program};

/// Connecting, and the claim.
const CLAIM_LIMIT: Duration = Duration::from_secs(60);
/// For the operator's init command: less than what a create has in all.
const INIT_LIMIT: Duration = Duration::from_secs(300);
/// Of what a host says that is shown.
const SHOWN_BYTES: usize = 1000;

/// `$1` = set id, `$2` = the runner's directory, empty for its default. Prints `claimed`; or `ours`, or `foreign` and
/// who has the host.
const CLAIM: &str = r#"set -eu
set_id=$1
directory=$2
if [ -z "$directory" ]; then
    if [ "$(id -u)" = 0 ]; then directory=/var/lib/muster-runner; else directory=$HOME/.local/state/muster-runner; fi
fi
umask 066
mkdir -p "$directory"
user=$(stat -c %u "$directory")
if [ "$user" != "$(id -u)" ]; then echo "$directory belongs to user $user" >&2; exit 1; fi
case $(stat -c %A "$directory") in
    ?????w????|????????w?) echo "$directory is writable for others" >&2; exit 1 ;;
esac
new=$(mktemp "$directory/owner.XXXXXX")
trap 'rm -f "$new"' EXIT
printf '%s\n' "$set_id" > "$new"
sync "$new" 2>/dev/null || :
for _ in 1 2 3; do
    if ln "$new" "$directory/owner" 2>/dev/null; then echo claimed; exit 0; fi
    if other=$(head -c 256 "$directory/owner" 2>/dev/null); then
        if [ "$other" = "$set_id" ]; then echo ours; else printf 'foreign %s\n' "$other"; fi
        exit 0
    fi
done
ln "$new" "$directory/owner"
"#;

/// Why a host could not be taken.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) problem: Problem,
    /// Something of ours may be there: it has to be cleaned up before the host is anybody's.
    pub(super) touched: bool,
}

impl Problem {
    pub(super) fn of_execute(error: &ExecuteError) -> Self {
        let kind = match error {
            ExecuteError::NoAddress
            | ExecuteError::Connect { .. }
            | ExecuteError::Channel(_)
            | ExecuteError::Deadline
            | ExecuteError::Cancelled => Kind::Unreachable,
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

/// Makes the host ours, and runs the operator's command for new instances there, which may have run before.
pub(super) fn claim(executor: &dyn Executor, set: &str, places: &RunnerPlaces, init: &str) -> Result<(), Refusal> {
    let directory = place(places.state_dir.as_ref());
    let output = run(executor, script(CLAIM, &[set, &directory]), CLAIM_LIMIT).map_err(|error| {
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
        Refusal { problem: Problem::of_execute(&error), touched: !untouched }
    })?;
    let answer = String::from_utf8_lossy(&output.stdout);
    match (output.succeeded(), answer.trim_end()) {
        (true, "claimed") => {}
        (true, "ours") => {
            let detail = "it was ours, and the state file does not know that: it is cleaned up first".to_owned();
            return Err(Refusal { problem: Problem { kind: Kind::Failed, detail }, touched: true });
        }
        (true, answer) if answer.starts_with("foreign ") => {
            let owner = shown(answer.trim_start_matches("foreign "));
            let detail = format!(
                "the dispatcher {owner} has it, says the file owner in the runner's directory there: if that dispatcher is gone for \
                 good, remove the file"
            );
            return Err(Refusal { problem: Problem { kind: Kind::Foreign, detail }, touched: false });
        }
        _ => {
            // The script ends well once the owner file is there: with an exit status it is not.
            let touched = output.exit_code.is_none() || output.succeeded();
            return Err(Refusal { problem: Problem::of_output("taking the host", &output), touched });
        }
    }
    if init.is_empty() {
        return Ok(());
    }
    let failed = |problem| Refusal { problem, touched: true };
    let program = Program::Arguments(["sh", "-c", init].map(str::to_owned).to_vec());
    match run(executor, program, INIT_LIMIT) {
        Ok(output) if output.succeeded() => Ok(()),
        Ok(output) => Err(failed(Problem::of_output("InstanceInitCommand", &output))),
        Err(error) => Err(failed(Problem::of_execute(&error))),
    }
}
