//! What the dispatcher keeps on disk: the queue's database, by the product's own rules, and fetched results. It survives crashes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use imbl::OrdMap;

use crate::core::container::{Container, ContainerRequest, GpuRequest, RuntimeStatus};
use crate::core::entry::{QueueEntry, QueueSnapshot};
use crate::core::ids::{Attempt, ContainerUuid};
use crate::core::instance_type::TypeLists;
use crate::core::lifecycle::{AttemptEnd, Followed, Lifecycle, Verdict};
use crate::core::resources::Resources;
use crate::core::time::Moment;
use crate::core::versioned::Versioned;
use crate::core::vocabulary::ContainerState;
use crate::plan::{Types, eligible};
use crate::world::World;

#[derive(Clone, Debug)]
pub struct Record {
    pub life: Lifecycle,
    pub request: Arc<ContainerRequest>,
    pub need: Resources,
    pub exit_code: Option<i32>,
    /// How long its command usually takes.
    pub usual: Duration,
    number: u64,
    followers: Vec<ContainerUuid>,
}

impl Record {
    /// The result of an attempt is here.
    pub fn finish(&mut self, attempt: Attempt, end: &AttemptEnd) {
        if let Some(Verdict::Complete(code)) = self.life.result(attempt, end) {
            self.exit_code = Some(code);
        }
    }
}

#[derive(Debug, Default)]
pub struct Store {
    pub records: BTreeMap<ContainerUuid, Record>,
    /// Result directories that are whole.
    pub results: BTreeMap<(ContainerUuid, Attempt), AttemptEnd>,
    /// What the snapshot in memory shows: not final, or final and not forgotten yet.
    entries: OrdMap<ContainerUuid, Versioned<QueueEntry>>,
    lists: TypeLists,
}

impl Store {
    pub fn snapshot(&self, as_of: Moment) -> QueueSnapshot {
        QueueSnapshot { entries: self.entries.clone(), as_of }
    }

    pub fn life(&self, uuid: &ContainerUuid) -> Option<&Lifecycle> {
        self.records.get(uuid).map(|record| &record.life)
    }

    pub fn usual_duration(&self, uuid: &ContainerUuid) -> Duration {
        self.records.get(uuid).map_or(Duration::from_secs(1), |record| record.usual)
    }

    pub fn forget(&mut self, uuid: &ContainerUuid) {
        let forgettable = self.records.get(uuid).is_some_and(|record| {
            record.life.state.is_final() || record.life.state == ContainerState::Queued && record.life.priority == 0
        });
        if forgettable {
            self.entries.remove(uuid);
        }
    }

    /// As at the opening of the database: what is final is not loaded.
    pub fn reload(&mut self, types: &Types) {
        let open = self.records.iter().filter(|(_, record)| !record.life.state.is_final());
        let lists = &mut self.lists;
        let entries = open.map(|(uuid, record)| (uuid.clone(), Versioned::new(entry(uuid, record, types, lists))));
        self.entries = entries.collect();
    }

    fn show(&mut self, uuid: &ContainerUuid, types: &Types) {
        let Some(record) = self.records.get(uuid) else { return };
        let shown = self.entries.contains_key(uuid);
        if shown || !record.life.state.is_final() {
            let shown = entry(uuid, record, types, &mut self.lists);
            self.entries.insert(uuid.clone(), Versioned::new(shown));
        }
    }

    /// What a container waits for.
    pub fn open_containers(&self) -> BTreeSet<&ContainerUuid> {
        let open = |(_, record): &(&ContainerUuid, &Record)| !record.life.state.is_final();
        self.records.iter().filter(open).map(|(uuid, _)| uuid).collect()
    }
}

fn entry(uuid: &ContainerUuid, record: &Record, types: &Types, lists: &mut TypeLists) -> QueueEntry {
    let life = &record.life;
    QueueEntry {
        container: Container {
            uuid: uuid.clone(),
            state: life.state,
            request: Arc::clone(&record.request),
            priority: life.priority,
            created_at: 0,
            started_at: None,
            finished_at: None,
            attempt: life.attempt,
            instance: life.instance.clone(),
            instance_type: life.instance_type.clone(),
            exit_code: record.exit_code,
            runtime_status: RuntimeStatus::default(),
            cancel_requested: life.cancel_requested,
            locked_by_uuid: String::new(),
            cost: 0.0,
        },
        resources: record.need,
        instance_types: lists.share(eligible(types, &record.need)),
        first_seen: record.number,
        ready: life.waiting == 0,
    }
}

fn request(supervisor: bool, max_attempts: u32, vcpus: i64) -> ContainerRequest {
    ContainerRequest {
        name: String::new(),
        command: vec!["true".to_owned()],
        cwd: String::new(),
        environment: BTreeMap::new(),
        stdin: String::new(),
        container_image: String::new(),
        priority: 1,
        vcpus,
        ram: 1 << 28,
        keep_cache_ram: 0,
        keep_cache_disk: 0,
        scratch: 0,
        gpu: GpuRequest::default(),
        preemptible: false,
        supervisor,
        max_run_time: None,
        max_attempts,
        array_index: None,
        outputs: Vec::new(),
        after: Vec::new(),
    }
}

/// Why the store did nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreError {
    /// The rules refuse it.
    Refused,
    /// The disk is full.
    Storage,
}

impl World {
    pub fn storage_fails(&mut self) -> bool {
        if self.now < self.storage_fails_until {
            return true;
        }
        let fails = self.fault(crate::faults::Fault::StorageFails);
        if fails {
            self.storage_fails_until = self.now + self.random.seconds(1, 120);
        }
        fails
    }

    /// A new container, perhaps after another one.
    pub fn submit(&mut self) -> ContainerUuid {
        let number = self.store.records.len() as u64 + 1;
        // In an order that has nothing to do with their age.
        let shuffled = (number * 7_919) % 100_003;
        let text = format!("local-dz642-{shuffled:015}");
        let uuid = ContainerUuid::parse(&text).unwrap_or_else(|| unreachable!("{text} is well formed"));
        let vcpus = *self.random.pick(&[0, 1, 1, 1, 2, 2, 4]);
        let predecessor = self.predecessor();
        let life = Lifecycle {
            state: ContainerState::Queued,
            priority: *self.random.pick(&[1, 1, 1, 5, 500]),
            max_attempts: *self.random.pick(&[1, 3, 3, 6]),
            attempt: 0,
            instance: None,
            instance_type: None,
            cancel_requested: false,
            kill_asked: 0,
            waiting: i64::from(predecessor.is_some()),
        };
        let record = Record {
            request: Arc::new(request(self.random.chance(0.15), life.max_attempts, vcpus)),
            need: Resources { vcpus, ram: 1 << 28, ..Resources::default() },
            exit_code: None,
            usual: if self.random.chance(0.7) { self.random.seconds(1, 60) } else { self.random.seconds(30, 900) },
            number,
            followers: Vec::new(),
            life,
        };
        if let Some(before) = predecessor.and_then(|before| self.store.records.get_mut(&before)) {
            before.followers.push(uuid.clone());
        }
        self.say(|| format!("user: submits {uuid} of {vcpus} cores"));
        self.store.records.insert(uuid.clone(), record);
        self.store.show(&uuid, &self.types);
        self.notify_scheduler();
        uuid
    }

    fn predecessor(&mut self) -> Option<ContainerUuid> {
        if !self.random.chance(0.1) {
            return None;
        }
        let open: Vec<ContainerUuid> = self.store.open_containers().into_iter().cloned().collect();
        (!open.is_empty()).then(|| self.random.pick(&open).clone())
    }

    /// One transaction: durable, and shown at once.
    pub fn commit<R>(&mut self, uuid: &ContainerUuid, change: impl FnOnce(&mut Record) -> R) -> Option<R> {
        let record = self.store.records.get_mut(uuid)?;
        let before = record.life.clone();
        let answer = change(record);
        let after = record.life.clone();
        if before == after {
            return Some(answer);
        }
        self.say(|| {
            let sent = after.instance.as_ref().map(|id| format!(" on {id}")).unwrap_or_default();
            format!("queue: {uuid} {} -> {} attempt {}{sent}", before.state, after.state, after.attempt)
        });
        self.check_transition(uuid, &before, &after);
        self.store.show(uuid, &self.types);
        if after.state.is_final() {
            self.tell_followers(uuid);
        }
        self.notify_scheduler();
        Some(answer)
    }

    fn tell_followers(&mut self, uuid: &ContainerUuid) {
        let Some(record) = self.store.records.get_mut(uuid) else { return };
        let succeeded = record.life.state == ContainerState::Complete && record.exit_code == Some(0);
        for follower in std::mem::take(&mut record.followers) {
            if self.store.life(&follower).is_some_and(|life| life.state == ContainerState::Queued) {
                let followed = self.commit(&follower, |record| record.life.predecessor_ended(succeeded));
                self.say(|| format!("queue: {follower} follows {uuid}: {followed:?}",));
                debug_assert!(followed != Some(Followed::Waits), "it waits for one only");
            }
        }
    }

    /// The types of every entry anew, after a reload; what waits and fits none is cancelled.
    pub fn reselect(&mut self) {
        let uuids: Vec<ContainerUuid> = self.store.entries.keys().cloned().collect();
        for uuid in uuids {
            let Some(record) = self.store.records.get(&uuid) else { continue };
            let waits = match record.life.state {
                ContainerState::Queued => true,
                ContainerState::Locked => record.life.instance.is_none(),
                _ => false,
            };
            if waits && eligible(&self.types, &record.need).is_empty() {
                self.commit(&uuid, |record| record.life.cancel().is_ok());
            }
            self.store.show(&uuid, &self.types);
        }
        self.notify_scheduler();
    }
}
