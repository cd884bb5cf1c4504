//! Each transition rule, with its repetitions and refusals.

use super::*;
use ContainerState::{Cancelled, Complete, Locked, Queued, Running};

fn refused(result: Result<(), QueueError>) -> (&'static str, &'static str) {
    match result {
        Err(QueueError::WrongState { operation, state, .. }) => (operation, state),
        other => panic!("expected a refusal, got {other:?}"),
    }
}

#[test]
fn lock_and_unlock() {
    let bench = bench();
    let uuid = bench.submit(request());
    assert_eq!(refused(bench.queue.unlock(&uuid)), ("unlock", "Queued"));
    bench.queue.lock(&uuid).unwrap();
    assert_eq!(bench.record(&uuid).state, Locked);
    assert_eq!(bench.record(&uuid).locked_by_uuid, "local-gj3su-000000000000000");
    assert_eq!(refused(bench.queue.lock(&uuid)), ("lock", "Locked"));
    bench.queue.unlock(&uuid).unwrap();
    assert_eq!(bench.record(&uuid).state, Queued);
    assert_eq!(bench.record(&uuid).locked_by_uuid, "");
    bench.queue.cancel(&uuid, "no more").unwrap();
    assert_eq!(bench.record(&uuid).runtime_status.error, "no more");
    assert_eq!(refused(bench.queue.lock(&uuid)), ("lock", "Cancelled"));
    assert_eq!(refused(bench.queue.cancel(&uuid, "again")), ("cancel", "Cancelled"));
    assert_eq!(bench.events(&uuid), ["submitted", "locked", "unlocked", "cancelled"]);
    let unknown = ContainerUuid::parse("local-dz642-000000000000000").unwrap();
    assert!(matches!(bench.queue.lock(&unknown), Err(QueueError::NotFound(_))));
}

#[test]
fn one_on_hold_is_not_locked() {
    let bench = bench();
    let uuid = bench.submit(ContainerRequest { priority: 0, ..request() });
    assert_eq!(refused(bench.queue.lock(&uuid)), ("lock", "on hold"));
    bench.queue.set_priority(&uuid, 5).unwrap();
    bench.queue.lock(&uuid).unwrap();
}

#[test]
fn assign_is_durable_and_repeatable() {
    let bench = bench();
    let uuid = bench.submit(request());
    let assign = |bench: &Bench, attempt, id: &str| bench.queue.assign(&uuid, attempt, &at(id)).map(drop);
    assert_eq!(refused(assign(&bench, 1, "i-1")), ("assign", "Queued"));
    bench.queue.lock(&uuid).unwrap();
    assert_eq!(refused(assign(&bench, 2, "i-1")), ("assign that attempt", "at another attempt"));
    let assignment = bench.queue.assign(&uuid, 1, &at("i-1")).unwrap();
    assert_eq!((assignment.attempt, assignment.container.instance), (1, Some(instance("i-1"))));
    assign(&bench, 1, "i-1").unwrap();
    assert_eq!(refused(assign(&bench, 1, "i-2")), ("assign", "assigned already"));
    assert_eq!(refused(assign(&bench, 2, "i-1")), ("assign", "assigned already"));
    let bench = bench.reopen();
    assert_eq!((bench.record(&uuid).attempt, bench.record(&uuid).instance), (1, Some(instance("i-1"))));
    bench.queue.seen_running(&uuid, 1).unwrap();
    assign(&bench, 1, "i-1").unwrap();
    bench.finish(&uuid, 1, r#""reason":"exited","exit_code":0"#).unwrap();
    assert_eq!(refused(assign(&bench, 1, "i-1")), ("assign", "Complete"));
    assert_eq!(bench.queue.show(&uuid).unwrap().unwrap().attempts.len(), 1);
}

#[test]
fn a_kill_or_hold_that_came_before_the_start_prevents_it() {
    let bench = bench();
    let (cancelled, held) = (bench.submit(request()), bench.submit(request()));
    for uuid in [&cancelled, &held] {
        bench.queue.lock(uuid).unwrap();
    }
    assert_eq!(bench.queue.request_cancel(&cancelled).unwrap(), CancelOutcome::Requested);
    bench.queue.set_priority(&held, 0).unwrap();
    for (uuid, state) in [(&cancelled, "to be cancelled"), (&held, "on hold")] {
        assert_eq!(refused(bench.queue.assign(uuid, 1, &at("i-1")).map(drop)), ("assign", state));
        bench.queue.unlock(uuid).unwrap();
    }
    assert_eq!(bench.record(&cancelled).state, Cancelled);
    assert_eq!(bench.record(&held).state, Queued);
}

#[test]
fn running_begins_when_the_present_attempt_is_first_seen() {
    let bench = bench();
    let uuid = bench.assigned(request());
    bench.queue.seen_running(&uuid, 2).unwrap();
    assert_eq!(bench.record(&uuid).state, Locked);
    bench.later(500);
    bench.queue.seen_running(&uuid, 1).unwrap();
    assert_eq!((bench.record(&uuid).state, bench.record(&uuid).started_at), (Running, Some(1_000_500)));
    bench.later(500);
    bench.queue.seen_running(&uuid, 1).unwrap();
    assert_eq!(bench.record(&uuid).started_at, Some(1_000_500));
    assert_eq!(bench.events(&uuid), ["submitted", "locked", "assigned", "running"]);
}

#[test]
fn an_unlocked_attempt_is_closed_and_its_number_not_used_again() {
    let bench = bench();
    let uuid = bench.assigned(request());
    bench.queue.unlock(&uuid).unwrap();
    let record = bench.record(&uuid);
    assert_eq!((record.state, record.instance, record.attempt), (Queued, None, 1));
    bench.finish(&uuid, 1, r#""reason":"exited","exit_code":0"#).unwrap();
    assert_eq!(bench.record(&uuid).state, Queued);
    assert_eq!(bench.assign_next(&uuid), 2);
    let attempts = bench.queue.show(&uuid).unwrap().unwrap().attempts;
    assert_eq!(attempts[0].late_result.as_deref(), Some("exited with code 0"));
    assert_eq!(attempts[1].ended_at, None);
}

#[test]
fn cancel_at_a_users_wish() {
    let bench = bench();
    let uuid = bench.submit(request());
    assert_eq!(bench.queue.request_cancel(&uuid).unwrap(), CancelOutcome::Cancelled);
    assert_eq!(bench.record(&uuid).runtime_status.error, "cancelled on request");
    assert!(matches!(
        bench.queue.request_cancel(&uuid),
        Err(CommandError::Queue(QueueError::WrongState { operation: "cancel", state: "Cancelled", .. }))
    ));
    let uuid = bench.assigned(request());
    bench.queue.seen_running(&uuid, 1).unwrap();
    for _ in 0..2 {
        assert_eq!(bench.queue.request_cancel(&uuid).unwrap(), CancelOutcome::Requested);
    }
    let record = bench.record(&uuid);
    assert_eq!((record.state, record.priority, record.cancel_requested), (Running, 0, true));
    let bench = bench.reopen();
    bench.finish(&uuid, 1, r#""reason":"killed""#).unwrap();
    assert_eq!(bench.record(&uuid).state, Cancelled);
}

#[test]
fn priority_changes_only_while_it_can_have_an_effect() {
    let bench = bench();
    let uuid = bench.submit(request());
    bench.queue.set_priority(&uuid, 1000).unwrap();
    assert_eq!(bench.queue.get(&uuid).unwrap().priority, 1000);
    for priority in [-1, 1001] {
        assert!(matches!(bench.queue.set_priority(&uuid, priority), Err(CommandError::Invalid { .. })));
    }
    bench.assign_next(&uuid);
    bench.queue.set_priority(&uuid, 7).unwrap();
    bench.queue.seen_running(&uuid, 1).unwrap();
    let error = bench.queue.set_priority(&uuid, 0).unwrap_err();
    assert!(matches!(error, CommandError::Refused { .. }) && error.to_string().contains("cancel"), "{error}");
    bench.finish(&uuid, 1, r#""reason":"exited","exit_code":0"#).unwrap();
    assert!(matches!(
        bench.queue.set_priority(&uuid, 1),
        Err(CommandError::Queue(QueueError::WrongState { state: "Complete", .. }))
    ));
}

#[test]
fn forgotten_ones_come_back_when_they_are_raised() {
    let bench = bench();
    let uuid = bench.submit(request());
    bench.queue.forget(&uuid);
    assert!(bench.queue.get(&uuid).is_some(), "a waiting one is not forgotten");
    bench.queue.set_priority(&uuid, 0).unwrap();
    bench.queue.forget(&uuid);
    assert!(bench.queue.get(&uuid).is_none());
    let changed = bench.queue.subscribe();
    bench.queue.set_priority(&uuid, 3).unwrap();
    assert!(changed.try_recv().is_ok());
    let entry = bench.queue.snapshot().entries[&uuid].clone();
    assert_eq!((entry.container.priority, entry.instance_types.len()), (3, 1));
    bench.queue.cancel(&uuid, "x").unwrap();
    bench.queue.forget(&uuid);
    assert!(bench.queue.get(&uuid).is_none());
    assert_consistent(&bench.queue);
}

#[test]
fn a_lost_attempt_is_tried_again_until_none_is_left() {
    let bench = bench();
    let uuid = bench.assigned(ContainerRequest { max_attempts: 2, ..request() });
    bench.queue.seen_running(&uuid, 1).unwrap();
    bench.queue.attempt_lost(&uuid, 2, LostReason::InstanceGone).unwrap();
    assert_eq!(bench.record(&uuid).state, Running);
    for _ in 0..2 {
        bench.queue.attempt_lost(&uuid, 1, LostReason::InstanceGone).unwrap();
        let record = bench.record(&uuid);
        assert_eq!((record.state, record.attempt, record.instance), (Queued, 1, None));
        assert_eq!(record.runtime_status.warning, "attempt 1 was lost: its instance is gone");
    }
    assert_eq!(bench.assign_next(&uuid), 2);
    bench.queue.attempt_lost(&uuid, 1, LostReason::InstanceGone).unwrap();
    assert_eq!(bench.record(&uuid).state, Locked);
    bench.queue.attempt_lost(&uuid, 2, LostReason::RunnerCrashed).unwrap();
    let record = bench.record(&uuid);
    assert_eq!(record.state, Cancelled);
    assert_eq!(
        record.runtime_status.error,
        "lost 2 times; attempt 1 on i-1: its instance is gone; attempt 2 on i-1: its runner ended without a result"
    );
}

#[test]
fn a_lost_attempt_of_a_cancelled_one_is_not_tried_again() {
    let bench = bench();
    let (cancelled, killed) = (bench.assigned(request()), bench.assigned(request()));
    bench.queue.request_cancel(&cancelled).unwrap();
    bench.queue.note_kill(&killed).unwrap();
    for uuid in [&cancelled, &killed] {
        bench.queue.attempt_lost(uuid, 1, LostReason::RunnerCrashed).unwrap();
        assert_eq!(bench.record(uuid).state, Cancelled);
    }
}

#[test]
fn subscribers_are_told_once_and_do_not_leak() {
    let bench = bench();
    let changed = bench.queue.subscribe();
    drop(bench.queue.subscribe());
    let uuid = bench.submit(request());
    bench.queue.lock(&uuid).unwrap();
    assert!(changed.try_recv().is_ok());
    assert!(changed.try_recv().is_err(), "one slot");
    drop(changed);
    bench.queue.unlock(&uuid).unwrap();
    bench.queue.cancel(&uuid, "x").unwrap();
    let changed = bench.queue.subscribe();
    bench.queue.forget(&uuid);
    assert!(changed.try_recv().is_ok(), "a forgotten container wakes the scheduler too");
}

#[test]
fn as_of_follows_update() {
    let bench = bench();
    let now = Moment::since_start(std::time::Duration::from_secs(7));
    bench.queue.update(now).unwrap();
    assert_eq!(bench.queue.snapshot().as_of, now);
}

/// What the instance costs where its driver knows that, not what the type says.
#[test]
fn the_drivers_price_goes_before_the_types() {
    let bench = bench();
    let uuid = bench.submit(request());
    bench.queue.lock(&uuid).unwrap();
    bench.queue.assign(&uuid, 1, &Placement { price: Some(0.05), ..at("i-1") }).unwrap();
    bench.later(3_600_000);
    bench.finish(&uuid, 1, r#""reason":"exited","exit_code":0"#).unwrap();
    assert!((bench.record(&uuid).cost - 0.05).abs() < 1e-9, "{}", bench.record(&uuid).cost);
}

#[test]
fn cost_is_price_times_time_of_all_attempts() {
    let bench = bench();
    let uuid = bench.assigned(request());
    bench.later(1_800_000);
    bench.queue.attempt_lost(&uuid, 1, LostReason::InstanceGone).unwrap();
    bench.later(99_999);
    bench.assign_next(&uuid);
    bench.later(3_600_000);
    bench.finish(&uuid, 2, r#""reason":"exited","exit_code":0"#).unwrap();
    let record = bench.record(&uuid);
    assert_eq!(record.state, Complete);
    assert!((record.cost - 0.54).abs() < 1e-9, "{}", record.cost);
}
