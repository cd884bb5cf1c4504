//! What goes wrong in a run: a matter of its seed and of numbers (of calls, of hosts), never of time.

use std::hash::{DefaultHasher, Hash, Hasher};

use muster_fake_hosts::{Crashes, Faults, Turn};

/// Of a hundred.
const CALLS_FAILING: u64 = 10;
const RUNNERS_CRASHING: u64 = 10;
/// One kind of bad host in so many: there are three kinds.
const ONE_HOST_IN: u64 = 7;
/// Commands of a host before its boot is over: the secret, the boot probe, two for the runner, the first list.
const BOOT_COMMANDS: u64 = 5;
/// Of those the first, of which one may be the last that a host hears.
const EARLY_COMMANDS: u64 = 2;
/// A host that turns bad does so within so many commands after that.
const COMMANDS_MAX: u64 = 60;

/// See the module.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
}

/// What a call of the cloud comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Succeeds,
    Fails,
    /// It fails, and has done all the same what it was asked for.
    DoneAndFails,
}

/// What a host is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Role {
    Well,
    /// At some time it answers nothing any more.
    StopsAnswering,
    LacksRunner,
    /// From its start, or at some time.
    ReportsBroken,
}

impl Plan {
    fn draw(self, what: &str, number: u64) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.seed, what, number).hash(&mut hasher);
        hasher.finish()
    }

    pub(crate) fn create(self, number: u64) -> Call {
        match self.draw("create", number) % 100 {
            drawn if drawn < CALLS_FAILING / 3 => Call::DoneAndFails,
            drawn if drawn < CALLS_FAILING => Call::Fails,
            _ => Call::Succeeds,
        }
    }

    pub(crate) fn destroy(self, number: u64) -> Call {
        if self.draw("destroy", number) % 100 < CALLS_FAILING { Call::Fails } else { Call::Succeeds }
    }

    pub(crate) fn host(self, number: u64) -> (Role, Faults) {
        let drawn = 1 + self.draw("turn", number) % COMMANDS_MAX;
        // What deploys the runner has a limit that no timeout of ours shortens.
        let at = if drawn > EARLY_COMMANDS { BOOT_COMMANDS + drawn } else { drawn };
        let even = self.draw("how", number).is_multiple_of(2);
        let turns = |turn| Faults { turns: Some((at, turn)), ..Faults::default() };
        match self.draw("host", number) % ONE_HOST_IN {
            0 => (Role::StopsAnswering, turns(if even { Turn::Silent } else { Turn::Refusing })),
            1 => (Role::LacksRunner, Faults { no_runner: true, ..Faults::default() }),
            2 if even => (Role::ReportsBroken, turns(Turn::Broken)),
            2 => (Role::ReportsBroken, Faults { turns: Some((1, Turn::Broken)), ..Faults::default() }),
            _ => (Role::Well, Faults::default()),
        }
    }

    pub(crate) fn crashes(self) -> Crashes {
        Crashes { seed: self.seed, percent: RUNNERS_CRASHING }
    }
}
