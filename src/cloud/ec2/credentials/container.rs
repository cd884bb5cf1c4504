//! Credentials from the agent of a container: ECS, or EKS with pod identities.
//!
//! The token that goes to the agent is a secret, and the environment may come from somebody else: so without TLS it goes only to this
//! host and to the addresses on which these agents are.

use std::path::Path;

use super::{Credentials, Found, Secret, document, read_token};
use crate::cloud::ec2::endpoint::Endpoint;
use crate::cloud::ec2::environment::Environment;
use crate::cloud::ec2::http::{Http, Limits, Request};
use crate::cloud::ec2::query::QueryError;
use crate::cloud::ec2::xml::excerpt;

const RELATIVE_URI: &str = "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI";
const FULL_URI: &str = "AWS_CONTAINER_CREDENTIALS_FULL_URI";
const TOKEN: &str = "AWS_CONTAINER_AUTHORIZATION_TOKEN";
const TOKEN_FILE: &str = "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE";

/// Where the agent of ECS is.
pub const AGENT_URL: &str = "http://169.254.170.2";
/// Where an agent may be asked without TLS: that of ECS, those of EKS.
const PLAIN_HOSTS: [&str; 3] = ["169.254.170.2", "169.254.170.23", "fd00:ec2::23"];

/// What the environment says of an agent. `agent_url` is where a relative URI leads to: [`AGENT_URL`] but in tests.
///
/// # Errors
/// The variables make no sense or name a place where no secret may go; the agent fails.
pub fn from_environment(environment: &Environment, agent_url: &str) -> Result<Found, QueryError> {
    let (endpoint, path) = match (environment.get(RELATIVE_URI), environment.get(FULL_URI)) {
        (None, None) => return Ok(Found::Nothing(format!("{RELATIVE_URI} and {FULL_URI} are not set"))),
        (Some(path), _) if path.starts_with('/') => Endpoint::parse(&format!("{agent_url}{path}"))?,
        (Some(path), _) => {
            return Err(QueryError::other(format!("{RELATIVE_URI} is {:?} and not a path", excerpt(path.as_bytes()))));
        }
        (None, Some(url)) => full(&url)?,
    };
    // What is between us and a proxy would see the secrets; and the agent is next to us.
    let http = Http::new(endpoint, None, Limits::METADATA, environment.spawn());
    ask(&http, &path, token(environment)?).map(Found::Credentials)
}

fn full(url: &str) -> Result<(Endpoint, String), QueryError> {
    let (endpoint, path) = Endpoint::parse(url)?;
    if endpoint.is_tls() || endpoint.is_loopback() || PLAIN_HOSTS.contains(&endpoint.host()) {
        return Ok((endpoint, path));
    }
    Err(QueryError::other(format!(
        "{FULL_URI} names {}: without TLS only this host and the agents of ECS and EKS are asked for credentials",
        endpoint.authority()
    )))
}

fn token(environment: &Environment) -> Result<Option<Secret>, QueryError> {
    match environment.get(TOKEN_FILE) {
        Some(path) => read_token(Path::new(&path), TOKEN_FILE).map(Some),
        None => Ok(environment.get(TOKEN).map(Secret::new)),
    }
}

fn ask(http: &Http, path: &str, token: Option<Secret>) -> Result<Credentials, QueryError> {
    let authorization = token.map(|token| ("Authorization".to_owned(), token.reveal().to_owned()));
    let headers = authorization.into_iter().chain([("Accept".to_owned(), "application/json".to_owned())]).collect();
    let answer = http.send(Request { method: "GET", path, headers, body: None, limit: None })?;
    if answer.status != 200 {
        let (status, text) = (answer.status, excerpt(&answer.body));
        let message = format!("the container's agent gives no credentials: HTTP status {status}: {text}");
        return Err(QueryError::other(message));
    }
    document::from_json(&answer.body, "the container's agent")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cloud::ec2::http::tests::server::{Reply, Server};

    const DOCUMENT: &str =
        r#"{"AccessKeyId": "ASIA", "SecretAccessKey": "s", "Token": "t", "Expiration": "2030-01-01T00:00:00Z"}"#;

    fn key_id(found: Result<Found, QueryError>) -> String {
        match found.expect("an answer") {
            Found::Credentials(credentials) => credentials.access_key_id,
            Found::Nothing(why) => panic!("{why}"),
        }
    }

    #[test]
    fn an_agent_is_asked_with_its_token() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("token");
        std::fs::write(&file, "of the file\n").expect("written");
        let file = file.to_str().expect("text");
        let server = Server::start((0..4).map(|_| Reply::text(200, DOCUMENT)).collect());
        let full = format!("{}/v1/credentials", server.url());
        for (variables, path, token) in [
            (vec![(RELATIVE_URI, "/v2/a?b=c"), (FULL_URI, "http://elsewhere")], "/v2/a?b=c", None),
            (vec![(FULL_URI, full.as_str())], "/v1/credentials", None),
            (vec![(FULL_URI, full.as_str()), (TOKEN, "of the variable")], "/v1/credentials", Some("of the variable")),
            (vec![(FULL_URI, full.as_str()), (TOKEN, "x"), (TOKEN_FILE, file)], "/v1/credentials", Some("of the file")),
        ] {
            assert_eq!(key_id(from_environment(&Environment::of(&variables, None), &server.url())), "ASIA");
            let asked = server.requests().pop().expect("a request");
            assert_eq!(asked.line, format!("GET {path} HTTP/1.1"));
            assert_eq!(asked.all("authorization"), token.into_iter().collect::<Vec<_>>());
            assert_eq!(asked.all("accept"), ["application/json"]);
        }
    }

    #[test]
    fn without_tls_only_agents_are_asked() {
        for (url, expected) in [
            ("https://anywhere.example/c", true),
            ("http://localhost:80/c", true),
            ("http://127.0.0.1/c", true),
            ("http://[::1]:8080/c", true),
            ("http://169.254.170.2/c", true),
            ("http://169.254.170.23/v1/credentials", true),
            ("http://[fd00:ec2::23]/v1/credentials", true),
            ("http://169.254.169.254/c", false),
            ("http://[fd00:ec2::254]/c", false),
            ("http://10.0.0.1/c", false),
            ("http://169.254.170.2.example/c", false),
            ("http://localhost.example/c", false),
            ("http://localhost@evil.example/c", false),
            ("ftp://127.0.0.1/c", false),
            ("/relative", false),
        ] {
            assert_eq!(full(url).is_ok(), expected, "{url}");
        }
    }

    #[test]
    fn an_agent_that_is_configured_and_fails_is_an_error() {
        let server = Server::start(vec![Reply::text(404, "no\nsuch task"), Reply::text(200, "{}")]);
        let ask = |variables: &[(&str, &str)]| {
            from_environment(&Environment::of(variables, None), &server.url()).map_err(|error| error.to_string())
        };
        let error = ask(&[(RELATIVE_URI, "/c")]).expect_err("refused");
        assert!(error.ends_with(r"HTTP status 404: no\nsuch task"), "{error}");
        assert!(ask(&[(RELATIVE_URI, "/c")]).expect_err("no document").contains("no key id"));
        assert!(ask(&[(RELATIVE_URI, "c")]).expect_err("no path").contains("not a path"));
        assert!(
            ask(&[(RELATIVE_URI, "/c"), (TOKEN_FILE, "/nonexistent")]).expect_err("no token").contains("/nonexistent")
        );
        assert!(matches!(ask(&[]), Ok(Found::Nothing(_))));
        assert_eq!(server.requests().len(), 2);
    }
}
