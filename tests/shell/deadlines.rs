//! Spec 20 §1: cloud calls that do not return in time use up neither the lists nor the threads of destroys and tag saves.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use muster::core::effect::{Ending, Tags};
use muster::core::ids::InstanceId;
use muster::shell::lists::{Listed, Lists};
use muster::shell::stop::StopSource;

use crate::cloud::Cloud;
use crate::fake::{Fake, wait_until};

/// Passes at once, and yet leaves time for a call that does not hang.
const DEADLINE: Duration = Duration::from_millis(50);
/// Four threads of changes, and as many more as may hang.
const CHANGES_IN_FLIGHT_MAX: usize = 64;
const LISTS_IN_FLIGHT_MAX: usize = 16;

fn ours() -> Tags {
    Tags::from_iter([("ArvadosInstanceSetID".to_owned(), "local".to_owned())])
}

#[test]
fn a_list_that_hangs_does_not_stop_lists() {
    let fake = Fake::start_with(DEADLINE, |_| {});
    fake.cloud.hanging_lists.store(2, Ordering::SeqCst);
    wait_until("two lists hang", || fake.cloud.hanging_lists.load(Ordering::SeqCst) == 0);
    fake.cloud.add("i-found", ours());
    wait_until("a later list is applied", || fake.state(&InstanceId::new("i-found")).is_some());
    fake.cloud.gate.open();
    fake.stop();
}

/// What comes late is not taken for the answer to another call.
#[test]
fn a_late_list_is_thrown_away() {
    let cloud = Arc::new(Cloud::default());
    let lists = Lists::new(cloud.clone(), DEADLINE);
    let stop = StopSource::new();
    cloud.add("i-old", ours());
    cloud.hanging_lists.store(1, Ordering::SeqCst);
    let first = lists.ask(&ours(), &stop.token());
    assert!(matches!(first, Listed::Late), "{first:?}");
    cloud.instances.lock().clear();
    cloud.add("i-new", ours());
    cloud.gate.open();
    let mut ids = Vec::new();
    // A busy machine may miss the deadline again.
    wait_until("a list in time", || match lists.ask(&ours(), &stop.token()) {
        Listed::InTime(answer) => {
            ids = answer.expect("listed").iter().map(|one| one.id.to_string()).collect();
            true
        }
        _ => false,
    });
    assert_eq!(ids, ["i-new"]);
    lists.stop();
}

/// Asked for while the one before it hangs, and before that is known: it has no thread, and must not keep its place for ever.
#[test]
fn a_list_that_waits_behind_one_that_hangs_does_not_stop_lists() {
    let cloud = Arc::new(Cloud::default());
    // Long enough to ask again before it has passed.
    let lists = Lists::new(cloud.clone(), Duration::from_secs(10));
    let stop = StopSource::new();
    cloud.hanging_lists.store(1, Ordering::SeqCst);
    std::thread::scope(|scope| {
        scope.spawn(|| lists.ask(&ours(), &stop.token()));
        wait_until("a list hangs", || cloud.hanging_lists.load(Ordering::SeqCst) == 0);
        let behind = lists.ask(&ours(), &stop.token());
        assert!(matches!(behind, Listed::Late), "{behind:?}");
    });
    wait_until("a list in time", || matches!(lists.ask(&ours(), &stop.token()), Listed::InTime(_)));
    cloud.gate.open();
    lists.stop();
}

#[test]
fn hanging_lists_have_a_bounded_number_of_threads() {
    let cloud = Arc::new(Cloud::default());
    let lists = Lists::new(cloud.clone(), Duration::from_millis(1));
    let stop = StopSource::new();
    cloud.hanging_lists.store(usize::MAX, Ordering::SeqCst);
    let calls = || cloud.lists.load(Ordering::SeqCst);
    wait_until("as many hang as may", || {
        assert!(!matches!(lists.ask(&ours(), &stop.token()), Listed::InTime(_)));
        calls() == LISTS_IN_FLIGHT_MAX
    });
    for _ in 0..50 {
        assert!(matches!(lists.ask(&ours(), &stop.token()), Listed::Late));
    }
    assert_eq!(calls(), LISTS_IN_FLIGHT_MAX);
    drop(stop);
    cloud.gate.open();
    lists.stop();
}

/// A stop does not wait for the cloud.
#[test]
fn a_list_that_hangs_does_not_hold_up_a_stop() {
    let fake = Fake::start(|_| {});
    fake.cloud.hanging_lists.store(1, Ordering::SeqCst);
    wait_until("a list hangs", || fake.cloud.hanging_lists.load(Ordering::SeqCst) == 0);
    let cloud = fake.cloud.clone();
    fake.stop();
    cloud.gate.open();
}

fn destroy(fake: &Fake, id: &str) {
    fake.operations.destroy(&InstanceId::new(id), None, Ending::Unwanted);
}

fn destroys_of(fake: &Fake, id: &str) -> usize {
    fake.cloud.destroys.lock().iter().filter(|one| *one == id).count()
}

/// Asked for again and again, as the sync does.
fn destroyed_at_last(fake: &Fake, id: &str) {
    fake.cloud.add(id, Tags::new());
    wait_until("it is destroyed", || {
        destroy(fake, id);
        !fake.cloud.instances.lock().contains_key(id)
    });
}

#[test]
fn destroys_that_hang_do_not_use_up_the_threads() {
    let fake = Fake::start_with(DEADLINE, |_| {});
    let hanging = ["h-1", "h-2", "h-3", "h-4"];
    fake.cloud.hanging_destroys.lock().extend(hanging.map(str::to_owned));
    for id in hanging {
        wait_until("it hangs", || {
            // Asked for again where it waited too long for its turn.
            if destroys_of(&fake, id) == 0 {
                destroy(&fake, id);
            }
            destroys_of(&fake, id) > 0
        });
    }
    destroyed_at_last(&fake, "i-other");
    // One more try of what hangs, and then no more, however often it is asked for.
    wait_until("it is tried again", || {
        destroy(&fake, "h-1");
        destroys_of(&fake, "h-1") == 2
    });
    for number in 0..10 {
        destroy(&fake, "h-1");
        destroyed_at_last(&fake, &format!("i-{number}"));
    }
    assert_eq!(destroys_of(&fake, "h-1"), 2);
    fake.cloud.gate.open();
    fake.stop();
}

#[test]
fn hanging_destroys_have_a_bounded_number_of_threads() {
    let fake = Fake::start_with(Duration::from_millis(10), |_| {});
    let ids: Vec<String> = (0..CHANGES_IN_FLIGHT_MAX + 10).map(|number| format!("h-{number}")).collect();
    fake.cloud.hanging_destroys.lock().extend(ids.iter().cloned());
    let ask_all = || ids.iter().for_each(|id| destroy(&fake, id));
    wait_until("as many hang as may", || {
        ask_all();
        fake.cloud.destroys.lock().len() == CHANGES_IN_FLIGHT_MAX
    });
    (0..20).for_each(|_| ask_all());
    assert_eq!(fake.cloud.destroys.lock().len(), CHANGES_IN_FLIGHT_MAX);
    fake.cloud.gate.open();
    wait_until("all are destroyed at last", || {
        ask_all();
        ids.iter().all(|id| destroys_of(&fake, id) > 0)
    });
    fake.stop();
}
