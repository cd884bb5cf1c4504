//! A gate that a test opens: what waits at it goes on then.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::LIMIT;

/// Closed when it is made; once open, it stays so. Clones are the same gate.
#[derive(Clone, Debug, Default)]
pub struct Gate {
    inner: Arc<(Mutex<bool>, Condvar)>,
}

impl Gate {
    /// A closed one.
    #[must_use]
    pub fn closed() -> Self {
        Self::default()
    }

    /// Whoever waits goes on, and whoever comes later does not wait.
    pub fn open(&self) {
        *self.inner.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.inner.1.notify_all();
    }

    /// Whether it is open by now.
    #[must_use]
    pub fn is_open(&self) -> bool {
        *self.inner.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Until it is open, but not longer than `limit`; whether it is.
    pub(crate) fn wait_for(&self, limit: Duration) -> bool {
        let guard = self.inner.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (guard, _) =
            self.inner.1.wait_timeout_while(guard, limit, |open| !*open).unwrap_or_else(PoisonError::into_inner);
        *guard
    }

    /// Until it is open.
    ///
    /// # Panics
    /// Nobody opens it for minutes.
    pub fn wait(&self) {
        assert!(self.wait_for(LIMIT), "a gate that nobody opens");
    }
}

/// A value that changes, and that others wait for.
#[derive(Debug, Default)]
pub(crate) struct Watched<T> {
    value: Mutex<T>,
    changed: Condvar,
}

impl<T> Watched<T> {
    /// Looks at it or changes it; who waits looks again.
    pub(crate) fn with<R>(&self, work: impl FnOnce(&mut T) -> R) -> R {
        let result = work(&mut self.value.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_all();
        result
    }

    /// Until `wanted` gives something; `None` after some minutes.
    pub(crate) fn wait_for<R>(&self, mut wanted: impl FnMut(&mut T) -> Option<R>) -> Option<R> {
        let deadline = Instant::now() + LIMIT;
        let mut value = self.value.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(found) = wanted(&mut value) {
                return Some(found);
            }
            let left = deadline.checked_duration_since(Instant::now())?;
            value = self.changed.wait_timeout(value, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
