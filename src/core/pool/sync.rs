//! Keeping in step with the cloud's list (spec 20 §5).

use std::collections::BTreeMap;
use std::time::Duration;

use super::Pool;
use super::create::InstanceReport;
use super::view::GONE_AFTER;
use crate::core::effect::{Effect, Effects, Figure, Level, Note, seconds};
use crate::core::ids::{InstanceId, InstanceSecret, TypeName};
use crate::core::time::Moment;
use crate::core::timer::Timer;
use crate::core::vocabulary::{BootOutcome, IdleBehavior, WorkerState};
use crate::core::worker::Worker;

/// Pause between lists while a booting worker has no address.
const ADDRESS_INTERVAL: Duration = Duration::from_secs(2);

impl Pool {
    /// How long to wait after a list before the next one.
    pub fn list_interval(&self) -> Duration {
        let interval = self.settings.sync_interval;
        if self.waits_for_address() { ADDRESS_INTERVAL.min(interval) } else { interval }
    }

    fn waits_for_address(&self) -> bool {
        self.workers.values().any(|worker| worker.state == WorkerState::Booting && worker.address.is_empty())
    }

    /// An instance was created without an address. The wait for the next list has begun before, and is a long one: this ends it.
    /// Not at once, since the cloud has just said that it does not know the address yet, and one list is enough for many creates.
    pub(super) fn expect_address(&mut self, now: Moment) {
        if self.timers.when(&Timer::Address).is_none() && self.waits_for_address() {
            self.timers.set(now + ADDRESS_INTERVAL, Timer::Address);
        }
    }

    pub(super) fn look_for_address(&self, effects: &mut Effects) {
        if self.waits_for_address() {
            effects.push(Effect::ListSoon);
        }
    }

    /// Applies a complete list whose call began at `began`. Instances that carry another set id must not be in it.
    pub fn apply_list(
        &mut self,
        began: Moment,
        listed: &BTreeMap<InstanceId, InstanceReport>,
        now: Moment,
        effects: &mut Effects,
    ) {
        for (id, report) in listed {
            self.observe_instance(id, report, true, now, effects);
        }
        // The next list comes after `list_interval`, which knows who waits.
        self.timers.cancel(&Timer::Address);
        let gone: Vec<InstanceId> = self
            .workers
            .values()
            .filter(|worker| !listed.contains_key(&worker.id) && worker.appeared < began)
            .filter(|worker| worker.ever_listed || began.since(worker.appeared) >= self.settings.list_delay)
            .map(|worker| worker.id.clone())
            .collect();
        for id in gone {
            self.drop_disappeared(&id, now, effects);
        }
        let first = *self.first_list.get_or_insert(began);
        let apart = |last: Option<Moment>| last.is_some_and(|last| last.since(first) >= GONE_AFTER);
        let were_apart = apart(self.last_list.replace(began));
        if apart(self.last_list) {
            self.departed.clear();
            if !were_apart {
                // From now on what no list shows is gone (spec 70 §3): attempts may be lost by that.
                effects.notify();
            }
        }
        self.release_quota_if_fewer(effects);
        self.log_max_instances(effects);
        if !self.loaded {
            self.loaded = true;
            let note = Note::new(Level::Info, "pool", "loaded initial instance list from the cloud");
            effects.log(note.with("Instances", self.workers.len()));
            effects.notify();
        }
    }

    /// An instance was reported, by a list (`listed`) or by its own create.
    pub(super) fn observe_instance(
        &mut self,
        id: &InstanceId,
        report: &InstanceReport,
        listed: bool,
        now: Moment,
        effects: &mut Effects,
    ) {
        let is_new = !self.workers.contains_key(id);
        if is_new {
            let worker = self.new_worker(id, report, now, effects);
            self.workers.insert(id.clone(), worker);
        }
        let timeout_shutdown = self.settings.timeout_shutdown;
        self.with_worker(id, now, effects, |worker, cx| {
            worker.ever_listed |= listed;
            worker.tags.clone_from(&report.tags);
            worker.saved_tags = None;
            if worker.address != report.address || worker.remote_user != report.remote_user {
                let address_known = worker.address.is_empty() && !report.address.is_empty();
                worker.address.clone_from(&report.address);
                worker.remote_user.clone_from(&report.remote_user);
                cx.order(Effect::Retarget {
                    instance: id.clone(),
                    address: report.address.clone(),
                    remote_user: report.remote_user.clone(),
                });
                if address_known {
                    cx.order(Effect::ProbeSoon { instance: id.clone() });
                }
            }
            if worker.state != WorkerState::Shutdown {
                worker.save_tags_if_different(cx);
            } else if worker.last_destroy.is_none_or(|last| cx.now.since(last) > timeout_shutdown) {
                cx.note(worker.note(Level::Info, "worker still listed after shutdown; retrying"));
                worker.destroy(cx);
            }
        });
        if is_new {
            effects.notify();
        }
    }

    /// A record of an instance seen for the first time. What its tags say is checked: they come from outside.
    fn new_worker(&mut self, id: &InstanceId, report: &InstanceReport, now: Moment, effects: &mut Effects) -> Worker {
        let prefix = &self.settings.tag_key_prefix;
        let tag = |name: &str| report.tags.get(&format!("{prefix}{name}")).map(String::as_str).unwrap_or_default();
        let secret = Some(tag("InstanceSecret")).filter(|text| !text.is_empty()).map(InstanceSecret::new);
        let type_name = match tag("InstanceType") {
            "" => TypeName::new(&report.provider_type),
            name => TypeName::new(name),
        };
        let behavior = IdleBehavior::parse(tag("IdleBehavior"));
        let asked_for = secret.as_ref().is_some_and(|secret| self.was_asked_for(secret, now));
        let state = if asked_for { WorkerState::Booting } else { WorkerState::Unknown };
        let mut worker = Worker::new(id.clone(), type_name, state, now);
        worker.instance_type = self.types.get(&worker.type_name).cloned();
        worker.idle_behavior = behavior.unwrap_or(IdleBehavior::Run);
        worker.secret = secret;
        worker.tags.clone_from(&report.tags);
        let note = Note::new(Level::Info, "pool", "instance appeared in cloud").with("Instance", id);
        let note = note.with("Address", &report.address).with("InstanceType", &worker.type_name);
        if worker.instance_type.is_none() && behavior != Some(IdleBehavior::Hold) {
            worker.idle_behavior = IdleBehavior::Drain;
            let note = Note::new(Level::Warn, "pool", "instance type is not configured; draining the instance");
            effects.log(note.with("Instance", id).with("InstanceType", &worker.type_name));
        }
        effects.log(note.with("State", worker.state).with("IdleBehavior", worker.idle_behavior));
        effects.push(Effect::OpenWorker { instance: id.clone(), secret: worker.secret.clone() });
        worker
    }

    fn drop_disappeared(&mut self, id: &InstanceId, now: Moment, effects: &mut Effects) {
        self.with_worker(id, now, effects, |worker, cx| {
            cx.note(
                Note::new(Level::Info, "pool", "instance disappeared in cloud")
                    .with("Instance", id)
                    .with("State", worker.state)
                    .with("Duration", seconds(cx.now.since(worker.appeared))),
            );
            worker.report_boot_outcome(BootOutcome::Disappeared, cx);
            cx.order(Effect::Observe(Figure::Disappeared(worker.state)));
            if let Some(asked) = worker.destroyed {
                cx.order(Effect::Observe(Figure::TimeFromShutdownToDisappearance(cx.now.since(asked))));
            }
            if worker.state == WorkerState::Unknown {
                *cx.last_unknown_resolved = Some(cx.now);
            }
            worker.abandon_runners(cx);
            cx.order(Effect::CloseWorker { instance: id.clone() });
        });
        self.workers.remove(id);
        self.board.remove(id, &self.exited);
        self.departed.insert(id.clone());
        effects.notify();
    }
}
