//! The driver `static`: hosts you already have, reached by SSH (spec 46 §1).
//!
//! A host is an instance while it is taken; its name is the instance's id. Who has it is said twice: in the state file here, which is
//! written before anything there is touched, and in an owner file there, for other dispatchers that know the same host. A host that
//! is given up is cleaned up before it is anybody's again, however long that takes.
//!
//! Reading order: [`host`] (the states of one host) and [`table`] (all of them): decisions without effects; [`record`] and
//! [`state_file`] (what survives); [`shared`] (the table behind one lock) and [`commit`] (how
//! its changes get to the disk); [`trust`] (host keys), [`owner`] (who has a host), [`claim`], [`cleanup`] (what
//! is done there); [`background`] (threads).

mod background;
mod claim;
mod cleanup;
mod commit;
mod host;
mod owner;
mod record;
mod shared;
mod state_file;
mod table;
mod trust;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use background::Background;
pub use background::Spawn;
use claim::Claim;
pub use host::HostSpec;
use host::{Event, Host, Kind, Lease, Phase, Problem};
use owner::{Holding, LeaseId};
pub use shared::Clock;
use shared::{Shared, instance};
use state_file::StateFile;

use super::{Access, CloudError, CloudEvents, CloudInstance, InstanceSet, NewInstance, Traits, UnlistedInstance};
use crate::core::effect::{Ending, Level, Note, Tags};
use crate::core::errors::chain;
use crate::core::ids::{InstanceId, InstanceSecret, TypeName};
use crate::core::instance_type::InstanceType;
use crate::core::pool::limits::CapacityScope;
use crate::core::time::WallMillis;
use crate::core::vocabulary::IdleBehavior;
use crate::log::write_note;
use crate::remote::Connector;
use crate::remote::runner::RunnerPlaces;
use crate::remote::supply::RunnerSupply;

/// After this a create tries no further host: together with the last one's it stays within what the pool allows a create.
const CREATE_LIMIT: Duration = Duration::from_secs(300);

/// Where the runner's things are on a host.
pub type Places = Arc<dyn Fn(&InstanceId) -> RunnerPlaces + Send + Sync>;

/// What the driver is made from.
pub struct StaticOptions {
    /// Ids and addresses are different.
    pub hosts: Vec<HostSpec>,
    /// Its directory exists.
    pub state_file: PathBuf,
    /// Our instance set id.
    pub set: String,
    /// What a clean-up puts on a host to see what runs there.
    pub supply: Arc<RunnerSupply>,
    /// Begins the names of our tags.
    pub tag_prefix: String,
    /// Run as root, or with sudo, on each host that is taken; empty: nothing. It may run twice on one.
    pub init_command: String,
    pub places: Places,
    pub connector: Arc<dyn Connector>,
    pub events: CloudEvents,
    pub spawn: Spawn,
    pub clock: Clock,
    /// The wall clock at `clock`'s moment 0.
    pub began: WallMillis,
    /// Called after each such step: where tests let the process die.
    pub reached: fn(HostStep),
}

/// What is done here in one step or not at all. After each a crash must lose no host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostStep {
    /// The state file says what the table says.
    Written,
    /// The owner file on a host is ours.
    Claimed,
    /// Nothing of ours runs on a host that is being cleaned up.
    Ended,
    /// The owner file on a host is gone.
    Released,
}

impl std::fmt::Debug for StaticOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StaticOptions").field("hosts", &self.hosts.len()).finish_non_exhaustive()
    }
}

/// See the module. Dropping it stops it.
pub struct StaticHosts {
    shared: Arc<Shared>,
    places: Places,
    init_command: String,
    /// Of our instances' secrets.
    secret_tag: String,
}

impl std::fmt::Debug for StaticHosts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StaticHosts").field("shared", &self.shared).finish_non_exhaustive()
    }
}

impl StaticHosts {
    /// Reads what a predecessor left, and starts the background's thread. Hosts that were being taken or cleaned up are cleaned up.
    ///
    /// # Errors
    /// The state file cannot be read or written, is damaged, is another dispatcher's, or another daemon has it; or there is no
    /// thread. The text names the file and says what to do.
    pub fn open(options: StaticOptions) -> io::Result<Self> {
        let StaticOptions { hosts, state_file, set, tag_prefix, .. } = options;
        let (file, bytes) = StateFile::open(&state_file)?;
        let mut table =
            record::read(bytes.as_deref(), hosts, &set, record::Times { now: (options.clock)(), began: options.began })
                .map_err(|fault| {
                    io::Error::new(io::ErrorKind::InvalidData, format!("{} {fault}", state_file.display()))
                })?;
        for host in table.hosts.values_mut() {
            drain(host, &format!("{tag_prefix}IdleBehavior"));
            tell_deferred(host, &state_file);
        }
        let shared = Arc::new(Shared::new(
            set,
            options.connector,
            options.clock,
            options.events,
            (table, Box::new(file), state_file),
            options.reached,
        ));
        // Now, so that a file that cannot be written is known before anything depends on it.
        shared.save().map_err(|error| io::Error::other(chain(&error)))?;
        let driver = Self {
            shared: shared.clone(),
            places: options.places.clone(),
            init_command: options.init_command,
            secret_tag: format!("{tag_prefix}InstanceSecret"),
        };
        let background = Background { shared, places: options.places, supply: options.supply, spawn: options.spawn };
        background.start()?;
        Ok(driver)
    }

    /// Has the background look for what is due by the clock that it was given; it does so by itself when real time passes.
    pub fn look(&self) {
        self.shared.look();
    }

    /// Tries one host for a create. `false`: it cannot be had, and another may.
    fn try_host(&self, spec: &HostSpec, lease: &LeaseId) -> Result<bool, CloudError> {
        let session = self.shared.session(spec).map_err(|error| CloudError::other("cannot make a connection", error));
        let session = session.map_err(|error| self.give_up(spec, lease, error))?;
        let places = (self.places)(&spec.id);
        let holding = Holding { name: spec.id.to_string(), lease: lease.clone() };
        let claim = Claim {
            executor: &*session.executor,
            set: &self.shared.set,
            holding: &holding,
            places: &places,
            holder: &|lease| self.shared.holder(lease, &spec.id),
        };
        match claim::claim(&claim, &self.init_command) {
            Ok(()) => {
                (self.shared.reached)(HostStep::Claimed);
                let written = self.shared.change(&spec.id, Event::Claimed);
                written.map(|()| true).map_err(|error| self.give_up(spec, lease, error))
            }
            Err(claim::Refusal { problem, left }) => {
                let note = Note::new(Level::Warn, "hosts", "host cannot be taken; another one is tried");
                let note = note.with("Instance", &spec.id).with("Address", &spec.address);
                write_note(&note.with("Reason", problem.kind.as_str()).with("error", &problem.detail));
                self.shared.note(&spec.id, Event::ClaimFailed { problem, left });
                Ok(false)
            }
        }
    }

    /// For a create that ends for a reason of ours.
    fn give_up(&self, spec: &HostSpec, lease: &LeaseId, error: CloudError) -> CloudError {
        let problem = Problem { kind: Kind::Failed, detail: chain(&error) };
        self.shared.note(&spec.id, Event::ClaimFailed { problem, left: Some(lease.clone()) });
        error
    }
}

/// A host that is not configured any more goes on until it is idle. An operator's hold stays. One that was being cleaned up, and is
/// still listed since that has not succeeded, gets nothing more to do.
fn drain(host: &mut Host, tag: &str) {
    let lease = match &mut host.phase {
        Phase::Taken(lease) if !host.configured => lease,
        Phase::Cleaning(cleaning) => {
            cleaning.lease.tags.insert(tag.to_owned(), IdleBehavior::Drain.as_str().to_owned());
            return;
        }
        _ => return,
    };
    let behavior = lease.tags.get(tag).map(String::as_str).unwrap_or_default();
    if behavior != IdleBehavior::Hold.as_str() {
        let message = "host is not configured any more; it is drained, and given back when nothing runs there";
        write_note(&Note::new(Level::Warn, "hosts", message).with("Instance", &host.spec.id));
        lease.tags.insert(tag.to_owned(), IdleBehavior::Drain.as_str().to_owned());
    }
}

/// Of a host that is configured otherwise than it was taken.
fn tell_deferred(host: &Host, state_file: &std::path::Path) {
    let Some(next) = &host.next_spec else { return };
    let words =
        |spec: &HostSpec| format!("{}@{}{}", spec.user, spec.address, if spec.sudo { "" } else { " without sudo" });
    let message = "host is configured otherwise than it was taken; what it was taken with is used until it is free";
    let advice = format!(
        "if the machine can be reached as configured only: stop the daemon, correct address, user and sudo of {} in {}, and start again",
        host.spec.id,
        state_file.display()
    );
    let note = Note::new(Level::Warn, "hosts", message).with("Instance", &host.spec.id);
    write_note(&note.with("Used", words(&host.spec)).with("Configured", words(next)).with("Advice", advice));
}

impl InstanceSet for StaticHosts {
    fn create(&self, new: &NewInstance) -> Result<CloudInstance, CloudError> {
        let lease = Lease {
            id: LeaseId::of(&new.secret),
            type_name: TypeName::new(&new.instance_type.name),
            provider_type: new.instance_type.provider_type.clone(),
            tags: new.tags.clone(),
        };
        let began = Instant::now();
        while began.elapsed() < CREATE_LIMIT {
            match self.shared.take(&lease)? {
                Ok(spec) if self.try_host(&spec, &lease.id)? => return Ok(instance(&spec, &lease)),
                Ok(_) => {}
                Err(shortage) => return Err(no_host(&lease.type_name, &shortage)),
            }
        }
        // Some were not tried: it is not that there is none, and the next create goes on with those.
        let shortage = self.shared.read(|table, _| table.shortage(&lease.type_name));
        Err(CloudError::other(
            "no host could be taken",
            io::Error::new(
                io::ErrorKind::TimedOut,
                format!("not all could be tried within {} s: {shortage}", CREATE_LIMIT.as_secs()),
            ),
        ))
    }

    fn list(&self, _tags: &Tags) -> Result<Vec<CloudInstance>, CloudError> {
        Ok(self.shared.list())
    }

    /// The clean-up goes on in the background; until it has been tried once the instance is listed.
    fn destroy(&self, id: &InstanceId, secret: Option<&InstanceSecret>, ending: Ending) -> Result<(), CloudError> {
        self.shared.change(id, Event::Destroyed { of: secret.map(LeaseId::of), ending })
    }

    fn set_tags(&self, id: &InstanceId, tags: &Tags) -> Result<(), CloudError> {
        let of = tags.get(&self.secret_tag).map(|secret| LeaseId::of(&InstanceSecret::new(secret)));
        self.shared.change(id, Event::TagsSet { of, tags: tags.clone() })
    }

    /// No two types share hosts.
    fn quota_group(&self, instance_type: &InstanceType) -> String {
        instance_type.name.clone()
    }

    fn traits(&self) -> Traits {
        Traits { cheap_list: true, exact_list: true, each_its_own: true, ..Traits::default() }
    }

    /// The secret proves nothing of a host: it would be written over the same connection that it is to prove. It tells under which lease
    /// things are started there.
    fn open(&self, id: &InstanceId, secret: Option<&InstanceSecret>) -> io::Result<Access> {
        let spec = self.shared.spec(id).ok_or_else(|| {
            io::Error::new(io::ErrorKind::NotFound, format!("the host {id} is neither configured nor in use"))
        })?;
        let lease = secret.map(LeaseId::of).or_else(|| self.shared.lease(id));
        let lease = lease.map(|lease| lease.as_str().to_owned());
        Ok(Access { executor: self.shared.executor(&spec)?, places: RunnerPlaces { lease, ..(self.places)(id) } })
    }

    fn retry(&self, id: &InstanceId) -> bool {
        let known = self.shared.read(|table, now| table.unlisted(now).iter().any(|unlisted| unlisted.id == *id));
        if known {
            self.shared.note(id, Event::Corrected);
        }
        known
    }

    fn unlisted(&self) -> Vec<UnlistedInstance> {
        self.shared.read(table::Table::unlisted)
    }

    fn stop(&self) {
        self.shared.stop();
    }
}

fn no_host(type_name: &TypeName, shortage: &table::Shortage) -> CloudError {
    let message = format!("no free host of the type {type_name}: {shortage}");
    CloudError::Capacity { message, scope: CapacityScope::Type }
}

impl Drop for StaticHosts {
    fn drop(&mut self) {
        self.shared.stop();
    }
}
