//! Cancels at every stage of real containers: each ends, as Cancelled or with the exit code it had by then, and runs once at most.

use std::process::Stdio;

use rustix::process::Signal;

use crate::harness::Site;

fn is_over(site: &Site, uuid: &str) -> bool {
    ["Complete", "Cancelled"].contains(&site.state(uuid).as_str())
}

/// One core: what does not run waits.
fn small_site() -> Site {
    let mut site = Site::with("InstanceTypes: {localhost: {VCPUs: 1, RAM: 4GiB, IncludedScratch: 10GiB, Price: 1}}\n");
    site.start();
    site
}

#[test]
fn of_what_does_not_run() {
    let mut site = small_site();
    let running = site.submit(&["--", "sleep", "1000"]);
    site.wait_state(&running, "Running");
    let mark = site.mark();
    let waiting = site.submit(&["--", "sh", "-c", &mark]);
    let held = site.submit(&["--priority", "0", "--", "sh", "-c", &mark]);
    let follower = site.submit(&["--after", &running, "--", "sh", "-c", &mark]);
    let second = site.submit(&["--after", &follower, "--", "sh", "-c", &mark]);
    site.wait_until("the scheduler has seen them", |site| {
        site.show(&waiting)["container"]["status"].as_str().is_some_and(|text| !text.is_empty())
    });
    for uuid in [&waiting, &held, &follower] {
        assert_eq!(site.ok(&["cancel", uuid]), format!("{uuid}: cancelled\n"));
        assert_eq!(site.state(uuid), "Cancelled", "at once");
        let (code, text) = site.fails(&["cancel", uuid]);
        assert!(code == 1 && text.contains("Cancelled"), "{code} {text}");
    }
    assert_eq!(site.state(&second), "Cancelled", "with what it waited for");
    assert_eq!(site.state(&running), "Running", "and nothing else");
    assert_eq!(site.ok(&["cancel", &running]), format!("{running}: will be killed\n"));
    site.wait_state(&running, "Cancelled");
    for uuid in [&waiting, &held, &follower, &second] {
        assert_eq!(site.runs_of(uuid), 0);
    }
    site.stop();
}

/// From the moment of the submission on: locked, assigned, being started, started, running, ended, being collected. Each of many gets its
/// cancel at another moment.
#[test]
fn at_any_moment_of_a_short_life() {
    let mut site = Site::started();
    let mark = site.mark();
    let warm = site.submit(&["--", "true"]);
    site.ok(&["wait", &warm]);
    let mut uuids = Vec::new();
    for number in 0..40_u64 {
        let uuid = site.submit(&["--", "sh", "-c", &format!("{mark}; sleep 0.1; exit 3")]);
        std::thread::park_timeout(std::time::Duration::from_millis(number * 8));
        let output = site.run(&["cancel", &uuid]);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() || text.contains("when Complete"), "{text}");
        uuids.push(uuid);
    }
    for uuid in &uuids {
        site.wait_until(&format!("{uuid} ends"), |site| is_over(site, uuid));
        let detail = site.show(uuid);
        let container = &detail["container"];
        let runs = site.runs_of(uuid);
        match container["state"].as_str() {
            Some("Complete") => assert_eq!((runs, container["exit_code"].as_i64()), (1, Some(3)), "{detail:#}"),
            _ => {
                assert!(runs <= 1, "{detail:#}");
                assert_eq!(container["status"], "cancelled on request", "{detail:#}");
            }
        }
        let open = |attempt: &serde_json::Value| attempt["finished_at"].is_null();
        assert!(!detail["attempts"].as_array().expect("a list").iter().any(open), "{detail:#}");
    }
    // The place of each is free again.
    let last = site.submit_counted(&[], "true");
    site.ok(&["wait", &last[0]]);
    site.stop();
}

/// It has ended, and nobody has collected its result yet: the cancel comes too late, and the exit code counts.
#[test]
fn after_its_end_and_before_its_result_is_here() {
    let mut site = Site::started();
    let gate = site.folder().join("runs/gate");
    let script = format!("while [ ! -e {} ]; do sleep 0.05; done; exit 3", gate.display());
    let uuids = site.submit_counted(&[], &script);
    let uuid = &uuids[0];
    site.wait_state(uuid, "Running");
    site.signal(Signal::STOP);
    std::fs::write(&gate, b"").expect("written");
    site.wait_until("its runner has written the result", |site| has_result(site.folder(), uuid));
    let cancel = site.command(&["cancel", uuid]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("runs");
    site.signal(Signal::CONT);
    let output = cancel.wait_with_output().expect("a child");
    let text = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("will be killed") || text.contains("when Complete"), "{text}");
    site.wait_state(uuid, "Complete");
    assert_eq!(site.show(uuid)["container"]["exit_code"], 3);
    assert_eq!(site.runs_of(uuid), 1);
    site.stop();
}

/// Its runner's, somewhere below this directory, in one that is named after the container.
fn has_result(directory: &std::path::Path, uuid: &str) -> bool {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.into_iter().any(|entry| {
        let path = entry.path();
        let is_result = path.ends_with("result.json") && path.to_string_lossy().contains(uuid);
        is_result || (path.is_dir() && !path.is_symlink() && has_result(&path, uuid))
    })
}
