//! The runner's commands on a worker in memory (spec 50 §2, 52 §1): command line in, the real one's answers out.

use std::time::Duration;

use muster_runner::protocol::{Facts, HAS_RUN, PROTOCOL, parse_version, version_line};
use tokio::time::Instant;

use crate::exec::{Run, Sink};
use crate::worker::{End, Killed};

/// How long a kill waits for the runner to be gone.
const GONE_TIMEOUT: Duration = Duration::from_secs(1);
const TAIL_BYTES_MAX: usize = 1 << 20;

/// What a command line says.
#[derive(Debug, Default)]
struct Arguments {
    mode: String,
    uuid: Option<String>,
    set: String,
    attempt: Option<u32>,
    stdin_config: bool,
    prices: bool,
    wait: Option<Duration>,
    lease: Option<String>,
    known: Option<String>,
    stream: String,
    offset: usize,
}

const PLAIN_MODES: [&str; 4] = ["detach", "list", "kill", "version"];
const MODES: [&str; 10] =
    ["detach", "list", "kill", "version", "reap", "collect", "forget", "tail", "release", "facts"];
/// Of a host that is taken and given back; a key of its files.
pub(crate) const OWNER: &str = "/var/lib/muster-runner/owner";

/// A text for usage errors.
fn parse(words: &[String], plain: bool) -> Result<Arguments, String> {
    let mut arguments = Arguments::default();
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        let Some(flag) = word.strip_prefix("--").or_else(|| word.strip_prefix('-')) else {
            if arguments.uuid.replace(word.clone()).is_some() || (!plain && !is_uuid(word)) {
                return Err(format!("unexpected argument {word:?}"));
            }
            continue;
        };
        let (name, value) = match flag.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (flag, None),
        };
        let modes = if plain { &PLAIN_MODES[..] } else { &MODES[..] };
        if modes.contains(&name) {
            arguments.mode = name.to_owned();
        }
        match name {
            "stdin-config" => arguments.stdin_config = true,
            "stdin-prices" => arguments.prices = true,
            "runtime-engine" => {}
            // What an operator adds for a crunch-run.
            _ if plain && value.is_some() => {}
            _ if modes.contains(&name) && name != "kill" => {}
            "kill" => drop(value.or_else(|| rest.next().cloned()).ok_or("--kill needs a signal")?),
            "set" | "attempt" | "lease" | "wait" | "known" | "stream" | "offset" | "lock-dir" | "state-dir"
                if !plain =>
            {
                let value = value.or_else(|| rest.next().cloned()).ok_or(format!("flag --{name} needs a value"))?;
                option(&mut arguments, name, value)?;
            }
            _ => return Err(format!("unknown flag --{name}")),
        }
    }
    complete(&arguments, plain)?;
    Ok(arguments)
}

/// The form of spec 70 §2.
fn is_uuid(word: &str) -> bool {
    word.len() == 27 && word.get(5..12) == Some("-dz642-")
}

/// Everything that the mode needs is there.
fn complete(arguments: &Arguments, plain: bool) -> Result<(), String> {
    let mode = arguments.mode.as_str();
    let missing = match mode {
        "" => "say what to do: --detach, --list, --kill …",
        "release" if arguments.lease.is_none() => "--release needs --lease ID",
        "release" => return Ok(()),
        "list" | "version" | "facts" => return Ok(()),
        _ if arguments.uuid.is_none() => "the container uuid is missing",
        "detach" if !arguments.stdin_config && !plain => "--detach needs --stdin-config",
        "collect" | "forget" | "tail" if arguments.attempt.is_none() => "--attempt N is missing",
        "tail" if !matches!(arguments.stream.as_str(), "stdout" | "stderr") => "--tail needs --stream stdout or stderr",
        _ => return Ok(()),
    };
    Err(missing.into())
}

fn option(arguments: &mut Arguments, name: &str, value: String) -> Result<(), String> {
    let bad = || format!("--{name} {value:?} is not a number it can take");
    match name {
        "set" => arguments.set = value,
        "attempt" => arguments.attempt = Some(value.parse().map_err(|_| bad())?),
        "wait" => {
            let seconds: f64 = value.parse().map_err(|_| bad())?;
            arguments.wait = Some(Duration::try_from_secs_f64(seconds).map_err(|_| bad())?);
        }
        "lease" => arguments.lease = Some(value),
        "known" => arguments.known = Some(value),
        "stream" => arguments.stream = value,
        "offset" => arguments.offset = value.parse().map_err(|_| bad())?,
        _ => {}
    }
    Ok(())
}

/// Runs one command of the runner; its exit status.
pub(crate) async fn execute(run: &mut Run, words: &[String], sink: &mut Sink) -> u32 {
    let plain = run.shared.options.plain_runner;
    let (status, text) = match parse(words, plain) {
        Err(text) => (2, format!("{text}; see --help")),
        Ok(arguments) => match mode(run, &arguments, sink).await {
            Ok(()) => return 0,
            Err(text) => (1, text),
        },
    };
    sink.stderr(&mut run.output, format!("muster-runner: {text}\n").as_bytes());
    status
}

async fn mode(run: &mut Run, arguments: &Arguments, sink: &Sink) -> Result<(), String> {
    let set = arguments.set.as_str();
    // Those that need one have one.
    let uuid = arguments.uuid.as_deref().unwrap_or_default();
    let attempt = arguments.attempt.unwrap_or_default();
    match arguments.mode.as_str() {
        "version" if run.shared.options.plain_runner => sink.stdout(&mut run.output, b"crunch-run 3.1.0 (go1.23)\n"),
        "version" => sink.stdout(&mut run.output, format!("{}\n", version_line()).as_bytes()),
        "list" => list(run, arguments, sink).await,
        "detach" => start(run, arguments, uuid, sink).await?,
        "kill" => {
            kill(run, arguments, uuid, sink).await?;
            let has_run = |attempt| run.shared.state().worker.has_run(&arguments.set, uuid, attempt);
            if arguments.attempt.is_some_and(has_run) {
                sink.stdout(&mut run.output, format!("{HAS_RUN}\n").as_bytes());
            }
        }
        "reap" => run.shared.change_list(|worker| worker.reap(set, uuid, arguments.attempt))?,
        // Wakes no lister, as the real one.
        "forget" => run.shared.change(|state| state.worker.forget(set, uuid, attempt))?,
        "collect" => {
            let archive = archive(run, set, uuid, attempt)?;
            sink.stdout(&mut run.output, &archive);
        }
        "tail" => tail(run, arguments, uuid, attempt, sink).await?,
        "release" => release(run, arguments, sink)?,
        "facts" => {
            let line = facts_line(run);
            sink.stdout(&mut run.output, line.as_bytes());
        }
        mode => return Err(format!("{mode} is not known")),
    }
    Ok(())
}

/// At once, or as a long poll: when the list is another than the known one, the time is over, or standard input ends.
async fn list(run: &mut Run, arguments: &Arguments, sink: &Sink) {
    let wait = arguments.wait.unwrap_or_default();
    let waits = !wait.is_zero();
    match (arguments.prices, waits) {
        (true, true) => run.stdin.skip_line().await,
        (true, false) => drop(run.stdin.ended().await),
        (false, _) => {}
    }
    let deadline = Instant::now() + wait;
    let mut changes = run.shared.list_changes.subscribe();
    let mut over = !waits || arguments.known.is_none();
    loop {
        changes.borrow_and_update();
        let (text, token) = run.shared.state().worker.list(&arguments.set);
        if over || arguments.known.as_ref() != Some(&token) {
            sink.stdout(&mut run.output, text.as_bytes());
            if !run.shared.options.plain_runner {
                sink.stdout(&mut run.output, format!("# {token}\n").as_bytes());
            }
            return;
        }
        // What was printed before must not wait with us.
        run.output.flush().await;
        tokio::select! {
            _ = changes.changed() => {}
            () = tokio::time::sleep_until(deadline) => over = true,
            _ = run.stdin.ended() => over = true,
        }
    }
}

async fn start(run: &mut Run, arguments: &Arguments, uuid: &str, sink: &Sink) -> Result<(), String> {
    let config = run.stdin.read_to_end().await;
    if run.shared.faults.borrow().refuse_starts {
        return Err("refused on purpose".into());
    }
    let lease = arguments.lease.as_deref();
    if lease.is_some_and(|lease| !holds(run, &arguments.set, lease)) {
        return Err(format!("this machine is not held by the set {:?} under the lease", arguments.set));
    }
    let now = crate::host::now_ms();
    let (key, pid) =
        run.shared.change_list(|worker| worker.start(&arguments.set, uuid, arguments.attempt, &config, now))?;
    run.shared.finish_in_time(&key);
    sink.stdout(&mut run.output, format!("{{\"UUID\":\"{uuid}\",\"PID\":{pid}}}\n").as_bytes());
    Ok(())
}

async fn kill(run: &mut Run, arguments: &Arguments, uuid: &str, sink: &Sink) -> Result<(), String> {
    let killed = run.shared.change(|state| state.worker.kill(&arguments.set, uuid, arguments.attempt));
    let (key, pid, after, ignored) = match killed {
        Killed::Nothing => return Ok(()),
        Killed::Gone(pid) => {
            sink.stderr(&mut run.output, format!("{uuid}: pid {pid}: is gone\n").as_bytes());
            return Ok(());
        }
        Killed::Signalled { key, pid, after, ignored } => (key, pid, after, ignored),
    };
    let patience = arguments.wait.unwrap_or(GONE_TIMEOUT).min(GONE_TIMEOUT);
    let in_time = !ignored && after <= patience;
    if !ignored {
        run.shared.end_later(&key, End::Killed, after);
    }
    if !after.is_zero() || ignored {
        run.output.flush().await;
        tokio::time::sleep(if in_time { after } else { patience }).await;
    }
    if !in_time {
        return Err(format!("{uuid}: pid {pid}: sent signal 15 but process is still alive"));
    }
    // The timer may be a moment late.
    run.shared.end(&key, End::Killed);
    sink.stderr(&mut run.output, format!("{uuid}: pid {pid}: has ended\n").as_bytes());
    Ok(())
}

/// As the real one reads the owner file.
fn holds(run: &Run, set: &str, lease: &str) -> bool {
    let text = run.shared.state().files.get(OWNER).cloned().unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let mut lines = text.lines();
    lines.next() == Some(set) && lines.next().and_then(|line| line.split_whitespace().nth(1)) == Some(lease)
}

fn release(run: &mut Run, arguments: &Arguments, sink: &Sink) -> Result<(), String> {
    if !holds(run, &arguments.set, arguments.lease.as_deref().unwrap_or_default()) {
        sink.stdout(&mut run.output, b"not held\n");
        return Ok(());
    }
    let (list, _) = run.shared.state().worker.list(&arguments.set);
    let busy = list.lines().find(|line| !line.starts_with('#') && *line != "broken" && !line.ends_with(" finished"));
    if let Some(line) = busy {
        return Err(format!("{line}: runs: the machine is not given back"));
    }
    run.shared.change(|state| drop(state.files.remove(OWNER)));
    sink.stdout(&mut run.output, b"released\n");
    Ok(())
}

/// `result.json`, `stdout`, `stderr` and the outputs, as the runner's `--collect` sends them.
fn archive(run: &Run, set: &str, uuid: &str, attempt: u32) -> Result<Vec<u8>, String> {
    let state = run.shared.state();
    let entry = state.worker.entry(set, uuid, attempt);
    let missing = || format!("cannot read {uuid}/{attempt}/result.json: No such file or directory");
    let (plan, result) = entry.and_then(|e| Some((e.plan.clone(), e.result.clone()?))).ok_or_else(missing)?;
    drop(state);
    let mut text = serde_json::to_vec_pretty(&result).expect("plain data serialises");
    text.push(b'\n');
    let own = [("result.json".to_owned(), &text), ("stdout".into(), &plan.stdout), ("stderr".into(), &plan.stderr)];
    let outputs = plan.outputs.iter().map(|(name, content)| (format!("outputs/{name}"), content));
    let mut archive = tar::Builder::new(Vec::new());
    for (name, content) in own.into_iter().chain(outputs) {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Regular);
        header.set_mode(0o644);
        header.set_mtime(u64::try_from(result.finished_at / 1000).unwrap_or(0));
        header.set_size(content.len() as u64);
        archive.append_data(&mut header, name, &content[..]).map_err(|error| error.to_string())?;
    }
    archive.into_inner().map_err(|error| error.to_string())
}

async fn tail(run: &mut Run, arguments: &Arguments, uuid: &str, attempt: u32, sink: &Sink) -> Result<(), String> {
    let deadline = Instant::now() + arguments.wait.unwrap_or_default().min(GONE_TIMEOUT);
    let mut changes = run.shared.list_changes.subscribe();
    loop {
        changes.borrow_and_update();
        let found = {
            let state = run.shared.state();
            let entry = state.worker.entry(&arguments.set, uuid, attempt);
            entry.map(|entry| (entry.plan.clone(), entry.result.is_some()))
        };
        let (plan, ended) = found.ok_or_else(|| format!("cannot read {uuid}/{attempt}: No such file or directory"))?;
        let bytes = match arguments.stream.as_str() {
            "stdout" => &plan.stdout,
            _ => &plan.stderr,
        };
        let new = bytes.get(arguments.offset..).unwrap_or_default();
        if !new.is_empty() || ended || Instant::now() >= deadline {
            sink.stdout(&mut run.output, &new[..new.len().min(TAIL_BYTES_MAX)]);
            return Ok(());
        }
        run.output.flush().await;
        tokio::select! {
            _ = changes.changed() => {}
            () = tokio::time::sleep_until(deadline) => {}
        }
    }
}

/// The document of `--facts`, in one line.
pub(crate) fn facts_line(run: &Run) -> String {
    let options = &run.shared.options;
    let facts = Facts {
        version: parse_version(&version_line()).map(|(version, _)| version).unwrap_or_default(),
        protocol: PROTOCOL,
        architecture: options.architecture.clone(),
        kernel: "6.1.0-fake".into(),
        cpus: options.cpus,
        ram: options.ram,
        free_disk: 100 << 30,
        engines: vec!["process".into()],
        cgroup: "none".into(),
        isolates_user: true,
    };
    let mut line = serde_json::to_string(&facts).expect("plain data serialises");
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_lines() {
        let parsed = |line: &str, plain| {
            let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
            parse(&words, plain)
                .map(|a| (a.mode, a.uuid.unwrap_or_default(), a.attempt, a.wait.unwrap_or_default().as_millis()))
        };
        let ok = |mode: &str, uuid: &str, attempt, wait| Ok((mode.to_owned(), uuid.to_owned(), attempt, wait));
        assert_eq!(parsed("--list --wait 1.5 --known t --set s", false), ok("list", "", None, 1500));
        let u = "local-dz642-00000000000000a";
        assert_eq!(parsed(&format!("--kill 15 --set s --attempt 3 {u}"), false), ok("kill", u, Some(3), 0));
        assert_eq!(parsed(&format!("-kill 15 {u} --attempt=3"), false), ok("kill", u, Some(3), 0));
        assert_eq!(parsed("--detach --stdin-config --runtime-engine=docker u", true), ok("detach", "u", None, 0));
        assert_eq!(parsed("--release --lease 5e --set s", false), ok("release", "", None, 0));
        assert!(parsed("--release", false).is_err());
        assert!(parsed("--list --wait 1", true).is_err());
        assert!(parsed("--list u v", false).is_err());
        assert!(parsed("--attempt x", false).is_err());
        assert!(parsed("--frobnicate", false).is_err());
    }
}
