//! Effects and states as short text.
//!
//! A pool: its workers (`i1 running drain +a b! c!! <d -e`: starting a, running b whose kill was asked for, c given up, result of
//! d being fetched, that of e committed and being removed), creates (`create t`), exited containers (`x f`), types that do not boot
//! (`t failed 3 paused`, `t failed 3 on trial`), and `at quota`.

use std::collections::BTreeMap;

use muster::core::effect::{Effect, Ending, Figure, Level};
use muster::core::ids::{Attempt, ContainerUuid, InstanceId};
use muster::core::pool::Pool;
use muster::core::pool::view::InstanceKey;
use muster::core::time::Moment;
use muster::core::worker::kill::KillState;
use muster::core::worker::{Runner, Worker};

pub(super) fn letter(uuid: &ContainerUuid) -> String {
    uuid.as_str().chars().last().into_iter().collect()
}

fn attempt_of(uuid: &ContainerUuid, attempt: Attempt) -> String {
    if attempt == 1 { letter(uuid) } else { format!("{}@{attempt}", letter(uuid)) }
}

pub(super) fn effect(effect: &Effect) -> String {
    let of = |order: &muster::core::effect::RunnerOrder| attempt_of(&order.uuid, order.attempt);
    match effect {
        Effect::CreateInstance { instance_type, .. } => format!("create {}", instance_type.name),
        Effect::DestroyInstance { instance, ending: Ending::Unwanted | Ending::Unproven, .. } => {
            format!("destroy {instance}")
        }
        Effect::DestroyInstance { instance, ending: Ending::Faulty(_), .. } => format!("destroy {instance} faulty"),
        Effect::SaveTags { instance, tags } => {
            let tag = |name: &str| tags.get(&format!("Arvados{name}")).map_or("-", String::as_str);
            format!("tags {instance} {} {}", tag("InstanceType"), tag("IdleBehavior"))
        }
        Effect::StartContainer(order) => format!("start {}", of(order)),
        Effect::KillRunner(order) => format!("kill {}", of(order)),
        Effect::CollectResult(order) => format!("collect {}", of(order)),
        Effect::ReapRunner(order) => format!("reap {}", of(order)),
        Effect::OpenWorker { instance, .. } => format!("open {instance}"),
        Effect::Retarget { instance, address, .. } => format!("retarget {instance} {address}"),
        Effect::CutConnections { instance } => format!("cut {instance}"),
        Effect::CloseWorker { instance } => format!("close {instance}"),
        Effect::ProbeSoon { instance } => format!("probe {instance}"),
        Effect::ListSoon => "list soon".to_owned(),
        Effect::NotifySubscribers => "notify".to_owned(),
        Effect::Log(note) => log(note.level, note.message, &note.fields),
        Effect::Observe(figure) => figure_text(figure),
    }
}

fn log(level: Level, message: &str, fields: &[(&'static str, String)]) -> String {
    let mark = match level {
        Level::Debug => "debug",
        Level::Info => "info",
        Level::Warn => "warn",
        Level::Error => "error",
    };
    let state = fields.iter().find(|(name, _)| *name == "State" && message.contains("worker state"));
    format!("{mark}: {message}{}", state.map(|(_, state)| format!(" {state}")).unwrap_or_default())
}

fn figure_text(figure: &Figure) -> String {
    match figure {
        Figure::BootOutcome(outcome) => format!("outcome {outcome}"),
        Figure::Disappeared(state) => format!("disappeared {state}"),
        Figure::TimeToSsh(time) => format!("ssh after {}", time.as_secs()),
        Figure::TimeToReady(time) => format!("ready after {}", time.as_secs()),
        Figure::TimeFromShutdownToDisappearance(time) => format!("away after {}", time.as_secs()),
        Figure::StartReturned(uuid) => format!("started {}", letter(uuid)),
    }
}

pub(super) fn pool(pool: &Pool, now: Moment) -> String {
    let view = pool.view(now);
    let mut parts: Vec<String> = pool.workers().map(worker).collect();
    for instance in view.instances.values() {
        if let InstanceKey::Create(_) = instance.key {
            parts.push(format!("create {}", instance.type_name));
        }
    }
    let exited: BTreeMap<_, _> =
        view.containers.iter().filter_map(|(uuid, found)| Some((uuid, found.exited?.attempt))).collect();
    parts.extend(exited.iter().map(|(uuid, attempt)| format!("x {}", attempt_of(uuid, *attempt))));
    for (name, breaker) in view.breakers.iter().filter(|(_, breaker)| breaker.is_tripped) {
        let how = if breaker.paused_until.is_some() { "paused" } else { "on trial" };
        parts.push(format!("{name} failed {} {how}", breaker.failures_in_a_row));
    }
    if view.at_quota {
        parts.push("at quota".to_owned());
    }
    parts.join("; ")
}

fn worker(worker: &Worker) -> String {
    let runner = |(uuid, runner): (&ContainerUuid, &Runner)| {
        let kill = match runner.kill {
            KillState::None => "",
            KillState::Asked { .. } => "!",
            KillState::GivenUp => "!!",
        };
        format!("{}{kill}", attempt_of(uuid, runner.attempt))
    };
    let mut words = vec![worker.id.to_string(), worker.state.to_string(), worker.idle_behavior.to_string()];
    words.extend(worker.starting.iter().map(runner).map(|text| format!("+{text}")));
    words.extend(worker.running.iter().map(runner));
    words.extend(worker.collecting.iter().map(|(uuid, result)| format!("<{}", attempt_of(uuid, result.attempt))));
    words.extend(worker.forgetting.iter().map(|(uuid, result)| format!("-{}", attempt_of(uuid, result.attempt))));
    words.join(" ")
}

/// The message, if it is a line that tells of a change of this worker's state.
pub(super) fn state_line(effect: &Effect, id: &InstanceId) -> Option<&'static str> {
    const LINES: &[&str] = &[
        "worker state changed",
        "instance appeared in cloud",
        "probes succeeded, instance is in service",
        "shutdown worker",
        "killing instance",
        "instance unresponsive, shutting down",
        "new instance unresponsive, shutting down",
    ];
    match effect {
        Effect::Log(note) if note.fields.contains(&("Instance", id.to_string())) => {
            LINES.iter().find(|line| **line == note.message).copied()
        }
        _ => None,
    }
}

/// Everything that may matter for scheduling, as text. Not whether a kill was asked for: the scheduler asks for it.
pub(super) fn what_the_scheduler_sees(pool: &Pool, now: Moment) -> String {
    let view = pool.view(now);
    let apart = view.is_gone(&InstanceId::new("never seen"));
    let mut seen = format!(
        "{} {} {:?} loaded {} apart {apart} {:?}",
        view.at_quota, view.creates_accepted, view.at_capacity, view.loaded, view.storage_fault
    );
    // What has not failed often enough is only told.
    for (name, breaker) in view.breakers.iter().filter(|(_, breaker)| breaker.is_tripped) {
        seen += &format!("\n{name} {:?}", breaker.paused_until);
    }
    for view in view.instances.values() {
        seen += &format!(
            "\n{:?} {} {} {} {:?} {:?}",
            view.key, view.type_name, view.state, view.idle_behavior, view.containers, view.collecting
        );
    }
    for (uuid, found) in view.containers.iter() {
        seen += &format!("\n{uuid} {:?}", found.exited.map(|exit| exit.attempt));
        for place in &found.places {
            seen += &format!(" {} {} {:?} {}", place.instance, place.attempt, place.phase, place.given_up);
        }
    }
    seen
}
