//! The action lanes of all workers (spec 45 §2): starts, kills and collections never wait behind a probe, and those of one worker
//! never behind those of another. Driven by a shared pool of threads, so a worker costs one permanent thread.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;

use super::work_pool::{Refused, WorkPool};
use crate::core::effect::RunnerOrder;
use crate::core::ids::InstanceId;
use crate::remote::Lane;

/// Threads for all lanes together (spec 45 §2).
const THREADS_MAX: usize = 256;
/// Of these for bulk: a collection from a host that does not answer may take minutes, and there may be many such hosts.
const BULK_THREADS_MAX: usize = 64;
/// Lanes with work that wait for a thread: each worker has two.
const TURNS_MAX: usize = 100_000;
/// Work that waits in one lane. The core has at most one start, kill, reap and collect open per container.
const LANE_MAX: usize = 10_000;

/// One thing to do on one worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Work {
    Start(RunnerOrder),
    Kill(RunnerOrder),
    Reap(RunnerOrder),
    Collect(RunnerOrder),
    Forget(RunnerOrder),
    /// Remove the files of an attempt that was lost; nobody waits for the answer.
    Discard(RunnerOrder),
}

impl Work {
    pub const fn order(&self) -> &RunnerOrder {
        match self {
            Self::Start(order)
            | Self::Kill(order)
            | Self::Reap(order)
            | Self::Collect(order)
            | Self::Forget(order)
            | Self::Discard(order) => order,
        }
    }

    const fn lane(&self) -> Lane {
        match self {
            Self::Collect(_) => Lane::Bulk,
            _ => Lane::Action,
        }
    }
}

type Key = (InstanceId, Lane);

#[derive(Debug, Default)]
struct LaneState {
    waiting: VecDeque<Work>,
    running: usize,
}

/// A thread's turn in a lane: it does the lane's work until none waits.
#[derive(Debug)]
struct Turn {
    key: Key,
    first: Work,
}

#[derive(Debug, Default)]
struct State {
    lanes: BTreeMap<Key, LaneState>,
    /// Threads in bulk lanes, and turns that wait for one of them to be free.
    bulk_threads: usize,
    bulk_waiting: VecDeque<Turn>,
}

type States = Mutex<State>;

/// See the module.
#[derive(Clone, Debug)]
pub struct Lanes {
    states: Arc<States>,
    threads: WorkPool<Turn>,
}

impl Lanes {
    /// `carry_out` does one piece of work, blocking. What it returns is handed to its own lane, with that lane's width: a lane never
    /// waits for another one.
    pub fn new(carry_out: impl Fn(Work) -> Option<(Work, usize)> + Send + Sync + 'static) -> Self {
        let states = Arc::new(States::default());
        let of_turn = states.clone();
        let threads = WorkPool::with_more("lane", THREADS_MAX, TURNS_MAX, move |turn: Turn, threads| {
            let mut next = Some(turn);
            while let Some(Turn { key, first }) = next {
                if let Some((more, width)) = carry_out(first) {
                    let lanes = Self { states: of_turn.clone(), threads: threads.clone() };
                    // If it is not taken the operation's deadline in the core finds that out, as ever.
                    let _ = lanes.submit(more, width);
                }
                next = after(&of_turn, key);
            }
        });
        Self { states, threads }
    }

    /// Hands work to its lane, of which at most `width` pieces run at once. Never blocks.
    ///
    /// # Errors
    /// The work is dropped; the operation's deadline in the core finds that out.
    pub fn submit(&self, work: Work, width: usize) -> Result<(), Refused> {
        let key = (work.order().instance.clone(), work.lane());
        {
            let mut states = self.states.lock();
            let state = &mut *states;
            if key.1 == Lane::Bulk && state.bulk_waiting.len() >= TURNS_MAX {
                return Err(Refused::Full);
            }
            let lane = state.lanes.entry(key.clone()).or_default();
            if lane.running >= width.max(1) {
                if lane.waiting.len() >= LANE_MAX {
                    return Err(Refused::Full);
                }
                lane.waiting.push_back(work);
                return Ok(());
            }
            if key.1 == Lane::Bulk {
                if state.bulk_threads >= BULK_THREADS_MAX {
                    lane.running += 1;
                    state.bulk_waiting.push_back(Turn { key, first: work });
                    return Ok(());
                }
                state.bulk_threads += 1;
            }
            lane.running += 1;
        }
        let result = self.threads.submit(Turn { key: key.clone(), first: work });
        if result.is_err() {
            give_up(&self.states, &key);
        }
        result
    }

    /// See [`WorkPool::stop`].
    ///
    /// # Errors
    /// Names of the threads that are late.
    pub fn stop(&self, deadline: Instant) -> Result<(), Vec<String>> {
        {
            let mut states = self.states.lock();
            states.bulk_waiting.clear();
            states.lanes.values_mut().for_each(|lane| lane.waiting.clear());
        }
        self.threads.stop(deadline)
    }
}

/// A piece of the lane's work has ended: the next one, or that of a lane that waits for the thread, or the turn ends. A lane that always
/// has more to do waits for its next turn behind the others.
fn after(states: &States, key: Key) -> Option<Turn> {
    let mut states = states.lock();
    if let Some(first) = states.lanes.get_mut(&key).and_then(|lane| lane.waiting.pop_front()) {
        let turn = Turn { key, first };
        if turn.key.1 != Lane::Bulk {
            return Some(turn);
        }
        states.bulk_waiting.push_back(turn);
        return states.bulk_waiting.pop_front();
    }
    leave(&mut states, &key);
    if key.1 != Lane::Bulk {
        return None;
    }
    let next = states.bulk_waiting.pop_front();
    states.bulk_threads -= usize::from(next.is_none());
    next
}

/// No thread took the turn. Without another one in the lane nobody would come for what waits: it is dropped as well.
fn give_up(states: &States, key: &Key) {
    let mut states = states.lock();
    leave(&mut states, key);
    states.bulk_threads -= usize::from(key.1 == Lane::Bulk);
}

fn leave(state: &mut State, key: &Key) {
    if let Some(lane) = state.lanes.get_mut(key) {
        lane.running -= 1;
        if lane.running == 0 {
            state.lanes.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crossbeam_channel::{bounded, unbounded};

    use super::*;
    use crate::core::ids::{ContainerUuid, OperationId};

    fn order(instance: &str, number: u64) -> RunnerOrder {
        let uuid = ContainerUuid::parse(&format!("local-dz642-{number:015}")).expect("well formed");
        RunnerOrder { operation: OperationId(number), instance: InstanceId::new(instance), uuid, attempt: 1 }
    }

    #[test]
    fn a_hanging_worker_delays_nobody_else_and_a_collection_no_kill() {
        let (gate, closed) = bounded::<()>(0);
        let (report, reports) = unbounded();
        let lanes = Lanes::new(move |work| {
            let hangs = work.order().instance.as_str() == "hangs" && matches!(work, Work::Collect(_));
            if hangs {
                let _ = closed.recv();
            }
            report.send(work).expect("the test reads");
            None
        });
        lanes.submit(Work::Collect(order("hangs", 1)), 1).expect("taken");
        lanes.submit(Work::Collect(order("hangs", 2)), 1).expect("taken");
        lanes.submit(Work::Kill(order("hangs", 3)), 1).expect("taken");
        lanes.submit(Work::Collect(order("other", 4)), 1).expect("taken");
        let mut done: Vec<_> = (0..2).map(|_| reports.recv().expect("done").order().operation.0).collect();
        done.sort_unstable();
        assert_eq!(done, [3, 4]);
        drop(gate);
        let rest: Vec<_> = (0..2).map(|_| reports.recv().expect("done").order().operation.0).collect();
        assert_eq!(rest, [1, 2], "in order");
        lanes.stop(Instant::now() + Duration::from_secs(60)).expect("ends");
        assert!(lanes.states.lock().lanes.is_empty());
    }

    /// What follows a collection has a lane of its own: while that is busy the next collection does not wait.
    #[test]
    fn what_follows_a_collection_holds_up_no_other() {
        let (gate, closed) = bounded::<()>(0);
        let (report, reports) = unbounded();
        let lanes = Lanes::new(move |work| {
            if matches!(work, Work::Start(_)) {
                let _ = closed.recv();
            }
            let more = matches!(work, Work::Collect(_)).then(|| (Work::Forget(work.order().clone()), 1));
            report.send(work).expect("the test reads");
            more
        });
        let done = || reports.recv_timeout(Duration::from_secs(60)).expect("done");
        lanes.submit(Work::Start(order("one", 1)), 1).expect("taken");
        lanes.submit(Work::Collect(order("one", 2)), 1).expect("taken");
        lanes.submit(Work::Collect(order("one", 3)), 1).expect("taken");
        assert_eq!([done(), done()], [Work::Collect(order("one", 2)), Work::Collect(order("one", 3))]);
        drop(gate);
        let rest = [done(), done(), done()];
        assert_eq!(rest, [Work::Start(order("one", 1)), Work::Forget(order("one", 2)), Work::Forget(order("one", 3))]);
        lanes.stop(Instant::now() + Duration::from_secs(60)).expect("ends");
        assert!(lanes.states.lock().lanes.is_empty());
    }

    /// However many hosts do not answer a collection: there are threads for kills and starts, and the others' turns come.
    #[test]
    fn collections_leave_threads_for_kills() {
        const MANY: usize = THREADS_MAX + 50;
        let (gate, closed) = bounded::<()>(0);
        let (report, reports) = unbounded();
        let lanes = Lanes::new(move |work| {
            if matches!(work, Work::Collect(_)) {
                let _ = closed.recv();
            }
            report.send(work).expect("the test reads");
            None
        });
        for number in 0..MANY {
            lanes.submit(Work::Collect(order(&format!("silent{number}"), number as u64)), 1).expect("taken");
        }
        for number in 0..MANY {
            lanes.submit(Work::Kill(order(&format!("well{number}"), number as u64)), 1).expect("taken");
        }
        let done = || reports.recv_timeout(Duration::from_secs(60)).expect("done");
        assert!((0..MANY).all(|_| matches!(done(), Work::Kill(_))));
        drop(gate);
        assert!((0..MANY).all(|_| matches!(done(), Work::Collect(_))));
        lanes.stop(Instant::now() + Duration::from_secs(60)).expect("ends");
        let state = lanes.states.lock();
        assert!(state.lanes.is_empty() && state.bulk_waiting.is_empty() && state.bulk_threads == 0, "{state:?}");
    }

    /// A lane whose work never ends does not keep the others from a thread.
    #[test]
    fn each_lane_has_its_turn() {
        const EACH: usize = 50;
        let (gate, closed) = bounded::<()>(0);
        let (report, reports) = unbounded();
        let lanes = Lanes::new(move |work| {
            let _ = closed.recv();
            report.send(work).expect("the test reads");
            None
        });
        for number in 0..BULK_THREADS_MAX * EACH {
            let instance = format!("busy{}", number % BULK_THREADS_MAX);
            lanes.submit(Work::Collect(order(&instance, number as u64)), 1).expect("taken");
        }
        lanes.submit(Work::Collect(order("one", 1)), 1).expect("taken");
        // One piece at a time, and those who wait are served in their order.
        let next = || {
            gate.send_timeout((), Duration::from_secs(60)).expect("somebody waits");
            reports.recv_timeout(Duration::from_secs(60)).expect("done")
        };
        let before = (0..).take_while(|_| next().order().instance.as_str() != "one").count();
        assert!(before < 4 * BULK_THREADS_MAX, "after {before} others");
        drop(gate);
        lanes.stop(Instant::now() + Duration::from_secs(60)).expect("ends");
    }
}
