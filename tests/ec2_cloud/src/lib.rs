//! EC2 on this machine, for tests: an API that answers as EC2's, faults on the way to it, and a real machine for each instance.
//!
//! [`Ec2Site::start`] sets all of it up. Its parts work alone, too:
//!
//! ```text
//! program under test ── HTTP ──> Ec2Proxy ──> Moto
//!        │                          │ tells of changes
//!        └── SSH ──> a machine <── Machines ──> Moto (which instances, with what key and user data?)
//! ```
//!
//! - [`Moto`] runs moto's server, which keeps instances, subnets, key pairs and images as EC2 does. It checks signatures, and is
//!   asked by tests ([`Moto::instances`]) in ways that share nothing with the program under test.
//! - [`Ec2Proxy`] stands before it: it records every call, and does to some of them what a test wants ([`Rule`], [`Fault`]):
//!   refuse, delay, cut, garble. It also shows lists as EC2 shows them, which is sometimes late and in pages.
//! - [`Metadata`] stands for the service that gives credentials to programs in an instance or a container of Amazon's.
//! - [`Machines`] gives each instance an SSH server at its private address, which is on the loopback interface: the subnets' range
//!   is taken from 127.0.0.0/8. What an instance's user data says is run there, as on a first boot.
//!
//! The environment with moto is made by `make moto`; without it everything here fails with a text that says so. Nothing outlives
//! the test, however it ends. Absent: knowledge of muster but for [`Ec2Site::config`].

mod account;
mod api;
mod calls;
mod eventual;
mod fault;
mod gate;
mod http;
mod machine;
mod machines;
mod metadata;
mod moto;
mod proxy;
mod serve;
mod site;
mod xml;

pub use account::{Instance, InstanceState};
pub use api::ApiError;
pub use calls::Call;
pub use fault::{Fault, Rule, RuleHandle};
pub use gate::Gate;
pub use machine::{BootOptions, Machine};
pub use machines::Machines;
pub use metadata::Metadata;
pub use moto::{Credentials, Moto, WEB_IDENTITY_TOKEN};
pub use proxy::{Ec2Proxy, Spot};
pub use site::{Ec2Site, SiteOptions};
pub use xml::Element;

/// A hang is a failure; a slow machine is not.
const LIMIT: std::time::Duration = std::time::Duration::from_secs(240);
