//! Prices of an instance in the order in which they are used (spec 40 §8, 42 §8).

use crate::core::instance_type::PricePoint;

/// Newest first, at most `most` of them. Of neighbours with the same time or the same price the newer one is dropped, so that each
/// entry marks the moment at which a price began.
pub(super) fn newest_first(mut points: Vec<PricePoint>, most: usize) -> Vec<PricePoint> {
    // Of several prices at the same time the last one told is the one in force: it comes first after the reversal's stable sort.
    points.reverse();
    points.sort_by_key(|point| point.since);
    points.dedup_by(|newer, older| newer.since == older.since || newer.price.total_cmp(&older.price).is_eq());
    points.reverse();
    points.truncate(most);
    points
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn points(all: &[(i64, f64)]) -> Vec<PricePoint> {
        all.iter().map(|(since, price)| PricePoint { since: *since, price: *price }).collect()
    }

    #[test]
    fn sorted_and_without_repeats() {
        for (told, expected) in [
            // The vector of spec 42 §8.
            (&[(1, 1.0), (4, 1.2), (5, 1.1), (3, 1.2), (5, 1.1), (2, 1.0)][..], &[(5, 1.1), (3, 1.2), (1, 1.0)][..]),
            (&[], &[]),
            (&[(7, 0.0)], &[(7, 0.0)]),
            // What falls away between two equal prices makes them neighbours.
            (&[(5, 1.0), (4, 1.1), (4, 1.0)], &[(4, 1.0)]),
            // Two prices at once: the one told last holds.
            (&[(1, 1.0), (1, 2.0)], &[(1, 2.0)]),
            (&[(3, 1.0), (1, 1.0), (2, 2.0)], &[(3, 1.0), (2, 2.0), (1, 1.0)]),
        ] {
            assert_eq!(newest_first(points(told), 1000), points(expected), "{told:?}");
        }
        assert_eq!(newest_first(points(&[(1, 1.0), (2, 2.0), (3, 3.0)]), 2), points(&[(3, 3.0), (2, 2.0)]));
    }

    fn normalised(points: &[PricePoint]) -> Vec<PricePoint> {
        newest_first(points.to_vec(), usize::MAX)
    }

    fn price_at(points: &[PricePoint], time: i64) -> Option<f64> {
        points.iter().find(|point| point.since <= time).map(|point| point.price)
    }

    proptest! {
        #[test]
        fn normalised_lists(raw in prop::collection::vec((0..20_i64, 0..4_i32), 0..30)) {
            let raw: Vec<PricePoint> =
                raw.into_iter().map(|(since, price)| PricePoint { since, price: f64::from(price) }).collect();
            let tidy = normalised(&raw);
            prop_assert!(tidy.iter().all(|point| raw.contains(point)));
            prop_assert!(tidy.windows(2).all(|pair| pair[0].since > pair[1].since && pair[0].price != pair[1].price));
            prop_assert_eq!(&normalised(&tidy), &tidy);
        }

        /// With one price at a time nothing is lost, and what was told twice changes nothing.
        #[test]
        fn the_price_at_any_time_stays(raw in prop::collection::btree_map(0..20_i64, 0..4_i32, 0..15), cut in 0..20_usize) {
            let raw: Vec<PricePoint> =
                raw.into_iter().rev().map(|(since, price)| PricePoint { since, price: f64::from(price) }).collect();
            let tidy = normalised(&raw);
            for time in 0..20 {
                prop_assert_eq!(price_at(&tidy, time), price_at(&raw, time));
            }
            // A first look-up saw the older ones, the second all but the oldest.
            let older = normalised(&raw[cut.min(raw.len())..]);
            let newer = &raw[..raw.len().saturating_sub(cut / 2)];
            prop_assume!(cut + cut / 2 <= raw.len());
            prop_assert_eq!(normalised(&[&older, newer].concat()), tidy);
        }
    }
}
