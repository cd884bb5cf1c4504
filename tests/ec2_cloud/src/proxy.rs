//! A proxy before the API: it records calls and does to them what a test wants.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use crate::api::{self, ApiError};
use crate::calls::Call;
use crate::eventual::Eventual;
use crate::fault::{Rule, RuleHandle, Rules};
use crate::gate::{Gate, Watched};
use crate::moto::Moto;
use crate::serve::serve;
use crate::xml::Element;

/// A price of spot instances from some moment on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spot {
    /// `t3.micro` and the like.
    pub instance_type: String,
    /// `us-east-1a` and the like.
    pub zone: String,
    /// As it is written in the answer; `0.0123`.
    pub price: String,
    /// As it is written in the answer: `2026-01-31T12:00:00.000Z`.
    pub timestamp: String,
}

impl Spot {
    pub(crate) fn element(&self) -> Element {
        let children = vec![
            Element::new("instanceType", &self.instance_type),
            Element::new("productDescription", "Linux/UNIX"),
            Element::new("spotPrice", &self.price),
            Element::new("timestamp", &self.timestamp),
            Element::new("availabilityZone", &self.zone),
        ];
        Element::with("item", children)
    }
}

/// What the threads share.
#[derive(Debug)]
pub(crate) struct Shared {
    /// The server's port.
    pub(crate) target: u16,
    pub(crate) calls: Watched<Vec<Call>>,
    pub(crate) rules: Mutex<Rules>,
    pub(crate) eventual: Mutex<Eventual>,
    /// Counts calls that may have changed something; the server's own counter.
    pub(crate) changes: Arc<Watched<u64>>,
    /// Open when the proxy ends.
    pub(crate) closing: Gate,
    /// The clients' connections.
    sockets: Mutex<Vec<TcpStream>>,
}

pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A proxy on a free port of 127.0.0.1. Without rules it only records. Dropped, it lets go of all it holds and closes what is
/// connected. All methods may be called from any thread, and hold for calls that come after them.
#[derive(Debug)]
pub struct Ec2Proxy {
    shared: Arc<Shared>,
    address: SocketAddr,
    acceptor: Option<JoinHandle<()>>,
}

impl Ec2Proxy {
    /// Before this server.
    ///
    /// # Errors
    /// No socket or thread can be had.
    pub fn start(moto: &Moto) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            target: moto.port(),
            calls: Watched::default(),
            rules: Mutex::default(),
            eventual: Mutex::default(),
            changes: moto.changes.clone(),
            closing: Gate::closed(),
            sockets: Mutex::default(),
        });
        let theirs = shared.clone();
        let acceptor =
            std::thread::Builder::new().name("ec2-proxy".to_owned()).spawn(move || accept_all(&listener, &theirs))?;
        Ok(Self { shared, address, acceptor: Some(acceptor) })
    }

    /// `http://127.0.0.1:PORT`, for `Endpoint`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A call of the test's own by way of the proxy, with all that happens there, but without a signature.
    ///
    /// # Errors
    /// It is refused; or, with status 0, no whole answer comes.
    pub fn call(&self, action: &str, parameters: &[(&str, &str)]) -> Result<Element, ApiError> {
        api::call(self.address.port(), "ec2", "2016-11-15", action, parameters)
    }

    /// One more rule, after those that hold already.
    pub fn rule(&self, rule: Rule) -> RuleHandle {
        locked(&self.shared.rules).add(rule)
    }

    /// No rule holds any more. What is held stays held.
    pub fn clear_rules(&self) {
        locked(&self.shared.rules).clear();
    }

    /// A new instance is not in the next so many lists (default: it is).
    pub fn appear_after(&self, lists: usize) {
        locked(&self.shared.eventual).appears_after = lists;
    }

    /// A terminated instance is in the next so many lists as if it ran, if it was in one while it did (default: it is not).
    pub fn linger_for(&self, lists: usize) {
        locked(&self.shared.eventual).lingers_for = lists;
    }

    /// So many entries on a page, whatever the client asks for (default: all). For instances these are reservations.
    pub fn page_size(&self, entries: Option<usize>) {
        locked(&self.shared.eventual).page_size = entries;
    }

    /// The last page has an empty token instead of none (default: none).
    pub fn empty_last_token(&self, empty: bool) {
        locked(&self.shared.eventual).empty_token = empty;
    }

    /// What spot instances cost, in the order of the answer; moto would say 0.00001 of everything and since 2006.
    pub fn spot_prices(&self, prices: Vec<Spot>) {
        locked(&self.shared.eventual).spot_prices = Some(prices);
    }

    /// All calls of an action so far, those too that were refused or are held; `*` is any.
    #[must_use]
    pub fn calls(&self, action: &str) -> Vec<Call> {
        self.shared.calls.with(|calls| select(calls, action))
    }

    /// Waits until there have been so many calls of an action; gives all of them.
    ///
    /// # Panics
    /// There are fewer after some minutes.
    #[must_use]
    pub fn wait_for_calls(&self, action: &str, count: usize) -> Vec<Call> {
        self.wait_until(action, count, |_| true)
    }

    /// Waits until the server has answered so many calls of an action, whether or not the client has its answer.
    ///
    /// # Panics
    /// As [`Ec2Proxy::wait_for_calls`].
    #[must_use]
    pub fn wait_for_forwarded(&self, action: &str, count: usize) -> Vec<Call> {
        self.wait_until(action, count, |call| call.forwarded && call.status.is_some())
    }

    /// Waits until so many calls of an action are over.
    ///
    /// # Panics
    /// As [`Ec2Proxy::wait_for_calls`].
    #[must_use]
    pub fn wait_for_finished(&self, action: &str, count: usize) -> Vec<Call> {
        self.wait_until(action, count, |call| call.finished)
    }

    fn wait_until(&self, action: &str, count: usize, counts: impl Fn(&Call) -> bool) -> Vec<Call> {
        let found = self.shared.calls.wait_for(|calls| {
            let mut chosen = select(calls, action);
            chosen.retain(&counts);
            (chosen.len() >= count).then_some(chosen)
        });
        let seen = || self.calls("*").into_iter().map(|call| (call.action, call.status)).collect::<Vec<_>>();
        found.unwrap_or_else(|| panic!("waited for {count} calls of {action}; there were {:?}", seen()))
    }

    /// Client tokens are fresh for each create: none was seen twice.
    ///
    /// # Panics
    /// One was.
    pub fn assert_fresh_client_tokens(&self) {
        let calls = self.calls("RunInstances");
        let mut tokens: Vec<&str> = calls.iter().filter_map(|call| call.parameter("ClientToken")).collect();
        tokens.sort_unstable();
        let twice = tokens.windows(2).find(|pair| pair[0] == pair[1]);
        assert_eq!(twice, None, "a client token was used for two creates");
    }

    /// Closes all connections of clients now, as EC2 does with those that have been idle for long.
    pub fn close_connections(&self) {
        for socket in locked(&self.shared.sockets).drain(..) {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Ec2Proxy {
    fn drop(&mut self) {
        self.shared.closing.open();
        locked(&self.shared.rules).open_gates();
        // It may be waiting for a client: this is one.
        drop(TcpStream::connect(self.address));
        if let Some(acceptor) = self.acceptor.take() {
            drop(acceptor.join());
        }
    }
}

fn select(calls: &[Call], action: &str) -> Vec<Call> {
    calls.iter().filter(|call| action == "*" || call.action == action).cloned().collect()
}

/// The proxy's thread: accepts until the end, then ends the connections' threads.
fn accept_all(listener: &TcpListener, shared: &Arc<Shared>) {
    let mut threads: Vec<JoinHandle<()>> = Vec::new();
    for (number, client) in listener.incoming().enumerate() {
        if shared.closing.is_open() {
            break;
        }
        threads.retain(|thread| !thread.is_finished());
        let Ok(client) = client else {
            // The client has gone again, or descriptors are short: the next one may fare better.
            std::thread::yield_now();
            continue;
        };
        let Ok(copy) = client.try_clone() else { continue };
        locked(&shared.sockets).push(copy);
        let theirs = shared.clone();
        let work = move || {
            let peer = client.peer_addr().ok();
            // The client sees how it ends; a test sees it in the call.
            let _ = serve(&theirs, &client, number);
            let _ = client.shutdown(Shutdown::Both);
            // A socket without a peer is dead.
            locked(&theirs.sockets).retain(|other| other.peer_addr().is_ok_and(|other| Some(other) != peer));
        };
        threads.extend(std::thread::Builder::new().name(format!("ec2-{number}")).spawn(work));
    }
    for socket in locked(&shared.sockets).drain(..) {
        let _ = socket.shutdown(Shutdown::Both);
    }
    for thread in threads {
        drop(thread.join());
    }
}
