//! The sync thread: lists the cloud's instances and hands complete lists to the pool (spec 20 §5).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, select_biased};

use super::clock::{Clock, wall_now};
use super::lists::{ListFault, Listed, Lists};
use super::operations::report_of;
use super::pool::PoolDoor;
use super::stop::Stop;
use super::workers::Workers;
use crate::cloud::{CloudError, CloudEvent, CloudEvents, CloudInstance};
use crate::core::effect::{Level, Note, Tags};
use crate::core::errors::chain;
use crate::core::ids::InstanceId;
use crate::core::pool::create::InstanceReport;
use crate::log::write_note;

/// Lists that were asked for (after creates and destroys) are at least this far apart, or as far as those that nobody asks for.
const SPACING: Duration = Duration::from_millis(200);
/// Until the first list has succeeded nothing can start: try again this soon.
const FIRST_RETRY: Duration = Duration::from_secs(5);

/// Events of a driver that may wait for the sync thread.
pub const CLOUD_EVENTS_MAX: usize = 1024;

fn spacing(interval: Duration) -> Duration {
    SPACING.min(interval)
}

/// What the thread uses.
#[derive(Debug)]
pub struct Sync {
    pub door: Arc<PoolDoor>,
    pub clock: Clock,
    pub lists: Lists,
    /// Told to people.
    pub list_fault: ListFault,
    pub workers: Arc<Workers>,
    /// What the driver tells on its own.
    pub events: Receiver<CloudEvent>,
    /// Keeps the channel open for drivers that tell nothing.
    pub events_open: CloudEvents,
}

impl Sync {
    /// The thread's body: a list at once, then every SyncInterval or when one is asked for; until `stop`.
    pub fn run(&self, list_soon: &Receiver<()>, stop: &Stop) {
        self.list_and_wait(list_soon, stop);
        self.lists.stop();
    }

    fn list_and_wait(&self, list_soon: &Receiver<()>, stop: &Stop) {
        let mut loaded = false;
        loop {
            let began = Instant::now();
            // In every turn: where lists are asked for all the time, nothing else would be heard.
            self.handle_all(None);
            loaded |= self.list(stop);
            let interval = self.door.list_interval();
            let wait = if loaded { interval } else { interval.min(FIRST_RETRY) };
            select_biased! {
                recv(stop.channel()) -> _ => return,
                recv(list_soon) -> _ => {}
                recv(self.events) -> event => self.handle_all(event.ok()),
                default(wait) => {}
            }
            let spacing = spacing(interval).saturating_sub(began.elapsed());
            select_biased! {
                recv(stop.channel()) -> _ => return,
                default(spacing) => {}
            }
        }
    }

    /// Whatever the driver tells is worth a list as well.
    fn handle_all(&self, first: Option<CloudEvent>) {
        for event in first.into_iter().chain(self.events.try_iter().take(CLOUD_EVENTS_MAX)) {
            if let CloudEvent::Freed(type_name) = event {
                self.door.capacity_freed(&type_name);
            }
        }
    }

    /// True if a list was applied. A failed or late one changes nothing: no worker disappears because of it.
    fn list(&self, stop: &Stop) -> bool {
        if self.door.lists_suspended() {
            return false;
        }
        let settings = self.door.settings();
        let set_tag = format!("{}InstanceSetID", settings.tag_key_prefix);
        let tags = Tags::from_iter([(set_tag.clone(), settings.instance_set_id.clone())]);
        let began = self.clock.now();
        match self.lists.ask(&tags, stop) {
            Listed::InTime(Ok(instances)) => {
                // An instance of another set is never touched (spec 20 §10.3), whatever the driver returned.
                let is_ours = |one: &&CloudInstance| one.tags.get(&set_tag) == tags.get(&set_tag);
                let ours = instances.iter().filter(is_ours);
                let listed: BTreeMap<InstanceId, InstanceReport> =
                    ours.map(|instance| (instance.id.clone(), report_of(instance))).collect();
                self.door.apply_list(began, &listed);
                self.workers.open_missing(&self.door.targets());
                self.list_fault.succeeded();
                return true;
            }
            Listed::InTime(Err(error)) => {
                if let CloudError::RateLimit { retry_after, .. } = &error {
                    self.door.suspend_lists(*retry_after);
                }
                self.failed(&chain(&error));
            }
            Listed::Late => self.failed("the cloud has not answered in time"),
            Listed::Stopped => {}
        }
        false
    }

    fn failed(&self, error: &str) {
        self.list_fault.failed(error, wall_now());
        let note = Note::new(Level::Warn, "pool", "cannot list instances; nothing changes until a list succeeds");
        write_note(&note.with("error", error));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nobody waits longer for a list because it was asked for.
    #[test]
    fn lists_that_are_asked_for_come_no_later_than_others() {
        assert_eq!(spacing(Duration::from_secs(60)), SPACING);
        assert_eq!(spacing(Duration::from_millis(20)), Duration::from_millis(20));
    }
}
