//! Spec 30 §5: when nothing has changed that a pass looks at, the answer of the last one stands. (That it is the right one is checked in every
//! pass of every test here.)

use std::sync::Arc;
use std::time::Duration;

use muster::core::pool::view::Phase::Running as Listed;
use muster::core::scheduler::Scheduler;
use muster::core::vocabulary::ContainerState::{Locked, Queued, Running};
use muster::core::vocabulary::WorkerState::{Booting, Idle};

use crate::fixture::{World, at, instance_id};

/// A container runs, one waits for an instance that boots, one for its turn.
fn world() -> World {
    let mut world = World::new();
    world.settings.max_instances = 2;
    world.pool.at_quota = true;
    world.instance("a", 1, Idle);
    world.instance("b", 1, Booting);
    world.add(1, Running, |entry| {
        (entry.container.instance, entry.container.attempt) = (Some(instance_id("a")), 1);
    });
    world.place(1, "a", 1, Listed);
    world.add(2, Locked, |_| ());
    world.add(3, Queued, |_| ());
    world
}

/// Whether the second of two passes repeats the answer of the first, when this happens between them.
fn stands(mut world: World, change: impl FnOnce(&mut World)) -> bool {
    let mut scheduler: Scheduler = world.scheduler();
    let first = world.pass(&mut scheduler);
    assert!(first.actions.is_empty(), "{:?}", first.actions);
    world.now = world.now + Duration::from_secs(1);
    change(&mut world);
    Arc::ptr_eq(&first.outlook, &world.pass(&mut scheduler).outlook)
}

#[test]
fn what_makes_no_difference() {
    assert!(stands(world(), |_| ()), "time");
    assert!(stands(world(), |w| w.nth(0).last_busy = Some(at(101))), "a probe of a busy worker");
    assert!(stands(world(), |w| w.nth(1).address = "192.0.2.1".to_owned()), "an address");
    assert!(stands(world(), |w| w.queue.as_of = at(101)), "a refresh without news");
    assert!(stands(world(), |w| w.pool.last_list = Some(at(101))), "a list without news");
}

#[test]
fn what_makes_one() {
    assert!(!stands(world(), |w| w.nth(1).state = Idle), "the instance has booted");
    assert!(!stands(world(), |w| w.edit(3, |entry| entry.container.priority = 2)), "a priority");
    assert!(!stands(world(), |w| w.add(4, Queued, |_| ())), "a container more");
    assert!(!stands(world(), |w| w.pool.at_quota = false), "the quota");
    assert!(!stands(world(), |w| w.place(1, "a", 1, Listed).killing = true), "a kill");
    assert!(!stands(world(), |w| w.may_start = false), "trouble");
    assert!(!stands(world(), |w| w.last_busy_answer = Some(at(101))), "a 503");
    assert!(!stands(world(), |w| w.busy = [crate::fixture::uuid(3)].into()), "an operation");
}

/// An exit that the queue may not know yet, and an instance that no list has missed: then refreshes and lists matter.
#[test]
fn what_is_waited_for() {
    let exited = || {
        let mut world = world();
        world.pool.containers.clear();
        world.nth(0).containers.clear();
        world.nth(0).state = Idle;
        world.exited(1, 1, at(100));
        world.pool.at_quota = false;
        world.pool.creates_accepted = 0;
        world.queue.entries.remove(&crate::fixture::uuid(2));
        world.queue.entries.remove(&crate::fixture::uuid(3));
        world
    };
    assert!(stands(exited(), |_| ()));
    assert!(!stands(exited(), |w| w.queue.as_of = at(101)), "the refresh");
    let missing = || {
        let mut world = exited();
        world.pool.containers.clear();
        let key = world.nth(0).key.clone();
        world.pool.instances.remove(&key);
        world
    };
    assert!(stands(missing(), |_| ()));
    assert!(!stands(missing(), |w| w.pool.last_list = Some(at(101))), "the list");
}
