//! Each step, and each way in which it fails: nothing of the test may be left in any case.

use std::time::Duration;

use muster::shell::cloudtest::tester::Plan;

use crate::running::wait_until;
use crate::stub::{Faults, SET, Stub, instance, plan};

const SOON: Duration = Duration::from_millis(30);
/// Nothing waits for so long.
const NEVER: Duration = Duration::from_secs(100_000);

/// The test fails or not, and all that it made is gone.
#[track_caller]
fn assert_result(faults: Faults, plan: &Plan, expected: bool) -> Stub {
    let stub = Stub::new(faults, vec![instance("i-foreign", "another")]);
    assert_eq!(stub.run(plan), expected, "{:?}", stub.calls());
    assert_eq!(stub.left(), ["i-foreign"], "{:?}", stub.calls());
    stub
}

#[test]
fn all_is_well_in_this_order() {
    let plan = Plan { command: "true".to_owned(), pause_before_destroy: true, ..plan() };
    let stub = assert_result(Faults::default(), &plan, true);
    assert_eq!(stub.calls(), ["list all", "create", "list", "open", "pause", "destroy", "list"]);
}

#[test]
fn a_failing_boot_probe_times_out_and_the_command_is_tried_all_the_same() {
    let folder = tempfile::tempdir().expect("a folder");
    let mark = folder.path().join("mark");
    let command = format!("touch {}", mark.display());
    let boot_probe_command = "falsey".to_owned();
    let plan = Plan { boot_probe_command, command, timeout_booting: Duration::from_millis(50), ..plan() };
    assert_result(Faults::default(), &plan, false);
    assert!(mark.exists());
}

#[test]
fn a_failing_command_fails_the_test() {
    assert_result(Faults::default(), &Plan { command: "falsey".to_owned(), ..plan() }, false);
    assert_result(Faults::default(), &Plan { command: "exit 3".to_owned(), ..plan() }, false);
}

/// The probe fails twice before it succeeds, and the address is known only by the fourth list.
#[test]
fn a_boot_takes_its_time() {
    let folder = tempfile::tempdir().expect("a folder");
    let count = folder.path().join("count");
    let probe = format!("echo >>{0}; test $(wc -l <{0}) -gt 2", count.display());
    let faults = Faults { address_in_list: 4, ..Faults::default() };
    let stub = assert_result(faults, &Plan { boot_probe_command: probe, ..plan() }, true);
    assert_eq!(std::fs::read_to_string(&count).expect("written").lines().count(), 3);
    assert_eq!(stub.calls(), ["list all", "create", "list", "open", "list", "list", "destroy", "list"]);
}

#[test]
fn an_instance_that_exists_despite_the_error_is_destroyed() {
    let faults = Faults { create_fails: true, create_makes: true, hidden_lists: 3, ..Faults::default() };
    let stub = assert_result(faults, &plan(), false);
    assert!(stub.count("open") == 1 && stub.count("destroy") == 1, "it is tried: {:?}", stub.calls());
}

/// Another one with the same set id is not: it is somebody else's.
#[test]
fn an_instance_of_another_test_is_left_alone() {
    for create_makes in [false, true] {
        let faults =
            Faults { create_fails: true, create_makes, other_test: true, hidden_lists: 2, ..Faults::default() };
        let stub = Stub::new(faults, Vec::new());
        let times = if create_makes { plan() } else { Plan { timeout_booting: SOON, appears_within: SOON, ..plan() } };
        assert!(!stub.run(&times));
        assert_eq!(stub.left(), ["i-other"], "{:?}", stub.calls());
        assert_eq!(stub.count("open"), usize::from(create_makes));
    }
}

#[test]
fn a_create_that_made_nothing_fails_when_the_time_to_boot_is_over() {
    let faults = Faults { create_fails: true, ..Faults::default() };
    // Time for more than one list on a busy machine, too.
    let time = Duration::from_secs(2);
    let stub = assert_result(faults, &Plan { timeout_booting: time, appears_within: time, ..plan() }, false);
    assert!(stub.count("list") >= 2 && stub.count("open") == 0, "{:?}", stub.calls());
    // However short that is, what may yet appear is waited for.
    let faults = Faults { create_fails: true, create_makes: true, hidden_lists: 5, ..Faults::default() };
    assert_result(faults, &Plan { timeout_booting: Duration::ZERO, ..plan() }, false);
    // Where a list shows all, one is enough.
    let faults = Faults { create_fails: true, exact: true, ..Faults::default() };
    let stub = assert_result(faults, &plan(), false);
    assert_eq!(stub.calls(), ["list all", "create", "list"]);
}

#[test]
fn an_instance_that_is_not_in_the_next_list_fails_the_test() {
    let stub = assert_result(Faults { hidden_lists: 1, ..Faults::default() }, &plan(), false);
    assert_eq!(stub.count("open"), 1, "the rest is tried");
}

/// A destroy of what the cloud does not show yet has no effect, and what is not listed need not be gone.
#[test]
fn an_instance_that_is_shown_late_is_destroyed() {
    let stub = assert_result(Faults { hidden_lists: 6, ..Faults::default() }, &plan(), false);
    assert!(stub.count("destroy") > 4, "{:?}", stub.calls());
    // The first list after the create fails, and the test with it.
    let faults = Faults { hidden_lists: 6, lists_fail: 1..2, ..Faults::default() };
    let stub = assert_result(faults, &plan(), false);
    assert!(stub.count("destroy") > 4 && stub.count("open") == 0, "{:?}", stub.calls());
    // It was listed: then a list without it says that it is gone.
    let stub = assert_result(Faults::default(), &plan(), true);
    assert_eq!(stub.count("destroy"), 1, "{:?}", stub.calls());
}

/// One that is never listed does not exist after some time; only a destroy after that is believed.
#[test]
fn an_instance_that_is_never_shown_is_given_up() {
    let faults = Faults { hidden_lists: usize::MAX, ..Faults::default() };
    let stub = Stub::new(faults, Vec::new());
    assert!(!stub.run(&Plan { appears_within: SOON, ..plan() }));
    assert!(stub.count("destroy") >= 1, "{:?}", stub.calls());
}

#[test]
fn lost_tags_fail_the_test() {
    assert_result(Faults { loses_tags: true, ..Faults::default() }, &plan(), false);
}

/// While it is listed it is not gone, whatever tags the list shows.
#[test]
fn an_instance_that_is_listed_without_tags_is_destroyed_until_it_is_gone() {
    let faults = || Faults { lists_no_tags: true, lingers: true, ..Faults::default() };
    for faults in [faults(), Faults { exact: true, ..faults() }] {
        let stub = assert_result(faults, &plan(), false);
        assert_eq!(stub.calls(), ["list all", "create", "list", "open", "destroy", "list", "destroy", "list"]);
    }
}

#[test]
fn lists_that_fail() {
    // The first: nothing is begun.
    let stub = assert_result(Faults { lists_fail: 0..1, ..Faults::default() }, &plan(), false);
    assert_eq!(stub.calls(), ["list all"]);
    // The one after the create: the instance is destroyed at once.
    let exact = || Faults { exact: true, ..Faults::default() };
    let stub = assert_result(Faults { lists_fail: 1..2, ..exact() }, &plan(), false);
    assert_eq!(stub.calls(), ["list all", "create", "list", "destroy", "list"]);
    // The one after the destroy: it is asked again.
    let stub = assert_result(Faults { lists_fail: 2..3, ..exact() }, &plan(), true);
    assert_eq!(stub.calls(), ["list all", "create", "list", "open", "destroy", "list", "destroy", "list"]);
}

#[test]
fn it_destroys_until_the_instance_is_gone() {
    let faults = Faults { destroys_fail: true, lingers: true, ..Faults::default() };
    let stub = assert_result(faults, &plan(), true);
    assert_eq!(stub.count("destroy"), 3, "{:?}", stub.calls());
    // It is not listed, and no destroy has been accepted: one more.
    let faults = Faults { destroys_fail: true, hidden_lists: 2, exact: true, ..Faults::default() };
    let stub = assert_result(faults, &plan(), false);
    assert_eq!(stub.count("destroy"), 4, "{:?}", stub.calls());
}

/// Cleaned up in the background, and out of reach: it is not gone before the driver is done with it.
#[test]
fn what_is_being_given_up_is_waited_for() {
    let stub = assert_result(Faults { given_up_for: 8, exact: true, ..Faults::default() }, &plan(), true);
    assert!(stub.count("destroy") > 2, "{:?}", stub.calls());
    let leftovers = vec![instance("i-1", SET)];
    let stub = Stub::new(Faults { given_up_for: 8, ..Faults::default() }, leftovers);
    assert!(stub.run(&Plan { destroy_existing: true, ..plan() }), "{:?}", stub.calls());
    assert!(stub.count("list all") > 2, "{:?}", stub.calls());
}

#[test]
fn leftovers_fail_the_test_unless_they_may_be_destroyed() {
    let leftovers = || vec![instance("i-1", SET), instance("i-2", SET), instance("i-foreign", "x")];
    let stub = Stub::new(Faults::default(), leftovers());
    assert!(!stub.run(&plan()));
    assert_eq!((stub.calls(), stub.left().len()), (vec!["list all"], 3));

    let stub = Stub::new(Faults { destroys_fail: true, lingers: true, ..Faults::default() }, leftovers());
    assert!(stub.run(&Plan { destroy_existing: true, ..plan() }), "{:?}", stub.calls());
    assert_eq!(stub.left(), ["i-foreign"]);
    let first_create = stub.calls().iter().position(|call| *call == "create").expect("created in the end");
    assert!(stub.calls()[..first_create].iter().filter(|call| **call == "destroy").count() >= 4);
}

/// By a signal: while it waits for leftovers, before the create, while one is made, and for the boot.
#[test]
fn a_stop_ends_the_waiting_and_destroys() {
    let stub = assert_result(Faults { stops_in_list: Some(0), ..Faults::default() }, &plan(), false);
    assert_eq!(stub.calls(), ["list all"], "nothing is created");
    let faults = Faults { stops_in_list: Some(0), destroys_fail: true, ..Faults::default() };
    let stub = Stub::new(faults, vec![instance("i-1", SET)]);
    assert!(!stub.run(&Plan { destroy_existing: true, sync_interval: NEVER, ..plan() }));
    assert_eq!(stub.calls(), ["list all", "destroy"]);
    let patient = Plan { boot_probe_command: "false".to_owned(), probe_interval: NEVER, ..plan() };
    for faults in
        [Faults { stops_in_create: true, ..Faults::default() }, Faults { stops_in_list: Some(1), ..Faults::default() }]
    {
        let stub = assert_result(faults, &patient, false);
        assert_eq!(stub.calls(), ["list all", "create", "list", "open", "destroy", "list"]);
    }
}

/// What may exist despite an error is looked for all the same, but not until the end of the time to boot.
#[test]
fn a_stop_shortens_the_search_and_leaves_nothing() {
    let faults = || Faults { create_fails: true, create_makes: true, ..Faults::default() };
    let patient = || Plan { timeout_booting: NEVER, ..plan() };
    for faults in [
        Faults { stops_in_create: true, hidden_lists: 4, ..faults() },
        Faults { stops_in_list: Some(2), hidden_lists: 4, ..faults() },
        Faults { stops_in_list: Some(1), lists_fail: 1..2, ..faults() },
    ] {
        let stub = assert_result(faults, &patient(), false);
        assert_eq!(stub.count("destroy"), 1, "{:?}", stub.calls());
    }
    let faults = Faults { create_fails: true, stops_in_create: true, ..Faults::default() };
    assert_result(faults, &Plan { appears_within: SOON, ..patient() }, false);
}

/// Neither a boot probe nor a command of an hour is waited for.
#[test]
fn a_stop_ends_the_command_that_runs() {
    let folder = tempfile::tempdir().expect("a folder");
    for (index, is_probe) in [true, false].into_iter().enumerate() {
        let mark = folder.path().join(index.to_string());
        let long = format!("touch {}; sleep 900", mark.display());
        let plan = match is_probe {
            true => Plan { boot_probe_command: long, ..plan() },
            false => Plan { command: long, ..plan() },
        };
        let stub = Stub::new(Faults::default(), Vec::new());
        std::thread::scope(|scope| {
            let running = scope.spawn(|| stub.run(&plan));
            wait_until("it runs", || mark.exists());
            stub.stop();
            assert!(!running.join().expect("no panic"));
        });
        assert!(stub.left().is_empty(), "{:?}", stub.calls());
    }
}
