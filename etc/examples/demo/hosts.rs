//! Part 2: three hosts over SSH, each with an OpenSSH server of its own on loopback. An array of containers of mixed sizes and
//! priorities; one server stands still until its host is written off, one is killed and comes back in time, the daemon gets `kill -9`.
//! In the end all are Complete with the right output, the hosts are given back, and every container ran exactly once but those whose
//! host could not be asked (the rule is in the README).

use std::time::{Duration, Instant};

use crate::cluster::{Cluster, NAMES, TIMES_SHOWN, VCPUS};
use crate::daemon::{Demo, Failure, Progress, pause};
use crate::folder::Folder;
use crate::hosts_check::{Report, check_results};
use crate::jobs::{self, Work};

/// Containers, CPUs of each, and priority.
const ARRAYS: [(usize, usize, u32); 3] = [(80, 1, 500), (40, 1, 100), (30, VCPUS, 900)];
/// A hang is a failure; a slow machine is not.
const LIMIT: Duration = Duration::from_secs(600);

/// The one that stands still, and the one whose server is killed.
pub(crate) const STOPPED: &str = NAMES[0];
const KILLED: &str = NAMES[1];

pub(crate) fn run() -> Result<(), Failure> {
    println!("\nPart 2: hosts over SSH.");
    let folder = Folder::make()?;
    let cluster = Cluster::start()?;
    let mut demo = Demo::start(folder.path(), &cluster.configuration())?;
    let user = cluster.hosts[0].user();
    println!(
        "1. Hosts {} run an OpenSSH server each, login {user}, nothing of ours on them; the daemon is",
        NAMES.join(", ")
    );
    println!("   process {}. For this demo only: {TIMES_SHOWN} (default 1 m, 10 m, 10 s).", demo.pid());

    let work = jobs::prepare(folder.path())?;
    let began = Instant::now();
    let until = began + LIMIT;
    let uuids = submit(&demo, &work)?;
    let sizes = ARRAYS.map(|(count, vcpus, priority)| format!("{count} of {vcpus} CPUs (priority {priority})"));
    println!("2. Submitted checksums of {} files: {}.", uuids.len(), sizes.join(", "));

    demo.wait_until_finished(uuids.len() / 8, until)?;
    stop_one(&demo, &cluster, until)?;
    demo.wait_until_finished(uuids.len() / 4, until)?;
    kill_one(&demo, &cluster, until)?;
    written_off(&mut demo, &cluster, until)?;
    demo.wait_until_finished(uuids.len(), until)?;
    let took = began.elapsed();

    println!("7. All have ended. Waiting until the hosts are given back.");
    released(&demo, &cluster, until)?;
    println!("8. Comparing every result with the same computed directly, and counting how often each container ran.");
    let mut report = check_results(&demo, &work, &uuids)?;
    report.check_hosts(&cluster)?;
    report.print(uuids.len(), took);
    demo.stop()?;
    drop(cluster);
    finish(folder, &report)
}

/// The file of a container is that of its index, in all three arrays.
fn submit(demo: &Demo, work: &Work) -> Result<Vec<String>, Failure> {
    let script = format!("sleep 0.$((MUSTER_ARRAY_INDEX % 9 + 1)); {}", work.checksum_script());
    let (mut uuids, mut first) = (Vec::new(), 0);
    for (count, vcpus, priority) in ARRAYS {
        let (range, vcpus, priority) =
            (format!("{first}-{}", first + count - 1), vcpus.to_string(), priority.to_string());
        let sizes = ["--vcpus", &vcpus, "--ram", "16MiB", "--priority", &priority];
        let job = ["--name", "checksum", "--array", &range];
        let arguments = [&["submit"][..], &job, &sizes, &["--", "sh", "-c", &script]].concat();
        uuids.extend(demo.muster(&arguments)?.lines().map(str::to_owned));
        first += count;
    }
    Ok(uuids)
}

/// SIGSTOP for listener and sessions: connections stay, nothing answers.
fn stop_one(demo: &Demo, cluster: &Cluster, until: Instant) -> Result<(), Failure> {
    wait_until(&format!("{STOPPED} is busy"), until, || Ok(demo.running_on(STOPPED)? > 0))?;
    cluster.host(STOPPED)?.stop_server()?;
    println!(
        "3. {STOPPED}'s server got SIGSTOP with {} containers running there, which go on.",
        demo.running_on(STOPPED)?
    );
    Ok(())
}

/// SIGKILL for listener and sessions, and a new listener before the host counts as lost.
fn kill_one(demo: &Demo, cluster: &Cluster, until: Instant) -> Result<(), Failure> {
    let host = cluster.host(KILLED)?;
    wait_until(&format!("{KILLED} is busy"), until, || Ok(demo.running_on(KILLED)? > 0))?;
    let began = Instant::now();
    host.kill_server()?;
    wait_until("it is noticed", until, || demo.has_logged("run probe failed", KILLED))?;
    host.restart()?;
    let away = began.elapsed().as_secs_f64();
    println!("4. {KILLED}'s server was killed; noticed, and started again after {away:.1} s: nothing there is lost.");
    Ok(())
}

/// The host that stands still counts as lost; the daemon dies, too; then both come back.
fn written_off(demo: &mut Demo, cluster: &Cluster, until: Instant) -> Result<(), Failure> {
    let state = |demo: &Demo| Ok::<_, Failure>(demo.host(STOPPED)?.map(|(state, _)| state));
    wait_until(&format!("{STOPPED} is written off"), until, || Ok(state(demo)?.as_deref() == Some("unreachable")))?;
    println!(
        "5. {STOPPED} was written off as unreachable: what ran there gets a second attempt elsewhere. In the middle of"
    );
    demo.kill_9()?;
    demo.start_again()?;
    let after = state(demo)?.unwrap_or_default();
    if !["unreachable", "cleaning"].contains(&after.as_str()) {
        return Err(Failure::Wrong(format!("after the restart {STOPPED} is {after:?}: its clean-up was forgotten")));
    }
    println!("   that the daemon got kill -9 and was started again (process {}).", demo.pid());
    cluster.host(STOPPED)?.continue_server()?;
    wait_until(&format!("{STOPPED} is cleaned up"), until, || demo.has_logged("host cleaned up", STOPPED))?;
    println!("6. {STOPPED}'s server goes on (SIGCONT): its host was cleaned up, and is as good as new.");
    Ok(())
}

/// No host is an instance any more. One that failed is still shown, with its pause.
fn released(demo: &Demo, cluster: &Cluster, until: Instant) -> Result<(), Failure> {
    for host in &cluster.hosts {
        let is_free = || Ok(demo.host(host.name())?.is_none_or(|(state, _)| state == "failed"));
        wait_until(&format!("{} is given back", host.name()), until, is_free)?;
    }
    Ok(())
}

fn finish(folder: Folder, report: &Report) -> Result<(), Failure> {
    if let Some(problem) = report.problems.first() {
        return Err(Failure::Wrong(format!("{} problems, the first: {problem}", report.problems.len())));
    }
    folder.remove()?;
    println!(
        "All results are right, every container ran as often as the rules allow, the hosts are given back, and nothing else is left there."
    );
    Ok(())
}

/// Looks again and again; each look costs a command.
fn wait_until(what: &str, until: Instant, mut condition: impl FnMut() -> Result<bool, Failure>) -> Result<(), Failure> {
    let _line = Progress;
    Progress::show(&format!("waiting until {what}"));
    while !condition()? {
        if Instant::now() > until {
            return Err(Failure::Wrong(format!("not in time: {what}")));
        }
        pause();
    }
    Ok(())
}
