//! The SSH key, as `muster check` and a start see it.

use std::os::unix::fs::PermissionsExt;

use muster::config::Secret;
use muster::shell::state_dir::StateDir;

use crate::harness::Site;

const HOSTS: &str = "{Hosts: [{Name: h, Address: h, InstanceType: a, TrustOnFirstUse: true}]}";
const TYPES: &str = "InstanceTypes: {a: {VCPUs: 1, RAM: 1GiB}}\n";

/// A configuration whose driver uses SSH, with this key.
fn with_key(key: &str) -> String {
    let block: String = key.lines().map(|line| format!("    {line}\n")).collect();
    let key = if key.is_empty() { String::new() } else { format!("  DispatchPrivateKey: |\n{block}") };
    format!("Containers:\n  CloudVMs: {{Driver: static, DriverParameters: {HOSTS}}}\n{key}{TYPES}")
}

/// The row of the summary.
fn row(site: &Site) -> Option<String> {
    let text = String::from_utf8(site.run(&["check"]).stdout).expect("text");
    text.lines().find_map(|line| line.strip_prefix("public key")).map(|rest| rest.trim().to_owned())
}

fn keygen(site: &Site, name: &str, arguments: &[&str]) -> (String, String) {
    let path = site.folder().join(name);
    let status = std::process::Command::new("ssh-keygen")
        .args(["-q", "-C", "me@here", "-f"])
        .arg(&path)
        .args(arguments)
        .status()
        .expect("starts");
    assert!(status.success());
    let read = |path| std::fs::read_to_string(path).expect("text");
    (read(path.clone()), read(path.with_extension("pub")))
}

#[test]
fn check_shows_what_workers_must_accept() {
    let site = Site::new();
    assert_eq!(row(&site), None, "loopback needs none");
    site.configure(&with_key(""));
    let ssh = site.state_dir().join("ssh");
    let coming = format!("made at the first start of the daemon in {}; this shows it then", ssh.display());
    assert_eq!(row(&site), Some(coming));
    assert!(!site.state_dir().exists(), "check makes nothing");

    // As the daemon's first start does.
    let made = StateDir::open(&site.state_dir()).expect("free").dispatch_key(&Secret::default()).expect("made");
    assert_eq!(row(&site), Some(made.public_openssh()));

    for (name, arguments) in [("rsa", &["-t", "rsa", "-b", "2048", "-N", ""][..]), ("pem", &["-t", "ecdsa", "-N", ""])]
    {
        let (private, public) = keygen(&site, name, arguments);
        site.configure(&with_key(&private));
        assert_eq!(row(&site).as_deref(), Some(public.trim()), "the configured one goes first");
        site.configure(&with_key(&format!("file://{}", site.folder().join(name).display())).replace("|\n   ", ""));
        assert_eq!(row(&site).as_deref(), Some(public.trim()));
    }
}

#[test]
fn bad_configured_keys_are_named_by_place() {
    let site = Site::new();
    let (locked, public) = keygen(&site, "locked", &["-t", "ed25519", "-N", "sesame"]);
    let (weak, _) = keygen(&site, "weak", &["-t", "rsa", "-b", "1024", "-N", ""]);
    for (key, part) in [
        (locked.as_str(), "ssh-keygen -p"),
        (&public, "public key"),
        (&weak, "1024 bits"),
        (&locked[..100], "missing"),
        ("nonsense", "no private key"),
    ] {
        site.configure(&format!("{}TLS: {{Insecure: maybe}}\n", with_key(key)));
        let (code, text) = site.fails(&["check"]);
        assert_eq!(code, 1, "{text}");
        let line = text.lines().find(|line| line.contains("DispatchPrivateKey")).expect("a line about it");
        // The block begins behind four lines of the site and three of the section.
        assert!(line.contains("config.yml:8:5: ") && line.contains(part), "{line}");
        assert!(line.contains("error parsing configured Containers.DispatchPrivateKey: "), "{line}");
        assert!(text.contains("TLS.Insecure"), "every fault in one run: {text}");
        assert!(key.lines().nth(1).is_none_or(|secret| !text.contains(secret)), "{text}");
        let (code, text) = site.fails(&["daemon"]);
        assert!(code == 1 && text.contains("DispatchPrivateKey"), "{code} {text}");
    }
}

#[test]
fn check_finds_what_a_start_would_stumble_over() {
    let site = Site::new();
    site.configure(&with_key(""));
    drop(StateDir::open(&site.state_dir()).expect("free").dispatch_key(&Secret::default()).expect("made"));
    let private = site.state_dir().join("ssh/id_ed25519");
    std::fs::set_permissions(&private, std::fs::Permissions::from_mode(0o644)).expect("set");
    let (code, text) = site.fails(&["check"]);
    assert!(code == 1 && text.contains("id_ed25519 is open to others") && text.contains("chmod 600"), "{code} {text}");
    assert_eq!(row(&site), None);
    assert_eq!(
        std::fs::metadata(&private).expect("there").permissions().mode() & 0o777,
        0o644,
        "check changes nothing"
    );
}
