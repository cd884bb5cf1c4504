//! What the cloud refused while other creates waited for their turn: those are answered alike, and not sent.
//!
//! The pool stops calling at a refusal (spec 40 §3), and what it has ordered before may still wait for a thread, for a tick, or for a
//! program's turn. Sent, it would be refused again, and again, and a short throttle would grow to a long one.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::CloudError;
use crate::core::instance_type::InstanceType;
use crate::core::pool::limits::CapacityScope;
use crate::core::settings::CREATE_DEADLINE;

/// The answers made here begin so: they are not refusals of the cloud.
const NOT_BEGUN: &str = "not begun: ";

/// A provider type, and whether it is preemptible.
type Kind = (String, bool);

#[derive(Debug, Default)]
struct State {
    /// No create before this.
    throttled: Option<(Instant, String)>,
    /// Creates of these that were asked for before this are refused.
    of_kind: BTreeMap<Kind, (Instant, String, CapacityScope)>,
    of_all: Option<(Instant, String)>,
}

/// Refusals of creates, shared by all creates of one driver.
#[derive(Debug, Default)]
pub struct Refusals(Mutex<State>);

impl Refusals {
    /// The cloud has answered so to a create of this type. What concerns no other create is ignored.
    pub fn note(&self, instance_type: &InstanceType, error: &CloudError) {
        let now = Instant::now();
        let mut state = self.0.lock();
        match error {
            CloudError::RateLimit { message, retry_after } if !message.starts_with(NOT_BEGUN) => {
                let until = now + *retry_after;
                if state.throttled.as_ref().is_none_or(|(known, _)| *known < until) {
                    state.throttled = Some((until, message.clone()));
                }
            }
            CloudError::Capacity { message, scope } if !message.starts_with(NOT_BEGUN) => {
                if *scope == CapacityScope::Everything {
                    state.of_all = Some((now, message.clone()));
                }
                // Nobody waits longer than a create is waited for.
                state.of_kind.retain(|_, (at, ..)| now.duration_since(*at) < CREATE_DEADLINE);
                state.of_kind.insert(kind_of(instance_type), (now, message.clone(), *scope));
            }
            _ => {}
        }
    }

    /// Whether a create that was asked for then has been refused meanwhile, with others like it.
    ///
    /// # Errors
    /// [`CloudError::RateLimit`] for the rest of the time, or [`CloudError::Capacity`] as it was.
    pub fn check(&self, instance_type: &InstanceType, asked: Instant) -> Result<(), CloudError> {
        let state = self.0.lock();
        if let Some((until, message)) = &state.throttled {
            let retry_after = until.saturating_duration_since(Instant::now());
            if retry_after > Duration::ZERO {
                return Err(CloudError::RateLimit { message: format!("{NOT_BEGUN}{message}"), retry_after });
            }
        }
        let refused =
            |message: &String, scope| Err(CloudError::Capacity { message: format!("{NOT_BEGUN}{message}"), scope });
        match (&state.of_all, state.of_kind.get(&kind_of(instance_type))) {
            (Some((at, message)), _) if asked <= *at => refused(message, CapacityScope::Everything),
            (_, Some((at, message, scope))) if asked <= *at => refused(message, *scope),
            _ => Ok(()),
        }
    }
}

fn kind_of(instance_type: &InstanceType) -> Kind {
    (instance_type.provider_type.clone(), instance_type.preemptible)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(provider_type: &str, preemptible: bool) -> InstanceType {
        InstanceType { provider_type: provider_type.to_owned(), preemptible, ..InstanceType::default() }
    }

    fn capacity(scope: CapacityScope) -> CloudError {
        CloudError::Capacity { message: "none left".to_owned(), scope }
    }

    fn throttle(retry_after: Duration) -> CloudError {
        CloudError::RateLimit { message: "slowly".to_owned(), retry_after }
    }

    #[test]
    fn who_was_asked_for_before_a_lack_of_capacity_is_refused_alike() {
        let refusals = Refusals::default();
        let before = Instant::now();
        refusals.note(&of("a", false), &capacity(CapacityScope::Type));
        match refusals.check(&of("a", false), before) {
            Err(CloudError::Capacity { message, scope: CapacityScope::Type }) => {
                assert_eq!(message, "not begun: none left");
            }
            other => panic!("{other:?}"),
        }
        let after = Instant::now() + Duration::from_nanos(1);
        assert!(refusals.check(&of("a", false), after).is_ok(), "the pool decides about later ones");
        assert!(refusals.check(&of("a", true), before).is_ok());
        assert!(refusals.check(&of("b", false), before).is_ok());
        refusals.note(&of("a", false), &capacity(CapacityScope::Everything));
        assert!(refusals.check(&of("b", true), before).is_err());
    }

    #[test]
    fn nothing_is_sent_while_the_cloud_asks_for_fewer_calls() {
        let refusals = Refusals::default();
        refusals.note(&of("a", false), &throttle(Duration::from_secs(3600)));
        refusals.note(&of("a", false), &throttle(Duration::from_secs(60)));
        match refusals.check(&of("b", true), Instant::now()) {
            Err(CloudError::RateLimit { retry_after, .. }) => assert!(retry_after > Duration::from_secs(60)),
            other => panic!("{other:?}"),
        }
        let refusals = Refusals::default();
        refusals.note(&of("a", false), &throttle(Duration::ZERO));
        assert!(refusals.check(&of("a", false), Instant::now()).is_ok(), "it is over");
    }

    #[test]
    fn its_own_answers_are_no_new_refusals() {
        let refusals = Refusals::default();
        let asked = Instant::now();
        refusals.note(&of("a", false), &capacity(CapacityScope::Type));
        let copy = refusals.check(&of("a", false), asked).expect_err("refused");
        let later = Instant::now() + Duration::from_nanos(1);
        while Instant::now() <= later {}
        refusals.note(&of("a", false), &copy);
        assert!(refusals.check(&of("a", false), later).is_ok());
    }
}
