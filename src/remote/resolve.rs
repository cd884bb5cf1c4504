//! What names stand for: hosts, and services.
//!
//! The system's resolver knows no deadline, so each look-up has a thread of its own, which is left alone when it takes too long. There are
//! never more than so many of them, whoever asks.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::Spawn;
use super::wake::Wake;

/// Look-ups under way.
const LOOKUPS_MAX: usize = 32;
/// Between two looks whether there is a place for one more.
const PLACE_PAUSE: Duration = Duration::from_millis(20);
/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 8;
static LOOKUPS: AtomicUsize = AtomicUsize::new(0);

/// A TCP port.
pub type Port = u16;

/// `SSHPort`: a number, or a service's name from `/etc/services`; `ssh` is known anyway.
pub fn port_number(text: &str) -> Option<Port> {
    if let Ok(number) = text.parse::<u16>() {
        return (number > 0).then_some(number);
    }
    if text == "ssh" {
        return Some(22);
    }
    let services = std::fs::read_to_string("/etc/services").ok()?;
    let entry = |line: &str| {
        let mut words = line.split('#').next()?.split_ascii_whitespace();
        let (name, port) = (words.next()?, words.next()?.strip_suffix("/tcp")?);
        (name == text || words.any(|alias| alias == text)).then(|| port.parse().ok())?
    };
    services.lines().find_map(entry)
}

/// How somebody waits, who has reasons of their own to give up.
pub trait Wait {
    type Error: From<io::Error>;

    /// Until it is ready; may return earlier.
    ///
    /// # Errors
    /// It is given up.
    fn ready(&self, wake: &Wake) -> Result<(), Self::Error>;

    /// Until then.
    ///
    /// # Errors
    /// It is given up.
    fn pause(&self, until: Instant) -> Result<(), Self::Error>;
}

/// Gives up then, with [`io::ErrorKind::TimedOut`].
#[derive(Clone, Copy, Debug)]
pub struct Deadline(pub Instant);

impl Deadline {
    fn poll(self, sources: &mut [PollFd<'_>], until: Instant) -> io::Result<()> {
        let now = Instant::now();
        if now >= self.0 {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let left = until.min(self.0).saturating_duration_since(now);
        let timeout = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(left.subsec_nanos()),
        };
        match poll(sources, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl Wait for Deadline {
    type Error = io::Error;

    fn ready(&self, wake: &Wake) -> io::Result<()> {
        self.poll(&mut [PollFd::new(wake, PollFlags::IN)], self.0)
    }

    fn pause(&self, until: Instant) -> io::Result<()> {
        self.poll(&mut [], until)
    }
}

#[derive(Debug)]
struct Lookup {
    done: Wake,
    answer: Mutex<Option<io::Result<Vec<SocketAddr>>>>,
}

/// The addresses behind a name, at least one. Numbers (an IPv6 address without brackets) need no look-up.
///
/// # Errors
/// Those of `wait`. An unknown name is [`io::ErrorKind::NotFound`], an outage of name servers [`io::ErrorKind::HostUnreachable`]; both
/// have no number of the system's.
pub fn resolve<W: Wait>(host: &str, port: Port, spawn: &Spawn, wait: &W) -> Result<Vec<SocketAddr>, W::Error> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, port)]);
    }
    let lookup = Arc::new(Lookup { done: Wake::new()?, answer: Mutex::new(None) });
    while !take_place() {
        wait.pause(Instant::now() + PLACE_PAUSE)?;
    }
    start(host, port, &lookup, spawn)?;
    while lookup.answer.lock().is_none() {
        wait.ready(&lookup.done)?;
    }
    let error = match lookup.answer.lock().take() {
        Some(Ok(found)) if !found.is_empty() => return Ok(found),
        // Not of the resolver: no descriptor, no memory.
        Some(Err(error)) if error.raw_os_error().is_some() => error,
        Some(Err(error)) => io::Error::new(kind_of(&error.to_string()), error),
        _ => io::ErrorKind::NotFound.into(),
    };
    Err(error.into())
}

/// The resolver's errors have no kind of their own: an outage of name servers passes, an unknown name is a mistake.
fn kind_of(text: &str) -> io::ErrorKind {
    if text.contains("Temporary failure") { io::ErrorKind::HostUnreachable } else { io::ErrorKind::NotFound }
}

/// True if one more may be under way; then it counts.
fn take_place() -> bool {
    let more = |count| (count < LOOKUPS_MAX).then_some(count + 1);
    LOOKUPS.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).is_ok()
}

/// Takes its place in any case.
fn start(host: &str, port: Port, lookup: &Arc<Lookup>, spawn: &Spawn) -> io::Result<()> {
    let (of_thread, host) = (lookup.clone(), host.to_owned());
    let body = move || {
        let found = (host.as_str(), port).to_socket_addrs();
        *of_thread.answer.lock() = Some(found.map(|found| found.take(ADDRESSES_MAX).collect()));
        LOOKUPS.fetch_sub(1, Ordering::AcqRel);
        of_thread.done.wake();
    };
    spawn("resolve".to_owned(), Box::new(body)).map(drop).inspect_err(|_| {
        LOOKUPS.fetch_sub(1, Ordering::AcqRel);
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deadline(millis: u64) -> Deadline {
        Deadline(Instant::now() + Duration::from_millis(millis))
    }

    #[test]
    fn kinds_of_failure() {
        let text = "failed to lookup address information: ";
        assert_eq!(kind_of(&format!("{text}Temporary failure in name resolution")), io::ErrorKind::HostUnreachable);
        assert_eq!(kind_of(&format!("{text}Name or service not known")), io::ErrorKind::NotFound);
    }

    #[test]
    fn ports() {
        assert_eq!((port_number("ssh"), port_number("2222"), port_number("0")), (Some(22), Some(2222), None));
        assert_eq!(port_number("no-such-service"), None);
    }

    /// More at once than may be under way: the others wait for a place, as long as they have time.
    #[test]
    fn many_at_once() {
        let spawn: Spawn = Arc::new(crate::shell::threads::spawn);
        std::thread::scope(|scope| {
            for _ in 0..3 * LOOKUPS_MAX {
                let spawn = &spawn;
                scope.spawn(move || resolve("localhost", 7, spawn, &deadline(120_000)).expect("known everywhere"));
            }
        });
        // All places are taken: the deadline ends the wait.
        let until = Instant::now() + Duration::from_secs(120);
        let mut taken = 0;
        while taken < LOOKUPS_MAX && Instant::now() < until {
            if take_place() {
                taken += 1;
            } else {
                std::thread::yield_now();
            }
        }
        let result = resolve("localhost", 7, &spawn, &deadline(200));
        let number = resolve("127.0.0.1", 7, &spawn, &deadline(200));
        LOOKUPS.fetch_sub(taken, Ordering::AcqRel);
        assert_eq!(result.expect_err("no place").kind(), io::ErrorKind::TimedOut);
        assert_eq!(number.expect("a number needs none").len(), 1);
    }

    #[test]
    fn names() {
        let spawn: Spawn = Arc::new(crate::shell::threads::spawn);
        let found = resolve("localhost", 7, &spawn, &deadline(120_000)).expect("known everywhere");
        assert!(found.iter().all(|address| address.ip().is_loopback() && address.port() == 7), "{found:?}");
        // Reserved for names that do not exist (RFC 6761).
        let error = resolve("nothing.invalid", 7, &spawn, &deadline(120_000)).expect_err("there is none");
        // The latter without any name server.
        assert!([io::ErrorKind::NotFound, io::ErrorKind::HostUnreachable].contains(&error.kind()), "{error}");
    }

    /// The system has no thread left: an error like others.
    #[test]
    fn no_thread() {
        let spawn: Spawn = Arc::new(|_, _| Err(rustix::io::Errno::AGAIN.into()));
        let error = resolve("localhost", 7, &spawn, &deadline(120_000)).expect_err("no thread");
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }

    /// A name server that says nothing.
    #[test]
    fn a_look_up_that_takes_too_long() {
        let (end, ended) = crossbeam_channel::bounded::<()>(0);
        let spawn: Spawn = Arc::new(move |name, body| {
            let ended = ended.clone();
            let late = move || {
                let _ = ended.recv();
                body();
            };
            crate::shell::threads::spawn(name, Box::new(late))
        });
        let error = resolve("localhost", 7, &spawn, &deadline(200)).expect_err("too late");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(end);
    }
}
