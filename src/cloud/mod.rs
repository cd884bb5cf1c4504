//! Cloud drivers (spec 40): their contract, and the ones there are.
//!
//! A driver knows instances and nothing of workers. It does not retry: the pool must see rate limits, quota and capacity at once and
//! decides itself.

pub mod boot;
pub mod default_tags;
pub mod ec2;
pub mod exec;
pub mod filtering;
pub mod instrumented;
pub mod layer;
pub mod loopback;
mod prices;
pub mod rate_limited;
pub mod refusals;
pub mod ssh_access;
pub mod static_hosts;

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;

use self::refusals::Refusals;
use crate::core::effect::{Ending, Tags};
use crate::core::ids::{InstanceId, InstanceSecret, TypeName};
use crate::core::instance_type::{InstanceType, PricePoint};
use crate::core::pool::limits::CapacityScope;
use crate::remote::Executor;
use crate::remote::runner::RunnerPlaces;

/// What a new instance shall be. [`Boot::order`](boot::Boot::order) makes it.
#[derive(Clone)]
pub struct NewInstance {
    pub instance_type: Arc<InstanceType>,
    /// Opaque to all but the driver; may be empty.
    pub image_id: String,
    /// Visible at once to any other process that lists (40 §2.1).
    pub tags: Tags,
    pub secret: InstanceSecret,
    /// Shell text without a `#!` line, to be run as root at the first boot. It writes the secret, so it is one.
    pub init_command: String,
    /// `ALGORITHM BASE64 [comment]`: who has its private half may log in as the remote user. `None`: the image says who may.
    pub public_key: Option<String>,
    /// From then on the caller has given it up, and may have asked for another: a driver that let it wait begins it no more.
    pub wanted_until: Instant,
    /// When the pool ordered it.
    pub asked: Instant,
    /// Of the creates of the same driver.
    pub refusals: Arc<Refusals>,
}

impl NewInstance {
    /// To be asked when it has had to wait, right before it is begun.
    ///
    /// # Errors
    /// It is too late; or one like it was refused meanwhile, and this is that refusal.
    pub fn still_wanted(&self) -> Result<(), CloudError> {
        match Instant::now() < self.wanted_until {
            true => self.refusals.check(&self.instance_type, self.asked),
            false => {
                Err(CloudError::Other { message: "not begun: it has waited for too long".to_owned(), source: None })
            }
        }
    }
}

impl std::fmt::Debug for NewInstance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewInstance").field("instance_type", &self.instance_type.name).finish_non_exhaustive()
    }
}

/// A snapshot of one instance.
#[derive(Clone, Debug, PartialEq)]
pub struct CloudInstance {
    /// Unique and constant for the instance's life.
    pub id: InstanceId,
    pub provider_type: String,
    /// `host` or `host:port`; empty while unknown.
    pub address: String,
    pub remote_user: String,
    /// May lag behind [`InstanceSet::set_tags`].
    pub tags: Tags,
}

/// Error classes by what the caller must do (40 §3).
#[derive(Debug, thiserror::Error)]
pub enum CloudError {
    /// No call of this kind before this much time has passed.
    #[error("the cloud asks for fewer calls: {message}")]
    RateLimit { message: String, retry_after: Duration },
    /// The account cannot have more instances.
    #[error("{message}")]
    Quota { message: String },
    #[error("{message}")]
    Capacity { message: String, scope: CapacityScope },
    /// Unclassified: try again when there is a reason to.
    #[error("{message}")]
    Other {
        message: String,
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
}

impl CloudError {
    pub fn other(message: impl Into<String>, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Other { message: message.into(), source: Some(Box::new(source)) }
    }
}

/// What a driver's instances are like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Traits {
    /// A list costs little: list again after each create and destroy.
    pub cheap_list: bool,
    /// A list shows every create and destroy that returned before it: no delay has to be allowed for.
    pub exact_list: bool,
    /// There can never be more instances than this.
    pub instances_max: Option<usize>,
    /// Machines of a type have no image in common, and the driver itself keeps back those that failed: that some do not boot says
    /// nothing about the others.
    pub each_its_own: bool,
    /// Its calls go to a provider who counts them: MaxCloudOpsPerSecond is for these.
    pub calls_provider: bool,
}

/// What a driver tells on its own. A hint that is lost costs time, nothing else: a pause ends by itself, and the next list shows all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CloudEvent {
    /// The next list will differ.
    ListChanged,
    /// A machine of this type can be had again.
    Freed(TypeName),
}

/// Where a driver puts its events: bounded, never waited for.
pub type CloudEvents = Sender<CloudEvent>;

/// A machine that is not listed as an instance, and that an operator should know of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnlistedInstance {
    pub id: InstanceId,
    pub address: String,
    pub type_name: TypeName,
    pub provider_type: String,
    /// One word in place of a worker's state: `unreachable`, `failed`, `foreign`, `busy`, `cleaning`.
    pub state: &'static str,
    /// Why, and what happens next.
    pub detail: String,
    /// It was ours, and is not given back yet: a destroy of it, or of what a create left there, has not come to its end.
    pub being_given_up: bool,
}

/// How the commands of a worker get to an instance.
#[derive(Clone, Debug)]
pub struct Access {
    pub executor: Arc<dyn Executor>,
    pub places: RunnerPlaces,
}

/// All instances of one account that belong to this dispatcher. Every operation may be called from any thread, several at once, and
/// may block for as long as the cloud takes; none is called while the pool's lock is held.
pub trait InstanceSet: Send + Sync + std::fmt::Debug {
    /// Creates exactly one instance, with its tags set from the start.
    ///
    /// # Errors
    /// By class. An instance may exist all the same: the caller recognises it by its secret when it is listed.
    fn create(&self, new: &NewInstance) -> Result<CloudInstance, CloudError>;

    /// Every instance that has these tags, whatever its phase: all of them or an error, never a shortened list. May return more.
    ///
    /// # Errors
    /// By class; then nothing is known.
    fn list(&self, tags: &Tags) -> Result<Vec<CloudInstance>, CloudError>;

    /// Asks the cloud to remove an instance; may return before it is gone, and succeeds for one that is gone.
    /// `secret` is what the instance's tag says: a driver whose ids come again must not take a late repeat for the next life's.
    ///
    /// # Errors
    /// By class; the caller repeats it while the instance is listed.
    fn destroy(&self, id: &InstanceId, secret: Option<&InstanceSecret>, ending: Ending) -> Result<(), CloudError>;

    /// Makes these the instance's tags (the whole set). The secret among them tells which life of it is meant, as for a destroy.
    ///
    /// # Errors
    /// By class; the caller repeats it while the list shows others.
    fn set_tags(&self, id: &InstanceId, tags: &Tags) -> Result<(), CloudError>;

    /// Types with equal strings share one provider quota.
    fn quota_group(&self, instance_type: &InstanceType) -> String;

    fn traits(&self) -> Traits;

    /// What this instance of this type costs and has cost lately, newest first; nothing where the driver does not know (then the
    /// type's price counts). From memory: it is asked before every probe.
    fn price_history(&self, _id: &InstanceId, _instance_type: &InstanceType) -> Vec<PricePoint> {
        Vec::new()
    }

    /// How to run commands on an instance, and where the runner's things are there. `secret` is what the instance's tag says.
    ///
    /// # Errors
    /// No descriptor is left, or the like.
    fn open(&self, id: &InstanceId, secret: Option<&InstanceSecret>) -> std::io::Result<Access>;

    /// Machines that [`InstanceSet::list`] does not show and that are not simply free, in the order of their ids.
    fn unlisted(&self) -> Vec<UnlistedInstance> {
        Vec::new()
    }

    /// What was wrong with one of them is corrected, an operator says: try it again without a pause. False: there is no such machine.
    fn retry(&self, _id: &InstanceId) -> bool {
        false
    }

    /// Ends background work, without waiting for it. Called once; instances go on.
    fn stop(&self) {}
}
