//! The cloud's list with a deadline (spec 20 §1): a driver that hangs must not stop lists for ever.
//!
//! The call is made on a thread of its own; the sync thread waits for it, but not beyond the deadline. One call is in flight at a
//! time. A call that hangs is given up: the next one goes beside it, and what it returns in the end is thrown away.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, bounded, select_biased};
use parking_lot::Mutex;

use super::stop::Stop;
use super::work_pool::{Overtime, WorkPool};
use crate::cloud::{CloudError, CloudInstance, InstanceSet};
use crate::core::effect::{Level, Note, Tags, seconds};
use crate::core::time::WallMillis;
use crate::log::write_note;

/// Hanging calls that are given up. When as many hang, lists wait until one returns.
const HANGING: usize = 15;

type Answer = Result<Vec<CloudInstance>, CloudError>;

#[derive(Debug)]
struct Call {
    tags: Tags,
    asked: Instant,
    answer: Sender<Answer>,
}

/// See the module.
#[derive(Debug)]
pub struct Lists {
    calls: WorkPool<Call>,
    deadline: Duration,
}

/// That lists fail, and why: for people. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct ListFault(Arc<Mutex<Option<Failing>>>);

/// Lists that failed, one after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failing {
    pub since: WallMillis,
    pub times: usize,
    /// What the last of them said.
    pub error: String,
}

impl ListFault {
    pub fn failed(&self, error: &str, now: WallMillis) {
        let mut failing = self.0.lock();
        let (since, times) = failing.as_ref().map_or((now, 1), |before| (before.since, before.times + 1));
        *failing = Some(Failing { since, times, error: error.to_owned() });
    }

    pub fn succeeded(&self) {
        *self.0.lock() = None;
    }

    /// Nothing if the last list was one.
    pub fn get(&self) -> Option<Failing> {
        self.0.lock().clone()
    }
}

/// What came of asking for a list.
#[derive(Debug)]
pub enum Listed {
    InTime(Answer),
    /// Nothing within the deadline, or no thread for the call.
    Late,
    Stopped,
}

impl Lists {
    pub fn new(cloud: Arc<dyn InstanceSet>, deadline: Duration) -> Self {
        let overtime = Overtime { after: deadline, threads_max: HANGING };
        let calls = WorkPool::with_overtime("list", 1, 1, overtime, move |call: Call| {
            if call.asked.elapsed() > deadline {
                // It waited behind calls that hang, and nobody waits for it any more.
                return;
            }
            let answer = cloud.list(&call.tags);
            let is_awaited = call.answer.send(answer).is_ok();
            if !is_awaited && call.asked.elapsed() > deadline {
                let note = Note::new(Level::Warn, "pool", "a list came after its deadline and is thrown away");
                write_note(&note.with("Duration", seconds(call.asked.elapsed())));
            }
        });
        Self { calls, deadline }
    }

    /// Asks for the instances that have these tags, and waits.
    pub fn ask(&self, tags: &Tags, stop: &Stop) -> Listed {
        let (answer, answers) = bounded(1);
        let call = Call { tags: tags.clone(), asked: Instant::now(), answer };
        // One that was asked for before may still wait behind a call that hangs, and would fill the queue for ever.
        self.calls.relieve();
        if self.calls.submit(call).is_err() {
            return if stop.is_stopped() { Listed::Stopped } else { Listed::Late };
        }
        select_biased! {
            recv(stop.channel()) -> _ => Listed::Stopped,
            recv(answers) -> answer => answer.map_or(Listed::Late, Listed::InTime),
            default(self.deadline) => Listed::Late,
        }
    }

    /// The threads end; a call that hangs ends with the process.
    pub fn stop(&self) {
        let _ = self.calls.stop(Instant::now());
    }
}
