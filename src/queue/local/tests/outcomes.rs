//! The table of results (spec 70 §3), late and broken results, and those that wait for others.

use super::*;
use crate::core::container::RuntimeStatus;
use ContainerState::{Cancelled, Complete, Locked, Queued, Running};

#[test]
fn each_result_leads_to_its_state() {
    /// Who asked for the end before the result came.
    #[derive(Clone, Copy, Debug)]
    enum Asked {
        Nobody,
        Cancel,
        Kill,
    }
    use Asked::{Cancel, Kill, Nobody};
    let table: &[(&str, Asked, ContainerState, Option<i32>, &str)] = &[
        (r#""reason":"exited","exit_code":0"#, Nobody, Complete, Some(0), ""),
        (r#""reason":"exited","exit_code":3"#, Nobody, Complete, Some(3), ""),
        (r#""reason":"exited","exit_code":3"#, Cancel, Complete, Some(3), ""),
        (r#""reason":"exited","exit_code":0"#, Kill, Complete, Some(0), ""),
        (r#""reason":"signaled","signal":11"#, Nobody, Complete, Some(139), ""),
        (r#""reason":"signaled","signal":9"#, Cancel, Complete, Some(137), ""),
        (r#""reason":"killed""#, Cancel, Cancelled, None, "on request"),
        (r#""reason":"killed""#, Kill, Cancelled, None, "on request"),
        (r#""reason":"killed""#, Nobody, Queued, None, "without our asking"),
        (r#""reason":"max_run_time""#, Nobody, Cancelled, None, "max_run_time"),
        (r#""reason":"oom""#, Nobody, Cancelled, None, "memory"),
        (r#""reason":"engine error","detail":"no such image"#, Nobody, Queued, None, "cannot be read"),
        (r#""reason":"engine error","detail":"no such image""#, Nobody, Queued, None, "no such image"),
        (r#""reason":"engine error""#, Cancel, Cancelled, None, "on request"),
        (r#""reason":"disk full""#, Nobody, Queued, None, "disk"),
        (r#""reason":"disk full""#, Kill, Cancelled, None, "on request"),
        (r#""reason":"exited""#, Nobody, Queued, None, "without an exit code"),
        (r#""reason":"exited","exit_code":256"#, Nobody, Queued, None, "exit code"),
        (r#""reason":"signaled","signal":0"#, Nobody, Queued, None, "signal"),
        (r#""reason":"bored""#, Nobody, Queued, None, "no reason"),
    ];
    for (number, (result, asked, state, exit_code, text)) in table.iter().enumerate() {
        for seen in [false, true] {
            let bench = bench();
            let uuid = bench.assigned(request());
            if seen {
                bench.queue.seen_running(&uuid, 1).unwrap();
            }
            match asked {
                Nobody => {}
                Cancel => drop(bench.queue.request_cancel(&uuid).unwrap()),
                Kill => bench.queue.note_kill(&uuid).unwrap(),
            }
            bench.finish(&uuid, 1, result).unwrap();
            let record = bench.record(&uuid);
            assert_eq!((record.state, record.exit_code), (*state, *exit_code), "row {number}: {record:?}");
            let status = format!("{}{}", record.runtime_status.error, record.runtime_status.warning);
            assert!(status.contains(text) && text.is_empty() == status.is_empty(), "row {number}: {status}");
            assert_eq!(record.finished_at.is_some(), state.is_final(), "row {number}");
            // The same result again, as after a crash before the worker forgot it.
            let before = bench.queue.show(&uuid).unwrap().unwrap();
            bench.finish(&uuid, 1, result).unwrap();
            let after = bench.queue.show(&uuid).unwrap().unwrap();
            assert_eq!((after.attempts, after.history), (before.attempts, before.history), "row {number}");
            assert_eq!(bench.record(&uuid), record, "row {number}");
        }
    }
}

#[test]
fn lost_results_use_up_the_attempts_unless_we_put_it_on_hold() {
    let bench = bench();
    let uuid = bench.assigned(ContainerRequest { max_attempts: 1, ..request() });
    bench.queue.set_priority(&uuid, 0).unwrap();
    bench.finish(&uuid, 1, r#""reason":"killed""#).unwrap();
    assert_eq!((bench.record(&uuid).state, bench.record(&uuid).priority), (Queued, 0));
    bench.queue.set_priority(&uuid, 1).unwrap();
    bench.assign_next(&uuid);
    bench.finish(&uuid, 2, r#""reason":"killed""#).unwrap();
    assert_eq!(bench.record(&uuid).state, Cancelled);
}

#[test]
fn figures_and_times_of_a_result_are_kept_but_its_clock_is_not_trusted() {
    let bench = bench();
    let uuid = bench.assigned(request());
    bench.later(1000);
    let result = r#""reason":"exited","exit_code":0,"started_at":1000200,"finished_at":9999999999,"peak_memory":12345,
        "cpu_seconds":1.5,"outputs":["a"],"skipped":[],"stdout_bytes":1,"stderr_bytes":2,"detail":"a\u001bb","new_field":1"#;
    bench.finish(&uuid, 1, result).unwrap();
    let detail = bench.queue.show(&uuid).unwrap().unwrap();
    assert_eq!((detail.container.started_at, detail.container.finished_at), (Some(1_000_200), Some(1_001_000)));
    assert_eq!(detail.container.runtime_status, RuntimeStatus::default());
    let attempt = &detail.attempts[0];
    assert_eq!((attempt.peak_memory, attempt.cpu_seconds, attempt.exit_code), (Some(12345), Some(1.5), Some(0)));
    assert_eq!((attempt.started_at, attempt.ended_at), (1_000_000, Some(1_001_000)));
    assert_eq!(attempt.reason, "exited with code 0: a b");
    // No probe had listed it: it ran all the same, since when its result says.
    let history: Vec<_> = detail.history.iter().map(|line| (line.time, line.event.as_str())).collect();
    assert_eq!(history[3..], [(1_000_200, "running"), (1_001_000, "finished")]);
    assert_eq!(detail.history[3].detail, "attempt 1, known from its result");
}

#[test]
fn what_was_not_brought_back_is_said() {
    let bench = bench();
    for (rest, error, warning) in [
        (r#""skipped":["a: a link"]"#, "", "output left out: a: a link"),
        (r#""skipped":["a: a link","b: missing","c: missing"]"#, "", "outputs left out: a: a link; and 2 more"),
        (r#""outputs_too_large":true,"detail":"too many bytes""#, "too many bytes", ""),
    ] {
        let uuid = bench.assigned(request());
        bench.finish(&uuid, 1, &format!(r#""reason":"exited","exit_code":0,{rest}"#)).unwrap();
        let record = bench.record(&uuid);
        assert_eq!(record.state, Complete);
        assert_eq!((record.runtime_status.error.as_str(), record.runtime_status.warning.as_str()), (error, warning));
    }
}

#[test]
fn a_late_result_changes_the_attempt_only() {
    let bench = bench();
    let uuid = bench.assigned(request());
    bench.queue.attempt_lost(&uuid, 1, LostReason::InstanceGone).unwrap();
    bench.assign_next(&uuid);
    bench.queue.seen_running(&uuid, 2).unwrap();
    for _ in 0..2 {
        bench.finish(&uuid, 1, r#""reason":"exited","exit_code":0"#).unwrap();
    }
    assert_eq!((bench.record(&uuid).state, bench.record(&uuid).attempt), (Running, 2));
    let detail = bench.queue.show(&uuid).unwrap().unwrap();
    assert_eq!(detail.attempts[0].late_result.as_deref(), Some("exited with code 0"));
    assert_eq!(detail.history.iter().filter(|record| record.event == "late result").count(), 1);
    bench.queue.cancel(&uuid, "x").unwrap();
    bench.finish(&uuid, 2, r#""reason":"exited","exit_code":0"#).unwrap();
    assert_eq!(bench.record(&uuid).state, Cancelled);
    // An attempt that this database has never heard of.
    bench.finish(&uuid, 9, r#""reason":"exited","exit_code":0"#).unwrap();
    assert_eq!(bench.record(&uuid).state, Cancelled);
}

#[test]
fn bad_result_files_are_lost_attempts() {
    let bench = bench();
    let other = "local-dz642-000000000000001";
    for (content, text) in [
        (None, "no result.json"),
        (Some("{".to_owned()), "cannot be read"),
        (Some("\u{0}".repeat(9 << 20)), "larger than"),
        (Some(format!(r#"{{"uuid":"{other}","attempt":1,"reason":"exited","exit_code":0}}"#)), "belongs to"),
    ] {
        let uuid = bench.assigned(request());
        let dir = bench.queue.result_dir(&uuid, 1);
        fs::create_dir_all(&dir).unwrap();
        if let Some(content) = content {
            fs::write(dir.join("result.json"), content).unwrap();
        }
        bench.queue.finish(&uuid, 1, &dir).unwrap();
        let record = bench.record(&uuid);
        assert_eq!(record.state, Queued);
        assert!(record.runtime_status.warning.contains(text), "{}", record.runtime_status.warning);
    }
}

fn after(predecessors: &[&ContainerUuid]) -> ContainerRequest {
    ContainerRequest { after: predecessors.iter().map(|uuid| (*uuid).clone()).collect(), ..request() }
}

fn is_ready(bench: &Bench, uuid: &ContainerUuid) -> bool {
    bench.queue.snapshot().entries[uuid].ready
}

#[test]
fn followers_wait_for_all_to_succeed() {
    let bench = bench();
    let (first, second) = (bench.submit(request()), bench.submit(request()));
    let follower = bench.submit(after(&[&first, &second, &first]));
    assert!(!is_ready(&bench, &follower));
    assert!(matches!(bench.queue.lock(&follower), Err(QueueError::WrongState { .. })));
    for (uuid, ready) in [(&first, false), (&second, true)] {
        bench.assign_next(uuid);
        bench.finish(uuid, 1, r#""reason":"exited","exit_code":0"#).unwrap();
        assert_eq!(is_ready(&bench, &follower), ready);
    }
    let bench = bench.reopen();
    assert!(is_ready(&bench, &follower));
    bench.queue.lock(&follower).unwrap();
    assert_eq!(bench.record(&follower).state, Locked);
    let late = bench.submit(after(&[&first]));
    assert!(is_ready(&bench, &late), "its predecessor has succeeded already");
}

#[test]
fn a_failure_cancels_all_that_follow() {
    for (result, text) in
        [(r#""reason":"exited","exit_code":4"#, "ended with exit code 4"), (r#""reason":"oom""#, "was cancelled")]
    {
        let bench = bench();
        let root = bench.submit(request());
        let (left, right) = (bench.submit(after(&[&root])), bench.submit(after(&[&root])));
        let joined = bench.submit(after(&[&left, &right]));
        let free = bench.submit(request());
        bench.assign_next(&root);
        bench.finish(&root, 1, result).unwrap();
        for uuid in [&left, &right] {
            let record = bench.record(uuid);
            assert_eq!(record.state, Cancelled);
            assert_eq!(record.runtime_status.error, format!("{root}, which had to succeed first, {text}"));
        }
        assert_eq!(bench.record(&joined).state, Cancelled);
        assert_eq!(bench.events(&joined), ["submitted", "cancelled"], "once, although two lead to it");
        assert_eq!(bench.record(&free).state, Queued);
        let late = bench.submit(after(&[&left]));
        assert_eq!(bench.record(&late).state, Cancelled, "its predecessor has failed already");
        assert_consistent(&bench.queue);
    }
}
