//! Sizes and durations as people write them (spec 60 §2): one reading for configuration, command line and job records.

use std::time::Duration;

/// Longest number that is read, in characters: far beyond what fits 64 bits.
const NUMBER_LENGTH_MAX: usize = 40;

/// Bytes. A decimal number (fraction and exponent allowed), optional spaces, and a unit: none or `B`; `K`, `KB` = 10³; `Ki`, `KiB`
/// = 2¹⁰; likewise M, G, T, P, E. Case matters; fractions of a byte are cut off; not negative.
///
/// # Errors
/// A sentence that says what is accepted.
pub fn parse_size(text: &str) -> Result<i64, String> {
    let fault = || format!("{text:?} is not a size: write bytes, or a number with a unit such as 1.5GiB or 500MB");
    let trimmed = text.trim();
    let (number, unit) = trimmed.split_at(number_length(trimmed));
    let factor = unit_factor(unit.trim_start()).ok_or_else(fault)?;
    let (digits, power) = decimal(number).ok_or_else(fault)?;
    let whole = scale(digits, factor, power).and_then(|bytes| i64::try_from(bytes).ok());
    let bytes = if power < 0 { whole.and_then(|_| of_fraction(number, factor)) } else { whole };
    bytes.ok_or_else(|| format!("{text:?} is too large: sizes end below 8EiB"))
}

/// As the reference computes fractions, in floating point: so that the same text is the same size to the byte.
fn of_fraction(number: &str, factor: i128) -> Option<i64> {
    #[expect(clippy::cast_precision_loss, reason = "powers of 2 are exact, powers of 1000 as exact as the reference's")]
    let bytes = number.parse::<f64>().ok()? * factor as f64;
    #[expect(clippy::cast_possible_truncation, reason = "cut off on purpose; the range is checked")]
    (bytes < 9.2e18).then_some(bytes as i64)
}

/// Length of the number at the beginning. An `E` counts as an exponent only when digits follow; else it is the unit Exa.
fn number_length(text: &str) -> usize {
    let bytes = text.as_bytes();
    let plain = bytes.iter().take_while(|byte| byte.is_ascii_digit() || **byte == b'.').count();
    let mut rest = bytes.get(plain..).unwrap_or_default();
    if !matches!(rest.first(), Some(b'e' | b'E')) {
        return plain;
    }
    rest = rest.get(1..).unwrap_or_default();
    let sign = usize::from(matches!(rest.first(), Some(b'+' | b'-')));
    let digits = rest.iter().skip(sign).take_while(|byte| byte.is_ascii_digit()).count();
    if digits == 0 { plain } else { plain + 1 + sign + digits }
}

/// `1.25e3` as (125, 1): digits and a power of ten.
fn decimal(number: &str) -> Option<(i128, i32)> {
    if number.len() > NUMBER_LENGTH_MAX {
        return None;
    }
    let (mantissa, exponent) = match number.find(['e', 'E']) {
        Some(at) => (&number[..at], number[at + 1..].parse::<i32>().ok()?),
        None => (number, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
        return None;
    }
    let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
    Some((digits, exponent.checked_sub(i32::try_from(fraction.len()).ok()?)?))
}

/// digits × factor × 10^power, cut off; `None` on overflow.
fn scale(digits: i128, factor: i128, power: i32) -> Option<i128> {
    let product = digits.checked_mul(factor)?;
    let ten = 10_i128.checked_pow(power.unsigned_abs());
    match (ten, power < 0) {
        (Some(ten), false) => product.checked_mul(ten),
        (None, false) => (product == 0).then_some(0),
        (Some(ten), true) => Some(product / ten),
        (None, true) => Some(0),
    }
}

fn unit_factor(unit: &str) -> Option<i128> {
    if matches!(unit, "" | "B") {
        return Some(1);
    }
    let mut letters = unit.chars();
    let exponent = u32::try_from("KMGTPE".find(letters.next()?)?).ok()? + 1;
    match letters.as_str() {
        "" | "B" => Some(1000_i128.pow(exponent)),
        "i" | "iB" => Some(1024_i128.pow(exponent)),
        _ => None,
    }
}

const NANOS: [(&str, i128); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
    ("d", 86_400_000_000_000),
];
/// Longest duration that is read: a thousand years.
const DURATION_MAX: Duration = Duration::from_secs(1000 * 366 * 86_400);

/// One or more decimal numbers with a unit (`ns`, `us`, `ms`, `s`, `m`, `h`, `d`), or `0`: `90s`, `1m30s`, `1.5h`, `30d`. Not
/// negative, at most a thousand years.
///
/// # Errors
/// A sentence that says what is accepted.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let fault = || format!("invalid duration {text:?}: write one such as 90s, 1m30s, 1.5h or 30d");
    let mut rest = text.trim();
    rest = rest.strip_prefix('+').unwrap_or(rest);
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.starts_with('-') {
        return Err(format!("{text:?} is negative: a duration is at least 0"));
    }
    let mut total: i128 = 0;
    if rest.is_empty() {
        return Err(fault());
    }
    while !rest.is_empty() {
        let length = rest.bytes().take_while(|byte| byte.is_ascii_digit() || *byte == b'.').count();
        let (number, after) = rest.split_at(length);
        let (digits, power) = decimal(number).ok_or_else(fault)?;
        let end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, next) = after.split_at(end);
        if unit.is_empty() {
            return Err(format!("missing unit in duration {text:?}: write one such as 90s, 1m30s, 1.5h or 30d"));
        }
        let (_, nanos) = NANOS.iter().find(|(name, _)| *name == unit).ok_or_else(fault)?;
        let part = scale(digits, *nanos, power).ok_or_else(fault)?;
        total = total.checked_add(part).ok_or_else(fault)?;
        rest = next;
    }
    let duration = u64::try_from(total).ok().map(Duration::from_nanos);
    let seconds = u64::try_from(total / 1_000_000_000).ok().map(Duration::from_secs);
    match duration.or(seconds).filter(|duration| *duration <= DURATION_MAX) {
        Some(duration) => Ok(duration),
        None => Err(format!("{text:?} is too long: at most a thousand years")),
    }
}

/// Compact: `1m`, `2m30s`, `2h1s`, `100h10m`, `1.5s`, `0s`. [`parse_duration`] gives the same back.
pub fn format_duration(duration: Duration) -> String {
    let (seconds, nanos) = (duration.as_secs(), duration.subsec_nanos());
    let mut text = String::new();
    for (unit, amount) in [("h", seconds / 3600), ("m", seconds / 60 % 60)] {
        if amount > 0 {
            text.push_str(&format!("{amount}{unit}"));
        }
    }
    let last = seconds % 60;
    match (last, nanos) {
        (0, 0) if !text.is_empty() => {}
        (last, 0) => text.push_str(&format!("{last}s")),
        (last, nanos) => {
            let fraction = format!("{nanos:09}");
            text.push_str(&format!("{last}.{}s", fraction.trim_end_matches('0')));
        }
    }
    text
}

/// A size for people, with one decimal where it is not whole: `1.5GiB`.
pub fn format_size(bytes: i64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut scaled = i128::from(bytes) * 10;
    let mut index = 0;
    while scaled >= 10_240 && index + 1 < units.len() {
        scaled /= 1024;
        index += 1;
    }
    let unit = units.get(index).copied().unwrap_or_default();
    if scaled % 10 == 0 { format!("{}{unit}", scaled / 10) } else { format!("{}.{}{unit}", scaled / 10, scaled % 10) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors of spec 60 §2.1.
    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("0", 0),
            ("0K", 0),
            ("0 KiB", 0),
            ("5", 5),
            ("5B", 5),
            ("5 B", 5),
            (" 4 KiB ", 4096),
            ("4K", 4000),
            ("4KB", 4000),
            ("4Ki", 4096),
            ("4KiB", 4096),
            ("2G", 2_000_000_000),
            ("4GiB", 4_294_967_296),
            ("4 GiB", 4_294_967_296),
            ("4EiB", 4_611_686_018_427_387_904),
            ("4.5E15 K", 4_500_000_000_000_000_000),
            ("1.5 GB", 1_500_000_000),
            ("1.5 GiB", 1_610_612_736),
            ("1.234 GiB", 1_324_997_410),
            ("1e2 KB", 100_000),
            ("20E-1 KiB", 2048),
            ("1E0EB", 1_000_000_000_000_000_000),
            ("1E-1EiB", 115_292_150_460_684_704),
            ("4.5EiB", 5_188_146_770_730_811_392),
            ("12345M", 12_345_000_000),
            ("4000000000", 4_000_000_000),
            ("0E999", 0),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in [
            "",
            "B",
            "K",
            "KB",
            "KiB",
            "BB",
            "4BK",
            "4iB",
            "4A",
            "b",
            "4b",
            "4mB",
            "4m",
            "4mib",
            "4KIB",
            "4K iB",
            "4Ki B",
            "4BB",
            "400000 EB",
            "4.11e4 EB",
            "-1",
            "1.2.3",
            "é",
            "1é",
            "1e99999999999",
            "9E40",
        ] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations() {
        for (text, millis, compact) in [
            ("60s", 60_000, "1m"),
            ("150s", 150_000, "2m30s"),
            ("3600s", 3_600_000, "1h"),
            ("7201s", 7_201_000, "2h1s"),
            ("360600s", 360_600_000, "100h10m"),
            ("0", 0, "0s"),
            ("1m30s", 90_000, "1m30s"),
            ("1.5h", 5_400_000, "1h30m"),
            ("1.234s", 1_234, "1.234s"),
            ("30d", 2_592_000_000, "720h"),
            ("250ms", 250, "0.25s"),
        ] {
            let duration = parse_duration(text).expect(text);
            assert_eq!(duration.as_millis(), millis, "{text}");
            assert_eq!(format_duration(duration), compact, "{text}");
            assert_eq!(parse_duration(compact), Ok(duration), "{text}");
        }
        for (text, part) in [
            ("1.234", "missing unit"),
            ("10", "missing unit"),
            ("foobar", "invalid duration \"foobar\""),
            ("", "invalid"),
            ("-5s", "negative"),
            ("5 s", "invalid"),
            ("5y", "invalid"),
            ("9999999999h", "too long"),
            ("é", "invalid"),
        ] {
            let fault = parse_duration(text).expect_err(text);
            assert!(fault.contains(part), "{text}: {fault}");
        }
    }

    #[test]
    fn sizes_for_people() {
        for (bytes, text) in
            [(0, "0B"), (1023, "1023B"), (1024, "1KiB"), (1536, "1.5KiB"), (1 << 30, "1GiB"), (i64::MAX, "7.9EiB")]
        {
            assert_eq!(format_size(bytes), text);
        }
    }
}
