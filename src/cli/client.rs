//! The client of the management API: one request per connection, over the daemon's socket or its address.
//!
//! One page on `httparse` serves both; a client library would need a transport of ours for the socket all the same.

use std::cell::Cell;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Global;
use super::exit::Failure;
use super::locate::{Location, location};
use crate::core::units::format_duration;
use crate::management::records::{API_HEADER, API_VERSION};

/// Answers are lists of at most 10,000 containers, or a piece of a log.
const ANSWER_BYTES_MAX: u64 = 256 * 1024 * 1024;
const HEADERS_MAX: usize = 64;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait of a request is 30 s.
const READ_TIMEOUT: Duration = Duration::from_secs(90);
/// A copy of a large queue, and a million containers in one transaction, take as long as the disk does.
const WRITE_TIMEOUT: Duration = Duration::from_secs(600);
const DISK_TIMEOUT: Duration = Duration::from_secs(3600);
/// A daemon that is being restarted is waited for this long by commands that wait anyway.
const RESTART_PATIENCE: Duration = Duration::from_secs(120);

/// A connection, what to call it, and the token to send over it.
type Connection<'a> = (Box<dyn Stream>, String, Option<&'a str>);

pub(super) trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

/// An answer of any status.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) reason: String,
    headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
    /// Where it came from: `host:port`, or the socket's path.
    pub(super) peer: String,
}

impl Answer {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub(super) fn success(self) -> Result<Self, Failure> {
        match self.status {
            200..=299 => Ok(self),
            404 => Err(Failure::NotFound(self.message())),
            _ => Err(Failure::Failed(self.message())),
        }
    }

    /// The server's text of a failure.
    pub(super) fn message(&self) -> String {
        let errors = serde_json::from_slice::<serde_json::Value>(&self.body).ok();
        let errors = errors.as_ref().and_then(|value| value["errors"].as_array());
        match errors {
            Some(errors) => errors.iter().filter_map(|error| error.as_str()).collect::<Vec<_>>().join("; "),
            None => String::from_utf8_lossy(&self.body).trim().to_owned(),
        }
    }
}

/// A request that was sent, and where its answer comes from.
pub(super) struct Sent {
    pub(super) stream: Box<dyn Stream>,
    written: io::Result<()>,
    timeout: Duration,
    pub(super) peer: String,
    /// What was sent may have been done: a submission is safe to repeat with a token.
    doubt: &'static str,
}

impl Sent {
    pub(super) fn broke(&self, why: &str) -> Failure {
        Failure::Unreachable(format!("the connection to the daemon at {} broke: {why}{}", self.peer, self.doubt))
    }

    pub(super) fn no_daemon(&self) -> Failure {
        Failure::Unreachable(format!("what answers at {} is no muster daemon, or was cut off{}", self.peer, self.doubt))
    }

    /// Reads at most so much of the answer. What there is counts, whatever went wrong after it: a refusal may come before all was written,
    /// and it says more than the broken pipe.
    pub(super) fn read(&mut self, bytes_max: u64) -> Result<Vec<u8>, Failure> {
        let mut bytes = Vec::new();
        let read = Read::by_ref(&mut self.stream).take(bytes_max).read_to_end(&mut bytes).map(drop);
        let written = std::mem::replace(&mut self.written, Ok(()));
        match written.and(read) {
            _ if !bytes.is_empty() => Ok(bytes),
            Ok(()) => Err(self.broke("it ended without an answer")),
            Err(error) => Err(self.broke(&self.why(&error))),
        }
    }

    pub(super) fn why(&self, error: &io::Error) -> String {
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                format!("no answer came within {}", format_duration(self.timeout))
            }
            _ => error.to_string(),
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Client {
    location: Location,
    /// A request was answered.
    reached: Cell<bool>,
}

impl Client {
    /// Where the daemon serves, as `host:port`; its socket if that is not known.
    pub(super) fn address(&self) -> String {
        self.location.addresses.first().cloned().unwrap_or_else(|| self.location.socket.display().to_string())
    }

    pub(super) fn new(global: &Global) -> Result<Self, Failure> {
        Ok(Self { location: location(global)?, reached: Cell::new(false) })
    }

    /// An answer whatever its status, except for refused tokens and versions.
    pub(super) fn send(&self, method: &str, path: &str, body: &[u8]) -> Result<Answer, Failure> {
        let mut sent = self.begin(method, path, body)?;
        let bytes = sent.read(ANSWER_BYTES_MAX)?;
        let answer = parse(&bytes, &sent.peer).ok_or_else(|| sent.no_daemon())?;
        self.accept(answer)
    }

    /// Sends a request.
    pub(super) fn begin(&self, method: &str, path: &str, body: &[u8]) -> Result<Sent, Failure> {
        let timeout = match method {
            _ if path.ends_with("/backup") || path.ends_with("/commit") => DISK_TIMEOUT,
            // It may wait behind a large submission, or be one.
            "POST" => WRITE_TIMEOUT,
            _ => READ_TIMEOUT,
        };
        let (mut stream, peer, token) = self.connect(timeout)?;
        let doubt = if method == "POST" { "; the request may have been carried out all the same" } else { "" };
        let authorization = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: muster\r\n{authorization}{API_HEADER}: {API_VERSION}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            body.len()
        );
        let written = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
        Ok(Sent { stream, written, timeout, peer, doubt })
    }

    /// The daemon was there; whether we may talk to it.
    pub(super) fn accept(&self, answer: Answer) -> Result<Answer, Failure> {
        self.reached.set(true);
        self.refuse(answer)
    }

    fn connect(&self, read_timeout: Duration) -> Result<Connection<'_>, Failure> {
        let socket = &self.location.socket;
        let mut tried = vec![socket.display().to_string()];
        match UnixStream::connect(socket) {
            Ok(stream) => {
                stream.set_read_timeout(Some(read_timeout))?;
                stream.set_write_timeout(Some(READ_TIMEOUT))?;
                return Ok((Box::new(stream), socket.display().to_string(), None));
            }
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied && self.location.token.is_none() => {
                let text = format!(
                    "no permission for the daemon's socket {}: run as its owner, or with sudo",
                    socket.display()
                );
                return Err(Failure::Unreachable(text));
            }
            Err(_) => {}
        }
        for address in &self.location.addresses {
            tried.push(format!("http://{address}"));
            if let Some(stream) = connect_tcp(address, read_timeout) {
                return Ok((Box::new(stream), address.clone(), self.location.token.as_deref()));
            }
        }
        let tried = tried.join(" and ");
        Err(Failure::Unreachable(format!(
            "the daemon cannot be reached at {tried}; start it with `muster daemon` (or `systemctl start muster`)"
        )))
    }

    fn refuse(&self, answer: Answer) -> Result<Answer, Failure> {
        match answer.status {
            401 | 403 => Err(Failure::Failed(format!(
                "the daemon at {} does not accept our token: set ManagementToken in the configuration, or be able to read {}",
                answer.peer,
                self.location.token_file.display()
            ))),
            _ if answer.header(API_HEADER).is_some_and(|version| version.trim() != API_VERSION.to_string()) => {
                let version = answer.header(API_HEADER).unwrap_or_default();
                Err(Failure::Failed(format!(
                    "this muster ({}) speaks version {API_VERSION} of the API, the daemon at {} version {version}: they do not fit",
                    env!("CARGO_PKG_VERSION"),
                    answer.peer
                )))
            }
            400 if answer.message().contains(API_HEADER) => Err(Failure::Failed(format!(
                "this muster ({}) and the daemon do not fit: {}",
                env!("CARGO_PKG_VERSION"),
                answer.message()
            ))),
            _ => Ok(answer),
        }
    }

    /// A request below `/muster/v1/` that must succeed.
    pub(super) fn call(&self, method: &str, path: &str, body: &[u8]) -> Result<Answer, Failure> {
        self.send(method, &format!("/muster/v1/{path}"), body)?.success()
    }

    pub(super) fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        decode(&self.call("GET", path, b"")?)
    }

    pub(super) fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, Failure> {
        let body =
            serde_json::to_vec(body).map_err(|error| Failure::Failed(format!("cannot write the request: {error}")))?;
        decode(&self.call("POST", path, &body)?)
    }

    /// For a command that waits anyway: a daemon that is being restarted is waited for. `notice` is called once.
    pub(super) fn patiently<T>(
        &self,
        mut request: impl FnMut(&Self) -> Result<T, Failure>,
        notice: impl Fn(&str),
    ) -> Result<T, Failure> {
        let mut since = None;
        loop {
            match request(self) {
                // Never reached: then there is nothing to wait for.
                Err(Failure::Unreachable(text)) if !self.reached.get() => return Err(Failure::Unreachable(text)),
                Err(Failure::Unreachable(text)) => {
                    let began = *since.get_or_insert_with(|| {
                        notice("the daemon does not answer; waiting for it to come back");
                        Instant::now()
                    });
                    if began.elapsed() > RESTART_PATIENCE {
                        return Err(Failure::Unreachable(text));
                    }
                    std::thread::park_timeout(Duration::from_millis(200));
                }
                other => return other,
            }
        }
    }
}

fn decode<T: DeserializeOwned>(answer: &Answer) -> Result<T, Failure> {
    serde_json::from_slice(&answer.body).map_err(|error| {
        Failure::Failed(format!("the answer of the daemon at {} is not understood: {error}", answer.peer))
    })
}

fn connect_tcp(address: &str, read_timeout: Duration) -> Option<TcpStream> {
    let addresses = address.to_socket_addrs().ok()?;
    let stream =
        addresses.into_iter().find_map(|address| TcpStream::connect_timeout(&address, CONNECT_TIMEOUT).ok())?;
    stream.set_read_timeout(Some(read_timeout)).ok()?;
    stream.set_write_timeout(Some(READ_TIMEOUT)).ok()?;
    Some(stream)
}

/// A whole answer; `None` for anything else.
fn parse(bytes: &[u8], peer: &str) -> Option<Answer> {
    let (answer, length) = parse_head(bytes, peer)?;
    let length = length.unwrap_or(answer.body.len() as u64);
    (answer.body.len() as u64 >= length).then_some(answer)
}

/// An answer with as much of its body as is there, and the length that its head says.
pub(super) fn parse_head(bytes: &[u8], peer: &str) -> Option<(Answer, Option<u64>)> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(start) = response.parse(bytes).ok()? else {
        return None;
    };
    let headers: Vec<(String, String)> = response
        .headers
        .iter()
        .map(|header| (header.name.to_owned(), String::from_utf8_lossy(header.value).into_owned()))
        .collect();
    let (status, reason) = (response.code?, response.reason.unwrap_or_default().to_owned());
    let answer = Answer { status, reason, headers, body: bytes.get(start..)?.to_vec(), peer: peer.to_owned() };
    // Our daemon always says the length.
    if answer.header("Transfer-Encoding").is_some() {
        return None;
    }
    let length = answer.header("Content-Length").map(|text| text.trim().parse()).transpose().ok()?;
    Some((answer, length))
}

/// A text as part of a query string or path.
pub(super) fn encode(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => encoded.push(char::from(byte)),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers() {
        let whole =
            b"HTTP/1.1 404 Not Found\r\nContent-Length: 24\r\nMuster-End: true\r\n\r\n{\"errors\": [\"a\", \"b\"]}\n\n";
        let answer = parse(whole, "here").expect("whole");
        assert_eq!((answer.status, answer.reason.as_str(), answer.message().as_str()), (404, "Not Found", "a; b"));
        assert_eq!(answer.header("muster-end"), Some("true"));
        for cut in 0..whole.len() - 1 {
            assert!(parse(&whole[..cut], "here").is_none(), "cut at {cut}");
        }
        assert!(parse(b"SSH-2.0-OpenSSH_9.2\r\n", "here").is_none());
    }

    #[test]
    fn encoding() {
        assert_eq!(encode("a b*/ü~"), "a%20b%2A%2F%C3%BC~");
    }
}
