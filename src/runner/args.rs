//! The command line (spec 50 §2.1, 52 §1): text in, one closed value out.
//!
//! Flags take one or two dashes and `-flag=value` or `-flag value`; they may stand on either side of the uuid.

use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::place::is_uuid;

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Command {
    Detach {
        uuid: String,
    },
    /// The detached runner itself; only recognised as the very first argument.
    Supervise {
        uuid: String,
    },
    List {
        prices: bool,
        wait_s: f64,
        known: Option<String>,
    },
    Kill {
        signal: i32,
        uuid: String,
        /// `None`: as long as one call waits.
        wait_s: Option<f64>,
    },
    Reap {
        uuid: String,
    },
    Collect {
        uuid: String,
    },
    Forget {
        uuid: String,
        /// The attempt's working directory stays.
        keep_outputs: bool,
    },
    Tail {
        uuid: String,
        stream: &'static str,
        offset: u64,
        wait_s: f64,
    },
    /// Give the machine back (spec 46 §1).
    Release {
        lease: String,
    },
    /// Watches whether anybody asks for lists; only started by one.
    Watchdog,
    Facts,
    Version,
    Help,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Args {
    pub(crate) command: Command,
    /// Checked: at most 64 of `[A-Za-z0-9._-]`.
    pub(crate) set: String,
    pub(crate) attempt: Option<u32>,
    /// Whose life of the machine a start belongs to; checked like `set`, and not empty.
    pub(crate) lease: Option<String>,
    pub(crate) lock_dir: Option<PathBuf>,
    pub(crate) state_dir: Option<PathBuf>,
    /// With a list: after how long without another one the machine is to power itself off; 0 = never.
    pub(crate) self_destruct_s: Option<u32>,
}

/// Longest wait of a long poll and of `--tail`, in seconds.
const LIST_WAIT_S_MAX: f64 = 3600.0;
const TAIL_WAIT_S_MAX: f64 = 1.0;

#[derive(Default)]
struct Flags {
    mode: Option<&'static str>,
    signal: i32,
    stdin_config: bool,
    prices: bool,
    keep_outputs: bool,
    wait_s: Option<f64>,
    known: Option<String>,
    stream: Option<&'static str>,
    offset: u64,
    set: String,
    attempt: Option<u32>,
    lease: Option<String>,
    lock_dir: Option<PathBuf>,
    state_dir: Option<PathBuf>,
    self_destruct_s: Option<u32>,
    uuid: Option<String>,
}

/// Reads the arguments after the program's name.
///
/// # Errors
/// [`Error::Usage`] for anything not understood or missing.
pub(crate) fn parse(arguments: &[String]) -> Result<Args> {
    let mut flags = Flags::default();
    let supervise = arguments.first().is_some_and(|first| first.trim_start_matches('-') == "no-detach");
    let mut rest = arguments.iter().skip(usize::from(supervise));
    while let Some(word) = rest.next() {
        match word.strip_prefix("--").or_else(|| word.strip_prefix('-')) {
            None | Some("") => positional(&mut flags, word)?,
            Some(flag) => {
                let (name, value) = match flag.split_once('=') {
                    Some((name, value)) => (name, Some(value.to_owned())),
                    None => (flag, None),
                };
                if !switch(&mut flags, name, value.as_deref())? {
                    let value = value.or_else(|| rest.next().cloned());
                    let value = value.ok_or_else(|| usage(format!("flag --{name} needs a value")))?;
                    option(&mut flags, name, value)?;
                }
            }
        }
    }
    finish(flags, supervise)
}

fn usage(text: impl Into<String>) -> Error {
    Error::Usage(text.into())
}

fn positional(flags: &mut Flags, word: &str) -> Result<()> {
    if flags.uuid.is_some() {
        return Err(usage(format!("unexpected argument {word:?}: one container uuid is enough")));
    }
    if !is_uuid(word) {
        return Err(usage(format!("{word:?} is not a container uuid (CCCCC-dz642- and 15 of 0-9a-z)")));
    }
    flags.uuid = Some(word.to_owned());
    Ok(())
}

/// Flags without a value; `=true` and `=false` are understood. False if `name` is none of them.
fn switch(flags: &mut Flags, name: &str, value: Option<&str>) -> Result<bool> {
    let mode = match name {
        "detach" | "list" | "reap" | "collect" | "forget" | "tail" | "release" | "watchdog" | "facts" | "version"
        | "help" | "h" => true,
        "stdin-config" | "stdin-prices" | "keep-outputs" => false,
        _ => return Ok(false),
    };
    let on = match value {
        None | Some("true") => true,
        Some("false") => false,
        Some(other) => return Err(usage(format!("flag --{name} takes no value, not {other:?}"))),
    };
    match name {
        "stdin-config" => flags.stdin_config = on,
        "stdin-prices" => flags.prices = on,
        "keep-outputs" => flags.keep_outputs = on,
        _ if mode && on => set_mode(flags, name)?,
        _ => {}
    }
    Ok(true)
}

fn set_mode(flags: &mut Flags, name: &str) -> Result<()> {
    const MODES: [(&str, &str); 13] = [
        ("detach", "detach"),
        ("list", "list"),
        ("kill", "kill"),
        ("reap", "reap"),
        ("collect", "collect"),
        ("forget", "forget"),
        ("tail", "tail"),
        ("release", "release"),
        ("watchdog", "watchdog"),
        ("facts", "facts"),
        ("version", "version"),
        ("help", "help"),
        ("h", "help"),
    ];
    let mode = MODES.iter().find(|(word, _)| *word == name).map(|(_, mode)| *mode);
    if let (Some(old), Some(new)) = (flags.mode, mode)
        && old != new
    {
        return Err(usage(format!("--{old} and --{new} exclude each other")));
    }
    flags.mode = mode;
    Ok(())
}

fn option(flags: &mut Flags, name: &str, value: String) -> Result<()> {
    match name {
        "kill" => {
            flags.signal = number(name, &value)?;
            set_mode(flags, name)?;
        }
        "attempt" => flags.attempt = Some(number(name, &value)?),
        "self-destruct" => flags.self_destruct_s = Some(number(name, &value)?),
        "offset" => flags.offset = number(name, &value)?,
        "wait" => flags.wait_s = Some(seconds(&value)?),
        "known" => flags.known = Some(value),
        "stream" => {
            flags.stream = ["stdout", "stderr"].into_iter().find(|stream| *stream == value);
            if flags.stream.is_none() {
                return Err(usage(format!("--stream is stdout or stderr, not {value:?}")));
            }
        }
        "set" => {
            if !is_name(&value) {
                return Err(usage(format!("--set {value:?}: at most 64 of A-Z a-z 0-9 . _ -")));
            }
            flags.set = value;
        }
        "lease" => {
            if value.is_empty() || !is_name(&value) {
                return Err(usage(format!("--lease {value:?}: 1 to 64 of A-Z a-z 0-9 . _ -")));
            }
            flags.lease = Some(value);
        }
        "lock-dir" => flags.lock_dir = Some(directory(name, value)?),
        "state-dir" => flags.state_dir = Some(directory(name, value)?),
        // Part of every start command; what counts for us is the engine in the container's own record.
        "runtime-engine" => {}
        _ => return Err(usage(format!("unknown flag --{name}"))),
    }
    Ok(())
}

fn is_name(text: &str) -> bool {
    text.len() <= 64 && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

fn number<T: std::str::FromStr>(name: &str, value: &str) -> Result<T> {
    value.parse().map_err(|_| usage(format!("--{name} {value:?} is not a number it can take")))
}

fn seconds(value: &str) -> Result<f64> {
    let seconds: f64 = number("wait", value)?;
    if seconds.is_finite() && seconds >= 0.0 { Ok(seconds) } else { Err(usage(format!("--wait {value:?} is no time"))) }
}

fn directory(name: &str, value: String) -> Result<PathBuf> {
    let path = PathBuf::from(value);
    if path.is_absolute() { Ok(path) } else { Err(usage(format!("--{name} must be an absolute path"))) }
}

fn finish(flags: Flags, supervise: bool) -> Result<Args> {
    let Flags { mode, signal, stdin_config, prices, keep_outputs, wait_s, known, stream, offset, .. } = flags;
    let waits = wait_s.unwrap_or(0.0);
    let uuid = || flags.uuid.clone().ok_or_else(|| usage("the container uuid is missing"));
    if keep_outputs && mode != Some("forget") {
        return Err(usage("--keep-outputs belongs to --forget"));
    }
    let command = match mode {
        Some("help") => Command::Help,
        Some("version") => Command::Version,
        Some("facts") => Command::Facts,
        Some("watchdog") => Command::Watchdog,
        Some("detach") if !stdin_config => return Err(usage("--detach needs --stdin-config")),
        Some("detach") if supervise => Command::Supervise { uuid: uuid()? },
        Some("detach") => Command::Detach { uuid: uuid()? },
        Some("list") => Command::List { prices, wait_s: waits.min(LIST_WAIT_S_MAX), known },
        Some("kill") => Command::Kill { signal, uuid: uuid()?, wait_s },
        Some("reap") => Command::Reap { uuid: uuid()? },
        Some("collect") => Command::Collect { uuid: uuid()? },
        Some("forget") => Command::Forget { uuid: uuid()?, keep_outputs },
        Some("tail") => Command::Tail {
            uuid: uuid()?,
            stream: stream.ok_or_else(|| usage("--tail needs --stream stdout or --stream stderr"))?,
            offset,
            wait_s: waits.min(TAIL_WAIT_S_MAX),
        },
        Some("release") => {
            let lease = flags.lease.clone().ok_or_else(|| usage("--release needs --lease ID"))?;
            Command::Release { lease }
        }
        _ => return Err(usage("say what to do: --detach, --list, --kill …")),
    };
    let needs_attempt = matches!(command, Command::Collect { .. } | Command::Forget { .. } | Command::Tail { .. });
    if needs_attempt && flags.attempt.is_none() {
        return Err(usage("--attempt N is missing"));
    }
    let Flags { set, attempt, lease, lock_dir, state_dir, self_destruct_s, .. } = flags;
    Ok(Args { command, set, attempt, lease, lock_dir, state_dir, self_destruct_s })
}

pub(crate) const HELP: &str = "\
muster-runner runs one container on a worker and answers its dispatcher.

  --detach --stdin-config UUID     start the container described on standard input
  --list [--stdin-prices] [--wait SECONDS --known TOKEN]
  --kill SIGNAL UUID [--wait SECONDS]
                                   ask the runner to end (15); 0 only asks whether it is there
  --reap UUID                      kill what a dead runner left behind
  --collect UUID --attempt N       results as a tar archive
  --forget UUID --attempt N [--keep-outputs]
                                   remove a collected attempt; its working directory, where its outputs
                                   are, may stay as long as this machine lives
  --tail UUID --attempt N --stream stdout|stderr [--offset N] [--wait SECONDS]
  --release --lease ID             give this machine back: remove what is left here, at last the file
                                   `owner` in the state directory; refused while anything runs
  --facts | --version | --help

  --set ID          whose containers (an instance set id)
  --attempt N       which attempt
  --lease ID        with --detach: start only while the file `owner` says that the set has this
                    machine under this lease; with --list: print `broken` if it does not
  --self-destruct S with --list: power this machine off when nobody has asked for a list for S seconds
                    and nothing runs; 0 = never (any more)
  --lock-dir DIR    default: /run/lock or /var/lock; without root /tmp/muster-runner-UID
  --state-dir DIR   default: /var/lib/muster-runner; without root $HOME/.local/state/muster-runner/HOSTNAME

Exit status: 0 done, 1 failed, 2 wrong usage.
";

#[cfg(test)]
mod tests {
    use super::*;

    const U: &str = "local-dz642-00000000000000a";

    fn command(line: &str) -> Option<Command> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        parse(&words).ok().map(|args| args.command)
    }

    #[test]
    fn command_lines() {
        let uuid = || U.to_owned();
        let list = |prices, wait_s, known: Option<&str>| {
            Some(Command::List { prices, wait_s, known: known.map(str::to_owned) })
        };
        for (line, expected) in [
            (format!("--detach --stdin-config --runtime-engine=docker {U}"), Some(Command::Detach { uuid: uuid() })),
            (format!("-no-detach -detach -stdin-config {U}"), Some(Command::Supervise { uuid: uuid() })),
            (format!("--detach {U}"), None),
            (format!("--detach --no-detach --stdin-config {U}"), None),
            ("--list".into(), list(false, 0.0, None)),
            ("-list -stdin-prices -wait=2.5 -known t1".into(), list(true, 2.5, Some("t1"))),
            ("--list --wait -1".into(), None),
            ("--list=false".into(), None),
            (format!("--kill 15 {U} --attempt 3"), Some(Command::Kill { signal: 15, uuid: uuid(), wait_s: None })),
            (format!("--kill 15 {U} --wait 0"), Some(Command::Kill { signal: 15, uuid: uuid(), wait_s: Some(0.0) })),
            ("--release --lease 5e".into(), Some(Command::Release { lease: "5e".to_owned() })),
            ("--release".into(), None),
            ("--release --lease ../x".into(), None),
            (format!("--detach --stdin-config --lease= {U}"), None),
            (format!("--reap {U} --attempt 3"), Some(Command::Reap { uuid: uuid() })),
            (format!("--collect {U}"), None),
            (format!("--forget {U} --attempt=1"), Some(Command::Forget { uuid: uuid(), keep_outputs: false })),
            (
                format!("--forget {U} --attempt=1 --keep-outputs"),
                Some(Command::Forget { uuid: uuid(), keep_outputs: true }),
            ),
            (format!("--collect {U} --attempt=1 --keep-outputs"), None),
            (format!("--forget --collect {U} --attempt=1"), None),
            (
                format!("--tail {U} --attempt 1 --stream stderr --offset 7 --wait 30"),
                Some(Command::Tail { uuid: uuid(), stream: "stderr", offset: 7, wait_s: 1.0 }),
            ),
            (format!("--tail {U} --attempt 1 --stream other"), None),
            ("--kill 15".into(), None),
            ("--kill 15 ../../etc/passwd".into(), None),
            (format!("--kill fifteen {U}"), None),
            (format!("--list --set ../x {U}"), None),
            ("--list --lock-dir here".into(), None),
            ("--list --self-destruct 600".into(), list(false, 0.0, None)),
            ("--list --self-destruct -1".into(), None),
            ("--facts".into(), Some(Command::Facts)),
            ("--frobnicate".into(), None),
            (String::new(), None),
        ] {
            assert_eq!(command(&line), expected, "{line}");
        }
    }
}
