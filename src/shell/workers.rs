//! The threads of all workers, by instance: opened when the pool has a worker, closed when its instance is gone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::pool::{PoolDoor, WorkerTarget};
use super::round::RoundContext;
use super::stop::StopSource;
use super::threads::{self, Thread, WORKER_STACK};
use super::worker::{self, WorkerHandle};
use crate::cloud::{Access, InstanceSet};
use crate::core::effect::{Level, Note};
use crate::core::ids::{InstanceId, InstanceSecret};
use crate::log::write_note;
use crate::management::metrics::Metrics;
use crate::remote::runner::Runner;
use crate::remote::supply::RunnerSupply;

/// What every worker's thread is made from.
#[derive(Debug)]
pub struct WorkerParts {
    pub door: Arc<PoolDoor>,
    pub cloud: Arc<dyn InstanceSet>,
    pub set: Arc<str>,
    pub cluster_id: Arc<str>,
    pub boot_probe_command: Arc<str>,
    /// `Muster.Runner.Engine`.
    pub engine: Arc<str>,
    /// `Muster.Runner.SelfDestructAfter`.
    pub self_destruct_after: Option<Duration>,
    /// The runner, and where it is put.
    pub supply: Arc<RunnerSupply>,
    pub metrics: Arc<Metrics>,
}

#[derive(Debug)]
struct Open {
    handle: Arc<WorkerHandle>,
    closing: StopSource,
    thread: Thread,
}

/// See the module. One lock of its own, never held together with the pool's, and nothing blocks under it.
#[derive(Debug)]
pub struct Workers {
    parts: WorkerParts,
    open: Mutex<BTreeMap<InstanceId, Open>>,
    /// Threads that were told to end: joined when the daemon stops, dropped here once they have ended.
    ending: Mutex<Vec<Thread>>,
}

impl Workers {
    pub fn new(parts: WorkerParts) -> Self {
        Self { parts, open: Mutex::default(), ending: Mutex::default() }
    }

    /// The runner that workers get.
    pub fn supply(&self) -> &RunnerSupply {
        &self.parts.supply
    }

    /// The worker's handle; `None` if it is not open.
    pub fn get(&self, instance: &InstanceId) -> Option<Arc<WorkerHandle>> {
        self.open.lock().get(instance).map(|open| open.handle.clone())
    }

    /// Gives a worker its executor and thread, unless it has them. A failure is logged, and repaired by the next sync.
    /// What an instance costs per hour now, if the driver knows.
    pub fn price_now(&self, instance: &InstanceId) -> Option<f64> {
        let configured = self.parts.door.configured_type(instance)?;
        self.parts.cloud.price_history(instance, &configured).first().map(|point| point.price)
    }

    pub fn open(&self, instance: &InstanceId, secret: Option<&InstanceSecret>) {
        let mut open = self.open.lock();
        if open.contains_key(instance) {
            return;
        }
        match self.start(instance, secret) {
            Ok(started) => {
                open.insert(instance.clone(), started);
            }
            Err(error) => {
                let note =
                    Note::new(Level::Error, "worker", "cannot watch the instance; trying again at the next sync");
                write_note(&note.with("Instance", instance).with("error", error));
            }
        }
    }

    fn start(&self, instance: &InstanceId, secret: Option<&InstanceSecret>) -> std::io::Result<Open> {
        let parts = &self.parts;
        let Access { executor, places } = parts.cloud.open(instance, secret)?;
        let (supply, set, cluster_id) = (parts.supply.clone(), parts.set.clone(), parts.cluster_id.clone());
        let runner = Runner::new(executor, Arc::new(places), supply, set, cluster_id);
        let runner = runner.self_destructing(parts.self_destruct_after);
        let handle = Arc::new(WorkerHandle::new(instance.clone(), runner)?);
        let closing = StopSource::new();
        let context = RoundContext {
            instance: instance.clone(),
            runner: handle.runner.clone(),
            cloud: parts.cloud.clone(),
            boot_probe_command: parts.boot_probe_command.clone(),
            engine: parts.engine.clone(),
            metrics: parts.metrics.clone(),
            connected: false,
            facts_logged: false,
        };
        let (of_thread, door, token) = (handle.clone(), parts.door.clone(), closing.token());
        let thread = threads::start(&format!("probe {instance}"), WORKER_STACK, move || {
            worker::run(&of_thread, &door, context, &token);
        })?;
        Ok(Open { handle, closing, thread })
    }

    /// Opens what the pool has and is not open: an order to do so may have been lost, or have failed.
    pub fn open_missing(&self, targets: &[WorkerTarget]) {
        for target in targets {
            if self.get(&target.instance).is_none() {
                self.open(&target.instance, target.secret.as_ref());
                self.retarget(&target.instance, &target.address, &target.remote_user);
            }
        }
    }

    /// The address or user of the next connection.
    pub fn retarget(&self, instance: &InstanceId, address: &str, remote_user: &str) {
        if let Some(handle) = self.get(instance) {
            handle.runner.retarget(address, remote_user);
        }
    }

    /// Cancels what is in flight. The thread stays until the instance is gone.
    pub fn cut(&self, instance: &InstanceId) {
        if let Some(handle) = self.get(instance) {
            handle.runner.executor.close();
            handle.probe_soon();
        }
    }

    /// The instance is gone.
    pub fn close(&self, instance: &InstanceId) {
        let removed = self.open.lock().remove(instance);
        if let Some(Open { handle, closing, thread }) = removed {
            drop(closing);
            handle.runner.executor.close();
            let mut ending = self.ending.lock();
            ending.retain(|thread| !thread.is_finished());
            ending.push(thread);
        }
    }

    pub fn probe_soon(&self, instance: &InstanceId) {
        if let Some(handle) = self.get(instance) {
            handle.probe_soon();
        }
    }

    /// Closes all. Containers and instances go on.
    ///
    /// # Errors
    /// Names of threads that have not ended by the deadline.
    pub fn stop(&self, deadline: Instant) -> Result<(), Vec<String>> {
        let all: Vec<InstanceId> = self.open.lock().keys().cloned().collect();
        for instance in &all {
            self.close(instance);
        }
        let ending = std::mem::take(&mut *self.ending.lock());
        let late: Vec<String> = ending.into_iter().filter_map(|thread| thread.join_until(deadline).err()).collect();
        if late.is_empty() { Ok(()) } else { Err(late) }
    }
}
