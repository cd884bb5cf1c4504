//! Prices: the vectors of the specification, and what may never be.

use std::sync::Arc;

use super::*;
use crate::cloud::ec2::tests::stub::{Answer, Stub, api, clock, leaf, node};

#[test]
fn scratch_is_billed_by_the_whole_gib() {
    for (bytes, gib, hourly, with_spot) in [
        (0, 0, 0.0, 0.005),
        (1, 1, 0.000138889, 0.005138889),
        (1_073_741_825, 2, 0.000277778, 0.005277778),
        (20_000_000_000, 19, 0.002638889, 0.007638889),
        (687_194_767_360, 640, 0.088888889, 0.093888889),
        (-1, 0, 0.0, 0.005),
    ] {
        let cost = hourly_ebs(0.1, bytes);
        assert_eq!(volume_gib(bytes), gib, "{bytes}");
        assert!((cost - hourly).abs() < 1e-9 && (0.005 + cost - with_spot).abs() < 1e-9, "{bytes}: {cost}");
    }
}

fn market(provider_type: &str, zone: &str) -> Market {
    Market { provider_type: provider_type.to_owned(), zone: zone.to_owned() }
}

/// A record as `TYPE ZONE PRICE TIME`; `-` leaves the field out.
fn record_of(text: &str) -> Element {
    let names = ["instanceType", "availabilityZone", "spotPrice", "timestamp"];
    let fields = names.iter().zip(text.split(' ')).filter(|(_, text)| *text != "-");
    node("item", fields.map(|(name, text)| leaf(name, text)).collect())
}

fn page(records: &[&str], next: Option<&str>) -> Answer {
    let mut children = vec![node("spotPriceHistorySet", records.iter().map(|text| record_of(text)).collect())];
    children.extend(next.map(|token| leaf("nextToken", token)));
    Ok(node("DescribeSpotPriceHistoryResponse", children))
}

#[test]
fn records_that_lack_something_are_left_out() {
    for (text, expected) in [
        ("t3 z1 0.02 1970-01-01T00:01:00.000Z", Some((60_000, 0.02))),
        ("t3 z1 0.02 1970-01-01T00:01:00Z", Some((60_000, 0.02))),
        ("- z1 0.02 1970-01-01T00:01:00Z", None),
        ("t3 - 0.02 1970-01-01T00:01:00Z", None),
        ("t3 z1 - 1970-01-01T00:01:00Z", None),
        ("t3 z1 0.02 -", None),
        ("t3 z1 cheap 1970-01-01T00:01:00Z", None),
        ("t3 z1 NaN 1970-01-01T00:01:00Z", None),
        ("t3 z1 inf 1970-01-01T00:01:00Z", None),
        ("t3 z1 -1 1970-01-01T00:01:00Z", None),
        ("t3 z1 0.02 yesterday", None),
        ("t3  0.02 1970-01-01T00:01:00Z", None),
    ] {
        let expected = expected.map(|(since, price)| (market("t3", "z1"), PricePoint { since, price }));
        assert_eq!(record(&record_of(text)), expected, "{text}");
    }
}

const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn a_look_up_asks_for_three_intervals_and_takes_all_pages() {
    let (clock, time) = clock();
    *time.lock() = Duration::from_secs(1_800_000_000);
    let stub = Stub::new(|_, params| match params.get("NextToken") {
        None => page(&["t3 z1 0.02 2027-01-15T01:00:00Z", "t3 z1 0.02 2027-01-15T02:00:00Z"], Some("stubnexttoken")),
        Some(_) => page(&["m5 z2 0.03 2027-01-15T01:00:00Z"], Some("")),
    });
    let prices = Prices::default();
    prices.refresh(&*stub, &clock, HOUR, &[market("t3", "z1"), market("m5", "z2"), market("t3", "z9")].into());
    let asked = stub.asked();
    let expected = [
        ("StartTime", "2027-01-15T05:00:00Z"),
        ("Filter.1.Name", "instance-type"),
        ("Filter.1.Value.1", "m5"),
        ("Filter.1.Value.2", "t3"),
        ("Filter.2.Name", "product-description"),
        ("Filter.2.Value.1", "Linux/UNIX"),
    ];
    let expected = Params(expected.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec());
    let mut second = expected.clone();
    second.add("NextToken", "stubnexttoken");
    assert_eq!(asked, [("DescribeSpotPriceHistory", expected), ("DescribeSpotPriceHistory", second)]);
    let since = 1_799_974_800_000;
    assert_eq!(prices.history(&market("t3", "z1")), [PricePoint { since, price: 0.02 }]);
    assert_eq!(prices.history(&market("m5", "z2")), [PricePoint { since, price: 0.03 }]);
    assert_eq!(prices.history(&market("t3", "z9")), []);
    assert_eq!(prices.history(&market("t3", "z2")), []);
}

/// Steps of time and what is wanted then; whether it is looked up.
#[test]
fn prices_are_looked_up_when_they_are_too_old() {
    let (clock, time) = clock();
    let stub = Stub::new(|_, _| page(&["t3 z1 0.02 2027-01-15T01:00:00Z"], None));
    let prices = Prices::default();
    for (minutes, wanted, expected) in [
        (0, &[][..], false),
        (0, &["z1"][..], true),
        (59, &["z1"], false),
        (60, &["z1"], true),
        (61, &["z1"], false),
        // One that is new: there is nothing of it, and it is not asked for at every list.
        (62, &["z1", "z2"], true),
        (63, &["z1", "z2"], false),
        (67, &["z1", "z2"], true),
        (68, &[""], true),
        (69, &[""], false),
        (70, &[], false),
    ] {
        *time.lock() = Duration::from_secs(minutes * 60);
        prices.refresh(&*stub, &clock, HOUR, &wanted.iter().map(|zone| market("t3", zone)).collect());
        assert_eq!(stub.actions().len(), usize::from(expected), "{minutes} {wanted:?}");
    }
}

#[test]
fn an_error_keeps_what_was_there_before_it() {
    let (clock, time) = clock();
    let mut fails = true;
    let stub = Stub::new(move |_, params| match params.get("NextToken") {
        None => page(&["t3 z1 0.02 2027-01-15T01:00:00Z"], Some("more")),
        Some(_) if std::mem::take(&mut fails) => api("Throttling"),
        Some(_) => page(&["m5 z2 0.03 2027-01-15T01:00:00Z"], None),
    });
    let prices = Prices::default();
    let wanted = [market("t3", "z1"), market("m5", "z2")].into();
    prices.refresh(&*stub, &clock, HOUR, &wanted);
    assert_eq!((prices.history(&market("t3", "z1")).len(), prices.history(&market("m5", "z2")).len()), (1, 0));
    for (seconds, calls) in [(299, 0), (300, 2), (600, 0)] {
        stub.actions();
        *time.lock() = Duration::from_secs(seconds);
        prices.refresh(&*stub, &clock, HOUR, &wanted);
        assert_eq!(stub.actions().len(), calls, "{seconds}");
    }
    assert_eq!(prices.history(&market("m5", "z2")).len(), 1);
}

#[test]
fn what_nobody_asks_for_is_dropped_after_64_intervals() {
    let (clock, time) = clock();
    let stub = Stub::new(|_, params| match params.get("Filter.1.Value.1") {
        Some("t3") => page(&["t3 z1 0.02 2027-01-15T01:00:00Z"], None),
        _ => page(&["m5 z2 0.03 2027-01-15T01:00:00Z"], None),
    });
    let prices = Prices::default();
    prices.refresh(&*stub, &clock, HOUR, &[market("t3", "z1")].into());
    for (hours, kept) in [(64, 1), (65, 0)] {
        *time.lock() = HOUR * hours;
        prices.refresh(&*stub, &clock, HOUR, &[market("m5", "z2")].into());
        assert_eq!(prices.history(&market("t3", "z1")).len(), kept, "{hours}");
        assert_eq!(prices.history(&market("m5", "z2")).len(), 1);
    }
}

#[test]
fn memory_and_requests_have_limits() {
    let (clock, _) = clock();
    let stub = Stub::new(|_, params| match params.get("Filter.1.Value.1") {
        Some("t000") => {
            let records: Vec<String> = (0..1100)
                .map(|second| format!("t000 z1 0.{second} {}", start_time(second * 1000, Duration::ZERO)))
                .collect();
            page(&records.iter().map(String::as_str).collect::<Vec<_>>(), None)
        }
        _ => page(&[], None),
    });
    let prices = Prices::default();
    prices.refresh(&*stub, &clock, HOUR, &(0..201).map(|number| market(&format!("t{number:03}"), "z1")).collect());
    let values =
        |(_, params): &(&str, Params)| params.0.iter().filter(|(name, _)| name.starts_with("Filter.1.V")).count();
    assert_eq!(stub.asked().iter().map(values).collect::<Vec<_>>(), [200, 1]);
    let history = prices.history(&market("t000", "z1"));
    assert_eq!((history.len(), history[0].since), (1000, 1_099_000));
}

/// Answers only after the test itself has used the prices: nothing is locked meanwhile, and nobody looks up twice.
#[test]
fn nothing_is_locked_during_a_look_up() {
    let (clock, _) = clock();
    let prices = Arc::new(Prices::default());
    let (same, its_clock) = (prices.clone(), clock.clone());
    let inner = Stub::new(|_, _| page(&[], None));
    let asked_inside = inner.clone();
    let stub = Stub::new(move |_, _| {
        assert!(same.history(&market("t3", "z1")).is_empty());
        same.refresh(&*inner, &its_clock, HOUR, &[market("t3", "z1")].into());
        page(&["t3 z1 0.02 2027-01-15T01:00:00Z"], None)
    });
    prices.refresh(&*stub, &clock, HOUR, &[market("t3", "z1")].into());
    assert!(asked_inside.actions().is_empty());
    assert_eq!(prices.history(&market("t3", "z1")).len(), 1);
}
