//! The transitions that the scheduler and users ask for (spec 30 §4, 70 §3): each is one step inside the writer's transaction.
//!
//! What each may do is decided by [`crate::core::lifecycle`]; here it is written down, with its history. The end of an attempt is in
//! `outcome`.

use std::sync::Arc;

use rusqlite::params;

use crate::core::ids::{Attempt, ContainerUuid, TypeName};
use crate::core::lifecycle::{Assigned, CANCELLED_BY_USER, CancelRequest, PriorityRefusal, Refusal, Unlocked};
use crate::core::vocabulary::ContainerState::{self, Locked, Queued};
use crate::queue::{Assignment, Placement};

use super::memory::CachedSelector;
use super::rows::Row;
use super::step::{Step, StepResult, wrong};
use super::types::{CancelOutcome, CommandError, FieldError};
use super::validate::PRIORITIES;

impl Step<'_> {
    /// Queued → Locked.
    pub(super) fn lock(&mut self, uuid: &ContainerUuid) -> StepResult<()> {
        let mut row = self.row(uuid)?;
        row.life.lock().map_err(|refusal| wrong(&row, refusal))?;
        self.history(&row, "locked", "")?;
        self.save(row, Queued)
    }

    /// Locked → Queued, or → Cancelled when a user wants that.
    pub(super) fn unlock(&mut self, uuid: &ContainerUuid) -> StepResult<()> {
        let mut row = self.row(uuid)?;
        match row.life.unlock().map_err(|refusal| wrong(&row, refusal))? {
            Unlocked::Cancelled => self.has_cancelled(row, Locked, CANCELLED_BY_USER),
            Unlocked::Queued => {
                self.close_present_attempt(&mut row, "stopped before it ran")?;
                self.history(&row, "unlocked", "")?;
                self.has_requeued(row, Locked)
            }
        }
    }

    /// Any state that is not final → Cancelled.
    pub(super) fn cancel(&mut self, uuid: &ContainerUuid, why: &str) -> StepResult<()> {
        let row = self.row(uuid)?;
        self.cancel_row(row, why)
    }

    fn cancel_row(&mut self, mut row: Row, why: &str) -> StepResult<()> {
        let before = row.life.state;
        row.life.cancel().map_err(|refusal| wrong(&row, refusal))?;
        self.has_cancelled(row, before, why)
    }

    /// Writes where a Locked container goes, before its start is sent.
    pub(super) fn assign(
        &mut self,
        uuid: &ContainerUuid,
        attempt: Attempt,
        placement: &Placement,
    ) -> StepResult<Assignment> {
        let Placement { instance, instance_type, price } = placement;
        let mut row = self.row(uuid)?;
        let assigned = row.life.assign(attempt, instance, instance_type).map_err(|refusal| wrong(&row, refusal))?;
        let container = row.container(self.request(&row)?);
        if assigned == Assigned::Now {
            let sql = "INSERT INTO attempts (container, attempt, instance, instance_type, price, started_at) \
                       VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
            let price = price.unwrap_or_else(|| self.price(&row, instance_type));
            self.connection.prepare_cached(sql)?.execute(params![
                row.id,
                attempt,
                instance.as_str(),
                instance_type.as_str(),
                price,
                self.now
            ])?;
            self.history(&row, "assigned", &format!("attempt {attempt} to {instance} ({instance_type})"))?;
            self.save(row, Locked)?;
        }
        Ok(Assignment { container, attempt, repeated: assigned == Assigned::Again })
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
        if !row.life.seen_running(attempt) {
            return Ok(());
        }
        row.started_at = Some(self.now);
        self.history(&row, "running", &format!("attempt {attempt}"))?;
        self.save(row, Locked)
    }

    /// An operator's kill, recorded before it is sent.
    pub(super) fn note_kill(&mut self, uuid: &ContainerUuid) -> StepResult<()> {
        let mut row = self.row(uuid)?;
        if !row.life.note_kill() {
            return Ok(());
        }
        self.history(&row, "kill asked", "")?;
        let before = row.life.state;
        self.save(row, before)
    }

    /// A user's cancel.
    pub(super) fn request_cancel(&mut self, uuid: &ContainerUuid) -> StepResult<CancelOutcome> {
        let mut row = self.row(uuid)?;
        let before = row.life.state;
        let request = row.life.request_cancel().map_err(|refusal| wrong(&row, refusal))?;
        if request != CancelRequest::Known {
            self.history(&row, "cancel requested", "")?;
        }
        match request {
            CancelRequest::Known => Ok(CancelOutcome::Requested),
            CancelRequest::Noted => self.save(row, before).map(|()| CancelOutcome::Requested),
            CancelRequest::Cancelled => {
                self.has_cancelled(row, before, CANCELLED_BY_USER).map(|()| CancelOutcome::Cancelled)
            }
        }
    }

    /// A user's new priority.
    pub(super) fn set_priority(&mut self, uuid: &ContainerUuid, priority: i64) -> StepResult<()> {
        if !PRIORITIES.contains(&priority) {
            let field = FieldError::new("priority", format!("{priority} is not from 0 to 1000"));
            return Err(CommandError::Invalid { line: None, field }.into());
        }
        let mut row = self.row(uuid)?;
        let (before, held) = (row.life.clone(), row.life.priority == 0);
        let refuse = |why: String| Err(CommandError::Refused { uuid: uuid.clone(), why }.into());
        match row.life.set_priority(priority) {
            Err(PriorityRefusal::Running) => {
                return refuse("it is running, so its priority has no effect; use cancel to end it".to_owned());
            }
            Err(PriorityRefusal::Final) => {
                let state = row.life.state.as_str();
                return Err(wrong(&row, Refusal { operation: "change the priority", state }));
            }
            Err(PriorityRefusal::BeingCancelled) => return refuse("it is being cancelled".to_owned()),
            Ok(false) => return Ok(()),
            Ok(true) => {}
        }
        // One on hold may have been forgotten: then it comes back with types of the present configuration.
        let mut arrival = None;
        if held && before.state == Queued {
            let request = self.request(&row)?;
            match CachedSelector::new(self.shared.selector().1).select(&request) {
                Ok(fit) => arrival = Some((request, fit)),
                Err(why) => return refuse(why),
            }
        }
        self.history(&row, "priority changed", &format!("{} to {priority}", before.priority))?;
        self.save_arriving(row, before.state, arrival)
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
                    if row.life.state == Queued || row.life.state == Locked && row.life.instance.is_none() {
                        self.cancelled.push((uuid.clone(), why.to_string()));
                        self.cancel_row(row, &why)?;
                    } else {
                        self.fits.push((uuid.clone(), (entry.resources, Arc::new([]))));
                    }
                }
            }
        }
        Ok(())
    }

    /// It is Queued again: written down.
    pub(super) fn has_requeued(&mut self, mut row: Row, before: ContainerState) -> StepResult<()> {
        row.started_at = None;
        self.save(row, before)
    }

    /// It is Cancelled, with this reason: written down, with what that means for others.
    pub(super) fn has_cancelled(&mut self, mut row: Row, before: ContainerState, why: &str) -> StepResult<()> {
        self.close_present_attempt(&mut row, why)?;
        why.clone_into(&mut row.status.error);
        row.finished_at.get_or_insert(self.now);
        self.history(&row, "cancelled", why)?;
        self.end(row, before)
    }
}
