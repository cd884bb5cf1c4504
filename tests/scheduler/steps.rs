//! The steps of spec 30 §3: best instance, available type, lock, start, create; and what happens after the pass.

use muster::core::entry::QueueEntry;
use muster::core::ids::TypeName;
use muster::core::pool::view::Phase::Running as Listed;
use muster::core::vocabulary::ContainerState::{Locked, Queued, Running};
use muster::core::vocabulary::IdleBehavior;
use muster::core::vocabulary::WorkerState::{Booting, Idle, Shutdown, Unknown};

use crate::fixture::{Row, World, instance_id, instance_type, shown, supervisor};

/// Needs these cores, and can use instances with these.
fn cores(need: i64, types: &'static [i64]) -> impl Fn(&mut QueueEntry) {
    move |entry| {
        entry.resources.vcpus = need;
        entry.instance_types = types.iter().map(|cores| instance_type(*cores)).collect();
    }
}

fn priority(priority: i64) -> impl Fn(&mut QueueEntry) {
    move |entry| entry.container.priority = priority
}

fn check(rows: &[Row<'_>]) {
    for (name, arrange, expected) in rows {
        let mut world = World::new();
        arrange(&mut world);
        assert_eq!(world.plan(), *expected, "{name}");
    }
}

#[test]
fn order_of_containers() {
    check(&[
        (
            "priority, then first seen",
            &|w| {
                w.instance("a", 1, Idle);
                w.add(1, Locked, |_| ());
                w.add(2, Locked, priority(9));
                w.add(3, Locked, |_| ());
                w.pool.creates_accepted = 1;
            },
            &["start 2#1 on a", "create type1"],
        ),
        (
            "Locked before Queued, whatever the priority",
            &|w| {
                w.instance("a", 1, Idle);
                w.add(1, Queued, priority(1000));
                w.add(2, Locked, |_| ());
                w.pool.at_quota = true;
            },
            &["start 2#1 on a"],
        ),
        (
            "first seen, not the uuid",
            &|w| {
                w.instance("a", 1, Idle);
                w.add(1, Locked, |entry| entry.first_seen = 9);
                w.add(2, Locked, |_| ());
                w.pool.at_quota = true;
            },
            &["start 2#1 on a"],
        ),
    ]);
}

#[test]
fn best_instance() {
    check(&[
        (
            "the cheapest",
            &|w| {
                w.instance("a", 2, Idle);
                w.instance("b", 1, Idle);
                w.add(1, Locked, cores(1, &[1, 2]));
            },
            &["start 1#1 on b"],
        ),
        (
            "of equals the one with the smaller id",
            &|w| {
                w.instance("b", 1, Idle);
                w.instance("a", 1, Idle);
                w.add(1, Locked, |_| ());
            },
            &["start 1#1 on a"],
        ),
        (
            "more containers on it are preferred to the price",
            &|w| {
                w.instance("a", 1, Idle);
                w.instance("b", 8, Idle);
                w.add(1, Running, |entry| entry.container.instance = Some(crate::fixture::instance_id("b")));
                w.place(1, "b", 0, Listed);
                w.add(2, Locked, cores(1, &[1, 8]));
            },
            &["start 2#1 on b"],
        ),
        (
            "in service is preferred to booting, however full",
            &|w| {
                w.instance("a", 8, Booting);
                w.instance("b", 8, Idle);
                w.add(1, Locked, cores(1, &[8]));
                w.add(2, Locked, cores(8, &[8]));
                w.add(3, Locked, cores(1, &[8]));
            },
            &["start 1#1 on b", "start 3#1 on b"],
        ),
        (
            "types that are not eligible, held, draining, and departing instances are no choice",
            &|w| {
                w.instance("a", 2, Idle);
                w.instance("b", 1, Idle).idle_behavior = IdleBehavior::Hold;
                w.instance("c", 1, Idle).idle_behavior = IdleBehavior::Drain;
                w.instance("d", 1, Shutdown);
                w.add(1, Locked, |_| ());
            },
            &["create type1"],
        ),
        (
            "nor one with a container that is not in the queue",
            &|w| {
                w.instance("a", 8, Idle);
                w.place(9, "a", 1, Listed);
                w.add(1, Locked, cores(1, &[8]));
            },
            &["kill 9 on a", "create type8"],
        ),
        (
            "booting and unknown are waited for",
            &|w| {
                w.instance("a", 1, Booting);
                w.instance("b", 1, Unknown);
                w.create(1, 1);
                for number in 1..=3 {
                    w.add(number, Locked, |_| ());
                }
            },
            &[],
        ),
        (
            "MaxRunningContainersPerInstance",
            &|w| {
                w.settings.max_running_containers_per_instance = 2;
                w.instance("a", 8, Idle);
                for number in 1..=3 {
                    w.add(number, Locked, cores(1, &[8]));
                }
            },
            &["start 1#1 on a", "start 2#1 on a", "create type8"],
        ),
        (
            "a smaller one fits where a larger one did not",
            &|w| {
                w.settings.max_instances = 1;
                w.instance("a", 8, Idle);
                w.add(1, Locked, cores(4, &[8]));
                w.add(2, Queued, cores(8, &[8]));
                w.add(3, Queued, cores(4, &[8]));
            },
            &["start 1#1 on a", "lock 3"],
        ),
        (
            "one core is shared by all that need none",
            &|w| {
                w.instance("a", 2, Idle);
                w.add(1, Locked, cores(0, &[2]));
                w.add(2, Locked, cores(0, &[2]));
                w.add(3, Locked, cores(2, &[2]));
                w.add(4, Locked, cores(1, &[2]));
            },
            &["start 1#1 on a", "start 2#1 on a", "create type2", "start 4#1 on a"],
        ),
    ]);
}

#[test]
fn queued() {
    check(&[
        ("no instance, a type is available", &|w| w.add(1, Queued, |_| ()), &["lock 1"]),
        (
            "no instance, at quota: this and all that follow stop",
            &|w| {
                w.instance("a", 1, Idle);
                w.pool.at_quota = true;
                w.add(1, Queued, cores(2, &[2]));
                w.add(2, Queued, |_| ());
            },
            &["shutdown a"],
        ),
        (
            "no instance, no available type: the next one is looked at",
            &|w| {
                w.pool.at_capacity.insert(TypeName::new("type1"));
                w.add(1, Queued, |_| ());
                w.add(2, Queued, cores(2, &[2]));
            },
            &["lock 2"],
        ),
        (
            "an instance has room although at quota",
            &|w| {
                w.instance("a", 1, Idle);
                w.pool.at_quota = true;
                w.add(1, Queued, |_| ());
            },
            &["lock 1"],
        ),
        ("not ready, or trouble with the queue", &|w| w.add(1, Queued, |entry| entry.ready = false), &[]),
        (
            "no more locks than instances may be made for",
            &|w| {
                w.settings.max_instances = 2;
                w.instance("z", 8, Idle);
                w.add(1, Queued, |_| ());
                w.add(2, Queued, |_| ());
            },
            &["lock 1"],
        ),
    ]);
}

#[test]
fn locked() {
    check(&[
        ("create", &|w| w.add(1, Locked, |_| ()), &["create type1"]),
        (
            "the next type if the first is at capacity",
            &|w| {
                w.pool.at_capacity.insert(TypeName::new("type1"));
                w.add(1, Locked, cores(1, &[1, 2]));
            },
            &["create type2"],
        ),
        (
            "all at capacity: go on with the next",
            &|w| {
                w.pool.at_capacity.insert(TypeName::new("type1"));
                w.add(1, Locked, |_| ());
                w.add(2, Locked, cores(2, &[2]));
            },
            &["create type2"],
        ),
        (
            "the next ones are packed onto what is created",
            &|w| {
                for number in 1..=6 {
                    w.add(number, Locked, cores(1, &[4]));
                }
            },
            &["create type4", "create type4"],
        ),
        (
            "no more creates than are accepted",
            &|w| {
                w.pool.creates_accepted = 2;
                for number in 1..=5 {
                    w.add(number, Locked, |_| ());
                }
            },
            &["create type1", "create type1"],
        ),
        (
            "no more creates than the quota has room for; then at quota, and all but the first give back their locks",
            &|w| {
                w.instance("a", 8, Booting);
                w.pool.quota_room = 1;
                for number in 1..=4 {
                    w.add(number, Locked, |_| ());
                }
            },
            &["create type1", "unlock 3", "unlock 4"],
        ),
        (
            "at quota without any instance: the first too",
            &|w| {
                w.pool.at_quota = true;
                w.add(1, Locked, |_| ());
                w.add(2, Locked, |_| ());
            },
            &["unlock 1", "unlock 2"],
        ),
        (
            "the attempt after the last",
            &|w| {
                w.instance("a", 1, Idle);
                w.add(1, Locked, |entry| entry.container.attempt = 2);
            },
            &["start 1#3 on a"],
        ),
    ]);
}

#[test]
fn nothing_new_while_the_queue_has_trouble() {
    let mut world = World::new();
    world.may_start = false;
    world.instance("a", 1, Idle);
    world.add(1, Queued, |_| ());
    world.add(2, Locked, |_| ());
    world.add(3, Running, |entry| {
        entry.container.instance = Some(crate::fixture::instance_id("a"));
        entry.container.priority = 0;
    });
    world.place(3, "a", 0, Listed);
    assert_eq!(world.plan(), ["kill 3 on a"]);
}

#[test]
fn nothing_before_the_first_list() {
    let mut world = World::new();
    world.pool.loaded = false;
    world.add(1, Running, |_| ());
    world.add(2, Queued, |_| ());
    assert!(world.plan().is_empty());
}

/// At quota with three instances, so that one supervisor may run: it does, on `d`; `a` and the larger `c` are idle.
fn with_the_share_used_up(w: &mut World) {
    w.instance("a", 1, Idle);
    w.instance("c", 2, Idle);
    w.instance("d", 2, Idle);
    w.pool.at_quota = true;
    w.add(1, Running, |entry| {
        supervisor(entry);
        entry.resources.vcpus = 2;
        (entry.container.instance, entry.container.attempt) = (Some(instance_id("d")), 1);
    });
    w.place(1, "d", 1, Listed);
}

/// Spec 30 §3, "make room".
#[test]
fn making_room() {
    check(&[
        (
            "one per container, the most expensive of equals",
            &|w| {
                w.instance("a", 1, Idle);
                w.instance("b", 1, Idle);
                w.instance("c", 2, Idle);
                w.pool.at_quota = true;
                w.add(1, Queued, cores(8, &[8]));
            },
            &["shutdown c"],
        ),
        (
            "rather one that no waiting container could use",
            &|w| {
                w.instance("a", 1, Idle);
                w.instance("c", 2, Idle);
                w.pool.at_quota = true;
                w.add(1, Queued, cores(8, &[8]));
                w.add(2, Queued, cores(2, &[2]));
            },
            &["shutdown a"],
        ),
        (
            "rather one that no supervisor above the share could use",
            &|w| {
                with_the_share_used_up(w);
                w.add(2, Queued, |entry| (supervisor(entry), cores(2, &[2])(entry)).1);
                w.add(3, Queued, cores(8, &[8]));
                w.add(4, Queued, |entry| (supervisor(entry), cores(2, &[2])(entry)).1);
            },
            &["shutdown a"],
        ),
        (
            "nor one that is Locked and has to give its lock back",
            &|w| {
                with_the_share_used_up(w);
                w.add(2, Locked, |entry| (supervisor(entry), cores(2, &[2])(entry)).1);
                w.add(3, Queued, cores(8, &[8]));
            },
            &["unlock 2", "shutdown a"],
        ),
        (
            "never one that an earlier container could use",
            &|w| {
                w.instance("a", 1, Idle);
                w.instance("b", 1, Idle);
                w.pool.at_quota = true;
                w.add(1, Queued, cores(8, &[8]));
                w.add(2, Queued, |_| ());
                w.add(3, Queued, cores(8, &[8]));
            },
            &["shutdown b"],
        ),
        (
            "an instance that is going already counts",
            &|w| {
                w.instance("a", 1, Idle);
                w.instance("b", 1, Shutdown);
                w.pool.at_quota = true;
                w.add(1, Queued, cores(8, &[8]));
            },
            &[],
        ),
        (
            "two that will share an instance need one",
            &|w| {
                w.instance("a", 1, Idle);
                w.instance("b", 1, Idle);
                w.pool.at_quota = true;
                w.add(1, Queued, cores(4, &[8]));
                w.add(2, Queued, cores(4, &[8]));
            },
            &["shutdown b"],
        ),
        (
            "not for a container whose types are at capacity, not a held one, not one that something is mapped onto",
            &|w| {
                w.instance("a", 1, Idle);
                w.instance("b", 2, Idle).idle_behavior = IdleBehavior::Hold;
                w.pool.at_quota = true;
                w.add(1, Locked, |_| ());
                w.add(2, Queued, cores(8, &[8]));
                w.pool.at_capacity.insert(TypeName::new("type4"));
                w.add(3, Queued, cores(4, &[4]));
            },
            &["start 1#1 on a"],
        ),
    ]);
}

#[test]
fn an_idle_instance_that_is_too_small_for_its_type_is_reported_once() {
    let mut world = World::new();
    world.instance("a", 1, Idle);
    world.add(1, Locked, cores(2, &[1]));
    let mut scheduler = world.scheduler();
    let pass = world.pass(&mut scheduler);
    assert_eq!(shown(&pass.actions), ["create type1"]);
    assert_eq!(pass.notes.len(), 1);
    assert!(world.pass(&mut scheduler).notes.is_empty());
}
