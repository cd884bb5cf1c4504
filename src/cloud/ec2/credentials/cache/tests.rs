//! Time is a number here, and the source does what it is told.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicI64, Ordering};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::*;
use crate::cloud::ec2::credentials::Secret;

const MINUTE: WallMillis = 60_000;

fn credentials(id: &str, lifetime: Lifetime) -> Credentials {
    Credentials { access_key_id: id.into(), secret_access_key: Secret::new("s"), session_token: None, lifetime }
}

/// Gives its answers one after the other; each when it is let go, if there is somebody to do that.
#[derive(Debug)]
struct Script {
    answers: Mutex<VecDeque<Result<Credentials, &'static str>>>,
    /// Told that a search has begun, and waited for.
    steps: Option<(Sender<()>, Receiver<()>)>,
}

impl Source for Script {
    fn find(&self) -> Result<Credentials, QueryError> {
        if let Some((began, go)) = &self.steps {
            began.send(()).expect("the test waits");
            go.recv().expect("the test lets go");
        }
        let answer = self.answers.lock().pop_front().expect("no more searches than answers");
        answer.map_err(QueryError::other)
    }
}

struct Fixture {
    cache: Cache,
    now: Arc<AtomicI64>,
}

impl Fixture {
    fn new(answers: Vec<Result<Credentials, &'static str>>) -> Self {
        Self::with_steps(answers, None)
    }

    fn with_steps(answers: Vec<Result<Credentials, &'static str>>, steps: Option<(Sender<()>, Receiver<()>)>) -> Self {
        let now = Arc::new(AtomicI64::new(0));
        let read = Arc::clone(&now);
        let clock = WallClock::new(move || read.load(Ordering::SeqCst));
        Self { cache: Cache::new(Script { answers: Mutex::new(answers.into()), steps }, clock), now }
    }

    /// The key id that is got at a time, or the error.
    fn at(&self, now: WallMillis) -> Result<String, String> {
        self.now.store(now, Ordering::SeqCst);
        self.got()
    }

    fn got(&self) -> Result<String, String> {
        self.cache.get().map(|one| one.access_key_id.clone()).map_err(|error| error.to_string())
    }
}

#[test]
fn new_ones_are_looked_for_five_minutes_before_the_end() {
    let until = |id, minutes: WallMillis| Ok(credentials(id, Lifetime::Until(minutes * MINUTE)));
    let fixture = Fixture::new(vec![until("one", 60), until("two", 120)]);
    for (now, expected) in [(0, "one"), (55 * MINUTE - 1, "one"), (55 * MINUTE, "two"), (114 * MINUTE, "two")] {
        assert_eq!(fixture.at(now).as_deref(), Ok(expected), "{now}");
    }
}

#[test]
fn fixed_ones_are_found_once_and_files_are_read_again() {
    let fixture = Fixture::new(vec![Ok(credentials("one", Lifetime::Fixed))]);
    fixture.at(0).expect("found");
    fixture.cache.doubt();
    assert_eq!(fixture.at(WallMillis::MAX / 2).as_deref(), Ok("one"));

    let read = |id| Ok(credentials(id, Lifetime::Reread));
    let fixture = Fixture::new(vec![read("one"), read("two"), read("three"), Err("gone")]);
    for (now, expected) in [(0, "one"), (5 * MINUTE - 1, "one"), (5 * MINUTE, "two"), (6 * MINUTE, "two")] {
        assert_eq!(fixture.at(now).as_deref(), Ok(expected), "{now}");
    }
    fixture.cache.doubt();
    assert_eq!(fixture.at(6 * MINUTE).as_deref(), Ok("three"));
    assert_eq!(fixture.at(11 * MINUTE).as_deref(), Ok("three"));
}

/// Refusals in a row: new ones are looked for, but not each time.
#[test]
fn doubts_are_looked_into_now_and_then() {
    let until = |id| Ok(credentials(id, Lifetime::Until(60 * MINUTE)));
    let fixture = Fixture::new(vec![until("one"), until("two"), Err("no"), until("three"), until("four")]);
    for (now, expected) in [
        (0, "one"),
        (1_000, "one"),
        (9_999, "one"),
        (10_000, "two"),
        (10_001, "two"),
        (19_999, "two"),
        // It fails, and is not tried again at once.
        (20_000, "two"),
        (29_999, "two"),
        (30_000, "three"),
        // The clock was set back.
        (100, "three"),
        (10_100, "four"),
    ] {
        assert_eq!(fixture.at(now).as_deref(), Ok(expected), "{now}");
        fixture.cache.doubt();
    }
}

#[test]
fn while_new_ones_cannot_be_had_the_old_ones_serve_to_their_end() {
    let until = |id, minutes: WallMillis| Ok(credentials(id, Lifetime::Until(minutes * MINUTE)));
    let fixture = Fixture::new(vec![until("one", 60), Err("no"), Err("no"), Err("over"), until("two", 200)]);
    assert_eq!(fixture.at(0).as_deref(), Ok("one"));
    assert_eq!(fixture.at(55 * MINUTE).as_deref(), Ok("one"));
    // Not asked again at once.
    assert_eq!(fixture.at(55 * MINUTE + 9_999).as_deref(), Ok("one"));
    assert_eq!(fixture.cache.source_answers_left(), 3);
    assert_eq!(fixture.at(55 * MINUTE + 10_000).as_deref(), Ok("one"));
    assert_eq!(fixture.cache.source_answers_left(), 2);
    assert_eq!(fixture.at(60 * MINUTE), Err("over".to_owned()));
    // The error stands for three seconds, for whoever asks.
    assert_eq!(fixture.at(60 * MINUTE + 2_999), Err("over".to_owned()));
    assert_eq!(fixture.at(60 * MINUTE + 3_000).as_deref(), Ok("two"));
}

impl Cache {
    /// How often the script can still be asked.
    fn source_answers_left(&self) -> usize {
        let shown = format!("{:?}", self.source);
        shown.matches("Ok(").count() + shown.matches("Err(").count()
    }
}

#[test]
fn a_clock_that_is_set_back_does_not_make_an_error_stand() {
    let fixture = Fixture::new(vec![Err("no"), Ok(credentials("one", Lifetime::Fixed))]);
    assert_eq!(fixture.at(60 * MINUTE), Err("no".to_owned()));
    assert_eq!(fixture.at(0).as_deref(), Ok("one"));
}

#[test]
fn what_has_ended_or_is_about_to_end_when_it_comes() {
    let until = |id, end: WallMillis| Ok(credentials(id, Lifetime::Until(end)));
    let fixture = Fixture::new(vec![until("ended", 1000), until("short", MINUTE), until("long", 60 * MINUTE)]);
    let error = fixture.at(1000).expect_err("over");
    assert!(error.contains("have ended already"), "{error}");
    assert_eq!(fixture.at(5_000).as_deref(), Ok("short"));
    assert_eq!(fixture.at(14_999).as_deref(), Ok("short"));
    assert_eq!(fixture.at(15_000).as_deref(), Ok("long"));
}

#[test]
fn others_use_the_old_ones_while_one_looks() {
    let until = |id, minutes: WallMillis| Ok(credentials(id, Lifetime::Until(minutes * MINUTE)));
    let ((began, has_begun), (go, may_go)) = (bounded(0), bounded(1));
    let fixture = Fixture::with_steps(vec![until("one", 60), until("two", 120)], Some((began, may_go)));
    let (tell, told) = bounded(1);
    std::thread::scope(|scope| {
        let first = scope.spawn(|| fixture.at(0));
        has_begun.recv().expect("it looks");
        // Nobody has any: a second one waits for the first one's.
        let second = scope.spawn(|| fixture.got());
        go.send(()).expect("it waits");
        assert_eq!(first.join().expect("no panic").as_deref(), Ok("one"));
        assert_eq!(second.join().expect("no panic").as_deref(), Ok("one"));

        let first = scope.spawn(|| fixture.at(56 * MINUTE));
        has_begun.recv().expect("it looks");
        scope.spawn(|| tell.send(fixture.got()).expect("kept"));
        // One that waited for the search would never tell: the limit is for that, and nothing else takes so long.
        let other = told.recv_timeout(Duration::from_secs(20));
        go.send(()).expect("it waits");
        assert_eq!(other, Ok(Ok("one".to_owned())));
        assert_eq!(first.join().expect("no panic").as_deref(), Ok("two"));
        assert_eq!(fixture.got().as_deref(), Ok("two"));
    });
}
