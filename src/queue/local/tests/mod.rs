//! The local queue against real SQLite files in temporary directories.

mod cancel;
mod commits;
mod crash;
mod migration;
mod outcomes;
mod properties;
mod storage;
mod submission;
mod transitions;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::thread;

use tempfile::TempDir;

use super::*;
use crate::core::container::ContainerRequest;
use crate::core::ids::{InstanceId, TypeName};
use crate::core::instance_type::InstanceType;
use crate::core::resources::Resources;

/// A queue in a directory of its own, with a clock that the test moves.
pub(super) struct Bench {
    pub(super) dir: TempDir,
    pub(super) clock: Arc<AtomicI64>,
    pub(super) queue: Arc<LocalQueue>,
}

pub(super) fn spawn(name: String, body: Box<dyn FnOnce() + Send>) -> std::io::Result<JoinHandle<()>> {
    thread::Builder::new().name(name).spawn(body)
}

/// One type `big` with 8 cores for 0.36 an hour; more cores do not fit.
pub(super) fn eight_cores() -> Selector {
    cores("big", 8)
}

pub(super) fn cores(name: &'static str, cores: i64) -> Selector {
    let big = Arc::new(InstanceType { name: name.to_owned(), vcpus: cores, price: 0.36, ..InstanceType::default() });
    Arc::new(move |request| {
        let needs = Resources { vcpus: request.vcpus, ram: request.ram, ..Resources::default() };
        if request.vcpus <= big.vcpus {
            Ok((needs, Arc::from([Arc::clone(&big)])))
        } else {
            Err(format!("constraints not satisfiable by any configured instance type: the largest has {cores} cores"))
        }
    })
}

pub(super) fn options(dir: &Path) -> LocalQueueOptions {
    LocalQueueOptions {
        path: dir.join("queue.db"),
        cluster_id: "local".to_owned(),
        max_queued: 1_000_000,
        default_max_attempts: 3,
        images_allowed: false,
        selector: eight_cores(),
    }
}

pub(super) fn open(options: LocalQueueOptions, clock: &Arc<AtomicI64>) -> Result<Arc<LocalQueue>, OpenError> {
    let clock = Arc::clone(clock);
    LocalQueue::open(options, Arc::new(move || clock.load(Ordering::Relaxed)), &spawn)
}

pub(super) fn bench() -> Bench {
    bench_with(|_| ())
}

pub(super) fn bench_with(adjust: impl FnOnce(&mut LocalQueueOptions)) -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(AtomicI64::new(1_000_000));
    let mut options = options(dir.path());
    adjust(&mut options);
    let queue = open(options, &clock).unwrap();
    Bench { dir, clock, queue }
}

pub(super) fn request() -> ContainerRequest {
    parse_record(br#"{"command":["true"]}"#, 3).unwrap()
}

/// The elements of an array of so many.
pub(super) fn array(count: i64) -> Vec<ContainerRequest> {
    expand_array(&request(), 1, count).unwrap().collect()
}

pub(super) fn instance(text: &str) -> InstanceId {
    InstanceId::new(text)
}

/// On this instance, at the type's price.
pub(super) fn at(text: &str) -> Placement {
    Placement { instance: instance(text), instance_type: big(), price: None }
}

pub(super) fn big() -> TypeName {
    TypeName::new("big")
}

impl Bench {
    /// Closes the queue and opens it again with the same options.
    pub(super) fn reopen(self) -> Self {
        self.reopen_with(|_| ())
    }

    pub(super) fn reopen_with(self, adjust: impl FnOnce(&mut LocalQueueOptions)) -> Self {
        let Self { dir, clock, queue } = self;
        assert_eq!(Arc::strong_count(&queue), 1, "else it would not be closed");
        drop(queue);
        let mut options = options(dir.path());
        adjust(&mut options);
        let queue = open(options, &clock).unwrap();
        Self { dir, clock, queue }
    }

    pub(super) fn later(&self, millis: i64) {
        self.clock.fetch_add(millis, Ordering::Relaxed);
    }

    pub(super) fn submit(&self, request: ContainerRequest) -> ContainerUuid {
        self.queue.submit(vec![request], None).unwrap().remove(0)
    }

    /// Submitted, locked, and its next attempt assigned to `i-1`.
    pub(super) fn assigned(&self, request: ContainerRequest) -> ContainerUuid {
        let uuid = self.submit(request);
        self.assign_next(&uuid);
        uuid
    }

    pub(super) fn assign_next(&self, uuid: &ContainerUuid) -> Attempt {
        self.queue.lock(uuid).unwrap();
        let attempt = self.record(uuid).attempt + 1;
        self.queue.assign(uuid, attempt, &at("i-1")).unwrap();
        attempt
    }

    /// What the database says; it must be what the snapshot says, if that has it.
    pub(super) fn record(&self, uuid: &ContainerUuid) -> Container {
        let container = self.queue.show(uuid).unwrap().unwrap().container;
        if let Some(shown) = self.queue.get(uuid) {
            assert_eq!(shown, container);
        }
        container
    }

    pub(super) fn events(&self, uuid: &ContainerUuid) -> Vec<String> {
        self.queue.show(uuid).unwrap().unwrap().history.into_iter().map(|record| record.event).collect()
    }

    /// Collects a result as the result path would: the file first.
    pub(super) fn finish(&self, uuid: &ContainerUuid, attempt: Attempt, rest: &str) -> Result<(), QueueError> {
        let dir = self.queue.result_dir(uuid, attempt);
        fs::create_dir_all(&dir).unwrap();
        let text = format!(r#"{{"uuid":"{uuid}","attempt":{attempt},{rest}}}"#);
        fs::write(dir.join("result.json"), text).unwrap();
        self.queue.finish(uuid, attempt, &dir)
    }
}

/// Counts in memory against the database, and every entry against its row.
pub(super) fn assert_consistent(queue: &LocalQueue) {
    let all = queue.list(&ListFilter::default()).unwrap().containers;
    let mut counts: BTreeMap<ContainerState, usize> = ContainerState::ALL.iter().map(|state| (*state, 0)).collect();
    for container in &all {
        *counts.entry(container.state).or_default() += 1;
        match queue.get(&container.uuid) {
            Some(shown) => assert_eq!(&shown, container),
            None => assert!(
                container.state.is_final() || container.state == ContainerState::Queued && container.priority == 0,
                "{container:?} is missing"
            ),
        }
    }
    assert_eq!(queue.counts_by_state(), counts);
}
