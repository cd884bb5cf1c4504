//! Requests to a real listener on this host, and the ways in which an answer may fail to come.

use std::io::ErrorKind;

use super::*;
use server::{Reply, Server};

pub(in crate::cloud::ec2) mod server;

fn http(endpoint: Endpoint, proxy: Option<Proxy>, limits: Limits) -> Http {
    Http::new(endpoint, proxy, limits, std::sync::Arc::new(crate::shell::threads::spawn))
}

fn client(server: &Server, limits: Limits) -> Http {
    http(Endpoint::given(&server.url()).expect("a URL"), None, limits)
}

fn get() -> Request<'static> {
    Request { method: "GET", path: "/", ..Request::default() }
}

fn failure(server: &Server, limits: Limits) -> String {
    client(server, limits).send(get()).expect_err("no answer").to_string()
}

#[test]
fn a_request_has_its_headers_once_and_each_has_its_connection() {
    let server = Server::start(vec![Reply::text(200, "one"), Reply::text(404, "two")]);
    let client = client(&server, Limits::SERVICE);
    let headers = vec![("Content-Type".to_owned(), "text/x".to_owned())];
    let request = Request { method: "POST", path: "/a?b=c", headers, body: Some("b=%20".to_owned()), limit: None };
    assert_eq!(format!("{request:?}"), "POST /a?b=c");
    let answer = client.send(request).expect("an answer");
    assert_eq!(format!("{answer:?}"), "HTTP status 200 and 3 bytes");
    assert_eq!((answer.status, answer.body.as_slice()), (200, b"one".as_slice()));
    let answer = client.send(Request { method: "PUT", ..get() }).expect("an answer");
    assert_eq!((answer.status, answer.body.as_slice()), (404, b"two".as_slice()));

    let seen = server.requests();
    assert_eq!((seen[0].line.as_str(), seen[0].body.as_str()), ("POST /a?b=c HTTP/1.1", "b=%20"));
    assert_eq!(seen[0].all("host"), [server.authority()]);
    assert_eq!(seen[0].all("connection"), ["close"]);
    assert_eq!(seen[0].all("content-type"), ["text/x"]);
    assert_eq!(seen[0].all("content-length"), ["5"]);
    assert!(seen[0].all("user-agent")[0].starts_with("muster/"));
    assert_eq!(seen[1].line, "PUT / HTTP/1.1");
    assert_eq!(seen[1].body, "");
}

#[test]
fn redirects_are_answers_and_not_followed() {
    let elsewhere = Server::start(vec![Reply::text(200, "elsewhere")]);
    let moved = format!("HTTP/1.1 307 Moved\r\nLocation: {}\r\nContent-Length: 5\r\n\r\nmoved", elsewhere.url());
    let server = Server::start(vec![Reply::Raw(moved.into_bytes())]);
    let answer = client(&server, Limits::SERVICE).send(get()).expect("an answer");
    assert_eq!((answer.status, answer.body.as_slice()), (307, b"moved".as_slice()));
    assert_eq!(elsewhere.requests().len(), 0);
}

#[test]
fn a_cut_answer_is_an_error_and_asked_for_once() {
    for text in [
        "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n<a>only so much",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n<a>\r\n",
        "HTTP/1.1 200 OK\r\nContent-Le",
        "",
    ] {
        let server = Server::start(vec![Reply::Raw(text.into()), Reply::text(200, "a second answer")]);
        let message = failure(&server, Limits::SERVICE);
        assert!(message.contains("failed or its answer was cut"), "{text}: {message}");
        assert_eq!(server.requests().len(), 1, "{text}");
    }
}

#[test]
fn answers_are_limited_in_size() {
    let limits = Limits { answer_bytes: 10, ..Limits::SERVICE };
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nb\r\n01234567890\r\n0\r\n\r\n";
    let endless = "HTTP/1.1 200 OK\r\n\r\n01234567890";
    for reply in [Reply::text(200, "01234567890"), Reply::Raw(chunked.into()), Reply::Raw(endless.into())] {
        let message = failure(&Server::start(vec![reply]), limits);
        assert!(message.ends_with("has more than 10 bytes"), "{message}");
    }
    let server = Server::start(vec![Reply::text(200, "0123456789")]);
    assert_eq!(client(&server, limits).send(get()).expect("just so").body.len(), 10);
    let header = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(1 << 20));
    assert!(client(&Server::start(vec![Reply::Raw(header.into())]), limits).send(get()).is_err());
}

#[test]
fn answers_are_limited_in_time() {
    let limits = Limits { whole: Duration::from_millis(300), ..Limits::SERVICE };
    let begun = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n<a>";
    for reply in [Reply::Silence(Vec::new()), Reply::Silence(begun.into())] {
        let message = failure(&Server::start(vec![reply]), limits);
        assert!(message.contains("has not answered within 0.3 s"), "{message}");
    }
    let server = Server::start(vec![Reply::Silence(Vec::new())]);
    let request = Request { limit: Some(Duration::from_millis(200)), ..get() };
    let message = client(&server, Limits::SERVICE).send(request).expect_err("no answer").to_string();
    assert!(message.contains("has not answered within 0.2 s"), "{message}");
}

#[test]
fn who_does_not_listen_is_named() {
    let server = Server::start(Vec::new());
    let authority = server.authority();
    let client = client(&server, Limits::SERVICE);
    drop(server);
    let message = client.send(get()).expect_err("nobody is there").to_string();
    assert_eq!(message, format!("{authority} refuses connections"));
}

#[test]
fn plain_text_is_not_taken_for_tls() {
    let server = Server::start(vec![Reply::text(200, "not TLS")]);
    let (endpoint, _) = Endpoint::parse(&server.url().replace("http:", "https:")).expect("a URL");
    let error = http(endpoint, None, Limits::SERVICE).send(get()).expect_err("no TLS");
    assert!(error.to_string().contains("root certificates"), "{error:?}");
}

/// A certificate for `localhost` that nobody vouches for, and its key.
fn self_signed() -> (openssl::x509::X509, openssl::pkey::PKey<openssl::pkey::Private>) {
    use openssl::{asn1::Asn1Time, hash::MessageDigest, pkey::PKey, rsa::Rsa, x509};
    let key = PKey::from_rsa(Rsa::generate(2048).expect("a key")).expect("a key");
    let mut name = x509::X509Name::builder().expect("a name");
    name.append_entry_by_text("CN", "localhost").expect("a name");
    let name = name.build();
    let mut builder = x509::X509::builder().expect("a certificate");
    builder.set_version(2).expect("3");
    builder.set_subject_name(&name).expect("set");
    builder.set_issuer_name(&name).expect("set");
    builder.set_pubkey(&key).expect("set");
    builder.set_not_before(&Asn1Time::days_from_now(0).expect("a time")).expect("set");
    builder.set_not_after(&Asn1Time::days_from_now(1).expect("a time")).expect("set");
    let mut alternative = x509::extension::SubjectAlternativeName::new();
    alternative.dns("localhost").ip("127.0.0.1");
    let extension = alternative.build(&builder.x509v3_context(None, None)).expect("an extension");
    builder.append_extension(extension).expect("set");
    builder.sign(&key, MessageDigest::sha256()).expect("signed");
    (builder.build(), key)
}

#[test]
fn a_certificate_that_nobody_vouches_for_is_refused() {
    use openssl::ssl::{SslAcceptor, SslMethod};
    let (certificate, key) = self_signed();
    let mut acceptor = SslAcceptor::mozilla_intermediate(SslMethod::tls()).expect("an acceptor");
    acceptor.set_certificate(&certificate).expect("set");
    acceptor.set_private_key(&key).expect("set");
    let acceptor = acceptor.build();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let endpoint = Endpoint::given(&format!("https://{}", listener.local_addr().expect("bound"))).expect("a URL");
    let server = std::thread::spawn(move || acceptor.accept(listener.accept().expect("a connection").0).is_ok());
    let error = http(endpoint, None, Limits::SERVICE).send(get()).expect_err("not trusted");
    assert!(error.to_string().contains("root certificates"), "{error:?}");
    let cause = std::error::Error::source(&error).expect("kept").to_string();
    assert!(cause.contains("certificate verify failed"), "{cause}");
    assert!(!server.join().expect("no panic"), "a handshake with who is not trusted");
}

#[test]
fn a_proxy_is_asked_to_connect() {
    let proxy = Server::start(vec![Reply::text(403, "not for you")]);
    let endpoint = Endpoint::given("https://ec2.region.example").expect("a URL");
    let client = http(endpoint, ureq::Proxy::new(&proxy.url()).ok(), Limits::SERVICE);
    let error = client.send(get()).expect_err("refused");
    assert_eq!(error.to_string(), "the proxy does not connect to ec2.region.example", "{error:?}");
    assert_eq!(proxy.requests()[0].line, "CONNECT ec2.region.example:443 HTTP/1.1");
}

#[test]
fn a_header_that_would_be_two_is_refused() {
    let server = Server::start(vec![Reply::text(200, "")]);
    let headers = vec![("Authorization".to_owned(), "a\r\nX-Other: b".to_owned())];
    let error = client(&server, Limits::SERVICE).send(Request { headers, ..get() }).expect_err("refused");
    assert!(error.to_string().contains("cannot be made of what is configured"), "{error}");
    assert_eq!(server.requests().len(), 0);
}

/// Without a name server it cannot be known that there is no such name.
#[test]
fn a_name_that_is_not_known_is_said() {
    let cannot = "cannot be looked up: check this host's name service";
    let region = http(Endpoint::of_service("ec2", "nowhere-1").expect("a region"), None, Limits::SERVICE);
    for (kind, host, expected) in [
        (
            ErrorKind::NotFound,
            region.endpoint().host(),
            "there is no host ec2.nowhere-1.amazonaws.com: is Region right?",
        ),
        (ErrorKind::NotFound, "proxy", "there is no host proxy, by which the environment's proxy variables lead"),
        (ErrorKind::HostUnreachable, "a", "the name a cannot be looked up: check this host's name service"),
        (ErrorKind::WouldBlock, "b", "the name b cannot be looked up: check this host's name service"),
    ] {
        let failed = LookUpFailed { host: host.to_owned(), error: kind.into() };
        assert_eq!(region.explain(ureq::Error::Other(Box::new(failed)), Duration::ZERO).to_string(), expected);
    }
    // RFC 6761: there is none.
    let nowhere = http(Endpoint::given("http://ec2.invalid").expect("a URL"), None, Limits::SERVICE);
    let message = nowhere.send(get()).expect_err("nobody").to_string();
    assert!(message.contains(cannot) || message == "there is no host ec2.invalid: is Region right?", "{message}");
    let by_proxy = http(
        Endpoint::of_service("ec2", "us-east-1").expect("a region"),
        Proxy::new("http://proxy.invalid:3128").ok(),
        Limits::SERVICE,
    );
    let message = by_proxy.send(get()).expect_err("nobody").to_string();
    assert!(
        message.contains("proxy.invalid") && (message.contains(cannot) || message.contains("no host")),
        "{message}"
    );
}

/// A number needs no thread, and a name without one is an error; before, the process ended.
#[test]
fn no_thread_is_left_for_a_name() {
    let spawn: Spawn = std::sync::Arc::new(|_, _| Err(rustix::io::Errno::AGAIN.into()));
    let server = Server::start(vec![Reply::text(200, "one")]);
    let endpoint = Endpoint::given(&server.url()).expect("a URL");
    assert_eq!(Http::new(endpoint, None, Limits::SERVICE, spawn.clone()).send(get()).expect("an answer").status, 200);
    let endpoint = Endpoint::given("http://localhost:1").expect("a URL");
    let error = Http::new(endpoint, None, Limits::SERVICE, spawn).send(get()).expect_err("no thread");
    assert!(error.to_string().starts_with("the name localhost cannot be looked up"), "{error:?}");
}

/// Neither a name server nor a service that says nothing is waited for beyond the limit.
#[test]
fn names_and_connections_are_limited_in_time() {
    let limits = Limits { connect: Duration::from_millis(300), ..Limits::SERVICE };
    let (end, ended) = crossbeam_channel::bounded::<()>(0);
    let spawn: Spawn = std::sync::Arc::new(move |name, body| {
        let ended = ended.clone();
        let late = move || {
            let _ = ended.recv();
            body();
        };
        crate::shell::threads::spawn(name, Box::new(late))
    });
    let endpoint = Endpoint::given("http://localhost:1").expect("a URL");
    let message = Http::new(endpoint, None, limits, spawn).send(get()).expect_err("no name").to_string();
    assert_eq!(message, "what localhost:1 stands for is not known after 0.3 s: check this host's name service");
    drop(end);

    // The system accepts the connection, and nobody shakes hands.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let authority = listener.local_addr().expect("bound").to_string();
    let endpoint = Endpoint::given(&format!("https://{authority}")).expect("a URL");
    let message = http(endpoint, None, limits).send(get()).expect_err("no handshake").to_string();
    assert!(message.starts_with(&format!("no connection to {authority} within 0.3 s")), "{message}");
}
