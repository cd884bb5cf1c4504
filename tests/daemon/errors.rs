//! What a new user does wrong, and what he is told.

use crate::harness::Site;

#[test]
fn no_daemon() {
    let site = Site::new();
    for arguments in [&["status"][..], &["list"], &["submit", "--", "true"], &["wait", "local-dz642-000000000000000"]] {
        let (code, text) = site.fails(arguments);
        assert_eq!(code, 4, "{arguments:?}: {text}");
        assert!(text.starts_with("muster: ") && text.lines().count() == 1, "{text}");
        assert!(text.contains("muster.sock") && text.contains("muster daemon"), "where and how: {text}");
    }
}

#[test]
fn unknown_and_malformed_containers() {
    let mut site = Site::started();
    for command in ["show", "logs", "cancel", "wait", "rerun"] {
        for uuid in ["local-dz642-000000000000000", "nonsense"] {
            let (code, text) = site.fails(&[command, uuid]);
            assert!(code == 3 || (uuid == "nonsense" && code == 2), "{command} {uuid}: {code} {text}");
            assert!(text.contains(uuid), "{command}: {text}");
        }
    }
    let (code, text) = site.fails(&["instance", "hold", "nowhere"]);
    assert!(code == 1 && text.contains("nowhere: 404"), "{code} {text}");
    site.stop();
}

#[test]
fn refused_submissions() {
    let mut site = Site::started();
    for (arguments, code, needle) in [
        (&["submit", "--ram", "12 gigs", "--", "true"][..], 2, "--ram"),
        (&["submit", "--priority", "5000", "--", "true"], 1, "priority"),
        (&["submit", "--vcpus", "100000", "--", "true"], 1, "vcpus"),
        (&["submit", "--image", "busybox", "--", "true"], 1, "image"),
        (&["submit", "--after", "local-dz642-000000000000000", "--", "true"], 1, "after"),
        (&["submit", "--array", "1-100000", "--", "echo", &"x".repeat(10_000)], 1, "array"),
        (&["submit"], 2, "COMMAND"),
    ] {
        let (is, text) = site.fails(arguments);
        assert!(is == code || (code == 1 && is == 2), "{arguments:?}: {is} {text}");
        assert!(text.to_lowercase().contains(&needle.to_lowercase()), "{arguments:?}: {text}");
    }
    let jobs = site.folder().join("jobs.jsonl");
    std::fs::write(&jobs, "{\"command\": [\"true\"]}\n{\"command\": [\"true\"], \"prioritty\": 3}\n").expect("written");
    let (code, text) = site.fails(&["submit", "--file", &jobs.to_string_lossy()]);
    assert!(code == 1 && text.contains("line 2") && text.contains("priority"), "{code} {text}");
    assert_eq!(site.json(&["status"])["containers"]["Queued"], 0, "all or nothing");
    site.stop();
}

#[test]
fn second_daemon_on_the_same_state_directory() {
    let mut site = Site::started();
    let holder = site.pid().as_raw_nonzero().to_string();
    let output = site.daemon().stderr(std::process::Stdio::piped()).output().expect("starts");
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains(&format!("process {holder}")), "says who holds it: {text}");
    site.stop();
}

#[test]
fn broken_configuration_is_named_by_place() {
    let site = Site::new();
    site.configure("Containers: {CloudVMs: {TimeoutIdle: soon, TimeoutIdel: 1m}}\n");
    let (code, text) = site.fails(&["check"]);
    assert_eq!(code, 1, "{text}");
    let output = site.run(&["check"]);
    let all = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(all.contains("config.yml:5:") && all.contains("TimeoutIdle"), "{all}");
    std::fs::write(site.config(), "Muster: {StateDir: [}\n").expect("written");
    let output = site.run(&["check"]);
    let all = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.code() == Some(1) && all.contains("config.yml:1:"), "{all}");
}

#[test]
fn driver_that_does_not_exist_yet() {
    let site = Site::new();
    site.configure("Containers: {CloudVMs: {Driver: azure}}\n");
    let (code, text) = site.fails(&["daemon"]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("azure") && text.contains("loopback"), "{text}");
}
