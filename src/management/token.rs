//! The literal token check of spec 82 §2. Pure; compares in constant time.

use std::fmt;

use subtle::ConstantTimeEq;

use super::http::parse::Head;
use super::query::{base64, parse_form};

/// The configured ManagementToken; empty = not configured. Never shown: `Debug` prints `***`.
#[derive(Clone, Default)]
pub struct Token(String);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// What a request may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Granted,
    /// It carries no token.
    Missing,
    /// It carries tokens, and none is the one.
    Wrong,
    /// No token is configured.
    Disabled,
}

impl Token {
    pub fn new(text: &str) -> Self {
        Self(text.to_owned())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The literal check: any one of the carriers suffices.
    pub fn check(&self, head: &Head) -> Verdict {
        if self.is_empty() {
            return Verdict::Disabled;
        }
        let offered = carried_tokens(head);
        match offered.iter().fold(false, |found, one| found | self.equals(one)) {
            true => Verdict::Granted,
            false if offered.is_empty() => Verdict::Missing,
            false => Verdict::Wrong,
        }
    }

    /// The stricter check of spec 82 §4 and `/_inspect/requests`: the header is exactly `Bearer TOKEN`.
    pub fn check_bearer(&self, head: &Head) -> Verdict {
        if self.is_empty() {
            return Verdict::Disabled;
        }
        match head.headers("authorization").next() {
            None => Verdict::Missing,
            Some(value) => match value.strip_prefix(b"Bearer ") {
                Some(token) if self.equals(token) => Verdict::Granted,
                _ => Verdict::Wrong,
            },
        }
    }

    fn equals(&self, other: &[u8]) -> bool {
        self.0.as_bytes().ct_eq(other).into()
    }
}

fn carried_tokens(head: &Head) -> Vec<Vec<u8>> {
    let mut tokens: Vec<Vec<u8>> = head.headers("authorization").filter_map(authorization_token).collect();
    let query = parse_form(head.query.as_bytes());
    tokens.extend(query.into_iter().filter(|(name, _)| name == "api_token").map(|(_, value)| value.into_bytes()));
    for cookies in head.headers("cookie") {
        let values = cookies.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
        tokens.extend(values.filter_map(|one| base64(one.strip_prefix(b"arvados_api_token=")?)));
    }
    tokens
}

fn authorization_token(value: &[u8]) -> Option<Vec<u8>> {
    let space = value.iter().position(|byte| *byte == b' ')?;
    let (scheme, rest) = (&value[..space], value[space..].trim_ascii());
    match scheme {
        b"Bearer" | b"OAuth2" => Some(rest.to_vec()),
        b"Basic" => {
            let decoded = base64(rest)?;
            let colon = decoded.iter().position(|byte| *byte == b':')?;
            Some(decoded[colon + 1..].to_vec())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::management::http::parse::parse_head;

    fn head(query: &str, headers: &str) -> Head {
        parse_head(format!("GET /x{query} HTTP/1.1\r\n{headers}\r\n").as_bytes()).unwrap()
    }

    #[test]
    fn carriers_and_verdicts() {
        let token = Token::new("abcdefgh");
        let rows = [
            ("", "", Verdict::Missing),
            ("", "Authorization: Bearer abcdefgh\r\n", Verdict::Granted),
            ("", "Authorization: Bearer   abcdefgh  \r\n", Verdict::Granted),
            ("", "Authorization: OAuth2 abcdefgh\r\n", Verdict::Granted),
            ("", "Authorization: Bearer abc\r\n", Verdict::Wrong),
            ("", "Authorization: Bearer abcdefgh1\r\n", Verdict::Wrong),
            ("", "Authorization: Digest abcdefgh\r\n", Verdict::Missing),
            // user:abcdefgh, abcdefgh:user
            ("", "Authorization: Basic dXNlcjphYmNkZWZnaA==\r\n", Verdict::Granted),
            ("", "Authorization: Basic YWJjZGVmZ2g6dXNlcg==\r\n", Verdict::Wrong),
            ("?api_token=abcdefgh", "", Verdict::Granted),
            ("?api_token=x&api_token=abcdefgh", "", Verdict::Granted),
            ("?api_token=x", "", Verdict::Wrong),
            ("", "Cookie: a=b; arvados_api_token=YWJjZGVmZ2g=\r\n", Verdict::Granted),
            ("", "Cookie: arvados_api_token=YWJj\r\n", Verdict::Wrong),
            ("?api_token=x", "Authorization: Bearer abcdefgh\r\n", Verdict::Granted),
        ];
        for (query, headers, expected) in rows {
            assert_eq!(token.check(&head(query, headers)), expected, "{query} {headers}");
            assert_eq!(Token::default().check(&head(query, headers)), Verdict::Disabled);
        }
        assert_eq!(format!("{token:?}"), "***");
    }

    #[test]
    fn exact_bearer() {
        let token = Token::new("abcdefgh");
        for (headers, expected) in [
            ("", Verdict::Missing),
            ("Authorization: Bearer abcdefgh\r\n", Verdict::Granted),
            ("Authorization: OAuth2 abcdefgh\r\n", Verdict::Wrong),
            ("Authorization: Bearer  abcdefgh\r\n", Verdict::Wrong),
        ] {
            assert_eq!(token.check_bearer(&head("?api_token=abcdefgh", headers)), expected, "{headers}");
        }
    }
}
