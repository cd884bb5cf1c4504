//! Where a service is called, and by way of which proxy. Pure but for the environment it is handed.

use std::net::IpAddr;

use ureq::http::Uri;
use ureq::{Proxy, ProxyProtocol};

use super::environment::Environment;
use super::query::QueryError;
use super::xml::excerpt;

/// Partitions of AWS that have a domain of their own: how their regions' names begin, and the domain. The others' is the public one.
const DOMAINS: [(&str, &str); 6] = [
    ("cn-", "amazonaws.com.cn"),
    ("eusc-", "amazonaws.eu"),
    ("us-iso-", "c2s.ic.gov"),
    ("us-isob-", "sc2s.sgov.gov"),
    ("us-isof-", "csp.hci.ic.gov"),
    ("eu-isoe-", "cloud.adc-e.uk"),
];
const PUBLIC_DOMAIN: &str = "amazonaws.com";

/// Scheme, host and port of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    is_tls: bool,
    /// `host` or `host:port`, as it stands in the `Host` header and so in what is signed.
    authority: String,
    /// Without brackets if it is an IPv6 address.
    host: String,
}

impl Endpoint {
    /// The public endpoint of a service (`ec2`, `sts`) in a region.
    ///
    /// # Errors
    /// The region is not of letters, digits and dashes: it becomes part of a host's name, to which signed requests go.
    pub fn of_service(service: &str, region: &str) -> Result<Self, QueryError> {
        if region.is_empty() {
            return Err(QueryError::other(
                "no region is configured: set DriverParameters.Region, for example us-east-1",
            ));
        }
        if !region.chars().all(|one| one.is_ascii_alphanumeric() || one == '-') {
            let shown = excerpt(region.as_bytes());
            return Err(QueryError::other(format!(
                "Region {shown:?} is none: it has other than letters, digits and dashes"
            )));
        }
        let own = DOMAINS.iter().find(|(prefix, _)| region.starts_with(prefix));
        let domain = own.map_or(PUBLIC_DOMAIN, |(_, domain)| domain);
        let host = format!("{service}.{region}.{domain}");
        Ok(Self { is_tls: true, authority: host.clone(), host })
    }

    /// Takes a URL apart into its endpoint and the path (with query) behind it, which begins with `/`.
    ///
    /// # Errors
    /// It is not of the form `http[s]://HOST[:PORT][/PATH]`.
    pub fn parse(url: &str) -> Result<(Self, String), QueryError> {
        let wrong = || {
            let shown = shown(url);
            QueryError::other(format!("the URL {shown:?} is not of the form http[s]://HOST[:PORT][/PATH]"))
        };
        let uri: Uri = url.parse().map_err(|_| wrong())?;
        let is_tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(wrong()),
        };
        let authority = uri.authority().filter(|one| !one.as_str().contains('@')).ok_or_else(wrong)?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() {
            return Err(wrong());
        }
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        Ok((Self { is_tls, authority: authority.as_str().to_owned(), host }, path))
    }

    /// An endpoint that is given in place of a service's own: a URL without a path.
    ///
    /// # Errors
    /// It is none, or has a path.
    pub fn given(url: &str) -> Result<Self, QueryError> {
        let (endpoint, path) = Self::parse(url)?;
        if path == "/" {
            return Ok(endpoint);
        }
        Err(QueryError::other(format!("the endpoint {:?} must not have a path", excerpt(url.as_bytes()))))
    }

    pub fn is_tls(&self) -> bool {
        self.is_tls
    }

    /// What the `Host` header says.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    pub fn host(&self) -> &str {
        &self.host
    }

    /// The URL of a path, which begins with `/`.
    pub fn url(&self, path: &str) -> String {
        format!("{}://{}{path}", if self.is_tls { "https" } else { "http" }, self.authority)
    }

    /// By its name: nothing is resolved.
    pub fn is_loopback(&self) -> bool {
        self.host == "localhost" || self.host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    }

    /// The proxy that the environment names for this endpoint, as other programs understand it: HTTPS_PROXY or HTTP_PROXY, or else
    /// ALL_PROXY, in either case, unless NO_PROXY has the host. This host itself is never reached through a proxy.
    ///
    /// # Errors
    /// A proxy is named that is not understood: it is not passed by, since that may be what it is there to prevent.
    pub fn proxy(&self, environment: &Environment) -> Result<Option<Proxy>, QueryError> {
        if self.is_loopback() {
            return Ok(None);
        }
        if environment.first(&["NO_PROXY", "no_proxy"]).is_some_and(|(_, list)| self.is_in(&list)) {
            return Ok(None);
        }
        let names: [&str; 4] = if self.is_tls {
            ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"]
        } else {
            ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"]
        };
        let Some((name, value)) = environment.first(&names) else {
            return Ok(None);
        };
        // The value may have a password: it is not shown.
        let wrong = || format!("the environment's {name} is not the URL of a proxy that is understood");
        let proxy = Proxy::new(value.trim()).map_err(|error| QueryError::caused(wrong(), error))?;
        // The client cannot do what others there are (SOCKS), and ends the process when it is asked to.
        match proxy.protocol() {
            ProxyProtocol::Http | ProxyProtocol::Https => Ok(Some(proxy)),
            _ => Err(QueryError::other(format!("{}: only http:// and https:// are supported", wrong()))),
        }
    }

    /// Whether a list as in NO_PROXY has the host: `*`, a name with or without a dot before it (which has those below it too).
    /// Ports and networks in it are not understood.
    fn is_in(&self, list: &str) -> bool {
        list.split(',').map(|entry| entry.trim().trim_start_matches('.')).filter(|entry| !entry.is_empty()).any(
            |entry| {
                let before = self.host.strip_suffix(entry);
                entry == "*" || before.is_some_and(|before| before.is_empty() || before.ends_with('.'))
            },
        )
    }
}

/// A URL for an error's text: who uses it, and with what password, is left out.
fn shown(url: &str) -> String {
    match url.rsplit_once('@') {
        Some((_, place)) => excerpt(format!("(hidden)@{place}").as_bytes()),
        None => excerpt(url.as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::errors::chain;

    #[test]
    fn regions_become_hosts() {
        for (region, expected) in [
            ("us-east-1", "https://ec2.us-east-1.amazonaws.com/"),
            ("us-gov-west-1", "https://ec2.us-gov-west-1.amazonaws.com/"),
            ("cn-north-1", "https://ec2.cn-north-1.amazonaws.com.cn/"),
            ("eusc-de-east-1", "https://ec2.eusc-de-east-1.amazonaws.eu/"),
            ("us-iso-east-1", "https://ec2.us-iso-east-1.c2s.ic.gov/"),
            ("us-isob-east-1", "https://ec2.us-isob-east-1.sc2s.sgov.gov/"),
            ("us-isof-south-1", "https://ec2.us-isof-south-1.csp.hci.ic.gov/"),
            ("eu-isoe-west-1", "https://ec2.eu-isoe-west-1.cloud.adc-e.uk/"),
            ("eu-west-1", "https://ec2.eu-west-1.amazonaws.com/"),
        ] {
            assert_eq!(Endpoint::of_service("ec2", region).expect("a region").url("/"), expected);
        }
        for region in ["", "us-east-1.evil.example", "us/east", "us@east", "us-east-1\n", "ü", "a b", "*"] {
            assert!(Endpoint::of_service("ec2", region).is_err(), "{region:?}");
        }
    }

    #[test]
    fn urls_are_taken_apart() {
        for (url, is_tls, authority, host, path) in [
            ("https://a.example", true, "a.example", "a.example", "/"),
            ("https://a.example:443/", true, "a.example:443", "a.example", "/"),
            ("http://127.0.0.1:5000/b/c?d=e", false, "127.0.0.1:5000", "127.0.0.1", "/b/c?d=e"),
            ("http://[fd00:ec2::23]/v1", false, "[fd00:ec2::23]", "fd00:ec2::23", "/v1"),
        ] {
            let (endpoint, rest) = Endpoint::parse(url).expect(url);
            assert_eq!((endpoint.is_tls(), endpoint.authority(), endpoint.host()), (is_tls, authority, host), "{url}");
            assert_eq!(rest, path, "{url}");
            assert_eq!(Endpoint::given(url).is_ok(), path == "/", "{url}");
        }
        for url in ["", "a.example", "/path", "ftp://a", "https://", "https://u:p@a", "https://a b", "http:a"] {
            assert!(Endpoint::parse(url).is_err(), "{url}");
        }
        let error = Endpoint::parse("https://me:hush@a.example/p").expect_err("with a password").to_string();
        assert!(error.contains("(hidden)@a.example/p") && !error.contains("hush") && !error.contains("me:"), "{error}");
    }

    #[test]
    fn loopback_is_told_by_name() {
        for (url, expected) in [
            ("http://localhost:1", true),
            ("http://127.8.9.1", true),
            ("http://[::1]:80", true),
            ("http://localhost.example", false),
            ("http://128.0.0.1", false),
            ("http://169.254.170.2", false),
        ] {
            assert_eq!(Endpoint::given(url).expect(url).is_loopback(), expected, "{url}");
        }
    }

    #[test]
    fn proxies_by_scheme_and_exception() {
        const PROXIES: &[(&str, &str)] = &[("https_proxy", "http://p:1"), ("HTTP_PROXY", "http://q:2")];
        let all = [("ALL_PROXY", "http://r:3")].as_slice();
        for (variables, no_proxy, url, expected) in [
            (PROXIES, "", "https://ec2.us-east-1.amazonaws.com", Some("p")),
            (PROXIES, "", "http://ec2.example", Some("q")),
            (PROXIES, "example, other", "http://ec2.example", None),
            (PROXIES, ".example", "http://ec2.example", None),
            (PROXIES, "ample", "http://ec2.example", Some("q")),
            (PROXIES, "*", "http://ec2.example", None),
            (PROXIES, " , ", "http://ec2.example", Some("q")),
            (PROXIES, "", "http://localhost:5000", None),
            (all, "", "https://ec2.example", Some("r")),
            (&[], "", "https://ec2.example", None),
        ] {
            let variables: Vec<_> = variables.iter().copied().chain([("NO_PROXY", no_proxy)]).collect();
            let proxy = Endpoint::given(url).expect(url).proxy(&Environment::of(&variables, None)).expect(url);
            assert_eq!(proxy.as_ref().map(Proxy::host), expected, "{url} {no_proxy}");
        }
        for scheme in ["nonsense", "socks", "socks4", "socks4a", "socks5", "socks5h"] {
            let wrong = Environment::of(&[("HTTPS_PROXY", &format!("{scheme}://u:secret@p"))], None);
            let error = Endpoint::given("https://a.example").expect("a URL").proxy(&wrong).expect_err("refused");
            assert!(error.to_string().contains("HTTPS_PROXY") && !chain(&error).contains("secret"), "{error:?}");
        }
    }
}
