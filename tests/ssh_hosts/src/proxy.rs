//! A TCP proxy with faults, between a client and a host.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::fd::{AsFd, OwnedFd};

use crate::pump::Pump;

/// What a connection is to do now; every connection reads it anew after each wake-up.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    /// How long each piece is kept, in either direction.
    pub(crate) delay: Duration,
    /// Time between the bytes of the server's first line.
    pub(crate) banner_pause: Duration,
    /// What passes is broken into pieces of 1 to so many bytes; 0: as it comes.
    pub(crate) piece: usize,
    /// Connections are reset after so many bytes, drawn between the two; none if that is 0.
    pub(crate) life: (u64, u64),
    /// Nothing is read or written.
    pub(crate) stalled: bool,
    /// New connections are closed at once.
    pub(crate) refusing: bool,
    /// Connections with a smaller number are reset.
    pub(crate) cut_below: u64,
    /// The proxy ends.
    pub(crate) closing: bool,
}

/// What the threads share.
#[derive(Debug)]
pub(crate) struct Shared {
    target: SocketAddr,
    faults: RwLock<Faults>,
    wakers: Mutex<Vec<Arc<OwnedFd>>>,
    accepted: AtomicU64,
    pub(crate) open: AtomicUsize,
    /// Connections whose bytes were used up.
    pub(crate) worn_out: AtomicU64,
    /// Bytes that have gone from clients to the host, and back.
    pub(crate) passed: [AtomicU64; 2],
}

impl Shared {
    /// Held during each step, so that a setting holds for everything after the call that made it.
    pub(crate) fn faults(&self) -> RwLockReadGuard<'_, Faults> {
        self.faults.read().unwrap_or_else(PoisonError::into_inner)
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes whoever polls this descriptor look at the faults again.
fn wake(waker: &OwnedFd) {
    let _ = rustix::io::write(waker, &1_u64.to_ne_bytes());
}

/// A proxy on a free loopback port: one thread, and one for each connection. Dropped, it resets what is connected and joins
/// its threads. Settings hold for new and for present connections.
#[derive(Debug)]
pub struct FaultProxy {
    shared: Arc<Shared>,
    address: SocketAddr,
    waker: Arc<OwnedFd>,
    acceptor: Option<JoinHandle<()>>,
}

impl FaultProxy {
    /// Forwards to `target`, an address with its port like [`crate::SshHost::address`].
    ///
    /// # Errors
    /// The target is no address; no socket or thread can be had.
    pub fn start(target: &str) -> io::Result<Self> {
        let parsed = target.parse().map_err(|error| {
            io::Error::new(io::ErrorKind::InvalidInput, format!("the proxy's target {target:?}: {error}"))
        })?;
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let waker = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let shared = Arc::new(Shared {
            target: parsed,
            faults: RwLock::default(),
            wakers: Mutex::new(vec![waker.clone()]),
            accepted: AtomicU64::new(0),
            open: AtomicUsize::new(0),
            worn_out: AtomicU64::new(0),
            passed: Default::default(),
        });
        let (theirs, waker_of_acceptor) = (shared.clone(), waker.clone());
        let acceptor = std::thread::Builder::new()
            .name("proxy".to_owned())
            .spawn(move || accept_all(&listener, &theirs, &waker_of_acceptor))?;
        Ok(Self { shared, address, waker, acceptor: Some(acceptor) })
    }

    /// Where clients connect: `127.0.0.1:PORT`.
    #[must_use]
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Connections accepted so far, refused ones too.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.shared.accepted.load(Ordering::Acquire)
    }

    /// Connections that are open now.
    #[must_use]
    pub fn open_connections(&self) -> usize {
        self.shared.open.load(Ordering::Acquire)
    }

    /// Bytes forwarded so far: from clients to the host, from the host to clients.
    #[must_use]
    pub fn bytes(&self) -> (u64, u64) {
        let [up, down] = &self.shared.passed;
        (up.load(Ordering::Acquire), down.load(Ordering::Acquire))
    }

    fn set(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.shared.faults.write().unwrap_or_else(PoisonError::into_inner));
        locked(&self.shared.wakers).iter().for_each(|waker| wake(waker));
    }

    /// Everything arrives this much later, in each direction; what is under way keeps its time. Zero ends it.
    pub fn delay(&self, delay: Duration) {
        self.set(|faults| faults.delay = delay);
    }

    /// Nothing is forwarded any more and nothing closed, until [`FaultProxy::resume`]. New connections are accepted by the
    /// kernel and hang.
    pub fn stall(&self) {
        self.set(|faults| faults.stalled = true);
    }

    /// Resets (RST) all present connections, at both ends. New ones are served.
    pub fn cut(&self) {
        let next = self.connections();
        self.set(|faults| faults.cut_below = next);
    }

    /// Closes each new connection at once, until [`FaultProxy::resume`].
    pub fn refuse(&self) {
        self.set(|faults| faults.refusing = true);
    }

    /// The host's first line (an SSH server's banner) comes byte by byte, with this pause before each. For new connections.
    pub fn slow_banner(&self, pause: Duration) {
        self.set(|faults| faults.banner_pause = pause);
    }

    /// Whatever passes is broken into pieces of random lengths, 1 to `most` bytes, each a segment of its own. 0 ends it.
    pub fn chop(&self, most: usize) {
        self.set(|faults| faults.piece = most);
    }

    /// Each connection, present ones too, is reset (RST) once so many bytes have passed in it, both directions together: a number
    /// drawn for it from `least` to `most`. Until [`FaultProxy::resume`].
    pub fn wear_out(&self, least: u64, most: u64) {
        self.set(|faults| faults.life = (least.max(1), most.max(least.max(1))));
    }

    /// How many connections [`FaultProxy::wear_out`] has ended.
    #[must_use]
    pub fn worn_out(&self) -> u64 {
        self.shared.worn_out.load(Ordering::Acquire)
    }

    /// Ends all faults; what was stalled goes on.
    pub fn resume(&self) {
        self.set(|faults| {
            *faults = Faults { cut_below: faults.cut_below, closing: faults.closing, ..Faults::default() }
        });
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.set(|faults| faults.closing = true);
        wake(&self.waker);
        if let Some(acceptor) = self.acceptor.take() {
            drop(acceptor.join());
        }
    }
}

/// The proxy's thread: accepts until the end, then joins the connections' threads.
fn accept_all(listener: &TcpListener, shared: &Arc<Shared>, waker: &OwnedFd) {
    let mut threads: Vec<JoinHandle<()>> = Vec::new();
    loop {
        // Emptied before the faults are read: a setting that comes between is not missed.
        drain(waker);
        threads.retain(|thread| !thread.is_finished());
        let faults = shared.faults();
        if faults.closing {
            break;
        }
        if faults.stalled {
            drop(faults);
            let mut fds = [PollFd::new(waker, PollFlags::IN)];
            let _ = poll(&mut fds, None);
            continue;
        }
        let accepted = listener.accept();
        let number = shared.accepted.load(Ordering::Acquire);
        if accepted.is_ok() {
            shared.accepted.store(number + 1, Ordering::Release);
        }
        let refusing = faults.refusing;
        drop(faults);
        match accepted {
            Ok(_) if refusing => {}
            Ok((client, _)) => threads.extend(serve(client, number, shared.clone())),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let socket = listener.as_fd();
                let mut fds = [PollFd::new(waker, PollFlags::IN), PollFd::new(&socket, PollFlags::IN)];
                let _ = poll(&mut fds, None);
            }
            // The client has gone again, or descriptors are short: the next one may fare better.
            Err(_) => std::thread::yield_now(),
        }
    }
    for thread in threads {
        drop(thread.join());
    }
}

/// Empties an event descriptor, so that the next poll waits.
pub(crate) fn drain(waker: &OwnedFd) {
    let _ = rustix::io::read(waker, &mut [0_u8; 8]);
}

/// Starts the thread of one connection; without a thread or an event descriptor the client is closed.
fn serve(client: TcpStream, number: u64, shared: Arc<Shared>) -> Option<JoinHandle<()>> {
    let waker = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).ok()?);
    locked(&shared.wakers).push(waker.clone());
    shared.open.fetch_add(1, Ordering::AcqRel);
    let work = move || {
        if let Ok(host) = TcpStream::connect_timeout(&shared.target, Duration::from_secs(30))
            && let Ok(mut pump) = Pump::new(client, host, number)
        {
            pump.run(&shared, &waker);
        }
        shared.open.fetch_sub(1, Ordering::AcqRel);
        locked(&shared.wakers).retain(|other| !Arc::ptr_eq(other, &waker));
    };
    std::thread::Builder::new().name(format!("proxy-{number}")).spawn(work).ok()
}
