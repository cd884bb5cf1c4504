//! A worker's connections, one per lane (spec 45 §2): opened when needed, closed when nobody has used them for a while.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::SshClient;
use super::command_line::line;
use super::connect::{Connection, Request};
use super::exec::{Ended, ExecFault, Input, run};
use super::wait::{Closing, Waiter};
use crate::remote::identity::HostKey;
use crate::remote::{Command, Consume, ExecuteError, Executor, HostAccess, Lane, Output};

/// An action connection that nobody has used for so long is closed (spec 45 §2).
const IDLE_LIMIT: Duration = Duration::from_secs(30);
/// Between attempts to connect for an action: servers refuse when many connect at once.
/// How long an action goes on trying to reach a host; an attempt that has begun is not cut off. One that hangs up on us is there, and may
/// have too many connections: its turn comes.
const PATIENCE: Duration = Duration::from_secs(15);
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MOST: Duration = Duration::from_secs(2);

/// Where the next connection goes to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Target {
    address: String,
    user: String,
}

/// A connection that waits for its next command.
#[derive(Debug)]
struct Idle {
    connection: Connection,
    target: Target,
    since: Instant,
}

#[derive(Debug, Default)]
struct LaneState {
    /// Somebody has the lane, with its connection.
    taken: bool,
    idle: Option<Idle>,
}

#[derive(Debug, Default)]
struct LaneSlot {
    state: Mutex<LaneState>,
    freed: Condvar,
}

/// See the module.
#[derive(Debug)]
pub struct SshExecutor {
    client: Arc<SshClient>,
    access: HostAccess,
    target: Mutex<Target>,
    probe: LaneSlot,
    action: LaneSlot,
    bulk: LaneSlot,
    closing: Closing,
    /// The host's key once it was verified, and at which address.
    verified: Mutex<Option<(String, HostKey)>>,
    connected: AtomicBool,
}

/// A lane that one thread has until it is dropped.
struct Held<'a> {
    slot: &'a LaneSlot,
    closing: &'a Closing,
    idle: Option<Idle>,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let mut state = self.slot.state.lock();
        state.taken = false;
        // After `close` nobody would come for it.
        state.idle = self.idle.take_if(|_| !self.closing.is_closed());
        drop(state);
        self.slot.freed.notify_one();
    }
}

impl SshExecutor {
    /// Connects to nothing yet.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn new(client: Arc<SshClient>, access: HostAccess) -> io::Result<Self> {
        Ok(Self {
            client,
            access,
            target: Mutex::default(),
            probe: LaneSlot::default(),
            action: LaneSlot::default(),
            bulk: LaneSlot::default(),
            closing: Closing::new()?,
            verified: Mutex::new(None),
            connected: AtomicBool::new(false),
        })
    }

    fn slot(&self, lane: Lane) -> &LaneSlot {
        match lane {
            Lane::Probe => &self.probe,
            Lane::Action => &self.action,
            Lane::Bulk => &self.bulk,
        }
    }

    fn take(&self, lane: Lane, deadline: Instant) -> Result<Held<'_>, ExecuteError> {
        let slot = self.slot(lane);
        let mut state = slot.state.lock();
        loop {
            if self.closing.is_closed() {
                return Err(ExecuteError::Cancelled);
            }
            if !state.taken {
                state.taken = true;
                return Ok(Held { slot, closing: &self.closing, idle: state.idle.take() });
            }
            if slot.freed.wait_until(&mut state, deadline).timed_out() {
                return Err(ExecuteError::Deadline);
            }
        }
    }

    fn run(
        &self,
        lane: Lane,
        command: &Command<'_>,
        mut consume: Option<&mut Consume<'_>>,
    ) -> Result<Output, ExecuteError> {
        let mut held = self.take(lane, command.deadline)?;
        let waiter = Waiter { closing: &self.closing, deadline: command.deadline };
        let mut kept = held.idle.take().filter(|idle| idle.target == *self.target.lock());
        loop {
            let (mut connection, target, reused) = match kept.take() {
                Some(idle) => (idle.connection, idle.target, true),
                None => {
                    let (connection, target) = self.connect(lane, waiter)?;
                    (connection, target, false)
                }
            };
            let line = line(&command.program, self.uses_sudo(&target));
            let input = Input { line: &line, stdin: command.stdin, open_until: command.open_until };
            match run(&mut connection.link, input, waiter, consume.as_deref_mut()) {
                Ok(Ended { output, reusable }) => {
                    if reusable {
                        held.idle = Some(Idle { connection, target, since: Instant::now() });
                    }
                    return Ok(output);
                }
                // It had gone stale while nobody used it, and nothing was sent: once more with a new one.
                Err(ExecFault::NotSent(_)) if reused => {}
                Err(ExecFault::NotSent(source)) => {
                    return Err(ExecuteError::Connect { address: target.address, source });
                }
                Err(ExecFault::Failed(error)) => return Err(error),
            }
        }
    }

    /// To where the target is now, which may change while a host cannot be reached. A probe reports a failure at once, its round
    /// has a rhythm of its own. An action is worth some patience: a start whose connection was refused would cost the container an
    /// attempt. But not more: whoever waits holds one of the threads that serve all workers.
    fn connect(&self, lane: Lane, waiter: Waiter<'_>) -> Result<(Connection, Target), ExecuteError> {
        let mut pause = RETRY_FIRST;
        let patience = waiter.deadline.min(Instant::now() + PATIENCE);
        loop {
            let target = self.target.lock().clone();
            match self.connect_to(&target, waiter) {
                Ok(connection) => return Ok((connection, target)),
                Err(error @ ExecuteError::Connect { .. }) if lane != Lane::Probe && error.is_normal_while_booting() => {
                    let again = Instant::now() + pause;
                    let end = if error.is_hang_up() { waiter.deadline } else { patience };
                    if again >= end {
                        return Err(error);
                    }
                    waiter.pause(again)?;
                    pause = (pause * 2).min(RETRY_MOST);
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn connect_to(&self, target: &Target, waiter: Waiter<'_>) -> Result<Connection, ExecuteError> {
        let verified = self.verified.lock().clone();
        let request = Request {
            client: &self.client,
            access: &self.access,
            address: &target.address,
            user: &target.user,
            // Elsewhere the same key may be another host's: images can contain keys.
            verified: verified.filter(|(address, _)| *address == target.address).map(|(_, key)| key),
            sudo: self.uses_sudo(target),
        };
        let connection = request.connect(waiter)?;
        *self.verified.lock() = Some((target.address.clone(), connection.key.clone()));
        self.connected.store(true, Ordering::Release);
        Ok(connection)
    }

    /// Closes action connections that nobody has used for so long.
    pub fn close_idle(&self, unused_for: Duration) {
        for slot in [&self.action, &self.bulk] {
            let old = slot.state.lock().idle.take_if(|idle| idle.since.elapsed() >= unused_for);
            drop(old);
        }
    }

    fn uses_sudo(&self, target: &Target) -> bool {
        self.access.sudo && target.user != "root"
    }
}

impl Executor for SshExecutor {
    fn execute(&self, lane: Lane, command: &Command<'_>) -> Result<Output, ExecuteError> {
        self.run(lane, command, None)
    }

    fn stream(&self, lane: Lane, command: &Command<'_>, consume: &mut Consume<'_>) -> Result<Output, ExecuteError> {
        self.run(lane, command, Some(consume))
    }

    /// One channel at a time on each connection.
    fn width(&self, _lane: Lane) -> usize {
        1
    }

    fn set_target(&self, address: &str, remote_user: &str) {
        *self.target.lock() = Target { address: address.to_owned(), user: remote_user.to_owned() };
    }

    fn has_connected(&self) -> bool {
        self.connected.load(Ordering::Acquire)
    }

    fn runs_as_root(&self) -> bool {
        self.access.sudo || self.target.lock().user == "root"
    }

    fn tend(&self) {
        self.close_idle(IDLE_LIMIT);
    }

    fn close(&self) {
        self.closing.close();
        for slot in [&self.probe, &self.action, &self.bulk] {
            let idle = slot.state.lock().idle.take();
            slot.freed.notify_all();
            drop(idle);
        }
    }
}
