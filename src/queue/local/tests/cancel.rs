//! A user's cancel at every stage of a container's life, and what comes after it (spec 70 §3).

use super::*;
use ContainerState::{Cancelled, Complete, Locked, Queued, Running};

/// How far a container has come when the cancel arrives.
#[derive(Clone, Copy, Debug)]
enum Stage {
    Waiting,
    OnHold,
    Forgotten,
    WaitingForOthers,
    Locked,
    /// Its start may be on its way.
    Assigned,
    Running,
    /// It was lost once and waits again.
    Requeued,
    Final,
}

fn at(bench: &Bench, stage: Stage) -> ContainerUuid {
    match stage {
        Stage::Waiting => bench.submit(request()),
        Stage::OnHold => bench.submit(ContainerRequest { priority: 0, ..request() }),
        Stage::Forgotten => {
            let uuid = bench.submit(ContainerRequest { priority: 0, ..request() });
            bench.queue.forget(&uuid);
            uuid
        }
        Stage::WaitingForOthers => {
            let first = bench.submit(request());
            bench.submit(ContainerRequest { after: vec![first], ..request() })
        }
        Stage::Locked => {
            let uuid = bench.submit(request());
            bench.queue.lock(&uuid).unwrap();
            uuid
        }
        Stage::Assigned => bench.assigned(request()),
        Stage::Running => {
            let uuid = bench.assigned(request());
            bench.queue.seen_running(&uuid, 1).unwrap();
            uuid
        }
        Stage::Requeued => {
            let uuid = bench.assigned(request());
            bench.queue.attempt_lost(&uuid, 1, LostReason::InstanceGone).unwrap();
            uuid
        }
        Stage::Final => {
            let uuid = bench.assigned(request());
            bench.finish(&uuid, 1, r#""reason":"exited","exit_code":0"#).unwrap();
            uuid
        }
    }
}

/// What the cancel is answered, and the state that it leads to at once.
#[test]
fn at_every_stage() {
    for (stage, outcome, state) in [
        (Stage::Waiting, Some(CancelOutcome::Cancelled), Cancelled),
        (Stage::OnHold, Some(CancelOutcome::Cancelled), Cancelled),
        (Stage::Forgotten, Some(CancelOutcome::Cancelled), Cancelled),
        (Stage::WaitingForOthers, Some(CancelOutcome::Cancelled), Cancelled),
        (Stage::Locked, Some(CancelOutcome::Requested), Locked),
        (Stage::Assigned, Some(CancelOutcome::Requested), Locked),
        (Stage::Running, Some(CancelOutcome::Requested), Running),
        (Stage::Requeued, Some(CancelOutcome::Cancelled), Cancelled),
        (Stage::Final, None, Complete),
    ] {
        let bench = bench();
        let uuid = at(&bench, stage);
        let follower = bench.submit(ContainerRequest { after: vec![uuid.clone()], ..request() });
        assert_eq!(bench.queue.request_cancel(&uuid).ok(), outcome, "{stage:?}");
        let bench = bench.reopen();
        let record = bench.record(&uuid);
        assert_eq!(record.state, state, "{stage:?}");
        let is_wanted = outcome.is_some();
        assert_eq!((record.cancel_requested, record.priority == 0), (is_wanted, is_wanted), "{stage:?}");
        let events = bench.events(&uuid);
        assert_eq!(events.iter().filter(|event| *event == "cancel requested").count(), usize::from(is_wanted));
        if state == Cancelled {
            assert_eq!(record.runtime_status.error, "cancelled on request", "{stage:?}");
        }
        // Those that wait for it share its fate, as soon as it is decided.
        assert_eq!(bench.record(&follower).state, if state == Cancelled { Cancelled } else { Queued }, "{stage:?}");
        // It cannot be brought back or taken up again.
        if is_wanted {
            assert!(bench.queue.set_priority(&uuid, 7).is_err(), "{stage:?}");
            assert!(bench.queue.lock(&uuid).is_err(), "{stage:?}");
        }
        assert_consistent(&bench.queue);
    }
}

/// What can come after a cancel that was only noted, and how it ends.
#[test]
fn whatever_comes_after_it() {
    type Then = fn(&Bench, &ContainerUuid);
    let table: &[(&str, Stage, Then, ContainerState)] = &[
        ("the scheduler gives the lock back", Stage::Locked, |b, uuid| b.queue.unlock(uuid).unwrap(), Cancelled),
        ("a kill has ruled the start out", Stage::Assigned, |b, uuid| b.queue.unlock(uuid).unwrap(), Cancelled),
        ("the start came all the same", Stage::Assigned, |b, uuid| b.queue.seen_running(uuid, 1).unwrap(), Running),
        ("its runner was lost", Stage::Assigned, lost, Cancelled),
        ("its runner was lost", Stage::Running, lost, Cancelled),
        ("it was killed", Stage::Assigned, |b, uuid| b.finish(uuid, 1, r#""reason":"killed""#).unwrap(), Cancelled),
        ("it was killed", Stage::Running, |b, uuid| b.finish(uuid, 1, r#""reason":"killed""#).unwrap(), Cancelled),
        ("it had ended already, uncollected", Stage::Running, ended, Complete),
        ("it had ended before it was seen", Stage::Assigned, ended, Complete),
    ];
    for (what, stage, then, state) in table {
        let bench = bench();
        let uuid = at(&bench, *stage);
        bench.queue.request_cancel(&uuid).unwrap();
        if matches!(stage, Stage::Locked) {
            let assigned = bench.queue.assign(&uuid, 1, &super::at("i-1"));
            assert!(assigned.is_err(), "never: a cancelled one is started");
        }
        then(&bench, &uuid);
        let bench = bench.reopen();
        let record = bench.record(&uuid);
        assert_eq!(record.state, *state, "{what}, {stage:?}");
        assert_eq!(record.exit_code, (*state == Complete).then_some(3), "{what}, {stage:?}");
        if *state == Running {
            // It still ends as wanted.
            bench.finish(&uuid, 1, r#""reason":"killed""#).unwrap();
            assert_eq!(bench.record(&uuid).state, Cancelled);
        }
        let detail = bench.queue.show(&uuid).unwrap().unwrap();
        assert!(detail.attempts.iter().all(|attempt| attempt.ended_at.is_some()), "{what}: no attempt stays open");
        assert_consistent(&bench.queue);
    }
}

fn lost(bench: &Bench, uuid: &ContainerUuid) {
    bench.queue.attempt_lost(uuid, 1, LostReason::RunnerCrashed).unwrap();
}

/// While the result is being fetched the container is as it was: the cancel comes too late.
fn ended(bench: &Bench, uuid: &ContainerUuid) {
    bench.finish(uuid, 1, r#""reason":"exited","exit_code":3"#).unwrap();
}
