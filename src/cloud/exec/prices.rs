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
            // Two prices at once: the one told last holds.
            (&[(1, 1.0), (1, 2.0)], &[(1, 2.0)]),
            (&[(3, 1.0), (1, 1.0), (2, 2.0)], &[(3, 1.0), (2, 2.0), (1, 1.0)]),
        ] {
            assert_eq!(newest_first(points(told), 1000), points(expected), "{told:?}");
        }
        assert_eq!(newest_first(points(&[(1, 1.0), (2, 2.0), (3, 3.0)]), 2), points(&[(3, 3.0), (2, 2.0)]));
    }
}
