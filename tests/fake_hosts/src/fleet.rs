//! Many hosts on one runtime of their own.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use russh::keys::{PrivateKey, PublicKey};
use russh::server::Config;
use russh::{MethodKind, MethodSet};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::runtime::Runtime;

use crate::host::{Host, Shared};
use crate::keys::KeySource;
use crate::listener;
use crate::options::HostOptions;

const THREADS: usize = 2;
const THREAD_STACK_BYTES: usize = 1 << 20;
/// Tasks end at their next wait; none computes for long.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// Hosts that run until this is dropped. It must not be dropped, nor its hosts be used, on a thread of an async runtime.
#[derive(Debug)]
pub struct Fleet {
    hosts: Vec<Host>,
    keys: KeySource,
    /// None only while it is dropped.
    runtime: Option<Runtime>,
}

impl Fleet {
    /// `count` equal hosts, each on a free port of 127.0.0.1 with a key of its own. They listen when this returns.
    ///
    /// # Panics
    /// When no port, descriptor or thread is left, or a key in `options` is none.
    pub fn start(count: usize, options: HostOptions) -> Self {
        Self::start_each((0..count).map(|_| options.clone()))
    }

    /// One host for each of `options`, in order.
    ///
    /// # Panics
    /// As [`Fleet::start`].
    pub fn start_each(options: impl IntoIterator<Item = HostOptions>) -> Self {
        raise_descriptor_limit();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .max_blocking_threads(1)
            .thread_name("fake-hosts")
            .thread_stack_size(THREAD_STACK_BYTES)
            .enable_all()
            .build()
            .expect("the runtime starts");
        let mut fleet = Self { hosts: Vec::new(), keys: KeySource::new(), runtime: Some(runtime) };
        options.into_iter().for_each(|options| drop(fleet.add(options)));
        fleet
    }

    /// One more host.
    ///
    /// # Panics
    /// As [`Fleet::start`].
    pub fn add(&mut self, options: HostOptions) -> Host {
        let runtime = self.runtime.as_ref().expect("there until dropped");
        let _inside = runtime.enter();
        let port = listener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).expect("a port is free");
        let address = port.local_addr().expect("a bound socket has an address");
        let client_key = options.client_key.as_deref();
        let client_key = client_key.map(|text| PublicKey::from_openssh(text).expect("client_key is a public key"));
        let configs = [self.keys.key(), self.keys.key()].map(config);
        let shared = Shared::new(address, options, client_key, configs, runtime.handle().clone());
        runtime.spawn(listener::serve(Arc::clone(&shared), port));
        let host = Host { shared };
        // Returns when it listens (or refuses).
        host.set_faults(host.faults());
        self.hosts.push(host.clone());
        host
    }

    pub fn len(&self) -> usize {
        self.hosts.len()
    }

    pub fn is_empty(&self) -> bool {
        self.hosts.is_empty()
    }

    /// # Panics
    /// When there are not that many.
    pub fn host(&self, index: usize) -> &Host {
        &self.hosts[index]
    }

    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// How often each attempt (uuid and number) was started, on all hosts together.
    pub fn starts(&self) -> BTreeMap<(String, u32), u32> {
        let mut all = BTreeMap::new();
        for (attempt, count) in self.hosts.iter().flat_map(Host::starts) {
            *all.entry(attempt).or_default() += count;
        }
        all
    }

    /// The host where a container runs now.
    pub fn find(&self, uuid: &str) -> Option<&Host> {
        self.hosts.iter().find(|host| host.running().iter().any(|(running, _)| running == uuid))
    }
}

/// The usual limit of 1,024 is too small for hundreds of hosts with their connections; the hard one is ours to use.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    // Where it fails, too few descriptors are reported when one is missing.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

fn config(key: PrivateKey) -> Arc<Config> {
    Arc::new(Config {
        methods: MethodSet::from(&[MethodKind::PublicKey][..]),
        auth_rejection_time: Duration::ZERO,
        keys: vec![key],
        inactivity_timeout: None,
        nodelay: true,
        ..Config::default()
    })
}

impl Drop for Fleet {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(STOP_LIMIT);
        }
    }
}
