//! One seed from beginning to end: a phase with faults, then everything must settle.

use std::time::Duration;

use crate::core::pool::invariants::Violation;
use crate::faults::Counts;
use crate::world::World;

/// Longest time, in the simulation, until everything has settled once faults have ended.
const SETTLES_WITHIN: Duration = Duration::from_secs(36 * 3600);
/// How often that is looked at.
const LOOK: Duration = Duration::from_secs(60);
/// More events than this in one seed are a busy loop.
const EVENTS_MAX: u64 = 3_000_000;

/// What one seed came to.
#[derive(Debug)]
pub struct Outcome {
    pub seed: u64,
    pub violation: Option<Violation>,
    pub events: u64,
    /// Time that passed in the simulation.
    pub simulated: Duration,
    pub counts: Counts,
    /// How often the dispatcher was started.
    pub lives: u64,
    /// Jobs that ran.
    pub started: u64,
    /// Containers that ended.
    pub ended: usize,
    pub instances: usize,
    /// Empty unless it was asked for.
    pub log: Vec<String>,
}

/// Plays one seed.
pub fn run(seed: u64, log: bool) -> Outcome {
    let mut world = World::new(seed, log);
    let began = world.now;
    let description = format!("{:?}", world.plan);
    world.say(|| description);
    world.start_process();
    world.begin_people();
    let until = began + world.plan.faults_for;
    phase(&mut world, until);
    world.end_faults();
    settle(&mut world);
    world.check_end();
    Outcome {
        seed,
        events: world.handled,
        simulated: world.now.since(began),
        counts: world.counts,
        lives: world.process.as_ref().map_or(0, |process| process.id),
        started: world.truth.started,
        ended: world.truth.ended.len(),
        instances: world.cloud.instances.len(),
        log: world.log.unwrap_or_default(),
        violation: world.violation,
    }
}

fn phase(world: &mut World, until: crate::core::time::Moment) {
    world.run_until(until);
    if world.handled > EVENTS_MAX {
        let detail = format!("{} events in {:?}: a busy loop", world.handled, world.now);
        world.violated("busy", detail);
    }
}

fn settle(world: &mut World) {
    let deadline = world.now + SETTLES_WITHIN;
    while world.violation.is_none() {
        let until = world.now + LOOK;
        phase(world, until);
        world.let_go();
        match world.unsettled() {
            None => return,
            Some(why) if world.now >= deadline => world.violated("settles", why),
            Some(_) => {}
        }
    }
}
