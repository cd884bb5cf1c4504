//! `simulate [--stop] SEEDS [FIRST]` plays that many seeds on all cores; `simulate --seed N` plays one and shows what happened in it.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line program")]

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use muster_simulation::faults::{Counts, Fault};
use muster_simulation::run::{Outcome, run};

const USAGE: &str = "\
usage: simulate [--stop] SEEDS [FIRST]   plays seeds FIRST (1) to FIRST + SEEDS - 1 on all cores; --stop: to the first violation
       simulate --seed N                 plays one seed and shows what happened in it

example: simulate 1000
Exit status 1 if an invariant was violated: then the seed is named, and the end of its log shown.";
/// Lines of a failing seed's log.
const LOG_SHOWN: usize = 60;
/// So many failing seeds are enough.
const FAILURES_MAX: usize = 10;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if matches!(arguments.as_slice(), [help] if help == "--help" || help == "-h") {
        println!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    match parse(&arguments) {
        Ok(Wish::Replay(seed)) => replay(seed),
        Ok(Wish::Many { seeds, first, failures_max }) => many(seeds, first, failures_max),
        Err(why) => {
            eprintln!("simulate: {why}\n\n{USAGE}");
            ExitCode::from(2)
        }
    }
}

enum Wish {
    Replay(u64),
    Many { seeds: u64, first: u64, failures_max: usize },
}

fn parse(arguments: &[String]) -> Result<Wish, String> {
    let (flags, numbers): (Vec<&str>, Vec<&str>) =
        arguments.iter().map(String::as_str).partition(|text| text.starts_with("--"));
    let number = |text: &&str| text.parse::<u64>().map_err(|_| format!("{text:?} is not a number of seeds"));
    let numbers: Vec<u64> = numbers.iter().map(number).collect::<Result<_, _>>()?;
    let failures_max = if flags == ["--stop"] { 1 } else { FAILURES_MAX };
    match (flags.as_slice(), numbers.as_slice()) {
        (["--seed"], [seed]) => Ok(Wish::Replay(*seed)),
        ([] | ["--stop"], [0, ..]) => Err("at least one seed is needed".to_owned()),
        ([] | ["--stop"], [seeds]) => Ok(Wish::Many { seeds: *seeds, first: 1, failures_max }),
        ([] | ["--stop"], [seeds, first]) if first.checked_add(*seeds).is_some() => {
            Ok(Wish::Many { seeds: *seeds, first: *first, failures_max })
        }
        ([flag], _) if !["--seed", "--stop"].contains(flag) => Err(format!("there is no {flag}")),
        _ => Err("these arguments do not fit".to_owned()),
    }
}

fn replay(seed: u64) -> ExitCode {
    let outcome = run(seed, true);
    for line in &outcome.log {
        println!("{line}");
    }
    match &outcome.violation {
        Some(violation) => println!("seed {seed}: {violation}"),
        None => println!("seed {seed}: no violation, {} events, {} containers ended", outcome.events, outcome.ended),
    }
    ExitCode::from(u8::from(outcome.violation.is_some()))
}

#[derive(Default)]
struct Sum {
    seeds: u64,
    events: u64,
    simulated: Duration,
    counts: Counts,
    restarts: u64,
    started: u64,
    ended: u64,
    instances: u64,
    failures: Vec<(u64, String)>,
}

impl Sum {
    fn add(&mut self, outcome: &Outcome) {
        self.seeds += 1;
        self.events += outcome.events;
        self.simulated += outcome.simulated;
        self.counts.add(&outcome.counts);
        self.restarts += outcome.lives.saturating_sub(1);
        self.started += outcome.started;
        self.ended += outcome.ended as u64;
        self.instances += outcome.instances as u64;
        if let Some(violation) = &outcome.violation {
            self.failures.push((outcome.seed, violation.to_string()));
        }
    }
}

fn many(seeds: u64, first: u64, failures_max: usize) -> ExitCode {
    let began = Instant::now();
    let next = AtomicU64::new(first);
    let enough = AtomicBool::new(false);
    let sum = Mutex::new(Sum::default());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                while !enough.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + seeds {
                        return;
                    }
                    let outcome = run(seed, false);
                    let mut sum = sum.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    sum.add(&outcome);
                    if sum.failures.len() >= failures_max {
                        enough.store(true, Ordering::Relaxed);
                    }
                    if sum.seeds.is_multiple_of(1000) {
                        eprintln!("{} seeds, {:.0} s", sum.seeds, began.elapsed().as_secs_f64());
                    }
                }
            });
        }
    });
    let sum = sum.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    report(&sum, began.elapsed())
}

fn report(sum: &Sum, took: Duration) -> ExitCode {
    println!("{:<36}{:>12}{:>12}", "fault", "injected", "noticed");
    for fault in Fault::ALL {
        println!("{fault:<36}{:>12}{:>12}", sum.counts.injected(*fault), sum.counts.noticed(*fault));
    }
    let hours = sum.simulated.as_secs_f64() / 3600.0;
    let seconds = took.as_secs_f64().max(0.001);
    println!();
    println!("seeds                 {}", sum.seeds);
    println!("events                {} ({:.0} a second)", sum.events, events_per_second(sum.events, seconds));
    println!("dispatcher hours      {hours:.0} ({:.0} a minute)", hours / (seconds / 60.0));
    println!("dispatcher restarts   {}", sum.restarts);
    println!("instances             {}", sum.instances);
    println!("attempts executed     {}", sum.started);
    println!("containers ended      {}", sum.ended);
    println!("seconds               {seconds:.1}");
    println!("violated invariants   {}", sum.failures.len());
    for (seed, text) in &sum.failures {
        println!("seed {seed}: {text}");
    }
    let Some((seed, _)) = sum.failures.iter().min() else { return ExitCode::SUCCESS };
    println!("\nthe end of seed {seed} (all of it: simulate --seed {seed}):");
    let log = run(*seed, true).log;
    for line in &log[log.len().saturating_sub(LOG_SHOWN)..] {
        println!("{line}");
    }
    ExitCode::FAILURE
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn events_per_second(events: u64, seconds: f64) -> f64 {
    events as f64 / seconds
}
