//! Chaos: 200 containers on at most ten instances, with every fault at once. What is asserted is logic: how long it takes is measured by
//! `bench chaos`.
#![expect(clippy::print_stdout, reason = "the seed of a run that fails must be known")]

mod world;

use world::Workload;

/// A debug build on a busy machine answers late; that is not the fault that is looked for.
const PATIENCE: u32 = 4;

fn run(seed: u64) {
    println!("seed {seed}");
    match (Workload { seed, containers: 200, patience: PATIENCE }).run() {
        Ok(outcome) => println!("{:.1} s: {:?}", outcome.took.as_secs_f64(), outcome.counts),
        Err(wrong) => panic!("seed {seed}: {wrong}"),
    }
}

#[test]
fn every_container_ends_once_whatever_goes_wrong() {
    run(1);
}

#[test]
fn and_with_a_seed_that_was_never_tried() {
    run(u64::from(std::process::id()));
}
