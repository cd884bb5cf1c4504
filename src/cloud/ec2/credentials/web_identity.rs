//! Credentials of a role for a token that says who we are (AssumeRoleWithWebIdentity of STS): in a pod, the token of its service
//! account. The call is not signed, for the token is what it proves itself by.

use std::path::PathBuf;
use std::time::Instant;

use super::sts::{self, Wanted};
use super::{Credentials, Found, read_token};
use crate::cloud::ec2::environment::Environment;
use crate::cloud::ec2::query::{Params, QueryError};

/// The variables, of which the first two belong together.
const TOKEN_FILE: &str = "AWS_WEB_IDENTITY_TOKEN_FILE";
const ROLE: &str = "AWS_ROLE_ARN";
const SESSION_NAME: &str = "AWS_ROLE_SESSION_NAME";

/// A role, and who asks for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebIdentity {
    /// Read anew for each call: whoever wrote it replaces it before it ends.
    pub token_file: PathBuf,
    pub role_arn: String,
    pub session_name: Option<String>,
}

/// What the environment says of a web identity.
///
/// # Errors
/// One variable is set without the other, or the call fails.
pub fn from_environment(environment: &Environment, region: &str, deadline: Instant) -> Result<Found, QueryError> {
    let identity = match (environment.get(TOKEN_FILE), environment.get(ROLE)) {
        (None, None) => return Ok(Found::Nothing(format!("{TOKEN_FILE} and {ROLE} are not set"))),
        (Some(token_file), Some(role_arn)) => {
            WebIdentity { token_file: PathBuf::from(token_file), role_arn, session_name: environment.get(SESSION_NAME) }
        }
        // A role alone is nothing: other tools have it set, for what they do with other credentials.
        (None, Some(_)) => return Ok(Found::Nothing(format!("{ROLE} is set, but {TOKEN_FILE} is not"))),
        (Some(_), None) => return Err(QueryError::other(format!("{TOKEN_FILE} is set, but {ROLE} is not"))),
    };
    assume(&identity, environment, region, deadline).map(Found::Credentials)
}

/// Asks STS for the role's credentials.
///
/// # Errors
/// The token cannot be read, the call fails or is refused.
pub fn assume(
    identity: &WebIdentity,
    environment: &Environment,
    region: &str,
    deadline: Instant,
) -> Result<Credentials, QueryError> {
    let token = read_token(&identity.token_file, "the token of the web identity")?;
    let mut params = Params::default();
    params.add("WebIdentityToken", token.reveal());
    let (role_arn, session_name) = (identity.role_arn.as_str(), identity.session_name.as_deref());
    let wanted = Wanted { action: "AssumeRoleWithWebIdentity", role_arn, session_name, deadline };
    sts::ask(wanted, params, None, environment, region)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cloud::ec2::credentials::Lifetime;
    use crate::cloud::ec2::credentials::chain::FIND_LIMIT;
    use crate::cloud::ec2::http::tests::server::{Reply, Server};

    const ANSWER: &str = r#"<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
        <AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>ASIA</AccessKeyId><SecretAccessKey>s/+</SecretAccessKey>
        <SessionToken>t==</SessionToken><Expiration>1970-01-01T01:00:00Z</Expiration></Credentials>
        </AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"#;

    struct Place {
        _folder: tempfile::TempDir,
        token_file: String,
        server: Server,
    }

    impl Place {
        fn new(reply: Reply) -> Self {
            let folder = tempfile::tempdir().expect("a folder");
            let path = folder.path().join("token");
            std::fs::write(&path, "to ken\n").expect("written");
            let token_file = path.to_str().expect("text").to_owned();
            Self { _folder: folder, token_file, server: Server::start(vec![reply]) }
        }

        fn ask(&self, more: &[(&str, &str)]) -> Result<Found, QueryError> {
            let url = self.server.url();
            let mut variables = vec![("AWS_ENDPOINT_URL_STS", url.as_str()), (TOKEN_FILE, &self.token_file)];
            variables.extend(more);
            from_environment(&Environment::of(&variables, None), "us-east-1", Instant::now() + FIND_LIMIT)
        }
    }

    #[test]
    fn the_token_is_given_for_credentials() {
        let place = Place::new(Reply::text(200, ANSWER));
        let found = place.ask(&[(ROLE, "arn:aws:iam::1:role/r"), (SESSION_NAME, "me")]).expect("an answer");
        let Found::Credentials(credentials) = found else { panic!("{found:?}") };
        assert_eq!(credentials.access_key_id, "ASIA");
        assert_eq!(credentials.secret_access_key.reveal(), "s/+");
        assert_eq!(credentials.session_token.expect("of a session").reveal(), "t==");
        assert_eq!(credentials.lifetime, Lifetime::Until(3_600_000));
        let asked = &place.server.requests()[0];
        assert_eq!(asked.line, "POST / HTTP/1.1");
        assert!(asked.all("authorization").is_empty());
        assert_eq!(
            asked.body,
            "Action=AssumeRoleWithWebIdentity&Version=2011-06-15&RoleArn=arn%3Aaws%3Aiam%3A%3A1%3Arole%2Fr\
             &RoleSessionName=me&WebIdentityToken=to%20ken"
        );
    }

    #[test]
    fn a_refusal_of_sts_is_none_of_ec2() {
        let text = "<ErrorResponse><Error><Code>Throttling</Code><Message>m</Message></Error><RequestId>r</RequestId></ErrorResponse>";
        let place = Place::new(Reply::text(400, text));
        let error = place.ask(&[(ROLE, "arn:r")]).expect_err("refused");
        assert!(matches!(error, QueryError::Other { .. }), "{error:?}");
        let source = std::error::Error::source(&error).expect("kept").to_string();
        assert_eq!(
            (error.to_string().as_str(), source.as_str()),
            ("STS does not give the role arn:r", "Throttling: m (request id r)")
        );
    }

    #[test]
    fn a_cut_answer_is_not_shown() {
        for status in [200, 202] {
            let place = Place::new(Reply::text(status, "<R><SecretAccessKey>verysecret"));
            let error = place.ask(&[(ROLE, "arn:r")]).expect_err("cut");
            let all = format!("{error:?} {}", crate::core::errors::chain(&error));
            assert!(all.contains("not whole XML") && !all.contains("verysecret"), "{status}: {all}");
        }
    }

    #[test]
    fn what_is_half_configured_or_unreadable_is_an_error() {
        let place = Place::new(Reply::text(200, "<a/>"));
        assert!(place.ask(&[]).expect_err("no role").to_string().contains("AWS_ROLE_ARN is not"));
        assert!(place.ask(&[(ROLE, "r")]).expect_err("no credentials").to_string().contains("has no credentials"));
        let missing = Environment::of(&[(TOKEN_FILE, "/nonexistent/token"), (ROLE, "r")], None);
        let error = from_environment(&missing, "us-east-1", Instant::now() + FIND_LIMIT).expect_err("no token");
        assert!(error.to_string().contains("/nonexistent/token"), "{error}");
        for variables in [&[][..], &[(ROLE, "r")]] {
            let found = from_environment(&Environment::of(variables, None), "us-east-1", Instant::now() + FIND_LIMIT)
                .expect("nothing");
            assert!(matches!(found, Found::Nothing(_)));
        }
    }
}
