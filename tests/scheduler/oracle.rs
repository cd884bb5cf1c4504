//! The steps of spec 30 §3 written down a second time, without any thought of cost, and compared with the scheduler on random workloads of
//! mixed sizes: the most urgent container that can be placed is placed first, on the instance that the specification says.

use std::cmp::Reverse;
use std::sync::Arc;

use muster::core::entry::QueueEntry;
use muster::core::ids::TypeName;
use muster::core::instance_type::InstanceType;
use muster::core::pool::view::Phase;
use muster::core::resources::{Packing, Resources};
use muster::core::vocabulary::ContainerState::{Locked, Queued, Running};
use muster::core::vocabulary::{IdleBehavior, WorkerState};
use proptest::prelude::*;
use proptest::test_runner::Config;

use crate::fixture::{World, instance_id, instance_type, shown};

/// An instance, or one that the pass creates.
struct Host {
    name: Option<String>,
    cores: i64,
    in_service: bool,
    packing: Packing,
    count: usize,
}

/// What the specification says about Locks, Starts and Creates, in this order of containers.
fn expected(world: &World) -> Vec<String> {
    let mut hosts = hosts_of(world);
    let mut waiting: Vec<&QueueEntry> =
        world.queue.entries.values().map(|entry| &**entry).filter(|entry| entry.container.state != Running).collect();
    waiting.sort_by_key(|entry| {
        let container = &entry.container;
        (container.state == Queued, Reverse(container.priority), entry.first_seen)
    });
    let (mut actions, mut created) = (Vec::new(), 0);
    for entry in waiting.into_iter().filter(|entry| entry.container.priority >= 1) {
        let number = entry.first_seen;
        let locked = entry.container.state == Locked;
        let most = world.settings.max_running_containers_per_instance;
        let best = hosts
            .iter()
            .enumerate()
            .filter(|(_, host)| entry.instance_types.iter().any(|it| it.vcpus == host.cores))
            .filter(|(_, host)| host.packing.fits(&entry.resources) && (most == 0 || host.count < most))
            .min_by_key(|(index, host)| (!host.in_service, Reverse(host.count), *index));
        let available = entry.instance_types.iter().find(|it| !world.pool.at_capacity.contains(it.name.as_str()));
        match (best, available) {
            (Some((index, _)), _) => {
                let host = &mut hosts[index];
                match &host.name {
                    _ if !locked => actions.push(format!("lock {number}")),
                    Some(name) if host.in_service => actions.push(format!("start {number}#1 on {name}")),
                    _ => {}
                }
                host.packing.place(&entry.resources);
                host.count += 1;
            }
            _ if world.pool.at_quota || created >= world.pool.quota_room => break,
            (None, Some(_)) if !locked => actions.push(format!("lock {number}")),
            (None, Some(available)) if created < world.pool.creates_accepted => {
                created += 1;
                actions.push(format!("create {}", available.name));
                let mut packing = Packing::new(available.capacity());
                packing.place(&entry.resources);
                let cores = available.vcpus;
                hosts.push(Host { name: None, cores, in_service: false, packing, count: 1 });
            }
            _ => {}
        }
    }
    actions
}

fn hosts_of(world: &World) -> Vec<Host> {
    let usable = |state| state != WorkerState::Shutdown;
    let views =
        world.pool.instances.values().filter(|view| usable(view.state) && view.idle_behavior == IdleBehavior::Run);
    let host = |view: &muster::core::pool::view::InstanceView| {
        let instance_type = view.instance_type.as_ref().expect("all are configured");
        let mut packing = Packing::new(instance_type.capacity());
        view.containers.iter().for_each(|uuid| packing.place(&world.queue.entries[uuid].resources));
        Host {
            name: view.id().map(ToString::to_string),
            cores: instance_type.vcpus,
            in_service: matches!(view.state, WorkerState::Idle | WorkerState::Running),
            packing,
            count: view.containers.len(),
        }
    };
    let mut hosts: Vec<Host> = views.map(|view| host(view)).collect();
    // Price, then larger first: types of the fixture cost what they have cores.
    hosts.sort_by_key(|host| host.cores);
    hosts
}

#[derive(Clone, Debug)]
struct Waiting {
    cores: i64,
    larger_only: bool,
    priority: i64,
    locked: bool,
}

fn any_waiting() -> impl Strategy<Value = Waiting> {
    (prop::sample::select(vec![0_i64, 1, 1, 2, 3, 4]), any::<bool>(), 0_i64..4, prop::bool::weighted(0.3))
        .prop_map(|(cores, larger_only, priority, locked)| Waiting { cores, larger_only, priority, locked })
}

fn types_for(one: &Waiting) -> Arc<[Arc<InstanceType>]> {
    let least = if one.larger_only { one.cores.max(2) } else { one.cores };
    [1, 2, 4].into_iter().filter(|size| *size >= least).map(instance_type).collect()
}

/// What runs on it (cores each), its size, how far it is.
type Instance = (Vec<i64>, i64, WorkerState, bool);

fn any_instance() -> impl Strategy<Value = Instance> {
    let states =
        vec![WorkerState::Idle, WorkerState::Idle, WorkerState::Booting, WorkerState::Unknown, WorkerState::Shutdown];
    (
        prop::collection::vec(0_i64..3, 0..3),
        prop::sample::select(vec![1_i64, 2, 4]),
        prop::sample::select(states),
        prop::bool::weighted(0.1),
    )
}

fn world_of(instances: &[Instance], waiting: &[Waiting]) -> World {
    let mut world = World::new();
    world.settings.max_instances = 0;
    let mut next = waiting.len() + 1;
    for (index, (running, size, state, held)) in instances.iter().enumerate() {
        let name = format!("i{index}");
        let view = world.instance(&name, *size, *state);
        if *held {
            view.idle_behavior = IdleBehavior::Hold;
        }
        let mut packing = Packing::new(instance_type(*size).capacity());
        for cores in running.iter().filter(|_| *state == WorkerState::Idle) {
            let need = Resources { vcpus: *cores, ..Resources::default() };
            if packing.fits(&need) {
                packing.place(&need);
                world.add(next, Running, |entry| {
                    (entry.resources, entry.container.attempt) = (need, 1);
                    entry.container.instance = Some(instance_id(&name));
                });
                world.place(next, &name, 1, Phase::Running);
                next += 1;
            }
        }
    }
    for (index, one) in waiting.iter().enumerate() {
        world.add(index + 1, if one.locked { Locked } else { Queued }, |entry| {
            entry.resources = Resources { vcpus: one.cores, ..Resources::default() };
            entry.instance_types = types_for(one);
            entry.container.priority = one.priority;
        });
    }
    world
}

proptest! {
    #![proptest_config(Config { cases: 1000, failure_persistence: None, ..Config::default() })]

    #[test]
    fn the_steps_to_the_letter(
        instances in prop::collection::vec(any_instance(), 0..8),
        waiting in prop::collection::vec(any_waiting(), 0..30),
        at_quota in any::<bool>(),
        at_capacity in prop::collection::btree_set(prop::sample::select(vec!["type1", "type2", "type4"]), 0..3),
        (creates_accepted, quota_room, max_containers) in (0_usize..4, 0_usize..4, 0_usize..4),
    ) {
        let mut world = world_of(&instances, &waiting);
        world.settings.max_running_containers_per_instance = max_containers;
        (world.pool.at_quota, world.pool.quota_room) = (at_quota, if at_quota { 0 } else { quota_room + 1 });
        world.pool.creates_accepted = creates_accepted.min(world.pool.quota_room);
        world.pool.at_capacity = at_capacity.into_iter().map(TypeName::new).collect();
        let planned = shown(&world.pass(&mut world.scheduler()).actions);
        let steps = |action: &&String| ["lock ", "start ", "create "].iter().any(|word| action.starts_with(word));
        let planned: Vec<String> = planned.iter().filter(steps).cloned().collect();
        prop_assert_eq!(planned, expected(&world));
    }
}
