//! The one token that ends loops: every loop selects on it, and it never comes back.

use std::convert::Infallible;

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded};

/// Held by whoever decides; dropping it is the stop.
#[derive(Debug)]
pub struct StopSource {
    _sender: Sender<Infallible>,
    token: Stop,
}

/// Held by whoever must end. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Stop(Receiver<Infallible>);

impl StopSource {
    pub fn new() -> Self {
        let (sender, receiver) = bounded(0);
        Self { _sender: sender, token: Stop(receiver) }
    }

    pub fn token(&self) -> Stop {
        self.token.clone()
    }
}

impl Default for StopSource {
    fn default() -> Self {
        Self::new()
    }
}

impl Stop {
    /// Becomes ready (disconnected) when the stop was asked for: for `select!`.
    pub fn channel(&self) -> &Receiver<Infallible> {
        &self.0
    }

    pub fn is_stopped(&self) -> bool {
        matches!(self.0.try_recv(), Err(TryRecvError::Disconnected))
    }
}
