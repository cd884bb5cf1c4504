//! Creating instances (spec 20 §1).

use std::sync::Arc;
use std::time::Duration;

use super::Pool;
use super::limits::{CallKind, CloudRefusal};
use crate::core::effect::{Effect, Effects, Level, Note, Tags};
use crate::core::ids::{InstanceId, InstanceSecret, OperationId, TypeName};
use crate::core::instance_type::InstanceType;
use crate::core::settings::CREATE_DEADLINE;
use crate::core::time::Moment;
use crate::core::timer::Timer;
use crate::core::vocabulary::IdleBehavior;

/// So long the secret of a create without an answer is kept. An instance that appears later is `unknown`, which works too.
const REMEMBERED: Duration = Duration::from_secs(3600);
/// So many of them, the youngest.
const REMEMBERED_MAX: usize = 1000;

/// A create whose outcome is not known yet.
#[derive(Clone, Debug)]
pub struct PendingCreate {
    pub instance_type: Arc<InstanceType>,
    pub type_name: TypeName,
    /// By this secret its instance is known again, whatever the call reports.
    pub secret: InstanceSecret,
    pub began: Moment,
}

/// What the cloud said of one instance.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct InstanceReport {
    /// Empty while unknown.
    pub address: String,
    pub remote_user: String,
    pub provider_type: String,
    pub tags: Tags,
}

impl Pool {
    /// How many creates would be accepted now, whatever the type.
    pub fn creates_accepted(&self, now: Moment) -> usize {
        if self.runner_fault.is_some() || self.at_quota(now) || self.calls_suspended(CallKind::Create, now) {
            return 0;
        }
        let concurrent = match self.settings.max_concurrent_create_ops {
            0 => usize::MAX,
            max => max.saturating_sub(self.creates.len()),
        };
        let watched = self.settings.max_workers.saturating_sub(self.instance_count());
        // After a quota hold that only time has ended, one create finds out whether there is room again.
        let tried = if self.tries_quota(now) { 1_usize.saturating_sub(self.creates.len()) } else { usize::MAX };
        concurrent.min(self.quota_room()).min(watched).min(tried)
    }

    /// See [`super::view::PoolView::creates_refused`].
    pub(super) fn creates_refused(&self) -> Option<String> {
        if let Some(fault) = &self.runner_fault {
            return Some(format!("the runner cannot be put on instances: {fault}"));
        }
        let max = self.settings.max_workers;
        (self.instance_count() >= max).then(|| format!("this process can watch no more than {max} instances"))
    }

    /// Begins a create with a fresh secret of the caller's. `None`: refused now, without an error (spec 20 §1).
    pub fn create(
        &mut self,
        type_name: &TypeName,
        secret: InstanceSecret,
        now: Moment,
        effects: &mut Effects,
    ) -> Option<OperationId> {
        let instance_type = self.types.get(type_name)?.clone();
        if self.creates_accepted(now) == 0 || self.at_capacity(&instance_type, now) {
            return None;
        }
        let operation = self.operation();
        let create = PendingCreate {
            instance_type: instance_type.clone(),
            type_name: type_name.clone(),
            secret: secret.clone(),
            began: now,
        };
        self.board.show_create(operation, &create);
        self.creates.insert(operation, create);
        self.timers.set(now + CREATE_DEADLINE, Timer::CreateDeadline(operation));
        let tags = self.tags_of_new(type_name, &secret);
        effects.log(Note::new(Level::Info, "pool", "creating instance").with("InstanceType", type_name));
        effects.push(Effect::CreateInstance { operation, instance_type, tags, secret });
        self.log_max_instances(effects);
        effects.notify();
        Some(operation)
    }

    fn tags_of_new(&self, type_name: &TypeName, secret: &InstanceSecret) -> Tags {
        let prefix = &self.settings.tag_key_prefix;
        [
            ("InstanceSetID", self.settings.instance_set_id.as_str()),
            ("InstanceType", type_name.as_str()),
            ("IdleBehavior", IdleBehavior::Run.as_str()),
            ("InstanceSecret", secret.reveal()),
        ]
        .into_iter()
        .map(|(name, value)| (format!("{prefix}{name}"), value.to_owned()))
        .collect()
    }

    /// Once per crossing.
    pub(super) fn log_max_instances(&mut self, effects: &mut Effects) {
        let reached = self.quota_room() == 0;
        if reached && !self.max_instances_logged {
            let note = Note::new(Level::Info, "pool", "reached configured MaxInstances; not creating more");
            effects.log(note.with("MaxInstances", self.settings.max_instances));
        }
        self.max_instances_logged = reached;
    }

    /// The create call of `operation` made this instance.
    pub fn create_succeeded(
        &mut self,
        operation: OperationId,
        id: &InstanceId,
        report: &InstanceReport,
        now: Moment,
        effects: &mut Effects,
    ) {
        // The worker comes first and the unfinished create goes second, so that it is never counted as neither.
        let mut report = report.clone();
        if let Some(create) = self.creates.get(&operation) {
            self.limits.failing_no_more(&create.type_name);
            // What the driver does not repeat is what we asked for.
            for (key, value) in self.tags_of_new(&create.type_name, &create.secret) {
                report.tags.entry(key).or_insert(value);
            }
        }
        self.observe_instance(id, &report, false, now, effects);
        self.expect_address(now);
        self.close_create(operation, now);
        self.log_max_instances(effects);
        self.after_cloud_call(false, effects);
    }

    /// The create call of `operation` reported an error. Its instance may exist all the same: then a list shows it.
    pub fn create_failed(
        &mut self,
        operation: OperationId,
        refusal: &CloudRefusal,
        error: &str,
        now: Moment,
        effects: &mut Effects,
    ) {
        let Some(create) = self.creates.remove(&operation) else {
            return;
        };
        self.board.remove_create(operation);
        self.timers.cancel(&Timer::CreateDeadline(operation));
        let class = match refusal {
            CloudRefusal::RateLimit { .. } => "rate limit",
            CloudRefusal::Quota => "quota",
            CloudRefusal::Capacity(_) => "capacity",
            CloudRefusal::Other => "other",
        };
        // One of many that were asked for together, and were refused alike: the first has told it.
        let is_known = self.limits.is_known(&create.instance_type, refusal, now);
        let level = if is_known { Level::Debug } else { Level::Warn };
        let note = Note::new(level, "pool", "create failed").with("InstanceType", &create.type_name);
        effects.log(note.with("Class", class).with("error", error));
        let others = self.instance_count();
        self.create_refused((&create.instance_type, create.began), refusal, others, now, effects);
        let may_exist = *refusal == CloudRefusal::Other;
        if may_exist {
            self.remember(create.secret, now);
        }
        self.log_max_instances(effects);
        // The answer may have been lost, and not the instance: the sooner it is seen, the fewer are asked for in its place.
        self.after_cloud_call(may_exist, effects);
    }

    /// Its instance is ours if it appears.
    fn remember(&mut self, secret: InstanceSecret, now: Moment) {
        let creates = &mut self.given_up_creates;
        creates.retain(|_, since| now.since(*since) < REMEMBERED);
        if creates.len() >= REMEMBERED_MAX
            && let Some(oldest) = creates.iter().min_by_key(|(_, since)| **since).map(|(secret, _)| secret.clone())
        {
            creates.remove(&oldest);
        }
        creates.insert(secret, now);
    }

    pub(super) fn create_deadline_passed(&mut self, operation: OperationId, now: Moment, effects: &mut Effects) {
        if self.creates.contains_key(&operation) {
            let text = "the cloud did not answer in time; the instance is recognised if it appears";
            self.create_failed(operation, &CloudRefusal::Other, text, now, effects);
        }
    }

    fn after_cloud_call(&self, list: bool, effects: &mut Effects) {
        if list || self.settings.cheap_list {
            effects.push(Effect::ListSoon);
        }
        effects.notify();
    }

    /// The instance of this create is a worker: it is not counted beside it any more.
    fn close_create(&mut self, operation: OperationId, now: Moment) {
        if self.creates.remove(&operation).is_some() {
            self.board.remove_create(operation);
            self.timers.cancel(&Timer::CreateDeadline(operation));
            self.quota_has_room(now);
        }
    }

    /// An instance with this secret is one that we asked for. Its create is closed, even if the call has not returned.
    pub(super) fn was_asked_for(&mut self, secret: &InstanceSecret, now: Moment) -> bool {
        let create = self.creates.iter().find(|(_, create)| create.secret == *secret).map(|(operation, _)| *operation);
        if let Some(operation) = create {
            self.close_create(operation, now);
        }
        create.is_some() || self.given_up_creates.remove(secret).is_some_and(|since| now.since(since) < REMEMBERED)
    }
}
