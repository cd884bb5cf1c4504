//! Identifiers. Each is a type of its own, so that a container uuid never goes where an instance id belongs.
//!
//! All are cheap to clone (shared text) and compare by their text. None of them checks more than
//! its constructor says: an instance id is whatever the cloud calls it.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }
        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

text_id! {
    /// `CCCCC-dz642-` followed by 15 of `0-9a-z`; checked by [`ContainerUuid::parse`].
    ContainerUuid
}
text_id! {
    /// The cloud provider's id of an instance: unique and constant for the instance's life.
    InstanceId
}
text_id! {
    /// The configured name of an instance type (the key in `InstanceTypes`).
    TypeName
}

impl ContainerUuid {
    /// The form of spec 70 §2. `None` for anything else, so that a value of this type is safe in
    /// file names and command lines.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        let well_formed = bytes.len() == 27
            && &bytes[5..12] == b"-dz642-"
            && bytes[..5].iter().chain(&bytes[12..]).all(|b| b.is_ascii_digit() || b.is_ascii_lowercase());
        well_formed.then(|| Self(text.into()))
    }

    /// The first five characters: the cluster that the container belongs to.
    pub fn cluster_id(&self) -> &str {
        &self.0[..5]
    }
}

impl InstanceId {
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }
}

impl TypeName {
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }
}

/// Number of an attempt to run a container, from 1. 0 stands for "no attempt yet".
pub type Attempt = u32;

/// Names one unfinished create call, start or kill, so that a late answer finds (only) its own operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OperationId(pub u64);

/// The secret of one instance (40 hexadecimal digits). Never shown: `Debug` prints `***`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceSecret(Arc<str>);

impl InstanceSecret {
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    /// The secret itself: for the tag and the init command, never for a log.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for InstanceSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuid_form() {
        for (text, valid) in [
            ("local-dz642-000000000000001", true),
            ("zzzzz-dz642-queuedcontainer", true),
            ("local-dz642-00000000000000", false),
            ("local-dz642-0000000000000001", false),
            ("local-dz642-00000000000000A", false),
            ("local-dz64x-000000000000001", false),
            ("../..-dz642-000000000000001", false),
            ("", false),
        ] {
            assert_eq!(ContainerUuid::parse(text).is_some(), valid, "{text}");
        }
    }
}
