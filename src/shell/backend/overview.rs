//! One screen for people, the instance types, and the gauges.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::DaemonBackend;
use super::reasons::{Reasons, time_of_day};
use super::records::container_record;
use crate::core::entry::QueueSnapshot;
use crate::core::instance_type::InstanceType;
use crate::core::pool::limits::LimitInForce;
use crate::core::vocabulary::{ContainerState, WorkerState};
use crate::management::backend::{ApiError, Backend, Gauges};
use crate::management::gauges::{count_queue, sum_instances};
use crate::management::records::{ContainerRecord, InstanceTypeList, InstanceTypeRecord, LimitRecord, Status};
use crate::queue::ContainerQueue;
use crate::shell::clock::wall_now;
use crate::shell::lists::Failing;

impl DaemonBackend {
    pub(super) fn overview(&self) -> Result<Status, ApiError> {
        let view = self.door.view();
        let counts = self.queue.counts_by_state();
        let mut instances: BTreeMap<String, usize> = BTreeMap::new();
        for one in view.instances.values() {
            *instances.entry(one.state.as_str().to_owned()).or_default() += 1;
        }
        let paid = view.instances.values().filter(|one| one.state != WorkerState::Shutdown);
        let mut trouble: Vec<String> = self.health().err().into_iter().collect();
        if self.door.overflowed() > 0 {
            trouble.push(format!("{} batches of effects were lost: please report this", self.door.overflowed()));
        }
        // One alone may be a moment's trouble; the first of all keeps everything from starting.
        if let Some(failing) = self.list_fault.get().filter(|failing| failing.times > 1 || !view.loaded) {
            let since = time_of_day(failing.since);
            let Failing { times, error, .. } = failing;
            trouble.push(format!("the cloud's instances cannot be listed ({times} times since {since}): {error}"));
        }
        let (unusable, unusable_count) = self.unusable_rows();
        Ok(Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            cluster_id: self.config.read().cluster_id.clone(),
            started_at: self.started_at,
            now: wall_now(),
            containers: counts.into_iter().map(|(state, count)| (state.as_str().to_owned(), count)).collect(),
            instances,
            // Without the 0.0 an empty sum is -0.
            price_per_hour: 0.0 + paid.map(|one| one.price()).sum::<f64>(),
            limits: self.door.limits_in_force().into_iter().map(|limit| self.limit_record(limit)).collect(),
            oldest_waiting: oldest_waiting(&self.queue.snapshot(), &self.reasons()),
            trouble,
            unusable,
            unusable_count,
            missed_wakeups: self.scheduler.missed_wakeups.load(Ordering::Relaxed),
        })
    }

    fn limit_record(&self, limit: LimitInForce) -> LimitRecord {
        LimitRecord {
            what: limit.what.to_owned(),
            detail: limit.detail,
            until: limit.until.map(|until| self.wall_of(until)),
        }
    }

    pub(super) fn list_instance_types(&self) -> InstanceTypeList {
        let view = self.door.view();
        let config = self.config.read().clone();
        let mut types: Vec<&Arc<InstanceType>> = config.instance_types.values().collect();
        types.sort_by(|one, other| one.price.total_cmp(&other.price));
        let record = |one: &Arc<InstanceType>| {
            let breaker = view.breakers.get(one.name.as_str());
            let limit = match breaker.filter(|breaker| breaker.is_tripped) {
                Some(breaker) => {
                    let until = breaker.paused_until.map(|until| self.wall_of(until));
                    Some(LimitRecord { what: "breaker".to_owned(), detail: breaker.to_string(), until })
                }
                None if view.failing_until.contains_key(one.name.as_str()) => Some(LimitRecord {
                    what: "failed creates".to_owned(),
                    detail: "creates of it failed for no known reason".to_owned(),
                    until: view.failing_until.get(one.name.as_str()).map(|until| self.wall_of(*until)),
                }),
                None => view.at_capacity.contains(one.name.as_str()).then(|| LimitRecord {
                    what: "capacity".to_owned(),
                    detail: "the provider has none at the moment".to_owned(),
                    until: None,
                }),
            };
            InstanceTypeRecord {
                name: one.name.clone(),
                provider_type: one.provider_type.clone(),
                vcpus: one.vcpus,
                ram: one.ram,
                scratch: one.scratch(),
                price: one.price,
                preemptible: one.preemptible,
                instances: view.instances.values().filter(|view| view.type_name.as_str() == one.name).count(),
                limits: limit.into_iter().collect(),
                boot_failures: breaker.map_or(0, |breaker| breaker.failures_in_a_row),
                last_boot_error: breaker.map(|breaker| breaker.last_error.clone()).unwrap_or_default(),
            }
        };
        InstanceTypeList { items: types.into_iter().map(record).collect() }
    }

    pub(super) fn read_gauges(&self) -> Gauges {
        let view = self.door.view();
        let types: Vec<_> = self.config.read().instance_types.values().cloned().collect();
        let figures = self.scheduler.report.read().as_ref().map(|report| report.figures).unwrap_or_default();
        let last_503 = self.queue.last_busy_answer().map(|moment| self.wall_of(moment));
        let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        Gauges {
            queue_entries: count_queue(&self.queue.snapshot()),
            instances: sum_instances(view.instances.values().map(|one| &**one), &types),
            containers_running: count(view.instances.values().map(|one| one.containers.len()).sum()),
            probe_ages: self.door.probe_ages(),
            containers_allocated_not_started: count(figures.allocated_not_started),
            containers_not_allocated_over_quota: count(figures.not_allocated_over_quota),
            containers_longest_wait: figures
                .longest_wait_since
                .map(|since| Duration::from_millis(u64::try_from(wall_now().saturating_sub(since)).unwrap_or(0))),
            last_503_time: last_503
                .map_or(0.0, |at| Duration::from_millis(u64::try_from(at).unwrap_or(0)).as_secs_f64()),
            max_concurrent_containers: count(figures.max_concurrent_containers),
            at_quota: view.at_quota,
        }
    }
}

/// The waiting container that was created first, and why it waits.
fn oldest_waiting(queue: &QueueSnapshot, reasons: &Reasons) -> Option<ContainerRecord> {
    let entries = queue.entries.values();
    let waiting = entries.filter(|entry| {
        matches!(entry.container.state, ContainerState::Queued | ContainerState::Locked) && entry.container.priority > 0
    });
    let oldest = waiting.min_by_key(|entry| entry.first_seen)?;
    let uuid = &oldest.container.uuid;
    Some(container_record(&oldest.container, reasons.of(uuid)))
}
