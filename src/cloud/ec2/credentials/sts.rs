//! Calls of STS, by which credentials of a role are had. Each is one request, never repeated; refusals and outages are for people.

use std::time::{Duration, Instant};

use super::chain::FIND_LIMIT;
use super::{Credentials, document};
use crate::cloud::ec2::endpoint::Endpoint;
use crate::cloud::ec2::environment::Environment;
use crate::cloud::ec2::http::{FORM, Http, Limits, Request};
use crate::cloud::ec2::query::{Params, QueryError};
use crate::cloud::ec2::sigv4::{self, Scope};
use crate::cloud::ec2::xml;
use crate::core::time::WallMillis;
use crate::core::units::format_duration;

const VERSION: &str = "2011-06-15";
/// What a session is called in logs of AWS if nothing is configured.
const DEFAULT_SESSION_NAME: &str = "muster";
/// Several roles may have to be asked for in a row, and somebody waits for the last of them.
const LIMITS: Limits = Limits { whole: Duration::from_secs(20), answer_bytes: 1 << 20, ..Limits::SERVICE };

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    pub action: &'static str,
    pub role_arn: &'a str,
    pub session_name: Option<&'a str>,
    /// The call is not begun after this, nor waited for.
    pub deadline: Instant,
}

/// Who asks, and when it is.
#[derive(Clone, Copy, Debug)]
pub struct Signer<'a> {
    pub credentials: &'a Credentials,
    pub now: WallMillis,
}

/// Asks for the role's credentials. `more` are the action's own parameters; without a signer they are what the call proves itself by.
///
/// # Errors
/// The call cannot be made, fails or is refused.
pub fn ask(
    wanted: Wanted<'_>,
    more: Params,
    signer: Option<Signer<'_>>,
    environment: &Environment,
    region: &str,
) -> Result<Credentials, QueryError> {
    let endpoint = match environment.endpoint_url("STS") {
        Some(url) => Endpoint::given(url.trim())?,
        None => Endpoint::of_service("sts", region)?,
    };
    let mut params = Params::default();
    params.add("Action", wanted.action);
    params.add("Version", VERSION);
    params.add("RoleArn", wanted.role_arn);
    params.add("RoleSessionName", wanted.session_name.unwrap_or(DEFAULT_SESSION_NAME));
    params.0.extend(more.0);
    let body = params.encode();
    let headers = match signer {
        None => vec![("Content-Type".to_owned(), FORM.to_owned())],
        Some(signer) => {
            let scope = Scope { region: region.to_owned(), service: "sts" };
            sigv4::sign_form(endpoint.authority(), &body, &scope, signer.credentials, signer.now)
        }
    };
    let proxy = endpoint.proxy(environment)?;
    let http = Http::new(endpoint, proxy, LIMITS, environment.spawn());
    let left = wanted.deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(QueryError::other(format!(
            "STS was not asked for the role {}: the {} that a search for credentials has is over",
            xml::excerpt(wanted.role_arn.as_bytes()),
            format_duration(FIND_LIMIT)
        )));
    }
    let answer = http.send(Request { method: "POST", path: "/", headers, body: Some(body), limit: Some(left) })?;
    let root = match answer.status {
        // Not shown if it cannot be read: it has secrets in it.
        200..300 => xml::parse(&answer.body)
            .map_err(|why| QueryError::other(format!("the answer of STS is not whole XML ({why})")))?,
        status => xml::answer(status, &answer.body).map_err(|error| refused(error, wanted.role_arn))?,
    };
    let credentials = root.at(&[&format!("{}Result", wanted.action), "Credentials"]);
    document::from_sts(credentials.ok_or_else(|| QueryError::other("the answer of STS has no credentials"))?)
}

/// A refusal of STS must not be taken for one of EC2: its codes mean something else for the pool.
fn refused(error: QueryError, role_arn: &str) -> QueryError {
    QueryError::caused(format!("STS does not give the role {}", xml::excerpt(role_arn.as_bytes())), error)
}
