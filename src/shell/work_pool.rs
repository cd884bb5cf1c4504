//! A few threads for work that may take long, started when needed and ended when idle: cloud calls, commands on workers, commits.
//!
//! Work is data (the type `W`), carried out by one function. The number of threads and the length of the queue are bounded.
//!
//! A thread cannot be ended from outside. Where work may hang, its thread is given up after a while ([`Overtime`]) and another one
//! takes its place, so that what hangs does not use up the threads; that number is bounded as well.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::threads::{self, Thread};

/// A thread without work ends after this.
const IDLE: Duration = Duration::from_secs(30);

/// When a piece of work is taken to hang.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overtime {
    pub after: Duration,
    /// So many hanging threads get another one in their place; those beyond count like any other.
    pub threads_max: usize,
}

/// See the module. Cloning gives another handle on the same threads.
#[derive(Debug)]
pub struct WorkPool<W>(Arc<Shared<W>>);

impl<W> Clone for WorkPool<W> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

type CarryOut<W> = Box<dyn Fn(W, &WorkPool<W>) + Send + Sync>;

struct Shared<W> {
    name: &'static str,
    threads_max: usize,
    overtime: Option<Overtime>,
    queue_max: usize,
    carry_out: CarryOut<W>,
    state: Mutex<State<W>>,
    ready: Condvar,
}

impl<W> std::fmt::Debug for Shared<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WorkPool")
            .field("name", &self.name)
            .field("threads_max", &self.threads_max)
            .finish_non_exhaustive()
    }
}

struct State<W> {
    queue: VecDeque<W>,
    threads: Vec<Thread>,
    /// Threads that run, and those of them that wait for work.
    alive: usize,
    idle: usize,
    started: usize,
    /// Since when each thread is at its present piece of work; only kept where there is overtime.
    busy: BTreeMap<usize, Instant>,
    stopped: bool,
}

/// Why work was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The queue is full.
    Full,
    Stopped,
    /// No thread could be started, and none is there.
    NoThread,
}

impl<W: Send + 'static> WorkPool<W> {
    /// At most `threads_max` threads, named `name` with a number, and at most `queue_max` pieces of work that wait.
    pub fn new(
        name: &'static str,
        threads_max: usize,
        queue_max: usize,
        carry_out: impl Fn(W) + Send + Sync + 'static,
    ) -> Self {
        Self::build(name, threads_max, queue_max, None, Box::new(move |work, _: &Self| carry_out(work)))
    }

    /// The same for work that may hang.
    pub fn with_overtime(
        name: &'static str,
        threads_max: usize,
        queue_max: usize,
        overtime: Overtime,
        carry_out: impl Fn(W) + Send + Sync + 'static,
    ) -> Self {
        Self::build(name, threads_max, queue_max, Some(overtime), Box::new(move |work, _: &Self| carry_out(work)))
    }

    /// The same for work that may lead to more: `carry_out` is given the pool.
    pub fn with_more(
        name: &'static str,
        threads_max: usize,
        queue_max: usize,
        carry_out: impl Fn(W, &Self) + Send + Sync + 'static,
    ) -> Self {
        Self::build(name, threads_max, queue_max, None, Box::new(carry_out))
    }

    fn build(
        name: &'static str,
        threads_max: usize,
        queue_max: usize,
        overtime: Option<Overtime>,
        carry_out: CarryOut<W>,
    ) -> Self {
        let state = State {
            queue: VecDeque::new(),
            threads: Vec::new(),
            alive: 0,
            idle: 0,
            started: 0,
            busy: BTreeMap::new(),
            stopped: false,
        };
        Self(Arc::new(Shared {
            name,
            threads_max,
            overtime,
            queue_max,
            carry_out,
            state: Mutex::new(state),
            ready: Condvar::new(),
        }))
    }

    /// Hands work to a thread, or queues it. Never blocks.
    ///
    /// # Errors
    /// See [`Refused`]; the work will not be done.
    pub fn submit(&self, work: W) -> Result<(), Refused> {
        let mut state = self.0.state.lock();
        if state.stopped {
            return Err(Refused::Stopped);
        }
        if state.queue.len() >= self.0.queue_max {
            return Err(Refused::Full);
        }
        state.queue.push_back(work);
        if state.idle >= state.queue.len() || state.alive >= self.0.threads_allowed(&state) {
            self.0.ready.notify_one();
            return Ok(());
        }
        match self.start_thread(&mut state) {
            Ok(()) => Ok(()),
            Err(_) if state.alive > 0 => Ok(()),
            Err(_) => {
                state.queue.pop_back();
                Err(Refused::NoThread)
            }
        }
    }

    /// Starts threads in the place of those that hang, if work waits for one. How many hang.
    pub fn relieve(&self) -> usize {
        let mut state = self.0.state.lock();
        for _ in state.idle..state.queue.len() {
            if state.alive >= self.0.threads_allowed(&state) || self.start_thread(&mut state).is_err() {
                break;
            }
        }
        self.0.hanging(&state)
    }

    fn start_thread(&self, state: &mut State<W>) -> std::io::Result<()> {
        let pool = self.clone();
        let number = state.started;
        let thread = threads::start_part(&format!("{}-{number}", self.0.name), move || pool.run(number))?;
        state.started += 1;
        state.alive += 1;
        // Handles of threads that ended while idle are dropped here, so their number stays bounded.
        state.threads.retain(|thread| !thread.is_finished());
        state.threads.push(thread);
        Ok(())
    }

    fn run(&self, number: usize) {
        while let Some(work) = self.0.next(number) {
            (self.0.carry_out)(work, self);
        }
    }

    /// Work that waits is dropped; what is being done goes on, waited for until the deadline.
    ///
    /// # Errors
    /// Names of the threads that are late.
    pub fn stop(&self, deadline: Instant) -> Result<(), Vec<String>> {
        let threads = {
            let mut state = self.0.state.lock();
            state.stopped = true;
            state.queue.clear();
            self.0.ready.notify_all();
            std::mem::take(&mut state.threads)
        };
        let late: Vec<String> = threads.into_iter().filter_map(|thread| thread.join_until(deadline).err()).collect();
        if late.is_empty() { Ok(()) } else { Err(late) }
    }
}

impl<W> Shared<W> {
    fn hanging(&self, state: &State<W>) -> usize {
        let after = self.overtime.map(|overtime| overtime.after);
        after.map_or(0, |after| state.busy.values().filter(|since| since.elapsed() > after).count())
    }

    /// Threads there may be now.
    fn threads_allowed(&self, state: &State<W>) -> usize {
        let given_up = self.overtime.map_or(0, |overtime| self.hanging(state).min(overtime.threads_max));
        self.threads_max + given_up
    }

    /// `None`: this thread is not needed any more.
    fn next(&self, number: usize) -> Option<W> {
        let mut state = self.state.lock();
        state.busy.remove(&number);
        let until = Instant::now() + IDLE;
        loop {
            // One that hung, and has a successor, is one too many.
            if state.stopped || state.alive > self.threads_allowed(&state) {
                break;
            }
            if let Some(work) = state.queue.pop_front() {
                if self.overtime.is_some() {
                    state.busy.insert(number, Instant::now());
                }
                return Some(work);
            }
            state.idle += 1;
            let timed_out = self.ready.wait_until(&mut state, until).timed_out();
            state.idle -= 1;
            if timed_out && state.queue.is_empty() {
                break;
            }
        }
        state.alive -= 1;
        None
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use crossbeam_channel::{bounded, unbounded};

    use super::*;

    #[test]
    fn work_runs_at_once_on_as_many_threads_as_allowed() {
        let (gate, closed) = bounded::<()>(0);
        let (report, reports) = unbounded();
        let running = Arc::new(AtomicUsize::new(0));
        let counted = running.clone();
        let pool = WorkPool::new("test", 3, 100, move |number: usize| {
            report.send((number, counted.fetch_add(1, Ordering::SeqCst) + 1)).expect("the test reads");
            let _ = closed.recv();
            counted.fetch_sub(1, Ordering::SeqCst);
        });
        for number in 0..10 {
            pool.submit(number).expect("room");
        }
        let first: Vec<_> = (0..3).map(|_| reports.recv().expect("three begin")).collect();
        assert!(reports.is_empty(), "only three threads: {first:?}");
        drop(gate);
        let rest: Vec<_> = (0..7).map(|_| reports.recv().expect("all are done")).collect();
        assert!(first.iter().chain(&rest).all(|(_, at_once)| *at_once <= 3));
        pool.stop(Instant::now() + Duration::from_secs(60)).expect("ends");
        assert_eq!(pool.submit(1), Err(Refused::Stopped));
    }

    /// What hangs has another thread in its place, up to a number; when it comes back there are as many as before.
    #[test]
    fn hanging_work_does_not_use_up_the_threads() {
        let (gate, closed) = bounded::<()>(0);
        let (report, reports) = unbounded();
        let overtime = Overtime { after: Duration::from_millis(10), threads_max: 2 };
        let pool = WorkPool::with_overtime("hang", 1, 100, overtime, move |hangs: bool| {
            report.send(std::thread::current().id()).expect("the test reads");
            if hangs {
                let _ = closed.recv();
            }
        });
        let until = |condition: &dyn Fn() -> bool| {
            while !condition() {
                std::thread::yield_now();
            }
        };
        for count in 1..=3 {
            pool.submit(true).expect("room");
            reports.recv().expect("it begins");
            until(&|| pool.relieve() == count);
        }
        // One thread, and two in the place of others: no more.
        pool.submit(false).expect("room to wait");
        assert_eq!(pool.relieve(), 3);
        assert!(reports.is_empty());
        drop(gate);
        reports.recv().expect("the fourth is done");
        until(&|| pool.0.state.lock().alive == 1);
        assert_eq!(pool.relieve(), 0);
        pool.stop(Instant::now() + Duration::from_secs(60)).expect("ends");
    }

    #[test]
    fn the_queue_is_bounded_and_a_late_thread_is_named() {
        let (gate, closed) = bounded::<()>(0);
        let (began, begins) = bounded(1);
        let pool = WorkPool::new("late", 1, 1, move |()| {
            let _ = began.send(());
            let _ = closed.recv();
        });
        pool.submit(()).expect("room");
        begins.recv().expect("it runs");
        pool.submit(()).expect("room to wait");
        assert_eq!(pool.submit(()), Err(Refused::Full));
        assert_eq!(pool.stop(Instant::now()), Err(vec!["late-0".to_owned()]));
        drop(gate);
    }
}
