//! Answers and their bytes. Pure but for the date header's clock.

use std::borrow::Cow;

use serde::Serialize;

use super::parse::Refusal;

pub const JSON: &str = "application/json";
pub const TEXT: &str = "text/plain; charset=utf-8";

/// One answer. `Content-Length`, `Date` and `Connection` are added when it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    /// Names and values are ours, or checked: no line breaks.
    pub headers: Vec<(&'static str, Cow<'static, str>)>,
    pub body: Vec<u8>,
}

impl Response {
    pub fn new(status: u16, content_type: &'static str, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: vec![("Content-Type", content_type.into())], body: body.into() }
    }

    /// 200 without a body.
    pub fn empty() -> Self {
        Self { status: 200, headers: Vec::new(), body: Vec::new() }
    }

    pub fn text(status: u16, body: &str) -> Self {
        Self::new(status, TEXT, body)
    }

    /// One JSON document and a newline.
    pub fn json(status: u16, document: &impl Serialize) -> Self {
        match serde_json::to_vec(document) {
            Ok(mut body) => {
                body.push(b'\n');
                Self::new(status, JSON, body)
            }
            Err(error) => Self::errors(500, &format!("cannot write the answer as JSON: {error}")),
        }
    }

    /// `{"errors":["message"]}`
    pub fn errors(status: u16, message: &str) -> Self {
        Self::json(status, &serde_json::json!({"errors": [message]}))
    }

    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<Cow<'static, str>>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// The bytes to send, all of them.
    pub fn to_bytes(&self, close: bool) -> Vec<u8> {
        let mut bytes = self.head(close);
        bytes.extend_from_slice(&self.body);
        bytes
    }

    /// What comes before the body.
    pub fn head(&self, close: bool) -> Vec<u8> {
        let mut head = format!("HTTP/1.1 {} {}\r\n", self.status, reason(self.status));
        let date = jiff::Timestamp::now().strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
        let length = self.body.len().to_string();
        let own = [("Date", date.as_str()), ("Content-Length", length.as_str())];
        let connection = close.then_some(("Connection", "close"));
        let given = self.headers.iter().map(|(name, value)| (*name, value.as_ref()));
        for (name, value) in given.chain(own).chain(connection) {
            head.push_str(name);
            head.push_str(": ");
            head.push_str(value);
            head.push_str("\r\n");
        }
        head.push_str("\r\n");
        head.into_bytes()
    }
}

impl From<&Refusal> for Response {
    fn from(refusal: &Refusal) -> Self {
        Self::errors(refusal.status, &refusal.text)
    }
}

/// The words of the status line.
pub const fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        301 => "Moved Permanently",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        413 => "Content Too Large",
        422 => "Unprocessable Content",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        _ => "Unknown",
    }
}
