//! Values of options: sizes, durations, ranges, pairs. Each fault says what is accepted.

use std::time::Duration;

use crate::core::units::{parse_duration, parse_size};

pub(super) fn size(text: &str) -> Result<i64, String> {
    parse_size(text)
}

pub(super) fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text)
}

/// `A-B`, both included.
pub(super) fn range(text: &str) -> Result<(i64, i64), String> {
    let fault = || format!("{text:?} is not a range: write FIRST-LAST, such as 1-100");
    let (first, last) = text.split_once('-').ok_or_else(fault)?;
    let (first, last) = (first.trim().parse().map_err(|_| fault())?, last.trim().parse().map_err(|_| fault())?);
    if first > last { Err(format!("{text:?} is empty: the first is above the last")) } else { Ok((first, last)) }
}

/// From 0 to 1000.
pub(super) fn priority(text: &str) -> Result<i64, String> {
    let number = text.parse().ok().filter(|number| (0..=1000).contains(number));
    number.ok_or_else(|| format!("{text:?} is not a priority: 1 to 1000, higher is earlier; 0 = on hold"))
}

/// The states that a filter may name.
pub(super) const STATES: [&str; 5] = ["Queued", "Locked", "Running", "Complete", "Cancelled"];

/// `NAME=VALUE`.
pub(super) fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(format!("{text:?} is not NAME=VALUE")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_and_pairs() {
        assert_eq!(range("3-12"), Ok((3, 12)));
        assert_eq!(range("0-0"), Ok((0, 0)));
        for text in ["", "3", "a-b", "5-3", "1-2-3"] {
            assert!(range(text).is_err(), "{text}");
        }
        assert_eq!(pair("A=b=c"), Ok(("A".to_owned(), "b=c".to_owned())));
        assert!(pair("=x").is_err() && pair("x").is_err());
    }
}
