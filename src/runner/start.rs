//! `--detach`: checks a start, takes its lock, hands it to a runner of its own and leaves (spec 50 §4).
//!
//! The runner is this program started again. It inherits the lock in the place of its standard output; its standard input is one end of a
//! socket that brings the configuration and takes its one answer, so that all of it is there even if the dispatcher's connection ends
//! now. Unlike the reference the runner itself fills in the lock file, and only when it can stand every signal a lister may send; so it
//! is never listed too early, and a parent that dies here cannot leave it running unseen. Its standard error goes to /dev/null, not to
//! the journal: everything it has to say is in its result.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::args::Args;
use crate::attempts;
use crate::engine;
use crate::error::{Error, Result};
use crate::lock::{self, All, Found};
use crate::null;
use crate::owner;
use crate::place::Place;
use crate::signals;
use crate::user;
use muster_runner::protocol::{ContainerSpec, StartConfig};

/// Environment and standard input of a job come in the configuration.
pub(crate) const CONFIG_BYTES_MAX: u64 = 64 << 20;
const OUTPUTS_MAX: usize = 10_000;
/// The runner answers within milliseconds; a machine that swaps may need longer.
const READY_TIMEOUT: Duration = Duration::from_secs(45);

/// Starts the container described on standard input and writes one JSON line about its runner. `arguments` are the program's.
///
/// # Errors
/// Nothing runs after [`Error::Refused`] with a text about the configuration or the attempt; after other errors it may.
pub(crate) fn detach(args: &Args, uuid: &str, arguments: &[String]) -> Result<()> {
    let mut config = Vec::new();
    let io = |what: &str, source| Error::Io { what: what.to_owned(), source };
    std::io::stdin()
        .lock()
        .take(CONFIG_BYTES_MAX + 1)
        .read_to_end(&mut config)
        .map_err(|e| io("cannot read the configuration", e))?;
    let spec = parse(&config, uuid, args.attempt)?;
    user::find(&spec.user)?;
    let place = Place::open(args)?;
    let lock = claim(&place, &spec, args.lease.as_deref())?;
    let mut runner = spawn(&lock, arguments).map_err(|e| io("cannot start the runner", e))?;
    drop(lock);
    // A runner that has died is found by its missing answer.
    let _ = runner.write_all(&config).and_then(|()| runner.shutdown(Shutdown::Write));
    let mut answer = String::new();
    runner
        .set_read_timeout(Some(READY_TIMEOUT))
        .and_then(|()| (&mut runner).take(1 << 16).read_to_string(&mut answer))
        .map_err(|source| Error::Unanswered { what: "no answer from the runner".to_owned(), source })?;
    if !answer.starts_with('{') {
        let text = if answer.is_empty() { "the runner ended before it was ready" } else { answer.trim_end() };
        return Err(Error::Refused(text.to_owned()));
    }
    std::io::stdout().write_all(answer.as_bytes()).map_err(|e| io("cannot write the answer", e))
}

/// Takes the lock and marks the attempt as started; under a lease that the machine is not held by nothing is left of it.
fn claim(place: &Place, spec: &ContainerSpec, lease: Option<&str>) -> Result<OwnedFd> {
    let all = All::take(&place.lock_dir)?;
    let path = lock::path(&place.lock_dir, &spec.uuid);
    let taken = || Error::Refused(format!("lock {}: resource temporarily unavailable", path.display()));
    // Survivors of a crashed runner count although they may not hold the lock.
    match attempts::examine(&all, place, &spec.uuid)? {
        Found::Absent => {}
        Found::Strange(text) | Found::Foreign(text) => return Err(Error::Refused(text)),
        Found::Starting | Found::Alive(_) | Found::Stale(_) => return Err(taken()),
    }
    let lock = all.acquire(&spec.uuid)?.ok_or_else(taken)?;
    attempts::create(&all, place, &spec.uuid, spec.attempt).inspect_err(|_| {
        let _ = std::fs::remove_file(&path);
    })?;
    // Not before the attempt's directory is there: who has to give the machine back without a runner takes the owner file away, and
    // then looks for directories.
    owner::require(place, lease).inspect_err(|_| {
        attempts::undo(&all, place, &spec.uuid, spec.attempt);
        let _ = std::fs::remove_file(&path);
    })?;
    Ok(lock)
}

/// Nobody waits for the runner: it must outlive this process, and is then init's.
fn spawn(lock: &OwnedFd, arguments: &[String]) -> std::io::Result<UnixStream> {
    let (ours, theirs) = UnixStream::pair()?;
    signals::hold_listers_off()?;
    // Not by its path: the file may have been replaced by a newer one meanwhile.
    Command::new("/proc/self/exe")
        .arg0("muster-runner")
        .arg("-no-detach")
        .args(arguments)
        .current_dir("/")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        // In the place of its standard output it inherits the lock.
        .stdout(Stdio::from(lock.try_clone()?))
        .stderr(null::output()?)
        .spawn()?;
    Ok(ours)
}

/// Reads and checks the configuration of a start.
pub(crate) fn parse(config: &[u8], uuid: &str, attempt: Option<u32>) -> Result<ContainerSpec> {
    if config.len() as u64 > CONFIG_BYTES_MAX {
        return Err(Error::Refused(format!("the configuration has more than {CONFIG_BYTES_MAX} bytes")));
    }
    // Its text may hold secrets: the place is enough.
    let config: StartConfig = serde_json::from_slice(config).map_err(|e| {
        Error::Refused(format!("the configuration is not valid at line {} column {}", e.line(), e.column()))
    })?;
    let spec = config.container.ok_or_else(|| Error::Refused("the configuration lacks Container".into()))?;
    match fault(&spec, uuid, attempt) {
        Some(text) => Err(Error::Refused(text)),
        None => Ok(spec),
    }
}

fn fault(spec: &ContainerSpec, uuid: &str, attempt: Option<u32>) -> Option<String> {
    let nul = |text: &str| text.contains('\0');
    if spec.uuid != uuid {
        return Some(format!("Container.uuid {:?} is not the uuid on the command line", spec.uuid));
    }
    if spec.attempt == 0 || attempt.is_some_and(|attempt| attempt != spec.attempt) {
        return Some(format!("Container.attempt {} must be at least 1 and equal to --attempt", spec.attempt));
    }
    if let Some(text) = engine::fault(spec) {
        return Some(text);
    }
    if spec.command.first().is_none_or(String::is_empty) || spec.command.iter().any(|word| nul(word)) {
        return Some("Container.command is empty or holds a NUL".into());
    }
    if let Some((name, _)) =
        spec.environment.iter().find(|(name, value)| name.is_empty() || name.contains('=') || nul(name) || nul(value))
    {
        return Some(format!("Container.environment: {name:?} is empty, or it or its value holds = or NUL"));
    }
    if !spec.cwd.is_empty() && (!spec.cwd.starts_with('/') || nul(&spec.cwd)) {
        return Some(format!("Container.cwd {:?} is not an absolute path", spec.cwd));
    }
    (spec.outputs.len() > OUTPUTS_MAX).then(|| format!("Container.outputs has more than {OUTPUTS_MAX} paths"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const U: &str = "local-dz642-00000000000000a";

    #[test]
    fn what_cannot_run_is_refused_with_its_name() {
        for (fields, named) in [
            (r#""command":["true"]"#, None),
            (r#""command":["true"],"engine":"process","environment":{"A":"="}"#, None),
            (r#""command":["true"],"engine":"docker""#, Some("docker")),
            (r#""command":["true"],"image":"debian""#, Some("debian")),
            (r#""command":[]"#, Some("command")),
            (r#""command":["a\u0000b"]"#, Some("command")),
            (r#""command":["true"],"environment":{"A=B":""}"#, Some("A=B")),
            (r#""command":["true"],"environment":{"A":"\u0000"}"#, Some("\"A\"")),
            (r#""command":["true"],"cwd":"here""#, Some("here")),
            (r#""command":7"#, Some("line 1")),
        ] {
            let config = format!(r#"{{"Env":{{}},"Container":{{"uuid":"{U}","attempt":1,{fields}}}}}"#);
            let fault = parse(config.as_bytes(), U, Some(1)).err().map(|e| e.to_string());
            match (named, fault) {
                (None, fault) => assert_eq!(fault, None, "{fields}"),
                (Some(named), fault) => {
                    assert!(fault.as_ref().is_some_and(|f| f.contains(named)), "{fields}: {fault:?}")
                }
            }
        }
        let config = format!(r#"{{"Container":{{"uuid":"{U}","attempt":2,"command":["true"]}}}}"#);
        assert!(parse(config.as_bytes(), U, Some(2)).is_ok());
        assert!(parse(config.as_bytes(), U, Some(1)).is_err());
        assert!(parse(config.as_bytes(), "local-dz642-00000000000000b", None).is_err());
        assert!(parse(b"{}", U, None).is_err());
        assert!(parse(&config.as_bytes()[..20], U, None).is_err());
    }
}
