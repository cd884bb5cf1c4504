//! The two dynamic limits and the supervisors' share (spec 30 §3).

use std::time::Duration;

use super::SchedulerSettings;
use crate::core::time::Moment;

/// So long after a 503 the API limit is left alone.
const API_LIMIT_RAISED_AFTER: Duration = Duration::from_secs(60);

/// What limits how many containers are tried; 0 always means "none".
#[derive(Clone, Debug)]
pub(super) struct DynamicLimits {
    /// Containers on workers + those being tried.
    pub(super) api: usize,
    /// Instances + creates + Locked containers that no existing instance has room for.
    pub(super) quota: usize,
    /// A number of instances that is known to be within the quota.
    within_quota: usize,
    last_busy_answer: Option<Moment>,
}

/// What the limits are learned from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Circumstances {
    /// Containers on workers.
    pub(super) running: usize,
    /// Instances that exist.
    pub(super) existing: usize,
    /// Instances and creates.
    pub(super) instances: usize,
    pub(super) at_quota: bool,
    pub(super) last_busy_answer: Option<Moment>,
    pub(super) now: Moment,
}

/// One more than a tenth above.
const fn raised(number: usize) -> usize {
    number.saturating_add(number / 10).saturating_add(1)
}

impl DynamicLimits {
    pub(super) fn new(settings: &SchedulerSettings) -> Self {
        let quota = match settings.initial_quota_estimate {
            0 => settings.max_instances,
            estimate => estimate,
        };
        Self { api: 0, quota, within_quota: 0, last_busy_answer: None }
    }

    pub(super) fn learn(&mut self, settings: &SchedulerSettings, seen: &Circumstances) {
        self.learn_api(seen);
        self.learn_quota(settings, seen);
    }

    fn learn_api(&mut self, seen: &Circumstances) {
        if seen.last_busy_answer > self.last_busy_answer {
            self.last_busy_answer = seen.last_busy_answer;
            self.api = seen.running.saturating_sub(1).max(1);
        } else if self.api > 0
            && self.last_busy_answer.is_some_and(|last| seen.now.since(last) >= API_LIMIT_RAISED_AFTER)
        {
            self.api = self.api.max(raised(seen.running));
        }
    }

    fn learn_quota(&mut self, settings: &SchedulerSettings, seen: &Circumstances) {
        if seen.at_quota {
            let working = seen.instances.max(1);
            self.within_quota = working;
            if self.quota == 0 || self.quota > working {
                self.quota = working;
            }
            return;
        }
        if self.within_quota > 0 {
            self.within_quota = self.within_quota.max(seen.instances);
        }
        if self.quota == 0 {
            return;
        }
        // An estimate, or what was left by a quota, must not last for ever: as many instances as exist are evidently allowed.
        self.quota = self.quota.max(raised(seen.existing));
        if settings.max_instances > 0 {
            self.quota = self.quota.min(settings.max_instances);
        }
        if self.within_quota > 0 {
            self.quota = self.quota.min(self.within_quota + 1);
        }
    }

    /// The tighter of the two, for the metric and the supervisors.
    pub(super) fn tighter(&self) -> usize {
        match (self.api, self.quota) {
            (0, limit) | (limit, 0) => limit,
            (api, quota) => api.min(quota),
        }
    }

    /// How many supervisors may be on workers or tried; 0 = no limit.
    pub(super) fn supervisors(&self, fraction: f64) -> usize {
        let limit = self.tighter();
        if limit == 0 || fraction <= 0.0 {
            return 0;
        }
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a limit is a small number, the fraction is positive, and a float's cast saturates"
        )]
        let share = (limit as f64 * fraction).floor() as usize;
        share.max(1)
    }

    /// When the API limit may be raised, if that is still to come.
    pub(super) fn deadline(&self, now: Moment) -> Option<Moment> {
        let raise_at = self.last_busy_answer? + API_LIMIT_RAISED_AFTER;
        (raise_at > now).then_some(raise_at)
    }
}
