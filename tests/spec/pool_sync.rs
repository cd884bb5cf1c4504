//! Spec 20 §5 (the cloud's list) and §6 (the calls).

use std::time::Duration;

use muster::core::effect::{Effect, Effects, Ending, Fault};
use muster::core::ids::InstanceSecret;
use muster::core::pool::view::{Phase, Place};
use muster::core::vocabulary::WorkerState;

use crate::world::{World, check, id};

#[test]
fn s20_5_list() {
    check(&[
        // The first one marks the pool loaded.
        ("", "list", "info: loaded initial instance list from the cloud | notify", ""),
        (
            "",
            "list i1",
            "info: instance appeared in cloud | open i1 | retarget i1 i1.example:22 | probe i1 | tags i1 t run | info: loaded initial instance list from the cloud | notify",
            "i1 unknown run",
        ),
        ("list", "list", "", ""),
        // Known: the handle and the target are refreshed.
        ("list i1:run", "list i1", "", "i1 unknown run"),
        ("list i1:run", "list i1:moved", "retarget i1 i1.moved:22", "i1 unknown run"),
        // An address that comes later than the id: probed at once.
        ("list i1:run,noaddr", "list i1:addr", "retarget i1 i1.addr:22 | probe i1", "i1 unknown run"),
        // A type that is not configured any more is drained, unless held.
        (
            "",
            "list i1:oldtype",
            "warn: instance type is not configured; draining the instance | info: instance appeared in cloud | open i1 | retarget i1 i1.example:22 | probe i1 | tags i1 removed drain | info: loaded initial instance list from the cloud | notify",
            "i1 unknown drain",
        ),
        (
            "",
            "list i1:oldtype,hold",
            "info: instance appeared in cloud | open i1 | retarget i1 i1.example:22 | probe i1 | info: loaded initial instance list from the cloud | notify",
            "i1 unknown hold",
        ),
        (
            "list i1:oldtype",
            "probe i1 ok a",
            "info: instance booted; will try run probe | info: runner process detected | outcome success | info: probes succeeded, instance is in service | notify",
            "i1 running drain a",
        ),
        // Disappeared: not in the list, and added before it began.
        (
            "up i1:run i2:run",
            "list i1",
            "info: instance disappeared in cloud | disappeared idle | close i2 | notify",
            "i1 idle run",
        ),
        ("list; create t; begin-list; created 1 i1", "list", "", "i1 booting run"),
        // Never listed yet: not gone within a minute.
        ("list; create t; created 1 i1; wait 59", "list", "notify", "i1 booting run"),
        (
            "list; create t; created 1 i1; wait 61",
            "list",
            "info: instance disappeared in cloud | outcome disappeared | disappeared booting | close i1 | notify",
            "",
        ),
        (
            "list; create t; created 1 i1; list i1; wait 1",
            "list",
            "info: instance disappeared in cloud | outcome disappeared | disappeared booting | close i1 | notify",
            "",
        ),
        // It comes back: a new worker, of which nothing is known.
        (
            "up i1:run; start i1 a; list",
            "list i1",
            "info: instance appeared in cloud | open i1 | retarget i1 i1.example:22 | probe i1 | notify",
            "i1 unknown run",
        ),
        // Two lists 30 s apart prove what is gone: that matters for scheduling.
        ("list; wait 29", "list", "", ""),
        ("list; wait 31", "list", "notify", ""),
        ("list; wait 31; list", "list", "", ""),
    ]);
}

/// Every 2 s instead of every SyncInterval while a booting worker has no address.
#[test]
fn s20_5_list_interval() {
    for (events, expected) in [
        ("list i1", 60),
        ("list i1:noaddr", 60),
        ("create t; list i1:s1,noaddr", 2),
        ("create t; list i1:s1,noaddr; list i1:addr", 60),
        ("create t; list i1:s1,noaddr; destroy i1", 60),
    ] {
        let mut world = World::new();
        world.run(events);
        assert_eq!(world.pool.list_interval(), Duration::from_secs(expected), "{events}");
    }
}

/// One that was created without an address does not wait for the list that was due anyway.
#[test]
fn s20_5_a_list_soon_after_a_create_without_address() {
    let booting = "i1 booting run";
    check(&[
        ("list; create t; created 1 i1:noaddr", "wait 1.9", "", booting),
        ("list; create t; created 1 i1:noaddr", "wait 2", "list soon", booting),
        // One list for all that were created meanwhile; the lists after it are the sync's to make (`list_interval`).
        (
            "list; create t; create t; created 1 i1:noaddr; wait 1; created 2 i2:noaddr",
            "wait 60",
            "list soon",
            "i1 booting run; i2 booting run",
        ),
        ("list; create t; created 1 i1:noaddr; list i1:noaddr", "wait 60", "", booting),
        // Nothing to look for.
        ("list; create t; created 1 i1", "wait 60", "", booting),
        ("list; create t; created 1 i1:noaddr; wait 1; list i1:addr", "wait 60", "", booting),
        ("list; create t; created 1 i1:noaddr; destroy i1", "wait 60", "", "i1 shutdown run"),
        // An instance that is found by a list is known to the sync.
        ("list; create t; list i1:s1,noaddr", "wait 60", "", booting),
    ]);
}

/// The connection check: the first verified connection of a booting worker.
#[test]
fn s20_5_connected() {
    check(&[
        ("booting 1 i1; wait 5", "connect i1", "ssh after 5", "i1 booting run"),
        ("booting 1 i1; connect i1", "connect i1", "", "i1 booting run"),
        ("list i1", "connect i1", "", "i1 unknown run"),
        (
            "booting 1 i1; connect i1; wait 7",
            "probe i1 ok",
            "info: instance booted; will try run probe | ready after 7 | outcome success | info: probes succeeded, instance is in service | notify",
            "i1 idle run",
        ),
    ]);
}

#[test]
fn s20_6_calls() {
    check(&[
        // shutdown: only `booting` or `idle`, not held, nothing collecting.
        (
            "booting 1 i1",
            "shutdown i1",
            "info: shutdown worker | outcome aborted | cut i1 | destroy i1 | notify",
            "i1 shutdown run",
        ),
        ("up i1", "shutdown i1", "info: shutdown worker | cut i1 | destroy i1 | notify", "i1 shutdown run"),
        ("list i1", "shutdown i1", "no", "i1 unknown run"),
        ("up i1; start i1 a", "shutdown i1", "no", "i1 running run +a"),
        ("up i1; hold i1", "shutdown i1", "no", "i1 idle hold"),
        (
            "up i1; probe i1 ok a; drain i1; probe i1 ok",
            "shutdown i1",
            "info: shutdown worker | cut i1 | destroy i1 | notify",
            "i1 shutdown drain; x a",
        ),
        ("up i1; destroy i1", "shutdown i1", "no", "i1 shutdown run"),
        ("", "shutdown i9", "no", ""),
        // kill_instance: any worker at once.
        (
            "list i1:hold",
            "destroy i1",
            "info: killing instance | outcome aborted | cut i1 | destroy i1 | notify",
            "i1 shutdown hold",
        ),
        (
            "up i1; start i1 a; returned a",
            "destroy i1",
            "info: killing instance | cut i1 | destroy i1 | notify",
            "i1 shutdown run a",
        ),
        (
            "booting 1 i1",
            "destroy i1",
            "info: killing instance | outcome aborted | cut i1 | destroy i1 | notify",
            "i1 shutdown run",
        ),
        ("", "destroy i9", "no", ""),
        // set_idle_behavior: an error if unknown.
        ("", "hold i9", "no", ""),
        // forget_container: drops it from the exited map; no effect while it lives.
        ("up i1; probe i1 ok a; probe i1 ok", "forget a", "notify", "i1 idle run"),
        ("up i1; probe i1 ok a", "forget a", "", "i1 running run a"),
        ("", "forget a", "", ""),
    ]);
}

#[test]
fn s20_6_count_workers_waits_for_the_first_list() {
    let mut world = World::new();
    world.run("booting 1 i1");
    assert_eq!(world.pool.count_workers(), None);
    world.run("list i1 i2; probe i2 ok");
    let counts = world.pool.count_workers().expect("loaded");
    let of = |state| counts.get(&state).copied();
    assert_eq!(of(WorkerState::Booting), Some(1));
    assert_eq!(of(WorkerState::Idle), Some(1));
    assert_eq!(of(WorkerState::Running), Some(0));
}

#[test]
fn s20_6_running() {
    let mut world = World::new();
    world.run("up i1 i2; start i1 a; start i1 b@4; probe i1 ok b@4; probe i2 ok c finished; kill b");
    let view = world.pool.view(world.now);
    let place = |instance: &str, attempt, phase, killing| Place {
        instance: id(instance),
        attempt,
        phase,
        killing,
        given_up: false,
    };
    let places: Vec<_> = view.containers.values().map(|found| found.places.clone()).collect();
    let expected = [
        vec![place("i1", 1, Phase::Starting, false)],
        vec![place("i1", 4, Phase::Running, true)],
        vec![place("i2", 1, Phase::Collecting, false)],
    ];
    assert_eq!(places, expected);
    // Sorted by id, an unfinished create first; booting and without an id.
    world.run("create t");
    let view = world.pool.view(world.now);
    let shown: Vec<_> = view.instances.values().map(|view| (view.id().map(ToString::to_string), view.state)).collect();
    let expected = [
        (None, WorkerState::Booting),
        (Some("i1".to_owned()), WorkerState::Running),
        (Some("i2".to_owned()), WorkerState::Idle),
    ];
    assert_eq!(shown, expected);
}

/// Spec 80: a secret is in no log and in nothing that `Debug` shows.
#[test]
fn s80_4_secrets_are_not_shown() {
    let mut world = World::new();
    world.run("create t; created 1 i1:topsecret");
    let shown = format!("{:?}", world.pool);
    assert!(!shown.contains("\"s1\"") && !shown.contains("topsecret"), "{shown}");
}

/// A destroy says which life of the instance is meant, and whether it ever was of use (spec 46 §1).
#[test]
fn s46_1_endings() {
    for (before, expected) in [
        ("booting 1 i1", (Ending::Unproven, Some("s1"))),
        ("list i1", (Ending::Unproven, None)),
        ("up i1", (Ending::Unwanted, None)),
        ("booting 1 i1; probe i1 ok", (Ending::Unwanted, Some("s1"))),
        ("up i1; probe i1 ok broken", (Ending::Faulty(Fault::Broken), None)),
    ] {
        let mut world = World::new();
        world.run(before);
        let mut effects = Effects::new();
        world.pool.kill_instance(&id("i1"), "asked", world.now, &mut effects);
        let destroys = effects.into_vec().into_iter().find_map(|effect| match effect {
            Effect::DestroyInstance { secret, ending, .. } => Some((ending, secret)),
            _ => None,
        });
        let (ending, secret) = destroys.unwrap_or_else(|| panic!("{before}: no destroy"));
        assert_eq!((ending, secret.as_ref().map(InstanceSecret::reveal)), expected, "{before}");
    }
}
