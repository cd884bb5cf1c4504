//! Answers of several pages (spec 42 §2, §6): all of them or an error, and an end in any case.

use std::collections::BTreeSet;
use std::time::Duration;

use super::options::Clock;
use super::query::{Element, Params, Query, QueryError};
use crate::core::time::Moment;

/// More pages than any account fills, at a hundred instances each at least.
const PAGES_MAX: usize = 1000;

/// The time that there is for some calls together.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget<'a> {
    clock: &'a Clock,
    limit: Duration,
    until: Moment,
}

impl<'a> Budget<'a> {
    /// From now on.
    pub(super) fn new(clock: &'a Clock, limit: Duration) -> Self {
        Self { clock, limit, until: (clock.now)() + limit }
    }

    /// For one more call, which is not begun when nothing is left.
    fn left(&self, action: &str) -> Result<Duration, QueryError> {
        match self.until.since((self.clock.now)()) {
            Duration::ZERO => {
                let seconds = self.limit.as_secs();
                Err(QueryError::other(format!("{action} is given up: its pages take longer than {seconds} s")))
            }
            left => Ok(left),
        }
    }
}

/// Calls an action until there is no further page: the token is absent or empty, for EC2 has been seen to send an empty one. `take`
/// gets each page as it comes, and may end it with an error.
///
/// # Errors
/// A page's, or what is wrong with the tokens, or there is no time left.
pub(super) fn each_page(
    query: &dyn Query,
    action: &'static str,
    params: &Params,
    budget: Budget<'_>,
    mut take: impl FnMut(&Element) -> Result<(), QueryError>,
) -> Result<(), QueryError> {
    let mut token = None;
    let mut seen = BTreeSet::new();
    for _ in 0..PAGES_MAX {
        let mut params = params.clone();
        params.0.extend(token.take().map(|token| ("NextToken".to_owned(), token)));
        let page = query.call_within(action, &params, budget.left(action)?)?;
        take(&page)?;
        match page.text_of(&["nextToken"]).unwrap_or_default() {
            "" => return Ok(()),
            next if seen.insert(next.to_owned()) => token = Some(next.to_owned()),
            _ => {
                return Err(QueryError::other(format!(
                    "the answers to {action} go in a circle: a token for the next page came twice"
                )));
            }
        }
    }
    Err(QueryError::other(format!("the answer to {action} has more than {PAGES_MAX} pages")))
}
