//! Where programs in Amazon's cloud get their credentials: an instance's metadata service (version 2 only), and the one that
//! containers have.

use std::io::{self, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::gate::Gate;
use crate::http::Message;
use crate::moto::{Credentials, REGION};
use crate::proxy::locked;

const ROLE: &str = "muster-role";
const ROLES: &str = "/latest/meta-data/iam/security-credentials/";
/// The session's token, which every request but the one for it has to have.
const SESSION: &str = "AQAEAtest-session-token==";
/// What a container has to show.
const CONTAINER: &str = "Bearer muster-test";
/// A client that has connected and says nothing is not waited for longer.
const PATIENCE: Duration = Duration::from_secs(20);

/// Both services on one free port of 127.0.0.1. Dropped, it ends.
#[derive(Debug)]
pub struct Metadata {
    shared: Arc<Shared>,
    address: SocketAddr,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    closing: Gate,
}

#[derive(Debug)]
struct State {
    credentials: Credentials,
    expires: SystemTime,
    /// In the place of credentials.
    fault: Option<u16>,
    /// Method and path, and the status that was answered.
    requests: Vec<(String, u16)>,
}

impl Metadata {
    /// It gives these credentials, which expire then.
    ///
    /// # Errors
    /// No socket or thread can be had.
    pub fn start(credentials: Credentials, expires_in: Duration) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let address = listener.local_addr()?;
        let expires = SystemTime::now() + expires_in;
        let state = Mutex::new(State { credentials, expires, fault: None, requests: Vec::new() });
        let shared = Arc::new(Shared { state, closing: Gate::closed() });
        let theirs = shared.clone();
        let work = move || {
            for stream in listener.incoming().flatten() {
                if theirs.closing.is_open() {
                    break;
                }
                // The client sees how it ends.
                let _ = theirs.serve(&stream);
            }
        };
        let thread = std::thread::Builder::new().name("metadata".to_owned()).spawn(work)?;
        Ok(Self { shared, address, thread: Some(thread) })
    }

    /// For `AWS_EC2_METADATA_SERVICE_ENDPOINT`: what stands in the place of `http://169.254.169.254`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// For `AWS_CONTAINER_CREDENTIALS_FULL_URI`.
    #[must_use]
    pub fn container_url(&self) -> String {
        format!("http://{}/container-credentials", self.address)
    }

    /// For `AWS_CONTAINER_AUTHORIZATION_TOKEN`, without which a container gets nothing.
    #[must_use]
    pub fn container_token(&self) -> &'static str {
        CONTAINER
    }

    /// From now on it gives these.
    pub fn renew(&self, credentials: Credentials, expires_in: Duration) {
        let mut state = locked(&self.shared.state);
        (state.credentials, state.expires) = (credentials, SystemTime::now() + expires_in);
    }

    /// From now on it answers with this status instead of credentials; `None` ends it.
    pub fn fail(&self, status: Option<u16>) {
        locked(&self.shared.state).fault = status;
    }

    /// What it was asked for so far: method, space, path; and the status that was answered.
    #[must_use]
    pub fn requests(&self) -> Vec<(String, u16)> {
        locked(&self.shared.state).requests.clone()
    }
}

impl Drop for Metadata {
    fn drop(&mut self) {
        self.shared.closing.open();
        drop(TcpStream::connect(self.address));
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

impl Shared {
    fn serve(&self, mut stream: &TcpStream) -> io::Result<()> {
        stream.set_read_timeout(Some(PATIENCE))?;
        let Some(request) = Message::read(&mut BufReader::new(stream.try_clone()?))? else { return Ok(()) };
        let mut state = locked(&self.state);
        let (status, body) = state.answer(&request);
        let asked = request.first.trim_end_matches(" HTTP/1.1").to_owned();
        state.requests.push((asked, status));
        drop(state);
        let content_type = if body.starts_with('{') { "application/json" } else { "text/plain" };
        let mut answer = Message::answer(status, content_type, body.as_bytes());
        answer.headers.push(("Connection".to_owned(), "close".to_owned()));
        stream.write_all(&answer.bytes())
    }
}

impl State {
    fn answer(&self, request: &Message) -> (u16, String) {
        let refused = |status| (status, String::new());
        let mut words = request.first.split(' ');
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        if (method, path) == ("PUT", "/latest/api/token") {
            let seconds = request.header("X-aws-ec2-metadata-token-ttl-seconds").and_then(|text| text.parse().ok());
            return seconds
                .filter(|seconds| (1..=21_600_u32).contains(seconds))
                .map_or(refused(400), |_| (200, SESSION.to_owned()));
        }
        if path == "/container-credentials" {
            let known = request.header("Authorization") == Some(CONTAINER);
            return if known { self.credentials() } else { refused(403) };
        }
        if request.header("X-aws-ec2-metadata-token") != Some(SESSION) {
            return refused(401);
        }
        match (method, path.strip_prefix(ROLES)) {
            ("GET", Some("")) => (200, ROLE.to_owned()),
            ("GET", Some(ROLE)) => self.credentials(),
            _ if (method, path) == ("GET", "/latest/meta-data/placement/region") => (200, REGION.to_owned()),
            _ => refused(404),
        }
    }

    fn credentials(&self) -> (u16, String) {
        if let Some(status) = self.fault {
            return (status, String::new());
        }
        let body = serde_json::json!({
            "Code": "Success",
            "Type": "AWS-HMAC",
            "LastUpdated": text_of(SystemTime::now()),
            "AccessKeyId": self.credentials.id,
            "SecretAccessKey": self.credentials.secret,
            "Token": self.credentials.token,
            "Expiration": text_of(self.expires),
        });
        (200, body.to_string())
    }
}

/// In the form `2026-01-31T12:00:00Z`.
fn text_of(moment: SystemTime) -> String {
    let seconds = moment.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let (mut days, second) = (seconds / 86_400, seconds % 86_400);
    let is_leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let mut year = 1970;
    while days >= 365 + u64::from(is_leap(year)) {
        days -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let february = 28 + u64::from(is_leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    let (hour, minute) = (second / 3600, second / 60 % 60);
    format!("{year}-{month:02}-{:02}T{hour:02}:{minute:02}:{:02}Z", days + 1, second % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_written_as_the_service_does() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_769_860_800, "2026-01-31T12:00:00Z"),
            (4_102_444_799, "2099-12-31T23:59:59Z"),
        ] {
            assert_eq!(text_of(UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
    }
}
