//! A daemon of canned answers behind a real listener, and a client that speaks bytes.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use muster::core::ids::{ContainerUuid, InstanceId};
use muster::core::vocabulary::IdleBehavior;
use muster::management::arvados::{InstanceRecord, QueueEntryRecord};
use muster::management::backend::{ApiError, Backend, Gauges, ListQuery, LogChunk, LogQuery};
use muster::management::metrics::{DEFAULT_PREFIX, Metrics};
use muster::management::records::{
    API_VERSION, Backup, Batch, Commit, ContainerDetail, ContainerList, InstanceRow, InstanceTypeList, Outcomes,
    Selection, Status, Submission, Submitted, Version, Wait, WaitAnswer,
};
use muster::management::server::{Server, ServerOptions, Spawn};
use muster::management::token::Token;

pub(crate) const TOKEN: &str = "abcdefgh";
pub(crate) const UUID: &str = "zzzzz-dz642-aaaaaaaaaaaaaa1";
/// Far above what a loaded machine needs: only a hanging test waits for it.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// Notes what it was asked to do.
#[derive(Debug, Default)]
pub(crate) struct Fake {
    pub(crate) calls: Mutex<Vec<String>>,
    pub(crate) sick: Mutex<Option<String>>,
    pub(crate) gauges: Mutex<Gauges>,
    /// Waits are begun, and whether they must end.
    waiting: Mutex<(usize, bool)>,
    changed: Condvar,
}

impl Fake {
    fn note(&self, call: String) {
        self.calls.lock().unwrap().push(call);
    }

    pub(crate) fn last_call(&self) -> String {
        self.calls.lock().unwrap().last().cloned().unwrap_or_default()
    }

    /// Returns when that many calls wait.
    pub(crate) fn until_waiting(&self, count: usize) {
        let guard = self.waiting.lock().unwrap();
        let (_guard, timeout) = self.changed.wait_timeout_while(guard, LIMIT, |state| state.0 < count).unwrap();
        assert!(!timeout.timed_out(), "no call waits");
    }
}

impl Backend for Fake {
    fn version(&self) -> Version {
        Version { version: "9.9".to_owned(), api: API_VERSION, ..Version::default() }
    }
    fn status(&self) -> Result<Status, ApiError> {
        Err(ApiError::unavailable("the disk is full"))
    }
    fn list(&self, query: &ListQuery) -> Result<ContainerList, ApiError> {
        self.note(format!("{query:?}"));
        Ok(ContainerList::default())
    }
    fn submit(&self, submission: Submission) -> Result<Submitted, ApiError> {
        self.note(format!("submit {}", submission.records.len()));
        Ok(Submitted { uuids: vec![UUID.to_owned()] })
    }
    fn show(&self, uuid: &ContainerUuid) -> Result<ContainerDetail, ApiError> {
        Err(ApiError::not_found(format!("there is no container {uuid}")))
    }
    fn logs(&self, query: &LogQuery) -> Result<LogChunk, ApiError> {
        self.note(format!("{query:?}"));
        Ok(LogChunk { bytes: b"a\0b\n".to_vec(), next_offset: query.offset + 4, end: true, attempt: 2 })
    }
    fn cancel(&self, selection: &Selection) -> Result<Outcomes, ApiError> {
        self.note(format!("cancel {selection:?}"));
        Ok(Outcomes::default())
    }
    fn set_priority(&self, selection: &Selection) -> Result<Outcomes, ApiError> {
        self.note(format!("priority {:?}", selection.priority));
        Ok(Outcomes::default())
    }
    fn rerun(&self, _: &Selection) -> Result<Outcomes, ApiError> {
        Err(ApiError::conflict("it runs"))
    }
    fn wait(&self, wait: &Wait) -> Result<WaitAnswer, ApiError> {
        let mut guard = self.waiting.lock().unwrap();
        guard.0 += 1;
        self.changed.notify_all();
        let limit = Duration::from_secs_f64(wait.wait_s);
        drop(self.changed.wait_timeout_while(guard, limit, |state| !state.1).unwrap());
        Ok(WaitAnswer::default())
    }
    fn create_batch(&self) -> Result<Batch, ApiError> {
        Ok(Batch { batch: "b1".to_owned() })
    }
    fn append_batch(&self, batch: &str, lines: Vec<u8>) -> Result<u64, ApiError> {
        let count = lines.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n")).count();
        self.note(format!("append {batch} {count}"));
        Ok(count as u64)
    }
    fn commit_batch(&self, batch: &str, commit: Commit) -> Result<Submitted, ApiError> {
        self.note(format!("commit {batch} {:?}", commit.token));
        Ok(Submitted::default())
    }
    fn instance_types(&self) -> Result<InstanceTypeList, ApiError> {
        Ok(InstanceTypeList::default())
    }
    fn reset_instance_type(&self, name: &str) -> Result<(), ApiError> {
        self.note(format!("reset {name}"));
        Ok(())
    }
    fn backup(&self, backup: &Backup) -> Result<(), ApiError> {
        self.note(format!("backup {}", backup.file));
        Ok(())
    }
    fn queue_entries(&self) -> Option<Vec<QueueEntryRecord>> {
        None
    }
    fn queue_entry(&self, _: &ContainerUuid) -> Option<QueueEntryRecord> {
        None
    }
    fn kill_container(&self, uuid: &ContainerUuid, reason: &str) -> Result<bool, ApiError> {
        self.note(format!("kill {uuid} {reason}"));
        Ok(uuid.as_str() == UUID)
    }
    fn instances(&self) -> Vec<InstanceRecord> {
        ["i-2", "i-1"]
            .map(|id| InstanceRecord {
                instance: id.to_owned(),
                address: String::new(),
                price: 0.123,
                arvados_instance_type: "type1".to_owned(),
                provider_instance_type: "p1".to_owned(),
                last_container_uuid: String::new(),
                last_busy: "0001-01-01T00:00:00Z".to_owned(),
                running_container_uuids: Some(Vec::new()),
                worker_state: "idle",
                idle_behavior: "run",
            })
            .to_vec()
    }
    fn unlisted_instances(&self) -> Vec<InstanceRow> {
        let row = InstanceRow {
            instance: "i-11".to_owned(),
            worker_state: "unreachable".to_owned(),
            detail: "no route".to_owned(),
            ..InstanceRow::default()
        };
        vec![row]
    }
    fn set_idle_behavior(&self, instance: &InstanceId, behavior: IdleBehavior) -> bool {
        self.note(format!("{behavior} {instance}"));
        instance.as_str() == "i-1"
    }
    fn kill_instance(&self, instance: &InstanceId, reason: &str) -> bool {
        self.note(format!("kill {instance} {reason}"));
        instance.as_str() == "i-1"
    }
    fn health(&self) -> Result<(), String> {
        self.sick.lock().unwrap().clone().map_or(Ok(()), Err)
    }
    fn gauges(&self) -> Gauges {
        self.gauges.lock().unwrap().clone()
    }
    fn stop_waiting(&self) {
        self.waiting.lock().unwrap().1 = true;
        self.changed.notify_all();
    }
}

/// A listener with its fake daemon.
pub(crate) struct Peer {
    pub(crate) server: Server,
    pub(crate) fake: Arc<Fake>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) address: SocketAddr,
    pub(crate) socket: PathBuf,
    _folder: tempfile::TempDir,
}

pub(crate) fn start_with(token: &str, connections_max: usize) -> Peer {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("muster.sock");
    let fake = Arc::new(Fake::default());
    let metrics = Arc::new(Metrics::new(DEFAULT_PREFIX, "9.9").unwrap());
    let spawn: Spawn = Arc::new(|name, work| std::thread::Builder::new().name(name).spawn(work));
    let options = ServerOptions {
        tcp: vec!["127.0.0.1:0".to_owned()],
        socket: Some(socket.clone()),
        token: Token::new(token),
        connections_max,
    };
    let backend: Arc<dyn Backend> = Arc::<Fake>::clone(&fake);
    let server = Server::start(options, backend, Arc::clone(&metrics), spawn).unwrap();
    let address = server.local_addr().unwrap();
    Peer { server, fake, metrics, address, socket, _folder: folder }
}

pub(crate) fn start() -> Peer {
    start_with(TOKEN, 64)
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let line = self
            .head
            .lines()
            .find(|line| line.to_ascii_lowercase().starts_with(&format!("{}:", name.to_ascii_lowercase())))?;
        Some(line[name.len() + 1..].trim())
    }

    pub(crate) fn is(&self, status: u16, body: &str) {
        assert_eq!((self.status, self.body.as_str()), (status, body), "{self:?}");
    }
}

/// Bytes to and from a listener.
pub(crate) struct Client<S>(pub(crate) S);

impl Peer {
    pub(crate) fn connect(&self) -> Client<TcpStream> {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        Client(stream)
    }

    pub(crate) fn connect_unix(&self) -> Client<UnixStream> {
        let stream = UnixStream::connect(&self.socket).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        Client(stream)
    }

    /// One request with the token on a connection of its own.
    pub(crate) fn ask(&self, method: &str, target: &str, body: &str) -> Answer {
        self.ask_with(method, target, &format!("Authorization: Bearer {TOKEN}\r\n"), body)
    }

    pub(crate) fn ask_with(&self, method: &str, target: &str, headers: &str, body: &str) -> Answer {
        let mut client = self.connect();
        client.send(&format!("{method} {target} HTTP/1.1\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len()));
        client.answer(method == "HEAD")
    }
}

impl<S: Read + Write> Client<S> {
    pub(crate) fn send(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).unwrap();
    }

    /// As much of it as the peer reads: it closes at last when it has refused, and a busy machine may not be done by then.
    pub(crate) fn send_while_read(&mut self, text: &str) {
        match self.0.write_all(text.as_bytes()) {
            Err(error) if [ErrorKind::BrokenPipe, ErrorKind::ConnectionReset].contains(&error.kind()) => {}
            sent => sent.unwrap(),
        }
    }

    fn line(&mut self) -> String {
        let mut line = Vec::new();
        let mut byte = [0];
        while !line.ends_with(b"\n") {
            assert_eq!(self.0.read(&mut byte).unwrap(), 1, "closed after {:?}", String::from_utf8_lossy(&line));
            line.push(byte[0]);
        }
        String::from_utf8(line).unwrap()
    }

    pub(crate) fn head(&mut self) -> String {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            head.push_str(&self.line());
        }
        head
    }

    pub(crate) fn answer(&mut self, head_only: bool) -> Answer {
        let head = self.head();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let mut answer = Answer { status, head, body: String::new() };
        if !head_only {
            let mut body = vec![0; answer.header("Content-Length").unwrap().parse().unwrap()];
            self.0.read_exact(&mut body).unwrap();
            answer.body = String::from_utf8(body).unwrap();
        }
        answer
    }

    /// The peer has closed, and sent nothing more.
    pub(crate) fn is_closed(&mut self) -> bool {
        !matches!(self.0.read(&mut [0; 1]), Ok(1..))
    }
}
