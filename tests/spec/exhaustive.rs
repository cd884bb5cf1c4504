//! Every state × idle behavior × event, and every short history of the events that matter for one worker: no history may break an
//! invariant, lose a wake-up, or change a state in a way that the diagram does not show ([`crate::world`] checks all after each event).

use muster::core::vocabulary::{IdleBehavior, WorkerState};

use crate::world::{World, id};

/// A way into each state, with each kind of thing that can be going on there.
const BEFORE: &[(&str, WorkerState)] = &[
    ("list i1", WorkerState::Unknown),
    ("list i1; probe i1 noboot a", WorkerState::Unknown),
    ("list i1; probe i1 noboot a finished", WorkerState::Unknown),
    ("create t; list i1:s1", WorkerState::Booting),
    ("up i1", WorkerState::Idle),
    ("up i1; probe i1 ok a; probe i1 ok", WorkerState::Idle),
    ("up i1; probe i1 ok a finished", WorkerState::Idle),
    ("up i1; probe i1 ok a finished; uncollected a", WorkerState::Idle),
    ("up i1; probe i1 ok a finished; collected a", WorkerState::Idle),
    ("up i1; start i1 a", WorkerState::Running),
    ("up i1; start i1 a; kill a", WorkerState::Running),
    ("up i1; start i1 a; returned a", WorkerState::Running),
    ("up i1; probe i1 ok a; kill a", WorkerState::Running),
    ("up i1; probe i1 ok a; kill a; gone a", WorkerState::Running),
    ("up i1; hold i1; probe i1 ok a; kill a; wait 121", WorkerState::Running),
    ("up i1; probe i1 ok a; probe i1 ok a stale", WorkerState::Running),
    ("up i1; probe i1 ok a; begin i1", WorkerState::Running),
    ("up i1; start i1 a; destroy i1", WorkerState::Shutdown),
    ("up i1; probe i1 ok a finished; begin i1; destroy i1", WorkerState::Shutdown),
];

/// One of each kind of event, for one worker and one container.
const EVENTS: &[&str] = &[
    "list i1",
    "list",
    "begin i1",
    "end i1 ok",
    "end i1 ok a",
    "end i1 ok a@2",
    "end i1 ok a stale",
    "end i1 ok a finished",
    "end i1 ok a@2 finished",
    "end i1 ok broken",
    "end i1 noboot",
    "end i1 fail",
    "end i1 dead",
    "start i1 a",
    "start i1 a@2",
    "returned a",
    "refused a",
    "kill a",
    "ruleout i1 a@2",
    "gone a",
    "alive a",
    "collected a",
    "uncollected a",
    "storage a",
    "full a",
    "forgotten a",
    "reaped a",
    "unreaped a",
    "forget a",
    "run i1",
    "hold i1",
    "drain i1",
    "shutdown i1",
    "destroy i1",
    "tick i1",
    "connect i1",
    "wait 6",
    "wait 61",
    "jump 601",
];

/// Those that move a container, for longer histories.
const MOVES: &[&str] = &[
    "begin i1",
    "end i1 ok",
    "end i1 ok a",
    "end i1 ok a finished",
    "probe i1 ok a stale",
    "start i1 a@2",
    "returned a",
    "kill a",
    "gone a",
    "collected a",
    "drain i1",
    "wait 61",
];

#[test]
fn the_ways_lead_to_their_states() {
    for (before, state) in BEFORE {
        let mut world = World::new();
        world.run(before);
        assert_eq!(world.pool.worker(&id("i1")).map(|worker| worker.state), Some(*state), "{before}");
    }
}

#[test]
fn every_state_behavior_and_event() {
    for (before, _) in BEFORE {
        for behavior in IdleBehavior::ALL {
            for round in ["", "begin i1"] {
                for event in EVENTS {
                    let mut world = World::new();
                    world.run(before);
                    world.run(&format!("{behavior} i1; {round}"));
                    world.run(event);
                }
            }
        }
    }
}

#[test]
fn every_history_of_two_events() {
    for (before, _) in BEFORE {
        for first in EVENTS {
            for second in EVENTS {
                let mut world = World::new();
                world.run(before);
                world.run(first);
                world.run(second);
            }
        }
    }
}

/// With either kind of runner.
#[test]
fn every_history_of_three_moves() {
    for before in
        ["up i1; start i1 a", "plain; up i1; start i1 a", "up i1; probe i1 ok a finished", "up i1; probe i1 ok a"]
    {
        for first in MOVES {
            for second in MOVES {
                for third in MOVES {
                    let mut world = World::new();
                    world.run(before);
                    world.run(first);
                    world.run(second);
                    world.run(third);
                }
            }
        }
    }
}
