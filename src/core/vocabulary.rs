//! The words of spec 10 §1 and 70 §2: one enum per kind, and the only strings that JSON, tags, metrics and logs use.

use std::fmt;

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$variant_doc])* $variant),+ }

        impl $name {
            /// Every value, in the order of the specification.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }

            /// The inverse of `as_str`; `None` for any other text (case matters).
            pub fn parse(text: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|value| value.as_str() == text)
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

words! {
    /// State of a worker (spec 10 §1).
    WorkerState {
        /// Found in the cloud's list; may already run containers.
        Unknown = "unknown",
        /// We asked for it.
        Booting = "booting",
        Idle = "idle",
        /// One or more containers starting or running.
        Running = "running",
        /// Destroy requested; no longer monitored.
        Shutdown = "shutdown",
    }
}

words! {
    /// What the operator wants of a worker that has nothing to do (spec 10 §1).
    IdleBehavior {
        Run = "run",
        /// Never shut down, never gets new containers.
        Hold = "hold",
        /// No new containers; shut down as soon as nothing runs.
        Drain = "drain",
    }
}

words! {
    /// How a worker's boot ended; at most one per worker (spec 10 §1).
    BootOutcome {
        Success = "success",
        Failure = "failure",
        /// We shut it down before a verdict.
        Aborted = "aborted",
        /// Gone from the cloud's list.
        Disappeared = "disappeared",
    }
}

words! {
    /// A container's life in the queue (spec 30, 70 §2).
    ContainerState {
        Queued = "Queued",
        Locked = "Locked",
        Running = "Running",
        Complete = "Complete",
        Cancelled = "Cancelled",
    }
}

impl ContainerState {
    /// Complete or Cancelled: nothing leaves these.
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Complete | Self::Cancelled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_round_trip_and_are_case_sensitive() {
        for state in WorkerState::ALL {
            assert_eq!(WorkerState::parse(state.as_str()), Some(*state));
        }
        assert_eq!(WorkerState::parse("Idle"), None);
        assert_eq!(ContainerState::parse("Queued"), Some(ContainerState::Queued));
        assert_eq!(IdleBehavior::parse(""), None);
    }
}
