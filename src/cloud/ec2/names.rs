//! What the names of services stand for, as the HTTP client asks for it.
//!
//! The client's own resolver starts a thread for each request, even to a number, and panics when the system has none left; that would
//! end the process. Here numbers need no thread, and one that cannot be had is an error.

use std::error::Error;
use std::fmt;
use std::io;
use std::time::{Duration, Instant};

use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

use crate::remote::Spawn;
use crate::remote::resolve::{Deadline, resolve};

/// If the client says none.
const LIMIT_MAX: Duration = Duration::from_secs(60);

/// See the module.
pub(super) struct Names(pub(super) Spawn);

impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Names")
    }
}

/// A name could not be looked up: with [`io::ErrorKind::NotFound`] it is not known.
#[derive(Debug)]
pub(super) struct LookUpFailed {
    pub(super) host: String,
    pub(super) error: io::Error,
}

impl fmt::Display for LookUpFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot look up {}", self.host)
    }
}

impl Error for LookUpFailed {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.error)
    }
}

impl Resolver for Names {
    fn resolve(&self, uri: &Uri, _config: &Config, timeout: NextTimeout) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 });
        let deadline = Deadline(Instant::now() + LIMIT_MAX.min(*timeout.after));
        let found = resolve(host, port, &self.0, &deadline).map_err(|error| match error.kind() {
            io::ErrorKind::TimedOut => ureq::Error::Timeout(timeout.reason),
            _ => ureq::Error::Other(Box::new(LookUpFailed { host: host.to_owned(), error })),
        })?;
        let mut addresses = self.empty();

        // There is room for more than are ever found.
        found.into_iter().for_each(|address| drop(addresses.try_push(address)));
        Ok(addresses)
    }
}
