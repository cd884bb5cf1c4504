//! The table of spec 30 §4 for the local queue: attempts that are sent, lost, ruled out (70 §3).

use muster::core::entry::QueueEntry;
use muster::core::pool::view::Phase::{Collecting, Running as Listed, Starting};
use muster::core::vocabulary::ContainerState::{Locked, Queued, Running};
use muster::core::vocabulary::IdleBehavior;
use muster::core::vocabulary::WorkerState::{Booting, Idle, Running as InService, Shutdown, Unknown};

use crate::fixture::{World, at, instance_id, shown, uuid};
use crate::sync_table::{check, on, zero};

fn asked_to_cancel(entry: &mut QueueEntry) {
    entry.container.priority = 0;
    entry.container.cancel_requested = true;
}

#[test]
fn local_queue_running() {
    check(
        World::new,
        &[
            (
                "listed",
                &|w| {
                    w.add(1, Running, on("a", 1));
                    w.place(1, "a", 1, Listed);
                },
                &[],
            ),
            (
                "exited",
                &|w| {
                    w.add(1, Running, on("a", 2));
                    w.exited(1, 2, at(99));
                },
                &["lost 1#2: its runner ended without a result"],
            ),
            (
                "exited after a cancel",
                &|w| {
                    w.add(1, Running, on("a", 2));
                    w.edit(1, asked_to_cancel);
                    w.exited(1, 2, at(99));
                },
                &["cancel 1: cancelled on request"],
            ),
            (
                "an older attempt exited: says nothing of this one, which is not here",
                &|w| {
                    w.add(1, Running, on("a", 2));
                    w.exited(1, 1, at(99));
                },
                &["forget 1 in pool", "lost 1#2: its runner ended without a result"],
            ),
            (
                "cancel",
                &|w| {
                    w.add(1, Running, on("a", 1));
                    w.edit(1, asked_to_cancel);
                    w.place(1, "a", 1, Listed);
                },
                &["kill 1 on a"],
            ),
            (
                "its instance is unknown",
                &|w| {
                    w.instance("b", 1, Unknown);
                    w.add(1, Running, on("b", 1));
                },
                &[],
            ),
            (
                "another instance is unknown: does not matter",
                &|w| {
                    w.instance("b", 1, Unknown);
                    w.add(1, Running, on("a", 1));
                },
                &["lost 1#1: its runner ended without a result"],
            ),
            (
                "its instance is being shut down",
                &|w| {
                    w.instance("b", 1, Shutdown);
                    w.add(1, Running, on("b", 1));
                },
                &[],
            ),
            ("its instance is missing, one list", &|w| w.add(1, Running, on("b", 1)), &[]),
            (
                "its instance is missing, lists far apart",
                &|w| {
                    w.add(1, Running, on("b", 1));
                    w.pool.last_list = Some(at(31));
                },
                &["lost 1#1: its instance is gone"],
            ),
            (
                "its instance left while we watched",
                &|w| {
                    w.add(1, Running, on("b", 1));
                    w.pool.departed.insert(instance_id("b"));
                },
                &["lost 1#1: its instance is gone"],
            ),
            (
                "also on another instance",
                &|w| {
                    w.instance("b", 1, Idle);
                    w.add(1, Running, on("a", 2));
                    w.place(1, "a", 2, Listed);
                    w.place(1, "b", 1, Listed);
                },
                &["kill 1 on b"],
            ),
            (
                "an older attempt on its instance",
                &|w| {
                    w.add(1, Running, on("a", 2));
                    w.place(1, "a", 1, Listed);
                },
                &["kill 1 on a"],
            ),
        ],
    );
}

#[test]
fn local_queue_locked() {
    check(
        World::new,
        &[
            (
                "starting",
                &|w| {
                    w.add(1, Locked, on("a", 1));
                    w.place(1, "a", 1, Starting);
                },
                &[],
            ),
            (
                "starting, not committed yet",
                &|w| {
                    w.add(1, Locked, |_| ());
                    w.place(1, "a", 1, Starting);
                },
                &[],
            ),
            (
                "listed",
                &|w| {
                    w.add(1, Locked, on("a", 1));
                    w.place(1, "a", 1, Listed);
                },
                &["running 1#1"],
            ),
            (
                "listed by a runner that does not tell the attempt",
                &|w| {
                    w.add(1, Locked, on("a", 3));
                    w.place(1, "a", 0, Listed);
                },
                &["running 1#3"],
            ),
            (
                "listed, priority 0",
                &|w| {
                    w.add(1, Locked, on("a", 1));
                    w.edit(1, zero);
                    w.place(1, "a", 1, Listed);
                },
                &["running 1#1", "kill 1 on a"],
            ),
            (
                "exited",
                &|w| {
                    w.add(1, Locked, on("a", 1));
                    w.exited(1, 1, at(99));
                },
                &["lost 1#1: its runner ended without a result"],
            ),
            (
                "exited, cancel",
                &|w| {
                    w.add(1, Locked, on("a", 1));
                    w.edit(1, asked_to_cancel);
                    w.exited(1, 1, at(99));
                },
                &["cancel 1: cancelled on request"],
            ),
            ("never sent, priority 0", &|w| w.add(1, Locked, zero), &["unlock 1"]),
            ("never sent, cancel", &|w| w.add(1, Locked, asked_to_cancel), &["cancel 1: cancelled on request"]),
            (
                "no type fits any more",
                &|w| w.add(1, Queued, |entry| entry.instance_types = [].into_iter().collect()),
                &[
                    "cancel 1: constraints not satisfiable by any configured instance type; needed: 1 VCPUs, 1073741824 bytes of RAM, 0 bytes of scratch, 0 GPUs",
                ],
            ),
            ("queued, cancel", &|w| w.add(1, Queued, asked_to_cancel), &["cancel 1: cancelled on request"]),
            ("queued, on hold: stays", &|w| w.add(1, Queued, zero), &[]),
            (
                "an attempt that is closed still runs: first its end, then the next",
                &|w| {
                    w.add(1, Locked, |entry| entry.container.attempt = 1);
                    w.place(1, "a", 1, Listed);
                },
                &["kill 1 on a"],
            ),
            (
                "the result of a closed attempt is being fetched",
                &|w| {
                    w.add(1, Locked, |entry| entry.container.attempt = 1);
                    w.place(1, "a", 1, Collecting);
                },
                &[],
            ),
            (
                "sent, not known there: sent again under the same number",
                &|w| w.add(1, Locked, on("a", 2)),
                &["start 1#2 on a"],
            ),
            (
                "sent, not known there, priority 0",
                &|w| {
                    w.add(1, Locked, on("a", 2));
                    w.edit(1, zero);
                },
                &["rule out 1#2 on a"],
            ),
            (
                "sent to an instance that boots or is unknown",
                &|w| {
                    w.instance("b", 1, Booting);
                    w.add(1, Locked, on("b", 2));
                    w.instance("c", 1, Unknown);
                    w.add(2, Locked, on("c", 2));
                },
                &[],
            ),
            (
                "where it may be running its resources are kept",
                &|w| {
                    w.pool.creates_accepted = 1;
                    w.instance("b", 1, Unknown);
                    w.add(1, Running, on("b", 1));
                    w.add(2, Locked, |_| ());
                },
                &["create type1"],
            ),
            (
                "sent to an instance that is full by now",
                &|w| {
                    w.instance("b", 1, InService);
                    w.add(2, Running, on("b", 1));
                    w.place(2, "b", 1, Listed);
                    w.add(1, Locked, on("b", 2));
                },
                &["rule out 1#2 on b"],
            ),
            (
                "sent to an instance that is held",
                &|w| {
                    w.instance("b", 1, Idle).idle_behavior = IdleBehavior::Hold;
                    w.add(1, Locked, on("b", 2));
                },
                &["rule out 1#2 on b"],
            ),
            (
                "sent to an instance that is gone",
                &|w| {
                    w.add(1, Locked, on("b", 2));
                    w.pool.departed.insert(instance_id("b"));
                },
                &["lost 1#2: its instance is gone"],
            ),
            ("sent to an instance that is missing", &|w| w.add(1, Locked, on("b", 2)), &[]),
            (
                "an older attempt on another instance while its own is asked",
                &|w| {
                    w.instance("b", 1, Idle);
                    w.add(1, Locked, on("a", 2));
                    w.place(1, "b", 1, Listed);
                },
                &["kill 1 on b"],
            ),
        ],
    );
}

/// What was ruled out before any probe listed it never ran: unlocked, which does not count as a lost attempt.
#[test]
fn ruled_out_then_exited_is_unlocked() {
    let mut world = World::new();
    world.pool.creates_accepted = 0;
    world.instance("a", 1, Idle);
    world.add(1, Locked, on("a", 2));
    world.edit(1, zero);
    let mut scheduler = world.scheduler();
    assert_eq!(shown(&world.pass(&mut scheduler).actions), ["rule out 1#2 on a"]);
    world.place(1, "a", 2, Starting).killing = true;
    assert!(world.pass(&mut scheduler).actions.is_empty());
    world.pool.containers.clear();
    world.nth(0).containers.clear();
    world.exited(1, 2, at(99));
    assert_eq!(shown(&world.pass(&mut scheduler).actions), ["unlock 1"]);
}

/// A probe listed it after all: it ran, and an end without a result is a lost attempt.
#[test]
fn ruled_out_but_listed_is_lost() {
    let mut world = World::new();
    world.pool.creates_accepted = 0;
    world.instance("a", 1, Idle);
    world.add(1, Locked, on("a", 2));
    world.edit(1, zero);
    let mut scheduler = world.scheduler();
    assert_eq!(shown(&world.pass(&mut scheduler).actions), ["rule out 1#2 on a"]);
    world.place(1, "a", 2, Listed).killing = true;
    assert_eq!(shown(&world.pass(&mut scheduler).actions), ["running 1#2"]);
    world.pool.containers.clear();
    world.nth(0).containers.clear();
    world.exited(1, 2, at(99));
    let lost = ["lost 1#2: its runner ended without a result"];
    assert_eq!(shown(&world.pass(&mut scheduler).actions), lost);
}

/// No list showed it, but the host says that it was there: its runner crashed before anybody looked, while the dispatcher was down.
/// Unlocked it would run again although it may have used its last attempt.
#[test]
fn ruled_out_but_has_run_is_lost() {
    let mut world = World::new();
    world.pool.creates_accepted = 0;
    world.instance("a", 1, Idle);
    world.add(1, Locked, on("a", 2));
    let mut scheduler = world.scheduler();
    world.place(1, "a", 2, Starting).killing = true;
    assert!(world.pass(&mut scheduler).actions.is_empty());
    world.pool.containers.clear();
    world.nth(0).containers.clear();
    world.exited(1, 2, at(99));
    world.whereabouts(&uuid(1)).exited.as_mut().expect("just now").has_run = true;
    assert_eq!(shown(&world.pass(&mut scheduler).actions), ["lost 1#2: its runner ended without a result"]);
}

/// The pool refused to rule it out, so it was sent again: what ends then without a result is a lost attempt.
#[test]
fn ruled_out_in_vain_then_started_is_lost() {
    let mut world = World::new();
    world.pool.creates_accepted = 0;
    world.instance("a", 1, Idle).idle_behavior = IdleBehavior::Hold;
    world.add(1, Locked, on("a", 2));
    let mut scheduler = world.scheduler();
    assert_eq!(shown(&world.pass(&mut scheduler).actions), ["rule out 1#2 on a"]);
    world.nth(0).idle_behavior = IdleBehavior::Run;
    assert_eq!(shown(&world.pass(&mut scheduler).actions), ["start 1#2 on a"]);
    world.exited(1, 2, at(99));
    assert_eq!(shown(&world.pass(&mut scheduler).actions), ["lost 1#2: its runner ended without a result"]);
}
