//! Places where tests stop the daemon as `kill -9` would (issue: crash at each step). Absent from release builds.

use crate::cloud::static_hosts::HostStep;

/// A step after which a crash must lose nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultPoint {
    /// The cloud has made the instance; the pool does not know yet.
    CreateWritten,
    LockCommitted,
    /// The start command has returned; the pool does not know yet.
    StartSent,
    ResultRenamed,
    ResultCommitted,
    BeforeForget,
    /// The driver `static` has written its state file.
    HostWritten,
    /// A host's owner file is ours; the state file says "claiming".
    HostClaimed,
    /// A clean-up has ended what ran on the host; its owner file is still there.
    HostEnded,
    /// A host has been released; the state file does not know yet.
    HostReleased,
}

impl FaultPoint {
    /// Those that every driver gets to.
    pub const ALL: [Self; 6] = [
        Self::CreateWritten,
        Self::LockCommitted,
        Self::StartSent,
        Self::ResultRenamed,
        Self::ResultCommitted,
        Self::BeforeForget,
    ];

    /// Those that only the driver `static` gets to.
    pub const OF_HOSTS: [Self; 4] = [Self::HostWritten, Self::HostClaimed, Self::HostEnded, Self::HostReleased];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CreateWritten => "create-written",
            Self::LockCommitted => "lock-committed",
            Self::StartSent => "start-sent",
            Self::ResultRenamed => "result-renamed",
            Self::ResultCommitted => "result-committed",
            Self::BeforeForget => "before-forget",
            Self::HostWritten => "host-written",
            Self::HostClaimed => "host-claimed",
            Self::HostEnded => "host-ended",
            Self::HostReleased => "host-released",
        }
    }
}

impl From<HostStep> for FaultPoint {
    fn from(step: HostStep) -> Self {
        match step {
            HostStep::Written => Self::HostWritten,
            HostStep::Claimed => Self::HostClaimed,
            HostStep::Ended => Self::HostEnded,
            HostStep::Released => Self::HostReleased,
        }
    }
}

/// Environment variable `NAME` or `NAME:COUNT`: the process kills itself when it reaches the point for the COUNT-th time.
pub const VARIABLE: &str = "MUSTER_TEST_STOP_AT";

/// Called at the place itself.
#[cfg(not(debug_assertions))]
pub fn reached(_point: FaultPoint) {}

/// Called at the place itself.
#[cfg(debug_assertions)]
pub fn reached(point: FaultPoint) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    static WANTED: OnceLock<Option<(String, u32)>> = OnceLock::new();
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let wanted = WANTED.get_or_init(|| {
        let text = std::env::var(VARIABLE).ok()?;
        let (name, count) = text.split_once(':').unwrap_or((&text, "1"));
        Some((name.to_owned(), count.parse().unwrap_or(1)))
    });
    if let Some((name, count)) = wanted
        && name == point.as_str()
        && COUNT.fetch_add(1, Ordering::SeqCst) + 1 == *count
    {
        // The same as kill -9: nothing is flushed, no destructor runs.
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    }
}
