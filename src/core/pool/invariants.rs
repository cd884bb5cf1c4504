//! What must hold after every event (spec 10 §15, 20 §10), as functions: property tests and the simulation run them.

use std::collections::BTreeSet;

use super::Pool;
use crate::core::vocabulary::{IdleBehavior, WorkerState};

/// A broken invariant, by its number in the specification.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invariant {number} is broken: {detail}")]
pub struct Violation {
    pub number: &'static str,
    pub detail: String,
}

fn violated(number: &'static str, detail: impl ToString) -> Result<(), Violation> {
    Err(Violation { number, detail: detail.to_string() })
}

/// Checks everything that one state of the pool shows.
///
/// # Errors
/// The first violation found.
pub fn check(pool: &Pool) -> Result<(), Violation> {
    idle_and_running_say_what_runs(pool)?;
    shutdown_was_asked_for(pool)?;
    no_start_twice(pool)?;
    exited_runs_nowhere(pool)?;
    operations_have_deadlines(pool)
}

/// 10.5: `idle` ⇒ nothing starting or running; `running` ⇒ something is. `booting` runs nothing.
fn idle_and_running_say_what_runs(pool: &Pool) -> Result<(), Violation> {
    for worker in pool.workers.values() {
        let expected = match worker.state {
            WorkerState::Idle => false,
            WorkerState::Running => true,
            WorkerState::Unknown | WorkerState::Booting | WorkerState::Shutdown => continue,
        };
        if worker.occupied() != expected {
            return violated("10.5", format!("{} is {} but occupied is {}", worker.id, worker.state, !expected));
        }
    }
    Ok(())
}

/// 20.5: a worker in `shutdown` has been asked to be destroyed.
fn shutdown_was_asked_for(pool: &Pool) -> Result<(), Violation> {
    for worker in pool.workers.values() {
        let asked = worker.destroyed.is_some() && worker.last_destroy.is_some();
        if (worker.state == WorkerState::Shutdown) != asked {
            return violated("20.5", format!("{} is {}, destroy asked: {asked}", worker.id, worker.state));
        }
    }
    Ok(())
}

/// 20.4: a uuid is in at most one worker's starting set.
fn no_start_twice(pool: &Pool) -> Result<(), Violation> {
    let mut seen = BTreeSet::new();
    for uuid in pool.workers.values().flat_map(|worker| worker.starting.keys()) {
        if !seen.insert(uuid) {
            return violated("20.4", format!("{uuid} is starting on two workers"));
        }
    }
    Ok(())
}

/// A container is not both on a worker that knows of its end and running there; collecting and running exclude each other.
fn exited_runs_nowhere(pool: &Pool) -> Result<(), Violation> {
    for worker in pool.workers.values() {
        for uuid in worker.collecting.keys() {
            if worker.runner(uuid).is_some() || pool.exited.contains_key(uuid) {
                return violated("10.7", format!("{uuid} is collecting on {} and counted elsewhere too", worker.id));
            }
        }
    }
    Ok(())
}

/// 20.7: nothing stays open for ever because an effect was lost.
fn operations_have_deadlines(pool: &Pool) -> Result<(), Violation> {
    let open = !pool.creates.is_empty()
        || pool.workers.values().any(|worker| {
            !worker.starting.is_empty()
                || !worker.reaping.is_empty()
                || worker.collecting.values().any(|collecting| collecting.in_flight.is_some())
        });
    if open && pool.next_deadline().is_none() {
        return violated("20.7", "an operation is open and no deadline is set");
    }
    Ok(())
}

/// Checks what only a comparison of two states shows. `killed` says that an operator killed an instance in between.
///
/// # Errors
/// The first violation found.
pub fn check_step(before: &Snapshot, pool: &Pool, killed: bool) -> Result<(), Violation> {
    for (id, state, behavior, outcome_reported) in &before.0 {
        let Some(worker) = pool.workers.get(id.as_str()) else {
            continue;
        };
        if *state == WorkerState::Shutdown && worker.state != WorkerState::Shutdown {
            return violated("10.6", format!("{id} left shutdown for {}", worker.state));
        }
        if *outcome_reported && worker.boot_outcome.is_none() {
            return violated("10.2", format!("{id} lost its boot outcome"));
        }
        let newly_shut = *state != WorkerState::Shutdown && worker.state == WorkerState::Shutdown;
        if newly_shut && *behavior == IdleBehavior::Hold && worker.idle_behavior == IdleBehavior::Hold && !killed {
            return violated("10.3", format!("{id} was shut down although held"));
        }
    }
    Ok(())
}

/// What [`check_step`] needs of the state before an event.
#[derive(Clone, Debug)]
pub struct Snapshot(Vec<(String, WorkerState, IdleBehavior, bool)>);

impl Snapshot {
    pub fn of(pool: &Pool) -> Self {
        let of_worker = |worker: &crate::core::worker::Worker| {
            (worker.id.as_str().to_owned(), worker.state, worker.idle_behavior, worker.boot_outcome.is_some())
        };
        Self(pool.workers.values().map(of_worker).collect())
    }
}
