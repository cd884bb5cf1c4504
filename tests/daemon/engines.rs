//! Limits and engines from submission to result: what a user sees of them.

use crate::harness::Site;
use crate::podman::{IMAGE, Store};

fn site_with(runner: &str) -> Site {
    let mut site = Site::new();
    let text = std::fs::read_to_string(site.config()).expect("read");
    std::fs::write(site.config(), text.replacen("Muster:\n", &format!("Muster:\n  Runner: {runner}\n"), 1))
        .expect("written");
    site.start();
    site
}

#[test]
fn memory_is_what_was_asked_for() {
    let site = Site::started();
    let hog = ["dd", "if=/dev/zero", "of=/dev/null", "bs=100M", "count=1"];
    let uuid = site.submit(&[&["--ram", "32MiB", "--max-attempts", "3", "--"][..], &hog].concat());
    let (code, _) = site.fails(&["wait", &uuid]);
    assert_eq!(code, 1);
    let detail = site.show(&uuid);
    if site.has_logged(&["facts of the instance", "Cgroup=none"]) {
        assert_eq!(detail["container"]["state"], "Complete", "{detail:#}");
        return;
    }
    assert_eq!(detail["container"]["state"], "Cancelled", "{detail:#}");
    assert_eq!(detail["container"]["attempt"], 1, "another attempt would need as much: {detail:#}");
    let error = detail["runtime_status"]["error"].as_str().unwrap_or_default();
    assert!(error.contains("memory"), "{error}");
    assert!(site.has_logged(&["container finished", &uuid, "State=Cancelled", "memory"]), "{}", site.log());
}

#[test]
fn containers_with_and_without_an_image() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = Store::new(folder.path());
    let arguments = serde_json::to_string(&store.engine_arguments()).expect("JSON");
    let mut site = site_with(&format!("{{Engine: podman, EngineArguments: {arguments}}}"));
    let inside = site.submit(&[
        "--image",
        IMAGE,
        "--env",
        "MINE=a b",
        "--output",
        "out",
        "--",
        "sh",
        "-c",
        "echo $MINE; ls / > out; exit 3",
    ]);
    let outside = site.submit(&["--", "sh", "-c", "ls /"]);
    site.fails(&["wait", &inside, &outside]);
    let detail = site.show(&inside);
    assert_eq!(
        (&detail["container"]["state"], &detail["container"]["exit_code"]),
        (&"Complete".into(), &3.into()),
        "{detail:#}"
    );
    assert_eq!(site.ok(&["logs", &inside]), "a b\n");
    let out = std::path::Path::new(detail["attempts"][0]["result_dir"].as_str().expect("a path")).join("outputs/out");
    assert!(std::fs::read_to_string(&out).expect("read").starts_with("bin\ndev\netc\n"), "{}", out.display());
    assert!(site.ok(&["logs", &outside]).contains("home"), "this machine's files");
    let long = site.submit(&["--image", IMAGE, "--", "sh", "-c", "trap 'exit 1' TERM; while :; do sleep 0.1; done"]);
    site.wait_state(&long, "Running");
    site.ok(&["cancel", &long]);
    site.fails(&["wait", &long]);
    assert_eq!(site.state(&long), "Cancelled");
    store.assert_empty();
    let (code, text) = site.fails(&["submit", "--image", IMAGE, "--env", "A=two\nlines", "--", "true"]);
    assert!(code == 1 && text.contains("environment"), "{code} {text}");
    site.stop();
}

#[test]
fn an_image_that_is_not_there_is_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = Store::new(folder.path());
    let arguments = serde_json::to_string(&store.engine_arguments()).expect("JSON");
    let mut site = site_with(&format!("{{Engine: podman, EngineArguments: {arguments}}}"));
    let uuid = site.submit(&["--image", "localhost/no-such-image", "--max-attempts", "2", "--", "true"]);
    site.fails(&["wait", &uuid]);
    let detail = site.show(&uuid);
    let error = detail["runtime_status"]["error"].as_str().unwrap_or_default();
    assert!(error.contains("lost 2 times") && error.contains("no-such-image"), "{detail:#}");
    site.stop();
}

/// The daemon says it when the worker comes into service, not only when a container fails.
#[test]
fn an_engine_that_is_not_on_the_instance_is_told() {
    let mut site = site_with("{Engine: singularity}");
    let uuid = site.submit(&["--", "true"]);
    site.ok(&["wait", &uuid]);
    let has_it = site.log().lines().any(|line| line.contains("facts of the instance") && line.contains("singularity"));
    assert_eq!(site.has_logged(&["engine is not on the instance", "Engine=singularity"]), !has_it, "{}", site.log());
    site.stop();
}
