//! Files as people write them.

use super::*;
use crate::cloud::ec2::credentials::chain::FIND_LIMIT;
use crate::cloud::ec2::environment::WallClock;
use crate::cloud::ec2::http::tests::server::{Reply, Server};
use crate::core::errors::chain;

/// Writes both files (where there is text) below a home of their own, and asks.
fn ask(credentials: &str, config: &str, variables: &[(&str, &str)]) -> Result<Found, String> {
    let home = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(home.path().join(".aws")).expect("made");
    for (path, text) in [(".aws/credentials", credentials), (".aws/config", config)] {
        if !text.is_empty() {
            std::fs::write(home.path().join(path), text).expect("written");
        }
    }
    ask_in(Environment::of(variables, Some(home.path())))
}

fn ask_in(environment: Environment) -> Result<Found, String> {
    let (region, clock) = ("us-east-1".to_owned(), WallClock::new(|| 0));
    let places = Chain::new(String::new(), Secret::new(""), region, environment, clock).expect("a descriptor");
    from_files(&places, Instant::now() + FIND_LIMIT).map_err(|error| chain(&error))
}

/// Key id, secret and token that were found.
fn found(result: Result<Found, String>) -> [String; 3] {
    match result {
        Ok(Found::Credentials(one)) => {
            assert_eq!(one.lifetime, Lifetime::Reread);
            let token = one.session_token.as_ref().map(Secret::reveal).unwrap_or_default();
            [&one.access_key_id, one.secret_access_key.reveal(), token].map(str::to_owned)
        }
        other => panic!("{other:?}"),
    }
}

fn nothing(result: Result<Found, String>) -> String {
    match result {
        Ok(Found::Nothing(why)) => why,
        other => panic!("{other:?}"),
    }
}

const FILE: &str = "
# a comment
; another
[default]
aws_access_key_id = AKID   # mine
AWS_SECRET_ACCESS_KEY=se/cr+et=

s3 =
    max_concurrent_requests = 20
    nonsense
region = eu-west-1
[other]
    aws_access_key_id = OTHER
    aws_secret_access_key = other#secret
    aws_session_token = token
";

#[test]
fn profiles_of_the_credentials_file() {
    assert_eq!(found(ask(FILE, "", &[])), ["AKID", "se/cr+et=", ""]);
    assert_eq!(found(ask(FILE, "", &[("AWS_PROFILE", "other")])), ["OTHER", "other#secret", "token"]);
    assert_eq!(found(ask(FILE, "", &[("AWS_DEFAULT_PROFILE", "other")])), ["OTHER", "other#secret", "token"]);
}

#[test]
fn profiles_of_the_configuration_file() {
    let config = "[default]\naws_access_key_id=D\naws_secret_access_key=d\n[other]\naws_access_key_id=NO\naws_secret_access_key=n\n\
                  [profile \"other\"]\naws_access_key_id=P\naws_secret_access_key=p\naws_session_token=t\n[sso-session x]\nsso_region=y\n";
    assert_eq!(found(ask("", config, &[])), ["D", "d", ""]);
    assert_eq!(found(ask("", config, &[("AWS_PROFILE", "other")])), ["P", "p", "t"]);
    let credentials = "[other]\naws_access_key_id=C\naws_secret_access_key=c\n";
    // The keys of the credentials file go before, and the token of the other file is not theirs.
    assert_eq!(found(ask(credentials, config, &[("AWS_PROFILE", "other")])), ["C", "c", ""]);
    let named_profile = "[profile default]\naws_access_key_id=E\naws_secret_access_key=e\n";
    assert_eq!(found(ask("", named_profile, &[])), ["E", "e", ""]);
}

#[test]
fn files_that_variables_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("mine");
    std::fs::write(&path, FILE).expect("written");
    let path = path.to_str().expect("text");
    assert_eq!(found(ask("", "", &[("AWS_SHARED_CREDENTIALS_FILE", path)]))[0], "AKID");
    assert_eq!(found(ask(FILE, "", &[("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials")]))[0], "AKID");
    for variable in ["AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"] {
        let folder = folder.path().to_str().expect("text");
        let error = ask(FILE, "", &[(variable, folder)]).expect_err("a folder");
        assert!(error.contains(folder) && error.contains(variable), "{error}");
    }
}

/// Nobody has made it yet; where a profile is named it is missed.
#[test]
fn files_that_variables_name_and_that_are_not_there() {
    let missing = "/nonexistent/file";
    assert_eq!(found(ask(FILE, "", &[("AWS_CONFIG_FILE", missing)]))[0], "AKID");
    let why = nothing(ask(FILE, "", &[("AWS_SHARED_CREDENTIALS_FILE", missing)]));
    assert!(why.contains(missing), "{why}");
    let variables = [("AWS_SHARED_CREDENTIALS_FILE", missing), ("AWS_PROFILE", "default")];
    let error = ask(FILE, "", &variables).expect_err("it is named");
    assert!(error.contains("AWS_PROFILE names a profile that is not there") && error.contains(missing), "{error}");
}

#[test]
fn an_empty_value_opens_a_section_only_of_what_is_indented_more() {
    for text in [
        "[default]\n    region =\n    aws_access_key_id = AKID\n    aws_secret_access_key = s\n",
        "[default]\nregion =\naws_access_key_id = AKID\naws_secret_access_key = s\n",
        "[default]\n  s3 =\n    max = 1\n    x =\n  aws_access_key_id = AKID\n  aws_secret_access_key = s\n",
        "[default]\n\ts3 =\n\t\taws_access_key_id = NO\n aws_access_key_id = AKID\n\taws_secret_access_key = s\n",
    ] {
        assert_eq!(found(ask(text, "", &[])), ["AKID", "s", ""], "{text}");
    }
}

#[test]
fn comments_behind_values() {
    for (value, expected) in [
        ("a # b", "a"),
        ("a ; b # c", "a"),
        ("a#b;c", "a#b;c"),
        (" # b", ""),
        ("get 'a # b' --x \"c ; d\" # 'e'", "get 'a # b' --x \"c ; d\""),
        ("sh -c 'x \" # y' ; z", "sh -c 'x \" # y'"),
        (r#"x "a \" # b" # c"#, r#"x "a \" # b""#),
        (r#"x \" # b" # c"#, r#"x \""#),
        (r"x 'a\' # b", r"x 'a\'"),
        // Not of a pair.
        ("it's # b", "it's"),
        ("é 'ü # ä' ; ö", "é 'ü # ä'"),
    ] {
        assert_eq!(without_comment(value).trim(), expected, "{value}");
    }
    let line = r#"echo '{"Version": 1, "AccessKeyId": "A ; # B", "SecretAccessKey": "s"}' # a program"#;
    assert_eq!(found(ask("", &format!("[default]\ncredential_process = {line}\n"), &[]))[0], "A ; # B");
}

#[test]
fn where_there_is_nothing_the_reason_names_the_files() {
    let why = nothing(ask("", "", &[]));
    assert!(why.contains(".aws/credentials: ") && why.contains(".aws/config: "), "{why}");
    let why = nothing(ask("[other]\n", "", &[]));
    assert!(why.contains("no profile default in ") && why.contains(".aws/config: "), "{why}");
    assert_eq!(nothing(ask("[default]\nregion = x\n", "", &[])), "the profile default has no credentials");
    assert!(nothing(ask_in(Environment::of(&[], None))).contains("no home directory"));
}

#[test]
fn what_is_asked_for_and_cannot_be_had_is_an_error() {
    for (text, variables, expected) in [
        (FILE, &[("AWS_PROFILE", "third")][..], "AWS_PROFILE names a profile that is not there: "),
        ("[default]\naws_access_key_id = A\n", &[], "only one of"),
        ("[default]\naws_secret_access_key = verysecret\n", &[], "only one of"),
        ("[default]\ncredential_process = /nonexistent/x\n", &[], "credential_process of the profile default"),
        ("[default]\nsso_session = x\n", &[], "single sign-on (sso_…), for which somebody would have to log in"),
        ("[default]\nsso_start_url = x\n", &[], "aws configure export-credentials --profile default --format process"),
        ("[default]\nverysecret\n", &[], "line 2 of"),
        ("a = verysecret\n", &[], "line 1 of"),
        ("[default\na = verysecret\n", &[], "line 1 of"),
    ] {
        let error = ask(text, "", variables).expect_err(text);
        assert!(error.contains(expected) && !error.contains("verysecret"), "{error}");
    }
}

#[test]
fn a_role_with_a_token_is_asked_for() {
    let folder = tempfile::tempdir().expect("a folder");
    let token = folder.path().join("token");
    std::fs::write(&token, "token").expect("written");
    let answer = "<R><AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>ASIA</AccessKeyId><SecretAccessKey>s</SecretAccessKey>\
                  <SessionToken>t</SessionToken><Expiration>1970-01-01T00:00:01Z</Expiration></Credentials>\
                  </AssumeRoleWithWebIdentityResult></R>";
    let server = Server::start(vec![Reply::text(200, answer)]);
    let config = format!(
        "[profile p]\nrole_arn = arn:r\nrole_session_name = me\nweb_identity_token_file = {}\n",
        token.display()
    );
    let result = ask("", &config, &[("AWS_PROFILE", "p"), ("AWS_ENDPOINT_URL_STS", &server.url())]);
    let Ok(Found::Credentials(credentials)) = result else { panic!("{result:?}") };
    assert_eq!((credentials.access_key_id.as_str(), credentials.lifetime), ("ASIA", Lifetime::Until(1000)));
    assert!(server.requests()[0].body.contains("RoleArn=arn%3Ar&RoleSessionName=me&"));
}

/// Keys of the profile itself go before; a role may be asked for with what the program prints.
#[test]
fn a_program_of_a_profile() {
    let document = |id: &str| format!(r#"'{{"Version": 1, "AccessKeyId": "{id}", "SecretAccessKey": "s"}}'"#);
    let line = format!("credential_process = echo {}\n", document("PROGRAM"));
    assert_eq!(found(ask("", &format!("[default]\n{line}"), &[])), ["PROGRAM", "s", ""]);
    assert_eq!(found(ask(&format!("[default]\n{line}"), "[default]\nregion = x\n", &[])), ["PROGRAM", "s", ""]);
    let keys = "aws_access_key_id = KEYS\naws_secret_access_key = k\n";
    assert_eq!(found(ask(&format!("[default]\n{keys}{line}"), "", &[])), ["KEYS", "k", ""]);

    let refusal = "<ErrorResponse><Error><Code>AccessDenied</Code></Error></ErrorResponse>";
    let server = Server::start(vec![Reply::text(403, refusal)]);
    let config = format!("[default]\nrole_arn = r\nsource_profile = a\n[profile a]\n{line}");
    ask("", &config, &[("AWS_ENDPOINT_URL_STS", &server.url())]).expect_err("refused");
    assert!(server.requests()[0].all("authorization")[0].contains("Credential=PROGRAM/"));
}
