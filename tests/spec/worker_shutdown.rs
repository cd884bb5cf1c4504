//! Spec 10 §8 (unresponsive), §9 (eligibility), §10 (shutdown), §11 (tags).

use crate::world::check;

#[test]
fn s10_8_unresponsive() {
    check(&[
        // TimeoutBooting in `unknown` and `booting`, TimeoutProbe otherwise (both 600 s here); `hold` never.
        ("list i1; wait 599", "probe i1 dead", "", "i1 unknown run"),
        (
            "list i1; wait 601",
            "probe i1 dead",
            "warn: new instance unresponsive, shutting down | cut i1 | destroy i1 faulty | outcome failure | info: boot failed | notify",
            "i1 shutdown run",
        ),
        ("up i1; wait 599", "probe i1 dead", "", "i1 idle run"),
        (
            "up i1; wait 601",
            "probe i1 dead",
            "warn: instance unresponsive, shutting down | cut i1 | destroy i1 faulty | notify",
            "i1 shutdown run",
        ),
        (
            "up i1; start i1 a; returned a; wait 601",
            "probe i1 dead",
            "warn: instance unresponsive, shutting down | cut i1 | destroy i1 faulty | notify",
            "i1 shutdown run a",
        ),
        (
            "up i1; start i1 a; returned a; drain i1; wait 601",
            "probe i1 dead",
            "warn: instance unresponsive, shutting down | cut i1 | destroy i1 faulty | notify",
            "i1 shutdown drain a",
        ),
        ("up i1; hold i1; wait 601", "probe i1 dead", "", "i1 idle hold"),
        ("list i1:hold; wait 601", "probe i1 dead", "", "i1 unknown hold"),
        ("booting 1 i1; hold i1; wait 601", "probe i1 dead", "", "i1 booting hold"),
        // One that was reached in between counts from there.
        ("up i1; wait 500; probe i1 ok; wait 500", "probe i1 dead", "", "i1 shutdown run"),
    ]);
}

/// Spec 46 §1: what did not boot, was broken or did not answer is destroyed as faulty, also when that is repeated; else it is unwanted.
#[test]
fn s46_1_endings() {
    check(&[
        (
            "list i1; wait 601; probe i1 dead; wait 11",
            "list i1",
            "info: worker still listed after shutdown; retrying | destroy i1 faulty | notify",
            "i1 shutdown run",
        ),
        (
            "up i1; wait 601; probe i1 dead; wait 11",
            "list i1",
            "info: worker still listed after shutdown; retrying | destroy i1 faulty | notify",
            "i1 shutdown run",
        ),
        (
            "up i1; drain i1; wait 11",
            "list i1",
            "info: worker still listed after shutdown; retrying | destroy i1",
            "i1 shutdown drain",
        ),
        (
            "list; booting 1 i1; drain i1; wait 11",
            "list i1",
            "info: worker still listed after shutdown; retrying | destroy i1",
            "i1 shutdown drain",
        ),
    ]);
}

/// §9, every cell: a tick of a worker in each state, with each behavior.
#[test]
fn s10_9_eligibility() {
    check(&[
        ("booting 1 i1; wait 100", "tick i1", "", "i1 booting run"),
        (
            "booting 1 i1",
            "drain i1",
            "info: set idle behavior | tags i1 t drain | info: shutdown worker | outcome aborted | cut i1 | destroy i1 | notify",
            "i1 shutdown drain",
        ),
        ("booting 1 i1; hold i1; wait 100", "tick i1", "", "i1 booting hold"),
        ("up i1; wait 59; probe i1 ok", "tick i1", "", "i1 idle run"),
        ("up i1; wait 61; probe i1 ok", "", "", "i1 shutdown run"),
        (
            "up i1; probe i1 ok",
            "drain i1",
            "info: set idle behavior | tags i1 t drain | info: shutdown worker | cut i1 | destroy i1 | notify",
            "i1 shutdown drain",
        ),
        ("up i1; hold i1; wait 61; probe i1 ok", "tick i1", "", "i1 idle hold"),
        ("up i1; start i1 a; returned a; probe i1 ok a; wait 61", "tick i1", "", "i1 running run a"),
        ("up i1; start i1 a; returned a; probe i1 ok a; drain i1; wait 61", "tick i1", "", "i1 running drain a"),
        (
            "up i1; start i1 a; start i1 b; returned a; returned b; kill a; wait 121",
            "tick i1",
            "",
            "i1 running drain a!! b",
        ),
        (
            "up i1; start i1 a; returned a; kill a",
            "wait 121",
            "kill a | warn: unkillable container; draining the instance | info: set idle behavior | tags i1 t drain | info: shutdown worker | cut i1 | destroy i1 | notify",
            "i1 shutdown drain a!!",
        ),
        ("up i1; hold i1; probe i1 ok a; kill a; wait 121", "tick i1", "", "i1 running hold a!!"),
        (
            "up i1; hold i1; probe i1 ok a; kill a; wait 121",
            "drain i1",
            "info: set idle behavior | tags i1 t drain | info: shutdown worker | cut i1 | destroy i1 | notify",
            "i1 shutdown drain a!!",
        ),
        ("list i1; wait 100", "tick i1", "", "i1 unknown run"),
        ("list i1", "drain i1", "info: set idle behavior | tags i1 t drain | notify", "i1 unknown drain"),
        ("list i1; hold i1; wait 100", "tick i1", "", "i1 unknown hold"),
        ("up i1; destroy i1; wait 100", "tick i1", "", "i1 shutdown run"),
        ("up i1; destroy i1", "drain i1", "no", "i1 shutdown run"),
    ]);
}

/// §9, only on fresh evidence: else a probe first, and then it goes with that probe's list.
#[test]
fn s10_9_fresh_evidence() {
    check(&[
        ("up i1; wait 61", "tick i1", "probe i1", "i1 idle run"),
        (
            "up i1; wait 61; tick i1",
            "probe i1 ok",
            "info: shutdown worker | cut i1 | destroy i1 | notify",
            "i1 shutdown run",
        ),
        (
            "up i1; wait 61; tick i1",
            "probe i1 ok a",
            "info: runner process detected | info: worker state changed running | notify",
            "i1 running run a",
        ),
        // The list that closed the last one began before that change: one more.
        (
            "up i1; probe i1 ok a; drain i1",
            "probe i1 ok",
            "info: runner process ended | info: worker state changed idle | probe i1 | notify",
            "i1 idle drain; x a",
        ),
        (
            "up i1; probe i1 ok a; drain i1; probe i1 ok",
            "probe i1 ok",
            "info: shutdown worker | cut i1 | destroy i1 | notify",
            "i1 shutdown drain; x a",
        ),
        // Nor does it begin while it boots.
        (
            "booting 1 i1; wait 100",
            "probe i1 ok; tick i1",
            "info: instance booted; will try run probe | outcome success | info: probes succeeded, instance is in service | notify",
            "i1 idle run",
        ),
        // A list that shows something of ours is no evidence, and asking again at its end would never stop.
        ("plain; up i1; probe i1 ok a; drain i1; probe i1 ok a stale", "probe i1 ok a stale", "", "i1 idle drain; x a"),
        // The idle time begins when the last container ended, not when its result was fetched.
        ("up i1; probe i1 ok a; wait 500; probe i1 ok; wait 59; probe i1 ok", "tick i1", "", "i1 idle run; x a"),
        (
            "up i1; probe i1 ok a; wait 500; probe i1 ok; wait 61",
            "probe i1 ok",
            "info: shutdown worker | cut i1 | destroy i1 | notify",
            "i1 shutdown run; x a",
        ),
        (
            "plain; up i1; probe i1 ok a; wait 500; kill a; wait 1; gone a; wait 59; probe i1 ok",
            "tick i1",
            "",
            "i1 idle run; x a",
        ),
    ]);
}

/// §9: while something is collecting, for at most TimeoutCollect (300 s).
#[test]
fn s10_9_collecting_protects() {
    check(&[
        (
            "up i1; probe i1 ok a finished; uncollected a; wait 1.1",
            "drain i1",
            "info: set idle behavior | tags i1 t drain | notify",
            "i1 idle drain <a",
        ),
        ("up i1; probe i1 ok a finished; drain i1; wait 299", "tick i1", "", "i1 idle drain <a"),
        ("up i1; probe i1 ok a finished; drain i1; wait 301", "tick i1", "probe i1", "i1 idle drain <a"),
        ("up i1; probe i1 ok a finished; drain i1; wait 301; probe i1 ok a finished", "", "", "i1 shutdown drain <a"),
        ("up i1; probe i1 ok a finished; drain i1; collected a", "tick i1", "", "i1 idle drain -a"),
        (
            "up i1; probe i1 ok a finished; drain i1; collected a; forgotten a",
            "probe i1 ok",
            "info: shutdown worker | cut i1 | destroy i1 | notify",
            "i1 shutdown drain",
        ),
        (
            "up i1; probe i1 ok a finished; drain i1; collected a; wait 61",
            "probe i1 ok",
            "info: shutdown worker | cut i1 | destroy i1 | notify",
            "i1 shutdown drain",
        ),
        // The clock begins again when our own storage failed.
        ("up i1; probe i1 ok a finished; drain i1; wait 299; storage a; wait 299", "tick i1", "", "i1 idle drain <a"),
        // It protects from the scheduler's shutdown, and not from an operator's.
        ("up i1; probe i1 ok a finished", "shutdown i1", "no", "i1 idle run <a"),
        (
            "up i1; probe i1 ok a finished",
            "destroy i1",
            "info: killing instance | cut i1 | destroy i1 | notify",
            "i1 shutdown run <a",
        ),
    ]);
}

#[test]
fn s10_10_shutdown() {
    check(&[
        (
            "up i1; start i1 a",
            "destroy i1",
            "info: killing instance | cut i1 | destroy i1 | notify",
            "i1 shutdown run +a",
        ),
        // The sync repeats the destroy every TimeoutShutdown (10 s) while it is listed.
        ("up i1; destroy i1; wait 9", "list i1", "", "i1 shutdown run"),
        (
            "up i1; destroy i1; wait 11",
            "list i1",
            "info: worker still listed after shutdown; retrying | destroy i1",
            "i1 shutdown run",
        ),
        ("up i1; destroy i1; wait 11; list i1; wait 9", "list i1", "", "i1 shutdown run"),
        (
            "up i1; destroy i1; wait 11; list i1; wait 11",
            "list i1",
            "info: worker still listed after shutdown; retrying | destroy i1",
            "i1 shutdown run",
        ),
        (
            "up i1; destroy i1; wait 11",
            "list",
            "info: instance disappeared in cloud | disappeared shutdown | away after 11 | close i1 | notify",
            "",
        ),
        // Nothing moves it any more.
        ("up i1; start i1 a; destroy i1", "returned a; wait 61", "started a | probe i1", "i1 shutdown run a"),
        ("up i1; destroy i1", "run i1", "no", "i1 shutdown run"),
        ("up i1; destroy i1", "destroy i1", "info: killing instance | cut i1 | destroy i1 | notify", "i1 shutdown run"),
    ]);
}

#[test]
fn s10_11_tags() {
    check(&[
        // Saved only if one of the two differs from what the instance reports, and again with every sync until it does not.
        ("list i1:run", "run i1", "", "i1 unknown run"),
        ("list i1:run", "hold i1", "info: set idle behavior | tags i1 t hold | notify", "i1 unknown hold"),
        ("list i1:run; hold i1", "list i1", "tags i1 t hold", "i1 unknown hold"),
        ("list i1:run; hold i1", "list i1:hold", "", "i1 unknown hold"),
        ("list i1:run; hold i1; list i1:hold", "hold i1", "", "i1 unknown hold"),
        // Nor while it still reports what was there before the last save.
        ("list i1:run; hold i1", "run i1", "info: set idle behavior | tags i1 t run | notify", "i1 unknown run"),
        (
            "list i1:run; hold i1; list i1:hold; run i1",
            "hold i1",
            "info: set idle behavior | tags i1 t hold | notify",
            "i1 unknown hold",
        ),
        ("list i1:run; hold i1; run i1; list i1:run", "run i1", "", "i1 unknown run"),
        // Restored from the tag when it first appears; from then on ours is the truth. Nonsense counts as `run`.
        (
            "",
            "list i1:hold",
            "info: instance appeared in cloud | open i1 | retarget i1 i1.example:22 | probe i1 | info: loaded initial instance list from the cloud | notify",
            "i1 unknown hold",
        ),
        (
            "",
            "list i1:drain",
            "info: instance appeared in cloud | open i1 | retarget i1 i1.example:22 | probe i1 | info: loaded initial instance list from the cloud | notify",
            "i1 unknown drain",
        ),
        (
            "",
            "list i1:sideways",
            "info: instance appeared in cloud | open i1 | retarget i1 i1.example:22 | probe i1 | tags i1 t run | info: loaded initial instance list from the cloud | notify",
            "i1 unknown run",
        ),
        ("list i1:run", "list i1:hold", "tags i1 t run", "i1 unknown run"),
        ("list i1:run; destroy i1", "list i1:hold", "", "i1 shutdown run"),
        (
            "",
            "list i1:untagged",
            "warn: instance type is not configured; draining the instance | info: instance appeared in cloud | open i1 | retarget i1 i1.example:22 | probe i1 | tags i1 p1 drain | info: loaded initial instance list from the cloud | notify",
            "i1 unknown drain",
        ),
    ]);
}
