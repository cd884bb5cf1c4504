//! No text makes the reader panic, hang, or accept what is not the key.

use muster::remote::ssh::key::PrivateKey;
use proptest::prelude::*;

use crate::tools::Workshop;

#[derive(Clone, Debug)]
enum Change {
    Truncate(prop::sample::Index),
    Replace(prop::sample::Index, char),
    Remove(prop::sample::Index, usize),
    Double(prop::sample::Index, usize),
    /// Of the bytes in the base64 text.
    Byte(prop::sample::Index, u8),
}

fn change() -> impl Strategy<Value = Change> {
    let place = any::<prop::sample::Index>;
    prop_oneof![
        place().prop_map(Change::Truncate),
        (place(), any::<char>()).prop_map(|(place, letter)| Change::Replace(place, letter)),
        (place(), 1..100_usize).prop_map(|(place, count)| Change::Remove(place, count)),
        (place(), 1..100_usize).prop_map(|(place, count)| Change::Double(place, count)),
        (place(), any::<u8>()).prop_map(|(place, byte)| Change::Byte(place, byte)),
        (place(), any::<u8>()).prop_map(|(place, byte)| Change::Byte(place, byte)),
    ]
}

fn apply(text: &str, change: &Change) -> String {
    let letters: Vec<char> = text.chars().collect();
    let cut = |place: &prop::sample::Index, count: usize| {
        let start = place.index(letters.len());
        (start, letters.len().min(start + count))
    };
    match change {
        _ if letters.is_empty() => String::new(),
        Change::Truncate(place) => letters[..place.index(letters.len())].iter().collect(),
        Change::Replace(place, letter) => {
            let (start, end) = cut(place, 1);
            letters[..start].iter().chain([letter]).chain(&letters[end..]).collect()
        }
        Change::Remove(place, count) => {
            let (start, end) = cut(place, *count);
            letters[..start].iter().chain(&letters[end..]).collect()
        }
        Change::Double(place, count) => {
            let (start, end) = cut(place, *count);
            letters[..end].iter().chain(&letters[start..]).collect()
        }
        Change::Byte(place, byte) => in_the_bytes(text, place, *byte).unwrap_or_else(|| text.to_owned()),
    }
}

/// Changes one byte of what the base64 lines say: so the mutation gets past the first checks.
fn in_the_bytes(text: &str, place: &prop::sample::Index, byte: u8) -> Option<String> {
    let lines: Vec<&str> = text.lines().collect();
    let (first, last) = (lines.first()?, lines.last()?);
    let body: String = lines.iter().filter(|line| !line.starts_with("---")).copied().collect();
    let mut bytes = openssl::base64::decode_block(&body).ok().filter(|bytes| !bytes.is_empty())?;
    let index = place.index(bytes.len());
    bytes[index] ^= byte;
    let body = openssl::base64::encode_block(&bytes);
    let lines: Vec<String> =
        body.as_bytes().chunks(64).map(|line| String::from_utf8_lossy(line).into_owned()).collect();
    Some(format!("{first}\n{}\n{last}\n", lines.join("\n")))
}

/// Texts of all forms, with the point they stand for.
fn originals() -> &'static [(String, String)] {
    static ORIGINALS: std::sync::LazyLock<Vec<(String, String)>> = std::sync::LazyLock::new(|| {
        let all = Workshop::new().all();
        all.into_iter().map(|made| (made.text, made.fingerprint)).collect()
    });
    &ORIGINALS
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn changed_texts_end_in_a_key_or_an_error(which in any::<prop::sample::Index>(), changes in prop::collection::vec(change(), 1..4)) {
        let (text, _) = which.get(originals());
        let changed = changes.iter().fold(text.clone(), |text, change| apply(&text, change));
        match PrivateKey::parse(&changed) {
            Ok(key) => {
                prop_assert!(PrivateKey::parse(key.text()).is_ok());
                prop_assert!(!key.public_openssh().contains('\n'));
            }
            Err(error) => {
                let message = error.to_string();
                prop_assert!(!message.contains('\n') && message.len() < 400, "{}", message);
                // Nothing of the key is repeated.
                let secret = text.lines().filter(|line| !line.starts_with("---")).find_map(|line| line.get(..16));
                prop_assert!(secret.is_none_or(|secret| !message.contains(secret)), "{}", message);
            }
        }
    }

    /// In OpenSSH form everything that matters is there twice: a changed byte is found, or changes nothing.
    #[test]
    fn a_changed_byte_is_found(which in any::<prop::sample::Index>(), place in any::<prop::sample::Index>(), byte in 1..=255_u8) {
        let openssh: Vec<_> = originals().iter().filter(|(text, _)| text.contains("OPENSSH")).collect();
        let (text, fingerprint) = which.get(&openssh);
        let changed = in_the_bytes(text, &place, byte).expect("base64");
        if let Ok(key) = PrivateKey::parse(&changed) {
            prop_assert_eq!(&key.fingerprint(), fingerprint);
        }
    }

    #[test]
    fn any_text(text in any::<String>(), label in "[A-Z ]{0,12}") {
        let _ = PrivateKey::parse(&text);
        let _ = PrivateKey::parse(&format!("-----BEGIN {label}PRIVATE KEY-----\n{text}\n-----END {label}PRIVATE KEY-----"));
    }
}
