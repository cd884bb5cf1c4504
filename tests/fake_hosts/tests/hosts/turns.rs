//! Hosts that turn bad by themselves, and what is written down of them.

use std::time::Duration;

use muster_fake_hosts::{Crashes, Faults, Host, HostOptions, JobPlan, Journal, JournalEntry, JournalEvent, Turn};

use crate::client::{Client, U, V, host_with, start};

/// Ends at once.
fn at_once(crashes: Option<Crashes>) -> JobPlan {
    JobPlan { time: Some(Duration::ZERO), crashes, ..JobPlan::default() }
}

#[test]
fn the_journal_has_starts_and_ends_in_their_order() {
    let journal = Journal::default();
    let options = || HostOptions { journal: Some(journal.clone()), ..HostOptions::default() };
    let (_one, one, client) = host_with(HostOptions { job: at_once(None), ..options() });
    start(&client, U, 1);
    let crashes = Some(Crashes { seed: 1, percent: 100 });
    let (_two, two, client) = host_with(HostOptions { job: at_once(crashes), ..options() });
    start(&client, U, 2);
    assert!(two.running().is_empty() && two.finished().is_empty(), "it has crashed, without a result");
    two.set_job(JobPlan::default());
    start(&client, V, 1);
    two.switch_off();
    assert!(two.running().is_empty());
    assert!(Client::handshake(&two).is_err(), "nobody listens");
    let entry = |host: &Host, uuid: &str, attempt, event| JournalEntry {
        address: host.address(),
        uuid: uuid.to_owned(),
        attempt,
        event,
    };
    use JournalEvent::{Crashed, Finished, Started, SwitchedOff};
    let expected = [
        entry(&one, U, 1, Started),
        entry(&one, U, 1, Finished),
        entry(&two, U, 2, Started),
        entry(&two, U, 2, Crashed),
        entry(&two, V, 1, Started),
        entry(&two, V, 1, SwitchedOff),
    ];
    assert_eq!(journal.entries(), expected);
    assert!(!journal.is_empty());
}

#[test]
fn a_host_turns_bad_with_its_nth_command() {
    for turn in [Turn::Silent, Turn::Refusing, Turn::Broken] {
        let faults = Faults { turns: Some((3, turn)), ..Faults::default() };
        let (_fleet, _, client) = host_with(HostOptions { faults, ..HostOptions::default() });
        client.ok("true");
        client.ok("true");
        match turn {
            Turn::Broken => assert!(client.ok("muster-runner --list --set s").starts_with("broken\n")),
            // The answer never comes, so any limit will do.
            Turn::Silent => client.session.set_timeout(100),
            Turn::Refusing => {}
        }
        assert_eq!(client.begin("true").is_ok(), turn == Turn::Broken, "{turn:?}");
    }
}
