//! Why a container waits, in words that an operator can act on: a row per reason.

use std::sync::Arc;

use muster::core::ids::TypeName;
use muster::core::pool::limits::LimitInForce;
use muster::core::pool::view::BreakerView;
use muster::core::vocabulary::ContainerState::{Complete, Locked, Queued};
use muster::core::vocabulary::WorkerState::{Booting, Idle, Unknown};

use crate::fixture::{GIB, World, at, instance_type, supervisor, uuid};

/// Of the container with this number, after a first pass; moments are written as seconds.
fn explained(world: &World, number: usize) -> Option<String> {
    let pass = world.pass(&mut world.scheduler());
    let listing = pass.outlook.listing();
    listing.explain(&uuid(number), &|moment| format!("{}s", moment.elapsed_since_start().as_secs()))
}

fn limit(what: &'static str, detail: &str, until: Option<u64>) -> LimitInForce {
    LimitInForce { what, detail: detail.to_owned(), until: until.map(at) }
}

fn tripped(paused_until: Option<u64>) -> BreakerView {
    let last_error = "no disk".to_owned();
    BreakerView { failures_in_a_row: 3, is_tripped: true, paused_until: paused_until.map(at), last_error }
}

fn both_types(entry: &mut muster::core::entry::QueueEntry) {
    entry.instance_types = [1, 2].map(instance_type).into_iter().collect();
}

/// The reasons behind what container 9 needs, which is one core and one GiB.
#[test]
fn a_row_per_reason() {
    type Row<'a> = (&'a str, &'a dyn Fn(&mut World), &'a str);
    let pause = |w: &mut World, cores: i64, until: u64| {
        let name = TypeName::new(&format!("type{cores}"));
        w.pool.at_capacity.insert(name.clone());
        w.pool.capacity_until.insert(name, at(until));
    };
    let rows: &[Row<'_>] = &[
        ("an instance is made", &|w| w.add(9, Locked, |_| ()), ""),
        (
            "an instance boots, one of a type that fails",
            &|w| {
                w.instance("a", 1, Booting);
                w.add(9, Locked, |_| ());
                w.pool.breakers.insert(TypeName::new("type1"), tripped(None));
            },
            "; of type type1 3 instances in a row failed to boot, one at a time is tried: no disk",
        ),
        (
            "its type is at capacity, Queued",
            &|w| {
                w.add(9, Queued, |_| ());
                pause(w, 1, 130);
            },
            "; type type1 is at capacity until 130s",
        ),
        (
            "all its types are at capacity, Locked",
            &|w| {
                w.add(9, Locked, both_types);
                pause(w, 1, 130);
                pause(w, 2, 140);
            },
            "; type type1 is at capacity until 130s, type type2 is at capacity until 140s",
        ),
        (
            "its type does not boot",
            &|w| {
                w.add(9, Queued, |_| ());
                w.pool.at_capacity.insert(TypeName::new("type1"));
                w.pool.breakers.insert(TypeName::new("type1"), tripped(Some(150)));
            },
            "; of type type1 3 instances in a row failed to boot, none is created: no disk, the next is tried at 150s",
        ),
        (
            "creates of its type fail",
            &|w| {
                w.add(9, Queued, |_| ());
                w.pool.at_capacity.insert(TypeName::new("type1"));
                w.pool.failing_until.insert(TypeName::new("type1"), at(150));
            },
            "; creates of type type1 failed, the next is tried at 150s",
        ),
        (
            "at quota, and first",
            &|w| {
                w.add(9, Queued, |_| ());
                w.pool.at_quota = true;
                w.pool.limits = vec![limit("quota", "MaxInstances is 4", None)];
            },
            "; no instance has room for it and no more are created: MaxInstances is 4",
        ),
        (
            "at quota, and not first",
            &|w| {
                w.add(8, Queued, |entry| entry.container.priority = 5);
                w.add(9, Queued, |_| ());
                w.pool.at_quota = true;
                w.pool.limits = vec![limit("quota", "until fewer than 3 instances remain", Some(200))];
            },
            "; no more instances are created: until fewer than 3 instances remain (tried again at 200s); local-dz642-000000000000008 comes first",
        ),
        (
            "at quota, and its type at capacity",
            &|w| {
                w.add(9, Queued, |_| ());
                pause(w, 1, 130);
                w.pool.at_quota = true;
                w.pool.limits = vec![limit("quota", "MaxInstances is 4", None)];
            },
            "; type type1 is at capacity until 130s; no instance has room for it and no more are created: MaxInstances is 4",
        ),
        (
            "no create may be made now",
            &|w| {
                w.add(9, Locked, |_| ());
                w.pool.creates_accepted = 0;
                w.pool.limits = vec![limit("rate limit", "create calls", Some(105))];
            },
            "; no instance is created until 105s",
        ),
        (
            "too many creates at a time",
            &|w| {
                w.add(9, Locked, |_| ());
                w.pool.creates_accepted = 0;
            },
            "; no more instances may be created at a time than are being created now",
        ),
        (
            "no runner",
            &|w| {
                w.add(9, Locked, |_| ());
                w.pool.creates_accepted = 0;
                w.pool.creates_refused = Some("the runner cannot be put on instances: no such file".to_owned());
            },
            "; no instance is created now: the runner cannot be put on instances: no such file",
        ),
        (
            "an operation in progress, at quota",
            &|w| {
                w.pool.at_quota = true;
                w.add(8, Queued, |entry| entry.container.priority = 5);
                w.add(9, Queued, |entry| entry.container.cancel_requested = true);
            },
            "; an operation on it is in progress",
        ),
        (
            "the API limit, at quota, with room",
            &|w| {
                w.instance("a", 4, Idle);
                w.add(8, Queued, |entry| entry.instance_types = [instance_type(4)].into_iter().collect());
                w.add(9, Queued, |entry| entry.instance_types = [instance_type(4)].into_iter().collect());
                w.last_busy_answer = Some(at(100));
                w.pool.at_quota = true;
            },
            "; at most 1 container at a time, since the API server had too many requests",
        ),
        (
            "the API limit",
            &|w| {
                w.instance("a", 1, Idle);
                w.add(8, Queued, |entry| entry.container.priority = 5);
                w.add(9, Queued, |_| ());
                w.last_busy_answer = Some(at(100));
            },
            "; at most 1 container at a time, since the API server had too many requests",
        ),
        (
            "the quota limit",
            &|w| {
                w.settings.initial_quota_estimate = 1;
                w.add(8, Locked, |_| ());
                w.add(9, Queued, |_| ());
                w.pool.creates_accepted = 5;
            },
            "; at most 1 instance is asked for until it is known that more can be had",
        ),
        (
            "the supervisors' share",
            &|w| {
                w.settings.max_instances = 2;
                w.add(8, Queued, |entry| (supervisor(entry), entry.container.priority = 5).1);
                w.add(9, Queued, supervisor);
            },
            "; at most 1 workflow container runs at a time (SupervisorFraction)",
        ),
        (
            "on hold",
            &|w| w.add(9, Queued, |entry| entry.container.priority = 0),
            "; its priority is 0: raise it with `muster priority`",
        ),
        (
            "after others",
            &|w| {
                w.add(9, Queued, |entry| {
                    let mut request = (*entry.container.request).clone();
                    request.after = (1..=5).map(uuid).collect();
                    (entry.container.request, entry.ready) = (Arc::new(request), false);
                });
            },
            "; it runs after local-dz642-000000000000001, local-dz642-000000000000002, local-dz642-000000000000003 and 2 more",
        ),
        (
            "our own storage is in trouble",
            &|w| {
                w.add(9, Queued, |_| ());
                w.may_start = false;
            },
            "; nothing is started while our own storage is in trouble: see `muster status`",
        ),
        (
            "after a restart",
            &|w| {
                w.settings.keeps_attempts = false;
                w.instance("a", 1, Unknown);
                w.add(8, Locked, |_| ());
                w.add(9, Queued, |_| ());
            },
            "; instances that an earlier process used are asked first what they run",
        ),
    ];
    for (name, arrange, expected) in rows {
        let mut world = World::new();
        arrange(&mut world);
        assert_eq!(explained(&world, 9), Some(format!("needs 1 VCPU and 1 GiB{expected}")), "{name}");
    }
}

#[test]
fn what_it_needs() {
    let mut world = World::new();
    world.add(1, Queued, |entry| {
        entry.container.priority = 0;
        (entry.resources.vcpus, entry.resources.ram, entry.resources.scratch) = (8, 61 * GIB / 2, 100 * GIB);
        (entry.resources.gpus, entry.resources.gpu_vram) = (2, 16 * GIB);
    });
    let expected = "needs 8 VCPUs, 30.5 GiB, 100 GiB of scratch and 2 GPUs of 16 GiB; its priority is 0: raise it with `muster priority`";
    assert_eq!(explained(&world, 1).as_deref(), Some(expected));
}

/// One that does not wait, or is not in the queue.
#[test]
fn nothing_to_explain() {
    let mut world = World::new();
    world.instance("a", 1, Idle);
    world.add(1, Locked, |_| ());
    world.add(2, Complete, |_| ());
    assert_eq!([1, 2, 3].map(|number| explained(&world, number)), [None, None, None]);
}
