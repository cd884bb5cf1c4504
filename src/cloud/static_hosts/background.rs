//! What goes on without a call: clean-ups, each on a thread of its own and at most 16 at once, and the ends of pauses.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use super::Places;
use super::cleanup::{Cleanup, Released};
use super::host::{Event, HostSpec, Kind, Phase, Problem};
use super::shared::Shared;
use crate::core::effect::{Level, Note, seconds};
use crate::core::errors::chain;
use crate::log::write_note;
use crate::remote::supply::RunnerSupply;

/// Starts a named thread; what comes from outside since threads start in one file.
pub type Spawn = Arc<dyn Fn(String, Box<dyn FnOnce() + Send>) -> io::Result<JoinHandle<()>> + Send + Sync>;

/// What a clean-up needs besides the host.
#[derive(Clone)]
pub(super) struct Background {
    pub(super) shared: Arc<Shared>,
    pub(super) places: Places,
    pub(super) supply: Arc<RunnerSupply>,
    pub(super) spawn: Spawn,
}

impl Background {
    /// Starts the thread; it ends when the driver stops.
    pub(super) fn start(self) -> io::Result<()> {
        let spawn = self.spawn.clone();
        let name = "hosts".to_owned();
        let body = move || {
            let _running = self.shared.thread_begun("hosts");
            self.run();
        };
        spawn(name, Box::new(body)).map(drop)
    }

    fn run(&self) {
        while let Some(due) = self.shared.next_cleanings() {
            for spec in due {
                let (of_thread, host, name) = (self.clone(), spec.clone(), format!("clean {}", spec.id));
                let of_guard = name.clone();
                let work = move || {
                    let _running = of_thread.shared.thread_begun(&of_guard);
                    of_thread.clean(&host);
                };
                if let Err(error) = (self.spawn)(name, Box::new(work)) {
                    let detail = format!("no thread for the clean-up: {error}");
                    self.failed(&spec, Problem { kind: Kind::Failed, detail });
                }
            }
        }
    }

    fn clean(&self, spec: &HostSpec) {
        let began = Instant::now();
        let note = |level, message| {
            Note::new(level, "hosts", message).with("Instance", &spec.id).with("Address", &spec.address)
        };
        let Some(lease) = self.shared.lease(&spec.id) else { return };
        let result = match self.shared.session(spec) {
            Ok(session) => {
                let places = (self.places)(&spec.id);
                let (shared, executor, supply) = (&*self.shared, &session.executor, &self.supply);
                Cleanup { shared, executor, supply, places }.run(spec, lease)
            }
            Err(error) => Err(Problem { kind: Kind::Failed, detail: format!("no connection can be made: {error}") }),
        };
        let released = match result {
            Ok(released) => released,
            Err(problem) => return self.failed(spec, problem),
        };
        // Only with this on disk may the host be given out again.
        let event = match &released {
            Released::Clean => Event::Cleaned,
            Released::NotOurs(problem) => Event::NotOurs(problem.clone()),
        };
        if let Err(error) = self.shared.change(&spec.id, event) {
            return self.failed(spec, Problem { kind: Kind::Failed, detail: chain(&error) });
        }
        let duration = seconds(began.elapsed());
        match released {
            Released::Clean => write_note(&note(Level::Info, "host cleaned up").with("Duration", duration)),
            Released::NotOurs(problem) => {
                let message = "host is not ours any more; nothing there was touched";
                write_note(
                    &note(Level::Warn, message).with("Reason", problem.kind.as_str()).with("error", problem.detail),
                );
            }
        }
    }

    /// The first failure of its kind is worth a warning, the same again is not.
    fn failed(&self, spec: &HostSpec, problem: Problem) {
        if self.shared.is_stopped() {
            return;
        }
        let known = self.shared.read(|table, _| {
            let phase = table.hosts.get(&spec.id).map(|host| &host.phase);
            let before = match phase {
                Some(Phase::Cleaning(cleaning)) => cleaning.problem.as_ref(),
                _ => None,
            };
            before.is_some_and(|before| before.kind == problem.kind)
        });
        let level = if known { Level::Debug } else { Level::Warn };
        let note = Note::new(level, "hosts", "host cannot be cleaned up and is not used until it is; trying again");
        write_note(
            &note
                .with("Instance", &spec.id)
                .with("Address", &spec.address)
                .with("Reason", problem.kind.as_str())
                .with("error", &problem.detail),
        );
        self.shared.note(&spec.id, Event::CleaningFailed(problem));
    }
}
