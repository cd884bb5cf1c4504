//! Keys of hosts and clients: ed25519, from seeds that are good enough for tests.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

use russh::keys::ssh_key::LineEnding;
use russh::keys::ssh_key::private::{Ed25519Keypair, KeypairData};
use russh::keys::{PrivateKey, PublicKey};

/// Draws keys; different ones in each process and from each source.
#[derive(Debug)]
pub(crate) struct KeySource {
    random: RandomState,
    drawn: u64,
}

impl KeySource {
    pub(crate) fn new() -> Self {
        Self { random: RandomState::new(), drawn: 0 }
    }

    pub(crate) fn key(&mut self) -> PrivateKey {
        self.drawn += 1;
        let mut seed = [0; 32];
        for (part, bytes) in seed.chunks_exact_mut(8).enumerate() {
            bytes.copy_from_slice(&self.random.hash_one((self.drawn, part)).to_be_bytes());
        }
        let pair = KeypairData::Ed25519(Ed25519Keypair::from_seed(&seed));
        PrivateKey::new(pair, "").expect("a key pair makes a private key")
    }
}

/// `ssh-ed25519 AAAA…`, without comment.
pub(crate) fn public_text(key: &PublicKey) -> String {
    let text = key.to_openssh().expect("a public key has a text form");
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

/// A client's key pair, for tests that have no file with one.
#[derive(Clone)]
pub struct ClientKey {
    /// OpenSSH private key file.
    pub private: String,
    /// `ssh-ed25519 AAAA…`
    pub public: String,
}

impl std::fmt::Debug for ClientKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientKey").field("public", &self.public).finish_non_exhaustive()
    }
}

impl ClientKey {
    pub fn generate() -> Self {
        let key = KeySource::new().key();
        let private = key.to_openssh(LineEnding::LF).expect("a private key has a text form");
        Self { private: private.to_string(), public: public_text(key.public_key()) }
    }
}
