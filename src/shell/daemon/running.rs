//! A running daemon: stop, reload, and the state in the log.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use parking_lot::Mutex;

use super::Reload;
use super::runner::reload_runner;
use super::settings::{quota_groups, scheduler_settings, selector, settings};
use crate::cloud::InstanceSet;
use crate::config::Config;
use crate::core::effect::{Effect, Level, Note};
use crate::core::errors::chain;
use crate::log::write_note;
use crate::management::metrics::Metrics;
use crate::management::server::Server;
use crate::queue::ContainerQueue;
use crate::queue::local::LocalQueue;
use crate::shell::backend::DaemonBackend;
use crate::shell::central::Central;
use crate::shell::lanes::Lanes;
use crate::shell::operations::Operations;
use crate::shell::state_dir::StateDir;
use crate::shell::stop::StopSource;
use crate::shell::threads::Thread;
use crate::shell::wakeups::Wakeups;

/// The process ends this long after the signal, whatever hangs (spec 20 §9: 5 s).
const STOP_LIMIT: Duration = Duration::from_millis(4500);
/// Of that, what remains for the others when a command on a worker hangs.
const LANES_RESERVE: Duration = Duration::from_millis(2000);

/// The daemon's parts without their threads.
pub(super) struct Parts {
    pub(super) backend: Arc<DaemonBackend>,
    pub(super) cloud: Arc<dyn InstanceSet>,
    pub(super) central: Arc<Central>,
    pub(super) lanes: Lanes,
    pub(super) operations: Arc<Operations>,
    pub(super) queue: Arc<LocalQueue>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) set: String,
    /// The receiving ends for the threads; taken when these start.
    pub(super) ends: Mutex<Option<Ends>>,
}

/// What the threads receive.
pub(super) struct Ends {
    pub(super) batches: Receiver<Vec<Effect>>,
    pub(super) list_asked: Receiver<()>,
    pub(super) wakeups: Wakeups,
}

/// In the order of their stop. The sync comes last: a list that hangs must not use up the others' time.
pub(super) struct Threads {
    pub(super) first: Vec<Thread>,
    pub(super) last: Vec<Thread>,
}

/// See the module.
pub(super) struct Daemon {
    pub(super) parts: Parts,
    pub(super) threads: Threads,
    pub(super) server: Server,
    /// Scheduler, sync, keeper.
    pub(super) stop_first: StopSource,
    /// Central.
    pub(super) stop_last: StopSource,
    pub(super) state_dir: StateDir,
}

impl Daemon {
    /// In reverse order of the start: listener, scheduler, sync, queue, lanes, probes, operations, effects. What is late is named, and
    /// ends with the process.
    pub(super) fn stop(self) {
        let deadline = Instant::now() + STOP_LIMIT;
        let Self { parts, threads, mut server, stop_first, stop_last, state_dir } = self;
        let mut late: Vec<String> = Vec::new();
        if !server.stop() {
            late.push("http".to_owned());
        }
        drop(stop_first);
        late.extend(threads.first.into_iter().filter_map(|thread| thread.join_until(deadline).err()));
        late.extend(parts.backend.scheduler.transitions.stop(deadline).err().into_iter().flatten());
        // What is being started or collected may finish first: a start that is cut costs the container an attempt.
        late.extend(parts.lanes.stop(deadline - LANES_RESERVE).err().into_iter().flatten());
        late.extend(parts.backend.workers.stop(deadline).err().into_iter().flatten());
        parts.cloud.stop();
        late.extend(parts.operations.stop(deadline).err().into_iter().flatten());
        drop(stop_last);
        late.extend(threads.last.into_iter().filter_map(|thread| thread.join_until(deadline).err()));
        if !late.is_empty() {
            let note = Note::new(Level::Warn, "daemon", "threads are late and end with the process");
            write_note(&note.with("Threads", late.join(",")));
        }
        drop(parts);
        drop(state_dir);
    }

    /// SIGHUP: the log file is opened again, the configuration read again.
    pub(super) fn reload(&self, reload: &Reload) {
        if let Err(error) = crate::log::reopen() {
            write_note(&Note::new(Level::Error, "daemon", "cannot reopen the log file").with("error", error));
        }
        match reload() {
            Err(faults) => {
                for fault in faults {
                    let note = Note::new(Level::Error, "config", "invalid configuration; keeping the old one");
                    write_note(&note.with("error", fault));
                }
            }
            Ok(config) => {
                self.take_over(Arc::new(config));
                reload_runner(&self.parts.backend);
            }
        }
    }

    fn take_over(&self, new: Arc<Config>) {
        let backend = &self.parts.backend;
        let old = backend.config.read().clone();
        let changes = crate::config::changes(&old, &new);
        for change in &changes {
            let (level, message) = match change.live {
                true => (Level::Info, "configuration changed"),
                false => (Level::Warn, "configuration changed, but this key needs a restart"),
            };
            let note = Note::new(level, "config", message).with("Key", &change.key);
            write_note(&note.with("Old", &change.old).with("New", &change.new));
        }
        if changes.is_empty() {
            write_note(&Note::new(Level::Info, "config", "configuration read again; nothing changed"));
            return;
        }
        let new = Arc::new(Config::with_live_part(&old, &new));
        let settings = settings(&new, &self.parts.set, &*self.parts.cloud);
        *backend.scheduler.new_settings.lock() = Some(scheduler_settings(&new, &settings));
        // Before anything is asked for of a type that is new.
        backend.door.set_quota_groups(quota_groups(&new, &*self.parts.cloud));
        *backend.config.write() = new.clone();
        if let Err(error) = self.parts.queue.set_selector(selector(&new)) {
            let note = Note::new(Level::Error, "config", "cannot choose instance types anew for waiting containers");
            write_note(&note.with("error", chain(&error)));
        }
        backend.door.reconfigure(settings, new.instance_types.clone());
    }

    /// SIGUSR1: the present state in the log.
    pub(super) fn dump(&self) {
        let backend = &self.parts.backend;
        let view = backend.door.view();
        for one in view.instances.values() {
            let id = one.id().map(ToString::to_string).unwrap_or_default();
            let note = Note::new(Level::Info, "state", "instance").with("Instance", id);
            let note = note.with("InstanceType", &one.type_name).with("State", one.state);
            let running: Vec<_> = one.containers.iter().map(ToString::to_string).collect();
            let note = note.with("IdleBehavior", one.idle_behavior).with("Running", running.join(","));
            write_note(&note.with("Collecting", one.collecting.len()).with("Address", &one.address));
        }
        for limit in backend.door.limits_in_force() {
            write_note(&Note::new(Level::Info, "state", "limit").with("Kind", limit.what).with("Detail", limit.detail));
        }
        let report = backend.scheduler.report.read().clone();
        let listing = report.as_ref().map(|report| report.listing());
        for (listing, one) in listing.iter().flat_map(|listing| listing.items.iter().map(move |one| (listing, one))) {
            let text = listing.text(one);
            if !text.is_empty() {
                let uuid = &one.entry.container.uuid;
                let note = Note::new(Level::Info, "state", "waiting container").with("ContainerUUID", uuid);
                write_note(&note.with("Reason", &text));
            }
        }
        let counts = self.parts.queue.counts_by_state();
        let counts: Vec<_> = counts.iter().map(|(state, count)| format!("{state}:{count}")).collect();
        let trouble = self.parts.queue.trouble().unwrap_or_default();
        let note = Note::new(Level::Info, "state", "queue").with("Containers", counts.join(","));
        write_note(&note.with("Trouble", trouble));
    }
}
