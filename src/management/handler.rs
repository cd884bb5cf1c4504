//! The layers a request passes (spec 82 §1): metrics, request id, request list, log, health, token, operation.
//! Runs on connection threads; holds a lock only to note and forget a request in the list of current ones.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use log::Level;
use parking_lot::Mutex;
use serde::Serialize;
use serde_json::json;

use super::act::{act, failure};
use super::backend::Backend;
use super::http::parse::Head;
use super::http::response::{JSON, Response};
use super::metrics::Metrics;
use super::operation::Operation;
use super::query::masked_target;
use super::records::{API_HEADER, API_VERSION};
use super::routes::{Found, OWN_PREFIX, find};
use super::token::{Token, Verdict};
use crate::log::event;

const TARGET: &str = "management";
const REQUEST_ID_CHARS_MAX: usize = 128;

/// Where a connection comes from.
#[derive(Clone, Debug)]
pub struct Peer {
    pub address: String,
    /// No token is asked for: it came through the private socket.
    pub trusted: bool,
}

/// The whole API, shared by all connections.
pub struct Api {
    backend: Arc<dyn Backend>,
    metrics: Arc<Metrics>,
    token: Token,
    current: Mutex<BTreeMap<u64, Current>>,
    counter: AtomicU64,
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Api").finish_non_exhaustive()
    }
}

/// One line of `/_inspect/requests`.
#[derive(Clone, Debug)]
struct Current {
    request_id: String,
    method: String,
    host: String,
    url: String,
    remote: String,
    forwarded_for: String,
    begun: Instant,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct CurrentRecord<'a> {
    #[serde(rename = "RequestID")]
    request_id: &'a str,
    method: &'a str,
    host: &'a str,
    #[serde(rename = "URL")]
    url: &'a str,
    remote_addr: &'a str,
    x_forwarded_for: &'a str,
    /// Seconds.
    elapsed: f64,
}

impl Api {
    pub fn new(backend: Arc<dyn Backend>, metrics: Arc<Metrics>, token: Token) -> Self {
        Self { backend, metrics, token, current: Mutex::default(), counter: AtomicU64::new(0) }
    }

    pub fn backend(&self) -> &dyn Backend {
        &*self.backend
    }

    /// Notes the request; the returned exchange forgets it when it is dropped.
    pub fn begin<'a>(&'a self, head: &'a Head, peer: &'a Peer) -> Exchange<'a> {
        let number = self.counter.fetch_add(1, Ordering::Relaxed);
        let text = |name| head.header(name).unwrap_or_default().to_owned();
        let given = head.header("x-request-id").filter(|id| {
            !id.is_empty() && id.len() <= REQUEST_ID_CHARS_MAX && id.bytes().all(|byte| byte.is_ascii_graphic())
        });
        let current = Current {
            request_id: given.map_or_else(|| new_request_id(number), str::to_owned),
            method: head.method.clone(),
            host: text("host"),
            url: masked_target(&head.path, &head.query),
            remote: peer.address.clone(),
            forwarded_for: text("x-forwarded-for"),
            begun: Instant::now(),
        };
        self.current.lock().insert(number, current.clone());
        Exchange { api: self, head, peer, number, current }
    }

    fn metrics_answer(&self, as_json: bool) -> Response {
        let (requests, oldest) = {
            let current = self.current.lock();
            (current.len(), current.values().next().map(|one| one.begun.elapsed()))
        };
        self.metrics.set_requests(requests, oldest.unwrap_or_default());
        let gauges = self.backend.gauges();
        if as_json {
            Response::json(200, &self.metrics.json(&gauges))
        } else {
            Response::new(200, "text/plain; version=0.0.4", self.metrics.text(&gauges))
        }
    }

    fn inspect(&self) -> Response {
        let current: Vec<Current> = self.current.lock().values().cloned().collect();
        let records: Vec<CurrentRecord<'_>> = current
            .iter()
            .map(|one| CurrentRecord {
                request_id: &one.request_id,
                method: &one.method,
                host: &one.host,
                url: &one.url,
                remote_addr: &one.remote,
                x_forwarded_for: &one.forwarded_for,
                elapsed: one.begun.elapsed().as_secs_f64(),
            })
            .collect();
        Response::json(200, &records)
    }
}

/// Unique enough to find one request in two logs; the random part tells processes apart.
fn new_request_id(number: u64) -> String {
    let mut random = [0_u8; 8];
    // Without random numbers the counter still tells the requests of this process apart.
    let _ = getrandom::fill(&mut random);
    format!("req-{:016x}{number:04x}", u64::from_ne_bytes(random))
}

/// One request from head to answer.
#[derive(Debug)]
pub struct Exchange<'a> {
    api: &'a Api,
    head: &'a Head,
    peer: &'a Peer,
    number: u64,
    current: Current,
}

impl Drop for Exchange<'_> {
    fn drop(&mut self) {
        self.api.current.lock().remove(&self.number);
    }
}

impl Exchange<'_> {
    /// The answer for a request that is settled by its head alone; `None` = read its body, then call
    /// [`answer`](Self::answer). Nobody without a token gets a body read.
    pub fn admit(&self) -> Option<Response> {
        let (head, api) = (self.head, self.api);
        let reads = head.method == "GET" || head.method == "HEAD";
        match head.path.as_str() {
            "/metrics" | "/metrics.json" if reads => {
                let open = api.token.is_empty();
                let refused = if open { None } else { self.refuse_by_token() };
                Some(refused.unwrap_or_else(|| api.metrics_answer(head.path.ends_with(".json"))))
            }
            "/_inspect/requests" if reads => Some(match self.bearer() {
                Verdict::Granted => api.inspect(),
                _ => Response::errors(401, "unauthorized"),
            }),
            "/_health/ping" if reads => Some(self.health()),
            _ => self.refuse_by_token().or_else(|| self.refuse_by_version()),
        }
    }

    /// The answer for a request that was admitted.
    pub fn answer(&self, body: &[u8]) -> Response {
        let head = self.head;
        match find(&head.method, &head.path) {
            Found::Route(route, segment) => match Operation::parse(route, &segment, &head.query, body) {
                Ok(operation) => act(operation, self.api.backend()),
                Err(error) => failure(&error),
            },
            Found::WrongMethod(allowed) => self.plain_failure(405, "Method Not Allowed").with("Allow", allowed),
            Found::Moved(path) => {
                let query = if head.query.is_empty() { String::new() } else { format!("?{}", head.query) };
                let status = if head.method == "GET" { 301 } else { 308 };
                Response { status, headers: Vec::new(), body: Vec::new() }.with("Location", path + &query)
            }
            Found::Nothing => self.plain_failure(404, "404 page not found"),
        }
    }

    /// Counts and logs the answer, and adds the headers that all answers carry.
    pub fn finish(&self, response: Response) -> Response {
        let elapsed = self.current.begun.elapsed();
        if !matches!(self.head.path.as_str(), "/metrics" | "/metrics.json") {
            self.api.metrics.request(&self.head.method, response.status, elapsed);
        }
        let level = if response.status >= 400 { Level::Info } else { Level::Debug };
        event(level, TARGET, "request answered")
            .with("RequestID", &self.current.request_id)
            .with("Remote", &self.current.remote)
            .with("Method", &self.current.method)
            .with("URL", &self.current.url)
            .with("Status", response.status)
            .with("Bytes", response.body.len())
            .with("Duration", crate::core::effect::seconds(elapsed))
            .emit();
        let response = response.with("X-Request-Id", self.current.request_id.clone());
        if self.is_own() { response.with(API_HEADER, API_VERSION.to_string()) } else { response }
    }

    fn is_own(&self) -> bool {
        self.head.path.starts_with(OWN_PREFIX)
    }

    /// Text as Arvados' dispatcher answers, JSON below our own paths.
    fn plain_failure(&self, status: u16, text: &str) -> Response {
        if self.is_own() { Response::errors(status, text) } else { Response::text(status, &format!("{text}\n")) }
    }

    fn refuse_by_token(&self) -> Option<Response> {
        if self.peer.trusted {
            return None;
        }
        match self.api.token.check(self.head) {
            Verdict::Granted => None,
            Verdict::Missing => Some(self.plain_failure(401, "Unauthorized")),
            Verdict::Wrong => Some(self.plain_failure(403, "Forbidden")),
            Verdict::Disabled => Some(self.plain_failure(403, "Management API authentication is not configured")),
        }
    }

    /// A missing header is accepted, for scripts.
    fn refuse_by_version(&self) -> Option<Response> {
        let name = API_HEADER.to_ascii_lowercase();
        let wanted = self.head.headers(&name).next().map(String::from_utf8_lossy)?;
        if !self.is_own() || wanted == API_VERSION.to_string() {
            return None;
        }
        let wanted: String = wanted.chars().take(16).collect();
        Some(Response::errors(
            400,
            &format!(
                "the request is for version {wanted} of the management API, this daemon speaks version {API_VERSION}: \
                 use the same version of muster for both"
            ),
        ))
    }

    fn bearer(&self) -> Verdict {
        if self.peer.trusted { Verdict::Granted } else { self.api.token.check_bearer(self.head) }
    }

    /// Spec 82 §4.
    fn health(&self) -> Response {
        match self.bearer() {
            Verdict::Disabled => Response::text(404, "disabled\n"),
            Verdict::Missing => Response::text(401, "authorization required\n"),
            Verdict::Wrong => Response::text(403, "authorization error\n"),
            Verdict::Granted => match self.api.backend.health() {
                Ok(()) => Response::new(200, JSON, "{\"health\":\"OK\"}\n"),
                Err(error) => Response::json(200, &json!({"error": error, "health": "ERROR"})),
            },
        }
    }
}
