//! EC2 by way of TLS and of a proxy, as a program meets it that trusts what its system trusts.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use openssl::asn1::Asn1Time;
use openssl::bn::BigNum;
use openssl::hash::MessageDigest;
use openssl::pkey::{PKey, Private};
use openssl::ssl::{SslAcceptor, SslMethod};
use openssl::x509::extension::{BasicConstraints, SubjectAlternativeName};
use openssl::x509::{X509, X509Name};

use crate::fixture::Cluster;

/// Known to nobody: only the proxy can get there.
const FAR_AWAY: &str = "ec2.far-away.example";
const VARIABLES: [&str; 9] = [
    "HTTPS_PROXY",
    "https_proxy",
    "HTTP_PROXY",
    "http_proxy",
    "ALL_PROXY",
    "all_proxy",
    "NO_PROXY",
    "no_proxy",
    "SSL_CERT_FILE",
];

fn new_key() -> PKey<Private> {
    PKey::ec_gen("prime256v1").expect("a key")
}

fn named(name: &str) -> X509Name {
    let mut builder = X509Name::builder().expect("a name");
    builder.append_entry_by_text("CN", name).expect("a name");
    builder.build()
}

/// Of an authority without `issuer`, which then signs itself; else of the names that are used here.
fn certificate(key: &PKey<Private>, issuer: Option<(&X509, &PKey<Private>)>) -> X509 {
    let mut builder = X509::builder().expect("a certificate");
    builder.set_version(2).expect("3");
    let serial = BigNum::from_u32(if issuer.is_some() { 2 } else { 1 }).and_then(|number| number.to_asn1_integer());
    builder.set_serial_number(&serial.expect("a number")).expect("set");
    let name = named(if issuer.is_some() { "localhost" } else { "an authority of this test" });
    builder.set_subject_name(&name).expect("set");
    builder.set_issuer_name(issuer.map_or(&*name, |(of, _)| of.subject_name())).expect("set");
    builder.set_pubkey(key).expect("set");
    builder.set_not_before(&Asn1Time::days_from_now(0).expect("a time")).expect("set");
    builder.set_not_after(&Asn1Time::days_from_now(1).expect("a time")).expect("set");
    let extension = match issuer {
        None => BasicConstraints::new().critical().ca().build(),
        Some((of, _)) => {
            let context = builder.x509v3_context(Some(of), None);
            SubjectAlternativeName::new().dns("localhost").dns(FAR_AWAY).build(&context)
        }
    };
    builder.append_extension(extension.expect("an extension")).expect("set");
    builder.sign(issuer.map_or(key, |(_, key)| key), MessageDigest::sha256()).expect("signed");
    builder.build()
}

/// Stands before an API without TLS, one request to a connection. May be asked as a proxy (CONNECT) first, wherever to.
struct Front {
    address: SocketAddr,
    authority: PathBuf,
    _folder: tempfile::TempDir,
    /// Where it was asked to connect to.
    asked: Arc<Mutex<Vec<String>>>,
    thread: Option<JoinHandle<()>>,
}

impl Front {
    fn start(api: &str) -> Self {
        let (authority_key, key) = (new_key(), new_key());
        let authority = certificate(&authority_key, None);
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("authority.pem");
        std::fs::write(&path, authority.to_pem().expect("text")).expect("written");
        let mut acceptor = SslAcceptor::mozilla_intermediate(SslMethod::tls()).expect("an acceptor");
        acceptor.set_certificate(&certificate(&key, Some((&authority, &authority_key)))).expect("set");
        acceptor.set_private_key(&key).expect("set");
        let acceptor = acceptor.build();
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (noted, api) = (asked.clone(), api.strip_prefix("http://").expect("plain").to_owned());
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // The last one is our own, and says nothing.
                let mut first = [0];
                if stream.peek(&mut first).unwrap_or(0) == 0 {
                    break;
                }
                // What fails the client sees.
                let _ = serve(stream, first == *b"C", &acceptor, &api, &noted);
            }
        });
        Self { address, authority: path, _folder: folder, asked, thread: Some(thread) }
    }

    fn asked(&self) -> Vec<String> {
        let mut asked = self.asked.lock().expect("no panic").clone();
        asked.dedup();
        asked
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        drop(TcpStream::connect(self.address).map(|stream| stream.shutdown(Shutdown::Both)));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A head of HTTP, byte by byte: what follows is not ours.
fn head(stream: &mut impl Read) -> io::Result<Vec<u8>> {
    let (mut text, mut byte) = (Vec::new(), [0]);
    while !text.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        text.push(byte[0]);
    }
    Ok(text)
}

fn serve(
    mut stream: TcpStream,
    is_proxied: bool,
    acceptor: &SslAcceptor,
    api: &str,
    asked: &Mutex<Vec<String>>,
) -> io::Result<()> {
    if is_proxied {
        let text = String::from_utf8_lossy(&head(&mut stream)?).into_owned();
        asked.lock().expect("no panic").extend(text.lines().next().map(str::to_owned));
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
    }
    let mut client = acceptor.accept(stream).map_err(io::Error::other)?;
    let head = head(&mut client)?;
    let text = String::from_utf8_lossy(&head).to_ascii_lowercase();
    let length = text.lines().find_map(|line| line.strip_prefix("content-length: ")).map_or(Ok(0), str::parse);
    let mut body = vec![0; length.map_err(io::Error::other)?];
    client.read_exact(&mut body)?;
    let mut server = TcpStream::connect(api)?;
    server.write_all(&[head, body].concat())?;
    let mut answer = BufReader::new(server);
    loop {
        let piece = answer.fill_buf()?;
        if piece.is_empty() {
            break;
        }
        client.write_all(piece)?;
        let length = piece.len();
        answer.consume(length);
    }
    client.shutdown().map(drop).map_err(io::Error::other)
}

/// Status and log of `muster cloudtest` with this endpoint and these variables only.
fn cloudtest(cluster: &Cluster, endpoint: &str, variables: &[(&str, &str)]) -> (Option<i32>, String) {
    let text = std::fs::read_to_string(cluster.site.config()).expect("there");
    let (before, rest) = text.split_once("Endpoint: \"").expect("configured");
    let (_, after) = rest.split_once('"').expect("quoted");
    std::fs::write(cluster.site.config(), format!("{before}Endpoint: \"{endpoint}\"{after}")).expect("written");
    let mut command = cluster.site.command(&["cloudtest"]);
    for name in VARIABLES {
        command.env_remove(name);
    }
    let output = command.envs(variables.iter().copied()).output().expect("starts");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// Whom the system trusts is where OpenSSL looks, and SSL_CERT_FILE says where that is: a site whose proxy looks into TLS has its own.
#[test]
fn an_authority_that_the_system_trusts() {
    let cluster = Cluster::new("    ProbeInterval: 100ms\n", "");
    let front = Front::start(&cluster.ec2.proxy.url());
    let port = front.address.port();
    let trust = ("SSL_CERT_FILE", front.authority.to_str().expect("text"));

    let (code, log) = cloudtest(&cluster, &format!("https://localhost:{port}"), &[trust]);
    assert_eq!(code, Some(0), "{log}");
    assert_eq!(log.matches("msg=\"instance has booted\"").count(), 2, "{log}");
    assert_eq!((cluster.creates().len(), front.asked().len()), (2, 0));
    let calls = cluster.ec2.proxy.calls("*").len();

    // The certificate is not of that name; and nobody vouches for it.
    for (host, trust) in [("127.0.0.1", &[trust][..]), ("localhost", &[])] {
        let (code, log) = cloudtest(&cluster, &format!("https://{host}:{port}"), trust);
        assert!(code == Some(1) && log.contains("root certificates"), "{log}");
    }
    assert_eq!(cluster.ec2.proxy.calls("*").len(), calls, "nothing was sent");
}

/// Through a tunnel; the name is the proxy's to look up.
#[test]
fn a_proxy_of_the_environment() {
    let cluster = Cluster::new("    ProbeInterval: 100ms\n", "");
    let front = Front::start(&cluster.ec2.proxy.url());
    let trust = ("SSL_CERT_FILE", front.authority.to_str().expect("text"));
    let endpoint = format!("https://{FAR_AWAY}");
    let proxy = format!("http://{}", front.address);
    let (code, log) = cloudtest(&cluster, &endpoint, &[trust, ("HTTPS_PROXY", &proxy)]);
    assert_eq!(code, Some(0), "{log}");
    assert_eq!(front.asked(), [format!("CONNECT {FAR_AWAY}:443 HTTP/1.1")]);
    assert_eq!(cluster.creates().len(), 2);
    let calls = cluster.ec2.proxy.calls("*").len();

    let (code, log) = cloudtest(&cluster, &endpoint, &[trust, ("ALL_PROXY", "socks5://u:hush@127.0.0.1:1")]);
    assert!(code == Some(1) && log.contains("ALL_PROXY is not the URL of a proxy"), "{code:?}: {log}");
    assert!(!log.contains("hush"), "{log}");
    assert_eq!(cluster.ec2.proxy.calls("*").len(), calls, "nothing was sent");
}
