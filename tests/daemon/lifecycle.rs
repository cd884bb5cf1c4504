//! The main job: submit, run, result; and what people do in between.

use crate::harness::Site;

#[test]
fn one_container_from_submit_to_result() {
    let mut site = Site::started();
    let uuid = site.submit(&["--name", "first", "--", "sh", "-c", "echo hello; echo oops >&2; exit 0"]);
    site.ok(&["wait", &uuid]);
    assert_eq!(site.ok(&["logs", &uuid]), "hello\n");
    assert_eq!(site.ok(&["logs", "--stderr", &uuid]), "oops\n");
    let detail = site.show(&uuid);
    let container = &detail["container"];
    assert_eq!((container["state"].as_str(), container["exit_code"].as_i64()), (Some("Complete"), Some(0)));
    assert_eq!(container["attempt"], 1);
    assert!(container["started_at"].as_i64() <= container["finished_at"].as_i64(), "{detail:#}");
    let events: Vec<_> =
        detail["history"].as_array().expect("a list").iter().map(|line| line["event"].clone()).collect();
    let events: Vec<_> = events.iter().filter_map(|event| event.as_str()).collect();
    for pair in ["submitted", "locked", "assigned", "finished"].windows(2) {
        let place = |event| events.iter().position(|one| *one == event);
        assert!(place(pair[0]).expect(pair[0]) < place(pair[1]).expect(pair[1]), "{events:?}");
    }
    assert!(site.ok(&["list"]).contains("first"));
    site.stop();
}

#[test]
fn endings_and_exit_codes() {
    let mut site = Site::started();
    for (script, options, state, exit_code, wait) in [
        ("exit 3", &[][..], "Complete", Some(3), 3),
        ("kill -9 $$", &[], "Complete", Some(137), 137),
        ("sleep 1000", &["--max-run-time", "1s"], "Cancelled", None, 125),
    ] {
        let arguments = [&["submit", "--wait"], options, &["--", "sh", "-c", script]].concat();
        let output = site.run(&arguments);
        assert_eq!(output.status.code(), Some(wait), "{script}: {}", String::from_utf8_lossy(&output.stderr));
        let uuid = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        let container = site.show(&uuid)["container"].clone();
        assert_eq!(container["state"], state, "{container:#}");
        assert_eq!(container["exit_code"].as_i64(), exit_code, "{container:#}");
    }
    let missing = site.submit(&["--", "/nonexistent/program"]);
    assert_eq!(site.fails(&["wait", &missing]).0, 1);
    assert_eq!(site.show(&missing)["container"]["exit_code"], 127);
    site.stop();
}

#[test]
fn arrays_files_environment_and_outputs() {
    let mut site = Site::started();
    let array =
        site.submit_counted(&["--array", "3-12", "--env", "GREETING=good day"], "echo $MUSTER_ARRAY_INDEX $GREETING");
    assert_eq!(array.len(), 10);
    let jobs = site.folder().join("jobs.jsonl");
    let records: String = (0..10)
        .map(|index| {
            let script = format!("{}; cat > out/data.txt; ln -s /etc/passwd out/link", site.mark());
            let command = serde_json::json!(["sh", "-c", format!("mkdir out; {script}")]);
            let record = serde_json::json!({"name": format!("file-{index}"), "command": command, "priority": 1 + index * 100,
                "stdin": format!("input {index}{}", "x".repeat(index * 10_000)), "outputs": ["out"]});
            format!("{record}\n")
        })
        .collect();
    std::fs::write(&jobs, records).expect("written");
    let by_file: Vec<String> =
        site.ok(&["submit", "--file", &jobs.to_string_lossy()]).lines().map(str::to_owned).collect();
    site.ok(&[&["wait"][..], &array.iter().chain(&by_file).map(String::as_str).collect::<Vec<_>>()].concat());
    site.assert_once(&array);
    site.assert_once(&by_file);
    for (index, uuid) in array.iter().enumerate() {
        assert_eq!(site.ok(&["logs", uuid]), format!("{} good day\n", index + 3));
    }
    for (index, uuid) in by_file.iter().enumerate() {
        let result_dir = site.show(uuid)["attempts"][0]["result_dir"].as_str().expect("collected").to_owned();
        let data = std::fs::read_to_string(format!("{result_dir}/outputs/out/data.txt")).expect("brought back");
        assert_eq!(data, format!("input {index}{}", "x".repeat(index * 10_000)));
        assert!(!std::path::Path::new(&format!("{result_dir}/outputs/out/link")).exists(), "links stay there");
    }
    site.stop();
}

#[test]
fn several_at_once_as_far_as_resources_go() {
    // Two of the four need what the other two have: exactly two at a time.
    let mut site = Site::with("InstanceTypes: {localhost: {VCPUs: 2, RAM: 4GiB, IncludedScratch: 10GiB, Price: 1}}\n");
    site.start();
    let gate = site.folder().join("runs/gate");
    let script = format!("while [ ! -e {} ]; do sleep 0.05; done", gate.display());
    let uuids = site.submit_counted(&["--array", "1-4", "--vcpus", "1"], &script);
    site.wait_until("two run", |site| uuids.iter().filter(|uuid| site.state(uuid) == "Running").count() == 2);
    let waiting: Vec<_> = uuids.iter().filter(|uuid| site.state(uuid) != "Running").cloned().collect();
    let status = site.show(&waiting[0])["container"]["status"].as_str().expect("a text").to_owned();
    assert!(status.starts_with("Waiting in queue at position "), "{status}");
    std::fs::write(&gate, b"").expect("written");
    site.ok(&[&["wait"][..], &uuids.iter().map(String::as_str).collect::<Vec<_>>()].concat());
    site.assert_once(&uuids);
    site.stop();
}

#[test]
fn cancel_hold_priority_rerun_and_after() {
    let mut site = Site::started();
    let running = site.submit(&["--", "sleep", "1000"]);
    site.wait_state(&running, "Running");
    let (code, text) = site.fails(&["priority", "0", &running]);
    assert!(code == 1 && text.contains("cancel"), "{code} {text}");
    site.ok(&["cancel", &running]);
    site.wait_state(&running, "Cancelled");

    let held = site.submit(&["--priority", "0", "--", "true"]);
    let follower = site.submit(&["--after", &held, "--", "true"]);
    assert_eq!((site.state(&held).as_str(), site.state(&follower).as_str()), ("Queued", "Queued"));
    site.ok(&["priority", "700", &held]);
    site.ok(&["wait", &held, &follower]);

    let failing = site.submit(&["--name", "again", "--", "false"]);
    let doomed = site.submit(&["--after", &failing, "--", "true"]);
    assert_eq!(site.fails(&["wait", &failing, &doomed]).0, 1);
    assert_eq!(site.state(&doomed), "Cancelled");
    let reason = site.show(&doomed)["container"]["status"].as_str().expect("a reason").to_owned();
    assert!(reason.contains(&failing), "{reason}");
    let output = site.ok(&["rerun", &failing]);
    let again =
        output.split_whitespace().find(|word| word.contains("-dz642-") && !word.contains(&failing)).expect("a uuid");
    let again = again.trim_end_matches([':', '.']).to_owned();
    site.wait_state(&again, "Complete");

    let ignoring = site.submit(&["--", "sh", "-c", "trap '' TERM; while :; do sleep 0.1; done"]);
    site.wait_state(&ignoring, "Running");
    site.ok(&["cancel", &ignoring]);
    site.wait_state(&ignoring, "Cancelled");

    let failing = site.submit(&["--priority", "0", "--", "false"]);
    let follower = site.submit(&["--after", &failing, "--", "true"]);
    site.ok(&["cancel", &failing]);
    let late = site.submit(&["--after", &follower, "--", "true"]);
    site.stop();
    let log = site.log();
    for uuid in [&doomed, &follower, &late] {
        let lines = log
            .lines()
            .filter(|line| line.contains("container cancelled") && line.contains(&format!("ContainerUUID={uuid} ")));
        assert_eq!(lines.filter(|line| line.contains("level=info")).count(), 1, "{uuid}: spec 80 §4");
    }
}

#[test]
fn logs_follow_a_running_container() {
    let mut site = Site::started();
    let gate = site.folder().join("runs/gate");
    let script = format!("echo early; while [ ! -e {} ]; do sleep 0.05; done; echo late", gate.display());
    let uuid = site.submit(&["--", "sh", "-c", &script]);
    let mut follower =
        site.command(&["logs", "-f", &uuid]).stdout(std::process::Stdio::piped()).spawn().expect("starts");
    let mut output = std::io::BufReader::new(follower.stdout.take().expect("piped"));
    let mut line = String::new();
    std::io::BufRead::read_line(&mut output, &mut line).expect("readable");
    assert_eq!(line, "early\n", "before the container has ended");
    std::fs::write(&gate, b"").expect("written");
    let mut rest = String::new();
    std::io::Read::read_to_string(&mut output, &mut rest).expect("readable");
    assert_eq!(rest, "late\n");
    assert!(follower.wait().expect("a child").success());
    site.stop();
}
