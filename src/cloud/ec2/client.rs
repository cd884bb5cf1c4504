//! EC2's query API over HTTPS: credentials, form, signature, request, answer. Each call is one request in the caller's thread.

use std::time::Duration;

use super::credentials::Secret;
use super::credentials::cache::Cache;
use super::credentials::chain::Chain;
use super::endpoint::Endpoint;
use super::environment::{Environment, WallClock};
use super::http::{Http, Limits, Request};
use super::query::{Element, Params, Query, QueryError};
use super::sigv4::{self, Scope};
use super::xml;

const VERSION: &str = "2016-11-15";
/// The service does not take these credentials; a file may have newer ones by now.
const REFUSED_CREDENTIALS: [&str; 6] = [
    "AuthFailure",
    "ExpiredToken",
    "InvalidClientTokenId",
    "RequestExpired",
    "SignatureDoesNotMatch",
    "UnrecognizedClientException",
];

/// Of whom and where.
#[derive(Clone, Debug)]
pub struct Settings {
    pub region: String,
    /// A URL in place of the region's public endpoint.
    pub endpoint: Option<String>,
    /// Both empty: credentials are looked for.
    pub access_key_id: String,
    pub secret_access_key: Secret,
    pub environment: Environment,
    pub clock: WallClock,
}

/// The [`Query`] that goes to the network.
#[derive(Debug)]
pub struct HttpQuery {
    http: Http,
    scope: Scope,
    credentials: Cache,
    clock: WallClock,
}

impl HttpQuery {
    /// Calls nobody: whether there are credentials shows at the first call.
    ///
    /// # Errors
    /// Region, endpoint or proxy cannot be used, or no descriptor is left.
    pub fn new(settings: Settings) -> Result<Self, QueryError> {
        let Settings { region, endpoint, access_key_id, secret_access_key, environment, clock } = settings;
        let public = Endpoint::of_service("ec2", &region)?;
        let given = endpoint.or_else(|| environment.endpoint_url("EC2"));
        let endpoint = given.map_or(Ok(public), |url| Endpoint::given(url.trim()))?;
        let proxy = endpoint.proxy(&environment)?;
        let http = Http::new(endpoint, proxy, Limits::SERVICE, environment.spawn());
        let chain = Chain::new(access_key_id, secret_access_key, region.clone(), environment, clock.clone())?;
        Ok(Self { http, scope: Scope { region, service: "ec2" }, credentials: Cache::new(chain, clock.clone()), clock })
    }
}

impl Query for HttpQuery {
    /// The limit is for the request: credentials that have to be got first have limits of their own.
    fn call_within(&self, action: &'static str, params: &Params, limit: Duration) -> Result<Element, QueryError> {
        let credentials = self.credentials.get()?;
        let mut form = Params::default();
        form.add("Action", action);
        form.add("Version", VERSION);
        form.0.extend(params.0.iter().cloned());
        let body = form.encode();

        let host = self.http.endpoint().authority();
        let headers = sigv4::sign_form(host, &body, &self.scope, &credentials, self.clock.now());
        let request = Request { method: "POST", path: "/", headers, body: Some(body), limit: Some(limit) };
        let answer = self.http.send(request)?;
        let result = xml::answer(answer.status, &answer.body).and_then(|root| expected(root, action));
        if let Err(QueryError::Api { code, .. }) = &result
            && REFUSED_CREDENTIALS.contains(&code.as_str())
        {
            self.credentials.doubt();
        }
        result
    }

    fn stop(&self) {
        self.credentials.stop();
    }
}

/// What is well formed may still be somebody else's page, of which a call without an answer to read would be taken to have succeeded.
fn expected(root: Element, action: &str) -> Result<Element, QueryError> {
    match root.name.strip_suffix("Response") == Some(action) {
        true => Ok(root),
        false => {
            let name = xml::excerpt(root.name.as_bytes());
            Err(QueryError::other(format!("what came is no answer to {action}: it is <{name}>")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cloud::ec2::http::FORM;
    use crate::cloud::ec2::http::tests::server::{Reply, Server};
    use crate::cloud::ec2::sigv4::Signable;

    const LISTED: &str = "<DescribeInstancesResponse/>";

    fn settings(url: &str, environment: Environment) -> Settings {
        Settings {
            region: "us-east-1".into(),
            endpoint: Some(url.to_owned()),
            access_key_id: "AKID".into(),
            secret_access_key: Secret::new("s"),
            environment,
            clock: WallClock::new(|| 1_440_938_160_000),
        }
    }

    fn client(server: &Server) -> HttpQuery {
        HttpQuery::new(settings(&server.url(), Environment::of(&[], None))).expect("usable")
    }

    #[test]
    fn a_call_is_a_signed_form_and_its_answer_an_element() {
        let text = r#"<RunInstancesResponse xmlns="x"><instancesSet><item><instanceId>i-1</instanceId></item></instancesSet></RunInstancesResponse>"#;
        let server = Server::start(vec![Reply::text(200, text)]);
        let mut params = Params::default();
        params.add("ImageId", "ami 1");
        let root = client(&server).call("RunInstances", &params).expect("an answer");
        assert_eq!(root.text_of(&["instancesSet", "item", "instanceId"]), Some("i-1"));

        let asked = &server.requests()[0];
        assert_eq!(asked.line, "POST / HTTP/1.1");
        assert_eq!(asked.body, "Action=RunInstances&Version=2016-11-15&ImageId=ami%201");
        assert_eq!(asked.all("content-type"), [FORM]);
        assert_eq!(asked.all("host"), [server.authority()]);
        assert_eq!(asked.all("x-amz-date"), ["20150830T123600Z"]);
        assert!(asked.all("x-amz-security-token").is_empty());
        // The signature fits what has arrived.
        let signed = [("Content-Type".to_owned(), FORM.to_owned()), ("Host".to_owned(), asked.all("host")[0].clone())];
        let signable =
            Signable { method: "POST", path: "/", query: &Params::default(), headers: &signed, body: &asked.body };
        let credentials = client(&server).credentials.get().expect("fixed");
        let scope = Scope { region: "us-east-1".into(), service: "ec2" };
        let expected = sigv4::sign(&signable, &scope, &credentials, 1_440_938_160_000);
        assert_eq!(asked.all("authorization"), [expected[1].1.clone()]);
    }

    #[test]
    fn refusals_and_outages_are_told_apart() {
        let refusal = "<Response><Errors><Error><Code>RequestLimitExceeded</Code><Message>Slow</Message></Error></Errors>\
                       <RequestID>r-1</RequestID></Response>";
        let cut = Reply::Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n<DescribeInstancesResponse>".to_vec());
        let server = Server::start(vec![
            Reply::text(503, refusal),
            Reply::text(503, "upstream\tgone"),
            Reply::text(200, "<html><body>portal</body>"),
            Reply::text(200, "<html/>"),
            Reply::text(200, "<Response/>"),
            Reply::text(200, "<RunInstancesResponse/>"),
            Reply::text(302, ""),
            cut,
        ]);
        let client = client(&server);
        let call = || client.call("DescribeInstances", &Params::default()).expect_err("an error");
        let error = call();
        assert!(matches!(&error, QueryError::Api { status: 503, .. }), "{error:?}");
        assert_eq!(error.to_string(), "RequestLimitExceeded: Slow (request id r-1)");
        for expected in [
            "status 503 and no error document: upstream\\tgone",
            "not whole XML",
            "no answer to DescribeInstances: it is <html>",
            "it is <Response>",
            "it is <RunInstancesResponse>",
            "redirects",
            "was cut",
        ] {
            let error = call();
            assert!(matches!(error, QueryError::Other { .. }) && error.to_string().contains(expected), "{error:?}");
        }
        assert_eq!(server.requests().len(), 8);
    }

    #[test]
    fn without_credentials_nothing_is_sent() {
        let server = Server::start(Vec::new());
        let environment = Environment::of(&[("AWS_EC2_METADATA_DISABLED", "true")], None);
        let mut settings = settings(&server.url(), environment);
        settings.access_key_id.clear();
        settings.secret_access_key = Secret::new("");
        let error = HttpQuery::new(settings).expect("usable").call("DescribeInstances", &Params::default());
        assert!(error.expect_err("nobody").to_string().contains("there are no credentials"));
        assert!(server.requests().is_empty());
    }

    #[test]
    fn refused_credentials_of_a_file_are_read_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("credentials");
        let write = |id: &str, token: &str| {
            let text =
                format!("[default]\naws_access_key_id={id}\naws_secret_access_key=s\naws_session_token={token}\n");
            std::fs::write(&path, text).expect("written");
        };
        let refusal = "<Response><Errors><Error><Code>RequestExpired</Code></Error></Errors></Response>";
        let server = Server::start(vec![Reply::text(400, refusal), Reply::text(200, LISTED)]);
        let environment = Environment::of(&[("AWS_SHARED_CREDENTIALS_FILE", path.to_str().expect("text"))], None);
        let mut settings = settings(&server.url(), environment);
        settings.access_key_id.clear();
        settings.secret_access_key = Secret::new("");
        // Ten seconds at each look.
        let now = std::sync::atomic::AtomicI64::new(1_440_938_160_000);
        settings.clock = WallClock::new(move || now.fetch_add(10_000, std::sync::atomic::Ordering::SeqCst));
        let client = HttpQuery::new(settings).expect("usable");
        write("OLD", "old");
        client.call("DescribeInstances", &Params::default()).expect_err("refused");
        write("NEW", "new");
        client.call("DescribeInstances", &Params::default()).expect("an answer");
        let tokens: Vec<_> = server.requests().iter().map(|asked| asked.all("x-amz-security-token")).collect();
        assert_eq!(tokens, [["old"], ["new"]]);
    }

    #[test]
    fn settings_that_cannot_be_used_are_refused_at_once() {
        let nothing = || Environment::of(&[], None);
        for settings in [
            Settings { region: String::new(), ..settings("http://localhost", nothing()) },
            Settings { region: "a.b".into(), ..settings("http://localhost", nothing()) },
            settings("localhost", nothing()),
            settings("http://localhost/path", nothing()),
            settings("https://ec2.example", Environment::of(&[("HTTPS_PROXY", "no such://proxy")], None)),
        ] {
            assert!(HttpQuery::new(settings.clone()).is_err(), "{settings:?}");
        }
        let environment = Environment::of(
            &[("AWS_ENDPOINT_URL", "http://a.example"), ("AWS_ENDPOINT_URL_EC2", "http://b.example")],
            None,
        );
        let by_variable = Settings { endpoint: None, ..settings("", environment) };
        assert_eq!(HttpQuery::new(by_variable).expect("usable").http.endpoint().authority(), "b.example");
        let public = Settings { endpoint: None, ..settings("", nothing()) };
        assert_eq!(
            HttpQuery::new(public).expect("usable").http.endpoint().url("/"),
            "https://ec2.us-east-1.amazonaws.com/"
        );
    }
}
