//! Calls of the tests' own, straight to moto: without a signature, and with nothing of the program under test.

use std::fmt;

use crate::http::Message;
use crate::xml::Element;

/// Why a call has failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    /// The status of the answer.
    pub status: u16,
    /// The code, or the empty string.
    pub code: String,
    /// The message, or whatever came instead.
    pub message: String,
}

impl fmt::Display for ApiError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} ({}): {}", self.code, self.status, self.message)
    }
}

impl std::error::Error for ApiError {}

/// A call in EC2's query form: action, then parameters with their values.
pub(crate) fn call(
    port: u16,
    service: &str,
    version: &str,
    action: &str,
    parameters: &[(&str, &str)],
) -> Result<Element, ApiError> {
    let mut form = form_urlencoded::Serializer::new(String::new());
    form.append_pair("Action", action).append_pair("Version", version).extend_pairs(parameters);
    let mut request = Message {
        first: "POST / HTTP/1.1".to_owned(),
        headers: vec![
            ("Host".to_owned(), format!("127.0.0.1:{port}")),
            ("Content-Type".to_owned(), "application/x-www-form-urlencoded; charset=utf-8".to_owned()),
            // moto finds service and region in it.
            (
                "Authorization".to_owned(),
                format!(
                    "AWS4-HMAC-SHA256 Credential=test/20200101/{}/{service}/aws4_request, SignedHeaders=host, Signature=0",
                    crate::moto::REGION
                ),
            ),
            ("X-Test-Unsigned".to_owned(), "1".to_owned()),
        ],
        body: Vec::new(),
    };
    request.set_body(form.finish().into_bytes());
    let answer = request.forward(port).map_err(|error| ApiError {
        status: 0,
        code: String::new(),
        message: format!("moto does not answer: {error}"),
    })?;
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    match Element::parse(&text) {
        Some(root) if answer.status() == 200 => Ok(root),
        root => {
            let found = |name: &str| error_field(root.as_ref()?, name);
            let (code, message) = (found("Code").unwrap_or_default(), found("Message").unwrap_or(text));
            Err(ApiError { status: answer.status(), code, message })
        }
    }
}

/// EC2 has `Response/Errors/Error`, other services have `ErrorResponse/Error`.
fn error_field(root: &Element, name: &str) -> Option<String> {
    let of_ec2 = root.at(&format!("Errors/Error/{name}"));
    of_ec2.or_else(|| root.at(&format!("Error/{name}"))).map(str::to_owned)
}
