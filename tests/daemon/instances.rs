//! What operators do with the worker.

use crate::harness::Site;

fn listed(site: &Site) -> Vec<Vec<String>> {
    let text = site.ok(&["instance", "list"]);
    text.lines().map(|line| line.split('\t').map(str::to_owned).collect()).collect()
}

#[test]
fn list_hold_drain_run_kill() {
    let mut site = Site::started();
    let first = site.submit(&["--", "true"]);
    site.ok(&["wait", &first]);
    site.wait_until("the instance is idle", |site| listed(site).first().is_some_and(|line| line[2] == "idle"));
    let line = &listed(&site)[0];
    assert_eq!(
        (line[0].as_str(), line[3].as_str(), line[6].as_str(), line[7].as_str()),
        ("localhost", "run", "1.000000", "-")
    );

    site.ok(&["instance", "hold", "localhost"]);
    let waiting = site.submit(&["--", "true"]);
    site.wait_until("it waits", |site| !site.show(&waiting)["container"]["status"].as_str().unwrap_or("").is_empty());
    assert_eq!(listed(&site)[0][3], "hold");
    // It is the one instance that there can be, and whoever waits is told that it is held.
    site.wait_until("the text says so", |site| {
        let container = &site.show(&waiting)["container"];
        let has = |key: &str, text: &str| container[key].as_str().is_some_and(|whole| whole.contains(text));
        has("status", "account limits") && has("explanation", "on hold, and counted: localhost")
    });
    let expected =
        "no instance has room for it and no more are created: MaxInstances is 1; on hold, and counted: localhost";
    for command in [&["list"][..], &["status"], &["show", &waiting]] {
        assert!(site.ok(command).contains(expected), "{command:?}: {}", site.ok(command));
    }
    site.ok(&["instance", "run", "localhost"]);
    site.ok(&["wait", &waiting]);

    // Hold survives a restart: it is a tag of the instance.
    site.ok(&["instance", "hold", "localhost"]);
    let file = site.state_dir().join("loopback.json");
    site.wait_until("the tag is saved", |_| std::fs::read_to_string(&file).unwrap_or_default().contains("\"hold\""));
    site.kill_9();
    site.start();
    site.wait_until("it is adopted", |site| {
        listed(site).first().is_some_and(|line| line[2] == "idle" && line[3] == "hold")
    });

    site.ok(&["instance", "drain", "localhost"]);
    site.wait_until("it is gone", |site| listed(site).is_empty());
    let next = site.submit(&["--", "true"]);
    site.ok(&["wait", &next]);
    site.ok(&["instance", "kill", "--reason", "a test", "localhost"]);
    site.wait_until("it is gone", |site| listed(site).is_empty());
    assert!(site.log().contains("via management API: a test"), "{}", site.log());
    site.stop();
}

#[test]
fn idle_instance_goes_after_timeout_idle() {
    let mut site = Site::with("Containers: {CloudVMs: {TimeoutIdle: 1s, ProbeInterval: 1s}}\n");
    site.start();
    let uuid = site.submit(&["--", "true"]);
    site.ok(&["wait", &uuid]);
    site.wait_until("it is gone", |site| listed(site).is_empty());
    assert!(site.log().contains("msg=\"shutdown worker\""), "{}", site.log());
    site.stop();
}

/// Spec 20 §6, circuit breaker: instances that do not boot are not created again and again, and everybody is told why.
#[test]
fn instances_that_do_not_boot() {
    let mut site = Site::with(
        "Containers: {CloudVMs: {BootProbeCommand: \"echo no disk >&2; false\", TimeoutBooting: 1ms, ProbeInterval: 100ms}}\n",
    );
    site.start();
    let uuid = site.submit(&["--", "true"]);
    let limits = |site: &Site| site.json(&["status"])["limits"].to_string();
    site.wait_until("the type is paused", |site| limits(site).contains("breaker"));
    let status = site.ok(&["status"]);
    let line = status.lines().find(|line| line.contains("breaker")).unwrap_or_default();
    assert!(
        line.contains("type localhost: 3 instances in a row failed to boot") && line.contains("no disk"),
        "{status}"
    );
    assert!(line.contains("until 2"), "{line}");
    let types = site.json(&["instance-type", "list"]);
    assert_eq!(types["items"][0]["boot_failures"], 3, "{types:#}");
    assert!(site.ok(&["instance-type", "list"]).contains("breaker"));
    site.wait_until("the container says why it waits", |site| {
        let text = site.show(&uuid)["container"]["explanation"].as_str().unwrap_or_default().to_owned();
        text.contains("3 instances in a row failed to boot") && text.contains("no disk") && text.contains("tried at ")
    });
    site.wait_until("it is logged", |site| {
        site.has_logged(&["instances of this type do not boot", "InstanceType=localhost", "no disk", "ResumeTime=2"])
    });

    let (code, text) = site.fails(&["instance-type", "reset", "nosuch"]);
    assert_eq!((code, text.contains("nosuch")), (3, true), "{text}");
    site.ok(&["instance-type", "reset", "localhost"]);
    site.wait_until("it is logged", |site| site.has_logged(&["the failed boots of this type are forgotten"]));
    site.wait_until("it was tried again, and is paused again", |site| {
        site.log().matches("instances of this type do not boot").count() == 2 && limits(site).contains("breaker")
    });
    assert_eq!(site.log().matches("creating instance").count(), 6, "{}", site.log());
    site.stop();
}

#[test]
fn a_held_container_kill_through_the_api_cancels_it() {
    let mut site = Site::started();
    let uuid = site.submit(&["--", "sleep", "1000"]);
    site.wait_state(&uuid, "Running");
    let address = http::address(&site);
    let token = std::fs::read_to_string(site.state_dir().join("management-token")).expect("made");
    let path = format!("/arvados/v1/dispatch/containers/kill?container_uuid={uuid}&reason=test");
    assert!(http::request(&address, "POST", &path, token.trim()).starts_with("HTTP/1.1 200"));
    site.wait_state(&uuid, "Cancelled");
    site.stop();
}

#[test]
fn metrics_and_health() {
    let mut site = Site::started();
    let uuid = site.submit(&["--", "true"]);
    site.ok(&["wait", &uuid]);
    let address = http::address(&site);
    let token = std::fs::read_to_string(site.state_dir().join("management-token")).expect("made");
    let metrics = http::request(&address, "GET", "/metrics", token.trim());
    for needle in [
        "arvados_dispatchcloud_boot_outcomes{outcome=\"success\"} 1",
        "arvados_dispatchcloud_driver_operations{error=\"0\",operation=\"Create\"} 1",
        "arvados_dispatchcloud_instances_total{category=\"idle\",instance_type=\"localhost\"}",
    ] {
        assert!(metrics.contains(needle), "{needle}: {metrics}");
    }
    assert!(http::request(&address, "GET", "/_health/ping", token.trim()).contains("{\"health\":\"OK\"}"));
    assert!(http::request(&address, "GET", "/metrics", "wrong").starts_with("HTTP/1.1 403"));
    site.stop();
}

/// Just enough of a client, so that nothing of the product tests itself.
pub(crate) mod http {
    use std::io::{Read, Write};
    use std::net::TcpStream;

    use crate::harness::Site;

    /// Where the daemon's log says that it listens.
    pub(crate) fn address(site: &Site) -> String {
        let log = site.log();
        let line = log.lines().rev().find(|line| line.contains("muster daemon ready")).expect("it is ready");
        let field = line.split_whitespace().find_map(|word| word.strip_prefix("Address=")).expect("named");
        field.to_owned()
    }

    pub(crate) fn request(address: &str, method: &str, path: &str, token: &str) -> String {
        let mut stream = TcpStream::connect(address).expect("listens");
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("answered");
        answer
    }
}
