//! The queue's keeper: a thread that removes what has been kept long enough (spec 70 §3).

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::RwLock;

use crate::config::Config;
use crate::core::effect::{Level, Note};
use crate::core::errors::chain;
use crate::log::write_note;
use crate::queue::local::LocalQueue;
use crate::shell::clock::wall_now;
use crate::shell::stop::Stop;

const BATCH_INTERVAL: Duration = Duration::from_secs(60);
const PURGE_INTERVAL: Duration = Duration::from_secs(3600);

/// The thread's body: until `stop`.
pub(super) fn run(queue: &LocalQueue, config: &RwLock<Arc<Config>>, stop: &Stop) {
    let mut next_purge = Instant::now();
    loop {
        if let Err(error) = queue.expire_batches() {
            write_note(&Note::new(Level::Debug, "queue", "cannot expire batches").with("error", chain(&error)));
        }
        let retain = config.read().queue.retain_finished;
        if let Some(retain) = retain
            && Instant::now() >= next_purge
        {
            next_purge = Instant::now() + PURGE_INTERVAL;
            purge(queue, retain);
        }
        if stop.channel().recv_timeout(BATCH_INTERVAL) == Err(crossbeam_channel::RecvTimeoutError::Disconnected) {
            return;
        }
    }
}

fn purge(queue: &LocalQueue, retain: Duration) {
    let age = i64::try_from(retain.as_millis()).unwrap_or(i64::MAX);
    match queue.purge(wall_now().saturating_sub(age)) {
        Ok(0) => {}
        Ok(count) => {
            write_note(&Note::new(Level::Info, "queue", "removed old containers").with("Containers", count));
        }
        Err(error) => {
            let note = Note::new(Level::Warn, "queue", "cannot remove old containers");
            write_note(&note.with("error", chain(&error)));
        }
    }
}
