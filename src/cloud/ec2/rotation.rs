//! Which subnets a create tries, and which error it returns (spec 42 §5).

use std::sync::atomic::{AtomicUsize, Ordering};

use super::errors::{Class, classify, is_subnet_specific};
use super::query::QueryError;
use crate::core::effect::{Level, Note};
use crate::core::errors::chain;
use crate::log::write_note;

/// Where the next create begins. Creates at the same time do not wait for each other.
#[derive(Debug, Default)]
pub(super) struct Rotation(AtomicUsize);

impl Rotation {
    /// Tries the subnets, each once at most; without any it tries once, with `""`. Stops at the first that works and at an error that
    /// another subnet cannot help. The next create begins where this one stopped, also when it failed: so the errors of different
    /// subnets are seen in turn.
    ///
    /// # Errors
    /// The latest; but lack of capacity gives way to lack of capacity and to a lost answer only: with the one the pool tries another
    /// type, after the other it looks for an instance that may be there.
    pub(super) fn try_each<T>(
        &self,
        subnets: &[String],
        mut attempt: impl FnMut(&str) -> Result<T, QueryError>,
    ) -> Result<T, QueryError> {
        let count = subnets.len().max(1);
        let mut index = self.0.load(Ordering::Relaxed) % count;
        let mut remembered = None;
        let mut left = count;
        let result = loop {
            left -= 1;
            let subnet = subnets.get(index).map(String::as_str).unwrap_or_default();
            let error = match attempt(subnet) {
                Ok(made) => break Ok(made),
                Err(error) => error,
            };
            let goes_on = left > 0 && is_subnet_specific(&error);
            if goes_on {
                let note = Note::new(Level::Warn, "cloud", "RunInstances failed, trying next subnet");
                write_note(&note.with("SubnetID", subnet).with("error", chain(&error)));
            }
            let kept = preferred(remembered.take(), error);
            if !goes_on {
                break Err(kept);
            }
            remembered = Some(kept);
            index = (index + 1) % count;
        };
        self.0.store(index, Ordering::Relaxed);
        result
    }
}

fn preferred(remembered: Option<QueryError>, latest: QueryError) -> QueryError {
    let is_capacity = |error: &QueryError| matches!(classify(error), Class::Capacity(_));
    match (remembered, &latest) {
        // No answer is no refusal, and the instance may have been made. §5.3 speaks of answers only.
        (_, QueryError::Other { .. }) => latest,
        (Some(remembered), _) if is_capacity(&remembered) && !is_capacity(&latest) => remembered,
        _ => latest,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn api(code: &str) -> QueryError {
        QueryError::Api { status: 400, code: code.to_owned(), message: String::new(), request_id: String::new() }
    }

    fn code(error: &QueryError) -> &str {
        match error {
            QueryError::Api { code, .. } => code,
            QueryError::Other { message, .. } => message,
        }
    }

    /// One create: each subnet's error (none: it works). Which were tried, and how it ended.
    fn create(rotation: &Rotation, subnets: &[(&str, Option<&str>)]) -> (Vec<String>, Result<String, String>) {
        let names: Vec<String> = subnets.iter().map(|(name, _)| (*name).to_owned()).collect();
        let mut tried = Vec::new();
        let result = rotation.try_each(&names, |subnet| {
            tried.push(subnet.to_owned());
            match subnets.iter().find(|(name, _)| *name == subnet).and_then(|(_, error)| *error) {
                Some("network") => Err(QueryError::other("network")),
                Some(error) => Err(api(error)),
                None => Ok(subnet.to_owned()),
            }
        });
        (tried, result.map_err(|error| code(&error).to_owned()))
    }

    const FULL: &str = "InsufficientFreeAddressesInSubnet";
    const BROKEN: &str = "InvalidSubnetId.NotFound";
    const CAPACITY: &str = "InsufficientInstanceCapacity";

    /// Subnets with their errors; for each create which are tried and the result.
    #[test]
    fn scenarios() {
        type Call = (&'static [&'static str], Result<&'static str, &'static str>);
        type Subnets = &'static [(&'static str, Option<&'static str>)];
        let scenarios: [(Subnets, &[Call]); 10] = [
            (&[("full", Some(FULL)), ("good", None)], &[(&["full", "good"], Ok("good")), (&["good"], Ok("good"))]),
            (
                &[("full", Some(FULL)), ("broken", Some(BROKEN))],
                &[(&["full", "broken"], Err(BROKEN)), (&["broken", "full"], Err(FULL))],
            ),
            (
                &[("full", Some(FULL)), ("broken", Some(CAPACITY))],
                &[
                    (&["full", "broken"], Err(CAPACITY)),
                    (&["broken", "full"], Err(CAPACITY)),
                    (&["full", "broken"], Err(CAPACITY)),
                ],
            ),
            (&[], &[(&[""], Ok("")), (&[""], Ok(""))]),
            (&[("", Some(FULL))], &[(&[""], Err(FULL))]),
            (&[("one", Some(FULL))], &[(&["one"], Err(FULL)), (&["one"], Err(FULL))]),
            (
                &[("one", Some("Throttling")), ("two", None)],
                &[(&["one"], Err("Throttling")), (&["one"], Err("Throttling"))],
            ),
            (&[("one", Some("network")), ("two", None)], &[(&["one"], Err("network"))]),
            (&[("one", Some(CAPACITY)), ("two", Some("network"))], &[(&["one", "two"], Err("network"))]),
            // Capacity is kept when an error follows that ends it; a capacity error replaces another.
            (
                &[("one", Some(CAPACITY)), ("two", Some("VcpuLimitExceeded")), ("three", None)],
                &[(&["one", "two"], Err("VcpuLimitExceeded")), (&["two"], Err("VcpuLimitExceeded"))],
            ),
        ];
        for (subnets, calls) in scenarios {
            let rotation = Rotation::default();
            for (tried, result) in calls {
                let expected = (tried.iter().map(|name| (*name).to_owned()).collect(), result.map(str::to_owned));
                assert_eq!(create(&rotation, subnets), (expected.0, expected.1.map_err(str::to_owned)), "{subnets:?}");
            }
        }
        let rotation = Rotation::default();
        let ended = create(&rotation, &[("one", Some(CAPACITY)), ("two", Some("Throttling")), ("three", None)]);
        assert_eq!(ended.1, Err(CAPACITY.to_owned()));
    }

    proptest! {
        /// No subnet is skipped and none is tried twice, whatever came before; it goes on from where it stopped.
        #[test]
        fn each_subnet_once(creates in prop::collection::vec(prop::collection::vec(0..4_usize, 5), 1..20), count in 0..6_usize) {
            let subnets: Vec<String> = (0..count).map(|number| number.to_string()).collect();
            let rotation = Rotation::default();
            let mut begins = 0;
            for outcomes in creates {
                let mut tried = Vec::new();
                let result = rotation.try_each(&subnets, |subnet| {
                    let index = subnet.parse::<usize>().unwrap_or(0);
                    tried.push(index);
                    match outcomes.get(index).copied().unwrap_or(0) {
                        0 => Ok(index),
                        1 => Err(api("Throttling")),
                        2 => Err(api(CAPACITY)),
                        _ => Err(api(FULL)),
                    }
                });
                let different = BTreeSet::from_iter(&tried).len();
                prop_assert!(different == tried.len() && tried.len() <= count.max(1));
                let in_order = (0..tried.len()).map(|number| (begins + number) % count.max(1));
                prop_assert_eq!(&tried, &in_order.collect::<Vec<_>>());
                let outcome_of = |index: &usize| outcomes.get(*index).copied().unwrap_or(0);
                prop_assert!(tried.iter().rev().skip(1).all(|index| outcome_of(index) >= 2));
                let last = *tried.last().expect("one at least");
                match &result {
                    Ok(index) => prop_assert_eq!(*index, last),
                    Err(_) => prop_assert!(outcome_of(&last) == 1 || tried.len() == count.max(1)),
                }
                if tried.iter().any(|index| outcome_of(index) == 2) && result.is_err() {
                    prop_assert_eq!(result.as_ref().map_err(code), Err(CAPACITY));
                }
                begins = last;
            }
        }
    }
}
