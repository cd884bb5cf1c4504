//! What started and ended on several hosts, in the order in which it happened: for whoever has to see that nothing ran twice.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// Shared by the hosts that are given it. Clones are the same one.
#[derive(Clone, Debug, Default)]
pub struct Journal(Arc<Mutex<Vec<JournalEntry>>>);

/// Something that happened to an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalEntry {
    /// Of the host.
    pub address: SocketAddr,
    pub uuid: String,
    pub attempt: u32,
    pub event: JournalEvent,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JournalEvent {
    Started,
    /// Its process ended, with a result.
    Finished,
    /// Its runner died without a result.
    Crashed,
    /// The machine ended under it.
    SwitchedOff,
}

impl Journal {
    /// So far.
    pub fn entries(&self) -> Vec<JournalEntry> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn len(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Called under the host's lock, together with the change: nobody can learn of an end before it is here.
    pub(crate) fn note(&self, address: SocketAddr, (uuid, attempt): &(String, u32), event: JournalEvent) {
        let entry = JournalEntry { address, uuid: uuid.clone(), attempt: *attempt, event };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(entry);
    }
}
