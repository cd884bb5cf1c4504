//! What must hold after every event (spec 10 §15, 20 §10), each as a function: property tests and the simulation run them.
//!
//! [`check`] looks at one state, [`check_step`] at two, [`check_round`] at a probe round's end, [`check_list`] at a list's. Not
//! here, because the core cannot see it: foreign set ids (20.3, the shell's filter) and locks (20.6).

use std::collections::{BTreeMap, BTreeSet};

use super::Pool;
use super::board::{place_of, view_of, view_of_create};
use super::breaker::Breaker;
use super::create::InstanceReport;
use super::index::RunnerIndex;
use super::view::{InstanceView, Whereabouts};
use crate::core::ids::{ContainerUuid, InstanceId, OperationId};
use crate::core::timer::Timer;
use crate::core::vocabulary::{BootOutcome, IdleBehavior, WorkerState};
use crate::core::worker::Worker;
use crate::core::worker::collect::StorageFault;
use crate::core::worker::kill::KillState;
use crate::core::worker::round::RoundPlan;

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
    one_place_on_a_worker(pool)?;
    operations_have_deadlines(pool)?;
    timers_belong_to_something(pool)?;
    index_is_in_step(pool)?;
    board_is_in_step(pool)
}

/// 10.5: `idle` ⇒ nothing starting or running; `running` ⇒ something is.
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

/// 20.5: a worker in `shutdown`, and no other, has been asked to be destroyed.
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

/// 10 §2: on one worker a container is starting, running or collecting, never two of these; and what is collecting is not also
/// collected already.
fn one_place_on_a_worker(pool: &Pool) -> Result<(), Violation> {
    for worker in pool.workers.values() {
        let twice = |uuid: &&ContainerUuid| {
            let places = [worker.starting.contains_key(*uuid), worker.running.contains_key(*uuid)];
            let collecting = worker.collecting.contains_key(*uuid);
            (places == [true, true])
                || (collecting && (places.contains(&true) || worker.forgetting.contains_key(*uuid)))
        };
        let uuids = worker.starting.keys().chain(worker.collecting.keys());
        if let Some(uuid) = uuids.into_iter().find(twice) {
            return violated("10 §2", format!("{uuid} has two places on {}", worker.id));
        }
    }
    Ok(())
}

/// 20.7: every open operation has a deadline of its own, so that none stays open for ever because an effect was lost.
fn operations_have_deadlines(pool: &Pool) -> Result<(), Violation> {
    let creates = pool.creates.keys().map(|operation| Timer::CreateDeadline(*operation));
    let needed = creates.chain(pool.workers.values().flat_map(timers_needed));
    for timer in needed {
        if pool.timers.when(&timer).is_none() {
            return violated("20.7", format!("{timer:?} is not set"));
        }
    }
    Ok(())
}

/// The timers without which something on this worker could stay open for ever.
fn timers_needed(worker: &Worker) -> Vec<Timer> {
    let id = || worker.id.clone();
    let mut needed = Vec::new();
    for (uuid, runner) in worker.starting.iter().chain(&worker.running) {
        if let Some(operation) = runner.start {
            needed.push(Timer::StartDeadline(id(), uuid.clone(), operation));
        }
    }
    needed.extend(worker.forgetting.keys().map(|uuid| Timer::ForgetDeadline(id(), uuid.clone())));
    let reaping = worker.reaping.iter();
    needed.extend(reaping.map(|(uuid, operation)| Timer::ReapDeadline(id(), uuid.clone(), *operation)));
    if worker.state == WorkerState::Shutdown {
        return needed;
    }
    // After `gone` the next list decides; it is a probe's matter, and an unresponsive worker is written off.
    let signals = |runner: &crate::core::worker::Runner| {
        runner.start.is_none() && matches!(runner.kill, KillState::Asked { gone: false, .. })
    };
    let killed = worker.running.iter().filter(|(_, runner)| signals(runner));
    needed.extend(killed.map(|(uuid, _)| Timer::Kill(id(), uuid.clone())));
    needed.extend(worker.collecting.keys().map(|uuid| Timer::Collect(id(), uuid.clone())));
    needed
}

/// 20.7, the other side: timers do not pile up, each belongs to something that is open. (A kill that was reported gone or given
/// up, and what is on a worker in `shutdown`, need no timer any more but may have one.)
fn timers_belong_to_something(pool: &Pool) -> Result<(), Violation> {
    for timer in pool.timers.iter() {
        let of_worker = |id: &InstanceId, open: &dyn Fn(&Worker) -> bool| pool.workers.get(id).is_some_and(open);
        let belongs = match timer {
            Timer::CreateDeadline(operation) => pool.creates.contains_key(operation),
            Timer::StartDeadline(id, uuid, operation) => {
                of_worker(id, &|worker| worker.runner(uuid).is_some_and(|runner| runner.start == Some(*operation)))
            }
            Timer::Kill(id, uuid) => {
                of_worker(id, &|worker| worker.runner(uuid).is_some_and(|runner| runner.kill != KillState::None))
            }
            Timer::Collect(id, uuid) => of_worker(id, &|worker| worker.collecting.contains_key(uuid)),
            Timer::ForgetDeadline(id, uuid) => of_worker(id, &|worker| worker.forgetting.contains_key(uuid)),
            Timer::ReapDeadline(id, uuid, operation) => {
                of_worker(id, &|worker| worker.reaping.get(uuid) == Some(operation))
            }
            Timer::Breaker(name) => pool.breakers.get(name).is_some_and(Breaker::is_tripped),
            // At most one of each.
            Timer::Quota | Timer::Capacity | Timer::Address | Timer::CreatesResume | Timer::ListsResume => true,
        };
        if !belongs {
            return violated("20.7", format!("{timer:?} is set for nothing"));
        }
    }
    Ok(())
}

/// 20.4: what tells whether a container is somewhere already agrees with the workers.
fn index_is_in_step(pool: &Pool) -> Result<(), Violation> {
    let mut expected = RunnerIndex::default();
    for worker in pool.workers.values() {
        for uuid in worker.starting.keys().chain(worker.running.keys()) {
            expected.add(uuid, &worker.id);
        }
    }
    if pool.index != expected {
        return violated("20.4", format!("the index says {:?}, the workers {expected:?}", pool.index));
    }
    Ok(())
}

/// 20 §6: what the scheduler is shown is what there is.
fn board_is_in_step(pool: &Pool) -> Result<(), Violation> {
    let creates = pool.creates.iter().map(|(operation, create)| view_of_create(*operation, create));
    let expected: Vec<InstanceView> = creates.chain(pool.workers.values().map(view_of)).collect();
    let shown = &pool.board.instances;
    if !shown.values().map(|view| &**view).eq(&expected) {
        return violated("20 §6", format!("the board shows {shown:?}, there is {expected:?}"));
    }
    let faults = expected.iter().filter_map(|view| view.storage_fault);
    let expected = faults.fold(BTreeMap::<StorageFault, usize>::new(), |mut counts, fault| {
        *counts.entry(fault).or_default() += 1;
        counts
    });
    if pool.board.storage_faults != expected {
        let shown = &pool.board.storage_faults;
        return violated("70 §3", format!("the board shows {shown:?}, there is {expected:?}"));
    }
    let mut expected: BTreeMap<&ContainerUuid, Whereabouts> = BTreeMap::new();
    for worker in pool.workers.values() {
        let uuids = worker.starting.keys().chain(worker.running.keys()).chain(worker.collecting.keys());
        for uuid in uuids {
            expected.entry(uuid).or_default().places.extend(place_of(worker, uuid));
        }
    }
    for (uuid, exit) in &pool.exited {
        let whereabouts = expected.entry(uuid).or_default();
        if whereabouts.places.is_empty() {
            whereabouts.exited = Some(*exit);
        }
    }
    let shown = &pool.board.containers;
    let pairs = expected.iter().map(|(uuid, whereabouts)| (*uuid, whereabouts));
    if !shown.iter().map(|(uuid, whereabouts)| (uuid, &**whereabouts)).eq(pairs) {
        return violated("20 §6", format!("the board shows {shown:?}, there is {expected:?}"));
    }
    Ok(())
}

/// What the event between two states was, as far as a check must know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// An operator killed an instance.
    InstanceKilled,
    /// A list of the cloud was applied.
    ListApplied,
    Other,
}

/// Checks what only a comparison of two states shows. Exactly one event lies between them.
///
/// # Errors
/// The first violation found.
pub fn check_step(before: &Snapshot, pool: &Pool, cause: Cause) -> Result<(), Violation> {
    for (id, was) in &before.workers {
        match pool.workers.get(id) {
            Some(worker) => {
                one_boot_outcome(was, worker)?;
                held_stays(was, worker, cause)?;
                shutdown_is_final(was, worker)?;
            }
            None if cause != Cause::ListApplied => {
                return violated("20.5", format!("{id} is gone, and no list said so"));
            }
            None => {}
        }
    }
    starts_are_allowed(before, pool)?;
    creates_stay_below_max_instances(before, pool)?;
    breakers_hold(before, pool)
}

/// 10.2: at most one boot outcome in a worker's life: once reported it stays.
fn one_boot_outcome(was: &WorkerBefore, worker: &Worker) -> Result<(), Violation> {
    if was.boot_outcome.is_some() && worker.boot_outcome != was.boot_outcome {
        return violated("10.2", format!("{}: {:?} became {:?}", worker.id, was.boot_outcome, worker.boot_outcome));
    }
    Ok(())
}

/// 10.3: `hold` is never shut down except by an explicit kill of the instance.
fn held_stays(was: &WorkerBefore, worker: &Worker, cause: Cause) -> Result<(), Violation> {
    let newly_shut = was.state != WorkerState::Shutdown && worker.state == WorkerState::Shutdown;
    let held = was.idle_behavior == IdleBehavior::Hold && worker.idle_behavior == IdleBehavior::Hold;
    if newly_shut && held && cause != Cause::InstanceKilled {
        return violated("10.3", format!("{} was shut down although held", worker.id));
    }
    Ok(())
}

/// 10.6: `shutdown` is final.
fn shutdown_is_final(was: &WorkerBefore, worker: &Worker) -> Result<(), Violation> {
    if was.state == WorkerState::Shutdown && worker.state != WorkerState::Shutdown {
        return violated("10.6", format!("{} left shutdown for {}", worker.id, worker.state));
    }
    Ok(())
}

/// 10.4 and 20.4: a start happens on a worker that is in service with behavior `run`, and only if no worker has the uuid.
fn starts_are_allowed(before: &Snapshot, pool: &Pool) -> Result<(), Violation> {
    for worker in pool.workers.values() {
        let was = before.workers.get(&worker.id);
        for uuid in worker.starting.keys().filter(|uuid| was.is_none_or(|was| !was.starting.contains(*uuid))) {
            let in_service = |was: &WorkerBefore| matches!(was.state, WorkerState::Idle | WorkerState::Running);
            if !was.is_some_and(|was| in_service(was) && was.idle_behavior == IdleBehavior::Run) {
                return violated("10.4", format!("{uuid} was started on {}", worker.id));
            }
            if !before.index.holders(uuid).is_empty() {
                return violated("20.4", format!("{uuid} was started on {} and is elsewhere", worker.id));
            }
        }
    }
    Ok(())
}

/// 20.1: workers + unfinished creates ≤ MaxInstances at every create.
fn creates_stay_below_max_instances(before: &Snapshot, pool: &Pool) -> Result<(), Violation> {
    let created = pool.creates.keys().any(|operation| !before.creates.contains(operation));
    let max = pool.settings.max_instances;
    if created && max > 0 && pool.instance_count() > max {
        return violated("20.1", format!("{} instances with a create, at most {max}", pool.instance_count()));
    }
    Ok(())
}

/// 20 §6, circuit breaker: no create of a type during the pause after failed boots, and one at a time until one has booted.
fn breakers_hold(before: &Snapshot, pool: &Pool) -> Result<(), Violation> {
    for (_, create) in pool.creates.iter().filter(|(operation, _)| !before.creates.contains(*operation)) {
        let name = create.type_name.as_str();
        let Some(breaker) = pool.breakers.get(name).filter(|breaker| breaker.is_tripped()) else { continue };
        if breaker.is_paused(create.began) || pool.unproven(name) > 1 {
            return violated("20 §6", format!("{name} does not boot and is created: {breaker:?}"));
        }
    }
    Ok(())
}

/// What [`check_step`] needs of the state before an event.
#[derive(Clone, Debug)]
pub struct Snapshot {
    workers: BTreeMap<InstanceId, WorkerBefore>,
    creates: BTreeSet<OperationId>,
    index: RunnerIndex,
}

#[derive(Clone, Debug)]
struct WorkerBefore {
    state: WorkerState,
    idle_behavior: IdleBehavior,
    boot_outcome: Option<BootOutcome>,
    starting: BTreeSet<ContainerUuid>,
}

impl Snapshot {
    pub fn of(pool: &Pool) -> Self {
        let of_worker = |worker: &Worker| WorkerBefore {
            state: worker.state,
            idle_behavior: worker.idle_behavior,
            boot_outcome: worker.boot_outcome,
            starting: worker.starting.keys().cloned().collect(),
        };
        Self {
            workers: pool.workers.iter().map(|(id, worker)| (id.clone(), of_worker(worker))).collect(),
            creates: pool.creates.keys().copied().collect(),
            index: pool.index.clone(),
        }
    }
}

/// 10.1: at most one round per worker is in flight, and the worker knows of it. `in_flight` counts what the caller has begun and
/// not finished on workers that still exist.
///
/// # Errors
/// The first violation found.
pub fn check_rounds(in_flight: &BTreeMap<InstanceId, usize>, pool: &Pool) -> Result<(), Violation> {
    for worker in pool.workers.values() {
        let rounds = in_flight.get(&worker.id).copied().unwrap_or(0);
        if rounds > 1 || worker.in_round != (rounds == 1) {
            return violated("10.1", format!("{} has {rounds} rounds, in_round: {}", worker.id, worker.in_round));
        }
    }
    Ok(())
}

/// Checks what the end of a probe round must not, and must, do. `before` is the worker when the report came.
///
/// # Errors
/// The first violation found.
pub fn check_round(before: &Worker, plan: &RoundPlan, pool: &Pool) -> Result<(), Violation> {
    let Some(worker) = pool.workers.get(&before.id) else {
        return Ok(());
    };
    older_results_undo_nothing(before, plan, worker)?;
    booting_ends(plan, worker, pool)
}

/// 10.7: a list that began before a uuid's last change leaves that uuid where it is.
fn older_results_undo_nothing(before: &Worker, plan: &RoundPlan, worker: &Worker) -> Result<(), Violation> {
    let place = |worker: &Worker, uuid: &ContainerUuid| {
        [worker.starting.contains_key(uuid), worker.running.contains_key(uuid), worker.collecting.contains_key(uuid)]
    };
    for (uuid, _) in before.last_change.iter().filter(|(_, change)| **change > plan.changes) {
        if place(before, uuid) != place(worker, uuid) {
            return violated("10.7", format!("an old list moved {uuid} on {}", worker.id));
        }
    }
    Ok(())
}

/// 10.8: in `booting` and `unknown` a round that began after TimeoutBooting and got nothing is the last one, unless held.
fn booting_ends(plan: &RoundPlan, worker: &Worker, pool: &Pool) -> Result<(), Violation> {
    let waiting = matches!(worker.state, WorkerState::Booting | WorkerState::Unknown);
    let overdue = plan.began.since(worker.probed) >= pool.settings.timeout_booting;
    if waiting && overdue && worker.idle_behavior != IdleBehavior::Hold {
        return violated("10.8", format!("{} is still {}", worker.id, worker.state));
    }
    Ok(())
}

/// 20.2: every instance that a list has shown is a worker after it.
///
/// # Errors
/// The first violation found.
pub fn check_list(listed: &BTreeMap<InstanceId, InstanceReport>, pool: &Pool) -> Result<(), Violation> {
    match listed.keys().find(|id| !pool.workers.contains_key(*id)) {
        Some(id) => violated("20.2", format!("{id} is listed and no worker")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
