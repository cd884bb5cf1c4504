//! One HTTP request and its whole answer, within limits of time and size. Runs in the caller's thread; it never repeats a request.
//!
//! Each request has a connection of its own. A connection that is kept may be closed by the service at the moment it is used again;
//! then nobody knows whether the request was read, and to send it once more could make a second instance. A handshake is cheap next
//! to a call of EC2, and calls are few. *Absent*: redirects (a signature is for one host), retries, statuses as errors.

use std::fmt;
use std::time::Duration;

use ureq::http;
use ureq::tls::{RootCerts, TlsConfig, TlsProvider};
use ureq::unversioned::transport::DefaultConnector;
use ureq::{Agent, Proxy};

use super::endpoint::Endpoint;
use super::names::{LookUpFailed, Names};
use super::query::QueryError;
use crate::remote::Spawn;

/// The content type of the forms that EC2 and STS take.
pub const FORM: &str = "application/x-www-form-urlencoded; charset=utf-8";

/// How long a request may take and how much may come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// For the name, and once more for connection, proxy and TLS together.
    pub connect: Duration,
    /// From the start to the last byte of the answer.
    pub whole: Duration,
    pub answer_bytes: u64,
}

impl Limits {
    /// For the services of AWS: a full page of instances is a few megabytes.
    pub const SERVICE: Self =
        Self { connect: Duration::from_secs(10), whole: Duration::from_secs(60), answer_bytes: 32 << 20 };
    /// For what is on this machine or next to it. Where no such service is, nothing may answer at all.
    pub const METADATA: Self =
        Self { connect: Duration::from_secs(1), whole: Duration::from_secs(5), answer_bytes: 1 << 20 };
}

/// What is asked. Headers are sent as they are, beside `Host`, `Connection`, `User-Agent` and `Accept`.
#[derive(Default)]
pub struct Request<'a> {
    pub method: &'static str,
    /// Begins with `/`.
    pub path: &'a str,
    pub headers: Vec<(String, String)>,
    /// `None`: the method has no body.
    pub body: Option<String>,
    /// If there is less time than the client has for the whole.
    pub limit: Option<Duration>,
}

impl fmt::Debug for Request<'_> {
    /// Without headers and body: there are tokens and secrets in them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.path)
    }
}

/// What came back, whatever its status.
pub struct Answer {
    pub status: u16,
    pub body: Vec<u8>,
}

impl fmt::Debug for Answer {
    /// Without the body: credentials come in it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HTTP status {} and {} bytes", self.status, self.body.len())
    }
}

/// A client of one endpoint; from any thread.
#[derive(Debug)]
pub struct Http {
    endpoint: Endpoint,
    limits: Limits,
    agent: Agent,
}

impl Http {
    /// `spawn` starts threads for look-ups of names.
    pub fn new(endpoint: Endpoint, proxy: Option<Proxy>, limits: Limits, spawn: Spawn) -> Self {
        // Roots of the system: a site may have its own, for a proxy that looks into TLS.
        let tls = TlsConfig::builder().provider(TlsProvider::NativeTls).root_certs(RootCerts::PlatformVerifier).build();
        let config = Agent::config_builder()
            .tls_config(tls)
            // Also where there is none: by default the environment would be asked.
            .proxy(proxy)
            .https_only(endpoint.is_tls())
            .http_status_as_error(false)
            .max_redirects(0)
            .max_idle_connections(0)
            .max_idle_connections_per_host(0)
            .timeout_connect(Some(limits.connect))
            .timeout_resolve(Some(limits.connect))
            .user_agent(concat!("muster/", env!("CARGO_PKG_VERSION")))
            .build();
        let agent = Agent::with_parts(config, DefaultConnector::default(), Names(spawn));
        Self { endpoint, limits, agent }
    }

    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Sends the request once and reads the whole answer.
    ///
    /// # Errors
    /// No answer, a cut one, one that takes too long or is too large. The request may have taken effect all the same.
    pub fn send(&self, request: Request<'_>) -> Result<Answer, QueryError> {
        let mut builder = http::Request::builder()
            .method(request.method)
            .uri(self.endpoint.url(request.path))
            .header("Host", self.endpoint.authority())
            .header("Connection", "close");
        for (name, value) in &request.headers {
            builder = builder.header(name, value);
        }
        let whole = self.limits.whole.min(request.limit.unwrap_or(Duration::MAX));
        let answer = match request.body {
            Some(body) => self.run(builder.body(body), whole),
            None => self.run(builder.body(()), whole),
        };
        answer.map_err(|error| self.explain(error, whole))
    }

    fn run<B: ureq::AsSendBody>(
        &self,
        request: http::Result<http::Request<B>>,
        whole: Duration,
    ) -> Result<Answer, ureq::Error> {
        let request = self.agent.configure_request(request?).timeout_global(Some(whole)).build();
        let mut response = self.agent.run(request)?;
        let body = response.body_mut().with_config().limit(self.limits.answer_bytes).read_to_vec()?;
        Ok(Answer { status: response.status().as_u16(), body })
    }

    /// Says what failed on the way to which service, and what to look at.
    fn explain(&self, error: ureq::Error, whole: Duration) -> QueryError {
        let error = match error {
            ureq::Error::Other(inner) => match inner.downcast::<LookUpFailed>() {
                Ok(failed) => return self.explain_look_up(*failed),
                Err(inner) => ureq::Error::Other(inner),
            },
            other => other,
        };
        let endpoint = self.endpoint.authority();
        let message = match &error {
            ureq::Error::Timeout(ureq::Timeout::Resolve) => {
                let seconds = self.limits.connect.as_secs_f64();
                format!("what {endpoint} stands for is not known after {seconds} s: check this host's name service")
            }
            ureq::Error::Timeout(ureq::Timeout::Connect) => {
                let seconds = self.limits.connect.as_secs_f64();
                format!(
                    "no connection to {endpoint} within {seconds} s: check routes, firewalls and the proxy variables"
                )
            }
            ureq::Error::Timeout(_) => {
                format!("{endpoint} has not answered within {} s", whole.as_secs_f64())
            }
            ureq::Error::NativeTls(_) | ureq::Error::Tls(_) => {
                format!(
                    "TLS with {endpoint} failed: check this system's root certificates (ca-certificates) and its time"
                )
            }
            ureq::Error::BodyExceedsLimit(limit) => {
                format!("the answer of {endpoint} has more than {limit} bytes")
            }
            ureq::Error::ConnectProxyFailed(_) => format!("the proxy does not connect to {endpoint}"),
            ureq::Error::Io(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                format!("{endpoint} refuses connections")
            }
            ureq::Error::Http(_) => format!("a request to {endpoint} cannot be made of what is configured"),
            _ => format!("the call to {endpoint} failed or its answer was cut"),
        };
        QueryError::caused(message, error)
    }

    fn explain_look_up(&self, failed: LookUpFailed) -> QueryError {
        let LookUpFailed { host, error } = failed;
        let message = match error.kind() {
            std::io::ErrorKind::NotFound if host == self.endpoint.host() => {
                format!("there is no host {host}: is Region right?")
            }
            std::io::ErrorKind::NotFound => {
                format!("there is no host {host}, by which the environment's proxy variables lead")
            }
            _ => format!("the name {host} cannot be looked up: check this host's name service"),
        };
        QueryError::caused(message, error)
    }
}

#[cfg(test)]
pub(in crate::cloud::ec2) mod tests;
