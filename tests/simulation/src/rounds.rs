//! A worker's thread: ticker, events and probe rounds, as `shell/worker` and `shell/round` have them; and how commands travel.

use std::time::Duration;

use crate::core::ids::InstanceId;
use crate::core::pool::invariants::{self, Cause};
use crate::core::settings::{COMMAND_DEADLINE, ROUND_SPACING};
use crate::core::time::Moment;
use crate::core::vocabulary::WorkerState;
use crate::core::worker::facts::HostFacts;
use crate::core::worker::listing;
use crate::core::worker::round::{NextRound, RoundPlan, RoundReport, When};
use crate::faults::Fault;
use crate::host::Waiter;
use crate::ways::Way;
use crate::world::World;

/// A command may take this long, however impatient the configuration is.
const LIMIT_MIN: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub struct Thread {
    pub generation: u64,
    pub address: String,
    next_tick: Moment,
    /// `None`: with the next tick.
    next_round: Option<Moment>,
    wake_at: Option<Moment>,
    known: Option<String>,
    /// An event wants a round (the guard's one flag).
    wanted: bool,
    /// The guard is taken.
    in_round: bool,
    last_began: Option<Moment>,
    connected: bool,
    facts_told: bool,
    /// Lists asked for so far.
    listing: u64,
    pending: Option<Pending>,
}

impl World {
    pub fn open_thread(&mut self, id: &InstanceId) {
        let now = self.now;
        let Some(process) = &mut self.process else { return };
        if process.threads.contains_key(id) {
            return;
        }
        if self.cloud.instances.get(id).is_some_and(|instance| !crate::cloud::Cloud::ours(instance)) {
            self.violated("20.3", format!("{id} is watched, and is another's"));
            return;
        }
        process.generations += 1;
        let thread = Thread {
            generation: process.generations,
            address: process.pool.worker(id).map(|worker| worker.address.clone()).unwrap_or_default(),
            next_tick: now + process.pool.settings().probe_interval,
            next_round: Some(now),
            wake_at: None,
            known: None,
            wanted: false,
            in_round: false,
            last_began: None,
            connected: false,
            facts_told: false,
            listing: 0,
            pending: None,
        };
        process.threads.insert(id.clone(), thread);
        self.wake_thread(id);
    }

    pub fn open_missing(&mut self) {
        let Some(process) = &self.process else { return };
        let missing: Vec<InstanceId> =
            process.pool.workers().map(|it| it.id.clone()).filter(|id| !process.threads.contains_key(id)).collect();
        for id in missing {
            self.open_thread(&id);
        }
    }

    pub fn close_thread(&mut self, id: &InstanceId) {
        if let Some(process) = &mut self.process {
            process.threads.remove(id);
            process.rounds.remove(id);
        }
    }

    pub fn retarget(&mut self, id: &InstanceId, address: &str) {
        if let Some(thread) = self.thread(id) {
            address.clone_into(&mut thread.address);
        }
    }

    pub fn thread(&mut self, id: &InstanceId) -> Option<&mut Thread> {
        self.process.as_mut()?.threads.get_mut(id)
    }

    /// The thread of this generation, if it is still there.
    fn same_thread(&mut self, id: &InstanceId, generation: u64) -> Option<&mut Thread> {
        self.thread(id).filter(|thread| thread.generation == generation)
    }

    /// An event wants a round: now, or after the present one, which a long poll ends at once.
    pub fn probe_soon(&mut self, id: &InstanceId) {
        let now = self.now;
        let Some(thread) = self.thread(id) else { return };
        thread.wanted = true;
        let (in_round, generation) = (thread.in_round, thread.generation);
        if in_round {
            self.end_wait(id, generation);
        } else if let Some(thread) = self.thread(id) {
            thread.next_round = Some(now);
            self.wake_thread(id);
        }
    }

    /// The thread's next turn.
    fn wake_thread(&mut self, id: &InstanceId) {
        let now = self.now;
        let Some(thread) = self.thread(id) else { return };
        let at = thread.next_round.map_or(thread.next_tick, |round| round.min(thread.next_tick)).max(now);
        if thread.wake_at.is_some_and(|wake| wake <= at && wake >= now) {
            return;
        }
        thread.wake_at = Some(at);
        let (generation, id) = (thread.generation, id.clone());
        self.in_process(at.since(now), move |world| {
            if let Some(thread) = world.same_thread(&id, generation) {
                thread.wake_at = None;
                world.turn(&id);
            }
        });
    }

    fn turn(&mut self, id: &InstanceId) {
        let now = self.now;
        let Some(thread) = self.thread(id).filter(|thread| !thread.in_round) else { return };
        if now >= thread.next_tick {
            self.tick(id);
        }
        let Some(thread) = self.thread(id) else { return };
        if let Some(due) = thread.next_round.filter(|due| now >= *due) {
            let earliest = thread.last_began.map_or(due, |began| began + ROUND_SPACING);
            if earliest > now {
                thread.next_round = Some(earliest);
            } else {
                self.begin_round(id);
            }
        }
        if self.thread(id).is_some_and(|thread| !thread.in_round) {
            self.wake_thread(id);
        }
    }

    fn tick(&mut self, id: &InstanceId) {
        self.pool(Cause::Other, |pool, now, effects| pool.tick_worker(id, now, effects));
        let jitter = 1.0 + self.random.share() / 23.0;
        let now = self.now;
        let Some(process) = &mut self.process else { return };
        let interval = process.pool.settings().probe_interval.mul_f64(jitter);
        let pause = process.pool.reserve_probe(now);
        if let Some(thread) = process.threads.get_mut(id) {
            thread.next_tick = now + interval;
            thread.next_round.get_or_insert(now + pause);
        }
    }

    fn begin_round(&mut self, id: &InstanceId) {
        let now = self.now;
        let Some(thread) = self.thread(id) else { return };
        if std::mem::take(&mut thread.wanted) {
            thread.known = None;
        }
        thread.last_began = Some(now);
        let generation = thread.generation;
        let Some(process) = &mut self.process else { return };
        let Some(plan) = process.pool.begin_round(id, now) else {
            if let Some(thread) = process.threads.get_mut(id) {
                thread.next_round = None;
            }
            return;
        };
        process.rounds.insert(id.clone(), plan.clone());
        if let Some(thread) = process.threads.get_mut(id) {
            thread.in_round = true;
            thread.next_round = None;
        }
        let round =
            Round { id: id.clone(), generation, plan, report: RoundReport { booted: true, ..Default::default() } };
        self.boot_probe(round);
    }

    fn boot_probe(&mut self, round: Round) {
        if !round.plan.boot_probe {
            self.deploy(round);
            return;
        }
        let id = round.id.clone();
        let host = id.clone();
        self.command(
            &id,
            COMMAND_DEADLINE,
            move |world| world.cloud.host(&host, world.now).map(|_| ()),
            move |world, answer| {
                let mut round = round;
                let Some(thread) = world.same_thread(&round.id, round.generation) else { return };
                if answer.is_some() && !thread.connected {
                    thread.connected = true;
                    world.pool(Cause::Other, |pool, now, effects| pool.connected(&round.id, now, effects));
                }
                if answer.is_none() {
                    round.report.booted = false;
                    round.report.last_error = Some("boot probe failed".to_owned());
                }
                world.deploy(round);
            },
        );
    }

    fn deploy(&mut self, round: Round) {
        let state = self.process.as_ref().and_then(|it| it.pool.worker(&round.id)).map(|worker| worker.state);
        let in_service = matches!(state, Some(WorkerState::Idle | WorkerState::Running));
        let mut round = round;
        let overtaken = round.plan.boot_probe && !round.report.booted && in_service;
        round.report.booted |= overtaken;
        if overtaken || !wanted(round.plan.deploy, round.report.booted) {
            self.run_probe(round);
            return;
        }
        let id = round.id.clone();
        let host = id.clone();
        let install = move |world: &mut Self| {
            let facts = |host: &crate::host::Host| (!host.runner_fails).then_some(host.too_small);
            world.cloud.host(&host, world.now).and_then(facts)
        };
        self.command(&id, COMMAND_DEADLINE, install, move |world, answer| {
            let mut round = round;
            match answer {
                None => {
                    round.report.booted = false;
                    round.report.last_error = Some("cannot install the runner".to_owned());
                }
                Some(too_small) => round.report.facts = world.facts(&round, too_small),
            }
            world.run_probe(round);
        });
    }

    /// Once per worker.
    fn facts(&mut self, round: &Round, too_small: bool) -> Option<HostFacts> {
        let thread = self.same_thread(&round.id, round.generation).filter(|thread| !thread.facts_told)?;
        thread.facts_told = true;
        let type_name = &self.cloud.instances.get(&round.id)?.type_name;
        let claimed = self.plan.types.get(type_name)?;
        let ram = if too_small { claimed.ram / 2 } else { claimed.ram / 100 * 97 };
        Some(HostFacts { cpus: claimed.vcpus, ram, scratch: claimed.scratch() })
    }

    fn run_probe(&mut self, round: Round) {
        if !wanted(round.plan.run_probe, round.report.booted) {
            self.end_round(round);
            return;
        }
        let Some(process) = &self.process else { return };
        let settings = process.pool.settings().clone();
        let patience = match round.plan.state {
            WorkerState::Unknown | WorkerState::Booting => settings.timeout_booting,
            _ => settings.timeout_probe,
        };
        let limit = COMMAND_DEADLINE.min(patience).max(LIMIT_MIN);
        let known = self.same_thread(&round.id, round.generation).and_then(|thread| thread.known.take());
        let wait = if known.is_some() { settings.probe_interval } else { Duration::ZERO };
        let (id, generation) = (round.id.clone(), round.generation);
        let way = self.way(&id, limit + wait);
        let Some(thread) = self.same_thread(&id, generation) else { return };
        thread.listing += 1;
        let number = thread.listing;
        let back = if let Way::Good { back, .. } = way { back } else { Duration::ZERO };
        thread.pending = Some(Pending { round, number, back });
        let fails_in = match way {
            Way::Good { there, .. } => {
                let id = id.clone();
                self.in_process(there, move |world| world.list_at_host(&id, generation, known, wait));
                limit + wait
            }
            Way::Lost { fails_in } | Way::Mute { fails_in, .. } => fails_in.min(limit + wait),
        };
        // Whatever happens, a list has a deadline.
        self.in_process(fails_in, move |world| {
            let pending = world.same_thread(&id, generation).and_then(|thread| {
                let same = thread.pending.as_ref().is_some_and(|pending| pending.number == number);
                if same { thread.pending.take() } else { None }
            });
            if let Some(pending) = pending {
                world.say(|| format!("round of {id}: no list in time"));
                world.end_round(pending.round);
            }
        });
    }

    /// The list command has arrived: it answers at once, or waits for a change of what is known.
    fn list_at_host(&mut self, id: &InstanceId, generation: u64, known: Option<String>, wait: Duration) {
        let (now, process) = (self.now, self.process_id());
        let Some(host) = self.cloud.host_mut(id, now) else { return };
        if let (Some(known), Some(process)) = (known, process)
            && host.list().1 == known
        {
            host.waiters.push(Waiter { process, generation, known });
            let id = id.clone();
            self.in_process(wait, move |world| world.end_wait(&id, generation));
        } else {
            self.answer_list(id, generation);
        }
    }

    /// The list that waits is answered now: it has waited long enough, or an event does not want to wait.
    fn end_wait(&mut self, id: &InstanceId, generation: u64) {
        let (now, process) = (self.now, self.process_id());
        let Some(host) = self.cloud.host_mut(id, now) else { return };
        let waited = host.waiters.len();
        host.waiters.retain(|waiter| Some(waiter.process) != process || waiter.generation != generation);
        if host.waiters.len() < waited {
            self.answer_list(id, generation);
        }
    }

    /// Something on the host changed: those that wait for another list get it.
    pub fn host_changed(&mut self, id: &InstanceId) {
        let (now, process) = (self.now, self.process_id());
        let Some(host) = self.cloud.host_mut(id, now) else { return };
        let (_, token) = host.list();
        let (told, waiting) = std::mem::take(&mut host.waiters).into_iter().partition(|waiter| waiter.known != token);
        host.waiters = waiting;
        let told: Vec<Waiter> = told;
        for waiter in told {
            if Some(waiter.process) == process {
                self.answer_list(id, waiter.generation);
            }
        }
    }

    fn answer_list(&mut self, id: &InstanceId, generation: u64) {
        let Some((mut text, _)) = self.cloud.host(id, self.now).map(crate::host::Host::list) else { return };
        let Some(thread) = self.same_thread(id, generation) else { return };
        let Some(pending) = thread.pending.take() else { return };
        if self.cloud.host(id, self.now).is_some_and(|host| host.list_fails) {
            text.clear();
        } else if self.fault(Fault::ListCut) {
            text.truncate(self.random.index(text.len()));
        }
        let Pending { mut round, back, .. } = pending;
        self.in_process(back, move |world| {
            match listing::parse(text.as_bytes(), "local", true) {
                Ok(listing) => round.report.listing = Some(listing),
                Err(error) => {
                    world.counts.notice(Fault::ListCut);
                    round.report.last_error = Some(error.to_string());
                }
            }
            world.end_round(round);
        });
    }

    fn end_round(&mut self, round: Round) {
        let now = self.now;
        let Round { id, generation, plan, report } = round;
        if self.same_thread(&id, generation).is_none() {
            return;
        }
        let Some(process) = &mut self.process else { return };
        process.rounds.remove(&id);
        let before = process.pool.worker(&id).cloned();
        let next = self.pool(Cause::Other, |pool, now, effects| pool.finish_round(&id, &plan, &report, now, effects));
        if let (Some(before), Some(process)) = (before, &self.process) {
            let checked = invariants::check_round(&before, &plan, &process.pool);
            self.demand(checked);
        }
        let token = report.listing.and_then(|listing| listing.token);
        let Some(process) = &mut self.process else { return };
        let pause = match next {
            Some(NextRound::After(pause)) => Some(pause + process.pool.reserve_probe(now)),
            _ => None,
        };
        let Some(thread) = process.threads.get_mut(&id) else { return };
        thread.in_round = false;
        thread.next_round = match next {
            Some(NextRound::AtOnce) => Some(now),
            Some(NextRound::LongPoll) if token.is_some() => {
                thread.known = token;
                Some(now)
            }
            Some(NextRound::After(_)) => pause.map(|pause| now + pause),
            Some(NextRound::LongPoll | NextRound::Never) | None => None,
        };
        if std::mem::take(&mut thread.wanted) {
            thread.known = None;
            thread.next_round = Some(now);
        }
        self.wake_thread(&id);
    }
}

/// A list that was asked for.
#[derive(Debug)]
pub struct Pending {
    round: Round,
    number: u64,
    /// So long its answer takes to come back.
    back: Duration,
}

/// A round under way.
#[derive(Debug)]
pub struct Round {
    pub id: InstanceId,
    pub generation: u64,
    pub plan: RoundPlan,
    pub report: RoundReport,
}

const fn wanted(when: When, so_far_good: bool) -> bool {
    match when {
        When::Never => false,
        When::Always => true,
        When::IfSoFarGood => so_far_good,
    }
}
