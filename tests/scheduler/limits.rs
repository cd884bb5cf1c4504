//! The dynamic limits and the supervisors' share (spec 30 §3).

use std::time::Duration;

use muster::core::pool::view::Phase::Running as Listed;
use muster::core::vocabulary::ContainerState::{Locked, Queued, Running};
use muster::core::vocabulary::WorkerState::{Booting, Idle};

use crate::fixture::{World, at, instance_id, instance_type, shown};

/// `running` containers on a large instance, and as many `waiting` ones that fit beside them.
fn crowd(running: usize, waiting: usize) -> World {
    let mut world = World::new();
    world.instance("a", 64, Idle);
    for number in 1..=running + waiting {
        let state = if number <= running { Running } else { Queued };
        world.add(number, state, |entry| {
            entry.instance_types = [instance_type(64)].into_iter().collect();
            if number <= running {
                entry.container.instance = Some(instance_id("a"));
            }
        });
        if number <= running {
            world.place(number, "a", 0, Listed);
        }
    }
    world
}

#[test]
fn api_limit() {
    let mut world = crowd(10, 10);
    let mut scheduler = world.scheduler();
    assert_eq!(world.pass(&mut scheduler).actions.len(), 10, "no limit before the first 503");
    world.last_busy_answer = Some(at(100));
    let pass = world.pass(&mut scheduler);
    assert!(pass.actions.is_empty());
    assert_eq!(pass.figures.max_concurrent_containers, 9);
    assert_eq!(scheduler.next_deadline(), Some(at(160)), "the minute after the 503");
    world.now = at(159);
    assert!(world.pass(&mut scheduler).actions.is_empty());
    world.now = at(160);
    assert_eq!(shown(&world.pass(&mut scheduler).actions), ["lock 11", "lock 12"], "10 × 11/10 + 1 = 12");
    assert_eq!(scheduler.next_deadline(), None);
}

#[test]
fn api_limit_is_at_least_one() {
    let mut world = crowd(0, 3);
    world.last_busy_answer = Some(at(100));
    assert_eq!(world.plan(), ["lock 1"]);
}

/// Queued ones of one core each, and instances that are busy booting for someone else.
fn waiting(count: usize) -> World {
    let mut world = World::new();
    for number in 1..=count {
        world.add(number, Queued, |_| ());
    }
    world
}

fn locks(world: &World, scheduler: &mut muster::core::scheduler::Scheduler) -> usize {
    shown(&world.pass(scheduler).actions).iter().filter(|action| action.starts_with("lock")).count()
}

#[test]
fn quota_limit_starts_at_the_estimate_or_max_instances() {
    for (estimate, max_instances, expected) in [(0, 0, 30), (0, 7, 7), (5, 7, 5), (5, 0, 5)] {
        let mut world = waiting(30);
        world.settings.initial_quota_estimate = estimate;
        world.settings.max_instances = max_instances;
        assert_eq!(locks(&world, &mut world.scheduler()), expected, "{estimate} {max_instances}");
    }
}

#[test]
fn an_estimate_grows_with_the_instances_that_exist() {
    let mut world = waiting(30);
    world.settings.initial_quota_estimate = 5;
    for number in 0..10 {
        world.instance(&format!("other{number}"), 2, Booting);
    }
    assert_eq!(world.pass(&mut world.scheduler()).figures.max_concurrent_containers, 12);
    assert_eq!(locks(&world, &mut world.scheduler()), 2);
}

/// After a quota error at 20 instances: 20 while it lasts, then one more at a time.
#[test]
fn a_lifted_quota_is_tried_by_one() {
    let mut world = waiting(10);
    for number in 0..20 {
        world.instance(&format!("other{number:02}"), 2, Booting);
    }
    world.pool.at_quota = true;
    let mut scheduler = world.scheduler();
    assert_eq!(world.pass(&mut scheduler).figures.max_concurrent_containers, 20);
    world.pool.at_quota = false;
    assert_eq!(locks(&world, &mut scheduler), 1);
    assert_eq!(world.pass(&mut scheduler).figures.max_concurrent_containers, 21);
    world.instance("other20", 2, Booting);
    assert_eq!(locks(&world, &mut scheduler), 1, "21 are known to work now");
    scheduler.reconfigure(world.settings.clone());
    assert_eq!(locks(&world, &mut scheduler), 10, "a reload forgets what was learned");
}

/// The quota binds only those for which no existing instance has room.
#[test]
fn instances_are_filled_whatever_the_quota() {
    let mut world = crowd(0, 40);
    world.settings.max_instances = 1;
    world.pool.at_quota = true;
    world.pool.creates_accepted = 0;
    assert_eq!(locks(&world, &mut world.scheduler()), 40);
}

#[test]
fn supervisors() {
    // Fraction, limit, expected locks of 10 supervisors and 2 others.
    for (fraction, max_instances, expected) in [(0.5, 10, 7), (0.0, 10, 10), (0.01, 10, 3), (0.29, 10, 4), (0.5, 0, 12)]
    {
        let mut world = waiting(12);
        world.settings.supervisor_fraction = fraction;
        world.settings.max_instances = max_instances;
        for number in 1..=10 {
            world.edit(number, |entry| {
                let mut request = (*entry.container.request).clone();
                request.supervisor = true;
                entry.container.request = request.into();
            });
        }
        assert_eq!(locks(&world, &mut world.scheduler()), expected, "{fraction} of {max_instances}");
    }
}

#[test]
fn excess_supervisors_give_back_their_locks() {
    let mut world = World::new();
    world.settings.max_instances = 2;
    world.pool.creates_accepted = 0;
    for number in 1..=3 {
        world.add(number, Locked, |entry| {
            let mut request = (*entry.container.request).clone();
            request.supervisor = true;
            entry.container.request = request.into();
        });
    }
    assert_eq!(world.plan(), ["unlock 2", "unlock 3"]);
    let figures = world.pass(&mut world.scheduler()).figures;
    assert_eq!(figures.not_allocated_over_quota, 2);
}

#[test]
fn figures() {
    let mut world = World::new();
    world.instance("a", 1, Booting);
    world.pool.at_quota = true;
    world.add(1, Queued, |entry| entry.container.priority = 0);
    world.add(2, Queued, |entry| entry.ready = false);
    world.add(3, Locked, |_| ());
    world.add(4, Queued, |_| ());
    world.add(5, Queued, |_| ());
    let figures = world.pass(&mut world.scheduler()).figures;
    assert_eq!(figures.allocated_not_started, 1);
    assert_eq!(figures.not_allocated_over_quota, 2);
    assert_eq!(figures.longest_wait_since, Some(3000), "not those that are not to run yet");
    assert_eq!(figures.max_concurrent_containers, 1);
}

#[test]
fn the_wait_for_stale_locks_has_a_deadline() {
    let mut world = World::remote();
    world.instance("a", 1, muster::core::vocabulary::WorkerState::Unknown);
    world.add(1, Locked, |_| ());
    let mut scheduler = world.scheduler();
    assert!(world.pass(&mut scheduler).actions.is_empty());
    assert_eq!(scheduler.next_deadline(), Some(world.now + Duration::from_secs(60)));
}
