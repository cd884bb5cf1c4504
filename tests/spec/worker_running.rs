//! Spec 10 §7 (reconciling with a list), §12 (starting) and §14 (the instance is gone).

use crate::world::check;

#[test]
fn s10_7_reconciling() {
    check(&[
        // Listed and already running: nothing. Listed and starting: running.
        ("up i1; probe i1 ok a", "probe i1 ok a", "", "i1 running run a"),
        ("up i1; start i1 a", "probe i1 ok a", "notify", "i1 running run a"),
        // Listed by the first list after the start returned: the scheduler is told.
        ("up i1; start i1 a; returned a", "probe i1 ok a", "notify", "i1 running run a"),
        // Listed and unknown: adopted.
        (
            "up i1",
            "probe i1 ok a@3",
            "info: runner process detected | info: worker state changed running | notify",
            "i1 running run a@3",
        ),
        // Running and not listed: closed. Starting and not listed: left.
        ("up i1; probe i1 ok a, b", "probe i1 ok b", "info: runner process ended | notify", "i1 running run b; x a"),
        ("up i1; start i1 a", "probe i1 ok", "", "i1 running run +a"),
        // Seen by a list before its start returned, and then gone.
        ("up i1; start i1 a; probe i1 ok a; probe i1 ok", "returned a", "", "i1 idle run; x a"),
        // Finished: to be collected, whether it was running, starting or unknown; never in the exited map.
        (
            "up i1; probe i1 ok a",
            "probe i1 ok a finished",
            "info: runner process ended | collect a | info: worker state changed idle | notify",
            "i1 idle run <a",
        ),
        (
            "up i1; start i1 a",
            "probe i1 ok a finished",
            "info: runner process ended | collect a | info: worker state changed idle | notify",
            "i1 idle run <a",
        ),
        ("up i1", "probe i1 ok a finished", "collect a | notify", "i1 idle run <a"),
        (
            "list i1",
            "probe i1 noboot a finished",
            "collect a | info: run probe succeeded, but boot probe is still failing | notify",
            "i1 unknown run <a",
        ),
        ("up i1; probe i1 ok a; probe i1 ok", "probe i1 ok a finished", "collect a | notify", "i1 idle run <a"),
        // An older attempt's result neither closes nor replaces the attempt that is here now …
        ("up i1; start i1 a@2", "probe i1 ok a finished", "", "i1 running run +a@2"),
        ("up i1; start i1 a@2; probe i1 ok a@2", "probe i1 ok a@2, a finished", "", "i1 running run a@2"),
        // … and does not stand for it when that one ended without a result.
        (
            "up i1; start i1 a@2; returned a",
            "probe i1 ok a finished",
            "info: runner process ended | collect a | info: worker state changed idle | notify",
            "i1 idle run <a",
        ),
        (
            "up i1; start i1 a@2; returned a; probe i1 ok a@2",
            "probe i1 ok a@2 finished",
            "info: runner process ended | collect a@2 | info: worker state changed idle | notify",
            "i1 idle run <a@2",
        ),
        // An older attempt that is alive: a start on its way finds its lock; then the list tells what runs here.
        ("up i1; start i1 a@2", "probe i1 ok a", "", "i1 running run +a@2"),
        ("up i1; start i1 a@2; returned a", "probe i1 ok a", "notify", "i1 running run a"),
        // Attempt 0: a runner that does not tell.
        ("up i1; start i1 a@2; returned a", "probe i1 ok a@0", "notify", "i1 running run a@2"),
        ("up i1; probe i1 ok a@0", "probe i1 ok a@2", "notify", "i1 running run a@2"),
        // A worker of state `unknown` adopts too.
        (
            "list i1",
            "probe i1 noboot a",
            "info: runner process detected | info: run probe succeeded, but boot probe is still failing | notify",
            "i1 unknown run a",
        ),
    ]);
}

#[test]
fn s10_12_starting() {
    check(&[
        // Only on `idle` or `running`, with behavior `run`.
        ("list i1", "start i1 a", "no", "i1 unknown run"),
        ("booting 1 i1", "start i1 a", "no", "i1 booting run"),
        (
            "up i1",
            "start i1 a",
            "info: worker state changed running | debug: starting container | start a | notify",
            "i1 running run +a",
        ),
        ("up i1; start i1 a", "start i1 b", "debug: starting container | start b | notify", "i1 running run +a +b"),
        ("up i1; destroy i1", "start i1 a", "no", "i1 shutdown run"),
        ("up i1; hold i1", "start i1 a", "no", "i1 idle hold"),
        ("up i1; start i1 b; drain i1", "start i1 a", "no", "i1 running drain +b"),
        ("up i1", "start i9 a", "no", "i1 idle run"),
        // Never a second time, here or elsewhere; nor while its result is fetched.
        ("up i1; start i1 a", "start i1 a@2", "no", "i1 running run +a"),
        ("up i1 i2; start i1 a", "start i2 a", "no", "i1 running run +a; i2 idle run"),
        ("up i1 i2; start i1 a; destroy i1", "start i2 a", "no", "i1 shutdown run +a; i2 idle run"),
        ("up i1; probe i1 ok a finished", "start i1 a", "no", "i1 idle run <a"),
        (
            "up i1; probe i1 ok a; probe i1 ok",
            "start i1 a@2",
            "info: worker state changed running | debug: starting container | start a@2 | notify",
            "i1 running run +a@2",
        ),
        // Its failure is not trusted: the shell reports a return, and a lost one counts as returned at its deadline.
        ("up i1; start i1 a", "returned a", "started a | probe i1", "i1 running run a"),
        ("up i1; start i1 a; probe i1 ok a", "returned a", "started a | probe i1", "i1 running run a"),
        ("up i1; start i1 a", "wait 59", "", "i1 running run +a"),
        (
            "up i1; start i1 a",
            "wait 61",
            "error: start command has not returned in time | started a | probe i1 | info: killing container | kill a",
            "i1 running run a!",
        ),
        ("up i1; start i1 a; wait 61", "returned a", "", "i1 running run a!"),
        ("up i1; start i1 a; returned a", "wait 61", "", "i1 running run a"),
        // Never sent: not here. Unless a list has shown it already.
        ("up i1; start i1 a", "refused a", "info: worker state changed idle | notify", "i1 idle run"),
        ("up i1; start i1 a; start i1 b", "refused a", "notify", "i1 running run +b"),
        (
            "up i1; start i1 a; drain i1",
            "refused a; probe i1 ok",
            "info: worker state changed idle | probe i1 | info: shutdown worker | cut i1 | destroy i1 | notify",
            "i1 shutdown drain",
        ),
        ("up i1; start i1 a; probe i1 ok a", "refused a", "", "i1 running run a"),
        ("up i1; start i1 a; probe i1 ok a; kill a", "refused a", "kill a", "i1 running run a!"),
        ("up i1; start i1 a; returned a", "refused a", "", "i1 running run a"),
    ]);
}

#[test]
fn s10_14_instance_is_gone() {
    check(&[
        (
            "up i1; start i1 a; start i1 b; returned b",
            "list",
            "info: instance disappeared in cloud | disappeared running | info: runner process abandoned | info: runner process abandoned | close i1 | notify",
            "",
        ),
        (
            "up i1; probe i1 ok a finished",
            "list",
            "info: instance disappeared in cloud | disappeared idle | close i1 | notify",
            "",
        ),
        (
            "list i1",
            "list",
            "info: instance disappeared in cloud | outcome disappeared | disappeared unknown | close i1 | notify",
            "",
        ),
        (
            "booting 1 i1; list i1",
            "list",
            "info: instance disappeared in cloud | outcome disappeared | disappeared booting | close i1 | notify",
            "",
        ),
        (
            "up i1; destroy i1; wait 30",
            "list",
            "info: instance disappeared in cloud | disappeared shutdown | away after 30 | close i1 | notify",
            "",
        ),
        (
            "up i1; destroy i1; wait 30; list i1; wait 12",
            "list",
            "info: instance disappeared in cloud | disappeared shutdown | away after 42 | close i1 | notify",
            "",
        ),
        // What was open there fires into nothing.
        ("up i1; start i1 a; probe i1 ok b; kill b; list", "wait 700; returned a; gone b", "", ""),
    ]);
}
