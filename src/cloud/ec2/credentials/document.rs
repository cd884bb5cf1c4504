//! The documents in which temporary credentials come: JSON of the local services and of programs, XML of STS. Pure.

use jiff::Timestamp;
use serde_json::Value;

use super::{Credentials, Lifetime, Secret};
use crate::cloud::ec2::query::{Element, QueryError};
use crate::cloud::ec2::xml::excerpt;

/// The document of a container's agent or of an instance's metadata service. What it says is not shown in errors.
///
/// # Errors
/// It is not such a document, or says that there are no credentials.
pub fn from_json(body: &[u8], whose: &str) -> Result<Credentials, QueryError> {
    let document = json(body, whose)?;
    let text = |name: &str| document.get(name).and_then(Value::as_str);
    // The metadata service says so in the document, with status 200.
    if let Some(code) = text("Code").filter(|code| *code != "Success") {
        let (code, message) = (excerpt(code.as_bytes()), excerpt(text("Message").unwrap_or_default().as_bytes()));
        return Err(QueryError::other(format!("{whose} has no credentials: {code} {message}")));
    }
    let [token, end] = optional(&document, ["Token", "Expiration"], whose)?;
    temporary(whose, [text("AccessKeyId"), text("SecretAccessKey"), token, end])
}

/// What a program prints that a profile names as its `credential_process`. What it says is not shown in errors.
///
/// # Errors
/// It is not such a document.
pub fn from_program(output: &[u8], whose: &str) -> Result<Credentials, QueryError> {
    let document = json(output, whose)?;
    if document.get("Version").and_then(Value::as_u64) != Some(1) {
        return Err(QueryError::other(format!("the credentials of {whose} are of another Version than 1")));
    }
    let text = |name: &str| document.get(name).and_then(Value::as_str);
    let [token, end] = optional(&document, ["SessionToken", "Expiration"], whose)?;
    temporary(whose, [text("AccessKeyId"), text("SecretAccessKey"), token, end])
}

/// What may be absent, or null. Keys whose end or token cannot be read are not taken for some without.
fn optional<'d>(document: &'d Value, names: [&str; 2], whose: &str) -> Result<[Option<&'d str>; 2], QueryError> {
    let mut texts = [None; 2];
    for (name, text) in names.into_iter().zip(&mut texts) {
        *text = match document.get(name) {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) => Some(text.as_str()),
            Some(_) => {
                return Err(QueryError::other(format!("the credentials of {whose} have {name}, but not as text")));
            }
        };
    }
    Ok(texts)
}

/// The error says the place of a fault, and nothing of what stands there.
fn json(text: &[u8], whose: &str) -> Result<Value, QueryError> {
    serde_json::from_slice(text)
        .map_err(|error| QueryError::caused(format!("the credentials of {whose} are not JSON"), error))
}

/// The `Credentials` element of an answer of STS.
///
/// # Errors
/// Something of them is missing.
pub fn from_sts(element: &Element) -> Result<Credentials, QueryError> {
    let text = |name: &str| element.text_of(&[name]);
    temporary("STS", [text("AccessKeyId"), text("SecretAccessKey"), text("SessionToken"), text("Expiration")])
}

fn temporary(whose: &str, parts: [Option<&str>; 4]) -> Result<Credentials, QueryError> {
    let [id, secret, token, expiration] = parts.map(|part| part.filter(|text| !text.is_empty()));
    let (Some(id), Some(secret)) = (id, secret) else {
        return Err(QueryError::other(format!("the credentials of {whose} have no key id or no secret")));
    };
    let lifetime = match expiration.map(str::parse::<Timestamp>) {
        Some(Ok(time)) => Lifetime::Until(time.as_millisecond()),
        // An agent or program of one's own may serve keys that do not end; but ask it again.
        None => Lifetime::Reread,
        // The parser's error would show the text.
        Some(Err(_)) => {
            return Err(QueryError::other(format!("the credentials of {whose} have an Expiration that is no time")));
        }
    };
    Ok(Credentials {
        access_key_id: id.to_owned(),
        secret_access_key: Secret::new(secret),
        session_token: token.map(Secret::new),
        lifetime,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_of_the_local_services() {
        let text = r#"{"Code": "Success", "LastUpdated": "2026-01-02T03:04:05Z", "Type": "AWS-HMAC", "AccessKeyId": "ASIA",
                       "SecretAccessKey": "s", "Token": "t", "Expiration": "1970-01-01T00:00:10Z"}"#;
        let credentials = from_json(text.as_bytes(), "it").expect("credentials");
        assert_eq!(credentials.access_key_id, "ASIA");
        assert_eq!(credentials.secret_access_key.reveal(), "s");
        assert_eq!(credentials.session_token.as_ref().map(Secret::reveal), Some("t"));
        assert_eq!(credentials.lifetime, Lifetime::Until(10_000));
        let bare =
            from_json(br#"{"AccessKeyId": "A", "SecretAccessKey": "s", "Token": ""}"#, "it").expect("credentials");
        assert_eq!((bare.session_token, bare.lifetime), (None, Lifetime::Reread));
        let nulls = r#"{"Version": 1, "AccessKeyId": "A", "SecretAccessKey": "s", "Token": null, "SessionToken": null, "Expiration": null}"#;
        for read in [from_json, from_program] {
            let bare = read(nulls.as_bytes(), "it").expect("credentials");
            assert_eq!((bare.session_token, bare.lifetime), (None, Lifetime::Reread));
        }
    }

    #[test]
    fn what_is_no_document_is_refused_without_showing_it() {
        for (text, expected) in [
            ("", "not JSON"),
            ("[]", "no key id"),
            (r#"{"AccessKeyId": "A", "SecretAccessKey": ""}"#, "no key id or no secret"),
            (r#"{"AccessKeyId": 1, "SecretAccessKey": "hush"}"#, "no key id or no secret"),
            (r#"{"AccessKeyId": "A", "SecretAccessKey": "x", "Expiration": "hush"}"#, "Expiration that is no time"),
            (
                r#"{"AccessKeyId": "A", "SecretAccessKey": "hush", "Token": "t", "Expiration": 1893456000}"#,
                "have Expiration, but not as text",
            ),
            (r#"{"AccessKeyId": "A", "SecretAccessKey": "x", "Token": ["hush"]}"#, "have Token, but not as text"),
            (r#"{"Code": "Failed", "Message": "no\nrole"}"#, r"it has no credentials: Failed no\nrole"),
        ] {
            let error = from_json(text.as_bytes(), "it").expect_err(text);
            assert!(error.to_string().contains(expected) && !format!("{error:?}").contains("hush"), "{error:?}");
        }
        for (part, expected) in [
            (r#""Expiration": 1893456000"#, "have Expiration, but not as text"),
            (r#""SessionToken": {}"#, "have SessionToken, but not as text"),
        ] {
            let text = format!(r#"{{"Version": 1, "AccessKeyId": "A", "SecretAccessKey": "hush", {part}}}"#);
            let error = from_program(text.as_bytes(), "it").expect_err(part);
            assert!(error.to_string().contains(expected) && !format!("{error:?}").contains("hush"), "{error:?}");
        }
    }
}
