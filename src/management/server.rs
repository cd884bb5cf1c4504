//! The listener: opens the addresses, accepts, gives each connection a thread, stops and joins them.
//!
//! Threads: `http-accept`, which owns the listeners and waits in `poll` for them and the stop; `http-N`, one per
//! connection. TCP and the socket are counted apart, so that strangers at the port cannot keep the owner out.
//! Spec 82 §1.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use log::Level;
use rustix::event::PollFlags;

use super::backend::Backend;
use super::handler::{Api, Peer};
use super::http::connection::serve;
use super::http::listen::{Listener, listen_tcp, listen_unix};
use super::http::response::Response;
use super::http::stream::{Deadline, Stop, Stream, Wake, wait_any};
use super::metrics::Metrics;
use super::token::Token;
use crate::log::event;

const TARGET: &str = "management";
/// Connections at a time, for TCP and the socket each.
pub const CONNECTIONS_MAX: usize = 256;
/// How long a stop waits for connections.
const STOP_TIME_MAX: Duration = Duration::from_secs(2);
/// After a failed accept (no descriptors left): long enough not to spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Starts a named thread; only `shell/threads.rs` may.
pub type Spawn = Arc<dyn Fn(String, Box<dyn FnOnce() + Send>) -> io::Result<JoinHandle<()>> + Send + Sync>;

#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// `host:port` each: the first that can be bound is used. Empty = no TCP.
    pub tcp: Vec<String>,
    /// A private Unix socket, on which no token is asked for.
    pub socket: Option<PathBuf>,
    pub token: Token,
    /// Normally [`CONNECTIONS_MAX`].
    pub connections_max: usize,
}

/// A running listener. Dropping it stops it.
#[derive(Debug)]
pub struct Server {
    api: Arc<Api>,
    stop: Stop,
    accepting: Option<JoinHandle<()>>,
    /// Disconnected when all threads have ended.
    ended: Receiver<()>,
    local_addr: Option<SocketAddr>,
}

impl Server {
    /// Opens the addresses and begins to serve.
    ///
    /// # Errors
    /// No address can be opened (the texts of spec 82 §1), the socket cannot be made, or no thread can be started.
    pub fn start(
        options: ServerOptions,
        backend: Arc<dyn Backend>,
        metrics: Arc<Metrics>,
        spawn: Spawn,
    ) -> io::Result<Self> {
        let mut listeners = Vec::new();
        if !options.tcp.is_empty() || options.socket.is_none() {
            listeners.push(listen_tcp(&options.tcp)?);
        }
        if let Some(path) = &options.socket {
            listeners.push(listen_unix(path)?);
        }
        let local_addr = listeners.iter().find_map(Listener::tcp_address);
        metrics.set_connections_max(options.connections_max);
        let api = Arc::new(Api::new(backend, metrics, options.token));
        let stop = Stop::new()?;
        let (alive, ended) = bounded(0);
        let acceptor = Acceptor {
            slots: listeners.iter().map(|_| Arc::new(AtomicUsize::new(0))).collect(),
            listeners,
            api: Arc::clone(&api),
            stop: stop.clone(),
            spawn: Arc::clone(&spawn),
            alive,
            connections_max: options.connections_max,
            accepted: 0,
            threads: Vec::new(),
        };
        let accepting = Some(spawn("http-accept".to_owned(), Box::new(move || acceptor.run()))?);
        Ok(Self { api, stop, accepting, ended, local_addr })
    }

    /// The TCP address in use; tells the port that was chosen for port 0.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.local_addr
    }

    /// Ends accepting and all connections, and joins their threads; false if some were still busy after two seconds (they are
    /// left to themselves, with a warning). A second call does nothing.
    pub fn stop(&mut self) -> bool {
        let Some(accepting) = self.accepting.take() else { return true };
        self.api.backend().stop_waiting();
        self.stop.tell();
        let all_ended =
            matches!(self.ended.recv_timeout(STOP_TIME_MAX), Err(crossbeam_channel::RecvTimeoutError::Disconnected));
        if all_ended {
            // It joins the connections' threads, all of which are at their very end.
            let _ = accepting.join();
        } else {
            event(Level::Warn, TARGET, "requests are still being answered; not waiting for them").emit();
        }
        all_ended
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

/// What the accepting thread owns.
struct Acceptor {
    listeners: Vec<Listener>,
    /// Connections in use, by listener.
    slots: Vec<Arc<AtomicUsize>>,
    api: Arc<Api>,
    stop: Stop,
    spawn: Spawn,
    alive: Sender<()>,
    connections_max: usize,
    accepted: u64,
    threads: Vec<JoinHandle<()>>,
}

/// A place among the connections, given back when dropped.
struct Slot(Arc<AtomicUsize>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Acceptor {
    fn run(mut self) {
        loop {
            let fds: Vec<_> = self.listeners.iter().map(Listener::fd).collect();
            let (wake, ready) = match wait_any(&fds, PollFlags::IN, None, Some(&self.stop)) {
                Ok(woken) => woken,
                Err(error) => {
                    event(Level::Error, TARGET, "cannot wait for connections").with("error", error).emit();
                    break;
                }
            };
            if wake == Wake::Stopped {
                break;
            }
            self.join_ended();
            for index in (0..ready.len()).filter(|index| ready[*index]) {
                self.accept(index);
            }
        }
        let Self { listeners, threads, alive, .. } = self;
        // The socket's file goes before the last connection does.
        drop(listeners);
        drop(alive);
        for thread in threads {
            // A thread that panicked has ended the process.
            let _ = thread.join();
        }
    }

    fn join_ended(&mut self) {
        let (ended, running) = std::mem::take(&mut self.threads).into_iter().partition(JoinHandle::is_finished);
        self.threads = running;
        let ended: Vec<JoinHandle<()>> = ended;
        for thread in ended {
            let _ = thread.join();
        }
    }

    fn accept(&mut self, index: usize) {
        let listener = &self.listeners[index];
        let (stream, address) = match listener.accept() {
            Ok(accepted) => accepted,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => return,
            Err(error) => {
                event(Level::Warn, TARGET, "cannot accept a connection").with("error", error).emit();
                let _ = wait_any(&[], PollFlags::IN, Some(Deadline::after(ACCEPT_PAUSE)), Some(&self.stop));
                return;
            }
        };
        let peer = Peer { address, trusted: listener.is_trusted() };
        // Only this thread adds.
        if self.slots[index].load(Ordering::Acquire) >= self.connections_max {
            refuse(&stream);
            return;
        }
        self.slots[index].fetch_add(1, Ordering::AcqRel);
        let slot = Slot(Arc::clone(&self.slots[index]));
        let (api, stop, alive) = (Arc::clone(&self.api), self.stop.clone(), self.alive.clone());
        let name = format!("http-{}", self.accepted);
        self.accepted = self.accepted.wrapping_add(1);
        let work = move || {
            serve(&stream, &peer, &api, &stop);
            // The place is free only when the descriptor is.
            drop(stream);
            drop(slot);
            drop(alive);
        };
        match (self.spawn)(name, Box::new(work)) {
            Ok(thread) => self.threads.push(thread),
            Err(error) => event(Level::Error, TARGET, "cannot start a thread").with("error", error).emit(),
        }
    }
}

/// Tells a client that there are too many, without waiting for it.
fn refuse(stream: &Stream) {
    let answer = Response::errors(503, "too many connections; try again").to_bytes(true);
    // A new connection takes this much at once; if not, the client sees it closed.
    let _ = stream.write_now(&answer);
    stream.end_writing();
    let _ = stream.read_now(&mut [0; 4096]);
}
