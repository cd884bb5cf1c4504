//! What must hold of every pass (spec 30 §6), as functions: property tests and the simulation run them. Cost is no concern here.
//!
//! Invariants 5 and 6 are about histories (every lock ends, nothing waits for ever): the tests hold them at the end of a run.

use std::collections::{BTreeMap, BTreeSet};

use super::{Action, Pass, PassInput, SchedulerSettings};
use crate::core::entry::QueueEntry;
use crate::core::ids::{ContainerUuid, InstanceId};
use crate::core::pool::invariants::Violation;
use crate::core::pool::view::InstanceView;
use crate::core::resources::Packing;
use crate::core::vocabulary::{ContainerState, IdleBehavior, WorkerState};

fn violated(number: &'static str, detail: impl ToString) -> Result<(), Violation> {
    Err(Violation { number, detail: detail.to_string() })
}

/// Checks everything that one pass shows.
///
/// # Errors
/// The first violation found.
pub fn check(settings: &SchedulerSettings, input: &PassInput<'_>, pass: &Pass) -> Result<(), Violation> {
    starts_only_what_runs_nowhere(input, pass)?;
    reserves_no_more_than_there_is(settings, input, pass)?;
    keeps_the_order(settings, input, pass)?;
    places_the_most_urgent(settings, input, pass)?;
    leaves_priority_zero_alone(input, pass)?;
    gives_up_only_what_cannot_run(settings, input, pass)?;
    creates_within_limits(input, pass)?;
    one_operation_per_container(input, pass)?;
    says_something_of_every_entry(input, pass)
}

/// 30 §5: what is remembered from pass to pass saves work and decides nothing. `from_nothing` is what a scheduler without it planned.
///
/// # Errors
/// The two differ.
pub fn check_memory(from_nothing: &Pass, pass: &Pass) -> Result<(), Violation> {
    if pass.actions != from_nothing.actions {
        return violated("30 §5", format!("{:?} instead of {:?}", pass.actions, from_nothing.actions));
    }
    if pass.figures != from_nothing.figures {
        return violated("30 §5", format!("{:?} instead of {:?}", pass.figures, from_nothing.figures));
    }
    let (told, expected) = (pass.outlook.statuses(), from_nothing.outlook.statuses());
    if told != expected {
        return violated("30 §5", format!("{told:?} instead of {expected:?}"));
    }
    Ok(())
}

fn starts(pass: &Pass) -> impl Iterator<Item = (&ContainerUuid, &InstanceId)> {
    pass.actions.iter().filter_map(|action| match action {
        Action::Start { uuid, instance, .. } => Some((uuid, instance)),
        _ => None,
    })
}

fn entry_of<'a>(input: &PassInput<'a>, uuid: &ContainerUuid) -> Option<&'a QueueEntry> {
    input.queue.entries.get(uuid).map(|entry| &**entry)
}

/// 30.1, and 10 §12: in service with behavior `run`, known nowhere, and once.
fn starts_only_what_runs_nowhere(input: &PassInput<'_>, pass: &Pass) -> Result<(), Violation> {
    let mut seen = BTreeSet::new();
    for (uuid, instance) in starts(pass) {
        if !seen.insert(uuid) {
            return violated("30.1", format!("{uuid} is started twice"));
        }
        if input.pool.containers.get(uuid).is_some_and(|whereabouts| !whereabouts.places.is_empty()) {
            return violated("30.1", format!("{uuid} is started although a worker has it"));
        }
        let accepts = input.pool.instance(instance).is_some_and(|view| {
            matches!(view.state, WorkerState::Idle | WorkerState::Running) && view.idle_behavior == IdleBehavior::Run
        });
        if !accepts {
            return violated("30.1", format!("{uuid} is started on {instance}, which does not accept containers"));
        }
        if entry_of(input, uuid).is_none_or(|entry| entry.container.state != ContainerState::Locked) {
            return violated("30.1", format!("{uuid} is started but not Locked"));
        }
    }
    Ok(())
}

/// What is on an instance, container by container; `None` if that cannot be known.
fn load_of(input: &PassInput<'_>, view: &InstanceView) -> Option<(Packing, usize)> {
    let mut packing = Packing::new(view.instance_type.as_ref()?.capacity());
    for uuid in &view.containers {
        packing.place(&entry_of(input, uuid)?.resources);
    }
    Some((packing, view.containers.len()))
}

fn fits(settings: &SchedulerSettings, load: &(Packing, usize), entry: &QueueEntry) -> bool {
    let limit = settings.max_running_containers_per_instance;
    load.0.fits(&entry.resources) && (limit == 0 || load.1 < limit)
}

/// 30.2: each start fits beside what is there and what was started before it.
fn reserves_no_more_than_there_is(
    settings: &SchedulerSettings,
    input: &PassInput<'_>,
    pass: &Pass,
) -> Result<(), Violation> {
    let mut loads: BTreeMap<&InstanceId, (Packing, usize)> = BTreeMap::new();
    for (uuid, instance) in starts(pass) {
        let (Some(view), Some(entry)) = (input.pool.instance(instance), entry_of(input, uuid)) else {
            return violated("30.2", format!("{uuid} or {instance} does not exist"));
        };
        if !loads.contains_key(instance) {
            let Some(load) = load_of(input, view) else {
                return violated("30.2", format!("{instance} runs something unknown and gets {uuid}"));
            };
            loads.insert(instance, load);
        }
        if let Some(load) = loads.get_mut(instance) {
            if !fits(settings, load, entry) {
                return violated("30.2", format!("{uuid} does not fit on {instance}"));
            }
            load.0.place(&entry.resources);
            load.1 += 1;
        }
    }
    Ok(())
}

/// Could be started in this pass, as far as the container itself goes.
fn is_startable(input: &PassInput<'_>, pass: &Pass, entry: &QueueEntry) -> bool {
    let container = &entry.container;
    let touched = pass.actions.iter().any(|action| action.uuid() == Some(&container.uuid));
    container.state == ContainerState::Locked
        && container.instance.is_none()
        && container.priority >= 1
        && !container.cancel_requested
        && !container.request.supervisor
        && !touched
        && !input.busy.contains(&container.uuid)
        && !input.pool.containers.contains_key(&container.uuid)
}

/// 30.3: whatever is started leaves no room, where it is started, for a Locked one that comes earlier and was not started.
fn keeps_the_order(settings: &SchedulerSettings, input: &PassInput<'_>, pass: &Pass) -> Result<(), Violation> {
    let listing = pass.outlook.listing();
    let places = listing.items.iter().enumerate();
    let position: BTreeMap<_, _> = places.map(|(place, one)| (&one.entry.container.uuid, place)).collect();
    let is_fresh = |uuid: &ContainerUuid| entry_of(input, uuid).is_some_and(|it| it.container.instance.is_none());
    let waiting: Vec<&QueueEntry> = input.queue.entries.values().map(|entry| &**entry).collect();
    for entry in waiting.into_iter().filter(|entry| is_startable(input, pass, entry)) {
        for (later, instance) in starts(pass).filter(|(uuid, _)| is_fresh(uuid)) {
            let uuid = &entry.container.uuid;
            let view = input.pool.instance(instance);
            let eligible = |view: &InstanceView| {
                entry.instance_types.iter().any(|instance_type| instance_type.name == view.type_name.as_str())
            };
            let Some(view) = view.filter(|view| position.get(uuid) < position.get(later) && eligible(view)) else {
                continue;
            };
            let Some(mut load) = load_of(input, view) else {
                continue;
            };
            let before = starts(pass).filter(|(other, on)| *on == instance && position.get(other) < position.get(uuid));
            for other in before.filter_map(|(other, _)| entry_of(input, other)) {
                load.0.place(&other.resources);
                load.1 += 1;
            }
            // One that comes earlier and has an operation in progress keeps room somewhere, perhaps here.
            let kept = input.busy.iter().filter_map(|other| entry_of(input, other)).any(|other| {
                position.get(&other.container.uuid) < position.get(uuid)
                    && other.instance_types.iter().any(|it| it.name == view.type_name.as_str())
            });
            if !kept && fits(settings, &load, entry) {
                return violated("30.3", format!("{later} got {instance}, which {uuid} could have used"));
            }
        }
    }
    Ok(())
}

/// 30.3: the most urgent of those that an instance in service has room for, as the pass found it, is locked or started.
fn places_the_most_urgent(settings: &SchedulerSettings, input: &PassInput<'_>, pass: &Pass) -> Result<(), Violation> {
    let grounds = &pass.outlook.grounds;
    if !input.may_start || grounds.stale || grounds.api_limit > 0 {
        return Ok(());
    }
    let in_service = input.pool.instances.values().filter(|view| {
        matches!(view.state, WorkerState::Idle | WorkerState::Running) && view.idle_behavior == IdleBehavior::Run
    });
    // What is on them at least, and at most.
    let loads: Vec<_> =
        in_service.filter_map(|view| Some((view, load_of(input, view)?, load_with_sent(input, view)?))).collect();
    let listing = pass.outlook.listing();
    for one in &listing.items {
        let container = &one.entry.container;
        let waits = matches!(container.state, ContainerState::Queued | ContainerState::Locked)
            && container.instance.is_none()
            && container.priority >= 1
            && one.entry.ready;
        let known = input.pool.containers.get(&container.uuid);
        if !waits || known.is_some_and(|found| !found.places.is_empty()) {
            continue;
        }
        if known.is_some() || input.busy.contains(&container.uuid) || container.request.supervisor {
            // What it takes, and whether it may, is not seen from here.
            return Ok(());
        }
        let eligible =
            |view: &InstanceView| one.entry.instance_types.iter().any(|it| it.name == view.type_name.as_str());
        let mut may_fit = loads.iter().filter(|(view, least, _)| eligible(view) && fits(settings, least, &one.entry));
        let does_fit = may_fit.clone().find(|(.., most)| fits(settings, most, &one.entry));
        let touched = pass.actions.iter().any(|action| action.uuid() == Some(&container.uuid));
        match does_fit {
            Some((view, ..)) if !touched => {
                let (uuid, told) = (&container.uuid, listing.text(one));
                return violated("30.3", format!("{uuid} is not placed although {:?} has room: {told}", view.key));
            }
            Some(_) => return Ok(()),
            None if may_fit.next().is_some() => return Ok(()),
            // At quota it keeps all that come later from what is free.
            None if grounds.at_quota => return Ok(()),
            None => {}
        }
    }
    Ok(())
}

/// What is on an instance, and what may have been sent there.
fn load_with_sent(input: &PassInput<'_>, view: &InstanceView) -> Option<(Packing, usize)> {
    let mut load = load_of(input, view)?;
    // What is being collected takes nothing any more; beside an older attempt the present one may come.
    let is_older = |uuid: &ContainerUuid, entry: &QueueEntry| {
        let found = input.pool.containers.get(uuid).into_iter().flat_map(|found| &found.places);
        found.clone().any(|place| Some(&place.instance) == view.id() && place.attempt < entry.container.attempt)
    };
    let shown = |uuid: &ContainerUuid| view.containers.contains(uuid) || view.collecting.contains(uuid);
    let there = |entry: &QueueEntry| entry.container.instance.as_ref() == view.id();
    let sent =
        input.queue.entries.iter().filter(|(uuid, entry)| there(entry) && (!shown(uuid) || is_older(uuid, entry)));
    for (_, entry) in sent {
        load.0.place(&entry.resources);
        load.1 += 1;
    }
    Some(load)
}

/// 30.4.
fn leaves_priority_zero_alone(input: &PassInput<'_>, pass: &Pass) -> Result<(), Violation> {
    for action in &pass.actions {
        if let Action::Lock { uuid } | Action::Start { uuid, .. } = action {
            let wanted = entry_of(input, uuid)
                .is_some_and(|it| it.container.priority >= 1 && !it.container.cancel_requested && it.ready);
            if !wanted {
                return violated("30.4", format!("{action:?} of a container that is not to run"));
            }
        }
    }
    Ok(())
}

/// 70 §3: an attempt that was sent is lost, or unlocked, only when it is alive nowhere, and it ended or its instance is gone or in
/// service without it.
fn gives_up_only_what_cannot_run(
    settings: &SchedulerSettings,
    input: &PassInput<'_>,
    pass: &Pass,
) -> Result<(), Violation> {
    for action in &pass.actions {
        let (Action::Unlock { uuid } | Action::AttemptLost { uuid, .. }) = action else {
            continue;
        };
        let Some(instance) = entry_of(input, uuid).and_then(|entry| entry.container.instance.as_ref()) else {
            continue;
        };
        let whereabouts = input.pool.containers.get(uuid);
        let there = whereabouts.is_some_and(|it| it.places.iter().any(|place| place.instance == *instance));
        let ended = whereabouts.is_some_and(|it| it.exited.is_some()) || input.pool.is_gone(instance);
        let cannot = ended
            || matches!(action, Action::AttemptLost { .. })
                && entry_of(input, uuid).is_some_and(|it| it.container.state == ContainerState::Running)
                && input
                    .pool
                    .instance(instance)
                    .is_some_and(|view| matches!(view.state, WorkerState::Idle | WorkerState::Running));
        if settings.keeps_attempts && (there || !cannot) {
            return violated("70.3", format!("{action:?} while its attempt may be alive on {instance}"));
        }
    }
    Ok(())
}

fn creates_within_limits(input: &PassInput<'_>, pass: &Pass) -> Result<(), Violation> {
    let creates: Vec<_> = pass.actions.iter().filter(|action| matches!(action, Action::Create { .. })).collect();
    let limit = if input.pool.at_quota { 0 } else { input.pool.creates_accepted.min(input.pool.quota_room) };
    if creates.len() > limit {
        return violated("20.1", format!("{} creates, {limit} would be accepted", creates.len()));
    }
    for action in creates {
        if let Action::Create { instance_type } = action
            && input.pool.at_capacity.contains(instance_type)
        {
            return violated("20.3", format!("create of {instance_type}, which is at capacity"));
        }
    }
    Ok(())
}

fn one_operation_per_container(input: &PassInput<'_>, pass: &Pass) -> Result<(), Violation> {
    let mut seen = BTreeSet::new();
    for action in pass.actions.iter().filter(|action| action.is_on_queue()) {
        let Some(uuid) = action.uuid() else {
            continue;
        };
        if input.busy.contains(uuid) {
            return violated("30.4 once", format!("{action:?} while another operation is in progress"));
        }
        if !seen.insert(uuid) {
            return violated("30.4 once", format!("{action:?} is the second operation of this pass"));
        }
    }
    Ok(())
}

fn says_something_of_every_entry(input: &PassInput<'_>, pass: &Pass) -> Result<(), Violation> {
    let listing = pass.outlook.listing();
    let told: BTreeMap<_, _> = listing.items.iter().map(|one| (&one.entry.container.uuid, &one.entry)).collect();
    let complete = told.len() == listing.items.len() && told.into_iter().eq(input.queue.entries.iter());
    if input.pool.loaded && !complete {
        return violated("82.3.1", "the statuses are not one per entry");
    }
    if let Some(uuid) = input.queue.entries.keys().find(|uuid| input.pool.loaded && listing.find(uuid).is_none()) {
        return violated("82.3.1", format!("{uuid} is not found among the statuses"));
    }
    Ok(())
}
