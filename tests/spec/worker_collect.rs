//! Spec 70 §3–4 where the worker meets it: from `finished` in a list until the worker's copy is gone.

use muster::core::worker::collect::StorageFault;

use crate::world::{World, check};

#[test]
fn s70_4_collecting() {
    check(&[
        ("up i1; probe i1 ok a; probe i1 ok a finished", "probe i1 ok a finished", "", "i1 idle run <a"),
        ("up i1; probe i1 ok a; probe i1 ok a finished", "collected a", "notify", "i1 idle run -a"),
        ("up i1; probe i1 ok a finished; collected a", "probe i1 ok a finished", "", "i1 idle run -a"),
        ("up i1; probe i1 ok a finished; collected a", "forgotten a", "probe i1", "i1 idle run"),
        ("up i1; probe i1 ok a finished; collected a; forgotten a", "probe i1 ok", "", "i1 idle run"),
        // The removal was lost or failed: the next list shows it, and it is fetched and removed again.
        ("up i1; probe i1 ok a finished; collected a", "wait 61", "probe i1 | probe i1", "i1 idle run"),
        (
            "up i1; probe i1 ok a finished; collected a; wait 61",
            "probe i1 ok a finished; collected a",
            "collect a | notify",
            "i1 idle run -a",
        ),
        ("up i1; probe i1 ok a finished; collected a; wait 61", "forgotten a", "", "i1 idle run"),
        // A fetch that failed is repeated after 1 s, 2 s … 30 s; one that never came back after 10 minutes.
        ("up i1; probe i1 ok a finished", "uncollected a", "", "i1 idle run <a"),
        ("up i1; probe i1 ok a finished; uncollected a", "wait 0.9", "", "i1 idle run <a"),
        ("up i1; probe i1 ok a finished; uncollected a", "wait 1.1", "collect a", "i1 idle run <a"),
        (
            "up i1; probe i1 ok a finished; uncollected a; wait 1.1; uncollected a",
            "wait 1.9; wait 0.2",
            "collect a",
            "i1 idle run <a",
        ),
        ("up i1; probe i1 ok a finished; storage a", "wait 1.1", "collect a", "i1 idle run <a"),
        ("up i1; probe i1 ok a finished", "wait 599", "", "i1 idle run <a"),
        ("up i1; probe i1 ok a finished", "wait 601", "collect a", "i1 idle run <a"),
        // The result vanished: it has exited without one. Not while a fetch is under way.
        ("up i1; probe i1 ok a finished", "probe i1 ok", "", "i1 idle run <a"),
        (
            "up i1; probe i1 ok a finished; uncollected a",
            "probe i1 ok",
            "warn: result is not on the worker any more | notify",
            "i1 idle run; x a",
        ),
        ("up i1; probe i1 ok a finished; uncollected a; probe i1 ok", "wait 60", "", "i1 idle run; x a"),
        // A newer attempt that lives beside an older one's result is adopted when that is gone.
        ("up i1; probe i1 ok a finished", "probe i1 ok a@2", "", "i1 idle run <a"),
        (
            "up i1; probe i1 ok a finished; collected a; forgotten a",
            "probe i1 ok a@2",
            "info: runner process detected | info: worker state changed running | notify",
            "i1 running run a@2",
        ),
        // A newer attempt ran and ended without a result before an older one's was found.
        (
            "up i1; start i1 a@2; returned a; probe i1 ok a finished",
            "collected a; forgotten a; probe i1 ok",
            "probe i1 | notify",
            "i1 idle run; x a@2",
        ),
        // In `shutdown` there is nobody to ask.
        ("up i1; probe i1 ok a finished; uncollected a; destroy i1", "wait 700", "", "i1 shutdown run <a"),
    ]);
}

/// Spec 70 §3: while a result cannot be stored for want of space nothing new may start, whichever worker has it; that ends with the
/// storing, with the instance, and when the result cannot be fetched any more. What is wrong with one result alone holds up nobody.
#[test]
fn s70_3_results_that_cannot_be_stored() {
    let full = Some(StorageFault::Full);
    for (events, expected) in [
        ("full a", full),
        ("storage a", None),
        ("uncollected a", None),
        ("full a; wait 1.1; storage a", None),
        ("full a; wait 1.1; uncollected a", None),
        ("full a; wait 1.1; collected a", None),
        ("full a; wait 1.1; full a", full),
        ("full a; up i2; probe i2 ok b finished; full b; wait 2; collected a", full),
        ("full a; up i2; probe i2 ok b finished; full b; wait 2; collected a; collected b", None),
        ("full a; destroy i1", None),
        ("full a; list", None),
    ] {
        let mut world = World::new();
        world.run(&format!("up i1; probe i1 ok a finished; {events}"));
        assert_eq!(world.storage_fault(), expected, "{events}");
    }
    check(&[
        ("up i1; probe i1 ok a finished", "full a", "notify", "i1 idle run <a"),
        ("up i1; probe i1 ok a finished; full a; wait 1.1", "full a", "", "i1 idle run <a"),
        // Like every failure of our own storage it does not count against the worker.
        ("up i1; probe i1 ok a finished; drain i1; wait 299; full a; wait 299", "tick i1", "", "i1 idle drain <a"),
    ]);
}
