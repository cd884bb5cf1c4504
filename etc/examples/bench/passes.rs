//! What a pass of the scheduler costs, by the numbers of containers that wait and of instances.
//!
//! How it is measured: the core alone, in this thread, on worlds made in memory. *First* is the first pass of a new scheduler, which has
//! to look at everything; *next* one after a single change; *again* one after none. Allocations are those of the last pass of each kind,
//! counted by the allocator.

mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use muster::core::effect::Effects;
use muster::core::ids::{ContainerUuid, InstanceId};
use muster::core::pool::Pool;
use muster::core::pool::create::InstanceReport;
use muster::core::scheduler::{PassInput, Scheduler, SchedulerSettings};
use muster::core::settings::Settings;
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

fn input<'a>(world: &'a World, busy: &'a BTreeSet<ContainerUuid>) -> PassInput<'a> {
    PassInput {
        pool: &world.pool,
        queue: &world.queue,
        busy,
        last_busy_answer: None,
        may_start: true,
        now: Moment::since_start(Duration::from_secs(100)),
    }
}

fn scheduler() -> Scheduler {
    Scheduler::new(SchedulerSettings { max_instances: 0, ..SchedulerSettings::default() })
}

/// Each round's pass, by a scheduler and in a world that `prepare` makes ready for it.
fn measure(world: &World, mut prepare: impl FnMut(usize, &mut Scheduler, &mut World)) -> Figure {
    let busy = BTreeSet::new();
    let mut times = Vec::new();
    let (mut allocations, mut actions) = (0, 0);
    let (mut scheduler, mut world) = (scheduler(), world.clone());
    for round in 0..ROUNDS {
        prepare(round, &mut scheduler, &mut world);
        let region = Region::new(crate::ALLOCATOR);
        let began = Instant::now();
        let pass = scheduler.pass(&input(&world, &busy));
        times.push(began.elapsed());
        allocations = region.change().allocations;
        actions = pass.actions.len();
    }
    times.sort_unstable();
    Figure { median: times[ROUNDS / 2], allocations, actions }
}

/// *First*: everything is new. *Next*: the same scheduler after one container has ended or come. *Again*: nothing has changed.
fn figures(world: &World) -> [Figure; 3] {
    let busy = BTreeSet::new();
    let first = measure(world, |_, one, _| *one = scheduler());
    let next = measure(world, |round, one, world| {
        if round == 0 {
            drop(one.pass(&input(world, &busy)));
        }
        world.change(round);
    });
    let again = measure(world, |_, one, world| drop(one.pass(&input(world, &busy))));
    [first, next, again]
}

pub(crate) fn run() {
    view();
    println!(
        "a pass of the scheduler, medians of {ROUNDS} in ms, and allocations; growth of the time per container and instance"
    );
    println!("(first: everything is new; next: one container has ended or come; again: nothing has changed)");
    for case in Case::ALL {
        println!("  {}", case.name());
        let mut before: Option<f64> = None;
        for (containers, instances) in SIZES {
            let world = World::new(case, containers, instances);
            let all @ [first, ..] = &figures(&world);
            let each = |figure: &Figure| {
                let took = figure.median.as_secs_f64() * 1000.0;
                format!("{took:>8.3} {:>7}", figure.allocations)
            };
            let [first_text, next, again] = all.each_ref().map(each);
            let per_item = first.median.as_secs_f64() / number(containers + instances);
            let growth =
                before.replace(per_item).map_or_else(String::new, |before| format!("x{:.2}", per_item / before));
            let actions = first.actions;
            println!(
                "    {containers:>6} containers {instances:>4} instances   first {first_text} {growth:>6}   next {next}   again {again}   {actions:>6} actions"
            );
        }
    }
}

/// What a pass holds the pool's lock for: the view.
fn view() {
    const WORKERS: usize = 5000;
    let mut pool = Pool::new(Settings::default(), BTreeMap::new());
    let listed = (0..WORKERS).map(|number| (InstanceId::new(&format!("i-{number:05}")), InstanceReport::default()));
    pool.apply_list(Moment::default(), &listed.collect(), Moment::default(), &mut Effects::new());
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let began = Instant::now();
        let view = pool.view(Moment::default());
        times.push(began.elapsed());
        assert_eq!(view.instances.len(), WORKERS);
    }
    times.sort_unstable();
    let micros = |time: Duration| time.as_secs_f64() * 1e6;
    let (median, worst) = (micros(times[ROUNDS / 2]), micros(times[ROUNDS - 1]));
    println!("the pool's lock for a view of {WORKERS} workers: median {median:.1} µs, worst {worst:.1} µs");
}

fn number(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}
