//! Changes that count once they are on disk, written together.
//!
//! A change is planned first: it is in the text that is written next, and nowhere else. Whoever has planned one waits for its batch;
//! the first who finds nobody writing writes for all who have come by then, so that a hundred creates at once are two or three
//! writes. When the text is on disk the changes of the batch are made; where it could not be written none of them has happened. The
//! disk is waited for without the lock, by those who change something and by nobody else.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, OnceLock};

use parking_lot::MutexGuard;

use super::HostStep;
use super::host::{Event, Host};
use super::record::{record_of, snapshot};
use super::shared::Shared;
use super::table::Table;
use crate::cloud::CloudError;
use crate::core::ids::InstanceId;
use crate::core::time::Moment;
use crate::remote::Executor;
use crate::remote::identity::HostKey;

/// Where the text is kept. One call at a time.
pub(super) trait Keep: Send + Sync {
    /// # Errors
    /// The old text is still there, or it is not known which.
    fn replace(&self, bytes: &[u8]) -> io::Result<()>;
}

/// Changes that are written together.
#[derive(Debug, Default)]
pub(super) struct Batch {
    outcome: OnceLock<Result<(), (io::ErrorKind, String)>>,
}

enum Plan {
    Change { id: InstanceId, event: Event, at: Moment },
    Pin { id: InstanceId, key: HostKey },
}

#[derive(Default)]
pub(super) struct State {
    pub(super) table: Table,
    /// The file may say something else than the table, and nobody is about to write it.
    pub(super) unsaved: bool,
    pub(super) stopped: bool,
    /// Executors at work, by number: closed at the end.
    pub(super) sessions: BTreeMap<u64, Arc<dyn Executor>>,
    pub(super) sessions_opened: u64,
    /// Threads of ours, by number.
    pub(super) threads: BTreeMap<u64, (String, std::thread::ThreadId)>,
    pub(super) threads_begun: u64,
    /// What the next write has to bring to disk.
    plans: Vec<Plan>,
    next: Arc<Batch>,
    writing: bool,
}

impl State {
    pub(super) fn new(table: Table) -> Self {
        Self { table, ..Self::default() }
    }

    pub(super) fn apply(&mut self, id: &InstanceId, event: Event, now: Moment) {
        let Some(host) = self.table.hosts.get_mut(id) else { return };
        host.apply(event, now);
        if host.is_over() {
            self.table.hosts.remove(id);
        }
    }

    pub(super) fn record_differs(&self, id: &InstanceId, before: &Host) -> bool {
        self.table.hosts.get(id).and_then(record_of) != record_of(before)
    }

    /// The batch that is written next, for what is in the table already.
    pub(super) fn next_batch(&self) -> Arc<Batch> {
        self.next.clone()
    }

    /// `None`: the file does not say this, so that nothing has to be written first.
    pub(super) fn plan(&mut self, id: &InstanceId, event: &Event, now: Moment) -> Option<Arc<Batch>> {
        let host = self.table.hosts.get(id)?;
        let mut after = host.clone();
        after.apply(event.clone(), now);
        if record_of(&after) == record_of(host) {
            return None;
        }
        self.table.planned.insert(id.clone(), after);
        self.plans.push(Plan::Change { id: id.clone(), event: event.clone(), at: now });
        Some(self.next.clone())
    }

    pub(super) fn plan_pin(&mut self, id: &InstanceId, key: &HostKey) -> Arc<Batch> {
        self.table.planned_pins.insert(id.clone(), key.clone());
        self.plans.push(Plan::Pin { id: id.clone(), key: key.clone() });
        self.next.clone()
    }
}

pub(super) fn stopped() -> CloudError {
    CloudError::Other { message: "the driver has stopped".to_owned(), source: None }
}

impl Shared {
    /// Waits until the batch is on disk, and writes it if nobody does. The lock is not held meanwhile.
    ///
    /// # Errors
    /// It could not be written, or the driver has stopped: nothing that was planned has happened.
    pub(super) fn settle(&self, state: &mut MutexGuard<'_, State>, batch: &Batch) -> Result<(), CloudError> {
        loop {
            if let Some(outcome) = batch.outcome.get() {
                return outcome.clone().map_err(|(kind, text)| {
                    let message = format!("cannot keep in {} which hosts are taken", self.path.display());
                    CloudError::other(message, io::Error::new(kind, text))
                });
            }
            if state.stopped {
                return Err(stopped());
            }
            if state.writing {
                self.settled.wait(state);
            } else {
                self.write_next(state);
            }
        }
    }

    /// Waits until nothing is planned for the host: one change at a time.
    ///
    /// # Errors
    /// The driver has stopped.
    pub(super) fn wait_for_plans(
        &self,
        state: &mut MutexGuard<'_, State>,
        is_planned: impl Fn(&Table) -> bool,
    ) -> Result<(), CloudError> {
        loop {
            if state.stopped {
                return Err(stopped());
            }
            if !is_planned(&state.table) {
                return Ok(());
            }
            self.settled.wait(state);
        }
    }

    fn write_next(&self, state: &mut MutexGuard<'_, State>) {
        state.writing = true;
        let (batch, plans) = (std::mem::take(&mut state.next), std::mem::take(&mut state.plans));
        let text = snapshot(&state.table, &self.set);
        let written = MutexGuard::unlocked(state, || self.file.replace(&text.bytes().map_err(io::Error::other)?));
        if written.is_ok() {
            (self.reached)(HostStep::Written);
        }
        state.writing = false;
        // A write that failed may have replaced the file all the same.
        state.unsaved = written.is_err();
        for plan in plans {
            self.carry_out(state, plan, written.is_ok());
        }
        let _ = batch.outcome.set(written.map_err(|error| (error.kind(), error.to_string())));
        self.settled.notify_all();
    }

    fn carry_out(&self, state: &mut State, plan: Plan, written: bool) {
        match plan {
            Plan::Change { id, event, at } => {
                state.table.planned.remove(&id);
                if written && let Some(before) = state.table.hosts.get(&id).cloned() {
                    state.apply(&id, event, at);
                    self.tell(state, &id, &before);
                }
            }
            Plan::Pin { id, key } => {
                state.table.planned_pins.remove(&id);
                if written {
                    state.table.pins.insert(id, key);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
