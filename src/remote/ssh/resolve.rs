//! What names stand for: hosts, and services.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::event::PollFlags;

use super::Spawn;
use super::wait::{Interrupt, Waiter};
use crate::remote::wake::Wake;

/// Look-ups under way: each has a thread, and the system's resolver knows no deadline.
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

#[derive(Debug)]
struct Lookup {
    done: Wake,
    answer: Mutex<Option<io::Result<Vec<SocketAddr>>>>,
}

/// The addresses behind a name, at least one. Numbers need no look-up; names are looked up in a thread of their own, which
/// is left alone when it takes too long.
///
/// # Errors
/// An unknown name is [`io::ErrorKind::NotFound`].
pub(super) fn resolve(
    host: &str,
    port: Port,
    spawn: &Spawn,
    waiter: &Waiter<'_>,
) -> Result<Vec<SocketAddr>, Interrupt> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, port)]);
    }
    let lookup = Arc::new(Lookup { done: Wake::new().map_err(Interrupt::Io)?, answer: Mutex::new(None) });
    while !take_place() {
        waiter.pause(Instant::now() + PLACE_PAUSE)?;
    }
    start(host, port, &lookup, spawn).map_err(Interrupt::Io)?;
    while lookup.answer.lock().is_none() {
        waiter.poll(&lookup.done, PollFlags::IN, None)?;
    }
    match lookup.answer.lock().take() {
        Some(Ok(found)) if !found.is_empty() => Ok(found),
        // Not of the resolver: no descriptor, no memory.
        Some(Err(error)) if error.raw_os_error().is_some() => Err(Interrupt::Io(error)),
        Some(Err(error)) => Err(Interrupt::Io(io::Error::new(kind_of(&error.to_string()), error))),
        _ => Err(Interrupt::Io(io::ErrorKind::NotFound.into())),
    }
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
    use crate::remote::ssh::wait::Closing;

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
        let closing = Closing::new().expect("a descriptor");
        let spawn: Spawn = Arc::new(crate::shell::threads::spawn);
        std::thread::scope(|scope| {
            for _ in 0..3 * LOOKUPS_MAX {
                let waiter = Waiter { closing: &closing, deadline: Instant::now() + Duration::from_secs(120) };
                let spawn = &spawn;
                scope.spawn(move || resolve("localhost", 7, spawn, &waiter).expect("known everywhere"));
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
        let waiter = Waiter { closing: &closing, deadline: Instant::now() + Duration::from_millis(200) };
        let result = resolve("localhost", 7, &spawn, &waiter);
        LOOKUPS.fetch_sub(taken, Ordering::AcqRel);
        assert!(matches!(result, Err(Interrupt::Deadline)), "{result:?}");
    }

    #[test]
    fn names() {
        let closing = Closing::new().expect("a descriptor");
        let waiter = Waiter { closing: &closing, deadline: Instant::now() + Duration::from_secs(60) };
        let spawn: Spawn = Arc::new(crate::shell::threads::spawn);
        let found = resolve("localhost", 7, &spawn, &waiter).expect("known everywhere");
        assert!(found.iter().all(|address| address.ip().is_loopback() && address.port() == 7), "{found:?}");
        // Reserved for names that do not exist (RFC 6761).
        match resolve("nothing.invalid", 7, &spawn, &waiter) {
            // The latter without any name server.
            Err(Interrupt::Io(error)) => {
                assert!([io::ErrorKind::NotFound, io::ErrorKind::HostUnreachable].contains(&error.kind()), "{error}");
            }
            other => panic!("{other:?}"),
        }
    }
}
