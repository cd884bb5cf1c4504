//! Spec 20 §1–§4: creating instances, and what holds it up.

use std::time::Duration;

use muster::core::effect::{Effect, Effects};
use muster::core::pool::limits::CallKind;

use crate::world::{World, check};

/// Three creates of `t` that failed for no known reason, and what comes then.
fn three_failed(next: &str) -> String {
    format!(
        "create t; failed 1 other; wait 0.125; create t; failed 2 other; wait 0.25; create t; failed 3 other; wait 0.5; {next}"
    )
}

#[test]
fn s20_1_create() {
    check(&[
        ("", "create t", "info: creating instance | create t | notify", "create t"),
        ("", "create nosuch", "no", ""),
        // Refused: runner binary, capacity, quota, suspended calls, too many at a time, MaxInstances.
        ("fault", "create t", "no", ""),
        ("fault; nofault", "create t", "info: creating instance | create t | notify", "create t"),
        ("create t; failed 1 all", "create t", "no", ""),
        ("create t; failed 1 quota", "create t", "no", "at quota"),
        ("throttle create 30", "create t", "no", ""),
        ("throttle list 30", "create t", "info: creating instance | create t | notify", "create t"),
        ("ops 1; create t", "create t", "no", "create t"),
        (
            "ops 1; create t; failed 1 other; wait 1",
            "create t",
            "info: creating instance | create t | notify",
            "create t",
        ),
        // A failure for no known reason: an eighth of a second, then a quarter … without a create; a success begins anew.
        ("create t; failed 1 other; wait 0.12", "create t", "no", ""),
        ("create t; failed 1 other; wait 0.125; create t; failed 2 other; wait 0.24", "create t", "no", ""),
        (
            "create t; failed 1 other; wait 0.125; create t; failed 2 other; wait 0.25",
            "create t",
            "info: creating instance | create t | notify",
            "create t",
        ),
        (
            "create t; failed 1 other; wait 0.125; create t; created 2 i1; create t; failed 3 other; wait 0.125",
            "create t",
            "info: creating instance | create t | notify",
            "i1 booting run; create t",
        ),
        // From the fourth in a row on it is the type's own, and others do not wait; until one of it succeeds.
        (
            &three_failed("create t; failed 4 other"),
            "wait 0.9; create t; create u; wait 0.1; create t",
            "no | info: creating instance | create u | info: creating instance | create t | notify",
            "create u; create t",
        ),
        (
            &three_failed("create t; create u; failed 4 other; failed 5 other; wait 0.13"),
            "create t; create u",
            "no | info: creating instance | create u | notify",
            "create u",
        ),
        (
            &three_failed("create t; created 4 i1; create t; failed 5 other"),
            "create u; wait 0.125; create t",
            "no | info: creating instance | create t | notify",
            "i1 booting run; create t",
        ),
        // Those that were under way together count as one failure, whenever they end.
        (
            "ops 0; create t; create t; create t; failed 1 other; failed 2 other; wait 0.125; failed 3 other",
            "create t",
            "info: creating instance | create t | notify",
            "create t",
        ),
        (
            "ops 0; create t; create t",
            "create t",
            "info: creating instance | create t | notify",
            "create t; create t; create t",
        ),
        ("max 1; create t", "create t", "no", "create t; at quota"),
        ("max 1; list i1", "create t", "no", "i1 unknown run; at quota"),
        (
            "max 0; list i1 i2 i3 i4 i5 i6",
            "create t",
            "info: creating instance | create t | notify",
            "i1 unknown run; i2 unknown run; i3 unknown run; i4 unknown run; i5 unknown run; i6 unknown run; create t",
        ),
        // MaxInstances is logged once per crossing.
        (
            "max 1",
            "create t; failed 1 other; wait 1; create t",
            "info: creating instance | create t | info: reached configured MaxInstances; not creating more | warn: create failed | list soon | info: creating instance | create t | info: reached configured MaxInstances; not creating more | notify",
            "create t; at quota",
        ),
        (
            "max 2; create t; created 1 i1; list i1; create t; failed 2 other; wait 1",
            "create t; list; create t",
            "info: creating instance | create t | info: reached configured MaxInstances; not creating more | info: instance disappeared in cloud | outcome disappeared | disappeared booting | close i1 | info: creating instance | create t | info: reached configured MaxInstances; not creating more | notify",
            "create t; create t; at quota",
        ),
        // Known by its secret, and never counted twice or as nothing, whichever comes first.
        (
            "create t",
            "created 1 i1",
            "info: instance appeared in cloud | open i1 | retarget i1 i1.example:22 | probe i1 | notify",
            "i1 booting run",
        ),
        (
            "create t",
            "list i1:s1",
            "info: instance appeared in cloud | open i1 | retarget i1 i1.example:22 | probe i1 | tags i1 t run | info: loaded initial instance list from the cloud | notify",
            "i1 booting run",
        ),
        ("create t; list i1:s1", "created 1 i1", "tags i1 t run | notify", "i1 booting run"),
        ("create t; list i1:s1", "failed 1 other", "", "i1 booting run"),
        (
            "create t",
            "list i1:s9",
            "info: instance appeared in cloud | open i1 | retarget i1 i1.example:22 | probe i1 | tags i1 t run | info: loaded initial instance list from the cloud | notify",
            "i1 unknown run; create t",
        ),
        (
            "cheap; create t",
            "created 1 i1",
            "info: instance appeared in cloud | open i1 | retarget i1 i1.example:22 | probe i1 | list soon | notify",
            "i1 booting run",
        ),
        ("cheap; create t", "failed 1 other", "warn: create failed | list soon | notify", ""),
        // The deadline of 15 minutes: failed with unknown outcome, and recognised if it appears all the same.
        ("create t", "wait 899", "", "create t"),
        ("create t", "wait 901", "warn: create failed | list soon | notify", ""),
        (
            "create t; wait 901",
            "list i1:s1",
            "info: instance appeared in cloud | open i1 | retarget i1 i1.example:22 | probe i1 | tags i1 t run | info: loaded initial instance list from the cloud | notify",
            "i1 booting run",
        ),
        (
            "create t; wait 901",
            "created 1 i1",
            "info: instance appeared in cloud | open i1 | retarget i1 i1.example:22 | probe i1 | tags i1 t run | notify",
            "i1 booting run",
        ),
        ("create t; wait 901", "failed 1 quota", "", ""),
        ("create t; created 1 i1", "wait 901", "", "i1 booting run"),
    ]);
}

#[test]
fn s20_2_quota() {
    check(&[
        // n < 1: a pause of a minute, and a notification at its end.
        (
            "create t",
            "failed 1 quota",
            "warn: create failed | info: at quota with no instance of ours; pausing creates | notify",
            "at quota",
        ),
        ("create t; failed 1 quota", "wait 59", "", "at quota"),
        ("create t; failed 1 quota", "wait 61; create t", "info: creating instance | create t | notify", "create t"),
        // n ≥ 1: until fewer than n remain; other unfinished creates count.
        (
            "up i1; create t",
            "failed 1 quota",
            "warn: create failed | info: at quota until fewer instances remain | notify",
            "i1 idle run; at quota",
        ),
        (
            "create t; create t",
            "failed 1 quota",
            "warn: create failed | info: at quota until fewer instances remain | notify",
            "create t; at quota",
        ),
        (
            "up i1 i2; create t; failed 1 quota",
            "create t; list i1 i2; create t",
            "no | tags i1 t run | tags i2 t run | no",
            "i1 idle run; i2 idle run; at quota",
        ),
        (
            "up i1 i2; create t; failed 1 quota",
            "list i1",
            "tags i1 t run | info: instance disappeared in cloud | disappeared idle | close i2 | notify",
            "i1 idle run",
        ),
        // The smaller number is kept.
        (
            "up i1:run; create t; create t; failed 1 quota; list i1 i2:run i3:run; failed 2 quota",
            "list i1 i2",
            "info: instance disappeared in cloud | outcome disappeared | disappeared unknown | close i3 | notify",
            "i1 idle run; i2 unknown run; at quota",
        ),
        (
            "up i1 i2; create t; create t; failed 1 quota; list i1 i2; failed 2 quota",
            "list i1 i2",
            "tags i1 t run | tags i2 t run",
            "i1 idle run; i2 idle run; at quota",
        ),
        (
            "up i1 i2; create t; create t; failed 1 quota; failed 2 quota",
            "list i1",
            "tags i1 t run | info: instance disappeared in cloud | disappeared idle | close i2 | notify",
            "i1 idle run",
        ),
        // 10 minutes lift it too, for one create; what that one meets decides.
        ("up i1; create t; failed 1 quota", "wait 599", "", "i1 idle run; at quota"),
        ("up i1; create t; failed 1 quota", "wait 601", "notify", "i1 idle run"),
        ("up i1; create t; failed 1 quota; wait 601; create t", "create t", "no", "i1 idle run; create t"),
        (
            "up i1; create t; failed 1 quota; wait 601; create t; created 2 i2",
            "create t; create t",
            "info: creating instance | create t | info: creating instance | create t | notify",
            "i1 idle run; i2 booting run; create t; create t",
        ),
        (
            "up i1; create t; failed 1 quota; wait 601; create t; failed 2 other; wait 1",
            "create t; create t",
            "info: creating instance | create t | no | notify",
            "i1 idle run; create t",
        ),
        (
            "up i1; create t; failed 1 quota; wait 601; create t; failed 2 quota",
            "create t",
            "no",
            "i1 idle run; at quota",
        ),
        // MaxInstances.
        (
            "max 2; up i1 i2",
            "list i1",
            "tags i1 t run | info: instance disappeared in cloud | disappeared idle | close i2 | notify",
            "i1 idle run",
        ),
    ]);
}

/// Spec 46 §1: a host that becomes free ends the pause of its type and notifies.
#[test]
fn s46_1_a_freed_machine_ends_the_pause() {
    let creates = "info: creating instance | create t | notify";
    check(&[
        ("create t; failed 1 type", "freed t", "notify", ""),
        ("create t; failed 1 type; freed t", "create t", creates, "create t"),
        // Nothing to end, another type's, an unknown one's, and pauses that are of more than the type.
        ("", "freed t", "", ""),
        ("create t; failed 1 type; wait 61", "freed t", "", ""),
        ("create t; failed 1 type; freed u; freed nosuch", "create t", "no", ""),
        ("create t; failed 1 group; freed t", "create t", "no", ""),
        ("create t; failed 1 all; freed t", "create t", "no", ""),
        // A refusal that is older than the news sets no pause: whoever was looking then may find it now.
        ("create t; freed t; failed 1 type", "create t", creates, "create t"),
        ("create t; wait 1; freed t; wait 1; failed 1 type", "create t", creates, "create t"),
        ("create t; wait 1; create t; freed t; failed 1 type; failed 2 type", "create t", creates, "create t"),
        ("create t; freed u; failed 1 type", "create t", "no", ""),
        ("create t; freed t; failed 1 all", "create t", "no", ""),
        ("freed t; wait 1; create t; failed 1 type", "create t", "no", ""),
        ("create t; wait 1; freed t; wait 1; create t; failed 1 type; failed 2 type", "create t", "no", ""),
    ]);
}

#[test]
fn s20_3_capacity() {
    check(&[
        (
            "create t; failed 1 type",
            "create t; create spot; create u",
            "no | info: creating instance | create spot | info: creating instance | create u | notify",
            "create spot; create u",
        ),
        (
            "create spot; failed 1 type",
            "create spot; create t",
            "no | info: creating instance | create t | notify",
            "create t",
        ),
        (
            "create t; failed 1 group",
            "create t; create u; create spot",
            "no | no | info: creating instance | create spot | notify",
            "create spot",
        ),
        ("create t; failed 1 all", "create t; create u; create spot", "no | no | no", ""),
        ("create t; failed 1 type", "wait 59", "", ""),
        ("create t; failed 1 type", "wait 61; create t", "info: creating instance | create t | notify", "create t"),
        // Two pauses: each one's end is told.
        (
            "create t; create u; failed 1 type; wait 30; failed 2 type",
            "wait 31; create t; create u",
            "info: creating instance | create t | no | notify",
            "create t",
        ),
        (
            "create t; create u; failed 1 type; wait 30; failed 2 type; wait 31",
            "wait 30; create u",
            "info: creating instance | create u | notify",
            "create u",
        ),
    ]);
}

#[test]
fn s20_4_rate_limits() {
    check(&[
        (
            "create t",
            "failed 1 rate 30",
            "warn: create failed | warn: suspending remote calls due to rate-limit error | notify",
            "",
        ),
        (
            "create t; failed 1 rate 30",
            "create t; wait 31; create t",
            "no | info: creating instance | create t | notify",
            "create t",
        ),
        // Those that were asked for together and are refused alike are told of once, of whatever kind that is.
        ("create t; create t; failed 1 rate 30", "failed 2 rate 30", "debug: create failed | notify", ""),
        (
            "create t; create t; failed 1 rate 30; wait 31",
            "failed 2 rate 30",
            "warn: create failed | warn: suspending remote calls due to rate-limit error | notify",
            "",
        ),
        ("create t; create t; failed 1 type", "failed 2 type", "debug: create failed | notify", ""),
        ("create t; create u; failed 1 type", "failed 2 type", "warn: create failed | notify", ""),
        // One that pauses more than what is known does is not alike, nor is one that pauses less: a wider pause may end first.
        ("create t; create t; failed 1 type", "failed 2 group", "warn: create failed | notify", ""),
        ("create t; create t; failed 1 group", "failed 2 all", "warn: create failed | notify", ""),
        ("create t; create t; failed 1 all", "failed 2 type", "warn: create failed | notify", ""),
        ("create t; create u; failed 1 group", "failed 2 group", "debug: create failed | notify", ""),
        ("create t; create spot; failed 1 all", "failed 2 all", "debug: create failed | notify", ""),
        (
            "up i1; create t; create t; failed 1 quota",
            "failed 2 quota",
            "debug: create failed | debug: at quota until fewer instances remain | notify",
            "i1 idle run; at quota",
        ),
        ("create t; create t; failed 1 other", "failed 2 other", "warn: create failed | list soon | notify", ""),
        // A pause after failures is no throttle: the first one is told.
        (
            "create t; create u; failed 1 other",
            "failed 2 rate 30",
            "warn: create failed | warn: suspending remote calls due to rate-limit error | notify",
            "",
        ),
        (
            "create t; create u; failed 1 rate 30; failed 2 other",
            "wait 29; create t; wait 2; create t",
            "no | info: creating instance | create t | notify",
            "create t",
        ),
        ("create t; failed 1 past", "create t", "info: creating instance | create t | notify", "create t"),
        (
            "",
            "throttle list 30; throttle list 20",
            "warn: suspending remote calls due to rate-limit error | notify",
            "",
        ),
        ("throttle list 30; throttle list 20", "wait 21", "", ""),
        ("throttle list 30", "wait 31", "list soon | notify", ""),
        ("throttle create 30; throttle create 60", "wait 31; create t", "no", ""),
    ]);
}

/// §4: the line says until when, as a moment that the shell turns into a time of day.
#[test]
fn s20_4_the_log_says_when_calls_resume() {
    let mut world = World::new();
    let mut effects = Effects::new();
    let until = world.now + Duration::from_secs(30);
    world.pool.suspend_calls(CallKind::List, until, world.now, &mut effects);
    let notes: Vec<_> = effects
        .into_vec()
        .into_iter()
        .filter_map(|effect| match effect {
            Effect::Log(note) => Some(note),
            _ => None,
        })
        .collect();
    let [note] = notes.as_slice() else { panic!("{notes:?}") };
    assert_eq!(note.fields, [("CallType", "List".to_owned()), ("Duration", "30.000s".to_owned())]);
    assert_eq!(note.resumes_at, Some(until));
}
