//! A row per line of the table in spec 30 §4, for a remote queue; and what holds for both kinds.

use muster::core::entry::QueueEntry;
use muster::core::pool::view::Phase::{Collecting, Running as Listed, Starting};
use muster::core::vocabulary::ContainerState::{Cancelled, Complete, Locked, Queued, Running};
use muster::core::vocabulary::WorkerState::{Idle, Unknown};

use crate::fixture::{Row, World, at, instance_id};

pub(crate) fn zero(entry: &mut QueueEntry) {
    entry.container.priority = 0;
}

pub(crate) fn on(instance: &'static str, attempt: u32) -> impl Fn(&mut QueueEntry) {
    move |entry| {
        entry.container.attempt = attempt;
        entry.container.instance = Some(instance_id(instance));
    }
}

/// Each row starts from one held instance `a` in service, so that nothing else can be planned.
pub(crate) fn check(world: fn() -> World, rows: &[Row<'_>]) {
    for (name, arrange, expected) in rows {
        let mut world = world();
        world.pool.creates_accepted = 0;
        world.instance("a", 8, Idle);
        arrange(&mut world);
        assert_eq!(world.plan(), *expected, "{name}");
    }
}

#[test]
fn remote_queue() {
    check(
        World::remote,
        &[
            ("Running, nowhere", &|w| w.add(1, Running, |_| ()), &["cancel 1: not running on any worker"]),
            (
                "Running, nowhere, but a worker is unknown",
                &|w| {
                    w.add(1, Running, |_| ());
                    w.instance("b", 1, Unknown);
                },
                &[],
            ),
            (
                "Running, nowhere, no refresh since the last unknown",
                &|w| {
                    w.add(1, Running, |_| ());
                    w.pool.last_unknown_resolved = Some(at(100));
                },
                &[],
            ),
            (
                "Running, nowhere, refreshed since",
                &|w| {
                    w.add(1, Running, |_| ());
                    w.pool.last_unknown_resolved = Some(at(99));
                },
                &["cancel 1: not running on any worker"],
            ),
            (
                "Running, exited, refreshed",
                &|w| {
                    w.add(1, Running, |_| ());
                    w.exited(1, 0, at(99));
                },
                &["cancel 1: still Running after its runner exited"],
            ),
            (
                "Running, exited, not refreshed",
                &|w| {
                    w.add(1, Running, |_| ());
                    w.exited(1, 0, at(100));
                },
                &[],
            ),
            (
                "Running, running",
                &|w| {
                    w.add(1, Running, |_| ());
                    w.place(1, "a", 0, Listed);
                },
                &[],
            ),
            (
                "Running, running, priority 0",
                &|w| {
                    w.add(1, Running, zero);
                    w.place(1, "a", 0, Listed);
                },
                &["kill 1 on a"],
            ),
            (
                "Running, running, priority 0, killing already",
                &|w| {
                    w.add(1, Running, zero);
                    w.place(1, "a", 0, Listed).killing = true;
                },
                &[],
            ),
            (
                "Running, running, priority 0, given up",
                &|w| {
                    w.add(1, Running, zero);
                    w.place(1, "a", 0, Listed).given_up = true;
                },
                &[],
            ),
            (
                "Complete, running",
                &|w| {
                    w.add(1, Complete, |_| ());
                    w.place(1, "a", 0, Listed);
                },
                &["kill 1 on a"],
            ),
            (
                "Cancelled, running",
                &|w| {
                    w.add(1, Cancelled, |_| ());
                    w.place(1, "a", 0, Starting);
                },
                &["kill 1 on a"],
            ),
            ("Complete, nowhere", &|w| w.add(1, Complete, |_| ()), &["forget 1 in queue"]),
            (
                "Cancelled, exited",
                &|w| {
                    w.add(1, Cancelled, |_| ());
                    w.exited(1, 0, at(100));
                },
                &["forget 1 in pool", "forget 1 in queue"],
            ),
            (
                "Queued, running",
                &|w| {
                    w.add(1, Queued, |_| ());
                    w.place(1, "a", 0, Listed);
                },
                &["kill 1 on a"],
            ),
            (
                "Queued, exited, not refreshed",
                &|w| {
                    w.add(1, Queued, |_| ());
                    w.exited(1, 0, at(100));
                },
                &[],
            ),
            (
                "Queued, exited long ago",
                &|w| {
                    w.add(1, Queued, |_| ());
                    w.exited(1, 0, at(99));
                },
                &["forget 1 in pool", "lock 1"],
            ),
            ("Queued, priority 0", &|w| w.add(1, Queued, zero), &["forget 1 in queue"]),
            (
                "Locked, exited, refreshed",
                &|w| {
                    w.add(1, Locked, |_| ());
                    w.exited(1, 0, at(99));
                },
                &["unlock 1"],
            ),
            (
                "Locked, exited, not refreshed",
                &|w| {
                    w.add(1, Locked, |_| ());
                    w.exited(1, 0, at(100));
                },
                &[],
            ),
            (
                "Locked, running",
                &|w| {
                    w.add(1, Locked, |_| ());
                    w.place(1, "a", 0, Listed);
                },
                &[],
            ),
            (
                "Locked, running, priority 0",
                &|w| {
                    w.add(1, Locked, zero);
                    w.place(1, "a", 0, Listed);
                },
                &["kill 1 on a"],
            ),
            ("Locked, nowhere, priority 0", &|w| w.add(1, Locked, zero), &["unlock 1"]),
            (
                "not in the queue, running",
                &|w| {
                    w.place(1, "a", 0, Listed);
                },
                &["kill 1 on a"],
            ),
            (
                "not in the queue, collecting",
                &|w| {
                    w.place(1, "a", 0, Collecting);
                },
                &[],
            ),
            ("not in the queue, exited", &|w| w.exited(1, 0, at(50)), &["forget 1 in pool"]),
        ],
    );
}

#[test]
fn collecting_waits_for_the_result_in_every_state() {
    for state in [Queued, Locked, Running, Complete, Cancelled] {
        for world in [World::new, World::remote] {
            for change in [zero as fn(&mut QueueEntry), |_| ()] {
                let mut world = world();
                world.instance("a", 8, Idle);
                world.add(1, state, |entry| {
                    on("a", 1)(entry);
                    change(entry);
                });
                world.place(1, "a", 1, Collecting);
                assert_eq!(world.plan(), Vec::<String>::new(), "{state}");
            }
        }
    }
}

#[test]
fn a_busy_container_is_left_alone_and_tried_again_soon() {
    let mut world = World::new();
    world.instance("a", 1, Idle);
    world.add(1, Queued, |_| ());
    world.busy.insert(crate::fixture::uuid(1));
    let mut scheduler = world.scheduler();
    let pass = world.pass(&mut scheduler);
    assert!(pass.actions.is_empty() && pass.refused_because_busy);
    assert_eq!(scheduler.next_deadline(), Some(world.now + muster::core::scheduler::BUSY_RETRY));
    world.busy.clear();
    assert_eq!(crate::fixture::shown(&world.pass(&mut scheduler).actions), ["lock 1"]);
    assert_eq!(scheduler.next_deadline(), None);
}

/// It may be being unlocked: no start, no instance for it; but what it would get is not given to a later one.
#[test]
fn a_busy_locked_container_keeps_its_place() {
    let mut world = World::new();
    world.add(1, Locked, |_| ());
    world.busy.insert(crate::fixture::uuid(1));
    let mut scheduler = world.scheduler();
    let pass = world.pass(&mut scheduler);
    assert!(pass.actions.is_empty() && pass.refused_because_busy);
    world.instance("a", 1, Idle);
    world.add(2, Locked, |_| ());
    world.pool.at_quota = true;
    let pass = world.pass(&mut scheduler);
    assert!(pass.actions.is_empty() && pass.refused_because_busy);
}
