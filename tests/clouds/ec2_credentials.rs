//! The driver `ec2` with credentials that end: from an instance's metadata service, a container's agent, STS. moto checks every signature and
//! session token; time is the test's own, within the minutes by which a signature may be off.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use muster::cloud::InstanceSet;
use muster::cloud::ec2::Ec2;
use muster::cloud::ec2::environment::Environment;
use muster::core::effect::Tags;
use muster::core::errors::chain;
use muster_ec2_cloud::{Call, Credentials, Ec2Proxy, Ec2Site, Metadata, WEB_IDENTITY_TOKEN};
use muster_ssh_hosts::{ClientKey, client_key};

use crate::ec2::driver_with;
use crate::support::{log, wait_until};

const HOUR: Duration = Duration::from_secs(3600);

struct Fixture {
    site: Ec2Site,
    key: ClientKey,
    /// The time of day when the test began, in milliseconds; however long it takes, the driver's is this and so many seconds.
    began: i64,
    ahead: Arc<AtomicI64>,
}

impl Fixture {
    fn new() -> Self {
        log();
        let (site, key) = (Ec2Site::start().expect("starts"), client_key().expect("made"));
        Self { site, key, began: jiff::Timestamp::now().as_millisecond(), ahead: Arc::default() }
    }

    /// A driver without keys of its own, in a process with these variables only.
    fn driver(&self, variables: &[(&str, &str)]) -> Ec2 {
        let owned: BTreeMap<String, String> =
            variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let environment =
            Environment::new(move |name| owned.get(name).cloned(), None, Arc::new(muster::shell::threads::spawn));
        let (began, ahead) = (self.began, self.ahead.clone());
        let wall = move || began + 1000 * ahead.load(Ordering::SeqCst);
        driver_with(&self.site, &self.key, ("", ""), environment, wall)
    }

    fn set_ahead(&self, seconds: i64) {
        self.ahead.store(seconds, Ordering::SeqCst);
    }

    /// What a list comes to: the session token that its one call had, or the error, after which none was made.
    fn list(&self, driver: &Ec2) -> Result<String, String> {
        let before = self.calls().len();
        match driver.list(&Tags::new()) {
            Ok(listed) => {
                assert!(listed.is_empty());
                let calls = self.calls();
                assert_eq!(calls.len(), before + 1);
                Ok(calls[before].token.clone().expect("of a session"))
            }
            Err(error) => {
                assert_eq!(self.calls().len(), before, "{error}");
                Err(chain(&error))
            }
        }
    }

    fn calls(&self) -> Vec<Call> {
        self.site.proxy.calls("*")
    }
}

fn token(of: Credentials) -> Result<String, String> {
    Ok(of.token.expect("of a role").to_owned())
}

/// Renewed before they end, by one search that the others do not wait for; while that fails the old ones serve to their end, and not beyond.
#[test]
fn a_role_from_beginning_to_end() {
    let fixture = Fixture::new();
    let metadata = Metadata::start(Credentials::ROLE, Duration::from_secs(120)).expect("starts");
    let driver = fixture.driver(&[("AWS_EC2_METADATA_SERVICE_ENDPOINT", &metadata.url())]);
    assert!(metadata.requests().is_empty(), "nobody is asked before the first call");
    assert_eq!(fixture.list(&driver), token(Credentials::ROLE));
    let asked: Vec<String> = metadata.requests().into_iter().map(|(line, _)| line).collect();
    let roles = "/latest/meta-data/iam/security-credentials/";
    assert_eq!(asked, ["PUT /latest/api/token".to_owned(), format!("GET {roles}"), format!("GET {roles}muster-role")]);

    // They end soon, and the service fails: said once, and not asked at each call.
    metadata.fail(Some(500));
    for seconds in [20, 21, 40] {
        fixture.set_ahead(seconds);
        assert_eq!(fixture.list(&driver), token(Credentials::ROLE), "{seconds}");
    }
    let searches = |metadata: &Metadata| metadata.requests().iter().filter(|(line, _)| line.starts_with("PUT")).count();
    assert_eq!(searches(&metadata), 3);
    fixture.set_ahead(180);
    let error = fixture.list(&driver).expect_err("they have ended");
    assert!(error.contains("cannot get credentials from the metadata service"), "{error}");
    assert!(error.contains("HTTP status 500"), "{error}");

    metadata.fail(None);
    metadata.renew(Credentials::RENEWED, HOUR);
    fixture.set_ahead(190);
    assert_eq!(fixture.list(&driver), token(Credentials::RENEWED));
    let text = format!("{driver:?}") + &log();
    for secret in
        [Credentials::ROLE, Credentials::RENEWED].iter().flat_map(|one| [Some(one.secret), one.token]).flatten()
    {
        assert!(!text.contains(secret));
    }
}

/// Those of a role that EC2 does not take any more, long before their end: new ones are asked for.
#[test]
fn credentials_that_were_withdrawn() {
    let fixture = Fixture::new();
    let unknown = Credentials { id: "ASIAMUSTERTEST999999", ..Credentials::ROLE };
    let metadata = Metadata::start(unknown, HOUR).expect("starts");
    let driver = fixture.driver(&[("AWS_EC2_METADATA_SERVICE_ENDPOINT", &metadata.url())]);
    let refused = |driver: &Ec2| chain(&driver.list(&Tags::new()).expect_err("not taken"));
    assert!(refused(&driver).contains("AuthFailure"));
    metadata.renew(Credentials::RENEWED, HOUR);
    fixture.set_ahead(11);
    assert_eq!(fixture.list(&driver), token(Credentials::RENEWED));
}

#[test]
fn a_containers_agent() {
    let fixture = Fixture::new();
    let metadata = Metadata::start(Credentials::ROLE, HOUR).expect("starts");
    let url = metadata.container_url();
    let place = ("AWS_CONTAINER_CREDENTIALS_FULL_URI", url.as_str());
    let known = fixture.driver(&[place, ("AWS_CONTAINER_AUTHORIZATION_TOKEN", metadata.container_token())]);
    assert_eq!(fixture.list(&known), token(Credentials::ROLE));
    let unknown = fixture.driver(&[place, ("AWS_CONTAINER_AUTHORIZATION_TOKEN", "Bearer of nothing")]);
    let error = fixture.list(&unknown).expect_err("refused");
    assert!(error.contains("from a container's agent") && error.contains("403"), "{error}");
    assert!(!error.contains("Bearer"), "{error}");
}

/// STS hands out credentials of its own making; the token's file is read anew.
#[test]
fn a_web_identity() {
    let fixture = Fixture::new();
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("token");
    let sts = fixture.site.moto.url();
    let driver = fixture.driver(&[
        ("AWS_WEB_IDENTITY_TOKEN_FILE", file.to_str().expect("text")),
        ("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/muster"),
        ("AWS_ENDPOINT_URL_STS", &sts),
    ]);
    assert!(fixture.list(&driver).expect_err("no file").contains("cannot read the token of the web identity"));
    std::fs::write(&file, "another").expect("written");
    fixture.set_ahead(5);
    let error = fixture.list(&driver).expect_err("not the right one");
    assert!(error.contains("STS does not give the role") && error.contains("InvalidIdentityToken"), "{error}");
    std::fs::write(&file, WEB_IDENTITY_TOKEN).expect("written");
    fixture.set_ahead(10);
    let given = fixture.list(&driver).expect("a session");
    assert!(![Credentials::ROLE, Credentials::RENEWED].iter().any(|one| one.token == Some(&given)), "{given}");
}

/// Roles of a profile, one by way of the other: moto checks by whom the calls of STS are signed, too.
#[test]
fn roles_of_profiles() {
    let fixture = Fixture::new();
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("config");
    let write = |secret: &str| {
        let role = |name: &str| format!("role_arn = arn:aws:iam::123456789012:role/{name}\nduration_seconds = 900\n");
        let (first, second, id) = (role("first"), role("second"), Credentials::STATIC.id);
        let text = format!(
            "[profile used]\n{second}source_profile = between\n[profile between]\n{first}source_profile = base\n\
             [profile base]\naws_access_key_id = {id}\naws_secret_access_key = {secret}\n"
        );
        std::fs::write(&file, text).expect("written");
    };
    // Calls of STS pass here and nothing else does.
    let sts = Ec2Proxy::start(&fixture.site.moto).expect("starts");
    let asked = || -> Vec<(Option<String>, bool)> {
        let calls = sts.calls("*");
        assert!(calls.iter().all(|call| call.action == "AssumeRole"), "{calls:?}");
        calls.iter().map(|call| (call.parameter("RoleArn").map(str::to_owned), call.token.is_some())).collect()
    };
    let arn = |name: &str| Some(format!("arn:aws:iam::123456789012:role/{name}"));
    let driver = fixture.driver(&[
        ("AWS_CONFIG_FILE", file.to_str().expect("text")),
        ("AWS_PROFILE", "used"),
        ("AWS_ENDPOINT_URL_STS", &sts.url()),
    ]);
    write("another");
    let error = fixture.list(&driver).expect_err("not the right one");
    assert!(error.contains("STS does not give the role arn:aws:iam::123456789012:role/first"), "{error}");
    assert_eq!(asked(), [(arn("first"), false)]);
    write(Credentials::STATIC.secret);
    fixture.set_ahead(10);
    let given = fixture.list(&driver).expect("a session");
    // The second role is asked for with the session of the first, and its own session is what is used.
    assert_eq!(asked()[1..], [(arn("first"), false), (arn("second"), true)]);
    assert!(sts.calls("*")[2].answer.contains(&given), "{given}");
    assert!(![Credentials::ROLE, Credentials::RENEWED].iter().any(|one| one.token == Some(&given)), "{given}");
    // Those serve until five minutes before their end.
    fixture.set_ahead(200);
    assert_eq!(fixture.list(&driver), Ok(given));
    assert_eq!(asked().len(), 3);
}

/// It would outlive this process, since nobody else waits for it.
#[test]
fn a_stop_ends_the_program_of_a_profile() {
    let fixture = Fixture::new();
    let folder = tempfile::tempdir().expect("a folder");
    let (file, mark) = (folder.path().join("config"), folder.path().join("mark"));
    let line = format!("sh -c 'echo $$ >{0}.new; mv {0}.new {0}; exec sleep 1000'", mark.display());
    std::fs::write(&file, format!("[default]\ncredential_process = {line}\n")).expect("written");
    let driver = fixture.driver(&[("AWS_CONFIG_FILE", file.to_str().expect("text"))]);
    let error = std::thread::scope(|scope| {
        let list = scope.spawn(|| driver.list(&Tags::new()));
        wait_until("it runs", || mark.exists());
        driver.stop();
        list.join().expect("no panic").expect_err("stopped")
    });
    let error = chain(&error);
    assert!(error.contains("was killed, since the dispatcher stops"), "{error}");
    let process = std::fs::read_to_string(&mark).expect("written");
    assert!(!std::path::Path::new("/proc").join(process.trim()).exists());
}
