//! The small encodings of requests: query strings and form bodies, base64, and the masked form of a target for logs. Pure.

/// Decoded names and values in the order given.
/// Bytes that are no UTF-8 become the replacement character.
pub fn parse_form(text: &[u8]) -> Vec<(String, String)> {
    let pairs = text.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (name, value) = split_pair(pair);
            (decode(name), decode(value))
        })
        .collect()
}

fn split_pair(pair: &[u8]) -> (&[u8], &[u8]) {
    match pair.iter().position(|byte| *byte == b'=') {
        Some(at) => (&pair[..at], &pair[at + 1..]),
        None => (pair, b""),
    }
}

fn decode(text: &[u8]) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        let escaped = match (first, tail) {
            (b'%', [high, low, ..]) => hex(*high).zip(hex(*low)),
            _ => None,
        };
        match (first, escaped) {
            (_, Some((high, low))) => {
                bytes.push(high * 16 + low);
                rest = &tail[2..];
            }
            (b'+', _) => bytes.push(b' '),
            (byte, _) => bytes.push(*byte),
        }
    }
    String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

/// The first value of `name`.
pub fn first<'a>(pairs: &'a [(String, String)], name: &str) -> Option<&'a str> {
    pairs.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
}

/// Path and query for logs: the value of every `api_token`, however it is written, is `***`.
pub fn masked_target(path: &str, query: &str) -> String {
    if query.is_empty() {
        return path.to_owned();
    }
    let pairs = query.split('&').map(|pair| {
        let (name, _) = split_pair(pair.as_bytes());
        if decode(name) == "api_token" { "api_token=***" } else { pair }
    });
    format!("{path}?{}", pairs.collect::<Vec<_>>().join("&"))
}

/// Decodes base64 of either alphabet, padded or not; `None` if it is none.
pub fn base64(text: &[u8]) -> Option<Vec<u8>> {
    let unpadded = text.strip_suffix(b"==").or_else(|| text.strip_suffix(b"=")).unwrap_or(text);
    if unpadded.len() % 4 == 1 {
        return None;
    }
    let mut bytes = Vec::with_capacity(unpadded.len());
    for group in unpadded.chunks(4) {
        let mut value: u32 = 0;
        for digit in group {
            value = value << 6 | u32::from(base64_digit(*digit)?);
        }
        value <<= 6 * (4 - group.len());
        bytes.extend_from_slice(&value.to_be_bytes()[1..group.len()]);
    }
    Some(bytes)
}

fn base64_digit(digit: u8) -> Option<u8> {
    match digit {
        b'A'..=b'Z' => Some(digit - b'A'),
        b'a'..=b'z' => Some(digit - b'a' + 26),
        b'0'..=b'9' => Some(digit - b'0' + 52),
        b'+' | b'-' => Some(62),
        b'/' | b'_' => Some(63),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        let pairs = parse_form(b"a=1&b=x%20y+z&&c&d=%zz%4&a=2&%61=%C3%A9&e=%ff");
        let expected =
            [("a", "1"), ("b", "x y z"), ("c", ""), ("d", "%zz%4"), ("a", "2"), ("a", "é"), ("e", "\u{fffd}")];
        assert_eq!(pairs, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
        assert_eq!(first(&pairs, "a"), Some("1"));
        assert_eq!(first(&pairs, "z"), None);
    }

    #[test]
    fn tokens_are_masked_in_every_spelling() {
        assert_eq!(masked_target("/p", ""), "/p");
        assert_eq!(masked_target("/p", "a=b&api_token=secret&c"), "/p?a=b&api_token=***&c");
        assert_eq!(masked_target("/p", "api%5Ftoken=secret&%61pi_token=secret"), "/p?api_token=***&api_token=***");
    }

    #[test]
    fn base64_of_both_alphabets() {
        let rows: &[(&str, Option<&[u8]>)] = &[
            ("", Some(b"")),
            ("Zg==", Some(b"f")),
            ("Zg", Some(b"f")),
            ("Zm8=", Some(b"fo")),
            ("Zm9vYmFy", Some(b"foobar")),
            ("-_-_", Some(&[0xfb, 0xff, 0xbf])),
            ("+/+/", Some(&[0xfb, 0xff, 0xbf])),
            ("Z", None),
            ("Zm9v!mFy", None),
        ];
        for (text, expected) in rows {
            assert_eq!(base64(text.as_bytes()).as_deref(), *expected, "{text}");
        }
    }
}
