//! What the EC2 driver is made from (spec 42 §1), beside the way to its API: [`super::client::Settings`].

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::environment::WallClock;
use crate::cloud::ssh_access::SshAccess;
use crate::core::time::Moment;

/// Type of the added volume where none is configured.
const EBS_VOLUME_TYPE_DEFAULT: &str = "gp2";

/// What the driver needs to know. `Debug` shows no secret.
#[derive(Clone, Debug)]
pub struct Ec2Options {
    /// Of each instance's one network interface; empty: the VPC's default group.
    pub security_groups: Vec<String>,
    /// Tried in rotation (§5); empty: none is sent.
    pub subnets: Vec<String>,
    /// Who logs in on instances over SSH.
    pub user: String,
    /// Of the added scratch volume; empty: `gp2`.
    pub ebs_volume_type: String,
    /// Per GiB and month (of 30 days), for estimates of cost.
    pub ebs_price: f64,
    /// Name (not ARN) of an instance profile; empty: none.
    pub iam_profile: String,
    /// How old spot prices may get; 0: none are looked up.
    pub spot_price_interval: Duration,
    /// Prefix of the provider's type, in lower case, to quota group (§10). An empty group counts as absent.
    pub quota_groups: BTreeMap<String, String>,
    pub access: SshAccess,
    pub clock: Clock,
    /// Where to register the series of §11, and what their names begin with (normally `arvados_dispatchcloud_`).
    pub metrics: Option<(prometheus::Registry, String)>,
}

impl Ec2Options {
    pub(super) fn volume_type(&self) -> &str {
        if self.ebs_volume_type.is_empty() { EBS_VOLUME_TYPE_DEFAULT } else { &self.ebs_volume_type }
    }
}

/// Both clocks, as the shell reads them.
#[derive(Clone)]
pub struct Clock {
    /// Decides how old prices are.
    pub now: Arc<dyn Fn() -> Moment + Send + Sync>,
    /// Since when EC2 is asked for prices, whose times are its own.
    pub wall: WallClock,
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}
