//! What the proxy is to do to which calls.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::calls::Call;
use crate::gate::Gate;

/// What happens to a call.
#[derive(Clone, Debug)]
pub enum Fault {
    /// EC2 refuses: an error in its form. Not forwarded.
    Error {
        /// Such as 503.
        status: u16,
        /// Such as `RequestLimitExceeded`.
        code: String,
        /// The message.
        message: String,
    },
    /// Another answer. Not forwarded.
    Answer {
        /// Its status.
        status: u16,
        /// `text/xml` and the like.
        content_type: String,
        /// Its body.
        body: String,
    },
    /// Forwarded, so the effect is there; then another answer comes.
    AnswerAfter {
        /// Its status.
        status: u16,
        /// `text/xml` and the like.
        content_type: String,
        /// Its body.
        body: String,
    },
    /// Forwarded; then the connection ends after so many bytes of the answer, its head included. 0: nothing comes.
    CutAfter(usize),
    /// Forwarded; the answer comes when the test opens the gate.
    HoldAnswer(Gate),
    /// Forwarded only when the test opens the gate.
    HoldRequest(Gate),
    /// Forwarded; the answer comes in pieces of so many bytes with a pause before each.
    Trickle {
        /// Bytes.
        piece: usize,
        /// Before each piece.
        pause: Duration,
    },
    /// The connection ends at once. Not forwarded.
    Drop,
    /// Nothing ever comes. Not forwarded.
    Hang,
    /// Forwarded, so the effect is there, and nothing ever comes.
    HangAfter,
}

impl Fault {
    /// An error of EC2's, with the status that it has there: 503 for limits and lack of capacity, else 400.
    #[must_use]
    pub fn error(code: &str, message: &str) -> Self {
        let of_server = ["RequestLimitExceeded", "Unavailable", "InsufficientInstanceCapacity", "ServiceUnavailable"];
        let status = match code {
            "InternalError" | "InternalFailure" => 500,
            _ if of_server.contains(&code) => 503,
            _ => 400,
        };
        Self::Error { status, code: code.to_owned(), message: message.to_owned() }
    }

    /// Status 200 and this as XML.
    #[must_use]
    pub fn xml(body: &str) -> Self {
        Self::Answer { status: 200, content_type: "text/xml;charset=UTF-8".to_owned(), body: body.to_owned() }
    }

    /// A page of HTML, as a proxy or a load balancer in the way gives it.
    #[must_use]
    pub fn html(status: u16) -> Self {
        let body = format!("<html><head><title>{status}</title></head><body><h1>{status}</h1><hr></body></html>");
        Self::Answer { status, content_type: "text/html".to_owned(), body }
    }
}

/// Which calls something happens to: those of one action that have all the parameters; of them, first some that are spared, then
/// some that are hit.
#[derive(Clone, Debug)]
pub struct Rule {
    action: String,
    parameters: Vec<(String, String)>,
    spared: usize,
    hit: usize,
    fault: Fault,
}

impl Rule {
    /// All calls of an action; `*` is any.
    #[must_use]
    pub fn on(action: &str, fault: Fault) -> Self {
        Self { action: action.to_owned(), parameters: Vec::new(), spared: 0, hit: usize::MAX, fault }
    }

    /// Only those with this parameter, whose name may be the last part: `SubnetId` is also `NetworkInterface.1.SubnetId`.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.parameters.push((name.to_owned(), value.to_owned()));
        self
    }

    /// But not the first so many.
    #[must_use]
    pub fn after(mut self, spared: usize) -> Self {
        self.spared = spared;
        self
    }

    /// And only so many (default: all).
    #[must_use]
    pub fn times(mut self, hit: usize) -> Self {
        self.hit = hit;
        self
    }

    fn fits(&self, call: &Call) -> bool {
        let action = self.action == "*" || self.action == call.action;
        action && self.parameters.iter().all(|(name, value)| call.has(name, value))
    }
}

/// A rule that holds. It stays when this is dropped.
#[derive(Clone, Debug)]
pub struct RuleHandle {
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    seen: AtomicUsize,
    removed: AtomicBool,
    hits: AtomicUsize,
}

impl RuleHandle {
    /// Calls that it has hit.
    #[must_use]
    pub fn hits(&self) -> usize {
        self.state.hits.load(Ordering::Acquire)
    }

    /// From now on it hits no more. What it holds is still held.
    pub fn remove(&self) {
        self.state.removed.store(true, Ordering::Release);
    }
}

/// All rules, in the order in which they were added.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    rules: Vec<(Rule, Arc<State>)>,
}

impl Rules {
    pub(crate) fn add(&mut self, rule: Rule) -> RuleHandle {
        let state = Arc::new(State::default());
        self.rules.push((rule, state.clone()));
        RuleHandle { state }
    }

    pub(crate) fn clear(&mut self) {
        self.rules.iter().for_each(|(_, state)| state.removed.store(true, Ordering::Release));
    }

    /// So that nothing waits any more.
    pub(crate) fn open_gates(&self) {
        for (rule, _) in &self.rules {
            if let Fault::HoldAnswer(gate) | Fault::HoldRequest(gate) = &rule.fault {
                gate.open();
            }
        }
    }

    /// What happens to a call: the first rule that hits it decides, and later ones do not count it.
    pub(crate) fn judge(&self, call: &Call) -> Option<Fault> {
        for (rule, state) in &self.rules {
            if state.removed.load(Ordering::Acquire) || !rule.fits(call) {
                continue;
            }
            let before = state.seen.fetch_add(1, Ordering::AcqRel);
            if before >= rule.spared && before - rule.spared < rule.hit {
                state.hits.fetch_add(1, Ordering::AcqRel);
                return Some(rule.fault.clone());
            }
        }
        None
    }
}
