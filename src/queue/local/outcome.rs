//! How an attempt's end is judged (spec 70 §3), and what a container's end means for those that wait for it.
//!
//! The table of results is [`verdict`], a pure function; the rest are steps of the writer thread.

use std::fmt::Write as _;

use rusqlite::{OptionalExtension, params};

use crate::core::ids::{Attempt, ContainerUuid};
use crate::core::vocabulary::ContainerState::{self, Cancelled, Complete, Queued};
use crate::queue::LostReason;

use muster_runner::protocol::Reason;

use super::result::AttemptResult;
use super::rows::Row;
use super::step::{AttemptRow, Step, StepResult};
use super::transitions::CANCELLED_BY_USER;

/// What a result means for the container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Complete(i32),
    Cancelled(String),
    /// Retried while attempts are left.
    Lost(String),
}

/// The table of spec 70 §3. `kill_asked`: a user's cancel or an operator's kill was recorded before the result.
pub(super) fn verdict(result: &AttemptResult, kill_asked: bool) -> Verdict {
    match result.reason {
        Reason::Exited => Verdict::Complete(result.exit_code.unwrap_or(0)),
        Reason::Signaled => Verdict::Complete(128 + result.signal.unwrap_or(0)),
        Reason::Killed if kill_asked => Verdict::Cancelled(CANCELLED_BY_USER.to_owned()),
        Reason::Killed => Verdict::Lost("it was killed on its instance without our asking".to_owned()),
        Reason::MaxRunTime => Verdict::Cancelled("it ran longer than its max_run_time".to_owned()),
        Reason::Oom => Verdict::Cancelled("it used more memory than its ram allows".to_owned()),
        Reason::EngineError => Verdict::Lost(with_detail("the engine could not run it", &result.detail)),
        Reason::DiskFull => Verdict::Lost(with_detail("the disk of its instance was full", &result.detail)),
    }
}

fn with_detail(text: &str, detail: &str) -> String {
    if detail.is_empty() { text.to_owned() } else { format!("{text}: {detail}") }
}

impl Step<'_> {
    /// The result of an attempt is here.
    pub(super) fn finish(&mut self, uuid: &ContainerUuid, attempt: Attempt, result: &AttemptResult) -> StepResult<()> {
        let row = self.row(uuid)?;
        match self.attempt(&row, attempt)? {
            Some(open) if open.is_open => {
                debug_assert_eq!(row.attempt, attempt, "only the present attempt can be open");
                self.judge(row, &open, result)
            }
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
        let kill_asked = row.cancel_requested || row.kill_asked == row.attempt;
        self.close_attempt(&mut row, open, &result.summary(), Some(result))?;
        // The worker's clock may be wrong: its times count only inside what we know.
        let clamp = |time: i64| time.clamp(open.started_at, self.now.max(open.started_at));
        let started_at = result.started_at.map(clamp).or(row.started_at).unwrap_or(open.started_at);
        let finished_at = result.finished_at.map_or(self.now, clamp).max(started_at);
        match verdict(result, kill_asked) {
            Verdict::Complete(exit_code) => {
                let before = row.state;
                row.state = Complete;
                row.exit_code = Some(exit_code);
                // The job's own end is what it is; that its files are not here is the user's to know.
                row.status.error = if result.outputs_too_large { result.detail.clone() } else { String::new() };
                row.status.warning.clone_from(&result.left_out);
                row.started_at = Some(started_at);
                row.finished_at = Some(finished_at);
                self.history(&row, "finished", &format!("attempt {}: {}", row.attempt, result.summary()))?;
                self.end(row, before)
            }
            Verdict::Cancelled(why) => {
                row.started_at = Some(started_at);
                row.finished_at = Some(finished_at);
                self.history(&row, "finished", &format!("attempt {}: {}", row.attempt, result.summary()))?;
                self.end_cancelled(row, &why)
            }
            Verdict::Lost(why) => {
                let was_held = result.reason == Reason::Killed && row.priority == 0;
                self.lose(row, &why, was_held)
            }
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
        if row.attempt != attempt {
            return Ok(());
        }
        match self.attempt(&row, attempt)? {
            Some(open) if open.is_open => {
                self.close_attempt(&mut row, &open, reason.as_str(), None)?;
                self.lose(row, reason.as_str(), false)
            }
            _ => Ok(()),
        }
    }

    /// The present attempt, closed already, is lost: again while attempts are left. `was_held`: we killed it to put it on hold, which
    /// must not use up its attempts.
    fn lose(&mut self, mut row: Row, why: &str, was_held: bool) -> StepResult<()> {
        self.history(&row, "lost", &format!("attempt {}: {why}", row.attempt))?;
        if row.cancel_requested || row.kill_asked == row.attempt {
            return self.end_cancelled(row, CANCELLED_BY_USER);
        }
        if row.attempt < row.max_attempts || was_held {
            row.status.warning = format!("attempt {} was lost: {why}", row.attempt);
            self.history(&row, "requeued", "")?;
            return self.requeue(row);
        }
        let fates = self.fates(&row)?;
        self.end_cancelled(row, &fates)
    }

    /// How each attempt ended, the last ten of them.
    fn fates(&self, row: &Row) -> StepResult<String> {
        let mut text = format!("lost {} time{}", row.attempt, if row.attempt == 1 { "" } else { "s" });
        let sql =
            "SELECT attempt, instance, reason FROM attempts WHERE container = ?1 AND attempt > ?2 ORDER BY attempt";
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut found = statement.query(params![row.id, row.attempt.saturating_sub(10)])?;
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
        debug_assert!(row.state.is_final());
        let mut ended = vec![(row, before)];
        while let Some((row, before)) = ended.pop() {
            let why = failure(&row);
            for follower in self.take_followers(row.id)? {
                let sql_row = Row::by_id(self.connection, follower).optional()?;
                let Some(mut follower) = sql_row.filter(|follower| follower.state == Queued) else { continue };
                if let Some(why) = &why {
                    follower.state = Cancelled;
                    follower.status.error.clone_from(why);
                    follower.finished_at = Some(self.now);
                    self.history(&follower, "cancelled", why)?;
                    // Saved at once: another path to it must find it final.
                    follower.save(self.connection)?;
                    self.cancelled.push((follower.uuid.clone(), why.clone()));
                    ended.push((follower, Queued));
                } else {
                    follower.waiting = (follower.waiting - 1).max(0);
                    if follower.waiting == 0 {
                        self.history(&follower, "ready", "")?;
                    }
                    self.save(follower, Queued)?;
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

/// Why followers of this final container cannot run; `None` if it succeeded.
pub(super) fn failure(row: &Row) -> Option<String> {
    match (row.state, row.exit_code) {
        (Complete, Some(0)) => None,
        (Complete, code) => {
            Some(format!("{}, which had to succeed first, ended with exit code {}", row.uuid, code.unwrap_or(-1)))
        }
        _ => Some(format!("{}, which had to succeed first, was cancelled", row.uuid)),
    }
}
