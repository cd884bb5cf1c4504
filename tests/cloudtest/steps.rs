//! Each step, and each way in which it fails: nothing of the test may be left in any case.

use std::time::Duration;

use muster::shell::cloudtest::tester::Plan;

use crate::stub::{Faults, Stub, instance, plan};

/// The test fails or not, and all that it made is gone.
#[track_caller]
fn assert_result(faults: Faults, plan: &Plan, expected: bool) -> Stub {
    let stub = Stub::new(faults, vec![instance("i-foreign", "another")]);
    assert_eq!(stub.run(plan).0, expected, "{:?}", stub.calls());
    assert_eq!(stub.left(), ["i-foreign"], "{:?}", stub.calls());
    stub
}

#[test]
fn all_is_well_in_this_order() {
    let plan = Plan { command: "true".to_owned(), pause_before_destroy: true, ..plan() };
    let stub = assert_result(Faults::default(), &plan, true);
    assert_eq!(stub.calls(), ["list", "create", "list", "open", "pause", "destroy", "list"]);
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
    assert_result(faults, &Plan { boot_probe_command: probe, ..plan() }, true);
    assert_eq!(std::fs::read_to_string(&count).expect("written").lines().count(), 3);
}

#[test]
fn an_instance_that_exists_despite_the_error_is_destroyed() {
    let faults = Faults { create_fails: true, create_makes: true, hidden_lists: 3, ..Faults::default() };
    let stub = assert_result(faults, &plan(), false);
    assert!(stub.count("open") == 1 && stub.count("destroy") == 1, "it is tried: {:?}", stub.calls());
}

#[test]
fn a_create_that_made_nothing_fails_when_the_time_to_boot_is_over() {
    let faults = Faults { create_fails: true, ..Faults::default() };
    let stub = assert_result(faults, &Plan { timeout_booting: Duration::from_millis(30), ..plan() }, false);
    assert!(stub.count("list") >= 2 && stub.count("open") == 0, "{:?}", stub.calls());
}

#[test]
fn an_instance_that_is_not_in_the_next_list_fails_the_test() {
    let stub = assert_result(Faults { hidden_lists: 1, ..Faults::default() }, &plan(), false);
    assert_eq!(stub.count("open"), 1, "the rest is tried");
}

#[test]
fn lost_tags_fail_the_test() {
    assert_result(Faults { loses_tags: true, ..Faults::default() }, &plan(), false);
}

#[test]
fn lists_that_fail() {
    // The first: nothing is begun.
    let stub = assert_result(Faults { list_fails: Some(0), ..Faults::default() }, &plan(), false);
    assert_eq!(stub.calls(), ["list"]);
    // The one after the create: the instance is destroyed at once.
    let stub = assert_result(Faults { list_fails: Some(1), ..Faults::default() }, &plan(), false);
    assert_eq!(stub.calls(), ["list", "create", "list", "destroy", "list"]);
    // The one after the destroy: it is asked again.
    let stub = assert_result(Faults { list_fails: Some(2), ..Faults::default() }, &plan(), true);
    assert_eq!(stub.calls(), ["list", "create", "list", "open", "destroy", "list", "destroy", "list"]);
}

#[test]
fn it_destroys_until_the_instance_is_gone() {
    let faults = Faults { destroys_fail: true, lingers: true, ..Faults::default() };
    let stub = assert_result(faults, &plan(), true);
    assert_eq!(stub.count("destroy"), 3, "{:?}", stub.calls());
}

#[test]
fn leftovers_fail_the_test_unless_they_may_be_destroyed() {
    let leftovers =
        || vec![instance("i-1", crate::stub::SET), instance("i-2", crate::stub::SET), instance("i-foreign", "x")];
    let stub = Stub::new(Faults::default(), leftovers());
    assert!(!stub.run(&plan()).0);
    assert_eq!((stub.calls(), stub.left().len()), (vec!["list"], 3));

    let stub = Stub::new(Faults { destroys_fail: true, lingers: true, ..Faults::default() }, leftovers());
    assert!(stub.run(&Plan { destroy_existing: true, ..plan() }).0, "{:?}", stub.calls());
    assert_eq!(stub.left(), ["i-foreign"]);
    let first_create = stub.calls().iter().position(|call| *call == "create").expect("created in the end");
    assert!(stub.calls()[..first_create].iter().filter(|call| **call == "destroy").count() >= 4);
}

/// By a signal: while it waits for leftovers, for an instance despite an error, and for the boot.
#[test]
fn a_stop_ends_the_waiting_and_destroys() {
    let patient =
        Plan { boot_probe_command: "false".to_owned(), probe_interval: Duration::from_secs(100_000), ..plan() };
    let stub = assert_result(Faults { stops_in_list: Some(1), ..Faults::default() }, &patient, false);
    assert_eq!(stub.calls().last(), Some(&"list"), "{:?}", stub.calls());
    let patient = Plan { sync_interval: Duration::from_secs(100_000), command: "true".to_owned(), ..plan() };
    let faults = Faults { stops_in_list: Some(1), create_fails: true, ..Faults::default() };
    assert_result(faults, &patient, false);
}
