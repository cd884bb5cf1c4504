//! `muster logs` and `muster show`: what containers wrote, in each of their attempts, and what became of these.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};

use crate::harness::Site;

/// A command whose output is read while it runs.
struct Follower {
    child: Child,
    stdout: BufReader<std::process::ChildStdout>,
    stderr: BufReader<std::process::ChildStderr>,
}

impl Follower {
    fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        let stderr = BufReader::new(child.stderr.take().expect("piped"));
        Self { child, stdout, stderr }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("readable");
        line
    }

    fn told(&mut self) -> String {
        let mut line = String::new();
        self.stderr.read_line(&mut line).expect("readable");
        line
    }

    /// Exit code, and the rest of both.
    fn end(mut self) -> (i32, String, String) {
        let (mut stdout, mut stderr) = (String::new(), String::new());
        self.stdout.read_to_string(&mut stdout).expect("readable");
        self.stderr.read_to_string(&mut stderr).expect("readable");
        (self.child.wait().expect("a child").code().expect("no signal"), stdout, stderr)
    }
}

/// Kills the runner of this container, as the kernel does when memory is short: it leaves no result.
fn kill_runner(site: &Site, uuid: &str) {
    signal_runner(site, uuid, rustix::process::Signal::KILL);
}

fn signal_runner(site: &Site, uuid: &str, signal: rustix::process::Signal) {
    let lock = site.state_dir().join(format!("loopback/lock/crunch-run-{uuid}.lock"));
    let text = std::fs::read_to_string(&lock).expect("locked");
    let pid = serde_json::from_str::<serde_json::Value>(&text).expect("JSON")["PID"].as_i64().expect("a number");
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).expect("small")).expect("not 0");
    rustix::process::kill_process(pid, signal).expect("it lives");
}

/// Says its attempt on both streams, then waits for the gate of that attempt.
fn script(site: &Site) -> String {
    let gate = site.folder().join("runs/gate");
    format!(
        "echo begun $MUSTER_ATTEMPT; echo trouble $MUSTER_ATTEMPT >&2; \
         while [ ! -e {0}$MUSTER_ATTEMPT ]; do sleep 0.05; done; echo ended $MUSTER_ATTEMPT",
        gate.display()
    )
}

fn open_gate(site: &Site, attempt: u32) {
    std::fs::write(site.folder().join(format!("runs/gate{attempt}")), b"").expect("written");
}

#[test]
fn following_goes_on_with_the_next_attempt() {
    let mut site = Site::started();
    let script = script(&site);
    let uuid = site.submit(&["--max-attempts", "2", "--", "sh", "-c", &script]);
    let mut both = Follower::start(site.command(&["logs", "-f", "--both", &uuid]));
    let mut errors = Follower::start(site.command(&["logs", "-f", "--stderr", &uuid]));
    site.wait_state(&uuid, "Running");
    let mut first = Follower::start(site.command(&["logs", "-f", "--attempt", "1", &uuid]));
    assert_eq!(first.line(), "begun 1\n");
    assert_eq!((both.line().as_str(), both.told().as_str()), ("begun 1\n", "trouble 1\n"));
    assert_eq!(errors.line(), "trouble 1\n");
    kill_runner(&site, &uuid);
    let lost = "muster: attempt 1 was lost (its runner ended without a result)";
    let follows = format!("{lost}; attempt 2 follows\n");
    assert_eq!(first.end(), (0, String::new(), format!("{lost}\n")), "one attempt was asked for");
    assert_eq!((errors.line().as_str(), errors.told()), ("trouble 2\n", follows.clone()));
    assert_eq!(both.line(), "begun 2\n");
    let mut told = [both.told(), both.told()];
    told.sort_unstable();
    assert_eq!(told, [follows, "trouble 2\n".to_owned()]);
    open_gate(&site, 2);
    assert_eq!(both.end(), (0, "ended 2\n".to_owned(), String::new()));
    assert_eq!(errors.end(), (0, String::new(), String::new()));
    // Afterwards: the last attempt; the first has left nothing.
    assert_eq!(site.ok(&["logs", &uuid]), "begun 2\nended 2\n");
    assert_eq!(site.ok(&["logs", "--stderr", "--attempt", "2", &uuid]), "trouble 2\n");
    let (code, told) = site.fails(&["logs", "--attempt", "1", &uuid]);
    assert!(code == 1 && told.contains("attempt 1 was lost") && told.contains("its output with it"), "{code} {told}");
    let (code, told) = site.fails(&["logs", "--attempt", "3", &uuid]);
    assert!(code == 3 && told.contains("has no attempt 3"), "{code} {told}");
    site.stop();
}

/// Ended on the host, as by a cloud that takes an instance back: there is a result, and the attempt is lost all the same.
#[test]
fn following_goes_on_after_an_attempt_that_was_killed_on_its_host() {
    let mut site = Site::started();
    let script = script(&site);
    let uuid = site.submit(&["--max-attempts", "2", "--", "sh", "-c", &script]);
    let mut follower = Follower::start(site.command(&["logs", "-f", &uuid]));
    assert_eq!(follower.line(), "begun 1\n");
    signal_runner(&site, &uuid, rustix::process::Signal::TERM);
    assert_eq!(follower.line(), "begun 2\n");
    open_gate(&site, 2);
    let (code, output, told) = follower.end();
    assert_eq!((code, output.as_str()), (0, "ended 2\n"));
    assert!(told.starts_with("muster: attempt 1 was lost (killed") && told.ends_with("attempt 2 follows\n"), "{told}");
    site.stop();
}

/// A result is in its place a moment before the queue knows that the attempt has ended: that is not the end yet.
#[test]
fn following_does_not_end_before_the_queue_knows_the_end() {
    let mut site = Site::started();
    let script = script(&site);
    let uuid = site.submit(&["--", "sh", "-c", &script]);
    site.wait_state(&uuid, "Running");
    let place = site.state_dir().join(format!("containers/{uuid}/1"));
    std::fs::create_dir_all(&place).expect("made");
    std::fs::write(place.join("stdout"), "begun 1\n").expect("written");
    let mut follower = Follower::start(site.command(&["logs", "-f", &uuid]));
    assert_eq!(follower.line(), "begun 1\n");
    open_gate(&site, 1);
    assert_eq!(follower.end(), (0, "ended 1\n".to_owned(), String::new()));
    site.stop();
}

/// The last attempt is lost too: following ends, and says why.
#[test]
fn following_ends_with_the_last_attempt() {
    let mut site = Site::started();
    let script = script(&site);
    let uuid = site.submit(&["--max-attempts", "1", "--", "sh", "-c", &script]);
    let mut follower = Follower::start(site.command(&["logs", "-f", &uuid]));
    assert_eq!(follower.line(), "begun 1\n");
    kill_runner(&site, &uuid);
    let lost = "muster: attempt 1 was lost (its runner ended without a result)\n";
    assert_eq!(follower.end(), (0, String::new(), lost.to_owned()));
    assert_eq!(site.state(&uuid), "Cancelled");
    site.stop();
}

#[test]
fn containers_that_have_no_output_say_why() {
    let mut site = Site::started();
    let script = script(&site);
    let held = site.submit(&["--priority", "0", "--", "sh", "-c", &script]);
    let output = site.run(&["logs", &held]);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && output.stdout.is_empty() && told.contains("has not begun yet"), "{told}");
    let (code, told) = site.fails(&["logs", "--attempt", "1", &held]);
    assert!(code == 3 && told.contains("has no attempt 1"), "{code} {told}");
    // One that waits is followed once it begins.
    let mut follower = Follower::start(site.command(&["logs", "-f", &held]));
    site.wait_until("the follower has reached the daemon", |site| site.has_logged(&["logs?", "wait_s=20"]));
    site.ok(&["priority", "500", &held]);
    assert_eq!(follower.line(), "begun 1\n");
    open_gate(&site, 1);
    assert_eq!(follower.end(), (0, "ended 1\n".to_owned(), String::new()));
    // One that never began, also for who waits for it.
    let never = site.submit(&["--priority", "0", "--", "true"]);
    let follower = Follower::start(site.command(&["logs", "-f", &never]));
    site.ok(&["cancel", &never]);
    let expected = format!("muster: {never} never ran: cancelled on request\n");
    assert_eq!(follower.end(), (1, String::new(), expected.clone()));
    assert_eq!(site.fails(&["logs", &never]), (1, expected));
    // One that wrote nothing is no error; one whose results somebody has removed is.
    let silent = site.submit(&["--", "true"]);
    site.ok(&["wait", &silent]);
    let output = site.run(&["logs", "--both", &silent]);
    assert!(output.status.success() && output.stdout.is_empty() && output.stderr.is_empty(), "{output:?}");
    std::fs::remove_dir_all(site.state_dir().join("containers").join(&held)).expect("removed");
    let (code, told) = site.fails(&["logs", &held]);
    assert!(code == 3 && told.contains("are not there any more"), "{code} {told}");
    assert_eq!(site.fails(&["logs", "--attempt", "0", &held]).0, 2);
    assert_eq!(site.fails(&["logs", "--both", "--stderr", &held]).0, 2);
    site.stop();
}

/// While it runs the beginning is there, at its end the mark and the last part: a follower that saw the one gets the other, and no byte
/// twice.
#[test]
fn long_output_is_followed_over_its_cut() {
    let mut site = Site::new();
    site.configure("");
    let text = std::fs::read_to_string(site.config()).expect("written");
    std::fs::write(site.config(), text.replace("Muster:\n", "Muster:\n  Queue: {MaxLogBytes: 2000}\n"))
        .expect("written");
    site.start();
    let gate = site.folder().join("runs/gate");
    let lines = "i=1000; while [ $i -lt 2000 ]; do echo $i; i=$((i+1)); done";
    let script = format!("{lines}; while [ ! -e {} ]; do sleep 0.05; done; echo last", gate.display());
    let uuid = site.submit(&["--", "sh", "-c", &script]);
    let mut follower = Follower::start(site.command(&["logs", "-f", &uuid]));
    let mut seen = String::new();
    for _ in 0..200 {
        seen.push_str(&follower.line());
    }
    assert!(seen.starts_with("1000\n") && seen.ends_with("1199\n"), "the first half, 1000 bytes");
    assert_eq!(site.ok(&["logs", &uuid]), seen, "no more can be had while it runs");
    std::fs::write(&gate, b"").expect("written");
    let (code, rest, told) = follower.end();
    assert_eq!((code, told.as_str()), (0, ""));
    // 5005 bytes were written, 2000 are kept.
    assert!(rest.starts_with("\n[muster: 3005 bytes left out]\n") && rest.ends_with("1999\nlast\n"), "{rest}");
    seen.push_str(&rest);
    assert_eq!(site.ok(&["logs", &uuid]), seen);
    site.stop();
}

#[test]
fn show_tells_attempts_and_history() {
    let mut site =
        Site::with("InstanceTypes: {localhost: {VCPUs: 2, RAM: 4GiB, IncludedScratch: 10GiB, Price: 3600}}\n");
    site.start();
    let script = format!("{}; exit 3", script(&site));
    let uuid = site.submit(&["--name", "shown", "--max-attempts", "2", "--", "sh", "-c", &script]);
    site.wait_state(&uuid, "Running");
    kill_runner(&site, &uuid);
    site.wait_until("a second attempt runs", |site| {
        let container = site.show(&uuid)["container"].clone();
        container["attempt"] == 2 && container["state"] == "Running"
    });
    open_gate(&site, 2);
    site.run(&["wait", &uuid]);
    let detail = site.show(&uuid);
    let attempts = detail["attempts"].as_array().expect("a list");
    let mut sum = 0.0;
    for attempt in attempts {
        let span = attempt["finished_at"].as_f64().expect("ended") - attempt["assigned_at"].as_f64().expect("assigned");
        let cost = attempt["cost"].as_f64().expect("a number");
        assert!((cost - span / 1000.0).abs() < 1e-6, "price × time: one a second: {attempt:#}");
        sum += cost;
    }
    let cost = detail["container"]["cost"].as_f64().expect("a number");
    assert!((cost - sum).abs() < 1e-6 && cost > 0.0, "{detail:#}");
    assert_eq!((attempts[0]["collected"].as_bool(), attempts[1]["collected"].as_bool()), (Some(false), Some(true)));
    let text = site.ok(&["show", &uuid]);
    let instance = attempts[1]["instance"].as_str().expect("a name");
    let second = text.split("\n\n").find(|part| part.starts_with("attempt 2")).expect("a part");
    assert!(second.starts_with(&format!("attempt 2 on {instance} (localhost)")), "{text}");
    for field in ["assigned", "ended", "because      exited with code 3", "exit code    3", "peak memory", "CPU time"] {
        assert!(second.contains(&format!("\n  {field}")), "{field}: {text}");
    }
    let shown = format!("\n  cost         {:.6}", attempts[1]["cost"].as_f64().expect("a number"));
    assert!(second.contains(&shown), "{shown}: {text}");
    let first = text.split("\n\n").find(|part| part.starts_with("attempt 1")).expect("a part");
    assert!(first.contains("because      its runner ended without a result") && first.contains("\n  cost "), "{text}");
    // Each line of the history: when, what, and what about it.
    let history = text.split("\nhistory\n").nth(1).expect("a history");
    let events: Vec<&str> = history.lines().filter_map(|line| line.split_whitespace().nth(2)).collect();
    let expected = ["submitted", "locked", "assigned", "running", "lost", "requeued", "locked", "assigned", "running"];
    assert_eq!(events, [&expected[..], &["finished"]].concat(), "{text}");
    assert!(history.contains("attempt 1: its runner ended without a result"), "{text}");
    assert!(history.lines().all(|line| line.trim_start().starts_with("20") && line.contains("Z  ")), "{text}");
    site.stop();
}
