//! One connection through the proxy: two sockets, two directions, one thread.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::OwnedFd;
use rustix::net::sockopt::set_socket_linger;
use rustix::time::Timespec;

use crate::proxy::{Faults, Shared, drain};

/// Bytes that one direction keeps while they are delayed; when it is full, the sender is slowed down by TCP.
const KEPT_MAX: usize = 4 << 20;
const READ_SIZE: usize = 64 << 10;

/// How a step of the pump left it.
enum Step {
    GoesOn,
    Ended,
    /// An end failed, or is to: both are reset.
    Reset,
}

/// What comes from one socket and goes to the other.
#[derive(Debug, Default)]
struct Direction {
    kept: VecDeque<(Instant, Vec<u8>)>,
    size: usize,
    /// The sender has closed.
    ended: bool,
    /// The receiver has been told so.
    told: bool,
    /// The first line is still coming.
    in_banner: bool,
}

impl Direction {
    fn wants_input(&self) -> bool {
        !self.ended && self.size < KEPT_MAX
    }

    fn due(&self) -> Option<Instant> {
        self.kept.front().map(|(due, _)| *due)
    }

    fn keep(&mut self, bytes: &[u8], now: Instant, faults: &Faults) {
        self.size += bytes.len();
        let mut rest = bytes;
        if self.in_banner && !faults.banner_pause.is_zero() {
            let line = rest.iter().position(|byte| *byte == b'\n').map_or(rest.len(), |end| end + 1);
            let (slow, after) = rest.split_at(line);
            let mut due = self.kept.back().map_or(now + faults.delay, |(due, _)| *due);
            for byte in slow {
                due += faults.banner_pause;
                self.kept.push_back((due, vec![*byte]));
            }
            rest = after;
        }
        if bytes.contains(&b'\n') {
            self.in_banner = false;
        }
        if !rest.is_empty() {
            // Never before what came earlier, whatever the delay was then.
            let due = self.kept.back().map_or(now, |(due, _)| *due).max(now + faults.delay);
            self.kept.push_back((due, rest.to_vec()));
        }
    }
}

/// The connection; dropped, both its sockets close.
#[derive(Debug)]
pub(crate) struct Pump {
    number: u64,
    /// The client's and the host's; direction 0 reads from socket 0 and writes to socket 1.
    sockets: [TcpStream; 2],
    directions: [Direction; 2],
    /// Forwarded so far, both ways.
    passed: u64,
    random: Random,
}

/// A small linear congruential generator: what happens to a connection depends on its number, never on the time.
#[derive(Debug)]
struct Random(u64);

impl Random {
    /// From `least` to `most`.
    fn between(&mut self, least: u64, most: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        least + (self.0 >> 33) % (most - least + 1)
    }
}

impl Pump {
    pub(crate) fn new(client: TcpStream, host: TcpStream, number: u64) -> io::Result<Self> {
        for socket in [&client, &host] {
            socket.set_nonblocking(true)?;
            socket.set_nodelay(true)?;
        }
        let down = Direction { in_banner: true, ..Direction::default() };
        let (directions, random) = ([Direction::default(), down], Random(number.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
        Ok(Self { number, sockets: [client, host], directions, passed: 0, random })
    }

    /// Until both ends have closed, one fails, or the proxy says so.
    pub(crate) fn run(&mut self, shared: &Shared, waker: &OwnedFd) {
        let mut life = ((0, 0), u64::MAX);
        loop {
            drain(waker);
            let faults = shared.faults();
            if faults.closing || self.number < faults.cut_below {
                return self.reset();
            }
            if faults.stalled {
                drop(faults);
                let mut fds = [PollFd::new(waker, PollFlags::IN)];
                let _ = poll(&mut fds, None);
                continue;
            }
            if life.0 != faults.life {
                let (least, most) = faults.life;
                let more = if most == 0 { u64::MAX } else { self.random.between(least, most) };
                life = (faults.life, self.passed.saturating_add(more));
            }
            let step = self.step(&faults, shared, life.1);
            if self.passed >= life.1 {
                shared.worn_out.fetch_add(1, Ordering::AcqRel);
                return self.reset();
            }
            drop(faults);
            match step {
                Step::GoesOn => self.wait(waker),
                Step::Ended => return,
                Step::Reset => return self.reset(),
            }
        }
    }

    /// So that closing the sockets, which follows, sends a reset.
    fn reset(&self) {
        for socket in &self.sockets {
            let _ = set_socket_linger(socket, Some(Duration::ZERO));
        }
    }

    /// Moves what can be moved now, but no byte beyond the `last`.
    fn step(&mut self, faults: &Faults, shared: &Shared, last: u64) -> Step {
        let now = Instant::now();
        for (number, direction) in self.directions.iter_mut().enumerate() {
            let (mut from, mut to) = (&self.sockets[number], &self.sockets[1 - number]);
            let mut buffer = [0_u8; READ_SIZE];
            if direction.wants_input() {
                match from.read(&mut buffer) {
                    Ok(0) => direction.ended = true,
                    Ok(length) => direction.keep(&buffer[..length], now, faults),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(_) => return Step::Reset,
                }
            }
            while let Some((due, bytes)) = direction.kept.front_mut().filter(|(due, _)| *due <= now) {
                let mut piece = bytes.len();
                if faults.piece > 0 {
                    piece = piece.min(usize::try_from(self.random.between(1, faults.piece as u64)).unwrap_or(piece));
                }
                piece = piece.min(usize::try_from(last - self.passed).unwrap_or(piece));
                if piece == 0 {
                    return Step::GoesOn;
                }
                match to.write(&bytes[..piece]) {
                    Ok(length) => {
                        shared.passed[number].fetch_add(length as u64, Ordering::AcqRel);
                        self.passed += length as u64;
                        direction.size -= length;
                        if length == bytes.len() {
                            direction.kept.pop_front();
                        } else {
                            bytes.drain(..length);
                            *due = now;
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(_) => return Step::Reset,
                }
            }
            if direction.ended && direction.kept.is_empty() && !direction.told {
                direction.told = true;
                drop(to.shutdown(Shutdown::Write));
            }
        }
        if self.directions.iter().all(|direction| direction.told) { Step::Ended } else { Step::GoesOn }
    }

    /// Until a socket is ready for what is wanted of it, something is due, or the faults change.
    fn wait(&self, waker: &OwnedFd) {
        let now = Instant::now();
        let mut limit: Option<Duration> = None;
        let mut wanted = [PollFlags::empty(); 2];
        for (number, direction) in self.directions.iter().enumerate() {
            if direction.wants_input() {
                wanted[number] |= PollFlags::IN;
            }
            match direction.due() {
                Some(due) if due <= now => wanted[1 - number] |= PollFlags::OUT,
                Some(due) => limit = Some(limit.unwrap_or(Duration::MAX).min(due - now)),
                None => {}
            }
        }
        let mut fds = vec![PollFd::new(waker, PollFlags::IN)];
        // A socket of which nothing is wanted would report its hang-up again and again.
        let pairs = self.sockets.iter().zip(wanted).filter(|(_, flags)| !flags.is_empty());
        fds.extend(pairs.map(|(socket, flags)| PollFd::new(socket, flags)));
        // A nanosecond is not waited for: rounding down would make this a busy loop just before the time.
        let limit = limit.map(|limit| Timespec::try_from(limit + Duration::from_micros(50)));
        let _ = poll(&mut fds, limit.and_then(Result::ok).as_ref());
    }
}
