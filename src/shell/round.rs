//! Carrying out the plan of one probe round over a worker's executor (spec 10 §4–§6). Blocking, with a deadline on each command.

use std::sync::Arc;
use std::time::{Duration, Instant};

use muster_runner::protocol::Facts;

use super::pool::PoolDoor;
use crate::cloud::InstanceSet;
use crate::core::effect::{Level, Note, seconds};
use crate::core::errors::chain;
use crate::core::ids::InstanceId;
use crate::core::instance_type::PricePoint;
use crate::core::settings::{COMMAND_DEADLINE, Settings};
use crate::core::vocabulary::WorkerState;
use crate::core::worker::facts::HostFacts;
use crate::core::worker::round::{RoundPlan, RoundReport, When};
use crate::log::write_note;
use crate::management::metrics::Metrics;
use crate::remote::deploy::{DeployError, Deployed, deploy};
use crate::remote::runner::{FailedCommand, ListError, Runner};
use crate::remote::wake::Wake;

/// However impatient the configuration is: a command needs as much on a machine that is well and has something else to do.
const LIMIT_MIN: Duration = Duration::from_millis(100);

/// What the rounds of one worker need, and what they remember from one to the next.
#[derive(Debug)]
pub struct RoundContext {
    pub instance: InstanceId,
    pub runner: Runner,
    /// Knows what the instance costs.
    pub cloud: Arc<dyn InstanceSet>,
    pub boot_probe_command: Arc<str>,
    /// Of containers with an image; `process` if there can be none.
    pub engine: Arc<str>,
    pub metrics: Arc<Metrics>,
    pub connected: bool,
    pub facts_logged: bool,
}

impl RoundContext {
    fn note(&self, level: Level, message: &'static str) -> Note {
        Note::new(level, "worker", message).with("Instance", &self.instance)
    }
}

/// Does what the plan says. `known`: the list's token of the round before, to wait for a change.
pub fn carry_out(
    context: &mut RoundContext,
    door: &PoolDoor,
    plan: &RoundPlan,
    known: Option<&str>,
    wake: &Wake,
) -> RoundReport {
    let mut report = RoundReport { booted: true, ..RoundReport::default() };
    // Read anew, since a reload may have changed them.
    let settings = door.settings();
    let limit = limit(plan.state, &settings);
    if plan.boot_probe {
        boot_probe(context, door, limit, &mut report);
    }
    let in_service = |instance| matches!(door.worker_state(instance), Some(WorkerState::Idle | WorkerState::Running));
    // It came into service on another path meanwhile: counts as booted, and is not deployed to.
    let overtaken = plan.boot_probe && !report.booted && in_service(&context.instance);
    report.booted |= overtaken;
    if !overtaken && wanted(plan.deploy, report.booted) {
        install(context, &mut report);
    }
    if wanted(plan.run_probe, report.booted) {
        // How long a long poll waits when nothing changes.
        let wait = settings.probe_interval;
        let configured = door.configured_type(&context.instance);
        let prices = configured.map(|configured| context.cloud.price_history(&context.instance, &configured));
        run_probe(context, &prices.unwrap_or_default(), (known, wait, limit), wake, &mut report);
    }
    report
}

/// How long a probe's command may take: one that takes longer than the worker may be silent comes too late for it. A host that answers
/// nothing at all is found at the end of such a command, and it takes two of them: the first may have begun in time.
fn limit(state: WorkerState, settings: &Settings) -> Duration {
    let patience = match state {
        WorkerState::Unknown | WorkerState::Booting => settings.timeout_booting,
        _ => settings.timeout_probe,
    };
    COMMAND_DEADLINE.min(patience).max(LIMIT_MIN)
}

const fn wanted(when: When, so_far_good: bool) -> bool {
    match when {
        When::Never => false,
        When::Always => true,
        When::IfSoFarGood => so_far_good,
    }
}

fn boot_probe(context: &mut RoundContext, door: &PoolDoor, limit: Duration, report: &mut RoundReport) {
    let result = context.runner.boot_probe(&context.boot_probe_command, limit);
    if !context.connected && context.runner.executor.has_connected() {
        context.connected = true;
        door.connected(&context.instance);
    }
    match result {
        Ok(()) => {
            write_note(&context.note(Level::Info, "boot probe succeeded").with("Command", &context.boot_probe_command));
        }
        Err((error, alarming)) => {
            report.booted = false;
            report.boot_stderr = error.text();
            report.last_error = Some(error.text());
            let level = if alarming { Level::Warn } else { Level::Debug };
            let note = context.note(level, "boot probe failed").with("Command", &context.boot_probe_command);
            write_note(&note.with("error", error.text()));
        }
    }
}

fn install(context: &mut RoundContext, report: &mut RoundReport) {
    let began = Instant::now();
    match deploy(&context.runner) {
        Ok(deployment) => {
            let message = match deployment.done {
                Deployed::PreInstalled => "runner is on the instance as the configuration says",
                Deployed::AlreadyThere => "runner is already on the instance",
                Deployed::Installed => "runner installed on the instance",
            };
            let note = context.note(Level::Info, message).with("Command", &deployment.program);
            write_note(&note.with("Duration", seconds(began.elapsed())));
            report.facts = take_facts(context, deployment.facts);
        }
        Err(error) => {
            report.booted = false;
            report.last_error = Some(format!("cannot install the runner: {}", error.text()));
            // Spec 20 §7: the dispatcher's own fault, whatever the worker is like.
            let (level, message) = match error {
                DeployError::NoRunner(_) => (Level::Error, "cannot boot worker: error loading runner binary"),
                _ => (Level::Warn, "cannot install the runner"),
            };
            write_note(&context.note(level, message).with("error", error.text()));
        }
    }
}

/// Once per worker. `facts`: if the deployment has brought them.
fn take_facts(context: &mut RoundContext, facts: Option<Facts>) -> Option<HostFacts> {
    if context.facts_logged {
        return None;
    }
    match facts.map_or_else(|| context.runner.facts(), Ok) {
        Ok(facts) => {
            context.facts_logged = true;
            log_facts(context, &facts);
            let bytes = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
            Some(HostFacts { cpus: facts.cpus.into(), ram: bytes(facts.ram), scratch: bytes(facts.free_disk) })
        }
        Err(error) => {
            let note = context.note(Level::Debug, "cannot read the facts of the instance");
            write_note(&note.with("error", error.text()));
            None
        }
    }
}

fn log_facts(context: &RoundContext, facts: &Facts) {
    let note = context.note(Level::Info, "facts of the instance").with("Kernel", &facts.kernel);
    let note = note.with("Architecture", &facts.architecture).with("CPUs", facts.cpus).with("RAM", facts.ram);
    let note = note.with("FreeDisk", facts.free_disk).with("Engines", facts.engines.join(","));
    write_note(&note.with("Cgroup", &facts.cgroup).with("Runner", &facts.version));
    // One project under two names: either will do.
    let names =
        if matches!(&*context.engine, "singularity" | "apptainer") { "singularity apptainer" } else { &context.engine };
    if !names.split(' ').any(|name| facts.engines.iter().any(|engine| engine == name)) {
        let message = "the configured engine is not on the instance: containers with an image will fail there";
        write_note(&context.note(Level::Warn, message).with("Engine", &context.engine));
    }
    if !facts.isolates_user && context.runner.self_destruct_after().is_some() {
        let message = "the runner has no root: the instance cannot power itself off when nobody asks for it any more";
        write_note(&context.note(Level::Warn, message));
    }
    if !facts.isolates_user {
        let message = "the runner has no root: jobs run as its own user and are not isolated from it";
        write_note(&context.note(Level::Warn, message));
    }
}

/// With the token of a list that is known, how long to wait for another, and how long it may take beyond that.
fn run_probe(
    context: &RoundContext,
    prices: &[PricePoint],
    (known, wait, limit): (Option<&str>, Duration, Duration),
    wake: &Wake,
    report: &mut RoundReport,
) {
    let began = Instant::now();
    let result = context.runner.list_telling_prices(prices, (known, wait, limit), wake);
    // A long poll's duration says nothing about the worker.
    if known.is_none() {
        context.metrics.run_probe(result.is_ok(), began.elapsed());
    }
    match result {
        Ok(listing) => report.listing = Some(listing),
        Err(error) => {
            let text = chain(&error);
            let cancelled = matches!(error, ListError::Execute(crate::remote::ExecuteError::Cancelled));
            let level = if cancelled { Level::Debug } else { Level::Warn };
            let note = context.note(level, "run probe failed").with("error", &text);
            write_note(&error.failed().into_iter().fold(note, FailedCommand::add_to));
            report.last_error = Some(text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_takes_no_longer_than_the_worker_may_be_silent() {
        let millis = Duration::from_millis;
        let settings = |booting, probe| Settings {
            timeout_booting: millis(booting),
            timeout_probe: millis(probe),
            ..Settings::default()
        };
        use WorkerState::{Booting, Idle, Running, Unknown};
        for (state, settings, expected) in [
            (Running, Settings::default(), COMMAND_DEADLINE),
            (Booting, Settings::default(), COMMAND_DEADLINE),
            (Running, settings(300, 1500), millis(1500)),
            (Idle, settings(300, 1500), millis(1500)),
            (Booting, settings(300, 1500), millis(300)),
            (Unknown, settings(300, 1500), millis(300)),
            (Booting, settings(1, 1), LIMIT_MIN),
        ] {
            assert_eq!(limit(state, &settings), expected, "{state}");
        }
    }
}
