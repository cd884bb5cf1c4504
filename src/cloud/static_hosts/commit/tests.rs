//! A disk that is slow, hangs or fails: what waits for it, what does not, and what is true afterwards.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use parking_lot::Mutex;
use serde_json::Value;

use super::*;
use crate::cloud::CloudEvent;
use crate::cloud::static_hosts::host::tests::{lease, spec};
use crate::cloud::static_hosts::host::{Kind, Problem};
use crate::cloud::static_hosts::record;
use crate::cloud::static_hosts::trust::PinAnswer;
use crate::core::effect::{Ending, Tags};
use crate::remote::identity::HostTrust;
use crate::remote::{Connector, HostAccess};

const LIMIT: Duration = Duration::from_secs(60);
const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIP7wl7ph/6MNRgATP0w+uDH49iBd43LFbVSi2z5sDBGT";

/// Each write is announced with its text, and ends as the test says; without a test that says so it succeeds at once.
struct Disk {
    begun: Sender<Value>,
    endings: Option<Receiver<io::Result<()>>>,
    content: Arc<Mutex<Value>>,
}

impl Keep for Disk {
    fn replace(&self, bytes: &[u8]) -> io::Result<()> {
        let text: Value = serde_json::from_slice(bytes)?;
        let _ = self.begun.send(text.clone());
        if let Some(endings) = &self.endings {
            // A test that has failed says nothing any more: whoever waits goes on.
            endings.recv_timeout(LIMIT).unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
        }
        *self.content.lock() = text;
        Ok(())
    }
}

#[derive(Debug)]
struct Nowhere;

impl Connector for Nowhere {
    fn executor(&self, _access: HostAccess) -> io::Result<Arc<dyn Executor>> {
        Err(io::Error::other("no host is there"))
    }
}

struct Stage {
    shared: Arc<Shared>,
    begun: Receiver<Value>,
    /// How the write ends that has begun.
    end: Sender<io::Result<()>>,
    content: Arc<Mutex<Value>>,
    events: Receiver<CloudEvent>,
}

fn stage(hosts: usize, held: bool) -> Stage {
    let specs = (0..hosts).map(|number| {
        let mut one = spec(&format!("h{number:03}"), "big");
        one.trust = HostTrust::FirstUse;
        one
    });
    let now = Moment::since_start(Duration::ZERO);
    let table = record::read(None, specs.collect(), "set", record::Times { now, began: 0 }).expect("nothing to read");
    let (begun, announced) = unbounded();
    let (end, endings) = bounded(100);
    let content = Arc::new(Mutex::new(Value::Null));
    let disk = Disk { begun, endings: held.then_some(endings), content: content.clone() };
    let (sender, events) = bounded(10_000);
    let clock: crate::cloud::static_hosts::Clock = Arc::new(move || now);
    let kept = (table, Box::new(disk) as Box<dyn Keep>, "/state".into());
    let shared = Arc::new(Shared::new("set".to_owned(), Arc::new(Nowhere), clock, sender, kept, |_| {}));
    Stage { shared, begun: announced, end, content, events }
}

fn full() -> io::Result<()> {
    Err(io::Error::from(io::ErrorKind::StorageFull))
}

impl Stage {
    fn wait_begun(&self) -> Value {
        self.begun.recv_timeout(LIMIT).expect("a write begins")
    }

    fn take(&self) -> Result<String, String> {
        let taken = self.shared.take(&lease("big")).map_err(|error| crate::core::errors::chain(&error))?;
        taken.map(|spec| spec.id.to_string()).map_err(|shortage| shortage.to_string())
    }

    fn phase(&self, name: &str) -> String {
        self.content.lock()["hosts"][name]["phase"].as_str().unwrap_or("free").to_owned()
    }

    fn listed(&self) -> Vec<String> {
        self.shared.list().iter().map(|one| one.id.to_string()).collect()
    }

    /// A host that is taken, on a disk that is held.
    fn taken(&self) {
        for _ in 0..2 {
            self.end.send(Ok(())).expect("room");
        }
        let name = self.take().expect("free");
        self.shared.change(&InstanceId::new(&name), Event::Claimed).expect("written");
        let _ = (self.wait_begun(), self.wait_begun());
    }
}

fn wait_while(mut condition: impl FnMut() -> bool) {
    let until = Instant::now() + LIMIT;
    while condition() {
        if Instant::now() > until {
            // Threads that wait for each other would keep the test from failing.
            std::process::abort();
        }
        std::thread::yield_now();
    }
}

fn h0() -> InstanceId {
    InstanceId::new("h000")
}

/// Who changes something waits for the disk; who looks does not, and sees no change that is not on disk.
#[test]
fn a_disk_that_hangs_holds_up_changes_only() {
    let stage = stage(2, true);
    std::thread::scope(|scope| {
        let first = scope.spawn(|| stage.take());
        assert_eq!(stage.wait_begun()["hosts"]["h000"]["phase"], "claiming");
        let second = scope.spawn(|| stage.take());
        wait_while(|| stage.shared.read(|table, _| table.planned.len()) < 2);
        assert!(!first.is_finished() && !second.is_finished());
        assert!(stage.listed().is_empty());
        assert!(stage.shared.read(Table::unlisted).is_empty());
        assert!(stage.shared.spec(&h0()).is_some() && stage.shared.pinned(&h0()).is_none());
        // Both are given to somebody already.
        assert_eq!(stage.take(), Err("2 busy".to_owned()));
        stage.end.send(Ok(())).expect("room");
        assert_eq!(first.join().expect("no panic"), Ok("h000".to_owned()));
        assert_eq!(stage.phase("h001"), "free", "the second is in the next write");
        assert_eq!(stage.wait_begun()["hosts"]["h001"]["phase"], "claiming");
        stage.end.send(Ok(())).expect("room");
        assert_eq!(second.join().expect("no panic"), Ok("h001".to_owned()));
    });
    // Taken is listed when it is on disk, and gone when the end of the clean-up is.
    let changes = [
        (Event::Claimed, "taken", vec![], vec!["h000"]),
        (Event::Destroyed { of: None, ending: Ending::Unwanted }, "cleaning", vec!["h000"], vec!["h000"]),
    ];
    for (event, phase, before, after) in changes {
        std::thread::scope(|scope| {
            let change = scope.spawn(|| stage.shared.change(&h0(), event));
            assert_eq!(stage.wait_begun()["hosts"]["h000"]["phase"], phase);
            assert_eq!(stage.listed(), before, "{phase}");
            if phase == "cleaning" {
                assert!(stage.shared.read(|table, now| table.due_cleanings(16, now)).is_empty(), "not begun before");
            }
            stage.end.send(Ok(())).expect("room");
            change.join().expect("no panic").expect("written");
        });
        assert_eq!(stage.listed(), after, "{phase}");
    }
    assert_eq!(stage.shared.next_cleanings().expect("not stopped").len(), 1);
    std::thread::scope(|scope| {
        let freed = scope.spawn(|| stage.shared.change(&h0(), Event::Cleaned));
        assert!(stage.wait_begun()["hosts"].get("h000").is_none());
        assert_eq!(stage.listed(), ["h000"]);
        assert_eq!(stage.take(), Err("1 busy, 1 being cleaned up".to_owned()));
        stage.end.send(Ok(())).expect("room");
        freed.join().expect("no panic").expect("written");
    });
    assert!(stage.listed().is_empty());
    assert!(stage.events.try_iter().any(|event| event == CloudEvent::ListChanged));
}

/// All of a batch fails together, nothing of it has happened, and what was said is in everybody's error.
#[test]
fn a_disk_that_fails_undoes_what_waited_for_it() {
    let stage = stage(4, true);
    stage.taken();
    let tags = Tags::from_iter([("a".to_owned(), "b".to_owned())]);
    std::thread::scope(|scope| {
        let first = scope.spawn(|| stage.take());
        stage.wait_begun();
        let second = scope.spawn(|| stage.take());
        let third = scope.spawn(|| stage.shared.change(&h0(), Event::TagsSet { of: None, tags }));
        let fourth = scope.spawn(|| stage.shared.pin(&InstanceId::new("h003"), &HostKey::parse(KEY).expect("a key")));
        wait_while(|| stage.shared.read(|table, _| table.planned.len() + table.planned_pins.len()) < 4);
        stage.end.send(full()).expect("room");
        let together = stage.wait_begun();
        assert_eq!(together["hosts"]["h000"]["tags"]["a"], "b");
        assert_eq!(together["pins"]["h003"], KEY);
        assert_eq!(together["hosts"].as_object().expect("a map").len(), 2, "the first is not in it any more");
        stage.end.send(full()).expect("room");
        for result in [first.join(), second.join()] {
            let error = result.expect("no panic").expect_err("full");
            assert!(error.starts_with("cannot keep in /state which hosts are taken: "), "{error}");
        }
        third.join().expect("no panic").expect_err("full");
        assert!(matches!(fourth.join(), Ok(PinAnswer::NotKept(_))));
    });
    assert_eq!(stage.phase("h001"), "free");
    assert!(!stage.shared.list()[0].tags.contains_key("a"));
    stage.shared.read(|table, _| {
        assert!(table.planned.is_empty() && table.planned_pins.is_empty() && table.pins.is_empty());
        assert_eq!(table.shortage(&crate::core::ids::TypeName::new("big")).to_string(), "1 busy, 3 not tried");
    });
    // What happened in the world stays, and is written when that works again.
    stage.end.send(Ok(())).expect("room");
    assert_eq!(stage.take(), Ok("h001".to_owned()));
    stage.wait_begun();
    stage.end.send(full()).expect("room");
    let problem = Problem { kind: Kind::Failed, detail: "why".to_owned() };
    stage.shared.note(&InstanceId::new("h001"), Event::ClaimFailed { problem, left: None });
    stage.wait_begun();
    assert_eq!(stage.phase("h001"), "claiming");
    std::thread::scope(|scope| {
        let background = scope.spawn(|| stage.shared.next_cleanings());
        assert!(stage.wait_begun()["hosts"].get("h001").is_none());
        stage.end.send(Ok(())).expect("room");
        wait_while(|| stage.phase("h001") != "free");
        stage.shared.stop();
        assert!(background.join().expect("no panic").is_none());
    });
}

/// The end waits for no disk, and nobody waits beyond it.
#[test]
fn stopping_does_not_wait_for_the_disk() {
    let stage = stage(3, true);
    std::thread::scope(|scope| {
        let writes = scope.spawn(|| stage.take());
        stage.wait_begun();
        let waits = scope.spawn(|| stage.take());
        wait_while(|| stage.shared.read(|table, _| table.planned.len()) < 2);
        stage.shared.stop();
        assert_eq!(waits.join().expect("no panic"), Err("the driver has stopped".to_owned()));
        assert_eq!(stage.take(), Err("the driver has stopped".to_owned()));
        assert!(!writes.is_finished());
        stage.end.send(Ok(())).expect("room");
        assert_eq!(writes.join().expect("no panic"), Ok("h000".to_owned()), "it is on disk, so it has happened");
    });
    assert!(stage.begun.try_recv().is_err(), "no write begins after the end");
}

/// Two that change one host, one after the other: the second sees what the first made of it.
#[test]
fn one_change_of_a_host_at_a_time() {
    let stage = stage(1, true);
    stage.taken();
    std::thread::scope(|scope| {
        let destroy =
            scope.spawn(|| stage.shared.change(&h0(), Event::Destroyed { of: None, ending: Ending::Unwanted }));
        stage.wait_begun();
        let tags = scope.spawn(|| stage.shared.change(&h0(), Event::TagsSet { of: None, tags: Tags::new() }));
        let again = scope.spawn(|| stage.shared.change(&h0(), Event::Destroyed { of: None, ending: Ending::Unwanted }));
        stage.end.send(Ok(())).expect("room");
        for change in [destroy, tags, again] {
            change.join().expect("no panic").expect("written, or nothing to do");
        }
    });
    assert!(stage.begun.try_recv().is_err(), "what changes nothing is not written");
    assert_eq!(stage.phase("h000"), "cleaning");
    assert_eq!(stage.shared.list()[0].tags, lease("big").tags, "it was going already");
}

/// 500 creates at once are a few writes, not 500: those that come during a write share the next.
#[test]
fn changes_at_once_are_written_together() {
    const HOSTS: usize = 500;
    let stage = stage(HOSTS, true);
    let names: BTreeSet<String> = std::thread::scope(|scope| {
        let takes: Vec<_> = (0..HOSTS).map(|_| scope.spawn(|| stage.take().expect("free"))).collect();
        stage.wait_begun();
        wait_while(|| stage.shared.read(|table, _| table.planned.len()) < HOSTS);
        stage.end.send(Ok(())).expect("room");
        let second = stage.wait_begun();
        assert_eq!(second["hosts"].as_object().expect("a map").len(), HOSTS);
        stage.end.send(Ok(())).expect("room");
        takes.into_iter().map(|take| take.join().expect("no panic")).collect()
    });
    assert_eq!(names.len(), HOSTS, "each its own");
    assert!(stage.begun.try_recv().is_err(), "two writes for all");
    assert_eq!(stage.content.lock()["hosts"].as_object().expect("a map").len(), HOSTS);
}

/// Whatever the order, and whatever fails: what is listed is what is on disk, and what is on disk is what everybody was told.
#[test]
fn the_disk_says_what_everybody_was_told() {
    let stage = stage(8, false);
    std::thread::scope(|scope| {
        for worker in 0..8 {
            let stage = &stage;
            scope.spawn(move || {
                for round in 0..50 {
                    let Ok(Ok(one)) = stage.shared.take(&lease("big")) else { continue };
                    assert_eq!(stage.phase(one.id.as_str()), "claiming");
                    stage.shared.change(&one.id, Event::Claimed).expect("written");
                    let mark = Tags::from_iter([("mark".to_owned(), format!("{worker} {round}"))]);
                    stage.shared.change(&one.id, Event::TagsSet { of: None, tags: mark }).expect("written");
                    let kept = stage.content.lock()["hosts"][one.id.as_str()].clone();
                    assert_eq!(
                        (kept["phase"].as_str(), kept["tags"]["mark"].as_str()),
                        (Some("taken"), Some(&*format!("{worker} {round}")))
                    );
                    stage
                        .shared
                        .change(&one.id, Event::Destroyed { of: None, ending: Ending::Unwanted })
                        .expect("written");
                    stage.shared.note(&one.id, Event::CleaningBegan);
                    assert_eq!(stage.phase(one.id.as_str()), "cleaning");
                    stage.shared.change(&one.id, Event::Cleaned).expect("written");
                    stage.listed();
                }
            });
        }
    });
    assert!(stage.content.lock()["hosts"].as_object().expect("a map").is_empty());
    assert!(stage.listed().is_empty());
}
