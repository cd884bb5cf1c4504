//! Where credentials come from, tried with Amazon's own library for Python, which moto brings along: what it can use is as it
//! should be.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use muster_ec2_cloud::{Credentials, Metadata, WEB_IDENTITY_TOKEN};

use crate::support::Account;

const PROGRAM: &str = "import sys, boto3, botocore.exceptions\n\
    client = boto3.client('ec2', endpoint_url=sys.argv[1], region_name='us-east-1')\n\
    try:\n\
    \x20   print('listed', len(client.describe_instances(Filters=[{'Name': 'tag:a b+c', 'Values': ['d/ä~*']}])['Reservations']))\n\
    except botocore.exceptions.ClientError as error:\n\
    \x20   print(error.response['Error']['Code'])\n\
    except botocore.exceptions.NoCredentialsError:\n\
    \x20   print('none')\n";

/// What it says after a list of instances, with this environment.
fn listed(url: &str, environment: &[(&str, &str)]) -> String {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/moto-venv/bin/python");
    let mut command = Command::new(python);
    command.args(["-I", "-c", PROGRAM, url]).env_clear().env("AWS_MAX_ATTEMPTS", "1");
    // Without it, it gives the metadata service a second.
    command.env("AWS_METADATA_SERVICE_TIMEOUT", "60");
    let output = command.envs(environment.iter().copied()).output().expect("starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text").trim().to_owned()
}

#[test]
fn signatures_are_checked() {
    let account = Account::new();
    let url = account.proxy.url();
    let with = |id, secret, token: Option<&str>| {
        let token = token.unwrap_or_default();
        let all = [("AWS_ACCESS_KEY_ID", id), ("AWS_SECRET_ACCESS_KEY", secret), ("AWS_SESSION_TOKEN", token)];
        listed(&url, &all[..if token.is_empty() { 2 } else { 3 }])
    };
    let Credentials { id, secret, .. } = Credentials::STATIC;
    assert_eq!(with(id, secret, None), "listed 0");
    assert_eq!(with(id, "another", None), "SignatureDoesNotMatch");
    assert_eq!(with("AKIANOBODY", secret, None), "AuthFailure");
    let Credentials { id, secret, token } = Credentials::ROLE;
    assert_eq!(with(id, secret, token), "listed 0");
    assert_eq!(with(id, secret, None), "AuthFailure");
    assert_eq!(with(id, secret, Credentials::RENEWED.token), "AuthFailure");
    let seen = account.proxy.calls("DescribeInstances");
    assert_eq!(seen.len(), 6);
    assert!(seen[0].authorization.as_ref().expect("signed").contains(Credentials::STATIC.id));
    assert!(seen[0].has("Filter.1.Value.1", "d/ä~*") && seen[0].has("Name", "tag:a b+c"), "{seen:?}");
    assert_eq!(seen[3].token.as_deref(), token);
}

#[test]
fn an_instance_gets_the_credentials_of_its_role() {
    let account = Account::new();
    let service = Metadata::start(Credentials::ROLE, Duration::from_secs(3600)).expect("starts");
    let url = service.url();
    let ask = || listed(&account.proxy.url(), &[("AWS_EC2_METADATA_SERVICE_ENDPOINT", &url)]);
    assert_eq!(ask(), "listed 0");
    service.renew(Credentials::RENEWED, Duration::from_secs(3600));
    assert_eq!(ask(), "listed 0");
    service.fail(Some(404));
    assert_eq!(ask(), "none");
    let tokens: Vec<_> = account.proxy.calls("DescribeInstances").into_iter().map(|call| call.token).collect();
    assert_eq!(
        tokens.iter().map(Option::as_deref).collect::<Vec<_>>(),
        [Credentials::ROLE.token, Credentials::RENEWED.token]
    );
    let requests = service.requests();
    let role = "GET /latest/meta-data/iam/security-credentials/";
    let wanted = [("PUT /latest/api/token", 200), (role, 200), (&format!("{role}muster-role"), 200)];
    assert_eq!(requests[..3], wanted.map(|(request, status)| (request.to_owned(), status)));
}

/// Version 1 of the service, without a session's token, is not there.
#[test]
fn the_service_wants_a_token() {
    let service = Metadata::start(Credentials::ROLE, Duration::from_secs(3600)).expect("starts");
    let ask = |head: &str| {
        let place = service.url().strip_prefix("http://").expect("a URL").to_owned();
        let mut stream = std::net::TcpStream::connect(place).expect("connected");
        std::io::Write::write_all(&mut stream, format!("{head}\r\n\r\n").as_bytes()).expect("sent");
        let mut text = String::new();
        std::io::Read::read_to_string(&mut stream, &mut text).expect("answered");
        text.split(' ').nth(1).expect("a status").to_owned()
    };
    let role = "GET /latest/meta-data/iam/security-credentials/muster-role HTTP/1.1\r\nHost: a";
    assert_eq!(ask(role), "401");
    assert_eq!(ask(&format!("{role}\r\nX-aws-ec2-metadata-token: wrong")), "401");
    assert_eq!(ask("PUT /latest/api/token HTTP/1.1\r\nHost: a"), "400");
    assert_eq!(ask("GET /container-credentials HTTP/1.1\r\nHost: a"), "403");
}

#[test]
fn a_container_gets_credentials() {
    let account = Account::new();
    let service = Metadata::start(Credentials::ROLE, Duration::from_secs(3600)).expect("starts");
    let place = service.container_url();
    let place = ("AWS_CONTAINER_CREDENTIALS_FULL_URI", place.as_str());
    let token = ("AWS_CONTAINER_AUTHORIZATION_TOKEN", service.container_token());
    assert_eq!(listed(&account.proxy.url(), &[place, token]), "listed 0");
}

#[test]
fn sts_gives_credentials_for_a_web_identity() {
    let account = Account::new();
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("token");
    let moto = account.moto.url();
    let environment = [
        ("AWS_WEB_IDENTITY_TOKEN_FILE", file.to_str().expect("text")),
        ("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/muster"),
        ("AWS_ROLE_SESSION_NAME", "muster"),
        ("AWS_ENDPOINT_URL_STS", &moto),
        ("AWS_DEFAULT_REGION", "us-east-1"),
    ];
    std::fs::write(&file, WEB_IDENTITY_TOKEN).expect("written");
    assert_eq!(listed(&account.proxy.url(), &environment), "listed 0");
    std::fs::write(&file, "another").expect("written");
    assert_eq!(listed(&account.proxy.url(), &environment), "InvalidIdentityToken");
}
