//! Spot prices (spec 42 §8): how they are kept, and looked up.
//!
//! They are asked for at every probe, and so answered from memory. A list looks them up when they are too old; nothing is locked
//! meanwhile, and lists at the same time do not do it twice.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::options::Clock;
use super::pages::{Budget, each_page};
use super::query::{Element, Params, Query};
use crate::cloud::prices::newest_first;
use crate::core::effect::{Level, Note};
use crate::core::errors::chain;
use crate::core::instance_type::PricePoint;
use crate::core::time::{Moment, WallMillis};
use crate::log::write_note;

/// The API cannot say that nothing has changed; what overlaps allows for two look-ups that failed.
const INTERVALS_ASKED: u32 = 3;
/// Prices of a type and zone that nobody has any more are dropped after so many.
const INTERVALS_KEPT: u32 = 64;
/// Where a look-up brought nothing (it failed, or the zone is unknown) it is not repeated at every list, which it makes slower.
const RETRY_PAUSE: Duration = Duration::from_secs(300);
/// For a look-up as a whole: the list that it belongs to has come, and must not be lost for its sake.
const LOOK_UP_LIMIT: Duration = Duration::from_secs(15);
/// Per type and zone. At the few changes a day that there are it lasts for months.
const POINTS_MAX: usize = 1000;
/// EC2 takes no more values in one filter.
const FILTER_VALUES_MAX: usize = 200;

/// What has a spot price of its own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Market {
    pub(super) provider_type: String,
    /// Availability zone; empty while unknown.
    pub(super) zone: String,
}

/// Prices of one market.
#[derive(Debug)]
struct Entry {
    /// Newest first, normalised.
    points: Vec<PricePoint>,
    /// When it was last told anything.
    updated: Moment,
    /// From then on a list looks it up.
    due: Moment,
}

/// The memory of them all.
#[derive(Debug, Default)]
pub(super) struct Prices {
    markets: Mutex<BTreeMap<Market, Entry>>,
    looking: AtomicBool,
}

impl Prices {
    /// Newest first; empty while unknown.
    pub(super) fn history(&self, market: &Market) -> Vec<PricePoint> {
        self.markets.lock().get(market).map(|entry| entry.points.clone()).unwrap_or_default()
    }

    /// Looks prices up if those of any of these markets are older than the interval (> 0). What fails is logged, not returned.
    pub(super) fn refresh(&self, query: &dyn Query, clock: &Clock, interval: Duration, wanted: &BTreeSet<Market>) {
        let now = (clock.now)();
        if !self.is_due(wanted, now) || self.looking.swap(true, Ordering::Acquire) {
            return;
        }
        let since = start_time(clock.wall.now(), interval);
        let records = look_up(query, wanted, &since, Budget::new(clock, LOOK_UP_LIMIT));
        absorb(&mut self.markets.lock(), wanted, records, (now, interval));
        self.looking.store(false, Ordering::Release);
    }

    fn is_due(&self, wanted: &BTreeSet<Market>, now: Moment) -> bool {
        let markets = self.markets.lock();
        wanted.iter().any(|market| markets.get(market).is_none_or(|entry| entry.due <= now))
    }
}

/// A price with its market, as EC2 tells it.
type Record = (Market, PricePoint);

fn absorb(
    markets: &mut BTreeMap<Market, Entry>,
    wanted: &BTreeSet<Market>,
    records: Vec<Record>,
    (now, interval): (Moment, Duration),
) {
    let retry = now + interval.min(RETRY_PAUSE);
    for market in wanted {
        let entry = Entry { points: Vec::new(), updated: now, due: retry };
        markets.entry(market.clone()).or_insert(entry).due = retry;
    }
    for (market, point) in records {
        let entry = markets.entry(market).or_insert(Entry { points: Vec::new(), updated: now, due: now });
        entry.points.push(point);
        (entry.updated, entry.due) = (now, now + interval);
    }
    let kept = interval.saturating_mul(INTERVALS_KEPT);
    markets.retain(|_, entry| now.since(entry.updated) <= kept);
    for entry in markets.values_mut() {
        entry.points = newest_first(std::mem::take(&mut entry.points), POINTS_MAX);
    }
}

/// Per hour, for scratch of so many bytes that is added as a volume; `ebs_price` is per GiB and month.
pub(super) fn hourly_ebs(ebs_price: f64, added_scratch: i64) -> f64 {
    // Volumes have far fewer GiB than a float is exact for.
    ebs_price * volume_gib(added_scratch) as f64 / 30.0 / 24.0
}

/// What is billed for scratch of so many bytes.
pub(super) fn volume_gib(added_scratch: i64) -> u64 {
    u64::try_from(added_scratch).unwrap_or(0).div_ceil(1 << 30)
}

/// What was there before an error is in it.
fn look_up(query: &dyn Query, wanted: &BTreeSet<Market>, since: &str, budget: Budget<'_>) -> Vec<Record> {
    let types: BTreeSet<&str> = wanted.iter().map(|market| market.provider_type.as_str()).collect();
    let types = Vec::from_iter(types);
    let mut records = Vec::new();
    for types in types.chunks(FILTER_VALUES_MAX) {
        let mut params = Params::default();
        params.add("StartTime", since);
        params.filter("instance-type", types);
        params.filter("product-description", &["Linux/UNIX"]);
        let looked_up = each_page(query, "DescribeSpotPriceHistory", &params, budget, |page| {
            records.extend(page.items(&["spotPriceHistorySet"]).filter_map(record));
            Ok(())
        });
        if let Err(error) = looked_up {
            let note = Note::new(Level::Warn, "cloud", "error retrieving spot instance prices");
            write_note(&note.with("error", chain(&error)));
            break;
        }
    }
    records
}

/// `None` where something is missing or is no number: a price that is not understood is not used.
fn record(item: &Element) -> Option<Record> {
    let text = |name: &str| item.text_of(&[name]).filter(|text| !text.is_empty());
    let price = text("spotPrice")?.parse().ok().filter(|price: &f64| price.is_finite() && *price >= 0.0)?;
    let since = text("timestamp")?.parse::<jiff::Timestamp>().ok()?.as_millisecond();
    let market = Market { provider_type: text("instanceType")?.to_owned(), zone: text("availabilityZone")?.to_owned() };
    Some((market, PricePoint { since, price }))
}

/// Whole seconds, as in EC2's own examples.
fn start_time(now: WallMillis, interval: Duration) -> String {
    let asked = i64::try_from(interval.saturating_mul(INTERVALS_ASKED).as_millis()).unwrap_or(i64::MAX);
    let since = jiff::Timestamp::from_millisecond(now.saturating_sub(asked)).unwrap_or_default();
    since.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests;
