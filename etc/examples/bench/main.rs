//! `make bench`: figures of this version on this machine, with all default intervals. Nothing here can fail because a machine is busy.
//!
//! How it is measured: a daemon of its own on the loopback driver; a thousand containers `true` as one array, from the submission until
//! the last is Complete; then a hundred one at a time. Latencies come from the records: a process's start and end by the
//! runner's clock, submission and commit by the daemon's; both are this host's.
#![expect(clippy::print_stdout, reason = "a program that prints figures")]

mod chaos;
mod clouds;
#[path = "../demo/daemon.rs"]
mod daemon;
mod fleet;
mod hosts;
mod longpoll;
mod passes;
mod queue;
mod ssh;
mod submissions;

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use daemon::{Demo, Failure};

/// Counts what is allocated; the figures of the passes tell.
#[global_allocator]
static ALLOCATOR: &stats_alloc::StatsAlloc<std::alloc::System> = &stats_alloc::INSTRUMENTED_SYSTEM;

const MANY: usize = 1000;
const SINGLES: usize = 100;

fn main() -> std::process::ExitCode {
    let mut words = std::env::args().skip(1);
    if words.next().as_deref() == Some(fleet::hosts::ROLE) {
        return fleet::hosts::serve(words);
    }
    match run() {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(failure) => {
            println!("bench failed: {failure}");
            std::process::ExitCode::FAILURE
        }
    }
}

/// All parts, or the one that is named: `containers`, `passes`, `queue` (with the number that waits), `submissions` (with the lines of the
/// largest file), `ssh`, `longpoll`, `hosts`, `clouds`, `fleet` (with the number of hosts), `chaos` (with the number of runs and the first seed).
fn run() -> Result<(), Failure> {
    const PARTS: [&str; 10] =
        ["containers", "passes", "queue", "submissions", "ssh", "longpoll", "hosts", "clouds", "fleet", "chaos"];
    let wanted = std::env::args().nth(1);
    if let Some(other) = wanted.as_deref().filter(|wanted| !PARTS.contains(wanted)) {
        return Err(Failure::Wrong(format!("there is no part {other:?}: {}", PARTS.join(", "))));
    }
    let wants = |part: &str| wanted.as_deref().is_none_or(|wanted| wanted == part);
    if wants("containers") {
        containers()?;
    }
    if wants("passes") {
        passes::run();
    }
    if wants("queue") {
        queue::run(number(2, 100_000)?)?;
    }
    if wants("submissions") {
        submissions::run(number(2, 1_000_000)?)?;
    }
    if wants("ssh") {
        ssh::run()?;
    }
    if wants("longpoll") {
        longpoll::run()?;
    }
    if wants("hosts") {
        hosts::run()?;
    }
    if wants("clouds") {
        clouds::run()?;
    }
    if wants("fleet") {
        fleet::run(number(2, 500)?)?;
    }
    if wants("chaos") {
        chaos::run(number(2, 20)?, number(3, 1)?)?;
    }
    Ok(())
}

/// The argument at this place, if it is there.
fn number<T: std::str::FromStr>(place: usize, unless: T) -> Result<T, Failure> {
    std::env::args().nth(place).map_or(Ok(unless), |text| {
        text.parse().map_err(|_| Failure::Wrong(format!("{text:?} is no number that can be used")))
    })
}

fn containers() -> Result<(), Failure> {
    let folder = tempfile::Builder::new().prefix("muster-bench-").tempdir()?;
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o711))?;
    let mut demo = Demo::start(folder.path(), "")?;
    let warm = demo.submit(&["--", "true"])?;
    demo.wait_for(&warm, 0)?;

    let mut singles = Vec::new();
    for _ in 0..SINGLES {
        let uuid = demo.submit(&["--", "true"])?;
        demo.wait_for(&uuid, 0)?;
        singles.push(uuid);
    }
    let found = latencies(&demo, &singles)?;
    println!("one at a time, {SINGLES} containers");
    show("  submit to process start", &found.submit_to_start);
    show("  process end to Complete", &found.end_to_complete);

    let began = Instant::now();
    let text = demo.muster(&["submit", "--array", &format!("1-{MANY}"), "--", "true"])?;
    let many: Vec<String> = text.lines().map(str::to_owned).collect();
    demo.wait_until_finished(1 + SINGLES + MANY, began + Duration::from_secs(3600))?;
    let took = began.elapsed().as_secs_f64();
    let found = latencies(&demo, &many)?;
    println!("{MANY} one-line containers at once");
    println!("  containers per second                {:.0}", f64::from(u32::try_from(MANY).unwrap_or(0)) / took);
    show("  process end to Complete", &found.end_to_complete);
    let status = demo.json(&["status"])?;
    println!("  missed wake-ups                      {}", status["missed_wakeups"]);
    demo.stop()
}

/// Milliseconds of some containers' lives, each kind sorted.
#[derive(Debug, Default)]
struct Latencies {
    submit_to_start: Vec<i64>,
    /// From a process's start until the queue has it as Running; for those that lived long enough to be seen.
    start_to_running: Vec<i64>,
    end_to_complete: Vec<i64>,
}

/// Of containers that are Complete.
fn latencies(demo: &Demo, uuids: &[String]) -> Result<Latencies, Failure> {
    let mut found = Latencies::default();
    for uuid in uuids {
        let detail = demo.json(&["show", uuid])?;
        let container = &detail["container"];
        let time = |value: &serde_json::Value| value.as_i64().unwrap_or(0);
        let started = time(&container["started_at"]);
        found.submit_to_start.push(started - time(&container["created_at"]));
        let history = detail["history"].as_array().map(Vec::as_slice).unwrap_or_default();
        let was_seen =
            |line: &&serde_json::Value| !line["detail"].as_str().unwrap_or_default().contains("from its result");
        let at = |event: &str| {
            history.iter().find(|line| line["event"] == event).filter(was_seen).map(|line| time(&line["at"]))
        };
        found.start_to_running.extend(at("running").map(|at| at - started));
        found.end_to_complete.push(at("finished").unwrap_or(0) - time(&container["finished_at"]));
    }
    for times in [&mut found.submit_to_start, &mut found.start_to_running, &mut found.end_to_complete] {
        times.sort_unstable();
    }
    Ok(found)
}

fn show(name: &str, sorted: &[i64]) {
    let at = |share: usize| sorted.get(sorted.len() * share / 100).copied().unwrap_or(0);
    let worst = sorted.last().copied().unwrap_or(0);
    println!("{name:<38} median {} ms, 95 % {} ms, worst {worst} ms", at(50), at(95));
}
