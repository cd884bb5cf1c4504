//! Spreads a driver's calls over time (spec 40 §4, wrapper 2): creates, lists, destroys and tag saves share one ticker of
//! MaxCloudOpsPerSecond, and each waits for a tick first.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::layer::{Inner, Layer, Layered};
use super::{CloudError, CloudInstance, NewInstance};
use crate::core::effect::{Ending, Tags};
use crate::core::ids::{InstanceId, InstanceSecret};

/// When each call's turn is. One unused tick is kept, so idle time does not add up to a burst.
#[derive(Debug)]
struct Ticker {
    period: Duration,
    next: Option<Instant>,
}

impl Ticker {
    /// The turn of one more call that comes now. Turns are given in the order in which they are asked for.
    fn turn(&mut self, now: Instant) -> Instant {
        let turn = self.next.map_or(now, |next| next.max(now));
        self.next = Some(turn + self.period);
        turn
    }
}

#[derive(Debug)]
struct State {
    ticker: Ticker,
    is_stopped: bool,
}

/// A driver whose calls wait for their turn. Whoever waits does so on the caller's thread, until its turn or the stop.
#[derive(Debug)]
pub struct RateLimited {
    inner: Inner,
    state: Mutex<State>,
    stopped: Condvar,
}

impl RateLimited {
    /// `calls_per_second` is for all four kinds together.
    pub fn around(inner: Inner, calls_per_second: NonZeroU32) -> Layered<Self> {
        let ticker = Ticker { period: Duration::from_secs(1) / calls_per_second.get(), next: None };
        let state = Mutex::new(State { ticker, is_stopped: false });
        Layered(Self { inner, state, stopped: Condvar::new() })
    }

    /// Waits for this call's turn.
    ///
    /// # Errors
    /// The driver is being stopped: the call is not made.
    fn wait(&self) -> Result<(), CloudError> {
        let mut state = self.state.lock();
        let turn = state.ticker.turn(Instant::now());
        while !state.is_stopped && Instant::now() < turn {
            self.stopped.wait_until(&mut state, turn);
        }
        match state.is_stopped {
            false => Ok(()),
            true => Err(CloudError::Other {
                message: "not begun: the dispatcher is being stopped".to_owned(),
                source: None,
            }),
        }
    }
}

impl Layer for RateLimited {
    fn inner(&self) -> &Inner {
        &self.inner
    }

    fn create(&self, new: &NewInstance) -> Result<CloudInstance, CloudError> {
        self.wait()?;
        new.still_wanted()?;
        self.inner.create(new)
    }

    fn list(&self, tags: &Tags) -> Result<Vec<CloudInstance>, CloudError> {
        self.wait()?;
        self.inner.list(tags)
    }

    fn destroy(&self, id: &InstanceId, secret: Option<&InstanceSecret>, ending: Ending) -> Result<(), CloudError> {
        self.wait()?;
        self.inner.destroy(id, secret, ending)
    }

    fn set_tags(&self, id: &InstanceId, tags: &Tags) -> Result<(), CloudError> {
        self.wait()?;
        self.inner.set_tags(id, tags)
    }

    fn stop(&self) {
        self.state.lock().is_stopped = true;
        self.stopped.notify_all();
        self.inner.stop();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::cloud::InstanceSet;
    use crate::cloud::layer::recorded::{Recorded, all_calls};

    #[test]
    fn turns_are_a_period_apart_and_idle_time_is_lost() {
        let period = Duration::from_millis(100);
        let mut ticker = Ticker { period, next: None };
        let start = Instant::now();
        let at = |periods: u32| start + period * periods;
        assert_eq!([start, start, start].map(|now| ticker.turn(now)), [at(0), at(1), at(2)]);
        // After a long time one call is free, the next is not.
        assert_eq!([at(50), at(50), at(50)].map(|now| ticker.turn(now)), [at(50), at(51), at(52)]);
        // Who comes in between waits for the rest of the period.
        let between = at(52) + period / 2;
        assert_eq!(ticker.turn(between), at(53));
    }

    /// A lower limit only: how much later a call is depends on the machine.
    #[test]
    fn all_four_kinds_share_the_ticker() {
        let recorded = Arc::new(Recorded::default());
        let driver = RateLimited::around(recorded.clone(), NonZeroU32::new(50).expect("not 0"));
        let began = Instant::now();
        assert_eq!(all_calls(&driver), [true; 4]);
        assert!(began.elapsed() >= Duration::from_millis(60), "the fourth has waited for three periods");
        assert_eq!(recorded.names(), ["Create", "List", "Destroy", "SetTags"]);
    }

    #[test]
    fn a_create_like_one_that_was_refused_meanwhile_is_not_made() {
        let recorded = Arc::new(Recorded::default());
        let driver = RateLimited::around(recorded.clone(), NonZeroU32::new(1000).expect("not 0"));
        let new = crate::cloud::boot::Boot::default().order(Arc::default(), Tags::new(), InstanceSecret::new("5"));
        let refusal = CloudError::RateLimit { message: "slowly".to_owned(), retry_after: Duration::from_secs(3600) };
        new.refusals.note(&new.instance_type, &refusal);
        assert!(matches!(driver.create(&new), Err(CloudError::RateLimit { .. })));
        assert!(recorded.names().is_empty());
    }

    #[test]
    fn a_create_that_has_waited_for_too_long_is_not_made() {
        let recorded = Arc::new(Recorded::default());
        let driver = RateLimited::around(recorded.clone(), NonZeroU32::new(50).expect("not 0"));
        let mut new = crate::cloud::boot::Boot::default().order(Arc::default(), Tags::new(), InstanceSecret::new("5"));
        new.wanted_until = Instant::now();
        assert!(driver.create(&new).is_err() && recorded.names().is_empty());
    }

    #[test]
    fn a_stop_ends_the_wait_and_nothing_is_called_after_it() {
        let recorded = Arc::new(Recorded::default());
        let mut driver = RateLimited::around(recorded.clone(), NonZeroU32::new(1).expect("not 0"));
        driver.0.state.get_mut().ticker.period = Duration::from_secs(1_000_000);
        driver.list(&Tags::new()).expect("the first does not wait");
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| driver.list(&Tags::new()));
            while driver
                .0
                .state
                .lock()
                .ticker
                .next
                .is_none_or(|next| next < Instant::now() + Duration::from_secs(1_500_000))
            {
                std::thread::yield_now();
            }
            driver.stop();
            let error = waits.join().expect("no panic").expect_err("not made");
            assert!(error.to_string().contains("stopped"), "{error}");
        });
        assert_eq!(all_calls(&driver), [false; 4]);
        assert_eq!(recorded.names(), ["List", "stop"]);
    }
}
