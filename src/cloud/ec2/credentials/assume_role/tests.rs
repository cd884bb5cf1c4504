//! Ways to a role, with an STS that gives what it is told to.

use super::*;
use crate::cloud::ec2::credentials::chain::FIND_LIMIT;
use crate::cloud::ec2::credentials::{Lifetime, Secret};
use crate::cloud::ec2::environment::{Environment, WallClock};
use crate::cloud::ec2::http::FORM;
use crate::cloud::ec2::http::tests::server::{Asked, Reply, Server};
use crate::cloud::ec2::sigv4::{self, Scope};
use crate::core::errors;

/// 2015-08-30T12:36:00Z.
const NOW: i64 = 1_440_938_160_000;
const DOCUMENT: &str =
    r#"{"AccessKeyId": "HOST", "SecretAccessKey": "h", "Token": "ht", "Expiration": "2030-01-01T00:00:00Z"}"#;
const KEYS: &str = "aws_access_key_id = KEYS\naws_secret_access_key = k\n";

/// What STS says: credentials called so, which end in a second.
fn given(id: &str) -> Reply {
    let text = format!(
        "<AssumeRoleResponse><AssumeRoleResult><Credentials><AccessKeyId>{id}</AccessKeyId><SecretAccessKey>s-{id}</SecretAccessKey>\
         <SessionToken>t-{id}</SessionToken><Expiration>1970-01-01T00:00:01Z</Expiration></Credentials></AssumeRoleResult>\
         </AssumeRoleResponse>"
    );
    Reply::text(200, &text)
}

fn refused(code: &str) -> Reply {
    let text = format!(
        "<ErrorResponse><Error><Code>{code}</Code><Message>m</Message></Error><RequestId>r</RequestId></ErrorResponse>"
    );
    Reply::text(403, &text)
}

/// Asks for the profile `p` of these files; both services of this host are the same server.
fn ask(config: &str, credentials: &str, sts: &Server, host: &Server, more: &[(&str, &str)]) -> Result<Found, String> {
    let home = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(home.path().join(".aws")).expect("made");
    std::fs::write(home.path().join(".aws/config"), config).expect("written");
    std::fs::write(home.path().join(".aws/credentials"), credentials).expect("written");
    let url = sts.url();
    let mut variables = vec![("AWS_PROFILE", "p"), ("AWS_ENDPOINT_URL_STS", url.as_str())];
    variables.extend(more);
    let environment = Environment::of(&variables, Some(home.path()));
    let clock = WallClock::new(|| NOW);
    let mut chain =
        Chain::new(String::new(), Secret::new(""), "us-east-1".to_owned(), environment, clock).expect("a descriptor");
    (chain.agent_url, chain.metadata_url) = (host.url(), host.url());
    shared_files::from_files(&chain, Instant::now() + FIND_LIMIT).map_err(|error| errors::chain(&error))
}

fn id(found: Result<Found, String>) -> String {
    match found {
        Ok(Found::Credentials(one)) => {
            assert_eq!(one.lifetime, Lifetime::Until(1000));
            assert_eq!(one.secret_access_key.reveal(), format!("s-{}", one.access_key_id));
            assert_eq!(one.session_token, Some(Secret::new(format!("t-{}", one.access_key_id))));
            one.access_key_id
        }
        other => panic!("{other:?}"),
    }
}

/// The key id by which a call was signed. The signature fits what has arrived.
fn signed_by(asked: &Asked, secret: &str, token: Option<&str>) -> String {
    assert_eq!((asked.line.as_str(), asked.all("content-type")), ("POST / HTTP/1.1", vec![FORM.to_owned()]));
    let [authorization] = &asked.all("authorization")[..] else { panic!("{asked:?}") };
    let rest = authorization.split_once("Credential=").expect("a key").1;
    let (id, scope) = rest.split_once('/').expect("a scope");
    assert!(scope.starts_with("20150830/us-east-1/sts/aws4_request,"), "{scope}");
    let credentials = Credentials {
        access_key_id: id.to_owned(),
        secret_access_key: Secret::new(secret),
        session_token: token.map(Secret::new),
        lifetime: Lifetime::Fixed,
    };
    let scope = Scope { region: "us-east-1".to_owned(), service: "sts" };
    for (name, value) in sigv4::sign_form(&asked.all("host")[0], &asked.body, &scope, &credentials, NOW) {
        assert_eq!(asked.all(&name.to_ascii_lowercase()), [value], "{name}");
    }
    id.to_owned()
}

#[test]
fn a_role_with_the_keys_of_another_profile() {
    let (sts, host) = (Server::start(vec![given("ROLE")]), Server::start(Vec::new()));
    let config = "[profile p]\nrole_arn = arn:aws:iam::1:role/r\nsource_profile = base\nexternal_id = a b\n\
                  role_session_name = me\nduration_seconds = 900\n[profile base]\nregion = x\n";
    let credentials = format!("[base]\n{KEYS}aws_session_token = kt\n");
    assert_eq!(id(ask(config, &credentials, &sts, &host, &[])), "ROLE");
    let asked = &sts.requests()[0];
    assert_eq!(signed_by(asked, "k", Some("kt")), "KEYS");
    assert_eq!(
        asked.body,
        "Action=AssumeRole&Version=2011-06-15&RoleArn=arn%3Aaws%3Aiam%3A%3A1%3Arole%2Fr&RoleSessionName=me\
         &ExternalId=a%20b&DurationSeconds=900"
    );
}

#[test]
fn roles_in_a_row_are_asked_for_from_the_source_on() {
    let names = ["1", "2", "3", "4", "5"];
    let (sts, host) = (Server::start(names.map(given).into()), Server::start(Vec::new()));
    let config = format!(
        "[profile p]\nrole_arn = r5\nsource_profile = a\n[profile a]\nrole_arn = r4\nsource_profile = b\n\
         [profile b]\nrole_arn = r3\nsource_profile = c\n[profile c]\nrole_arn = r2\nsource_profile = d\n\
         [profile d]\nrole_arn = r1\nsource_profile = default\n[default]\n{KEYS}"
    );
    assert_eq!(id(ask(&config, "", &sts, &host, &[])), "5");
    let asked = sts.requests();
    let bodies: Vec<_> = asked.iter().map(|one| one.body.clone()).collect();
    let expected =
        names.map(|name| format!("Action=AssumeRole&Version=2011-06-15&RoleArn=r{name}&RoleSessionName=muster"));
    assert_eq!(bodies, expected);
    assert_eq!(signed_by(&asked[0], "k", None), "KEYS");
    for (one, before) in asked[1..].iter().zip(names) {
        assert_eq!(signed_by(one, &format!("s-{before}"), Some(&format!("t-{before}"))), before);
    }
}

/// As AWS's own tools do: keys of the profile itself are for a role that names it; those of a source go before that one's role.
#[test]
fn keys_beside_a_role() {
    for config in [
        format!("[profile p]\nrole_arn = r\nsource_profile = p\n{KEYS}"),
        format!(
            "[profile p]\nrole_arn = r\nsource_profile = s\naws_access_key_id = NO\naws_secret_access_key = n\n[profile s]\n{KEYS}"
        ),
        format!(
            "[profile p]\nrole_arn = r\nsource_profile = s\n[profile s]\nrole_arn = other\nsource_profile = nowhere\n{KEYS}"
        ),
    ] {
        let (sts, host) = (Server::start(vec![given("ROLE")]), Server::start(Vec::new()));
        assert_eq!(id(ask(&config, "", &sts, &host, &[])), "ROLE");
        let asked = sts.requests();
        assert_eq!(signed_by(&asked[0], "k", None), "KEYS", "{config}");
    }
}

#[test]
fn a_role_with_the_credentials_of_this_host() {
    let environment = [("AWS_ACCESS_KEY_ID", "HOST"), ("AWS_SECRET_ACCESS_KEY", "h"), ("AWS_SESSION_TOKEN", "ht")];
    let agent = [("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/c")];
    let document = || Reply::text(200, DOCUMENT);
    for (source, variables, replies) in [
        ("Environment", &environment[..], Vec::new()),
        ("EcsContainer", &agent, vec![document()]),
        ("Ec2InstanceMetadata", &[], vec![Reply::text(200, "token"), Reply::text(200, "role"), document()]),
    ] {
        let (sts, host) = (Server::start(vec![given("ROLE")]), Server::start(replies));
        let config = format!("[profile p]\nrole_arn = r\ncredential_source = {source}\n");
        assert_eq!(id(ask(&config, "", &sts, &host, variables)), "ROLE");
        assert_eq!(signed_by(&sts.requests()[0], "h", Some("ht")), "HOST", "{source}");
    }
}

#[test]
fn a_source_may_have_a_token() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("token");
    std::fs::write(&file, "token").expect("written");
    let Reply::Raw(bytes) = given("WEB") else { panic!("it is one") };
    let text = String::from_utf8(bytes).expect("text");
    let body = text.split_once("\r\n\r\n").expect("a body").1.replace("AssumeRoleR", "AssumeRoleWithWebIdentityR");
    let (sts, host) = (Server::start(vec![Reply::text(200, &body), given("ROLE")]), Server::start(Vec::new()));
    let config = format!(
        "[profile p]\nrole_arn = r\nsource_profile = s\n[profile s]\nrole_arn = w\nweb_identity_token_file = {}\n",
        file.display()
    );
    assert_eq!(id(ask(&config, "", &sts, &host, &[])), "ROLE");
    let asked = sts.requests();
    assert!(asked[0].all("authorization").is_empty() && asked[0].body.contains("RoleArn=w&"), "{asked:?}");
    assert_eq!(signed_by(&asked[1], "s-WEB", Some("t-WEB")), "WEB");
}

#[test]
fn mistakes_are_found_before_anybody_is_asked() {
    let (sts, host) = (Server::start(Vec::new()), Server::start(Vec::new()));
    let row: String = (0..6).map(|n| format!("[profile {n}]\nrole_arn = r\nsource_profile = {}\n", n + 1)).collect();
    let source = "[profile s]\naws_access_key_id = A\naws_secret_access_key = verysecret\n";
    for (rest, expected) in [
        (String::new(), "the profile p has role_arn, but says not whose credentials may have the role"),
        (KEYS.to_owned(), "its own name, if it has keys"),
        ("source_profile = s\ncredential_source = Environment\n".to_owned(), "has both source_profile and"),
        ("credential_source = Else\n".to_owned(), r#"credential_source "Else", which is none of Environment, Ec2I"#),
        (format!("source_profile = s\nmfa_serial = arn:m\n{source}"), "the profile p has mfa_serial, but nobody"),
        (format!("source_profile = s\nduration_seconds = 899\n{source}"), "no number from 900 to 43200"),
        (format!("source_profile = s\nduration_seconds = 43201\n{source}"), "no number from 900 to 43200"),
        (format!("source_profile = s\nduration_seconds = 1h\n{source}"), "no number from 900 to 43200"),
        ("source_profile = p\n".to_owned(), "goes round in a circle: p → p"),
        (
            "source_profile = a\n[profile a]\nrole_arn = r\nsource_profile = b\n[profile b]\nrole_arn = r\nsource_profile = a\n"
                .to_owned(),
            "goes round in a circle: p → a → b → a",
        ),
        ("source_profile = a\n[a]\n".to_owned(), "the profile p has a source_profile that is not there: no profile a in "),
        (format!("source_profile = 0\n{row}"), "more than 5 roles in a row: p → 0 → 1 → 2 → 3 → 4"),
        ("source_profile = a\n[profile a]\nregion = x\n".to_owned(), "the source_profile a has no credentials: "),
        ("source_profile = a\n[profile a]\naws_access_key_id = x\n".to_owned(), "the profile a has only one of"),
        ("source_profile = a\n[profile a]\nsso_session = x\n".to_owned(), "the profile a wants single sign-on"),
        ("credential_source = Environment\n".to_owned(), "source Environment of the profile p has no credentials: AWS_ACC"),
        ("credential_source = EcsContainer\n".to_owned(), "of the profile p has no credentials: AWS_CONTAINER_"),
    ] {
        let error = ask(&format!("[profile p]\nrole_arn = r\n{rest}"), "", &sts, &host, &[]).expect_err(&rest);
        assert!(error.contains(expected) && !error.contains("verysecret"), "{error}");
    }
    let disabled = [("AWS_EC2_METADATA_DISABLED", "true")];
    let config = "[profile p]\nrole_arn = r\ncredential_source = Ec2InstanceMetadata\n";
    let error = ask(config, "", &sts, &host, &disabled).expect_err("disabled");
    assert!(error.contains("has no credentials: AWS_EC2_METADATA_DISABLED is set"), "{error}");
    assert!(sts.requests().is_empty() && host.requests().is_empty());
}

/// The first that is refused ends it, and the error says which.
#[test]
fn refusals() {
    let config = format!(
        "[profile p]\nrole_arn = last\nsource_profile = a\n[profile a]\nrole_arn = first\nsource_profile = p2\n[profile p2]\n{KEYS}"
    );
    for (replies, expected) in [
        (vec![refused("AccessDenied")], "STS does not give the role first: AccessDenied: m"),
        (vec![given("1"), refused("Throttling")], "STS does not give the role last: Throttling: m"),
        (vec![Reply::text(200, "<AssumeRoleResponse><SecretAccessKey>verysecret")], "not whole XML"),
        (vec![Reply::text(200, "<a><SecretAccessKey>verysecret</SecretAccessKey></a>")], "has no credentials"),
    ] {
        let count = replies.len();
        let (sts, host) = (Server::start(replies), Server::start(Vec::new()));
        let error = ask(&config, "", &sts, &host, &[]).expect_err(expected);
        assert!(error.contains(expected) && !error.contains("verysecret"), "{error}");
        assert_eq!(sts.requests().len(), count);
    }
}
