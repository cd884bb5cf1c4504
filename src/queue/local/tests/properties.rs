//! Random histories, with restarts in between, keep the invariants.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Action {
    Submit { after: Option<usize>, max_attempts: u32, priority: i64 },
    Lock,
    Unlock,
    Cancel,
    Forget,
    Assign { skip: u32, instance: u8 },
    SeenRunning { attempt: u32 },
    Finish { attempt: u32, result: usize },
    Lost { attempt: u32 },
    NoteKill,
    RequestCancel,
    Priority(i64),
    Reopen,
}

const RESULTS: [&str; 6] = [
    r#""reason":"exited","exit_code":0"#,
    r#""reason":"exited","exit_code":1"#,
    r#""reason":"signaled","signal":9"#,
    r#""reason":"killed""#,
    r#""reason":"oom""#,
    r#""reason":"disk full""#,
];

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        2 => (proptest::option::of(0..8_usize), 1..4_u32, prop_oneof![Just(0), Just(5)])
            .prop_map(|(after, max_attempts, priority)| Action::Submit { after, max_attempts, priority }),
        6 => Just(Action::Lock),
        2 => Just(Action::Unlock),
        1 => Just(Action::Cancel),
        2 => Just(Action::Forget),
        6 => (prop_oneof![5 => Just(1), 1 => 0..3_u32], 0..2_u8).prop_map(|(skip, instance)| Action::Assign { skip, instance }),
        4 => (0..4_u32).prop_map(|attempt| Action::SeenRunning { attempt }),
        3 => (0..4_u32, 0..RESULTS.len()).prop_map(|(attempt, result)| Action::Finish { attempt, result }),
        3 => (0..4_u32).prop_map(|attempt| Action::Lost { attempt }),
        1 => Just(Action::NoteKill),
        1 => Just(Action::RequestCancel),
        2 => prop_oneof![Just(0), Just(7)].prop_map(Action::Priority),
        1 => Just(Action::Reopen),
    ]
}

/// Carries one action out; only a storage failure is wrong whatever the state.
fn act(bench: &Bench, uuids: &mut Vec<ContainerUuid>, target: usize, action: &Action) {
    if let Action::Submit { after, max_attempts, priority } = action {
        let after = after.and_then(|number| uuids.get(number)).cloned().into_iter().collect();
        let request = ContainerRequest { after, max_attempts: *max_attempts, priority: *priority, ..request() };
        uuids.push(bench.submit(request));
        return;
    }
    let Some(uuid) = uuids.get(target % uuids.len().max(1)) else { return };
    let queue = &bench.queue;
    let attempt_now = bench.record(uuid).attempt;
    let done = match action {
        Action::Submit { .. } | Action::Reopen => Ok(()),
        Action::Lock => queue.lock(uuid),
        Action::Unlock => queue.unlock(uuid),
        Action::Cancel => queue.cancel(uuid, "why"),
        Action::Forget => {
            queue.forget(uuid);
            Ok(())
        }
        Action::Assign { skip, instance: id } => {
            queue.assign(uuid, attempt_now + skip, &at(&format!("i-{id}"))).map(drop)
        }
        Action::SeenRunning { attempt } => queue.seen_running(uuid, *attempt),
        Action::Finish { attempt, result } => bench.finish(uuid, *attempt, RESULTS[*result]),
        Action::Lost { attempt } => queue.attempt_lost(uuid, *attempt, LostReason::RunnerCrashed),
        Action::NoteKill => queue.note_kill(uuid),
        Action::RequestCancel | Action::Priority(_) => {
            let done = match action {
                Action::Priority(priority) => queue.set_priority(uuid, *priority),
                _ => queue.request_cancel(uuid).map(drop),
            };
            assert!(!matches!(done, Err(CommandError::Queue(QueueError::Storage { .. }))), "{done:?}");
            Ok(())
        }
    };
    assert!(matches!(done, Ok(()) | Err(QueueError::WrongState { .. })), "{action:?}: {done:?}");
}

/// What must hold of one container between two points of its history.
fn check_step(before: &Detail, after: &Detail) {
    let (old, new) = (&before.container, &after.container);
    if old.state.is_final() {
        assert_eq!(old, new, "never: a final container changes");
    }
    assert!(
        new.attempt == old.attempt || new.attempt == old.attempt + 1,
        "never: an attempt number is skipped or goes back"
    );
    for (old, new) in before.attempts.iter().zip(&after.attempts) {
        let unchanged = AttemptRecord { late_result: new.late_result.clone(), ..old.clone() };
        assert!(old.ended_at.is_none() || unchanged == *new, "never: a closed attempt changes");
    }
    assert!(before.history.len() <= after.history.len());
}

fn check(detail: &Detail) {
    let container = &detail.container;
    let numbers: Vec<_> = detail.attempts.iter().map(|attempt| attempt.attempt).collect();
    assert_eq!(numbers, (1..=container.attempt).collect::<Vec<_>>(), "each attempt is counted once");
    let open: Vec<_> = detail.attempts.iter().filter(|attempt| attempt.ended_at.is_none()).collect();
    let is_out =
        matches!(container.state, ContainerState::Locked | ContainerState::Running) && container.instance.is_some();
    assert_eq!(open.len(), usize::from(is_out), "never: two attempts at once, or an open one of nobody");
    assert!(open.iter().all(|attempt| attempt.attempt == container.attempt));
    assert!(container.state != ContainerState::Running || is_out);
    assert!(container.state != ContainerState::Queued || container.instance.is_none());
    assert_eq!(container.state.is_final(), container.finished_at.is_some());
    assert_eq!(container.state == ContainerState::Complete, container.exit_code.is_some());
    let cost: f64 = detail.attempts.iter().map(|attempt| attempt.cost).sum();
    assert!((cost - container.cost).abs() < 1e-9);
}

fn check_followers(bench: &Bench, details: &[Detail]) {
    for detail in details {
        let container = &detail.container;
        let predecessors = bench.queue.states(&container.request.after).unwrap();
        let succeeded = |state: &StateOf| *state == Some((ContainerState::Complete, Some(0)));
        let failed = |state: &StateOf| state.is_some_and(|(kind, _)| kind.is_final()) && !succeeded(state);
        assert!(!predecessors.iter().any(|(_, state)| failed(state)) || container.state == ContainerState::Cancelled);
        if let Some(entry) = bench.queue.snapshot().entries.get(&container.uuid).filter(|_| !container.state.is_final())
        {
            assert_eq!(entry.ready, predecessors.iter().all(|(_, state)| succeeded(state)));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn random_histories(actions in proptest::collection::vec((0..8_usize, action()), 1..60)) {
        let mut bench = bench();
        let mut uuids = Vec::new();
        let mut before: Vec<Detail> = Vec::new();
        for (target, action) in &actions {
            bench.later(1000);
            act(&bench, &mut uuids, *target, action);
            if matches!(action, Action::Reopen) {
                bench = bench.reopen();
            }
            let details: Vec<Detail> = uuids.iter().map(|uuid| bench.queue.show(uuid).unwrap().unwrap()).collect();
            details.iter().for_each(check);
            for (old, new) in before.iter().zip(&details) {
                check_step(old, new);
            }
            check_followers(&bench, &details);
            assert_consistent(&bench.queue);
            before = details;
        }
        let unique: BTreeSet<_> = uuids.iter().collect();
        prop_assert_eq!(unique.len(), uuids.len());
    }
}
