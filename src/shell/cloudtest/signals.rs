//! Signals that end a test, and the operator at the terminal.

use std::io::{self, Write};
use std::sync::Arc;

use crossbeam_channel::{bounded, select};
use parking_lot::Mutex;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::Signals;

use super::note;
use crate::cloud::InstanceSet;
use crate::core::effect::Level;
use crate::log::write_note;
use crate::shell::stop::{Stop, StopSource};
use crate::shell::threads;

/// Whatever commonly ends a program that somebody runs at a terminal. Each would leave the instance behind.
const ENDING: [i32; 4] = [SIGINT, SIGTERM, SIGHUP, SIGQUIT];

/// The first of these signals ends the waiting: what was created is destroyed. The second one ends the process as it does by default.
/// One that is ignored from the start (`nohup`) stays so.
pub(super) fn stop_by_signal(current: &Current) -> io::Result<Stop> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mut signals = Signals::new(ENDING.into_iter().filter(|signal| !is_ignored(*signal, &status)))?;
    let source = StopSource::new();
    let (stop, current) = (source.token(), current.clone());
    let wait = move || {
        if signals.forever().next().is_some() {
            let message = "ending early; the instance is destroyed first, and a second signal leaves it behind";
            write_note(&note(Level::Warn, message));
            drop(source);
            if let Some(second) = signals.forever().next() {
                let message = "ended by a second signal; what had not been destroyed is left behind";
                write_note(&note(Level::Error, message));
                current.stop();
                let _ = signal_hook::low_level::emulate_default_handler(second);
            }
        }
    };
    // It ends with the process.
    threads::spawn("signals".to_owned(), Box::new(wait))?;
    Ok(stop)
}

/// The driver that is under test: it is stopped once, by whoever ends the test.
#[derive(Clone, Default)]
pub(super) struct Current(Arc<Mutex<Option<Arc<dyn InstanceSet>>>>);

impl Current {
    pub(super) fn begin(&self, driver: Arc<dyn InstanceSet>) {
        *self.0.lock() = Some(driver);
    }

    /// Programs of the driver's that serve only this process do not outlive it.
    pub(super) fn stop(&self) {
        let driver = self.0.lock().take();
        if let Some(driver) = driver {
            driver.stop();
        }
    }
}

/// By what the kernel tells of this process: the line `SigIgn:`, with a bit for each signal, the lowest for signal 1.
fn is_ignored(signal: i32, status: &str) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok()).unwrap_or(0);
    mask >> (signal - 1) & 1 == 1
}

/// Waits for a line, or the end, of standard input, or for the stop.
pub(super) fn pause(stop: &Stop) {
    // A prompt is no log line; whether it can be shown is of no consequence.
    let _ = write!(io::stderr(), "Press Enter to continue: ");
    // A read goes on when a signal comes, so it has a thread of its own; one that waits for ever ends with the process.
    let (end, ended) = bounded::<()>(0);
    let read = move || {
        let _ = io::stdin().read_line(&mut String::new());
        drop(end);
    };
    if let Err(error) = threads::spawn("stdin".to_owned(), Box::new(read)) {
        write_note(&note(Level::Warn, "cannot wait for the operator").with("error", error));
        return;
    }
    select! {
        recv(ended) -> _ => {}
        recv(stop.channel()) -> _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_signals() {
        let status = "Name:\tmuster\nSigBlk:\tffffffffffffffff\nSigIgn:\t0000000000001001\nSigCgt:\t0000000000004000\n";
        assert!(is_ignored(SIGHUP, status));
        assert!(!is_ignored(SIGINT, status) && !is_ignored(SIGTERM, status) && !is_ignored(SIGHUP, ""));
    }
}
