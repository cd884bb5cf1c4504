//! What a pass of the scheduler costs, by the numbers of containers that wait and of instances.
//!
//! How it is measured: the core alone, in this thread, on worlds made in memory. *First* is the first pass of a new scheduler, which has
//! to look at everything. Allocations are those of the pass, counted by the allocator.

mod world;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use muster::core::scheduler::{PassInput, Scheduler, SchedulerSettings};
use muster::core::time::Moment;
use stats_alloc::Region;
use world::{Case, World};

const SIZES: [(usize, usize); 5] = [(100, 100), (1000, 100), (1000, 1000), (10_000, 1000), (100_000, 5000)];
const ROUNDS: usize = 11;

struct Figure {
    median: Duration,
    allocations: usize,
    actions: usize,
}

fn input<'a>(world: &'a World, busy: &'a BTreeSet<muster::core::ids::ContainerUuid>) -> PassInput<'a> {
    PassInput {
        pool: &world.pool,
        queue: &world.queue,
        busy,
        last_busy_answer: None,
        may_start: true,
        now: Moment::since_start(Duration::from_secs(100)),
    }
}

fn first(world: &World) -> Figure {
    let settings = SchedulerSettings { max_instances: 0, ..SchedulerSettings::default() };
    let busy = BTreeSet::new();
    let mut times = Vec::new();
    let (mut allocations, mut actions) = (0, 0);
    for _ in 0..ROUNDS {
        let mut scheduler = Scheduler::new(settings.clone());
        let region = Region::new(crate::ALLOCATOR);
        let began = Instant::now();
        let pass = scheduler.pass(&input(world, &busy));
        times.push(began.elapsed());
        allocations = region.change().allocations;
        actions = pass.actions.len();
    }
    times.sort_unstable();
    Figure { median: times[ROUNDS / 2], allocations, actions }
}

pub(crate) fn run() {
    println!("a pass of the scheduler, median of {ROUNDS}: first (everything is new)");
    for case in Case::ALL {
        println!("  {}", case.name());
        for (containers, instances) in SIZES {
            let world = World::new(case, containers, instances);
            let figure = first(&world);
            println!(
                "    {containers:>6} containers, {instances:>4} instances  {:>9.3} ms  {:>8} allocations  {:>6} actions",
                figure.median.as_secs_f64() * 1000.0,
                figure.allocations,
                figure.actions
            );
        }
    }
}
