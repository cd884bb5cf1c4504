//! Random histories: the invariants after every pass, no end without rest, nobody starves, no container runs twice.

use proptest::prelude::*;
use proptest::test_runner::Config;

use crate::events::EVENTS;
use crate::fixture::{World, entry, instance_type};
use crate::model::Model;
use muster::core::versioned::Versioned;
use muster::core::vocabulary::ContainerState::Queued;
use muster::core::vocabulary::WorkerState::Idle;

fn run(world: World, max_instances: usize, events: &[(u8, usize)]) {
    let mut model = Model::new(world, max_instances);
    for cores in [1, 2, 1, 4] {
        model.submit(cores, 1, |_| ());
    }
    for (kind, choice) in events {
        model.event(*kind, *choice);
        if model.immediate {
            model.settle();
        } else {
            model.pass();
        }
    }
    model.fair_end();
}

proptest! {
    #![proptest_config(Config { cases: 1000, failure_persistence: None, ..Config::default() })]

    #[test]
    fn local_queue(max_instances in 1_usize..5, events in prop::collection::vec((0_u8..EVENTS, 0_usize..64), 0..120)) {
        run(World::new(), max_instances, &events);
    }

    #[test]
    fn remote_queue(max_instances in 1_usize..5, events in prop::collection::vec((0_u8..EVENTS, 0_usize..64), 0..120)) {
        run(World::remote(), max_instances, &events);
    }
}

/// Ten thousand containers and a thousand instances: everything that fits is locked, in one pass. (How long that may take is
/// measured by the benchmarks.)
#[test]
fn a_large_pass() {
    let mut world = World::new();
    for number in 0..1000 {
        world.instance(&format!("i{number:04}"), [2, 4, 8][number % 3], Idle);
    }
    let types = [2, 4, 8].map(instance_type);
    for number in 1..=10_000 {
        let mut new = entry(number, Queued);
        new.container.priority = i64::try_from(number % 7).expect("small") + 1;
        new.resources.vcpus = [1, 2, 4][number % 3];
        new.instance_types = types.iter().filter(|it| it.vcpus >= new.resources.vcpus).cloned().collect();
        world.queue.entries.insert(new.container.uuid.clone(), Versioned::new(new));
    }
    world.pool.at_quota = true;
    let mut scheduler = world.scheduler();
    let pass = scheduler.pass(&world.input());
    let locked: i64 = pass
        .actions
        .iter()
        .filter_map(|action| world.queue.entries.get(action.uuid()?))
        .map(|entry| entry.resources.vcpus)
        .sum();
    let total: i64 =
        world.pool.instances.values().filter_map(|view| view.instance_type.as_ref()).map(|it| it.vcpus).sum();
    assert!(locked * 10 >= total * 9, "{locked} of {total} cores are used");
    assert_eq!(pass.outlook.statuses().len(), 10_000);
}

/// Histories that once broke something, shortest form.
#[test]
fn seeds() {
    // One that is being unlocked keeps its room: the next cannot have it.
    let events = [
        (0, 20),
        (1, 0),
        (1, 2),
        (9, 0),
        (16, 19),
        (15, 8),
        (0, 0),
        (13, 0),
        (11, 0),
        (1, 20),
        (0, 60),
        (9, 13),
        (15, 42),
        (15, 61),
        (11, 0),
        (0, 10),
        (12, 19),
        (13, 0),
        (9, 0),
        (1, 0),
        (1, 19),
    ];
    run(World::new(), 2, &events);
}
