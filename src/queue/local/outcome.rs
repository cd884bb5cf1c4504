//! How an attempt's end is judged (spec 70 §3), and what a container's end means for those that wait for it.
//!
//! What a result means is decided by [`crate::core::lifecycle`]; the steps of the writer thread write it down.

use std::fmt::Write as _;

use rusqlite::{OptionalExtension, params};

use crate::core::ids::{Attempt, ContainerUuid};
use crate::core::lifecycle::{AfterLoss, CANCELLED_BY_USER, Followed, Verdict};
use crate::core::vocabulary::ContainerState::{self, Locked, Queued};
use crate::queue::LostReason;

use super::result::AttemptResult;
use super::rows::Row;
use super::step::{AttemptRow, Step, StepResult};

/// What the history says of one that was not seen while it ran.
const SEEN_LATE: &str = "known from its result";

impl Step<'_> {
    /// The result of an attempt is here.
    pub(super) fn finish(&mut self, uuid: &ContainerUuid, attempt: Attempt, result: &AttemptResult) -> StepResult<()> {
        let row = self.row(uuid)?;
        let record = self.attempt(&row, attempt)?;
        match record {
            Some(open) if row.life.is_open(attempt) => self.judge(row, &open, result),
            Some(closed) if closed.collected || closed.has_late_result => Ok(()),
            Some(_) => {
                let text = result.summary();
                let sql = "UPDATE attempts SET late_result = ?3 WHERE container = ?1 AND attempt = ?2";
                self.connection.prepare_cached(sql)?.execute(params![row.id, attempt, text])?;
                self.history(&row, "late result", &format!("attempt {attempt}: {text}"))
            }
            // Only a database restored from a backup can lack it: the files are kept, the container does not change.
            None => self.history(&row, "late result", &format!("unknown attempt {attempt}: {}", result.summary())),
        }
    }

    fn judge(&mut self, mut row: Row, open: &AttemptRow, result: &AttemptResult) -> StepResult<()> {
        let before = row.life.state;
        self.close_attempt(&mut row, open, &result.summary(), Some(result))?;
        let Some(verdict) = row.life.result(row.life.attempt, &result.end()) else { return Ok(()) };
        // The worker's clock may be wrong: its times count only inside what we know.
        let clamp = |time: i64| time.clamp(open.started_at, self.now.max(open.started_at));
        let started_at = result.started_at.map(clamp).or(row.started_at).unwrap_or(open.started_at);
        let finished_at = result.finished_at.map_or(self.now, clamp).max(started_at);
        if !matches!(verdict, Verdict::Lost(..)) {
            row.started_at = Some(started_at);
            row.finished_at = Some(finished_at);
            if before == Locked && result.started_at.is_some() {
                // It ended before a probe listed it: through Running all the same.
                self.history_at(&row, started_at, "running", &format!("attempt {}, {SEEN_LATE}", row.life.attempt))?;
            }
        }
        match verdict {
            Verdict::Complete(exit_code) => {
                row.exit_code = Some(exit_code);
                // The job's own end is what it is; that its files are not here is the user's to know.
                row.status.error = if result.outputs_too_large { result.detail.clone() } else { String::new() };
                row.status.warning.clone_from(&result.left_out);
                self.history(&row, "finished", &format!("attempt {}: {}", row.life.attempt, result.summary()))?;
                self.end(row, before)
            }
            Verdict::Cancelled(why) => {
                self.history(&row, "finished", &format!("attempt {}: {}", row.life.attempt, result.summary()))?;
                self.has_cancelled(row, before, why)
            }
            Verdict::Lost(why, after) => self.has_lost(row, before, &why, after),
        }
    }

    /// The attempt ended without a result.
    pub(super) fn attempt_lost(
        &mut self,
        uuid: &ContainerUuid,
        attempt: Attempt,
        reason: LostReason,
    ) -> StepResult<()> {
        let mut row = self.row(uuid)?;
        let before = row.life.state;
        match row.life.lost(attempt) {
            Some(after) => {
                self.close_present_attempt(&mut row, reason.as_str())?;
                self.has_lost(row, before, reason.as_str(), after)
            }
            None => Ok(()),
        }
    }

    /// The present attempt, closed already, is lost: written down.
    fn has_lost(&mut self, mut row: Row, before: ContainerState, why: &str, after: AfterLoss) -> StepResult<()> {
        let attempt = row.life.attempt;
        self.history(&row, "lost", &format!("attempt {attempt}: {why}"))?;
        match after {
            AfterLoss::Cancelled => self.has_cancelled(row, before, CANCELLED_BY_USER),
            AfterLoss::Exhausted => {
                let fates = self.fates(&row)?;
                self.has_cancelled(row, before, &fates)
            }
            AfterLoss::Requeued => {
                row.status.warning = format!("attempt {attempt} was lost: {why}");
                self.history(&row, "requeued", "")?;
                self.has_requeued(row, before)
            }
        }
    }

    /// How each attempt ended, the last ten of them.
    fn fates(&self, row: &Row) -> StepResult<String> {
        let mut text = format!("lost {} time{}", row.life.attempt, if row.life.attempt == 1 { "" } else { "s" });
        let sql =
            "SELECT attempt, instance, reason FROM attempts WHERE container = ?1 AND attempt > ?2 ORDER BY attempt";
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut found = statement.query(params![row.id, row.life.attempt.saturating_sub(10)])?;
        while let Some(attempt) = found.next()? {
            let (number, instance, reason): (Attempt, String, String) =
                (attempt.get(0)?, attempt.get(1)?, attempt.get(2)?);
            let _ = write!(text, "; attempt {number} on {instance}: {reason}");
        }
        Ok(text)
    }

    /// Saves a container that is final now, and tells those that wait for it: success frees them, anything else cancels them and, in
    /// turn, theirs.
    pub(super) fn end(&mut self, row: Row, before: ContainerState) -> StepResult<()> {
        debug_assert!(row.life.state.is_final());
        let mut ended = vec![(row, before)];
        while let Some((row, before)) = ended.pop() {
            let why = row.failure();
            for follower in self.take_followers(row.id)? {
                let sql_row = Row::by_id(self.connection, follower).optional()?;
                let Some(mut follower) = sql_row.filter(|follower| follower.life.state == Queued) else { continue };
                match (follower.life.predecessor_ended(why.is_none()), &why) {
                    (Followed::Cancelled, Some(why)) => {
                        follower.status.error.clone_from(why);
                        follower.finished_at = Some(self.now);
                        self.history(&follower, "cancelled", why)?;
                        // Saved at once: another path to it must find it final.
                        follower.save(self.connection)?;
                        self.cancelled.push((follower.uuid.clone(), why.clone()));
                        ended.push((follower, Queued));
                    }
                    (followed, _) => {
                        if followed == Followed::Ready {
                            self.history(&follower, "ready", "")?;
                        }
                        self.save(follower, Queued)?;
                    }
                }
            }
            self.save(row, before)?;
        }
        Ok(())
    }

    fn take_followers(&self, id: i64) -> StepResult<Vec<i64>> {
        let mut select = self.connection.prepare_cached("SELECT follower FROM followers WHERE predecessor = ?1")?;
        let followers: Vec<i64> = select.query_map([id], |row| row.get(0))?.collect::<Result<_, _>>()?;
        if !followers.is_empty() {
            self.connection.prepare_cached("DELETE FROM followers WHERE predecessor = ?1")?.execute([id])?;
        }
        Ok(followers)
    }
}
