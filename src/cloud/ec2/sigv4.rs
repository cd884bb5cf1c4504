//! AWS Signature Version 4 in the form of headers. Pure: the time is handed in.
//!
//! A signature covers method, path, query, the headers that are given, and the body's hash; its key is made of the secret, the day, the
//! region and the service. AWS refuses one whose time differs by more than five minutes from its own.

use std::collections::BTreeMap;
use std::fmt::{self, Write};

use hmac::{Hmac, KeyInit, Mac};
use jiff::Timestamp;
use sha2::{Digest, Sha256};

use super::credentials::Credentials;
use super::http::FORM;
use super::query::{Params, percent_encode};
use crate::core::time::WallMillis;

const ALGORITHM: &str = "AWS4-HMAC-SHA256";

/// What a signature is valid for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    pub region: String,
    /// `ec2`, `sts`.
    pub service: &'static str,
}

/// The request as the signature sees it.
#[derive(Clone)]
pub struct Signable<'a> {
    pub method: &'a str,
    /// Before any encoding.
    pub path: &'a str,
    pub query: &'a Params,
    /// All that are to be signed, in the order they are sent, `Host` among them.
    pub headers: &'a [(String, String)],
    pub body: &'a str,
}

impl fmt::Debug for Signable<'_> {
    /// Without headers and body: there are tokens and secrets in them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.path)
    }
}

/// The headers to be added to those that were signed: `X-Amz-Date`, `X-Amz-Security-Token` if the credentials are of a session, and
/// `Authorization`. `now` is signed to the second.
pub fn sign(
    request: &Signable<'_>,
    scope: &Scope,
    credentials: &Credentials,
    now: WallMillis,
) -> Vec<(String, String)> {
    let time = Timestamp::from_millisecond(now).unwrap_or(Timestamp::UNIX_EPOCH);
    let stamp = time.strftime("%Y%m%dT%H%M%SZ").to_string();
    let day = time.strftime("%Y%m%d").to_string();

    let mut added = vec![("X-Amz-Date".to_owned(), stamp.clone())];
    if let Some(token) = &credentials.session_token {
        added.push(("X-Amz-Security-Token".to_owned(), token.reveal().to_owned()));
    }
    let (canonical, signed_headers) = canonical_request(request, &added);
    let scope_text = format!("{day}/{}/{}/aws4_request", scope.region, scope.service);
    let to_sign = format!("{ALGORITHM}\n{stamp}\n{scope_text}\n{}", hex(&Sha256::digest(canonical.as_bytes())));
    let key = signing_key(credentials.secret_access_key.reveal(), &day, scope);
    let signature = hex(&hmac(&key, &to_sign));
    let authorization = format!(
        "{ALGORITHM} Credential={}/{scope_text}, SignedHeaders={signed_headers}, Signature={signature}",
        credentials.access_key_id
    );
    added.push(("Authorization".to_owned(), authorization));
    added
}

/// All headers of a form that is posted to `/` at this host (with its port, if that is named), but for `Host` itself.
pub fn sign_form(
    host: &str,
    form: &str,
    scope: &Scope,
    credentials: &Credentials,
    now: WallMillis,
) -> Vec<(String, String)> {
    let signed = [("Content-Type".to_owned(), FORM.to_owned()), ("Host".to_owned(), host.to_owned())];
    let request = Signable { method: "POST", path: "/", query: &Params::default(), headers: &signed, body: form };
    let mut headers = sign(&request, scope, credentials, now);
    let [content_type, _] = signed;
    headers.push(content_type);
    headers
}

/// The text whose hash is signed, and the names of its headers.
fn canonical_request(request: &Signable<'_>, added: &[(String, String)]) -> (String, String) {
    // Sorted by name; the values of equal names in the order they are sent.
    let mut headers: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in request.headers.iter().chain(added) {
        let value = value.split_whitespace().collect::<Vec<_>>().join(" ");
        headers.entry(name.to_ascii_lowercase()).or_default().push(value);
    }
    let names = headers.keys().map(String::as_str).collect::<Vec<_>>().join(";");
    let mut text = format!("{}\n{}\n{}\n", request.method, encoded_path(request.path), encoded_query(request.query));
    for (name, values) in &headers {
        text.push_str(&format!("{name}:{}\n", values.join(",")));
    }
    text.push_str(&format!("\n{names}\n{}", hex(&Sha256::digest(request.body.as_bytes()))));
    (text, names)
}

fn encoded_path(path: &str) -> String {
    let mut text = String::new();
    for (index, segment) in path.split('/').enumerate() {
        if index > 0 {
            text.push('/');
        }
        percent_encode(segment, &mut text);
    }
    text
}

/// Sorted by encoded name, then by encoded value.
fn encoded_query(query: &Params) -> String {
    let encoded = |text: &str| {
        let mut out = String::new();
        percent_encode(text, &mut out);
        out
    };
    let mut pairs: Vec<(String, String)> =
        query.0.iter().map(|(name, value)| (encoded(name), encoded(value))).collect();
    pairs.sort();
    pairs.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&")
}

fn signing_key(secret: &str, day: &str, scope: &Scope) -> [u8; 32] {
    let of_day = hmac(format!("AWS4{secret}").as_bytes(), day);
    let of_region = hmac(&of_day, &scope.region);
    let of_service = hmac(&of_region, scope.service);
    hmac(&of_service, "aws4_request")
}

fn hmac(key: &[u8], text: &str) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().into()
}

/// Two lower-case digits for each byte.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests;
