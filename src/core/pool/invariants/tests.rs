//! Each invariant notices a state that breaks it: a check that can never fail proves nothing.

use std::time::Duration;

use super::*;
use crate::core::effect::Effects;
use crate::core::ids::TypeName;
use crate::core::pool::view::Exit;
use crate::core::settings::Settings;
use crate::core::time::Moment;
use crate::core::worker::Runner;
use crate::core::worker::collect::{Collecting, Forgetting};
use crate::core::worker::round::When;

const START: Moment = Moment::since_start(Duration::from_secs(1000));

fn uuid() -> ContainerUuid {
    ContainerUuid::parse("local-dz642-000000000000001").expect("well formed")
}

fn id(text: &str) -> InstanceId {
    InstanceId::new(text)
}

/// Two idle workers, `a` and `b`.
fn pool() -> Pool {
    let mut pool = Pool::new(Settings { max_instances: 2, ..Settings::default() }, BTreeMap::new());
    for name in ["a", "b"] {
        let worker = Worker::new(id(name), TypeName::new("t"), WorkerState::Idle, START);
        pool.board.show(&worker, &pool.exited);
        pool.workers.insert(id(name), worker);
    }
    check(&pool).expect("sound");
    pool
}

fn worker<'a>(pool: &'a mut Pool, name: &str) -> &'a mut Worker {
    pool.workers.get_mut(name).expect("made above")
}

fn runner(start: Option<u64>, kill: KillState) -> Runner {
    Runner { attempt: 1, start: start.map(OperationId), listed: false, settled: false, has_run: false, kill }
}

fn asked() -> KillState {
    KillState::Asked { since: START, in_flight: None, next: START, gone: false }
}

fn plan(changes: u64, began: Moment) -> RoundPlan {
    RoundPlan {
        state: WorkerState::Booting,
        changes,
        began,
        boot_probe: true,
        deploy: When::IfSoFarGood,
        run_probe: When::IfSoFarGood,
    }
}

fn collecting() -> Collecting {
    Collecting { attempt: 1, since: START, in_flight: None, failures: 0, next: START, storage_fault: None }
}

fn forgetting() -> Forgetting {
    Forgetting { attempt: 1, operation: OperationId(9), deadline: START }
}

fn number(result: Result<(), Violation>) -> &'static str {
    result.map_or_else(|violation| violation.number, |()| "none")
}

/// What each corruption of a sound state is caught by.
#[test]
fn a_corrupted_state_is_caught() {
    type Corrupt = fn(&mut Pool);
    let rows: &[(&str, Corrupt)] = &[
        ("none", |_| {}),
        ("10.5", |pool| worker(pool, "a").state = WorkerState::Running),
        ("10.5", |pool| {
            worker(pool, "a").running.insert(uuid(), runner(None, KillState::None));
        }),
        ("20.5", |pool| worker(pool, "a").state = WorkerState::Shutdown),
        ("20.5", |pool| {
            worker(pool, "a").destroyed = Some(START);
            worker(pool, "a").last_destroy = Some(START);
        }),
        ("20.4", |pool| {
            for name in ["a", "b"] {
                worker(pool, name).state = WorkerState::Running;
                worker(pool, name).starting.insert(uuid(), runner(Some(1), KillState::None));
            }
        }),
        ("20.4", |pool| {
            worker(pool, "a").state = WorkerState::Running;
            worker(pool, "a").running.insert(uuid(), runner(None, KillState::None));
        }),
        ("20.4", |pool| pool.index.add(&uuid(), &id("a"))),
        ("10 §2", |pool| {
            worker(pool, "a").state = WorkerState::Running;
            worker(pool, "a").running.insert(uuid(), runner(None, KillState::None));
            worker(pool, "a").collecting.insert(uuid(), collecting());
        }),
        ("10 §2", |pool| {
            worker(pool, "a").state = WorkerState::Running;
            worker(pool, "a").running.insert(uuid(), runner(None, KillState::None));
            worker(pool, "a").starting.insert(uuid(), runner(None, KillState::None));
        }),
        ("10 §2", |pool| {
            worker(pool, "a").collecting.insert(uuid(), collecting());
            worker(pool, "a").forgetting.insert(uuid(), forgetting());
        }),
        ("20.7", |pool| {
            worker(pool, "a").state = WorkerState::Running;
            worker(pool, "a").starting.insert(uuid(), runner(Some(1), KillState::None));
        }),
        ("20.7", |pool| {
            worker(pool, "a").state = WorkerState::Running;
            worker(pool, "a").running.insert(uuid(), runner(None, asked()));
        }),
        ("20.7", |pool| {
            worker(pool, "a").collecting.insert(uuid(), collecting());
        }),
        ("20.7", |pool| {
            worker(pool, "a").forgetting.insert(uuid(), forgetting());
        }),
        ("20.7", |pool| {
            worker(pool, "a").reaping.insert(uuid(), OperationId(3));
        }),
        ("20.7", |pool| pool.timers.set(START, Timer::CreateDeadline(OperationId(1)))),
        ("20.7", |pool| pool.timers.set(START, Timer::StartDeadline(id("a"), uuid(), OperationId(1)))),
        ("20.7", |pool| pool.timers.set(START, Timer::Kill(id("c"), uuid()))),
        ("20.7", |pool| pool.timers.set(START, Timer::Collect(id("a"), uuid()))),
        ("20.7", |pool| pool.timers.set(START, Timer::ForgetDeadline(id("a"), uuid()))),
        ("20.7", |pool| pool.timers.set(START, Timer::ReapDeadline(id("a"), uuid(), OperationId(1)))),
        ("none", |pool| pool.timers.set(START, Timer::Quota)),
        ("20 §6", |pool| worker(pool, "a").state = WorkerState::Booting),
        ("20 §6", |pool| drop(pool.workers.remove("a"))),
        ("20 §6", |pool| {
            pool.exited.insert(uuid(), Exit { at: START, attempt: 1, has_run: true });
        }),
        ("20 §6", |pool| drop(pool.board.containers.insert(uuid(), Default::default()))),
    ];
    for (index, (expected, corrupt)) in rows.iter().enumerate() {
        let mut pool = pool();
        corrupt(&mut pool);
        assert_eq!(number(check(&pool)), *expected, "row {index}");
    }
}

/// What each impossible step is caught by.
#[test]
fn a_corrupted_step_is_caught() {
    type Change = fn(&mut Pool);
    let none: Change = |_| {};
    let shut: Change = |pool| worker(pool, "a").state = WorkerState::Shutdown;
    let start: Change = |pool| {
        worker(pool, "a").starting.insert(uuid(), runner(Some(1), KillState::None));
    };
    let held: Change = |pool| worker(pool, "a").idle_behavior = IdleBehavior::Hold;
    let rows: &[(&str, Change, Change, Cause)] = &[
        ("none", none, none, Cause::Other),
        ("none", none, shut, Cause::Other),
        ("10.3", held, shut, Cause::Other),
        ("none", held, shut, Cause::InstanceKilled),
        ("10.6", shut, |pool| worker(pool, "a").state = WorkerState::Idle, Cause::Other),
        (
            "10.2",
            |pool| worker(pool, "a").boot_outcome = Some(BootOutcome::Success),
            |pool| worker(pool, "a").boot_outcome = Some(BootOutcome::Failure),
            Cause::Other,
        ),
        ("none", none, start, Cause::Other),
        ("10.4", held, start, Cause::Other),
        ("10.4", |pool| worker(pool, "a").state = WorkerState::Booting, start, Cause::Other),
        ("20.4", |pool| pool.index.add(&uuid(), &id("b")), start, Cause::Other),
        ("20.5", none, |pool| drop(pool.workers.remove("a")), Cause::Other),
        ("none", none, |pool| drop(pool.workers.remove("a")), Cause::ListApplied),
        ("20.1", none, add_create, Cause::Other),
        ("none", |pool| drop(pool.workers.remove("a")), add_create, Cause::Other),
    ];
    for (index, (expected, prepare, change, cause)) in rows.iter().enumerate() {
        let mut pool = pool();
        prepare(&mut pool);
        let before = Snapshot::of(&pool);
        change(&mut pool);
        assert_eq!(number(check_step(&before, &pool, *cause)), *expected, "row {index}");
    }
}

fn add_create(pool: &mut Pool) {
    let instance_type = crate::core::instance_type::InstanceType { name: "t".to_owned(), ..Default::default() };
    let (max, types) = (pool.settings.max_instances, BTreeMap::from([(TypeName::new("t"), instance_type.into())]));
    let unlimited = Settings { max_instances: 0, ..Settings::default() };
    pool.reconfigure(unlimited, types, &mut Effects::new());
    let secret = crate::core::ids::InstanceSecret::new("s");
    pool.create(&TypeName::new("t"), secret, START, &mut Effects::new()).expect("no limit");
    let types = pool.types.clone();
    pool.reconfigure(Settings { max_instances: max, ..Settings::default() }, types, &mut Effects::new());
}

/// The pause after failed boots, and the one instance that is tried after it.
#[test]
fn a_create_in_spite_of_the_breaker_is_caught() {
    let t = TypeName::new("t");
    for (expected, paused_until) in
        [("none", None), ("none", Some(START)), ("20 §6", Some(START + Duration::from_secs(1)))]
    {
        let mut pool = pool();
        pool.workers.clear();
        let before = Snapshot::of(&pool);
        add_create(&mut pool);
        pool.breakers.insert(t.clone(), Breaker { paused_until, ..Breaker::default() });
        assert_eq!(number(check_step(&before, &pool, Cause::Other)), expected, "{paused_until:?}");
        // Beside one that is being tried.
        pool.workers.insert(id("a"), Worker::new(id("a"), t.clone(), WorkerState::Booting, START));
        let expected = if paused_until.is_some() { "20 §6" } else { "none" };
        assert_eq!(number(check_step(&before, &pool, Cause::Other)), expected, "{paused_until:?}");
    }
}

#[test]
fn a_corrupted_round_or_list_is_caught() {
    let mut pool = pool();
    let one = BTreeMap::from([(id("a"), 1)]);
    assert_eq!(number(check_rounds(&one, &pool)), "10.1");
    worker(&mut pool, "a").in_round = true;
    assert_eq!(number(check_rounds(&one, &pool)), "none");
    assert_eq!(number(check_rounds(&BTreeMap::from([(id("a"), 2)]), &pool)), "10.1");
    assert_eq!(number(check_rounds(&BTreeMap::new(), &pool)), "10.1");

    let mut before = pool.workers["a"].clone();
    before.running.insert(uuid(), runner(None, KillState::None));
    before.last_change.insert(uuid(), 5);
    assert_eq!(number(check_round(&before, &plan(4, START), &pool)), "10.7");
    assert_eq!(number(check_round(&before, &plan(5, START), &pool)), "none");

    let late = START + Settings::default().timeout_booting;
    let before = pool.workers["a"].clone();
    assert_eq!(number(check_round(&before, &plan(0, late), &pool)), "none");
    worker(&mut pool, "a").state = WorkerState::Booting;
    assert_eq!(number(check_round(&before, &plan(0, late), &pool)), "10.8");
    assert_eq!(number(check_round(&before, &plan(0, START), &pool)), "none");
    worker(&mut pool, "a").idle_behavior = IdleBehavior::Hold;
    assert_eq!(number(check_round(&before, &plan(0, late), &pool)), "none");

    let listed = |name| BTreeMap::from([(id(name), InstanceReport::default())]);
    assert_eq!(number(check_list(&listed("a"), &pool)), "none");
    assert_eq!(number(check_list(&listed("c"), &pool)), "20.2");
}
