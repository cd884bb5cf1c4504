//! The transitions that the scheduler and users ask for (spec 30 §4, 70 §3): each is one step inside the writer's transaction.
//!
//! Queued → Locked → Running → final, back to Queued by unlock or a lost attempt. Repeating any of them is safe. How an attempt's
//! end is judged is in `outcome`.

use std::sync::Arc;

use rusqlite::params;

use crate::core::ids::{Attempt, ContainerUuid, InstanceId, TypeName};
use crate::core::vocabulary::ContainerState::{Cancelled, Locked, Queued, Running};
use crate::queue::Assignment;

use super::memory::CachedSelector;
use super::rows::Row;
use super::step::{Step, StepResult, wrong, wrong_state};
use super::types::{CancelOutcome, CommandError, FieldError};
use super::validate::PRIORITIES;

/// What `runtime_status.error` says of a container that a user cancelled.
pub(super) const CANCELLED_BY_USER: &str = "cancelled on request";

impl Step<'_> {
    /// Queued → Locked.
    pub(super) fn lock(&mut self, uuid: &ContainerUuid) -> StepResult<()> {
        let mut row = self.row(uuid)?;
        if row.state != Queued {
            return Err(wrong_state(&row, "lock"));
        }
        if row.priority <= 0 {
            return Err(wrong(&row, "lock", "on hold"));
        }
        if row.waiting > 0 {
            return Err(wrong(&row, "lock", "waiting for others to complete"));
        }
        row.state = Locked;
        self.history(&row, "locked", "")?;
        self.save(row, Queued)
    }

    /// Locked → Queued, or → Cancelled when a user wants that.
    pub(super) fn unlock(&mut self, uuid: &ContainerUuid) -> StepResult<()> {
        let mut row = self.row(uuid)?;
        if row.state != Locked {
            return Err(wrong_state(&row, "unlock"));
        }
        if row.cancel_requested {
            return self.end_cancelled(row, CANCELLED_BY_USER);
        }
        self.close_present_attempt(&mut row, "stopped before it ran")?;
        self.history(&row, "unlocked", "")?;
        self.requeue(row)
    }

    /// Any state that is not final → Cancelled.
    pub(super) fn cancel(&mut self, uuid: &ContainerUuid, why: &str) -> StepResult<()> {
        let row = self.row(uuid)?;
        if row.state.is_final() {
            return Err(wrong_state(&row, "cancel"));
        }
        self.end_cancelled(row, why)
    }

    /// Writes where a Locked container goes, before its start is sent.
    pub(super) fn assign(
        &mut self,
        uuid: &ContainerUuid,
        attempt: Attempt,
        instance: &InstanceId,
        instance_type: &TypeName,
    ) -> StepResult<Assignment> {
        let mut row = self.row(uuid)?;
        let is_out = row.instance.is_some();
        match row.state {
            Locked | Running if is_out && row.attempt == attempt && row.instance.as_ref() == Some(instance) => {
                let container = row.container(self.request(&row)?);
                return Ok(Assignment { container, attempt });
            }
            Locked | Running if is_out => return Err(wrong(&row, "assign", "assigned already")),
            Locked if row.cancel_requested => return Err(wrong(&row, "assign", "to be cancelled")),
            Locked if row.priority <= 0 => return Err(wrong(&row, "assign", "on hold")),
            Locked if Some(attempt) != row.attempt.checked_add(1) => {
                return Err(wrong(&row, "assign that attempt", "at another attempt"));
            }
            Locked => {}
            _ => return Err(wrong_state(&row, "assign")),
        }
        row.attempt = attempt;
        row.instance = Some(instance.clone());
        row.instance_type = Some(instance_type.clone());
        let sql = "INSERT INTO attempts (container, attempt, instance, instance_type, price, started_at) \
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
        let price = self.price(&row, instance_type);
        self.connection.prepare_cached(sql)?.execute(params![
            row.id,
            attempt,
            instance.as_str(),
            instance_type.as_str(),
            price,
            self.now
        ])?;
        self.history(&row, "assigned", &format!("attempt {attempt} to {instance} ({instance_type})"))?;
        let container = row.container(self.request(&row)?);
        self.save(row, Locked)?;
        Ok(Assignment { container, attempt })
    }

    /// The type's price per hour now; 0 if the configuration does not know it any more.
    fn price(&self, row: &Row, instance_type: &TypeName) -> f64 {
        let entry = self.shared.memory.lock().entry(&row.uuid);
        let types = entry.iter().flat_map(|entry| entry.instance_types.iter());
        types.filter(|known| known.name == instance_type.as_str()).map(|known| known.price).next().unwrap_or(0.0)
    }

    /// Locked → Running.
    pub(super) fn seen_running(&mut self, uuid: &ContainerUuid, attempt: Attempt) -> StepResult<()> {
        let mut row = self.row(uuid)?;
        if row.state != Locked || row.attempt != attempt || row.instance.is_none() {
            return Ok(());
        }
        row.state = Running;
        row.started_at = Some(self.now);
        self.history(&row, "running", &format!("attempt {attempt}"))?;
        self.save(row, Locked)
    }

    /// An operator's kill, recorded before it is sent.
    pub(super) fn note_kill(&mut self, uuid: &ContainerUuid) -> StepResult<()> {
        let mut row = self.row(uuid)?;
        let may_run = matches!(row.state, Locked | Running) && row.instance.is_some();
        if !may_run || row.kill_asked == row.attempt {
            return Ok(());
        }
        row.kill_asked = row.attempt;
        self.history(&row, "kill asked", "")?;
        let before = row.state;
        self.save(row, before)
    }

    /// A user's cancel.
    pub(super) fn request_cancel(&mut self, uuid: &ContainerUuid) -> StepResult<CancelOutcome> {
        let mut row = self.row(uuid)?;
        if row.state.is_final() {
            return Err(wrong_state(&row, "cancel"));
        }
        if row.cancel_requested {
            return Ok(CancelOutcome::Requested);
        }
        row.cancel_requested = true;
        row.priority = 0;
        self.history(&row, "cancel requested", "")?;
        if row.state == Queued {
            self.end_cancelled(row, CANCELLED_BY_USER)?;
            return Ok(CancelOutcome::Cancelled);
        }
        let before = row.state;
        self.save(row, before)?;
        Ok(CancelOutcome::Requested)
    }

    /// A user's new priority.
    pub(super) fn set_priority(&mut self, uuid: &ContainerUuid, priority: i64) -> StepResult<()> {
        if !PRIORITIES.contains(&priority) {
            let field = FieldError::new("priority", format!("{priority} is not from 0 to 1000"));
            return Err(CommandError::Invalid { line: None, field }.into());
        }
        let mut row = self.row(uuid)?;
        let refuse = |why: String| Err(CommandError::Refused { uuid: uuid.clone(), why }.into());
        match row.state {
            Running => return refuse("it is running, so its priority has no effect; use cancel to end it".to_owned()),
            state if state.is_final() => return Err(wrong_state(&row, "change the priority")),
            _ if row.cancel_requested => return refuse("it is being cancelled".to_owned()),
            _ if row.priority == priority => return Ok(()),
            _ => {}
        }
        // One on hold may have been forgotten: then it comes back with types of the present configuration.
        let mut arrival = None;
        if row.priority == 0 && row.state == Queued {
            let request = self.request(&row)?;
            match CachedSelector::new(self.shared.selector().1).select(&request) {
                Ok(fit) => arrival = Some((request, fit)),
                Err(why) => return refuse(why),
            }
        }
        self.history(&row, "priority changed", &format!("{} to {priority}", row.priority))?;
        row.priority = priority;
        let before = row.state;
        self.save_arriving(row, before, arrival)
    }

    /// Computes the types of every container in the snapshot anew; cancels those that wait and fit nowhere.
    pub(super) fn reselect(&mut self) -> StepResult<()> {
        let snapshot = self.shared.memory.lock().snapshot();
        let mut selector = CachedSelector::new(self.shared.selector().1);
        for (uuid, entry) in snapshot.entries.iter() {
            match selector.select(&entry.container.request) {
                Ok(fit) => self.fits.push((uuid.clone(), fit)),
                Err(why) => {
                    let row = self.row(uuid)?;
                    if row.state == Queued || row.state == Locked && row.instance.is_none() {
                        self.cancelled.push((uuid.clone(), why.to_string()));
                        self.end_cancelled(row, &why)?;
                    } else {
                        self.fits.push((uuid.clone(), (entry.resources, Arc::new([]))));
                    }
                }
            }
        }
        Ok(())
    }

    /// → Queued, as if it had never been sent, except that its attempts are counted.
    pub(super) fn requeue(&mut self, mut row: Row) -> StepResult<()> {
        let before = row.state;
        row.state = Queued;
        row.instance = None;
        row.instance_type = None;
        row.started_at = None;
        self.save(row, before)
    }

    /// → Cancelled with this reason.
    pub(super) fn end_cancelled(&mut self, mut row: Row, why: &str) -> StepResult<()> {
        self.close_present_attempt(&mut row, why)?;
        let before = row.state;
        row.state = Cancelled;
        why.clone_into(&mut row.status.error);
        row.finished_at.get_or_insert(self.now);
        self.history(&row, "cancelled", why)?;
        self.end(row, before)
    }
}
