//! The places where credentials may be, in the order of spec 42 §1: the first that has some counts.
//!
//! A place where something is configured and does not work ends the search with its error: credentials of another place could be those of
//! another account. Only where nothing is configured the next one is asked, and if none is left the error tells what each one said.

use std::time::{Duration, Instant};

use super::process::Programs;
use super::{Credentials, Found, Lifetime, Secret, container, metadata, shared_files, web_identity};
use crate::cloud::ec2::environment::{Environment, WallClock};
use crate::cloud::ec2::query::QueryError;
use crate::core::errors::chain;

/// For a whole search: somebody waits for it, and others for him.
pub const FIND_LIMIT: Duration = Duration::from_secs(60);

/// Finds credentials; may ask files, a program and services, one after the other: one that is late ends the search.
pub trait Source: Send + Sync + std::fmt::Debug {
    /// # Errors
    /// There are none, or they could not be got; for people.
    fn find(&self) -> Result<Credentials, QueryError>;

    /// Ends what runs on this host for a search, also from another thread than the search's. It finds nothing by such means any more.
    fn stop(&self) {}
}

/// All places.
#[derive(Debug)]
pub struct Chain {
    /// AccessKeyID and SecretAccessKey of the configuration. If one of them has text, no other place is asked.
    pub access_key_id: String,
    pub secret_access_key: Secret,
    /// Where STS is asked.
    pub region: String,
    pub environment: Environment,
    /// By which calls of STS are signed.
    pub clock: WallClock,
    /// See [`container::AGENT_URL`] and [`metadata::METADATA_URL`].
    pub agent_url: String,
    pub metadata_url: String,
    /// For profiles.
    pub programs: Programs,
    /// [`FIND_LIMIT`] but in tests. What is asked last (an agent, the metadata service) has a few seconds of its own.
    pub limit: Duration,
}

impl Chain {
    /// With the services where they are.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn new(
        access_key_id: String,
        secret_access_key: Secret,
        region: String,
        environment: Environment,
        clock: WallClock,
    ) -> Result<Self, QueryError> {
        let (agent_url, metadata_url) = (container::AGENT_URL.to_owned(), metadata::METADATA_URL.to_owned());
        let programs = Programs::new(&environment)
            .map_err(|error| QueryError::caused("cannot run programs for credentials", error))?;
        Ok(Self {
            access_key_id,
            secret_access_key,
            region,
            environment,
            clock,
            agent_url,
            metadata_url,
            programs,
            limit: FIND_LIMIT,
        })
    }

    fn configured(&self) -> Result<Found, QueryError> {
        match (self.access_key_id.trim(), self.secret_access_key.reveal().trim()) {
            ("", "") => Ok(Found::Nothing("AccessKeyID and SecretAccessKey are not set".to_owned())),
            (_, "") => Err(QueryError::other("AccessKeyID is set, but SecretAccessKey is not")),
            ("", _) => Err(QueryError::other("SecretAccessKey is set, but AccessKeyID is not")),
            (id, secret) => Ok(Found::Credentials(fixed(id, secret, None))),
        }
    }

    /// Keys of the environment that are not for a profile's role: those would never be used for it, since this place comes before.
    fn environment(&self) -> Result<Found, QueryError> {
        let found = self.environment_keys()?;
        match shared_files::named_for_environment(self) {
            Some(variable) if matches!(found, Found::Credentials(_)) => {
                Ok(Found::Nothing(format!("its keys are for the role of the profile that {variable} names")))
            }
            _ => Ok(found),
        }
    }

    /// For whomever they are.
    pub(super) fn environment_keys(&self) -> Result<Found, QueryError> {
        const ID: &str = "AWS_ACCESS_KEY_ID";
        const SECRET: &str = "AWS_SECRET_ACCESS_KEY";
        match (self.environment.get(ID), self.environment.get(SECRET)) {
            (None, None) => Ok(Found::Nothing(format!("{ID} and {SECRET} are not set"))),
            (Some(_), None) => Err(QueryError::other(format!("{ID} is set, but {SECRET} is not"))),
            (None, Some(_)) => Err(QueryError::other(format!("{SECRET} is set, but {ID} is not"))),
            (Some(id), Some(secret)) => {
                Ok(Found::Credentials(fixed(&id, &secret, self.environment.get("AWS_SESSION_TOKEN"))))
            }
        }
    }

    pub(super) fn container(&self) -> Result<Found, QueryError> {
        container::from_environment(&self.environment, &self.agent_url)
    }

    pub(super) fn instance(&self) -> Result<Found, QueryError> {
        metadata::from_service(&self.environment, &self.metadata_url)
    }
}

fn fixed(id: &str, secret: &str, token: Option<String>) -> Credentials {
    Credentials {
        access_key_id: id.trim().to_owned(),
        secret_access_key: Secret::new(secret.trim()),
        session_token: token.map(|token| Secret::new(token.trim())),
        lifetime: Lifetime::Fixed,
    }
}

impl Source for Chain {
    fn find(&self) -> Result<Credentials, QueryError> {
        let deadline = Instant::now() + self.limit;
        type Place<'a> = (&'static str, &'a dyn Fn() -> Result<Found, QueryError>);
        let places: [Place<'_>; 6] = [
            ("the configuration", &|| self.configured()),
            ("the environment", &|| self.environment()),
            ("the shared files", &|| shared_files::from_files(self, deadline)),
            ("a web identity", &|| web_identity::from_environment(&self.environment, &self.region, deadline)),
            ("a container's agent", &|| self.container()),
            ("the metadata service", &|| self.instance()),
        ];
        let mut reasons = Vec::new();
        for (place, ask) in places {
            match ask() {
                Ok(Found::Credentials(credentials)) => return Ok(credentials),
                Ok(Found::Nothing(why)) => reasons.push(format!("{place}: {why}")),
                // In one text, as a kind of its own: a refusal of STS says nothing about limits of EC2.
                Err(error) => {
                    let causes = chain(&error);
                    return Err(QueryError::other(format!("cannot get credentials from {place}: {causes}")));
                }
            }
        }
        let advice = "set AccessKeyID and SecretAccessKey in DriverParameters, or give this host a role";
        Err(QueryError::other(format!("there are no credentials for AWS: {advice}. Asked: {}", reasons.join(". "))))
    }

    fn stop(&self) {
        self.programs.stop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cloud::ec2::http::tests::server::{Reply, Server};

    const DOCUMENT: &str =
        r#"{"AccessKeyId": "ASIA", "SecretAccessKey": "s", "Token": "t", "Expiration": "2030-01-01T00:00:00Z"}"#;
    const ENVIRONMENT: [(&str, &str); 2] = [("AWS_ACCESS_KEY_ID", "ENV"), ("AWS_SECRET_ACCESS_KEY", "e")];

    fn find(configured: (&str, &str), variables: &[(&str, &str)]) -> Result<Credentials, String> {
        let mut all = vec![("AWS_EC2_METADATA_DISABLED", "true")];
        all.extend(variables);
        let environment = Environment::of(&all, None);
        let (id, secret) = configured;
        let clock = WallClock::new(|| 0);
        let chain =
            Chain::new(id.into(), Secret::new(secret), "us-east-1".into(), environment, clock).expect("a descriptor");
        chain.find().map_err(|error| error.to_string())
    }

    #[test]
    fn the_first_place_that_has_credentials_counts() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("credentials");
        std::fs::write(&file, "[default]\naws_access_key_id=FILE\naws_secret_access_key=f\n").expect("written");
        let file = ("AWS_SHARED_CREDENTIALS_FILE", file.to_str().expect("text"));
        let server = Server::start(vec![Reply::text(200, DOCUMENT)]);
        let url = server.url();
        let agent = ("AWS_CONTAINER_CREDENTIALS_FULL_URI", url.as_str());
        let [id, secret] = ENVIRONMENT;
        for (configured, variables, expected) in [
            (("CONF", "c"), &[id, secret, file, agent][..], "CONF"),
            (("", " "), &[id, secret, file, agent], "ENV"),
            (("", ""), &[file, agent], "FILE"),
            (("", ""), &[agent], "ASIA"),
        ] {
            assert_eq!(find(configured, variables).expect(expected).access_key_id, expected);
        }
    }

    #[test]
    fn a_session_of_the_environment_has_its_token() {
        let [id, secret] = ENVIRONMENT;
        let credentials = find(("", ""), &[id, secret, ("AWS_SESSION_TOKEN", "t")]).expect("credentials");
        assert_eq!(credentials.session_token, Some(Secret::new("t")));
        // That of the environment is not for the keys of the configuration.
        let credentials = find(("CONF", "c"), &[id, secret, ("AWS_SESSION_TOKEN", "t")]).expect("credentials");
        assert_eq!((credentials.session_token, credentials.lifetime), (None, Lifetime::Fixed));
    }

    /// The profile is reached, whose role is had with the keys of the environment; without a name or such a source the keys count.
    #[test]
    fn keys_of_the_environment_for_a_role() {
        const GIVEN: &str = "<R><AssumeRoleResult><Credentials><AccessKeyId>ROLE</AccessKeyId><SecretAccessKey>s</SecretAccessKey>\
                             <SessionToken>t</SessionToken></Credentials></AssumeRoleResult></R>";
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("config");
        let text = "[default]\nrole_arn = r\ncredential_source = Environment\n\
                    [profile p]\nrole_arn = r\ncredential_source = Environment\n\
                    [profile by-another]\nrole_arn = r2\nsource_profile = p\n\
                    [profile machine]\nrole_arn = r\ncredential_source = Ec2InstanceMetadata\n";
        std::fs::write(&file, text).expect("written");
        let file = ("AWS_CONFIG_FILE", file.to_str().expect("text"));
        let [id, secret] = ENVIRONMENT;
        for (names, expected, calls) in [
            (&[("AWS_PROFILE", "p")][..], "ROLE", 1),
            (&[("AWS_DEFAULT_PROFILE", "p")], "ROLE", 1),
            (&[("AWS_PROFILE", "by-another")], "ROLE", 2),
            (&[("AWS_PROFILE", "machine")], "ENV", 0),
            (&[("AWS_PROFILE", "nosuch")], "ENV", 0),
            (&[], "ENV", 0),
        ] {
            let sts = Server::start((0..calls).map(|_| Reply::text(200, GIVEN)).collect());
            let url = sts.url();
            let variables = [&[id, secret, file, ("AWS_ENDPOINT_URL_STS", &url)], names].concat();
            assert_eq!(find(("", ""), &variables).expect(expected).access_key_id, expected, "{names:?}");
            let asked = sts.requests();
            assert_eq!(asked.len(), calls, "{names:?}");
            assert!(
                asked.iter().take(1).all(|one| one.all("authorization")[0].contains("Credential=ENV/")),
                "{asked:?}"
            );
        }
    }

    /// A program and calls of STS have the same minute, not one each.
    #[test]
    fn a_search_has_a_limit() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("config");
        let text = "[profile program]\ncredential_process = sleep 1000\n\
                    [profile role]\nrole_arn = r\ncredential_source = Environment\n";
        std::fs::write(&file, text).expect("written");
        let sts = Server::start(Vec::new());
        let url = sts.url();
        let [id, secret] = ENVIRONMENT;
        for (profile, expected) in
            [("program", "did not end within the 1m"), ("role", "STS was not asked for the role r: ")]
        {
            let file = ("AWS_CONFIG_FILE", file.to_str().expect("text"));
            let mut variables = vec![file, ("AWS_PROFILE", profile), ("AWS_ENDPOINT_URL_STS", &url)];
            if profile == "role" {
                variables.extend([id, secret]);
            }
            let environment = Environment::of(&variables, None);
            let (region, clock) = ("us-east-1".to_owned(), WallClock::new(|| 0));
            let mut chain =
                Chain::new(String::new(), Secret::new(""), region, environment, clock).expect("a descriptor");
            assert_eq!(chain.limit, FIND_LIMIT);
            chain.limit = Duration::ZERO;
            let error = chain.find().expect_err("late").to_string();
            assert!(error.contains(expected), "{error}");
        }
        assert!(sts.requests().is_empty());
    }

    #[test]
    fn what_is_configured_and_does_not_work_ends_the_search() {
        let [id, secret] = ENVIRONMENT;
        for (configured, variables, expected) in [
            (("CONF", ""), &[id, secret][..], "from the configuration: AccessKeyID is set, but SecretAccessKey is not"),
            (
                ("", "verysecret"),
                &[id, secret],
                "from the configuration: SecretAccessKey is set, but AccessKeyID is not",
            ),
            (("", ""), &[id], "from the environment: AWS_ACCESS_KEY_ID is set, but"),
            (("", ""), &[secret], "from the environment: AWS_SECRET_ACCESS_KEY is set, but"),
            (("", ""), &[("AWS_PROFILE", "p")], "from the shared files: AWS_PROFILE names"),
            (("", ""), &[("AWS_WEB_IDENTITY_TOKEN_FILE", "/x")], "from a web identity: "),
            (("", ""), &[("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "x")], "from a container's agent: "),
        ] {
            let error = find(configured, variables).expect_err(expected);
            assert!(error.contains(expected) && !error.contains("verysecret"), "{error}");
        }
    }

    #[test]
    fn without_any_the_error_tells_what_each_place_said() {
        let error = find(("", ""), &[]).expect_err("nothing");
        for part in [
            "set AccessKeyID and SecretAccessKey",
            "the environment: AWS_ACCESS_KEY_ID",
            "the shared files: no home",
            "a web identity: AWS_WEB",
            "a container's agent: AWS_CONTAINER",
            "the metadata service: AWS_EC2_METADATA_DISABLED is set",
        ] {
            assert!(error.contains(part), "{part}: {error}");
        }
    }

    #[test]
    fn the_metadata_service_is_asked_last() {
        let server = Server::start(["token", "role", DOCUMENT].map(|text| Reply::text(200, text)).into());
        let environment = Environment::of(&[], None);
        let clock = WallClock::new(|| 0);
        let mut chain =
            Chain::new(String::new(), Secret::new(""), "us-east-1".into(), environment, clock).expect("a descriptor");
        chain.metadata_url = server.url();
        assert_eq!(chain.find().expect("credentials").access_key_id, "ASIA");
    }
}
