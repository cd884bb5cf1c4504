//! Spec 10 §4–§6: what a probe round does, by the state it began in, and what its report changes.

use std::time::Duration;

use muster::core::worker::round::{NextRound, When};

use crate::world::{World, check, id};

#[test]
fn s10_4_plan_by_state() {
    for (events, expected) in [
        ("list i1", Some((true, When::Always, When::Always))),
        ("booting 1 i1", Some((true, When::IfSoFarGood, When::IfSoFarGood))),
        ("up i1", Some((false, When::Never, When::Always))),
        ("up i1; start i1 a", Some((false, When::Never, When::Always))),
        ("up i1; destroy i1", None),
        ("list i2", None),
    ] {
        let mut world = World::new();
        world.run(events);
        let plan = world.pool.begin_round(&id("i1"), world.now);
        assert_eq!(plan.as_ref().map(|plan| (plan.boot_probe, plan.deploy, plan.run_probe)), expected, "{events}");
        assert_eq!(plan.map(|plan| plan.began), expected.map(|_| world.now), "{events}");
    }
}

/// §4 after the round: steps 1 to 3, in their order.
#[test]
fn s10_4_broken_failed_and_good_rounds() {
    check(&[
        // 1. Reported broken: with `run` it is drained, and gone where nothing runs.
        (
            "up i1",
            "probe i1 ok broken",
            "warn: instance reports itself broken; draining it | info: set idle behavior | tags i1 t drain | info: shutdown worker | cut i1 | destroy i1 faulty | notify",
            "i1 shutdown drain",
        ),
        (
            "up i1; start i1 a; returned a",
            "probe i1 ok broken, a",
            "warn: instance reports itself broken; draining it | info: set idle behavior | tags i1 t drain | notify",
            "i1 running drain a",
        ),
        (
            "list i1",
            "probe i1 noboot broken, a",
            "warn: instance reports itself broken; draining it | outcome failure | info: set idle behavior | tags i1 t drain | info: runner process detected | info: run probe succeeded, but boot probe is still failing | notify",
            "i1 unknown drain a",
        ),
        (
            "booting 1 i1",
            "probe i1 ok broken",
            "info: instance booted; will try run probe | warn: instance reports itself broken; draining it | outcome failure | info: set idle behavior | tags i1 t drain | info: shutdown worker | cut i1 | destroy i1 faulty | notify",
            "i1 shutdown drain",
        ),
        // With `hold` or `drain` nothing changes.
        ("up i1; hold i1", "probe i1 ok broken", "", "i1 idle hold"),
        ("up i1; start i1 a; returned a; drain i1", "probe i1 ok broken, a", "notify", "i1 running drain a"),
        // 2. A failed round: silent in `shutdown`, else the time since the last good one counts, to the round's start.
        ("up i1; begin i1; destroy i1", "end i1 dead", "", "i1 shutdown run"),
        ("up i1; begin i1; destroy i1", "end i1 ok a", "", "i1 shutdown run"),
        ("booting 1 i1; wait 599", "probe i1 dead", "", "i1 booting run"),
        ("booting 1 i1; wait 599; begin i1; wait 60", "end i1 dead", "", "i1 booting run"),
        (
            "booting 1 i1; wait 601",
            "probe i1 dead",
            "warn: new instance unresponsive, shutting down | cut i1 | destroy i1 faulty | outcome failure | info: boot failed | notify",
            "i1 shutdown run",
        ),
        // Booted, and only the run probe failed: it never was of any use, and its image is as bad as one that does not boot.
        (
            "booting 1 i1; wait 601",
            "probe i1 fail",
            "info: instance booted; will try run probe | warn: new instance unresponsive, shutting down | cut i1 | destroy i1 faulty | outcome failure | info: boot failed | notify",
            "i1 shutdown run",
        ),
        // A list without a booted worker counts only if something runs here.
        ("list i1", "probe i1 noboot", "", "i1 unknown run"),
        (
            "list i1; wait 601",
            "probe i1 noboot",
            "warn: new instance unresponsive, shutting down | cut i1 | destroy i1 faulty | outcome failure | info: boot failed | notify",
            "i1 shutdown run",
        ),
        (
            "list i1; wait 601",
            "probe i1 noboot a",
            "info: runner process detected | info: run probe succeeded, but boot probe is still failing | notify",
            "i1 unknown run a",
        ),
        (
            "list i1; probe i1 noboot a; wait 601",
            "probe i1 noboot",
            "info: runner process ended | info: run probe succeeded, but boot probe is still failing | notify",
            "i1 unknown run; x a",
        ),
        ("list i1; probe i1 noboot a finished; wait 601", "probe i1 noboot", "", "i1 unknown run <a"),
        // 3. and 7. to 12.: an idle worker that does not change is silent.
        ("up i1", "probe i1 ok", "", "i1 idle run"),
        ("up i1; start i1 a; returned a; probe i1 ok a", "probe i1 ok a", "", "i1 running run a"),
        (
            "list i1",
            "probe i1 ok",
            "info: instance booted; will try run probe | outcome success | info: probes succeeded, instance is in service | notify",
            "i1 idle run",
        ),
        (
            "list i1",
            "probe i1 ok a, b",
            "info: instance booted; will try run probe | info: runner process detected | info: runner process detected | outcome success | info: probes succeeded, instance is in service | notify",
            "i1 running run a b",
        ),
        (
            "booting 1 i1; connect i1; wait 5",
            "probe i1 ok",
            "info: instance booted; will try run probe | ready after 5 | outcome success | info: probes succeeded, instance is in service | notify",
            "i1 idle run",
        ),
        ("list i1; probe i1 noboot a", "probe i1 noboot a", "", "i1 unknown run a"),
        (
            "list i1; probe i1 noboot a",
            "probe i1 noboot",
            "info: runner process ended | info: run probe succeeded, but boot probe is still failing | notify",
            "i1 unknown run; x a",
        ),
        (
            "list i1; probe i1 noboot a",
            "probe i1 ok a",
            "info: instance booted; will try run probe | outcome success | info: probes succeeded, instance is in service | notify",
            "i1 running run a",
        ),
        // 10. Out of `idle` and back.
        (
            "up i1",
            "probe i1 ok a",
            "info: runner process detected | info: worker state changed running | notify",
            "i1 running run a",
        ),
        (
            "up i1; probe i1 ok a",
            "probe i1 ok",
            "info: runner process ended | info: worker state changed idle | notify",
            "i1 idle run; x a",
        ),
        (
            "up i1; probe i1 ok a",
            "probe i1 ok b",
            "info: runner process ended | info: runner process detected | notify",
            "i1 running run b; x a",
        ),
    ]);
}

/// 10 §4.4: being listed again by the cloud, or at another address, is no change: the round counts in full. (Where each sync voids the rounds
/// that overlap it, nothing may ever count.)
#[test]
fn s10_4_4_a_round_that_overlaps_a_sync_is_not_thrown_away() {
    check(&[
        (
            "up i1; probe i1 ok a; begin i1; list i1:moved",
            "end i1 ok",
            "info: runner process ended | info: worker state changed idle | notify",
            "i1 idle run; x a",
        ),
        (
            "up i1; begin i1; begin-list; list i1",
            "end i1 ok a",
            "info: runner process detected | info: worker state changed running | notify",
            "i1 running run a",
        ),
        (
            "up i1; probe i1 ok a; begin i1; list i1; list i1; list i1",
            "end i1 ok a finished",
            "info: runner process ended | collect a | info: worker state changed idle | notify",
            "i1 idle run <a",
        ),
        // A boot is no exception.
        (
            "booting 1 i1; begin i1; list i1:s1",
            "end i1 ok",
            "info: instance booted; will try run probe | outcome success | info: probes succeeded, instance is in service | notify",
            "i1 idle run",
        ),
    ]);
}

/// §4.4: a list that began before a uuid's last change may not close, adopt or finish that one; all else in it applies.
#[test]
fn s10_4_4_race_per_uuid() {
    check(&[
        // Closing: the start returned while the list was made.
        (
            "up i1; start i1 a; begin i1; returned a",
            "end i1 ok",
            "debug: passed over containers that changed during the probe",
            "i1 running run a",
        ),
        (
            "up i1; start i1 a; begin i1; returned a",
            "end i1 ok b",
            "info: runner process detected | debug: passed over containers that changed during the probe | notify",
            "i1 running run a b",
        ),
        // Adopting: a kill closed it while the list was made (a runner that keeps no results).
        (
            "plain; up i1; probe i1 ok a; kill a; begin i1; gone a",
            "end i1 ok a, b",
            "info: runner process detected | info: worker state changed running | debug: passed over containers that changed during the probe | notify",
            "i1 running run b; x a",
        ),
        (
            "plain; up i1; probe i1 ok a, b; kill a; begin i1; gone a",
            "end i1 ok a",
            "info: runner process ended | info: worker state changed idle | debug: passed over containers that changed during the probe | notify",
            "i1 idle run; x a; x b",
        ),
        // Finishing: the result was collected while the list was made.
        (
            "up i1; probe i1 ok a; probe i1 ok a finished; begin i1; collected a; forgotten a",
            "end i1 ok a finished",
            "debug: passed over containers that changed during the probe",
            "i1 idle run",
        ),
        // A start alone is no change: the list does not speak of what is starting.
        ("up i1; begin i1; start i1 a", "end i1 ok", "", "i1 running run +a"),
        ("up i1; begin i1; start i1 a", "end i1 ok a", "notify", "i1 running run a"),
        // A new record of the same instance: the old one's round is over, and the new one's is not touched.
        ("up i1; begin i1; list; list i1", "end i1 ok a", "", "i1 unknown run"),
    ]);
}

#[test]
fn s10_3_next_round() {
    let millis = |millis| NextRound::After(Duration::from_millis(millis));
    for (events, expected) in [
        ("up i1", NextRound::LongPoll),
        ("up i1; start i1 a; begin i1; returned a; end i1 ok", NextRound::AtOnce),
        ("up i1; probe i1 dead", millis(250)),
        ("up i1; probe i1 dead; probe i1 dead; probe i1 ok; probe i1 dead", millis(250)),
        ("booting 1 i1; probe i1 dead", millis(250)),
        ("booting 1 i1; probe i1 dead; probe i1 dead; probe i1 dead", millis(1_000)),
        ("list i1; probe i1 noboot a", millis(250)),
        (
            "list i1; probe i1 dead; probe i1 dead; probe i1 dead; probe i1 dead; probe i1 dead; probe i1 dead",
            millis(8_000),
        ),
        (
            "list i1; probe i1 dead; probe i1 dead; probe i1 dead; probe i1 dead; probe i1 dead; probe i1 dead; probe i1 dead",
            millis(10_000),
        ),
        ("up i1; begin i1; destroy i1; end i1 ok", NextRound::Never),
        ("up i1; begin i1; list; end i1 ok", NextRound::Never),
        ("up i1; probe i1 ok a; drain i1; probe i1 ok; probe i1 ok", NextRound::Never),
        ("booting 1 i1; wait 700; probe i1 dead", NextRound::Never),
    ] {
        let mut world = World::new();
        world.run(events);
        // A round of an instance that is gone has no one to tell.
        assert_eq!(world.next_round.unwrap_or(NextRound::Never), expected, "{events}");
    }
}

/// §6, the stale lock: with a runner that cannot reap the time counts from the first stale line, else from a failed reap.
#[test]
fn s10_6_stale_lock() {
    check(&[
        ("plain; up i1", "probe i1 ok a stale", "info: probe reported stale run lock", "i1 idle run"),
        (
            "plain; up i1; probe i1 ok a",
            "probe i1 ok a stale",
            "info: probe reported stale run lock | info: runner process ended | info: worker state changed idle | notify",
            "i1 idle run; x a",
        ),
        ("plain; up i1; probe i1 ok a stale; wait 4", "probe i1 ok a stale", "", "i1 idle run"),
        (
            "plain; up i1; probe i1 ok a stale; wait 6",
            "probe i1 ok b stale",
            "warn: stale run lock resists; treating the instance as broken | warn: instance reports itself broken; draining it | info: set idle behavior | tags i1 t drain | probe i1 | info: shutdown worker | cut i1 | destroy i1 faulty | notify",
            "i1 shutdown drain",
        ),
        (
            "plain; up i1; probe i1 ok a stale; wait 3; probe i1 ok; wait 3",
            "probe i1 ok a stale",
            "info: probe reported stale run lock",
            "i1 idle run",
        ),
        ("plain; up i1; hold i1; probe i1 ok a stale; wait 6", "probe i1 ok a stale", "", "i1 idle hold"),
        (
            "up i1; probe i1 ok a",
            "probe i1 ok a stale",
            "info: probe reported stale run lock | reap a",
            "i1 running run a",
        ),
        (
            "up i1",
            "probe i1 ok a stale",
            "info: probe reported stale run lock | reap a | info: worker state changed running | notify",
            "i1 running run a",
        ),
        ("up i1; probe i1 ok a; probe i1 ok a stale; wait 30", "probe i1 ok a stale", "", "i1 running run a"),
        (
            "up i1; probe i1 ok a; probe i1 ok a stale",
            "reaped a; probe i1 ok",
            "probe i1 | info: runner process ended | info: worker state changed idle | notify",
            "i1 idle run; x a",
        ),
        (
            "up i1; probe i1 ok a; probe i1 ok a stale",
            "reaped a; probe i1 ok a finished",
            "probe i1 | info: runner process ended | collect a | info: worker state changed idle | notify",
            "i1 idle run <a",
        ),
        ("up i1; probe i1 ok a; probe i1 ok a stale", "unreaped a; probe i1 ok a stale", "reap a", "i1 running run a"),
        (
            "up i1; probe i1 ok a; probe i1 ok a stale; unreaped a; wait 4",
            "probe i1 ok a stale",
            "reap a",
            "i1 running run a",
        ),
        (
            "up i1; probe i1 ok a; probe i1 ok a stale; unreaped a; wait 6",
            "probe i1 ok a stale",
            "warn: stale run lock resists; treating the instance as broken | warn: unkillable container; draining the instance | info: set idle behavior | tags i1 t drain | info: shutdown worker | cut i1 | destroy i1 | notify",
            "i1 shutdown drain a!!",
        ),
        (
            "up i1; probe i1 ok a; probe i1 ok a stale; unreaped a; hold i1; wait 6",
            "probe i1 ok a stale",
            "warn: unkillable container; instance is on hold, not draining it | reap a | notify",
            "i1 running hold a!!",
        ),
        // A worker that drains already must not be kept for ever by what cannot be ended.
        (
            "up i1; probe i1 ok a; drain i1; probe i1 ok a stale; unreaped a; wait 6",
            "probe i1 ok a stale",
            "warn: unkillable container; draining the instance | tags i1 t drain | info: shutdown worker | cut i1 | destroy i1 | notify",
            "i1 shutdown drain a!!",
        ),
        // A reap that is lost has failed after its deadline; one for something that is gone means nothing.
        (
            "up i1; probe i1 ok a; probe i1 ok a stale; wait 61",
            "wait 5; probe i1 ok a stale",
            "warn: stale run lock resists; treating the instance as broken | warn: unkillable container; draining the instance | info: set idle behavior | tags i1 t drain | info: shutdown worker | cut i1 | destroy i1 | notify",
            "i1 shutdown drain a!!",
        ),
        ("up i1; probe i1 ok a; probe i1 ok a stale; probe i1 ok", "reaped a", "", "i1 idle run; x a"),
        // The start on its way decides first; then its lock is an older attempt's, and that is what is reaped.
        ("up i1; start i1 a@2", "probe i1 ok a stale", "info: probe reported stale run lock", "i1 running run +a@2"),
        (
            "up i1; start i1 a@2; returned a",
            "probe i1 ok a stale",
            "info: probe reported stale run lock | reap a",
            "i1 running run a@2",
        ),
    ]);
}

/// Spec 52 §1: what the host says, against its type (4 CPUs, 1000 bytes of RAM, 100 of scratch).
#[test]
fn s52_1_hosts_that_are_smaller_than_their_type() {
    let drained =
        "warn: instance has much less than its type says | outcome failure | info: set idle behavior | tags i1 t drain";
    let gone = format!(
        "info: instance booted; will try run probe | {drained} | info: shutdown worker | cut i1 | destroy i1 faulty | notify"
    );
    let in_service = "info: instance booted; will try run probe | outcome success | info: probes succeeded, instance is in service | notify";
    let warned = in_service.replacen(" | ", " | warn: instances of this type have less than it says | ", 1);
    let adopts = format!(
        "info: instance booted; will try run probe | {drained} | info: runner process detected | info: probes succeeded, instance is in service | notify"
    );
    let mut rows = vec![
        ("booting 1 i1", "facts 4 930 100; probe i1 ok", in_service.to_owned(), "i1 idle run"),
        ("booting 1 i1", "facts 3 1000 100; probe i1 ok", gone.clone(), "i1 shutdown drain"),
        ("booting 1 i1", "facts 4 799 100; probe i1 ok", gone, "i1 shutdown drain"),
        ("booting 1 i1", "facts 4 899 100; probe i1 ok", warned.clone(), "i1 idle run"),
        ("booting 1 i1", "facts 4 1000 99; probe i1 ok", warned, "i1 idle run"),
        // What runs there goes on.
        ("list i1", "facts 1 1000 100; probe i1 ok a", adopts, "i1 running drain a"),
    ];
    // Once per type, and again when the types are others.
    rows.push((
        "create t; created 1 i1; create t; created 2 i2; facts 4 850 100; probe i1 ok",
        "facts 4 850 100; probe i2 ok",
        in_service.to_owned(),
        "i1 idle run; i2 idle run",
    ));
    // Held for somebody to look at.
    rows.push((
        "create t; created 1 i1; hold i1",
        "facts 1 1 1; probe i1 ok",
        in_service.replacen(" | ", " | warn: instance has much less than its type says | ", 1),
        "i1 idle hold",
    ));
    let rows: Vec<_> =
        rows.iter().map(|(before, events, effects, state)| (*before, *events, &**effects, *state)).collect();
    check(&rows);
}
