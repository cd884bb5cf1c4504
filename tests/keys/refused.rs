//! What is refused, and whether the text says what to do.

use muster::remote::ssh::key::{KEY_BYTES_MAX, KeyError, PrivateKey};

use crate::tools::{TYPES, Workshop};

fn refusal(text: &str) -> KeyError {
    PrivateKey::parse(text).expect_err(text)
}

#[track_caller]
fn assert_refused(text: &str, part: &str) {
    let message = refusal(text).to_string();
    assert!(message.contains(part), "{part:?} is not in {message:?}");
    assert_eq!(message.lines().count(), 1, "{message}");
}

#[test]
fn passphrases() {
    let workshop = Workshop::new();
    for (name, arguments) in TYPES {
        let locked = format!("{name}-locked");
        workshop.keygen(&locked, arguments, "sesame");
        assert_refused(&workshop.read(&locked), "ssh-keygen -p");
        if name != "ed25519" {
            workshop.keygen(name, arguments, "");
            for form in ["PEM", "PKCS8"] {
                let text = workshop.read(&workshop.converted(name, form, "sesame"));
                assert!(text.contains("ENCRYPTED"), "{name} {form}");
                assert!(matches!(refusal(&text), KeyError::Encrypted), "{name} {form}");
            }
        }
    }
    let arguments = ["genpkey", "-algorithm", "ed25519", "-aes256", "-pass", "pass:sesame"];
    assert!(matches!(refusal(&workshop.run("openssl", &arguments)), KeyError::Encrypted));
}

#[test]
fn public_keys_and_other_things() {
    let workshop = Workshop::new();
    for (name, arguments) in TYPES {
        workshop.keygen(name, arguments, "");
        let public = workshop.read(&format!("{name}.pub"));
        assert_refused(&public, "public key");
        // OpenSSH 9.2 knows only the first for ed25519.
        for form in ["RFC4716", "PKCS8"].into_iter().take(if name == "ed25519" { 1 } else { 2 }) {
            assert_refused(&workshop.run("ssh-keygen", &["-e", "-m", form, "-f", name]), "public key");
        }
        let in_one_line = workshop.read(name).replace('\n', " ");
        assert_refused(&in_one_line, "line breaks");
    }
    for (text, part) in [
        ("", "no private key"),
        ("\0\0", "no private key"),
        ("secret", "no private key"),
        ("sk-ssh-ed25519@openssh.com AAAA me", "public key"),
        ("/etc/muster/key", "file:///"),
        ("~/.ssh/id_ed25519\n", "file:///"),
        ("PuTTY-User-Key-File-3: ssh-ed25519\nEncryption: none\n", "puttygen"),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "no private key"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n", "END"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----\n-----END OPENSSH PRIVATE KEY-----\n", "damaged"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----\n!!!!\n-----END OPENSSH PRIVATE KEY-----\n", "base64"),
        ("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "damaged"),
        ("-----BEGIN RSA PRIVATE KEY-----\n-----END RSA PRIVATE KEY-----\n", "damaged"),
        ("-----BEGIN FOREIGN PRIVATE KEY-----\nAAAA\n-----END FOREIGN PRIVATE KEY-----\n", "no private key"),
    ] {
        assert_refused(text, part);
    }
}

#[test]
fn types_that_ssh_does_not_log_in_with() {
    let workshop = Workshop::new();
    for (arguments, part) in [
        (&["genpkey", "-algorithm", "ed448"][..], "ED448"),
        (&["genpkey", "-algorithm", "x25519"], "X25519"),
        (&["genpkey", "-algorithm", "rsa-pss", "-pkeyopt", "rsa_keygen_bits:2048"], "RSASSA-PSS"),
        (&["ecparam", "-genkey", "-name", "secp256k1"], "secp256k1"),
        (&["genpkey", "-algorithm", "ec", "-pkeyopt", "ec_paramgen_curve:brainpoolP256r1"], "brainpoolP256r1"),
    ] {
        let text = workshop.run("openssl", arguments);
        assert!(matches!(refusal(&text), KeyError::UnknownType(_)), "{arguments:?}: {:?}", refusal(&text));
        assert_refused(&text, part);
    }
    assert_refused("-----BEGIN DSA PRIVATE KEY-----\nAAAA\n-----END DSA PRIVATE KEY-----", "DSA");
    for name in ["ssh-dss", "sk-ssh-ed25519@openssh.com", "ssh-xmss@openssh.com"] {
        assert_refused(&container(name), name);
    }
    // Nothing that is no name is repeated.
    assert_refused(&container("secret"), "damaged");
    assert_refused(&container("ssh-\u{1b}[2J"), "damaged");
}

/// An OpenSSH container whose private part begins as one of a key of this type.
fn container(algorithm: &str) -> String {
    let string = |bytes: &[u8]| [&u32::try_from(bytes.len()).expect("short").to_be_bytes(), bytes].concat();
    let private = [&[0; 8][..], &string(algorithm.as_bytes()), &string(b"x")].concat();
    let parts = [
        b"openssh-key-v1\0".to_vec(),
        string(b"none"),
        string(b"none"),
        string(b""),
        1_u32.to_be_bytes().to_vec(),
        string(&string(algorithm.as_bytes())),
        string(&private),
    ];
    let body = openssl::base64::encode_block(&parts.concat());
    format!("-----BEGIN OPENSSH PRIVATE KEY-----\n{body}\n-----END OPENSSH PRIVATE KEY-----\n")
}

#[test]
fn weak_and_oversized_ones() {
    let workshop = Workshop::new();
    workshop.keygen("short", &["-t", "rsa", "-b", "1024"], "");
    for form in ["short".to_owned(), workshop.converted("short", "PEM", "")] {
        assert!(matches!(refusal(&workshop.read(&form)), KeyError::RsaBits { bits: 1024 }));
        assert_refused(&workshop.read(&form), "2048 to 16384");
    }
    let body = "A".repeat(KEY_BYTES_MAX);
    let text = format!("-----BEGIN OPENSSH PRIVATE KEY-----\n{body}\n-----END OPENSSH PRIVATE KEY-----\n");
    assert!(matches!(refusal(&text), KeyError::TooLarge));
}

/// The private part of one key behind the public part of another, and numbers that do not belong together.
#[test]
fn mixed_up_parts() {
    let workshop = Workshop::new();
    for (name, arguments) in TYPES {
        let other = format!("{name}-other");
        workshop.keygen(name, arguments, "");
        workshop.keygen(&other, arguments, "");
        let [one, two] = [name, &other].map(|name| bytes_of(&workshop.read(name)));
        // The same lengths, or nearly: the public parts come first.
        let public_end =
            39 + 4 + usize::try_from(u32::from_be_bytes(one[39..43].try_into().expect("four"))).expect("small");
        if one.len() == two.len() && one[39..43] == two[39..43] {
            let mixed = [&one[..public_end], &two[public_end..]].concat();
            assert_refused(&text_of(&mixed), "do not belong together");
        }
        // A bit of the secret, which comes behind check numbers, names and the public numbers.
        let mut flipped = one.clone();
        let secret = match name {
            "ed25519" => 73,
            "p256" => 126,
            "p384" => 158,
            "p521" => 194,
            _ => public_end + 100,
        };
        flipped[public_end + secret] ^= 4;
        let error = refusal(&text_of(&flipped));
        assert!(matches!(error, KeyError::Damaged(_)), "{name}: {error}");
    }
}

fn bytes_of(text: &str) -> Vec<u8> {
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with("-----")).collect();
    openssl::base64::decode_block(&lines.concat()).expect("base64")
}

fn text_of(bytes: &[u8]) -> String {
    let body = openssl::base64::encode_block(bytes);
    format!("-----BEGIN OPENSSH PRIVATE KEY-----\n{body}\n-----END OPENSSH PRIVATE KEY-----\n")
}
