//! The exact answers of spec 82 §2–§5 and of `API.md`.

use std::collections::BTreeMap;
use std::time::Duration;

use muster::core::effect::Figure;
use muster::core::vocabulary::{BootOutcome, ContainerState, WorkerState};
use muster::management::backend::{Gauges, InstanceSum};

use crate::fake::{TOKEN, UUID, start, start_with};

const BASE: &str = "/arvados/v1/dispatch";

#[test]
fn token_vectors() {
    let peer = start();
    let path = format!("{BASE}/instances");
    peer.ask_with("GET", &path, "", "").is(401, "Unauthorized\n");
    peer.ask_with("GET", &path, "Authorization: Bearer abc\r\n", "").is(403, "Forbidden\n");
    peer.ask_with("GET", "/muster/v1/version", "", "").is(401, "{\"errors\":[\"Unauthorized\"]}\n");
    assert_eq!(peer.ask_with("GET", &format!("{path}?api_token={TOKEN}"), "", "").status, 200);
    let empty = start_with("", 64);
    let text = "Management API authentication is not configured\n";
    empty.ask_with("GET", &path, "", "").is(403, text);
    empty.ask_with("GET", &path, "Authorization: Bearer abc\r\n", "").is(403, text);
    assert_eq!(empty.ask_with("GET", "/metrics", "", "").status, 200);
    peer.ask_with("GET", "/metrics", "", "").is(401, "Unauthorized\n");
    peer.ask_with("GET", "/metrics.json", "Authorization: Bearer abc\r\n", "").is(403, "Forbidden\n");
}

#[test]
fn arvados_paths() {
    let peer = start();
    let get = |path: &str| peer.ask("GET", &format!("{BASE}{path}"), "");
    let post = |path: &str, body: &str| peer.ask("POST", &format!("{BASE}{path}"), body);
    let errors = |text: &str| format!("{{\"errors\":[\"{text}\"]}}\n");
    get("/containers").is(200, "{\"items\":null}\n");
    get("/container").is(404, &errors("container not found"));
    get(&format!("/container?container_uuid={UUID}")).is(404, &errors("container not found"));
    post("/containers/kill", "").is(400, &errors("container_uuid parameter not provided"));
    post("/containers/kill?container_uuid=x", "").is(404, &errors("container not found"));
    post(&format!("/containers/kill?container_uuid={UUID}&reason=a+b"), "").is(200, "");
    assert_eq!(peer.fake.last_call(), format!("kill {UUID} via management API: a b"));
    let instances = get("/instances");
    assert!(instances.body.find("i-1").unwrap() < instances.body.find("i-2").unwrap(), "{instances:?}");
    assert_eq!(instances.header("Content-Type"), Some("application/json"));
    // The shape of Arvados' list stays as it is: instances only, no further fields.
    assert!(!instances.body.contains("unreachable") && !instances.body.contains("detail"), "{instances:?}");
    let all = peer.ask("GET", "/muster/v1/instances", "");
    let places = ["\"i-1\"", "\"i-11\"", "\"i-2\""].map(|name| all.body.find(name).unwrap());
    assert!(places.is_sorted(), "{all:?}");
    for verb in ["hold", "drain", "run"] {
        post(&format!("/instances/{verb}"), "").is(400, &errors("instance_id parameter not provided"));
        post(&format!("/instances/{verb}?instance_id=x"), "").is(404, &errors("requested instance does not exist"));
        // The form body comes before the query.
        post(&format!("/instances/{verb}?instance_id=x"), "instance_id=i-1").is(200, "");
        assert_eq!(peer.fake.last_call(), format!("{verb} i-1"));
    }
    post("/instances/kill", "").is(400, &errors("instance_id parameter not provided"));
    post("/instances/kill?instance_id=x", "").is(404, &errors("instance not found"));
    post("/instances/kill?instance_id=i-1&reason=why", "").is(200, "");
    assert_eq!(peer.fake.last_call(), "kill i-1 via management API: why");
    get("/nothing").is(404, "404 page not found\n");
    let wrong = post("/instances", "");
    wrong.is(405, "Method Not Allowed\n");
    assert_eq!(wrong.header("Allow"), Some("GET"));
    let moved = peer.ask("GET", &format!("/{BASE}/instances?a=b"), "");
    assert_eq!((moved.status, moved.header("Location")), (301, Some("/arvados/v1/dispatch/instances?a=b")));
    assert_eq!(peer.ask("POST", &format!("/{BASE}/instances/hold"), "").status, 308);
}

#[test]
fn health() {
    let peer = start();
    let bearer = format!("Authorization: Bearer {TOKEN}\r\n");
    let ping = |headers: &str| peer.ask_with("GET", "/_health/ping", headers, "");
    ping("").is(401, "authorization required\n");
    ping(&format!("Authorization: OAuth2 {TOKEN}\r\n")).is(403, "authorization error\n");
    ping(&bearer).is(200, "{\"health\":\"OK\"}\n");
    *peer.fake.sick.lock().unwrap() = Some("error loading runner binary: x".to_owned());
    ping(&bearer).is(200, "{\"error\":\"error loading runner binary: x\",\"health\":\"ERROR\"}\n");
    peer.ask_with("GET", "/_health/other", "", "").is(401, "Unauthorized\n");
    assert_eq!(peer.ask("GET", "/_health/other", "").status, 404);
    start_with("", 64).ask_with("GET", "/_health/ping", &bearer, "").is(404, "disabled\n");
}

#[test]
fn inspect_shows_itself_without_tokens() {
    let peer = start();
    let path = "/_inspect/requests?api_token=secret";
    peer.ask_with("GET", path, "", "").is(401, "{\"errors\":[\"unauthorized\"]}\n");
    let headers = format!("Authorization: Bearer {TOKEN}\r\nX-Request-Id: req-1\r\nHost: h\r\n");
    let answer = peer.ask_with("GET", path, &headers, "");
    assert!(answer.body.contains("\"RequestID\":\"req-1\",\"Method\":\"GET\",\"Host\":\"h\""), "{answer:?}");
    assert!(answer.body.contains("?api_token=***\"") && !answer.body.contains("secret"), "{answer:?}");
    assert_eq!(answer.header("X-Request-Id"), Some("req-1"));
    assert!(peer.ask("GET", "/", "").header("X-Request-Id").unwrap().starts_with("req-"));
}

/// Method, path below `/muster/v1/`, body, status, part of the answer, last call of the daemon.
type Row<'a> = (&'a str, &'a str, &'a str, u16, &'a str, &'a str);

#[test]
fn own_paths() {
    let peer = start();
    let logs = format!("containers/{UUID}/logs?stream=stderr&offset=7&attempt=2&wait_s=0.5");
    let show = format!("containers/{UUID}");
    let rows: &[Row<'_>] = &[
        ("GET", "version", "", 200, "\"version\":\"9.9\"", ""),
        ("GET", "version?x=1", "", 400, "x: there are no parameters here", ""),
        ("GET", "status", "", 503, "the disk is full", ""),
        (
            "GET",
            "containers",
            "",
            200,
            "\"items\":[]",
            "ListQuery { state: None, name: None, limit: 1000, before: None }",
        ),
        (
            "GET",
            "containers?state=Queued&name=a%2A&limit=5&before=b",
            "",
            200,
            "",
            "ListQuery { state: Some(Queued), name: Some(\"a*\"), limit: 5, before: Some(\"b\") }",
        ),
        ("GET", "containers?state=queued", "", 400, "is none of Queued, Locked", ""),
        ("GET", "containers?limit=0", "", 400, "limit: must be from 1 to 10000", ""),
        ("GET", "containers?limit=x", "", 400, "limit: bad value", ""),
        ("GET", "containers?sate=Queued", "", 400, "sate: there is no such parameter; known are state, name", ""),
        ("POST", "containers", "{\"records\":[{}]}", 200, UUID, "submit 1"),
        ("POST", "containers", "{\"records\":[]}", 400, "records: is empty", ""),
        ("POST", "containers", "{\"records\":[{}],\"array\":[2,1]}", 400, "array: ends", ""),
        ("POST", "containers", "{\"records\":\n[{},}", 400, "line 2 column 5", ""),
        ("POST", "containers", "{\"record\":[]}", 400, "unknown field `record`", ""),
        ("GET", &show, "", 404, "there is no container zzzzz", ""),
        ("GET", "containers/nonsense", "", 404, "there is no container \\\"nonsense\\\"", ""),
        (
            "GET",
            &logs,
            "",
            200,
            "a\0b\n",
            "LogQuery { uuid: \"zzzzz-dz642-aaaaaaaaaaaaaa1\", stream: Stderr, attempt: Some(2), offset: 7, wait: 500ms }",
        ),
        (
            "POST",
            "containers/cancel",
            "{\"name\":\"x*\"}",
            200,
            "items",
            "cancel Selection { uuids: [], name: Some(\"x*\"), state: None, priority: None }",
        ),
        ("POST", "containers/cancel", "{}", 400, "uuids: is empty", ""),
        ("POST", "containers/priority", "{\"name\":\"x\"}", 400, "priority: is missing", ""),
        ("POST", "containers/priority", "{\"name\":\"x\",\"priority\":3}", 200, "", "priority Some(3)"),
        ("POST", "containers/rerun", "{\"name\":\"x\"}", 400, "uuids: is empty", ""),
        ("POST", "containers/rerun", "{\"uuids\":[\"x\"]}", 409, "it runs", ""),
        ("POST", "containers/wait", "{\"uuids\":[\"x\"],\"wait_s\":31}", 400, "wait_s: must be from 0 to 30", ""),
        ("POST", "containers/wait", "{\"uuids\":[\"x\"]}", 200, "finished", ""),
        ("POST", "batches", "", 200, "{\"batch\":\"b1\"}", ""),
        ("POST", "batches/b1/records", "{}\n\n{\"a\":1}\n", 200, "{\"records\":3}", "append b1 3"),
        ("POST", "batches/b1/records", "{}\n{\"a\":1}", 200, "{\"records\":2}", "append b1 2"),
        ("POST", "batches/b1/records", "{}\n{\n", 400, "record in line 2", ""),
        ("POST", "batches/b.1/records", "{}", 404, "there is no batch", ""),
        ("POST", "batches/b1/commit", "", 200, "", "commit b1 None"),
        ("POST", "batches/b1/commit", "{\"token\":\"t\"}", 200, "", "commit b1 Some(\"t\")"),
        (
            "GET",
            "instances",
            "",
            200,
            "\"worker_state\":\"unreachable\",\"idle_behavior\":\"\",\"detail\":\"no route\"",
            "",
        ),
        ("GET", "instances?x=1", "", 400, "there are no parameters here", ""),
        ("GET", "instance-types", "", 200, "items", ""),
        ("POST", "instance-types/reset?name=m5", "", 200, "", "reset m5"),
        ("POST", "instance-types/reset", "", 400, "name: the parameter is missing", ""),
        ("POST", "backup", "{\"file\":\"rel\"}", 400, "file: must be an absolute path", ""),
        ("POST", "backup", "{\"file\":\"/x\"}", 200, "", "backup /x"),
        ("GET", "backup", "", 405, "Method Not Allowed", ""),
        ("GET", "other", "", 404, "{\"errors\":[\"404 page not found\"]}", ""),
    ];
    for (method, path, body, status, part, call) in rows {
        let answer = peer.ask(method, &format!("/muster/v1/{path}"), body);
        assert_eq!(answer.status, *status, "{method} {path}: {answer:?}");
        assert!(answer.body.contains(part), "{method} {path}: {answer:?}");
        assert_eq!(answer.header("Muster-API"), Some("1"));
        if !call.is_empty() {
            assert_eq!(&peer.fake.last_call(), call);
        }
    }
    let answer = peer.ask("GET", &format!("/muster/v1/{logs}"), "");
    let headers = ["Muster-Next-Offset", "Muster-End", "Muster-Attempt"].map(|name| answer.header(name).unwrap());
    assert_eq!(headers, ["11", "true", "2"]);
}

#[test]
fn other_versions_are_refused_with_both_numbers() {
    let peer = start();
    let ask = |version: &str| {
        let headers = format!("Authorization: Bearer {TOKEN}\r\nmuster-api: {version}\r\n");
        peer.ask_with("GET", "/muster/v1/version", &headers, "")
    };
    assert_eq!(ask("1").status, 200);
    let refused = ask("7");
    assert!(
        refused.status == 400 && refused.body.contains("version 7") && refused.body.contains("version 1"),
        "{refused:?}"
    );
}

#[test]
fn socket_needs_no_token() {
    let peer = start_with("", 64);
    for path in
        ["/muster/v1/version", "/arvados/v1/dispatch/instances", "/_health/ping", "/_inspect/requests", "/metrics"]
    {
        let mut client = peer.connect_unix();
        client.send(&format!("GET {path} HTTP/1.1\r\n\r\n"));
        assert_eq!(client.answer(false).status, 200, "{path}");
    }
}

#[test]
fn metrics_by_exact_names() {
    let peer = start();
    let sum = InstanceSum { instances: 2, price: 0.5, vcpus: 4, ram: 1024 };
    let full = Gauges {
        queue_entries: BTreeMap::from([((ContainerState::Queued, "t1".to_owned()), 3)]),
        instances: BTreeMap::from([(("idle", "t1".to_owned()), sum), (("idle", "t2".to_owned()), sum)]),
        probe_ages: [3, 1, 2].map(Duration::from_secs).to_vec(),
        at_quota: true,
        ..Gauges::default()
    };
    *peer.fake.gauges.lock().unwrap() = full;
    peer.metrics.observe(&Figure::BootOutcome(BootOutcome::Failure));
    peer.metrics.observe(&Figure::Disappeared(WorkerState::Shutdown));
    peer.metrics.observe(&Figure::TimeToSsh(Duration::from_secs(7)));
    peer.metrics.driver_operation("Create", true);
    peer.metrics.run_probe(true, Duration::from_millis(3));
    peer.ask("BREW", "/pot", "");
    let text = peer.ask("GET", "/metrics", "").body;
    for line in [
        "queue_entries{instance_type=\"t1\",state=\"Queued\"} 3",
        "instances_total{category=\"idle\",instance_type=\"t1\"} 2",
        "instances_price{category=\"idle\"} 1",
        "vcpus_total{category=\"idle\"} 8",
        "memory_bytes_total{category=\"idle\"} 2048",
        "memory_bytes_total{category=\"hold\"} 0",
        "probe_age_seconds_max 3",
        "probe_age_seconds_median 2",
        "containers_running 0",
        "containers_allocated_not_started 0",
        "containers_not_allocated_over_quota 0",
        "containers_longest_wait_time_seconds 0",
        "last_503_time 0",
        "max_concurrent_containers 0",
        "at_quota 1",
        "boot_outcomes{outcome=\"failure\"} 1",
        "boot_outcomes{outcome=\"disappeared\"} 0",
        "instances_disappeared{state=\"shutdown\"} 1",
        "instances_disappeared{state=\"unknown\"} 0",
        "instances_time_to_ssh_seconds_sum 7",
        "instances_time_to_ready_for_container_seconds_count 0",
        "instances_time_from_shutdown_request_to_disappearance_seconds_count 0",
        "containers_time_from_queue_to_crunch_run_seconds_count 0",
        "instances_run_probe_duration_seconds_count{outcome=\"success\"} 1",
        "driver_operations{error=\"1\",operation=\"Create\"} 1",
        "driver_operations{error=\"0\",operation=\"Create\"} 0",
        "driver_operations{error=\"0\",operation=\"List\"} 0",
        "driver_operations{error=\"1\",operation=\"List\"} 0",
        "driver_operations{error=\"0\",operation=\"Destroy\"} 0",
        "driver_operations{error=\"1\",operation=\"Destroy\"} 0",
        "driver_operations{error=\"0\",operation=\"SetTags\"} 0",
        "driver_operations{error=\"1\",operation=\"SetTags\"} 0",
        "missed_wakeups 0",
    ] {
        assert!(text.contains(&format!("\narvados_dispatchcloud_{line}\n")), "{line} is not in {text}");
    }
    assert!(text.contains("\narvados_version_running{version=\"9.9\"} 1\n"), "{text}");
    assert!(text.contains("request_duration_seconds_count{code=\"404\",method=\"other\"} 1\n"), "{text}");
    assert!(!text.contains("driver_operations_total"));
    *peer.fake.gauges.lock().unwrap() = Gauges::default();
    let text = peer.ask("GET", "/metrics", "").body;
    assert!(text.contains("queue_entries{instance_type=\"t1\",state=\"Queued\"} 0\n"), "seen before, so back to 0");
    let json: serde_json::Value = serde_json::from_str(&peer.ask("GET", "/metrics.json", "").body).unwrap();
    let family = |name: &str| json.as_array().unwrap().iter().find(|one| one["name"] == name).unwrap().clone();
    let outcomes = family("arvados_dispatchcloud_boot_outcomes");
    assert_eq!(outcomes["type"], "COUNTER");
    assert_eq!(outcomes["metric"].as_array().unwrap().len(), 4);
    let at_quota = family("arvados_dispatchcloud_at_quota");
    assert_eq!(at_quota["metric"], serde_json::json!([{"label": [], "gauge": {"value": 0.0}}]));
    let ssh = family("arvados_dispatchcloud_instances_time_to_ssh_seconds");
    assert_eq!(ssh["metric"][0]["histogram"]["sampleCount"], "1");
}
