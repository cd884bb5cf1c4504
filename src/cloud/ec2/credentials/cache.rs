//! Keeps credentials until five minutes before they end, so that no request starts with some that end on its way (spec 42 §1).
//!
//! One thread at a time looks for new ones, in a call of its own. Meanwhile the others go on with the old ones as long as those are
//! good, and wait only when there are none. If new ones cannot be had the old ones serve to their end; that is logged once.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::chain::Source;
use super::{Credentials, Lifetime};
use crate::cloud::ec2::environment::WallClock;
use crate::cloud::ec2::query::QueryError;
use crate::core::effect::{Level, Note};
use crate::core::errors::chain;
use crate::core::time::WallMillis;

/// New ones are looked for so long before the end.
const RENEW_BEFORE: Duration = Duration::from_secs(300);
/// A file may have been replaced after this time.
const REREAD_AFTER: Duration = Duration::from_secs(300);
/// So long the old ones serve before new ones are looked for again: no call shall wait for a dead service each time.
const RETRY_AFTER: Duration = Duration::from_secs(10);
/// So long an error stands for all that ask: the calls that waited would find the same, one after the other.
const FAILURE_STANDS: Duration = Duration::from_secs(3);

/// Credentials for whoever calls; from any thread.
#[derive(Debug)]
pub struct Cache {
    source: Box<dyn Source>,
    clock: WallClock,
    /// Held for moments only.
    state: Mutex<State>,
    /// Held by the one that looks, for as long as that takes (the source has its limits). The state's lock is taken inside it.
    looking: Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    held: Option<Held>,
    failure: Option<Failure>,
    warned: bool,
}

#[derive(Clone, Debug)]
struct Held {
    credentials: Arc<Credentials>,
    /// When the source was asked last, whatever it said.
    looked_at: WallMillis,
    /// `None`: never.
    look_again_at: Option<WallMillis>,
}

#[derive(Clone, Debug)]
struct Failure {
    at: WallMillis,
    text: String,
}

/// What the state has for a caller.
enum Look {
    Good(Arc<Credentials>),
    /// Good, but new ones are to be looked for.
    Due(Arc<Credentials>),
    Failed(String),
    None,
}

fn millis(duration: Duration) -> WallMillis {
    WallMillis::try_from(duration.as_millis()).unwrap_or(WallMillis::MAX)
}

fn is_good(credentials: &Credentials, now: WallMillis) -> bool {
    match credentials.lifetime {
        Lifetime::Until(end) => now < end,
        Lifetime::Fixed | Lifetime::Reread => true,
    }
}

impl State {
    fn look(&self, now: WallMillis) -> Look {
        match self.held.as_ref().filter(|held| is_good(&held.credentials, now)) {
            Some(held) if held.look_again_at.is_some_and(|at| at <= now) => Look::Due(Arc::clone(&held.credentials)),
            Some(held) => Look::Good(Arc::clone(&held.credentials)),
            None => match &self.failure {
                // A clock that was set back must not make an error stand for hours.
                Some(failure) if (0..millis(FAILURE_STANDS)).contains(&(now - failure.at)) => {
                    Look::Failed(failure.text.clone())
                }
                _ => Look::None,
            },
        }
    }

    /// Returns whether it was warned that there were no new ones.
    fn hold(&mut self, credentials: Arc<Credentials>, now: WallMillis) -> bool {
        let look_again_at = match credentials.lifetime {
            Lifetime::Fixed => None,
            Lifetime::Reread => Some(now + millis(REREAD_AFTER)),
            // What the service has may itself be about to end: then it is asked again soon, not at each call.
            Lifetime::Until(end) => Some((end - millis(RENEW_BEFORE)).max(now + millis(RETRY_AFTER))),
        };
        let held = Some(Held { credentials, looked_at: now, look_again_at });
        std::mem::replace(self, Self { held, failure: None, warned: false }).warned
    }
}

impl Cache {
    pub fn new(source: impl Source + 'static, clock: WallClock) -> Self {
        let (state, looking) = (Mutex::default(), Mutex::default());
        Self { source: Box::new(source), clock, state, looking }
    }

    /// Credentials that are good now. May look for them, which takes as long as the source allows itself.
    ///
    /// # Errors
    /// There are none, and why.
    pub fn get(&self) -> Result<Arc<Credentials>, QueryError> {
        let old = match self.look() {
            Look::Good(credentials) => return Ok(credentials),
            Look::Failed(text) => return Err(QueryError::other(text)),
            Look::Due(credentials) => Some(credentials),
            Look::None => None,
        };
        let _looking = match old {
            None => self.looking.lock(),
            Some(old) => match self.looking.try_lock() {
                Some(guard) => guard,
                None => return Ok(old),
            },
        };
        // Somebody else may have looked while we came to the lock.
        match self.look() {
            Look::Good(credentials) => Ok(credentials),
            Look::Failed(text) => Err(QueryError::other(text)),
            Look::Due(_) | Look::None => self.renew(),
        }
    }

    /// The service has refused them: look for new ones soon, unless they are fixed. Not at each call: what refuses all of them need not
    /// have to do with credentials, and each look may cost seconds.
    pub fn doubt(&self) {
        let now = self.clock.now();
        if let Some(held) = &mut self.state.lock().held {
            // A clock that was set back must not make it wait for hours.
            let soon = (held.looked_at + millis(RETRY_AFTER)).min(now + millis(RETRY_AFTER));
            held.look_again_at = held.look_again_at.map(|at| at.min(soon));
        }
    }

    /// See [`Source::stop`]. What is held goes on serving.
    pub fn stop(&self) {
        self.source.stop();
    }

    fn look(&self) -> Look {
        self.state.lock().look(self.clock.now())
    }

    fn renew(&self) -> Result<Arc<Credentials>, QueryError> {
        let result = self.source.find();
        let now = self.clock.now();
        let error = match result {
            Ok(credentials) if is_good(&credentials, now) => {
                let credentials = Arc::new(credentials);
                let had_warned = self.state.lock().hold(Arc::clone(&credentials), now);
                if had_warned {
                    crate::log::write_note(&Note::new(Level::Info, "cloud", "credentials renewed"));
                }
                return Ok(credentials);
            }
            Ok(_) => QueryError::other("the credentials that came have ended already: check this host's time"),
            Err(error) => error,
        };
        let mut state = self.state.lock();
        let Some(held) = state.held.as_mut().filter(|held| is_good(&held.credentials, now)) else {
            state.failure = Some(Failure { at: now, text: chain(&error) });
            return Err(error);
        };
        (held.looked_at, held.look_again_at) = (now, Some(now + millis(RETRY_AFTER)));
        let credentials = Arc::clone(&held.credentials);
        let is_first = !std::mem::replace(&mut state.warned, true);
        drop(state);
        if is_first {
            let note = Note::new(Level::Warn, "cloud", "cannot renew credentials; going on with the old ones");
            crate::log::write_note(&note.with("error", chain(&error)));
        }
        Ok(credentials)
    }
}

#[cfg(test)]
mod tests;
