//! The shell's threads with a scripted cloud and scripted hosts: real threads, channels and locks, no processes.
//! Everything is awaited as a condition; nothing depends on how fast the machine is.

mod cloud;
mod deadlines;
mod fake;
mod queue;
mod results;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use fake::{Fake, Host, wait_until};
use muster::cloud::CloudEvent;
use muster::core::effect::RunnerOrder;
use muster::core::ids::{InstanceId, InstanceSecret, OperationId, TypeName};
use muster::core::instance_type::PricePoint;
use muster::core::vocabulary::{IdleBehavior, WorkerState};
use muster::shell::lanes::Work;

#[test]
fn an_instance_is_created_booted_used_and_let_go() {
    let fake = Fake::start(|_| {});
    assert!(fake.create());
    let id = fake.wait_idle(0);
    let uuid = Fake::uuid(1);
    assert!(fake.door.start_container(&id, &uuid, 1));
    fake.wait_runs(&uuid);
    let host = fake.host(&id);
    host.finish(&uuid);
    wait_until("its result was collected and forgotten", || host.forgotten.lock().contains(&uuid));
    wait_until("the instance is idle again", || fake.state(&id) == Some(WorkerState::Idle));
    assert_eq!(fake.door.set_idle_behavior(&id, IdleBehavior::Drain), Some(true));
    wait_until("the instance is gone", || fake.state(&id).is_none());
    assert!(fake.cloud.instances.lock().is_empty());
    fake.stop();
}

/// Spec 52 §1: what the deployment brought of the host's facts decides before anything is started there.
#[test]
fn a_host_that_is_smaller_than_its_type_is_let_go() {
    let fake = Fake::start(|cloud| cloud.weak_hosts.store(true, Ordering::SeqCst));
    assert!(fake.create());
    let id = InstanceId::new("i-0");
    wait_until("it is let go", || fake.state(&id) == Some(WorkerState::Shutdown));
    wait_until("it is destroyed", || fake.cloud.instances.lock().is_empty());
    fake.cloud.weak_hosts.store(false, Ordering::SeqCst);
    assert!(fake.create());
    fake.wait_idle(1);
    fake.stop();
}

/// The worker hangs inside its list command; the others are not delayed, and it can be told to go.
#[test]
fn a_hanging_worker_delays_nobody() {
    let fake = Fake::start(|_| {});
    assert!(fake.create());
    let hanging = fake.wait_idle(0);
    fake.host(&hanging).hang.store(true, Ordering::SeqCst);
    assert!(fake.create());
    let other = fake.wait_idle(1);
    let uuid = Fake::uuid(1);
    assert!(fake.door.start_container(&other, &uuid, 1));
    fake.wait_runs(&uuid);
    assert!(fake.door.kill_instance(&hanging, "a test"));
    wait_until("the hanging one is gone", || fake.state(&hanging).is_none());
    fake.stop();
}

/// A long poll that waits for a change of the list is cut short by an event that needs a new list.
#[test]
fn an_event_ends_a_long_poll() {
    let fake = Fake::start(|_| {});
    assert!(fake.create());
    let id = fake.wait_idle(0);
    let host = fake.host(&id);
    // The start command fails and changes nothing: only a list that begins later can tell that nothing runs.
    host.refuse_starts.store(true, Ordering::SeqCst);
    wait_until("a long poll waits", || host.polling.load(Ordering::SeqCst));
    assert!(fake.door.start_container(&id, &Fake::uuid(1), 1));
    wait_until("the start is known to have failed", || fake.door.view().containers[&Fake::uuid(1)].exited.is_some());
    assert!(host.waits_cut.load(Ordering::SeqCst) > 0, "not by the end of the wait");
    fake.stop();
}

#[test]
fn a_failing_create_and_a_failing_list_change_nothing() {
    let fake = Fake::start(|cloud| cloud.refuse_creates.store(true, Ordering::SeqCst));
    assert!(fake.create());
    wait_until("the create has failed", || fake.cloud.creates.load(Ordering::SeqCst) == 1 && fake.instances() == 0);
    fake.cloud.refuse_creates.store(false, Ordering::SeqCst);
    // A pause follows a failure, so that a broken cloud is no busy loop.
    wait_until("creates are accepted again", || fake.create());
    let id = fake.wait_idle(1);
    fake.cloud.refuse_lists.store(true, Ordering::SeqCst);
    let lists = fake.cloud.lists.load(Ordering::SeqCst);
    wait_until("lists fail", || fake.cloud.lists.load(Ordering::SeqCst) > lists + 2);
    assert_eq!(fake.state(&id), Some(WorkerState::Idle), "no worker disappears because a list failed");
    fake.stop();
}

/// Spec 40 §3: after a rate limit the cloud gets no create either that was ordered before it, and waited for a thread.
#[test]
fn creates_that_wait_are_not_sent_after_a_rate_limit() {
    const THREADS: usize = 64;
    let fake = Fake::start(|cloud| cloud.throttled.store(true, Ordering::SeqCst));
    for number in 0..THREADS + 10 {
        let secret = InstanceSecret::new(&format!("secret-{number}"));
        assert!(fake.door.create(&TypeName::new("small"), secret).is_some(), "{number}");
    }
    wait_until("all threads make one", || fake.cloud.creates.load(Ordering::SeqCst) == THREADS);
    fake.cloud.gate.open();
    wait_until("all have failed", || fake.instances() == 0);
    assert_eq!(fake.cloud.creates.load(Ordering::SeqCst), THREADS);
    fake.stop();
}

/// Spec 10 §6: what the driver knows of prices goes to the worker with each list, as one line where that is a long poll.
#[test]
fn prices_go_to_the_worker() {
    let fake = Fake::start(|_| {});
    assert!(fake.create());
    let host = fake.host(&fake.wait_idle(0));
    assert_eq!(*host.prices.lock(), None, "a driver that knows none");
    fake.stop();
    let point = |since, price| PricePoint { since, price };
    let prices = vec![point(1_764_000_000_500, 0.12), point(0, 1.0)];
    let fake = Fake::start(|cloud| *cloud.prices.lock() = prices);
    assert!(fake.create());
    let host = fake.host(&fake.wait_idle(0));
    wait_until("a long poll", || host.prices.lock().as_ref().is_some_and(|(_, is_long_poll)| *is_long_poll));
    let line =
        r#"[{"Price":0.12,"StartTime":"2025-11-24T16:00:00.5Z"},{"Price":1.0,"StartTime":"1970-01-01T00:00:00Z"}]"#;
    assert_eq!(host.prices.lock().as_ref().map(|(text, _)| text.clone()), Some(format!("{line}\n")));
    fake.stop();
}

/// Spec 20 §5: the next list is due in an hour, and an instance has an address when it was listed.
#[test]
fn an_address_that_comes_late_is_looked_for() {
    let fake = Fake::start(|cloud| {
        cloud.dear_lists.store(true, Ordering::SeqCst);
        cloud.late_addresses.store(true, Ordering::SeqCst);
    });
    assert!(fake.create());
    let id = InstanceId::new("i-0");
    wait_until("it is idle", || fake.state(&id) == Some(WorkerState::Idle));
    fake.stop();
}

/// Spec 46 §1: the driver says that a host is free, and the pause ends; also while lists are asked for all the time.
#[test]
fn news_of_a_free_host_are_heard_between_lists() {
    let fake = Fake::start(|cloud| cloud.no_capacity.store(true, Ordering::SeqCst));
    let (ended, goes_on) = crossbeam_channel::bounded::<()>(0);
    std::thread::scope(|scope| {
        let ask = fake.ask_for_list.clone();
        scope.spawn(move || {
            while goes_on.try_recv() == Err(crossbeam_channel::TryRecvError::Empty) {
                let _ = ask.try_send(());
                std::thread::yield_now();
            }
        });
        // Dropped also where an assertion fails.
        let _ended = ended;
        // A pause ends by itself as well; a machine that stood still for so long tries again.
        let heard = (0..2).any(|_| {
            assert!(fake.create());
            wait_until("the pause has begun", || !fake.door.limits_in_force().is_empty());
            let limits = fake.door.limits_in_force();
            let until = limits.first().and_then(|limit| limit.until).expect("a pause of the type");
            // Without room the first was not heard.
            let _ = fake.cloud_events.try_send(CloudEvent::Freed(TypeName::new("small")));
            wait_until("the pause has ended", || fake.door.limits_in_force().is_empty());
            fake.clock.now() < until
        });
        assert!(heard);
    });
    fake.stop();
}

/// An order to watch an instance that could not be carried out is repaired by the next sync.
#[test]
fn a_worker_that_could_not_be_opened_is_opened_later() {
    let fake = Fake::start(|cloud| cloud.refuse_opens.store(2, Ordering::SeqCst));
    assert!(fake.create());
    fake.wait_idle(0);
    assert_eq!(fake.cloud.refuse_opens.load(Ordering::SeqCst), 0);
    fake.stop();
}

/// An instance of another dispatcher in the driver's answer is never touched (spec 20 §10.3).
#[test]
fn instances_of_others_are_not_ours() {
    let fake = Fake::start(|cloud| cloud.add_foreign("i-foreign"));
    wait_until("lists were applied", || fake.cloud.lists.load(Ordering::SeqCst) > 3);
    assert_eq!(fake.instances(), 0);
    assert!(fake.cloud.instances.lock().contains_key("i-foreign"));
    fake.stop();
}

/// A kill whose answer nobody awaits any more is not sent: it was ordered again, or what it was for is over.
#[test]
fn an_old_kill_is_not_sent() {
    let fake = Fake::start(|_| {});
    assert!(fake.create());
    let instance = fake.wait_idle(0);
    let uuid = Fake::uuid(1);
    assert!(fake.door.start_container(&instance, &uuid, 1));
    fake.wait_runs(&uuid);
    let host = fake.host(&instance);
    let order = RunnerOrder { operation: OperationId(0), instance, uuid: uuid.clone(), attempt: 1 };
    assert_eq!(fake.containers.carry_out(&Work::Kill(order)), None);
    assert!(host.finish(&uuid), "it runs still");
    wait_until("its result was collected", || host.forgotten.lock().contains(&uuid));
    fake.stop();
}

/// Many workers and containers with hosts that fail at random: all settle, all threads end.
#[test]
fn many_containers_on_flaky_hosts() {
    let fake = Fake::start(|_| {});
    let mut ids = Vec::new();
    for number in 0..8 {
        assert!(fake.create());
        ids.push(fake.wait_idle(number));
    }
    for id in &ids {
        fake.host(id).flaky.store(true, Ordering::SeqCst);
    }
    let uuids: Vec<_> = (0..200).map(Fake::uuid).collect();
    for (number, uuid) in uuids.iter().enumerate() {
        assert!(fake.door.start_container(&ids[number % ids.len()], uuid, 1));
    }
    let hosts: Vec<Arc<Host>> = ids.iter().map(|id| fake.host(id)).collect();
    for uuid in &uuids {
        wait_until("it is there, or has ended", || {
            hosts.iter().any(|host| host.finish(uuid) || host.forgotten.lock().contains(uuid)) || fake.exited(uuid)
        });
    }
    wait_until("all have ended", || {
        let view = fake.door.view();
        view.instances.values().all(|one| one.containers.is_empty() && one.collecting.is_empty())
    });
    fake.stop();
}
