//! Every accepted key logs in: libssh2, from memory, against OpenSSH's own server.

use std::fs::File;
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use muster::remote::ssh::key::PrivateKey;

use crate::tools::Workshop;

/// Sets up a server for one login each, which lets in whom `authorized` names.
struct Server<'a> {
    workshop: &'a Workshop,
    listener: TcpListener,
    user: String,
}

impl<'a> Server<'a> {
    fn new(workshop: &'a Workshop, authorized: &str) -> Self {
        if rustix::process::geteuid().is_root() {
            // The server wants an empty directory; the system's own start script makes it elsewhere.
            std::fs::create_dir_all("/run/sshd").expect("made");
        }
        workshop.keygen("host", &["-t", "ed25519"], "");
        workshop.write("authorized_keys", authorized);
        let folder = workshop.folder().display();
        let options = "StrictModes no\nUsePAM no\nPidFile none\nPermitRootLogin prohibit-password\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nLogLevel VERBOSE\n";
        workshop.write(
            "sshd_config",
            &format!("HostKey {folder}/host\nAuthorizedKeysFile {folder}/authorized_keys\n{options}"),
        );
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let user = workshop.run("id", &["-un"]).trim().to_owned();
        Self { workshop, listener, user }
    }

    /// One connection with a server process of its own, which ends with it.
    fn login(&self, text: &str) -> Result<(), String> {
        let client = TcpStream::connect(self.listener.local_addr().expect("bound")).expect("connects");
        let (served, _) = self.listener.accept().expect("accepts");
        let served = OwnedFd::from(served);
        let log = File::create(self.workshop.path("log")).expect("made");
        let mut server = Command::new("/usr/sbin/sshd")
            .args(["-i", "-e", "-f"])
            .arg(self.workshop.path("sshd_config"))
            .stdin(Stdio::from(served.try_clone().expect("a copy")))
            .stdout(Stdio::from(served))
            .stderr(Stdio::from(log))
            .spawn()
            .expect("sshd starts");
        let mut session = ssh2::Session::new().expect("a session");
        session.set_tcp_stream(client);
        session.set_timeout(120_000);
        let result = session.handshake().and_then(|()| session.userauth_pubkey_memory(&self.user, None, text, None));
        drop(session);
        server.wait().expect("a child");
        result.map_err(|error| format!("{error}\n{}", self.workshop.read("log")))
    }
}

#[test]
fn every_accepted_key_logs_in() {
    let workshop = Workshop::new();
    let all = workshop.all();
    let drawn = PrivateKey::generate().expect("drawn");
    let keys: Vec<_> = all.iter().map(|made| PrivateKey::parse(&made.text).expect("accepted")).collect();
    let authorized: String = keys.iter().chain([&drawn]).map(|key| format!("{}\n", key.public_openssh())).collect();
    let server = Server::new(&workshop, &authorized);
    for (key, made) in keys.iter().zip(&all) {
        server.login(key.text()).unwrap_or_else(|error| panic!("{}: {error}", made.name));
        // Not needed, since keys are written anew: what libssh2 itself takes. A change here is worth knowing.
        server.login(&made.text).unwrap_or_else(|error| panic!("{} as it is: {error}", made.name));
    }
    server.login(drawn.text()).expect("the drawn one");
    let stranger = PrivateKey::generate().expect("drawn");
    let error = server.login(stranger.text()).expect_err("not authorized");
    assert!(error.contains(&stranger.fingerprint()), "the server names it: {error}");
}
