//! What is accepted: every type in every form, with the public part that OpenSSH finds in it.

use muster::remote::ssh::key::PrivateKey;

use crate::tools::Workshop;

/// Type and number: what a comment does not change.
fn without_comment(line: &str) -> Vec<&str> {
    line.split(' ').take(2).collect()
}

#[test]
fn every_type_in_every_form() {
    let workshop = Workshop::new();
    let all = workshop.all();
    assert_eq!(all.len(), 19);
    for made in all {
        let key = PrivateKey::parse(&made.text).unwrap_or_else(|error| panic!("{}: {error}", made.name));
        assert_eq!(key.fingerprint(), made.fingerprint, "{}", made.name);
        assert_eq!(without_comment(&key.public_openssh()), without_comment(&made.public), "{}", made.name);
        assert_eq!(Some(key.algorithm()), made.public.split(' ').next(), "{}", made.name);
        if made.text.contains("BEGIN OPENSSH") {
            assert_eq!(key.public_openssh(), made.public, "with its comment: {}", made.name);
        }
        // What goes to libssh2 is a key file too, and the same key.
        workshop.write("again", key.text());
        assert_eq!(
            without_comment(workshop.run("ssh-keygen", &["-y", "-f", "again"]).trim()),
            without_comment(&made.public)
        );
        let again = PrivateKey::parse(key.text()).expect("our own");
        assert_eq!((again.text(), again.fingerprint()), (key.text(), key.fingerprint()), "{}", made.name);
    }
}

#[test]
fn drawn_ones_are_files_for_ssh() {
    let workshop = Workshop::new();
    let (one, other) = (PrivateKey::generate().expect("drawn"), PrivateKey::generate().expect("drawn"));
    assert_ne!(one.fingerprint(), other.fingerprint());
    workshop.write("drawn", one.text());
    assert!(one.text().starts_with("-----BEGIN OPENSSH PRIVATE KEY-----\n") && one.text().ends_with("-----\n"));
    assert_eq!(workshop.run("ssh-keygen", &["-y", "-f", "drawn"]).trim(), one.public_openssh());
    assert!(one.public_openssh().starts_with("ssh-ed25519 AAAA") && one.public_openssh().ends_with(" muster"));
    assert!(workshop.run("ssh-keygen", &["-l", "-f", "drawn"]).contains(&one.fingerprint()));
}

/// As a text in YAML, an editor on another system, or a mail makes it.
#[test]
fn surroundings_do_not_matter() {
    let workshop = Workshop::new();
    workshop.keygen("key", &["-t", "ecdsa"], "");
    for form in ["key".to_owned(), workshop.converted("key", "PEM", "")] {
        let text = workshop.read(&form);
        let fingerprint = PrivateKey::parse(&text).expect("plain").fingerprint();
        let indented: String = text.lines().map(|line| format!("    {line} \n")).collect();
        for changed in [
            text.replace('\n', "\r\n"),
            indented,
            format!("my key:\n\n{text}\nand no more\n"),
            text.trim().to_owned(),
            format!("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n{text}"),
        ] {
            let key = PrivateKey::parse(&changed).unwrap_or_else(|error| panic!("{changed}: {error}"));
            assert_eq!(key.fingerprint(), fingerprint);
        }
    }
}

/// The comment ends up in a line of authorized_keys.
#[test]
fn comments_stay_in_their_line() {
    let workshop = Workshop::new();
    let comment = format!("first\nssh-rsa AAAA \u{1b}[2J {}", "x".repeat(500));
    workshop.run("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-C", &comment, "-f", "key"]);
    let key = PrivateKey::parse(&workshop.read("key")).expect("good");
    let line = key.public_openssh();
    assert!(line.chars().all(|letter| !letter.is_control()) && line.len() < 400, "{line:?}");
    assert!(line.contains(" first ssh-rsa"), "{line:?}");
    assert!(PrivateKey::parse(key.text()).is_ok());
}

#[test]
fn debug_shows_no_secret() {
    let key = PrivateKey::generate().expect("drawn");
    assert_eq!(format!("{key:?}"), format!("PrivateKey(ssh-ed25519 {})", key.fingerprint()));
}
