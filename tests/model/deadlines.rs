//! State with effects and deadlines, and the thread that carries them out.

use shuttle::thread;

use crate::check;
use crate::outbox::{Outbox, Timed, next_turn};
use crate::primitives::{Arc, Duration, Instant, Mutex, Receiver, Stop, pass};

/// It never comes.
const NET: Duration = Duration::MAX;
const SOON: Duration = Duration::from_millis(10);
const LATE: Duration = Duration::from_secs(10);

/// Things to do, by time.
#[derive(Default)]
struct State {
    due: Vec<Instant>,
    /// What was due is done.
    done: bool,
}

impl Timed for State {
    type Moment = Instant;

    fn next_deadline(&self) -> Option<Instant> {
        self.due.iter().min().copied()
    }
}

impl State {
    /// Does what is due. It has no effects.
    fn tick(&mut self) {
        let now = Instant::now();
        self.done |= self.due.iter().any(|due| *due <= now);
        self.due.retain(|due| *due > now);
    }
}

type Shared = Outbox<State, u32>;

/// As the central thread's, until what was due is done or it has got `all`; what it got.
fn central(outbox: &Shared, batches: &Receiver<Vec<u32>>, all: usize, stop: &Stop) -> Vec<u32> {
    let mut got: Vec<u32> = Vec::new();
    while let Some(turn) = next_turn(|| outbox.read(Timed::next_deadline), batches, NET, stop) {
        if turn.is_due {
            outbox.apply(|state| (state.tick(), Vec::new()));
        }
        if outbox.read(|state| state.done) {
            break;
        }
        got.extend(turn.batch.into_iter().flatten());
        if got.len() == all {
            break;
        }
    }
    got
}

/// A deadline that is set while the thread goes to sleep, for ever or until another one, is kept.
fn kept(first: Option<Duration>) {
    let due = first.map(Instant::at).into_iter().collect();
    let (outbox, batches) = Outbox::new(State { due, done: false }, 8);
    let outbox: Arc<Shared> = Arc::new(outbox);
    let of_thread = outbox.clone();
    let thread = thread::spawn(move || central(&of_thread, &batches, usize::MAX, &Stop::new()));
    outbox.apply(|state| (state.due.push(Instant::at(SOON)), Vec::new()));
    pass(SOON);
    // It ends when what was due is done. Nobody wakes it but for that.
    assert_eq!(thread.join().expect("it ends"), []);
    assert_eq!(outbox.overflowed(), 0);
}

/// Deadlines set while the central thread goes to sleep are not missed.
#[test]
fn a_deadline_set_while_the_central_thread_goes_to_sleep_is_not_missed() {
    check(|| kept(None));
}

/// The same when it sleeps until a later one.
#[test]
fn an_earlier_deadline_shortens_the_sleep() {
    check(|| kept(Some(LATE)));
}

/// However many batches come: what is due is done.
#[test]
fn a_batch_does_not_keep_a_deadline_back() {
    shuttle::check_dfs(
        || {
            let (outbox, batches) = Outbox::new(State { due: vec![Instant::now()], done: false }, 8);
            outbox.apply(|_| ((), vec![1]));
            let turn = next_turn(|| outbox.read(Timed::next_deadline), &batches, NET, &Stop::new());
            assert!(turn.is_some_and(|turn| turn.is_due && turn.batch == Some(vec![1])));
        },
        None,
    );
}

/// Effects of several threads' events leave in the order of the events, and none is lost.
#[test]
fn effects_come_in_the_order_of_their_events() {
    check(|| {
        let (outbox, batches) = Outbox::new(State::default(), 8);
        let outbox: Arc<Shared> = Arc::new(outbox);
        let order = Arc::new(Mutex::new(Vec::new()));
        let of_thread = outbox.clone();
        let thread = thread::spawn(move || central(&of_thread, &batches, 8, &Stop::new()));
        let others = [10, 20].map(|name| {
            let (outbox, order) = (outbox.clone(), order.clone());
            thread::spawn(move || {
                for name in [name, name + 2] {
                    outbox.apply(|_| {
                        order.lock().extend([name, name + 1]);
                        ((), vec![name, name + 1])
                    });
                }
            })
        });
        for other in others {
            other.join().expect("it ends");
        }
        assert_eq!(thread.join().expect("it ends"), *order.lock());
        assert_eq!(outbox.overflowed(), 0);
    });
}
