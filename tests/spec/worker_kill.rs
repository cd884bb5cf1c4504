//! Spec 10 §13: killing a container; and ruling out an attempt (70 §3).

use crate::world::check;

#[test]
fn s10_13_killing() {
    check(&[
        ("up i1; probe i1 ok a", "kill a", "info: killing container | kill a", "i1 running run a!"),
        ("up i1; probe i1 ok a@3", "kill a", "info: killing container | kill a@3", "i1 running run a@3!"),
        ("up i1; probe i1 ok a; kill a", "kill a", "", "i1 running run a!"),
        ("up i1", "kill a", "no", "i1 idle run"),
        ("up i1 i2; probe i1 ok a", "kill i2 a", "no", "i1 running run a; i2 idle run"),
        (
            "up i1 i2; probe i1 ok a; probe i2 ok a",
            "kill a",
            "info: killing container | kill a | info: killing container | kill a",
            "i1 running run a!; i2 running run a!",
        ),
        ("up i1; probe i1 ok a; probe i1 ok a finished", "kill a", "no", "i1 idle run <a"),
        // Still starting: nothing is sent before the start returned, was listed and returned, or passed its deadline.
        ("up i1; start i1 a", "kill a", "info: killing container", "i1 running run +a!"),
        ("up i1; start i1 a; kill a", "returned a", "started a | probe i1 | kill a", "i1 running run a!"),
        ("up i1; start i1 a; kill a", "probe i1 ok a", "notify", "i1 running run a!"),
        (
            "up i1; start i1 a; kill a; probe i1 ok a",
            "returned a",
            "started a | probe i1 | kill a",
            "i1 running run a!",
        ),
        (
            "up i1; start i1 a; kill a",
            "wait 61",
            "error: start command has not returned in time | started a | probe i1 | kill a",
            "i1 running run a!",
        ),
        ("up i1; start i1 a; kill a", "refused a", "info: worker state changed idle | notify", "i1 idle run"),
        // Again every TimeoutSignal (5 s), or when an answer that took longer has come, or has not.
        ("up i1; probe i1 ok a; kill a", "alive a; wait 4", "probe i1", "i1 running run a!"),
        ("up i1; probe i1 ok a; kill a", "alive a; wait 6", "probe i1 | kill a", "i1 running run a!"),
        ("up i1; probe i1 ok a; kill a", "wait 10; alive a", "probe i1 | kill a", "i1 running run a!"),
        ("up i1; probe i1 ok a; kill a", "wait 59", "", "i1 running run a!"),
        ("up i1; probe i1 ok a; kill a", "wait 61", "kill a", "i1 running run a!"),
        // An answer to a signal that was given up means nothing.
        ("plain; up i1; probe i1 ok a; kill a; alive a", "gone a", "", "i1 running run a!"),
        // (a) The runner says that it is gone: closed, or with a runner that keeps results the next list decides.
        (
            "plain; up i1; probe i1 ok a; kill a",
            "gone a",
            "probe i1 | info: runner process ended | info: worker state changed idle | notify",
            "i1 idle run; x a",
        ),
        ("up i1; probe i1 ok a; kill a", "gone a", "probe i1", "i1 running run a!"),
        (
            "up i1; probe i1 ok a; kill a; gone a",
            "probe i1 ok a finished",
            "info: runner process ended | collect a | info: worker state changed idle | notify",
            "i1 idle run <a",
        ),
        (
            "up i1; probe i1 ok a; kill a; gone a",
            "probe i1 ok",
            "info: runner process ended | info: worker state changed idle | notify",
            "i1 idle run; x a",
        ),
        ("up i1; probe i1 ok a; kill a; gone a", "probe i1 ok a", "", "i1 running run a!"),
        ("up i1; probe i1 ok a; kill a; gone a", "wait 300", "", "i1 running run a!"),
        ("up i1; probe i1 ok a; kill a; gone a; probe i1 ok a", "wait 6", "kill a", "i1 running run a!"),
        // (b) Closed by a probe: no more signals.
        ("up i1; probe i1 ok a; kill a; alive a; probe i1 ok", "wait 200", "", "i1 idle run; x a"),
        // (c) TimeoutTERM (120 s) after the first signal that could be sent: given up, and drained unless held.
        (
            "up i1; probe i1 ok a; kill a; wait 119; alive a",
            "wait 2",
            "warn: unkillable container; draining the instance | info: set idle behavior | tags i1 t drain | info: shutdown worker | cut i1 | destroy i1 | notify",
            "i1 shutdown drain a!!",
        ),
        (
            "up i1; hold i1; probe i1 ok a; kill a",
            "wait 121",
            "kill a | warn: unkillable container; instance is on hold, not draining it | notify",
            "i1 running hold a!!",
        ),
        (
            "up i1; probe i1 ok a, b; kill a",
            "wait 121",
            "kill a | warn: unkillable container; draining the instance | info: set idle behavior | tags i1 t drain | notify",
            "i1 running drain a!! b",
        ),
        ("up i1; probe i1 ok a, b; kill a; wait 121", "kill a; wait 300", "", "i1 running drain a!! b"),
        ("up i1; start i1 a; kill a; jump 1000", "wait 119", "kill a", "i1 running run a!"),
        // On a worker in `shutdown` nothing is sent: the instance goes with it.
        ("up i1; probe i1 ok a; destroy i1", "kill a; wait 300", "info: killing container", "i1 shutdown run a!"),
        ("up i1; probe i1 ok a; kill a; destroy i1", "wait 300", "", "i1 shutdown run a!"),
    ]);
}

/// 70 §3: an attempt that may have been sent is lost only after a kill succeeded there.
#[test]
fn s70_3_ruling_out() {
    check(&[
        (
            "up i1",
            "ruleout i1 a@2",
            "info: worker state changed running | info: killing container | kill a@2 | notify",
            "i1 running run a@2!",
        ),
        (
            "up i1; ruleout i1 a@2",
            "gone a; probe i1 ok",
            "probe i1 | info: runner process ended | info: worker state changed idle | notify",
            "i1 idle run; x a@2",
        ),
        (
            "up i1; ruleout i1 a@2",
            "gone a; probe i1 ok a@2 finished",
            "probe i1 | info: runner process ended | collect a@2 | info: worker state changed idle | notify",
            "i1 idle run <a@2",
        ),
        (
            "plain; up i1; ruleout i1 a@2",
            "gone a",
            "probe i1 | info: runner process ended | info: worker state changed idle | notify",
            "i1 idle run; x a@2",
        ),
        // The kill of a later attempt covers an earlier one that is here.
        (
            "up i1; probe i1 ok a",
            "ruleout i1 a@2",
            "info: killing container | kill a@2 | notify",
            "i1 running run a@2!",
        ),
        ("up i1; probe i1 ok a; kill a", "ruleout i1 a@2", "kill a@2 | notify", "i1 running run a@2!"),
        ("up i1; probe i1 ok a; kill a; ruleout i1 a@2", "probe i1 ok a", "", "i1 running run a@2!"),
        ("list i1", "ruleout i1 a", "no", "i1 unknown run"),
        ("up i1; destroy i1", "ruleout i1 a", "no", "i1 shutdown run"),
        ("up i1; probe i1 ok a finished", "ruleout i1 a", "no", "i1 idle run <a"),
    ]);
}

/// 70 §3: a start whose connection was lost, or that has not returned, may still come, whatever a list says; only a list that shows it,
/// or a kill with its tombstone, settles that.
#[test]
fn s70_3_a_start_that_may_still_come() {
    check(&[
        (
            "up i1; start i1 a; unknown a",
            "probe i1 ok",
            "info: killing container | kill a | notify",
            "i1 running run a!",
        ),
        ("up i1; start i1 a; unknown a; probe i1 ok", "probe i1 ok", "", "i1 running run a!"),
        (
            "up i1; start i1 a; unknown a; probe i1 ok; gone a",
            "probe i1 ok",
            "info: runner process ended | info: worker state changed idle | notify",
            "i1 idle run; x a",
        ),
        // It was there all the time: nothing is killed, and its end is an end.
        ("up i1; start i1 a; unknown a", "probe i1 ok a", "notify", "i1 running run a"),
        (
            "up i1; start i1 a; unknown a; probe i1 ok a",
            "probe i1 ok",
            "info: runner process ended | info: worker state changed idle | notify",
            "i1 idle run; x a",
        ),
        (
            "up i1; start i1 a; unknown a; probe i1 ok",
            "probe i1 ok a finished",
            "info: runner process ended | collect a | info: worker state changed idle | notify",
            "i1 idle run <a",
        ),
        // It ran, and its runner has crashed: what is left is reaped, and that is its end.
        (
            "up i1; start i1 a; unknown a; probe i1 ok a stale; reaped a",
            "probe i1 ok",
            "info: runner process ended | info: worker state changed idle | notify",
            "i1 idle run; x a",
        ),
        // An older attempt that is there settles nothing of the one that is to be ruled out.
        ("up i1; ruleout i1 a@2; probe i1 ok a", "probe i1 ok", "", "i1 running run a@2!"),
        // Only an older attempt's result is there: the same.
        (
            "up i1; start i1 a@2; unknown a",
            "probe i1 ok a finished",
            "info: killing container | kill a@2 | notify",
            "i1 running run a@2!",
        ),
        // Ruling out after a restart: a list is no answer either.
        ("up i1; ruleout i1 a@2", "probe i1 ok", "", "i1 running run a@2!"),
        // Given up as unkillable, and the host answers again: asked again.
        (
            "up i1; start i1 a; unknown a; hold i1; probe i1 ok; wait 121",
            "probe i1 ok",
            "info: killing container | kill a | notify",
            "i1 running hold a!",
        ),
        // A runner without tombstones cannot rule out anything.
        (
            "plain; up i1; start i1 a; unknown a",
            "probe i1 ok",
            "info: runner process ended | info: worker state changed idle | notify",
            "i1 idle run; x a",
        ),
    ]);
}
