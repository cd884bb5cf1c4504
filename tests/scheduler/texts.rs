//! The texts for people, which are part of the API (spec 82 §3.2), and the order of the entries.

use std::sync::Arc;

use muster::core::entry::QueueEntry;
use muster::core::ids::TypeName;
use muster::core::instance_type::InstanceType;
use muster::core::pool::view::Phase::{Running as Listed, Starting};
use muster::core::vocabulary::ContainerState::{Complete, Locked, Queued, Running};
use muster::core::vocabulary::WorkerState::{Booting, Idle};

use crate::fixture::{World, instance_id, instance_type, supervisor};

const ALLOCATED: &str = "Container is allocated to an instance and preparing to run.";
const PREVIOUS: &str = "Waiting for previous container attempt to exit.";

fn at_capacity(position: usize, types: &str) -> String {
    format!(
        "Waiting in queue at position {position}.  Cluster is at capacity for all eligible instance types ({types}) and cannot start a new instance right now."
    )
}

fn waiting(position: usize, why: &str) -> String {
    format!(
        "Waiting in queue at position {position}.  Cluster is at {why} and cannot start any new instances right now."
    )
}

fn for_instance(name: &str) -> String {
    format!("Waiting for a {name} instance to boot and be ready to accept work.")
}

fn on(instance: &'static str) -> impl Fn(&mut QueueEntry) {
    move |entry| {
        entry.container.attempt = 1;
        entry.container.instance = Some(instance_id(instance));
    }
}

/// A row per line of the table; the text of the last entry counts.
#[test]
fn a_row_per_situation() {
    let zero = |entry: &mut QueueEntry| entry.container.priority = 0;
    type Row<'a> = (&'a str, &'a dyn Fn(&mut World), String);
    let rows: &[Row<'_>] = &[
        (
            "start just issued",
            &|w| {
                w.instance("a", 1, Idle);
                w.add(1, Locked, |_| ());
            },
            ALLOCATED.to_owned(),
        ),
        (
            "process exists, Locked",
            &|w| {
                w.instance("a", 1, Idle);
                w.add(1, Locked, on("a"));
                w.place(1, "a", 1, Starting);
            },
            ALLOCATED.to_owned(),
        ),
        (
            "priority 0, Queued",
            &|w| w.add(1, Queued, zero),
            "This container will not be scheduled to run because its priority is 0 and state is Queued.".to_owned(),
        ),
        (
            "priority 0, Locked",
            &|w| w.add(1, Locked, zero),
            "This container will not be scheduled to run because its priority is 0 and state is Locked.".to_owned(),
        ),
        (
            "supervisor limit",
            &|w| {
                w.settings.max_instances = 2;
                w.add(1, Queued, supervisor);
                w.add(2, Queued, supervisor);
                w.add(3, Queued, supervisor);
            },
            "Waiting in workflow queue at position 2.  Cluster is at capacity and cannot start any new workflows right now."
                .to_owned(),
        ),
        (
            "old process still exiting",
            &|w| {
                w.instance("a", 1, Idle);
                w.add(1, Queued, |_| ());
                w.place(1, "a", 1, Listed);
            },
            PREVIOUS.to_owned(),
        ),
        (
            "booting",
            &|w| {
                w.instance("a", 1, Booting);
                w.add(1, Locked, |_| ());
            },
            for_instance("type1"),
        ),
        ("being created", &|w| w.add(1, Locked, |_| ()), for_instance("type1")),
        (
            "at capacity",
            &|w| {
                w.pool.at_capacity.insert(TypeName::new("type1"));
                w.add(1, Locked, |_| ());
            },
            at_capacity(1, "type1"),
        ),
        (
            "at quota",
            &|w| {
                w.pool.at_quota = true;
                w.add(1, Queued, |_| ());
            },
            waiting(1, "cloud account limits"),
        ),
        (
            "otherwise",
            &|w| {
                w.pool.creates_accepted = 0;
                w.add(1, Locked, |_| ());
            },
            waiting(1, "capacity"),
        ),
        ("others first", &|w| w.add(1, Queued, |e| e.ready = false), "Waiting for other containers to finish first.".to_owned()),
        (
            "running",
            &|w| {
                w.instance("a", 1, Idle);
                w.add(1, Running, on("a"));
                w.place(1, "a", 1, Listed);
            },
            String::new(),
        ),
        ("finished", &|w| w.add(1, Complete, |_| ()), String::new()),
    ];
    for (name, arrange, expected) in rows {
        let mut world = World::new();
        arrange(&mut world);
        assert_eq!(world.texts().last(), Some(expected), "{name}");
    }
}

/// One counter: those that name their types first, the rest afterwards in list order.
#[test]
fn numbering() {
    let mut world = World::new();
    world.pool.creates_accepted = 0;
    world.add(1, Locked, |_| ());
    world.add(2, Locked, |entry| entry.instance_types = [instance_type(2)].into_iter().collect());
    world.add(3, Locked, |_| ());
    world.add(4, Locked, |entry| entry.instance_types = [instance_type(2)].into_iter().collect());
    world.pool.at_capacity.insert(TypeName::new("type2"));
    let expected = [waiting(3, "capacity"), at_capacity(1, "type2"), waiting(4, "capacity"), at_capacity(2, "type2")];
    assert_eq!(world.texts(), expected);
}

#[test]
fn scheduling_order() {
    let mut world = World::new();
    world.instance("a", 8, Idle);
    world.add(1, Complete, |entry| entry.container.priority = 99);
    world.add(2, Queued, |entry| entry.container.priority = 5);
    world.add(3, Queued, |entry| entry.container.priority = 7);
    world.add(4, Locked, |_| ());
    world.add(5, Running, on("a"));
    world.place(5, "a", 1, Listed);
    world.add(6, Queued, |entry| entry.first_seen = 0);
    world.add(7, Queued, |_| ());
    let pass = world.pass(&mut world.scheduler());
    let order: Vec<_> = pass.outlook.statuses().iter().map(|status| status.uuid.as_str()[26..].to_owned()).collect();
    assert_eq!(order, ["5", "4", "3", "2", "6", "7", "1"]);
}

/// The types among which a container may choose: enough cores, and at most half as much again as the cheapest.
fn eligible(cores: i64) -> Arc<[Arc<InstanceType>]> {
    let enough: Vec<i64> = [1, 2, 3, 4, 6, 8].into_iter().filter(|size| *size >= cores).collect();
    enough.iter().filter(|size| **size * 2 <= enough[0] * 3).map(|size| instance_type(*size)).collect()
}

/// The test of 82 §3.2: 20 containers, quota of 4 instances, types of 4 cores and more at capacity.
#[test]
fn twenty_containers() {
    let mut world = World::new();
    world.settings.max_instances = 4;
    world.pool.quota_room = 1;
    world.pool.creates_accepted = 1;
    for name in ["type4", "type6", "type8"] {
        world.pool.at_capacity.insert(TypeName::new(name));
    }
    for number in 0..20_i64 {
        let index = usize::try_from(number).expect("small");
        let state = match number {
            0..3 => Running,
            3 => Locked,
            _ => Queued,
        };
        world.add(index, state, |entry| {
            entry.container.priority = 100 - number;
            entry.resources.vcpus = 1 + number % 8;
            entry.resources.ram = (1 + number % 3) << 30;
            entry.instance_types = eligible(1 + number % 8);
        });
    }
    for (index, name) in ["a", "b", "c"].into_iter().enumerate() {
        world.instance(name, i64::try_from(index).expect("small") + 1, Idle);
        world.edit(index, on(name));
        world.place(index, name, 1, Listed);
    }
    let mut expected = vec![String::new(); 3];
    expected.push(at_capacity(1, "type4, type6"));
    expected.extend((2..=17).map(|position| waiting(position, "capacity")));
    assert_eq!(world.texts(), expected);
    assert!(world.plan().is_empty());
}
