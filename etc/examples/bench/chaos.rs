//! `bench chaos [RUNS [SEED]]`: 200 containers on at most ten faulty instances (`tests/chaos`), each run with the next seed, and how long
//! each takes until its last container has ended.
//!
//! How it is measured: everything is in this process, hosts (russh) and dispatcher (the daemon's parts, without configuration file and
//! API) share the processors; the queue is the local one, on disk in the directory for temporary files, and results are collected. Time
//! counts from the submission.

#[path = "../../../tests/chaos/world/mod.rs"]
mod world;

use std::collections::BTreeMap;
use std::time::Duration;

use world::Workload;

use crate::daemon::Failure;

const CONTAINERS: usize = 200;

pub(crate) fn run(runs: usize, first_seed: u64) -> Result<(), Failure> {
    println!("{CONTAINERS} containers, at most 10 instances, faults of all kinds; {runs} runs from seed {first_seed}");
    let mut times = Vec::new();
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    let mut failed = 0;
    for seed in (first_seed..).take(runs) {
        match (Workload { seed, containers: CONTAINERS, patience: 1 }).run() {
            Ok(outcome) => {
                times.push((outcome.took, seed));
                for (name, count) in outcome.counts {
                    *counts.entry(name).or_default() += count;
                }
            }
            Err(wrong) => {
                failed += 1;
                println!("  seed {seed} FAILED: {wrong}");
            }
        }
    }
    times.sort_unstable();
    let seconds = |at: usize| {
        times.get(at.min(times.len().saturating_sub(1))).map_or(Duration::ZERO, |(time, _)| *time).as_secs_f64()
    };
    let last = |share: usize| seconds(times.len() * share / 100);
    println!(
        "  to the last container                min {:.2} s, median {:.2} s, 90 % {:.2} s, max {:.2} s (seed {})",
        seconds(0),
        last(50),
        last(90),
        last(100),
        times.last().map_or(0, |(_, seed)| *seed)
    );
    println!("  stalls and other failures            {failed}");
    for (name, count) in counts {
        println!("  {name:<36} {count}");
    }
    if failed == 0 {
        Ok(())
    } else {
        Err(Failure::Wrong(format!("{failed} of {runs} runs of the chaos workload failed")))
    }
}
