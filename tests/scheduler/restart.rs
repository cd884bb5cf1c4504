//! What a new process makes of what an old one left (spec 30 §1, 70 §3).

use std::time::Duration;

use muster::core::entry::QueueEntry;
use muster::core::pool::view::Phase::Running as Listed;
use muster::core::vocabulary::ContainerState::{Complete, Locked, Queued, Running};
use muster::core::vocabulary::WorkerState::{Idle, Unknown};

use crate::fixture::{World, at, instance_id, shown};

fn sent_to(instance: &'static str) -> impl Fn(&mut QueueEntry) {
    move |entry| {
        entry.container.attempt = 1;
        entry.container.instance = Some(instance_id(instance));
    }
}

/// Remote queue: while a worker is unknown, what is Locked and runs nowhere may be there.
#[test]
fn stale_locks_wait_for_unknown_workers_and_are_then_unlocked() {
    let mut world = World::remote();
    world.instance("a", 1, Unknown);
    world.instance("b", 1, Idle);
    world.add(1, Locked, |_| ());
    world.add(2, Locked, |entry| entry.container.priority = 0);
    world.add(3, Queued, |_| ());
    world.add(4, Complete, |_| ());
    let mut scheduler = world.scheduler();
    assert_eq!(shown(&world.pass(&mut scheduler).actions), ["forget 4 in queue"], "only what is safe");
    world.queue.entries.remove(&crate::fixture::uuid(4));
    world.now = world.now + Duration::from_secs(59);
    assert!(world.pass(&mut scheduler).actions.is_empty());
    assert_eq!(scheduler.next_deadline(), Some(at(160)));
    world.now = at(160);
    assert_eq!(shown(&world.pass(&mut scheduler).actions), ["unlock 1", "unlock 2", "lock 3"]);
    assert_eq!(scheduler.next_deadline(), None);
    assert_eq!(shown(&world.pass(&mut scheduler).actions), ["unlock 2", "start 1#0 on b", "lock 3"], "once only");
}

#[test]
fn stale_locks_that_show_up_end_the_wait() {
    let mut world = World::remote();
    world.instance("a", 1, Unknown);
    world.instance("b", 1, Unknown);
    world.add(1, Locked, |_| ());
    world.add(2, Queued, |_| ());
    let mut scheduler = world.scheduler();
    assert!(world.pass(&mut scheduler).actions.is_empty());
    world.nth(0).state = Idle;
    world.place(1, "a", 0, Listed);
    assert_eq!(shown(&world.pass(&mut scheduler).actions), ["lock 2"]);
}

#[test]
fn without_unknown_workers_stale_locks_are_simply_started() {
    let mut world = World::remote();
    world.instance("a", 1, Idle);
    world.add(1, Locked, |_| ());
    assert_eq!(world.plan(), ["start 1#0 on a"]);
}

/// Local queue: only an attempt's own instance is waited for.
#[test]
fn the_local_queue_waits_for_the_own_instance_only() {
    let mut world = World::new();
    world.instance("a", 1, Unknown);
    world.instance("b", 1, Idle);
    world.add(1, Locked, sent_to("a"));
    world.add(2, Locked, |_| ());
    world.add(3, Running, sent_to("a"));
    let mut scheduler = world.scheduler();
    assert_eq!(shown(&world.pass(&mut scheduler).actions), ["start 2#1 on b"]);
    assert_eq!(scheduler.next_deadline(), None);
}

/// The same container, from the restart to its next attempt.
#[test]
fn a_running_one_whose_instance_is_missing_is_lost_after_two_lists_far_apart() {
    let mut world = World::new();
    world.instance("b", 1, Idle);
    world.add(1, Running, sent_to("a"));
    let mut scheduler = world.scheduler();
    for seconds in [1, 30] {
        world.pool.last_list = Some(at(seconds));
        assert!(world.pass(&mut scheduler).actions.is_empty(), "{seconds}");
    }
    world.pool.last_list = Some(at(31));
    assert_eq!(shown(&world.pass(&mut scheduler).actions), ["lost 1#1: its instance is gone"]);
    world.edit(1, |entry| {
        entry.container.state = Queued;
        entry.container.instance = None;
    });
    assert_eq!(shown(&world.pass(&mut scheduler).actions), ["lock 1"]);
    world.edit(1, |entry| entry.container.state = Locked);
    assert_eq!(shown(&world.pass(&mut scheduler).actions), ["start 1#2 on b"]);
}

/// It comes back after it was declared lost: the old attempt is killed before the new one starts.
#[test]
fn an_old_attempt_that_comes_back_ends_before_the_next_starts() {
    let mut world = World::new();
    world.instance("a", 1, Idle);
    world.instance("b", 1, Idle);
    world.add(1, Locked, |entry| entry.container.attempt = 1);
    world.place(1, "a", 1, Listed);
    let mut scheduler = world.scheduler();
    let pass = world.pass(&mut scheduler);
    assert_eq!(shown(&pass.actions), ["kill 1 on a"]);
    assert_eq!(pass.outlook.statuses()[0].text, "Waiting for previous container attempt to exit.");
    world.pool.containers.clear();
    world.nth(0).containers.clear();
    world.nth(0).state = Idle;
    world.exited(1, 1, at(99));
    assert_eq!(shown(&world.pass(&mut scheduler).actions), ["forget 1 in pool", "start 1#2 on a"]);
}
