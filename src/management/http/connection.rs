//! One connection, from accept to close: reads requests in turn, has each answered, writes the answers. Runs on the
//! connection's own thread; every wait in it is bounded.

use std::io;
use std::time::Duration;

use super::parse::{Chunks, Framing, Head, Refusal, head_end, parse_head};
use super::response::Response;
use super::stream::{Deadline, Stop, Stream};
use super::{BODY_TIME_MAX, HEAD_BYTES_MAX, HEAD_TIME_MAX, IDLE_TIME_MAX, WRITE_TIME_MAX};
use crate::management::handler::{Api, Peer};

/// Bytes read at once.
const READ_BYTES: usize = 16 * 1024;
/// Answers below this go out in one piece with their head; larger ones are not copied for that.
const JOINED_BYTES_MAX: usize = 64 * 1024;

/// How long, and for how many bytes, a connection that ends still reads: more than the largest body.
const LINGER: Duration = Duration::from_secs(5);
const LINGER_BYTES: usize = 12 * 1024 * 1024;

/// Why no further request is read.
enum End {
    /// The peer left, was silent for too long, or the server stops: nobody waits for an answer.
    Quiet,
    /// Say this first.
    Refused(Refusal),
}

impl From<io::Error> for End {
    fn from(_: io::Error) -> Self {
        Self::Quiet
    }
}

/// Bytes of the connection that were read and not used yet.
struct Reader<'a> {
    stream: &'a Stream,
    stop: &'a Stop,
    bytes: Vec<u8>,
}

/// Serves until the peer, a limit or the stop ends it.
pub fn serve(stream: &Stream, peer: &Peer, api: &Api, stop: &Stop) {
    let mut reader = Reader { stream, stop, bytes: Vec::new() };
    let mut first = true;
    loop {
        let end = match reader.read_head(first) {
            Ok(head) => match exchange(&mut reader, &head, peer, api) {
                Ok(true) => {
                    first = false;
                    continue;
                }
                Ok(false) => End::Quiet,
                Err(end) => end,
            },
            Err(end) => end,
        };
        if let End::Refused(refusal) = end {
            let bytes = Response::from(&refusal).to_bytes(true);
            let _ = stream.write_all(&bytes, Deadline::after(WRITE_TIME_MAX), stop);
        }
        break;
    }
    close(stream, stop);
}

/// Ends the connection so that the last answer arrives: closing with unread bytes would take it back, and a client may be in the
/// middle of sending a body that was refused. Ends with the peer's end, [`LINGER`], [`LINGER_BYTES`] or the stop.
fn close(stream: &Stream, stop: &Stop) {
    stream.end_writing();
    let deadline = Deadline::after(LINGER);
    let mut rest = [0; READ_BYTES];
    let mut bytes = 0;
    while bytes < LINGER_BYTES {
        match stream.read_some(&mut rest, deadline, stop) {
            Ok(read @ 1..) => bytes += read,
            _ => return,
        }
    }
}

/// Answers one request; whether another one may follow.
fn exchange(reader: &mut Reader<'_>, head: &Head, peer: &Peer, api: &Api) -> Result<bool, End> {
    let exchange = api.begin(head, peer);
    let mut keep = head.keep_alive;
    let response = match exchange.admit() {
        Some(response) => {
            // Its body was not read, so what follows is not the next request.
            keep &= head.framing == Framing::Length(0);
            response
        }
        None => match reader.read_body(head) {
            Ok(body) => exchange.answer(&body),
            Err(End::Refused(refusal)) => {
                keep = false;
                Response::from(&refusal)
            }
            Err(End::Quiet) => return Err(End::Quiet),
        },
    };
    let keep = keep && !reader.stop.is_told();
    let response = exchange.finish(response);
    let (stream, stop, deadline) = (reader.stream, reader.stop, Deadline::after(WRITE_TIME_MAX));
    if head.method == "HEAD" {
        stream.write_all(&response.head(!keep), deadline, stop)?;
    } else if response.body.len() < JOINED_BYTES_MAX {
        stream.write_all(&response.to_bytes(!keep), deadline, stop)?;
    } else {
        stream.write_all(&response.head(!keep), deadline, stop)?;
        stream.write_all(&response.body, deadline, stop)?;
    }
    Ok(keep)
}

impl Reader<'_> {
    /// Reads once more; `Ok(false)` is the peer's end.
    fn fill(&mut self, deadline: Deadline) -> io::Result<bool> {
        let mut buffer = [0; READ_BYTES];
        let count = self.stream.read_some(&mut buffer, deadline, self.stop)?;
        self.bytes.extend_from_slice(&buffer[..count]);
        Ok(count > 0)
    }

    fn read_head(&mut self, first: bool) -> Result<Head, End> {
        let mut deadline = Deadline::after(if first { HEAD_TIME_MAX } else { IDLE_TIME_MAX });
        let mut searched = 0;
        let mut begun = first;
        loop {
            if searched == 0 {
                // Empty lines before a request are allowed.
                let blank = self.bytes.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
                self.bytes.drain(..blank);
            }
            if let Some(end) = head_end(&self.bytes, searched) {
                if end > HEAD_BYTES_MAX {
                    return Err(End::Refused(Refusal::head_too_large()));
                }
                let head: Vec<u8> = self.bytes.drain(..end).collect();
                return parse_head(&head).map_err(End::Refused);
            }
            if self.bytes.len() > HEAD_BYTES_MAX {
                return Err(End::Refused(Refusal::head_too_large()));
            }
            searched = self.bytes.len();
            if searched > 0 && !begun {
                begun = true;
                deadline = Deadline::after(HEAD_TIME_MAX);
            }
            match self.fill(deadline) {
                Ok(true) => {}
                Err(error) if error.kind() == io::ErrorKind::TimedOut && searched > 0 => {
                    return Err(End::Refused(Refusal::new(408, "the headers did not arrive in time")));
                }
                Ok(false) | Err(_) => return Err(End::Quiet),
            }
        }
    }

    fn read_body(&mut self, head: &Head) -> Result<Vec<u8>, End> {
        let deadline = Deadline::after(BODY_TIME_MAX);
        if head.expects_continue && head.framing != Framing::Length(0) && self.bytes.is_empty() {
            self.stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n", deadline, self.stop)?;
        }
        match head.framing {
            Framing::Length(length) => {
                while self.bytes.len() < length {
                    self.fill_body(deadline)?;
                }
                Ok(self.bytes.drain(..length).collect())
            }
            Framing::Chunked => {
                let mut chunks = Chunks::default();
                loop {
                    let taken = chunks.feed(&self.bytes).map_err(End::Refused)?;
                    self.bytes.drain(..taken);
                    if chunks.is_done() {
                        return Ok(chunks.into_body());
                    }
                    self.fill_body(deadline)?;
                }
            }
        }
    }

    fn fill_body(&mut self, deadline: Deadline) -> Result<(), End> {
        match self.fill(deadline) {
            Ok(true) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                Err(End::Refused(Refusal::new(408, "the body did not arrive in time")))
            }
            Ok(false) | Err(_) => Err(End::Quiet),
        }
    }
}
