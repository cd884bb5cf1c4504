//! Putting the runner on a worker (spec 20 §7, 62 §3): by checksum, complete or not at all.
//!
//! The program is written under a name of its own and renamed, so a matching checksum implies a complete file with the right mode even
//! if the connection breaks half-way or two dispatchers do it at once.

use std::time::{Duration, Instant};

use super::runner::{CommandError, Runner, RunnerBinary};
use super::{Command, Lane, Program};

/// `$1` = path, `$2` = checksum. Prints `ok` when the right program is there.
const CHECK: &str = r#"test -x "$1" && printf '%s  %s\n' "$2" "$1" | sha256sum -c >/dev/null 2>&1 && echo ok; true"#;

/// `$1` = path, `$2` = checksum; the program comes on standard input. Directories of others are not trusted: below a directory that
/// somebody else may write, the program could be swapped.
const INSTALL: &str = r#"set -eu
directory=${1%/*}
umask 022
mkdir -p "$directory"
part=$directory
while [ -n "$part" ]; do
    owner=$(stat -c %u "$part")
    if [ "$owner" != 0 ] && [ "$owner" != "$(id -u)" ]; then echo "$part belongs to user $owner" >&2; exit 1; fi
    case $(stat -c %A "$part") in
        ?????w????|????????w?) case $(stat -c %A "$part") in *[tT]) ;; *) echo "$part is writable for others" >&2; exit 1 ;; esac ;;
    esac
    part=${part%/*}
done
new=$1.new.$$
trap 'rm -f "$new"' EXIT
: > "$new"
chmod 0755 "$new"
cat > "$new"
printf '%s  %s\n' "$2" "$new" | sha256sum -c >/dev/null
mv -f "$new" "$1"
"#;

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deployed {
    AlreadyThere,
    Installed,
}

/// Makes sure that `binary` is at the runner's place, and that it is a runner this dispatcher can talk to.
///
/// # Errors
/// The worker cannot be reached, or refuses: the text says what the script found.
pub fn deploy(runner: &Runner, binary: &RunnerBinary) -> Result<Deployed, CommandError> {
    let check = script(CHECK, runner, binary);
    let output = runner.executor.execute(Lane::Bulk, &command(check, b"", Duration::from_secs(60)))?;
    if output.succeeded() && output.stdout == b"ok\n" {
        runner.check_version()?;
        return Ok(Deployed::AlreadyThere);
    }
    // A minute and a second per megabyte (spec 10 §4).
    let limit = Duration::from_secs(60 + binary.bytes.len() as u64 / 1_000_000);
    let output =
        runner.executor.execute(Lane::Bulk, &command(script(INSTALL, runner, binary), &binary.bytes, limit))?;
    if !output.succeeded() {
        return Err(CommandError::Failed { ending: output.ending(), stderr: output.stderr_text() });
    }
    runner.check_version()?;
    Ok(Deployed::Installed)
}

fn script(text: &str, runner: &Runner, binary: &RunnerBinary) -> Program {
    let words = ["sh", "-c", text, "sh", &*runner.program, &binary.sha256];
    Program::Arguments(words.map(str::to_owned).to_vec())
}

fn command(program: Program, stdin: &[u8], limit: Duration) -> Command<'_> {
    Command { program, stdin, open_until: None, deadline: Instant::now() + limit }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;
    use std::sync::Arc;

    use super::*;
    use crate::remote::local::LocalExecutor;
    use crate::remote::runner::RunnerPlaces;

    fn runner_at(program: &Path) -> Runner {
        let executor = Arc::new(LocalExecutor::new("/".to_owned()).expect("a descriptor"));
        let program = program.to_string_lossy().into_owned();
        let places = Arc::new(RunnerPlaces::default());
        Runner { executor, places, program: program.into(), set: "set".into(), cluster_id: "local".into() }
    }

    /// A program that answers `--version` as ours does.
    fn fake(folder: &Path, answer: &str) -> RunnerBinary {
        let file = folder.join("fake");
        std::fs::write(&file, format!("#!/bin/sh\necho '{answer}'\n")).expect("written");
        RunnerBinary::load(&file).expect("readable")
    }

    #[test]
    fn installs_once_repairs_and_refuses_strangers() {
        let folder = tempfile::tempdir().expect("a folder");
        let binary = fake(folder.path(), "muster-runner 9.9.9 protocol 1");
        let program = folder.path().join("a/b/muster-runner~1");
        let runner = runner_at(&program);
        assert_eq!(deploy(&runner, &binary).expect("installs"), Deployed::Installed);
        let mode = std::fs::metadata(&program).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o755);
        assert_eq!(deploy(&runner, &binary).expect("is there"), Deployed::AlreadyThere);
        // Cut short by a crash of a dispatcher that wrote in place: found by the checksum.
        std::fs::write(&program, b"#!/bin/sh\n").expect("written");
        assert_eq!(deploy(&runner, &binary).expect("repairs"), Deployed::Installed);
        assert_eq!(std::fs::read(&program).expect("there"), &*binary.bytes);
        let left: Vec<_> = std::fs::read_dir(program.parent().expect("a folder")).expect("readable").collect();
        assert_eq!(left.len(), 1, "{left:?}");

        let stranger = fake(folder.path(), "crunch-run 3.0");
        let error = deploy(&runner_at(&folder.path().join("c/stranger")), &stranger).expect_err("not ours");
        assert!(error.text().contains("crunch-run 3.0"), "{}", error.text());
    }

    #[test]
    fn a_directory_that_others_may_write_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let open = folder.path().join("open");
        std::fs::create_dir(&open).expect("made");
        std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o777)).expect("set");
        let binary = fake(folder.path(), "muster-runner 9.9.9 protocol 1");
        let error = deploy(&runner_at(&open.join("bin/muster-runner~1")), &binary).expect_err("unsafe place");
        assert!(error.text().contains("writable for others"), "{}", error.text());
    }
}
