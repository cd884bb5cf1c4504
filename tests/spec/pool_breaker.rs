//! Spec 20 §6: the circuit breaker, for types whose instances do not boot.

use muster::core::pool::view::BreakerView;
use muster::core::time::Moment;

use crate::world::{World, check};

/// A boot that fails because the instance says that it is broken, and the instance gone again.
const FAILED: &str = "list i1; probe i1 ok broken; list;";
const CREATES: &str = "info: creating instance | create t | notify";

fn after(times: usize, then: &str) -> String {
    format!("list; {}{then}", FAILED.repeat(times))
}

#[test]
fn s20_6_three_failures_in_a_row_begin_a_pause() {
    check(&[
        (&after(2, ""), "create t", CREATES, "create t"),
        (
            &after(3, ""),
            "create t; create spot",
            "no | info: creating instance | create spot | notify",
            "create spot; t failed 3 paused",
        ),
        (
            &after(2, "list i1"),
            "probe i1 ok broken",
            "info: instance booted; will try run probe | warn: instance reports itself broken; draining it | outcome failure | info: set idle behavior | tags i1 t drain | info: probes succeeded, instance is in service | info: shutdown worker | cut i1 | destroy i1 faulty | warn: instances of this type do not boot; none is created during a pause | notify",
            "i1 shutdown drain; t failed 3 paused",
        ),
        // A success between them begins the count anew; an end without a verdict does not.
        (&after(2, &format!("up i2; list; {FAILED}")), "create t", CREATES, "create t"),
        (
            &after(2, &format!("create t; created 1 i2; destroy i2; {FAILED}")),
            "create t",
            "no",
            "i2 shutdown run; t failed 3 paused",
        ),
        (&after(2, &format!("list i2; list; {FAILED}")), "create t", "no", "t failed 3 paused"),
        // Once in service it has booted: what is found broken later is another matter.
        (&after(2, "up i2; probe i2 ok broken; list"), "create t", CREATES, "create t"),
        // Not within TimeoutBooting, and smaller than its type says.
        (&after(2, "list i2; wait 601; probe i2 dead; list"), "create t", "no", "t failed 3 paused"),
        (&after(2, "list i2; facts 1 1 1; probe i2 ok; list"), "create t", "no", "t failed 3 paused"),
        // While there is no runner to put there, nothing is said about instances.
        (&after(2, &format!("fault; {FAILED} nofault")), "create t", CREATES, "create t"),
        // Machines that have no image in common.
        (&format!("own; {}", after(3, "")), "create t", CREATES, "create t"),
        // A type that is not configured cannot be created anyway.
        ("list; list i1:oldtype; wait 601; probe i1 dead; list", "create t", CREATES, "create t"),
    ]);
}

#[test]
fn s20_6_one_instance_is_tried_after_the_pause() {
    let paused = "no";
    check(&[
        (&after(3, ""), "wait 299; create t", paused, "t failed 3 paused"),
        (
            &after(3, "wait 299"),
            "wait 1",
            "info: the pause after failed boots has ended; one instance is tried | notify",
            "t failed 3 on trial",
        ),
        (
            &after(3, "wait 300"),
            "create t; create t",
            "info: creating instance | create t | no | notify",
            "create t; t failed 3 on trial",
        ),
        // Until there is a verdict.
        (&after(3, "wait 300; create t; created 1 i2"), "create t", "no", "i2 booting run; t failed 3 on trial"),
        (
            &after(3, "wait 300; create t; created 1 i2"),
            "probe i2 ok; create t; create t",
            "info: instance booted; will try run probe | outcome success | info: probes succeeded, instance is in service | info: instances of this type boot again | info: creating instance | create t | info: creating instance | create t | notify",
            "i2 idle run; create t; create t",
        ),
        // No verdict: the next one is tried.
        (&after(3, "wait 300; create t; failed 1 other; wait 1"), "create t", CREATES, "create t; t failed 3 on trial"),
        (
            &after(3, "wait 300; create t; created 1 i2; list i2; destroy i2; wait 1; list"),
            "create t",
            CREATES,
            "create t; t failed 3 on trial",
        ),
        // An operator looks at it: it may stay as it is for ever.
        (
            &after(3, "wait 300; create t; created 1 i2; hold i2"),
            "create t",
            CREATES,
            "i2 booting hold; create t; t failed 3 on trial",
        ),
        // What was asked for before counts as well: it is tried already.
        (
            "list; create t; list i1; probe i1 ok broken; list i1 i2; probe i2 ok broken; list i3; probe i3 ok broken; list; wait 300",
            "create t",
            "no",
            "create t; t failed 3 on trial",
        ),
    ]);
}

#[test]
fn s20_6_the_pause_doubles_and_a_success_or_an_operator_ends_it() {
    let again = format!("wait 300; {FAILED}");
    check(&[
        (&after(3, &again), "wait 599; create t", "no", "t failed 4 paused"),
        (
            &after(3, &again),
            "wait 601; create t",
            &format!("info: the pause after failed boots has ended; one instance is tried | {CREATES}"),
            "create t; t failed 4 on trial",
        ),
        // What fails during the pause was asked for before it.
        (
            &after(4, "wait 299"),
            "wait 1; create t",
            &format!("info: the pause after failed boots has ended; one instance is tried | {CREATES}"),
            "create t; t failed 4 on trial",
        ),
        // One that was asked for before boots after all.
        (
            "list i2; list i1 i2; probe i1 ok broken; list i2; list i1 i2; probe i1 ok broken; list i2; list i1 i2; probe i1 ok broken; list i2",
            "probe i2 ok; create t",
            "info: instance booted; will try run probe | outcome success | info: probes succeeded, instance is in service | info: instances of this type boot again | info: creating instance | create t | notify",
            "i2 idle run; create t",
        ),
        // After a success the pauses begin at 5 min again.
        (
            &after(3, &format!("{again} up i2; list; {}", FAILED.repeat(3))),
            "wait 301; create t",
            &format!("info: the pause after failed boots has ended; one instance is tried | {CREATES}"),
            "create t; t failed 3 on trial",
        ),
        (
            &after(3, ""),
            "reset t; create t",
            &format!("info: the failed boots of this type are forgotten, as asked | {CREATES}"),
            "create t",
        ),
        (
            &after(3, "wait 301; create t"),
            "reset t; create t",
            &format!("info: the failed boots of this type are forgotten, as asked | {CREATES}"),
            "create t; create t",
        ),
        (&after(2, &format!("reset t; {FAILED}")), "create t", CREATES, "create t"),
        (&after(3, ""), "reset u; reset nosuch", "", "t failed 3 paused"),
        // A reload that changes the type, and one that does not.
        (
            &after(3, ""),
            "bigger",
            "info: the failed boots of this type are forgotten: its definition has changed | notify",
            "",
        ),
        (&after(3, ""), "max 7", "notify", "t failed 3 paused"),
    ]);
}

/// What people are told, by type.
fn told(world: &World) -> Vec<String> {
    let limits = world.pool.limits_in_force(world.now);
    let breakers = limits.into_iter().filter(|limit| limit.what == "breaker");
    breakers.map(|limit| format!("{}; {}", limit.detail, if limit.until.is_some() { "paused" } else { "" })).collect()
}

#[test]
fn s20_6_the_last_boot_error_is_shown() {
    let mut world = World::new();
    world.run(&after(2, "list i1; wait 601; probe i1 dead; list"));
    assert_eq!(told(&world), ["type t: 3 instances in a row failed to boot, none is created: refused; paused"]);
    world.run("wait 300");
    assert_eq!(told(&world), ["type t: 3 instances in a row failed to boot, one at a time is tried: refused; "]);
    world.run("reset t; list i1; probe i1 ok broken");
    assert_eq!(told(&world), Vec::<String>::new());
    let view = world.pool.view(world.now);
    let breaker = view.breakers.get("t").expect("its last boot failed");
    let expected = "1 instance in a row failed to boot: its runner reported it as broken; the log says more";
    assert_eq!(breaker.to_string(), expected);
    let shown = BreakerView { paused_until: None::<Moment>, last_error: String::new(), ..breaker.clone() };
    assert_eq!(shown.to_string(), "1 instance in a row failed to boot");
}
