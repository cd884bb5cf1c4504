//! Files as `ssh-keyscan` and `ssh-keygen -H` write them.

use super::*;

const ED: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIP7wl7ph/6MNRgATP0w+uDH49iBd43LFbVSi2z5sDBGT";
const EC: &str = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBHHHtuP115bP6fcQ9HBI0gi58OiQlUIZCnzh+7gJLlJAKcpl1YJzhvscaZ7oULav8WhN3pEHTRA1FwDYWnPgAq0=";
const OTHER: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIMnD7vfIQv+UUlVoM1yvtFj6hvr6SdBe9zei5VargEh";
/// `node1.lab` and `[node2.lab]:2222`.
const HASHED: [&str; 2] = [
    "|1|ErVt+15RFBw0WmpWyRisFc0qVXc=|4NB7lfeCkTW3+pLBRXV1uVH8la8=",
    "|1|x1mLJFY1pKo6I+thPm7HYHEq6IM=|K020ixNszpTUQqJAjN8r+IHY/Z8=",
];

fn key(text: &str) -> HostKey {
    HostKey::parse(text).expect("a key")
}

fn address(text: &str) -> HostAddress {
    HostAddress::parse(text, 22).expect("an address")
}

fn known(lines: &[String]) -> KnownHosts {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("known_hosts");
    std::fs::write(&path, lines.join("\n")).expect("written");
    KnownHosts::read(&path).expect("readable")
}

/// `true`: trusted; `false`: refused.
fn trusted(known: &KnownHosts, key_text: &str, address_text: &str) -> bool {
    match known.judge(&key(key_text), &address(address_text)) {
        Verdict::Trusted => true,
        Verdict::Refused(_) => false,
        Verdict::Unknown => panic!("the file always tells"),
    }
}

#[test]
fn names_ports_and_hashes() {
    for (names, at, found) in [
        ("host", "host", true),
        ("host", "HOST:22", true),
        ("Host", "host", true),
        (HASHED[0], "Node1.Lab", true),
        ("host,10.0.0.1", "10.0.0.1:22", true),
        ("[host]:22", "host", true),
        ("[host]:2222", "host:2222", true),
        ("[host]:2222", "host", false),
        ("[host]:2222", "host:2223", false),
        // Seen without a port: for any port, as OpenSSH has it.
        ("host", "host:2222", true),
        ("::1", "[::1]", true),
        ("[::1]:2222", "[::1]:2222", true),
        (HASHED[0], "node1.lab", true),
        (HASHED[0], "node1.lab:22", true),
        (HASHED[0], "node2.lab", false),
        (HASHED[1], "node2.lab:2222", true),
        (HASHED[1], "node2.lab", false),
        ("*.lab", "node1.lab", false),
    ] {
        let known = known(&[format!("{names} {ED} comment")]);
        assert!(known.faults().is_empty(), "{names}: {:?}", known.faults());
        assert_eq!(trusted(&known, ED, at), found, "{names} at {at}");
        assert!(!trusted(&known, OTHER, at), "{names} at {at}");
        assert_eq!(known.algorithms(&address(at)).len(), usize::from(found), "{names} at {at}");
    }
}

/// A key that may be revoked must not be trusted.
#[test]
fn a_revocation_that_cannot_be_read_stops_all() {
    let known = known(&[format!("host {ED}"), "@revoked * ssh-ed25519 AAAA".to_owned()]);
    match known.judge(&key(ED), &address("host")) {
        Verdict::Refused(reason) => assert!(reason.contains("line 2 of "), "{reason}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn several_kinds_and_several_keys() {
    let known =
        known(&[format!("host {ED}"), format!("host {EC}"), String::new(), format!("host {OTHER}"), "# x".to_owned()]);
    for text in [ED, EC, OTHER] {
        assert!(trusted(&known, text, "host"), "{text}");
    }
    assert_eq!(known.algorithms(&address("host")), ["ecdsa-sha2-nistp256", "ssh-ed25519"]);
}

/// A key for the port itself goes before one for the name alone.
#[test]
fn the_entry_with_the_port_decides() {
    let known = known(&[format!("host {OTHER}"), format!("[host]:2222 {ED}")]);
    assert!(trusted(&known, ED, "host:2222") && !trusted(&known, OTHER, "host:2222"));
    assert!(trusted(&known, OTHER, "host:22"));
}

#[test]
fn refusals_say_what_was_expected() {
    let known = known(&[
        format!("host {ED}"),
        format!("@revoked * {EC}"),
        format!("host {EC}"),
        format!("@cert-authority *.lab {ED}"),
    ]);
    assert!(known.faults().is_empty(), "{:?}", known.faults());
    let reason = |key_text, at| match known.judge(&key(key_text), &address(at)) {
        Verdict::Refused(reason) => reason,
        other => panic!("{other:?}"),
    };
    let mismatch = reason(OTHER, "host");
    for part in [&key(OTHER).fingerprint(), &key(ED).fingerprint(), "ssh-keygen -f", "-R host"] {
        assert!(mismatch.contains(part), "{part}: {mismatch}");
    }
    assert!(reason(EC, "host").contains("revoked"));
    let unknown = reason(ED, "node1.lab:2222");
    assert!(unknown.contains("no entry for [node1.lab]:2222 or node1.lab") && unknown.contains("@cert-authority"));
}

/// What cannot be used is told with its line, and does not hide the rest.
#[test]
fn bad_lines_and_files() {
    let known = known(&[
        "host".to_owned(),
        "host ssh-ed25519 AAAA".to_owned(),
        format!("@strange host {ED}"),
        format!("|1|{}|x {ED}", "A".repeat(40)),
        format!("good {ED}"),
    ]);
    assert_eq!(known.faults().iter().map(|fault| fault.line).collect::<Vec<_>>(), [1, 2, 3, 4]);
    assert!(trusted(&known, ED, "good"));
    let folder = tempfile::tempdir().expect("a folder");
    for (path, part) in [(folder.path().to_owned(), "not a file"), (folder.path().join("none"), "No such file")] {
        let error = KnownHosts::read(&path).expect_err("unreadable");
        assert!(error.contains(part) && error.contains(&path.display().to_string()), "{error}");
    }
}
