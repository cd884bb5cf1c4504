//! The owner file on a host says who has it, for all dispatchers that know the host and under every name it has (spec 46 §1). Two lines:
//! the set's id, and `NAME LEASE`. The same file is what `muster-runner` reads before it starts or releases anything.

use std::fmt;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::core::ids::InstanceSecret;

/// Hexadecimal digits: nobody gains from two that are equal, and no two secrets are.
const LEASE_DIGITS: usize = 32;

/// One life of a host, from its create to the end of its clean-up. Said in command lines and on the host; the secret that it is made from
/// cannot be found from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LeaseId(Arc<str>);

impl LeaseId {
    pub(super) fn of(secret: &InstanceSecret) -> Self {
        let digest = Sha256::digest(secret.reveal().as_bytes());
        let text: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        Self(text[..LEASE_DIGITS].into())
    }

    /// One that was written down.
    pub(super) fn read(text: &str) -> Option<Self> {
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        (text.len() == LEASE_DIGITS && text.bytes().all(is_digit)).then(|| Self(text.into()))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

/// A host's name with the lease it is held under: the owner file's second line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Holding {
    pub(super) name: String,
    pub(super) lease: LeaseId,
}

impl fmt::Display for Holding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.lease.as_str())
    }
}

/// What an owner file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    Ours(Holding),
    /// Another set, for people.
    Other(String),
    /// Empty, cut off, or anything else: nobody can tell who has the host.
    Damaged,
}

impl Owner {
    pub(super) fn read(text: &str, set: &str) -> Self {
        let mut lines = text.lines();
        let owner = lines.next().unwrap_or_default().trim();
        let holding = lines.next().and_then(|line| {
            let (name, lease) = line.split_once(' ')?;
            Some(Holding { name: name.to_owned(), lease: LeaseId::read(lease.trim_end())? })
        });
        match (owner, holding) {
            ("", _) => Self::Damaged,
            (owner, Some(holding)) if owner == set => Self::Ours(holding),
            (owner, None) if owner == set => Self::Damaged,
            // A set's id that was cut off looks like another's: its second line is missing too.
            (owner, None) if set.starts_with(owner) => Self::Damaged,
            (owner, _) => Self::Other(owner.to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts() {
        let lease = LeaseId::of(&InstanceSecret::new("secret"));
        assert_eq!(lease.as_str(), "2bb80d537b1da3e38bd30361aa855686", "`printf secret | sha256sum`, cut");
        let holding = Holding { name: "node1".to_owned(), lease };
        let whole = format!("set\n{holding}\n");
        assert_eq!(Owner::read(&whole, "set"), Owner::Ours(holding));
        assert_eq!(Owner::read(&whole, "other"), Owner::Other("set".to_owned()));
        assert_eq!(Owner::read("elsewhere\n", "set"), Owner::Other("elsewhere".to_owned()));
        // Whatever a power failure leaves of ours is never somebody's.
        for end in 0..whole.len() - 1 {
            assert_eq!(Owner::read(&whole[..end], "set"), Owner::Damaged, "cut at {end}");
        }
        assert_eq!(Owner::read("\0\0\0", "\0\0\0\0"), Owner::Damaged);
    }
}
