//! Some hundred seeds in each run of the tests; many more with `make simulate`.

use std::sync::atomic::{AtomicU64, Ordering};

use muster_simulation::run::run;

/// As many as take some seconds.
const SEEDS: u64 = 400;

/// With faults no invariant is violated after any event; once they have ended every container ends, and no machine is left.
#[test]
fn no_invariant_is_violated_and_everything_settles() {
    let (next, started) = (AtomicU64::new(1), AtomicU64::new(0));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed > SEEDS {
                        return;
                    }
                    let outcome = run(seed, false);
                    if let Some(violation) = outcome.violation {
                        let log = run(seed, true).log;
                        let end = log[log.len().saturating_sub(100)..].join("\n");
                        panic!("seed {seed}: {violation}\n{end}\n(all of it: make simulate SEED={seed})");
                    }
                    started.fetch_add(outcome.started, Ordering::Relaxed);
                }
            });
        }
    });
    assert!(started.into_inner() > 5 * SEEDS, "hardly anything ran");
}

/// What fails can be looked at again: a seed is always the same.
#[test]
fn a_seed_is_always_the_same() {
    for seed in [1, 17] {
        let (first, second) = (run(seed, true), run(seed, true));
        assert_eq!(first.log, second.log, "seed {seed}");
        assert_eq!(first.events, second.events);
        assert!(first.log.len() > 100);
    }
}
