//! Random histories of a pool with several workers: every invariant and every wake-up is checked after each event (by
//! [`crate::world`]); at the end everything answers, and nothing may stay open.

use proptest::prelude::*;

use crate::world::World;

/// Instances and creates 1 to 3: create n makes instance n, and every instance that the cloud lists has its secret.
fn instance() -> impl Strategy<Value = String> {
    prop_oneof![Just("i1"), Just("i2"), Just("i3")].prop_map(str::to_owned)
}

fn container() -> impl Strategy<Value = String> {
    prop_oneof![Just("a"), Just("a"), Just("a@2"), Just("b"), Just("c"), Just("c@3")].prop_map(str::to_owned)
}

fn list() -> impl Strategy<Value = String> {
    let how = prop_oneof![12 => Just(""), 1 => Just(",noaddr"), 1 => Just(",addr"), 1 => Just(",hold"), 1 => Just(",oldtype")];
    let each = (prop::bool::weighted(0.8), how);
    (each.clone(), each.clone(), each).prop_map(|(first, second, third)| {
        let mut words = "list".to_owned();
        for (number, (shown, how)) in (1..).zip([first, second, third]) {
            if shown {
                words += &format!(" i{number}:s{number}{how}");
            }
        }
        words
    })
}

/// Lines of a runner's list.
fn lines() -> impl Strategy<Value = String> {
    let state = prop_oneof![6 => Just(""), 1 => Just(" stale"), 3 => Just(" finished")];
    let line = (container(), state).prop_map(|(container, state)| container + state);
    let line = prop_oneof![30 => line, 1 => Just("broken".to_owned())];
    prop::collection::vec(line, 0..3).prop_map(|lines| lines.join(", "))
}

fn event() -> impl Strategy<Value = String> {
    let refusal = prop_oneof![
        Just("quota"),
        Just("type"),
        Just("group"),
        Just("all"),
        Just("rate 30"),
        Just("past"),
        Just("other")
    ];
    let how = prop_oneof![8 => Just("ok"), 1 => Just("noboot"), 1 => Just("fail"), 1 => Just("dead")];
    let answer = prop_oneof![
        3 => Just("returned"), 1 => Just("unknown"), 1 => Just("refused"), 2 => Just("gone"), 1 => Just("alive"), 2 => Just("collected"),
        1 => Just("uncollected"), 1 => Just("storage"), 1 => Just("full"), 2 => Just("forgotten"), 1 => Just("reaped"), 1 => Just("unreaped"),
    ];
    let of_container = prop_oneof![2 => Just("kill"), 1 => Just("forget")];
    let of_instance = prop_oneof![
        3 => Just("tick"), 2 => Just("run"), 1 => Just("hold"), 1 => Just("drain"), 1 => Just("shutdown"), 1 => Just("connect"),
        1 => Just("destroy"), 4 => Just("begin"),
    ];
    let pause = prop_oneof![Just("0.5"), Just("5"), Just("11"), Just("30"), Just("61"), Just("130"), Just("601")];
    let of_cloud = prop_oneof![
        4 => prop_oneof![Just("create t"), Just("create spot"), Just("create u")],
        1 => Just("reset t"), 1 => Just("begin-list"), 1 => Just("throttle list 20"), 1 => Just("throttle create 20"), 1 => Just("fault"),
        2 => Just("nofault"),
    ];
    prop_oneof![
        3 => list(),
        3 => of_cloud.prop_map(str::to_owned),
        2 => (1..4).prop_map(|number| format!("created {number} i{number}")),
        1 => (1..4, refusal).prop_map(|(number, refusal)| format!("failed {number} {refusal}")),
        1 => prop_oneof![Just("facts 4 850 100"), Just("facts 4 700 100")].prop_map(str::to_owned),
        6 => (instance(), how, lines()).prop_map(|(instance, how, lines)| format!("end {instance} {how} {lines}")),
        5 => (instance(), lines()).prop_map(|(instance, lines)| format!("probe {instance} ok {lines}")),
        1 => instance().prop_map(fails_to_boot),
        5 => (instance(), container()).prop_map(|(instance, container)| format!("start {instance} {container}")),
        1 => (instance(), container()).prop_map(|(instance, container)| format!("ruleout {instance} {container}")),
        8 => (answer, container()).prop_map(|(answer, container)| format!("{answer} {container}")),
        3 => (of_container, container()).prop_map(|(verb, container)| format!("{verb} {container}")),
        5 => (of_instance, instance()).prop_map(|(verb, instance)| format!("{verb} {instance}")),
        4 => (prop::bool::ANY, pause).prop_map(|(jump, pause)| format!("{} {pause}", if jump { "jump" } else { "wait" })),
    ]
}

/// It appears anew, and does not boot.
fn fails_to_boot(instance: String) -> String {
    format!("list; list {instance}; probe {instance} ok broken; list")
}

fn history() -> impl Strategy<Value = Vec<String>> {
    let setting = prop_oneof![
        5 => prop_oneof![Just(""), Just("plain"), Just("max 2"), Just("ops 1; cheap"), Just("up i1 i2 i3")].prop_map(str::to_owned),
        // Types that do not boot: nearly paused, paused, and tried again.
        1 => (2..4_usize, prop_oneof![Just(""), Just("wait 301"), Just("wait 301; create t")]).prop_map(|(times, then)| {
            let failed = vec![fails_to_boot("i1".to_owned()); times];
            format!("{}; {then}", failed.join("; "))
        }),
    ];
    (setting, prop::collection::vec(event(), 1..60)).prop_map(|(setting, mut events)| {
        events.insert(0, setting);
        events
    })
}

/// "At last": faults end, hosts run nothing, and everything that is open is answered.
fn settle(world: &mut World) {
    world.run("nofault; failed 1 other; failed 2 other; failed 3 other; failed 4 other");
    let instances = world.pool.workers().map(|worker| worker.id.to_string()).collect::<Vec<_>>();
    for _ in 0..6 {
        for instance in &instances {
            world.run(&format!("end {instance} ok; run {instance}; probe {instance} ok"));
        }
        // Signals that were not answered are repeated.
        world.run("wait 6");
        for container in ["a", "b", "c"] {
            for answer in ["returned", "gone", "reaped", "collected", "forgotten"] {
                world.run(&format!("{answer} {container}"));
            }
        }
    }
    for instance in &instances {
        world.run(&format!("probe {instance} ok"));
    }
}

fn nothing_stays_open(world: &mut World) {
    settle(world);
    for worker in world.pool.workers().filter(|worker| worker.state.as_str() != "shutdown") {
        let open = worker.occupied()
            || !(worker.collecting.is_empty() && worker.forgetting.is_empty() && worker.reaping.is_empty());
        assert!(!open, "{} has something open: {}", worker.id, world.show());
    }
    // More than every deadline; each one is handled in its time.
    world.run("wait 4000");
    assert_eq!(world.pool.next_deadline(), None, "{}", world.show());
    assert!(!world.pool.view(world.now).at_quota || world.pool.quota_room() == 0, "{}", world.show());
    // The cloud lists nothing any more: nothing is left but what the scheduler has not forgotten.
    world.run("list; wait 61; list; forget a; forget b; forget c; reset t; reset spot; reset u");
    assert_eq!(world.show(), "");
    assert!(world.pool.view(world.now).containers.is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, max_shrink_iters: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_history_keeps_the_invariants_and_settles(events in history()) {
        let mut world = World::new();
        for event in &events {
            world.run(event);
        }
        nothing_stays_open(&mut world);
    }
}

/// Histories that once broke something, shortest form.
#[test]
fn seeds() {
    for events in [
        "up i1; start i1 a; probe i1 ok a; kill a; refused a",
        "up i1; probe i1 ok a finished; uncollected a; probe i1 ok",
    ] {
        let mut world = World::new();
        world.run(events);
        nothing_stays_open(&mut world);
    }
}
