//! What concerns the process as a whole: its pid file, its limits, the service manager, a second signal.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use signal_hook::consts::{SIGINT, SIGTERM};

use super::DaemonError;
use crate::core::effect::{Level, Note};
use crate::log::write_note;

/// Removed when dropped.
#[derive(Debug)]
pub(super) struct PidFile(PathBuf);

impl PidFile {
    pub(super) fn write(path: &Path) -> Result<Self, DaemonError> {
        let failed = |error| DaemonError::Process(format!("write the pid file {}", path.display()), error);
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o644)
            .open(path)
            .map_err(failed)?;
        writeln!(file, "{}", std::process::id()).map_err(failed)?;
        Ok(Self(path.to_owned()))
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// The second TERM or INT ends the process at once, with status 1.
pub(super) fn hurry_on_second_signal() {
    let armed = Arc::new(AtomicBool::new(true));
    for signal in [SIGTERM, SIGINT] {
        // A failure leaves the signal as it was: the stop is bounded anyway.
        let _ = signal_hook::flag::register_conditional_shutdown(signal, 1, armed.clone());
    }
}

/// `sd_notify`: a datagram to the socket that the service manager named; nothing without one.
pub(super) fn tell_service_manager(state: &str) {
    let Some(address) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    let sent = UnixDatagram::unbound().and_then(|socket| socket.send_to(state.as_bytes(), Path::new(&address)));
    if let Err(error) = sent {
        write_note(&Note::new(Level::Debug, "daemon", "cannot tell the service manager").with("error", error));
    }
}

/// What a worker may have open: two wake-ups, and connections for probes, for actions and for bulk.
const WORKER_DESCRIPTORS: u64 = 5;
/// Four of its thread, and some of its memory (spec 45 §5).
const WORKER_MAPPINGS: u64 = 5;
/// What the daemon has open itself at most: 256 connections of its API, log, database, results on their way. Where there are few, a
/// quarter of them.
const OWN_DESCRIPTORS: u64 = 300;

/// Raises the number of open files to its hard limit, and says how many workers fit into the process (spec 45 §5): four memory
/// mappings per thread, and their descriptors. Half the limit, as that page has it, would not be enough for workers that are all busy.
pub(super) fn workers_max(configured: usize) -> usize {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current < limit.maximum || limit.maximum.is_none() {
        let raised = Rlimit { current: limit.maximum.or(limit.current), maximum: limit.maximum };
        if setrlimit(Resource::Nofile, raised).is_ok() {
            limit = raised;
        }
    }
    let files = limit.current.unwrap_or(u64::MAX);
    let mappings = std::fs::read_to_string("/proc/sys/vm/max_map_count").ok().and_then(|text| text.trim().parse().ok());
    let mappings: u64 = mappings.unwrap_or(65_530);
    let fits = usize::try_from(fitting(files, mappings)).unwrap_or(usize::MAX);
    if fits < configured {
        let note = Note::new(Level::Warn, "daemon", "MaxWorkers is capped by the limits of the process");
        write_note(&note.with("MaxWorkers", fits).with("OpenFiles", files).with("MaxMapCount", mappings));
    }
    configured.min(fits)
}

/// How many workers fit into so many descriptors and memory mappings.
fn fitting(files: u64, mappings: u64) -> u64 {
    let files = files - OWN_DESCRIPTORS.min(files / 4);
    (files / WORKER_DESCRIPTORS).min(mappings / WORKER_MAPPINGS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_that_fit() {
        let limits = [0, 160, 1024, 20_000, 524_288, u64::MAX];
        let fit = limits.map(|limit| fitting(limit, u64::MAX));
        assert_eq!(fit[..5], [0, 24, 153, 3940, 104_797]);
        for (limit, workers) in limits.into_iter().zip(fit) {
            assert!(workers * WORKER_DESCRIPTORS <= limit);
        }
        assert_eq!(fitting(u64::MAX, 65_530), 13_106, "near 16,000 threads the standard library aborts");
        assert_eq!(fitting(1024, 500), 100);
    }
}
