//! What can go wrong, how often in one seed, and how often it did.

use std::fmt;

macro_rules! kinds {
    ($($kind:ident = $text:literal, $likelihood:literal;)+) => {
        /// A kind of fault.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Fault { $($kind),+ }

        impl Fault {
            pub const ALL: &'static [Self] = &[$(Self::$kind),+];

            pub const fn name(self) -> &'static str {
                match self { $(Self::$kind => $text),+ }
            }

            /// How likely at each opportunity, in a seed that has this kind at its usual strength.
            pub const fn likelihood(self) -> f64 {
                match self { $(Self::$kind => $likelihood),+ }
            }
        }
    };
}

kinds! {
    CreateFails = "create fails", 0.15;
    CreateMadeButFailed = "create succeeds but reports failure", 0.08;
    CreateSlow = "create is slow", 0.08;
    CreateSilent = "create never answers", 0.03;
    Quota = "quota reached", 0.1;
    Capacity = "type out of capacity", 0.1;
    CreateRateLimited = "create rate-limited", 0.05;
    ListStale = "list is stale", 0.3;
    ListFails = "list fails", 0.1;
    ListSlow = "list is slow", 0.05;
    ListRateLimited = "list rate-limited", 0.05;
    DestroyFails = "destroy fails", 0.2;
    DestroySlow = "destroy takes long", 0.2;
    TagsFail = "tags cannot be saved", 0.2;
    Vanishes = "instance vanishes", 0.1;
    NeverBoots = "boot never ends", 0.12;
    BadImage = "no instance of a type boots", 0.1;
    AddressLate = "address comes late", 0.3;
    RunnerMissing = "runner cannot be installed", 0.06;
    ListNever = "installed runner cannot list", 0.05;
    TooSmall = "host smaller than its type", 0.03;
    Refused = "SSH refused", 0.15;
    Hangs = "SSH hangs", 0.15;
    KeyChanged = "host key changes", 0.06;
    CutBefore = "cut before the command", 0.02;
    CutAfter = "cut after the command", 0.02;
    Late = "command arrives late", 0.01;
    ListCut = "list cut short", 0.02;
    CrashBeforeResult = "runner crashes before its result", 0.08;
    CrashAfterResult = "runner crashes after its result", 0.05;
    StaleLock = "stale lock", 0.05;
    StaleResists = "stale lock resists", 0.3;
    Broken = "host reports itself broken", 0.06;
    Unkillable = "unkillable container", 0.08;
    JobKilled = "killed by somebody on the host", 0.03;
    HostDiskFull = "host's disk full", 0.04;
    CollectFails = "collecting fails", 0.1;
    StorageFails = "our storage fails", 0.02;
    EffectLost = "effect lost", 0.01;
    SlowThread = "a thread is slow", 0.01;
    KilledBetweenEffects = "killed between two effects", 0.002;
    KilledAfterStart = "killed just after a start", 0.03;
    KilledAtRandom = "killed at a random moment", 0.3;
    TypesRemoved = "configuration with types removed", 0.2;
    Operator = "operator's command", 0.5;
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// How often something of each kind was done, and how often the dispatcher was seen to take note of it.
#[derive(Clone, Debug)]
pub struct Counts {
    injected: Vec<u64>,
    noticed: Vec<u64>,
}

impl Default for Counts {
    fn default() -> Self {
        let zeros = vec![0; Fault::ALL.len()];
        Self { injected: zeros.clone(), noticed: zeros }
    }
}

impl Counts {
    pub fn inject(&mut self, fault: Fault) {
        self.injected[fault as usize] += 1;
    }

    pub fn notice(&mut self, fault: Fault) {
        self.noticed[fault as usize] += 1;
    }

    pub fn injected(&self, fault: Fault) -> u64 {
        self.injected[fault as usize]
    }

    pub fn noticed(&self, fault: Fault) -> u64 {
        self.noticed[fault as usize]
    }

    pub fn add(&mut self, other: &Self) {
        for fault in Fault::ALL {
            self.injected[*fault as usize] += other.injected(*fault);
            self.noticed[*fault as usize] += other.noticed(*fault);
        }
    }
}
