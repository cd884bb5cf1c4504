//! How instances of a provider are reached: over SSH, as the user that their image has (spec 40 §2.2, §5).

use std::io;
use std::sync::Arc;

use super::Access;
use crate::core::ids::InstanceSecret;
use crate::remote::identity::HostCheck;
use crate::remote::runner::RunnerPlaces;
use crate::remote::{Connector, HostAccess};

/// What all instances of a driver have in common.
#[derive(Clone, Debug)]
pub struct SshAccess {
    pub connector: Arc<dyn Connector>,
    /// Where the runner's things are there.
    pub places: RunnerPlaces,
}

impl SshAccess {
    /// `check` judges the host key; where it cannot tell, `secret` does, and without one the host is not trusted.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn open(&self, check: Arc<dyn HostCheck>, secret: Option<&InstanceSecret>) -> io::Result<Access> {
        let access = HostAccess { check, secret: secret.cloned(), sudo: true };
        Ok(Access { executor: self.connector.executor(access)?, places: self.places.clone() })
    }
}
