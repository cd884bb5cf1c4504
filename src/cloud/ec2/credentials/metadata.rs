//! Credentials of the role that this instance has, from its metadata service (IMDSv2): a token by PUT, which no careless forwarder
//! passes on, then the role's name and document. The older form without a token is not asked for.

use super::{Credentials, Found, document};
use crate::cloud::ec2::endpoint::Endpoint;
use crate::cloud::ec2::environment::Environment;
use crate::cloud::ec2::http::{Answer, Http, Limits, Request};
use crate::cloud::ec2::query::QueryError;
use crate::cloud::ec2::xml::excerpt;
use crate::core::errors::chain;

const DISABLED: &str = "AWS_EC2_METADATA_DISABLED";
const ENDPOINT: &str = "AWS_EC2_METADATA_SERVICE_ENDPOINT";
const ENDPOINT_MODE: &str = "AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE";

pub const METADATA_URL: &str = "http://169.254.169.254";
const METADATA_URL_IPV6: &str = "http://[fd00:ec2::254]";
const ROLES: &str = "/latest/meta-data/iam/security-credentials/";
/// Enough for the two requests that follow.
const TOKEN_SECONDS: &str = "60";

/// What the metadata service has. `metadata_url` is where it is unless the environment says otherwise: [`METADATA_URL`] but in tests.
///
/// # Errors
/// It is there, and fails. That nobody answers is no error: this is not an instance.
pub fn from_service(environment: &Environment, metadata_url: &str) -> Result<Found, QueryError> {
    if environment.get(DISABLED).is_some_and(|value| value.trim().eq_ignore_ascii_case("true")) {
        return Ok(Found::Nothing(format!("{DISABLED} is set")));
    }
    let ipv6 = environment.get(ENDPOINT_MODE).is_some_and(|mode| mode.trim().eq_ignore_ascii_case("ipv6"));
    let default = if ipv6 { METADATA_URL_IPV6 } else { metadata_url };
    let url = environment.get(ENDPOINT).unwrap_or_else(|| default.to_owned());
    let service = Service(Http::new(Endpoint::given(url.trim())?, None, Limits::METADATA, environment.spawn()));

    let token = match service.token() {
        Ok(token) => token,
        Err(error) => return Ok(Found::Nothing(chain(&error))),
    };
    match service.role(&token)? {
        Some(role) => service.credentials(&role, &token).map(Found::Credentials),
        None => Ok(Found::Nothing("this instance has no role (no IAM instance profile)".to_owned())),
    }
}

struct Service(Http);

impl Service {
    fn token(&self) -> Result<String, QueryError> {
        let headers = vec![("X-aws-ec2-metadata-token-ttl-seconds".to_owned(), TOKEN_SECONDS.to_owned())];
        let request =
            Request { method: "PUT", path: "/latest/api/token", headers, body: Some(String::new()), limit: None };
        let answer = self.0.send(request)?;
        if answer.status != 200 {
            return Err(self.unexpected("a token", &answer));
        }
        one_word(&answer.body).ok_or_else(|| self.unexpected("a token", &answer))
    }

    /// The name of the instance's role; `None` if it has none.
    fn role(&self, token: &str) -> Result<Option<String>, QueryError> {
        let answer = self.get(ROLES, token)?;
        if answer.status == 404 {
            return Ok(None);
        }
        // The characters of which IAM lets names be.
        let is_name = |name: &String| name.chars().all(|one| one.is_ascii_alphanumeric() || "+=,.@_-".contains(one));
        match one_word(&answer.body).filter(is_name) {
            Some(role) if answer.status == 200 => Ok(Some(role)),
            _ => Err(self.unexpected("the name of a role", &answer)),
        }
    }

    fn credentials(&self, role: &str, token: &str) -> Result<Credentials, QueryError> {
        let answer = self.get(&format!("{ROLES}{role}"), token)?;
        if answer.status != 200 {
            return Err(self.unexpected("credentials", &answer));
        }
        document::from_json(&answer.body, &format!("the instance's role {role}"))
    }

    fn get(&self, path: &str, token: &str) -> Result<Answer, QueryError> {
        let headers = vec![("X-aws-ec2-metadata-token".to_owned(), token.to_owned())];
        self.0.send(Request { method: "GET", path, headers, body: None, limit: None })
    }

    /// What came has no secret in it: those come with status 200 only, and are not shown then.
    fn unexpected(&self, wanted: &str, answer: &Answer) -> QueryError {
        let shown = if answer.status == 200 { "what came is none".to_owned() } else { excerpt(&answer.body) };
        let (service, status) = (self.0.endpoint().authority(), answer.status);
        QueryError::other(format!(
            "the metadata service at {service} does not give {wanted}: HTTP status {status}: {shown}"
        ))
    }
}

/// The first line, if there is something in it.
fn one_word(body: &[u8]) -> Option<String> {
    let line = std::str::from_utf8(body).ok()?.lines().next()?.trim();
    (!line.is_empty()).then(|| line.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cloud::ec2::http::tests::server::{Reply, Server};

    const DOCUMENT: &str = r#"{"Code": "Success", "AccessKeyId": "ASIA", "SecretAccessKey": "s", "Token": "t", "Expiration": "2030-01-01T00:00:00Z"}"#;

    fn ask(server: &Server) -> Result<Found, QueryError> {
        from_service(&Environment::of(&[(ENDPOINT, &server.url())], None), METADATA_URL)
    }

    fn nothing(found: Result<Found, QueryError>) -> String {
        match found.expect("no error") {
            Found::Nothing(why) => why,
            Found::Credentials(credentials) => panic!("{credentials:?}"),
        }
    }

    #[test]
    fn token_then_role_then_document() {
        let replies = ["token==", "my-role+1\nother", DOCUMENT].map(|text| Reply::text(200, text));
        let server = Server::start(replies.into());
        let Found::Credentials(credentials) = ask(&server).expect("an answer") else { panic!("nothing") };
        assert_eq!(credentials.access_key_id, "ASIA");
        let asked = server.requests();
        let lines: Vec<_> = asked.iter().map(|one| one.line.as_str()).collect();
        let expected = [
            "PUT /latest/api/token HTTP/1.1",
            "GET /latest/meta-data/iam/security-credentials/ HTTP/1.1",
            "GET /latest/meta-data/iam/security-credentials/my-role+1 HTTP/1.1",
        ];
        assert_eq!(lines, expected);
        assert_eq!(asked[0].all("x-aws-ec2-metadata-token-ttl-seconds"), ["60"]);
        assert_eq!(asked[0].all("content-length"), ["0"]);
        assert_eq!(asked[1].all("x-aws-ec2-metadata-token"), ["token=="]);
        assert_eq!(asked[2].all("x-aws-ec2-metadata-token"), ["token=="]);
    }

    #[test]
    fn where_there_is_no_role_or_no_service_there_is_nothing() {
        let server = Server::start(vec![Reply::text(200, "token"), Reply::text(404, "")]);
        assert!(nothing(ask(&server)).contains("no role"));
        assert!(
            nothing(ask(&Server::start(vec![Reply::text(403, "IMDS\nis off")]))).contains(r"status 403: IMDS\nis off")
        );
        let server = Server::start(Vec::new());
        let url = server.url();
        drop(server);
        let found = from_service(&Environment::of(&[], None), &url);
        assert!(nothing(found).contains("refuses connections"));
    }

    #[test]
    fn it_is_not_asked_where_it_is_disabled() {
        let server = Server::start(Vec::new());
        for value in ["true", "TRUE"] {
            let environment = Environment::of(&[(DISABLED, value), (ENDPOINT, &server.url())], None);
            assert_eq!(nothing(from_service(&environment, METADATA_URL)), "AWS_EC2_METADATA_DISABLED is set");
        }
    }

    #[test]
    fn a_service_that_is_there_and_fails_is_an_error() {
        for (replies, expected) in [
            (vec![Reply::text(200, "token"), Reply::text(500, "oh")], "give the name of a role: HTTP status 500: oh"),
            (vec![Reply::text(200, "token"), Reply::text(200, "../../x")], "what came is none"),
            (vec![Reply::text(200, "token"), Reply::text(200, "r"), Reply::text(404, "gone")], "status 404: gone"),
            (vec![Reply::text(200, "token"), Reply::text(200, "r"), Reply::text(200, "<a>")], "not JSON"),
            (
                vec![
                    Reply::text(200, "token"),
                    Reply::text(200, "r"),
                    Reply::text(200, r#"{"Code": "AssumeRoleUnauthorizedAccess"}"#),
                ],
                "AssumeRoleUnauthorizedAccess",
            ),
        ] {
            let error = ask(&Server::start(replies)).expect_err(expected).to_string();
            assert!(error.contains(expected), "{error}");
        }
        let wrong = from_service(&Environment::of(&[(ENDPOINT, "nonsense")], None), METADATA_URL);
        assert!(wrong.expect_err("no URL").to_string().contains("nonsense"));
    }
}
