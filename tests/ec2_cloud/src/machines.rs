//! A machine for each instance, as EC2 has them.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use crate::account::{Instance, InstanceState};
use crate::gate::Watched;
use crate::machine::{BootOptions, Machine};
use crate::moto::Moto;

type Plan = dyn Fn(usize, &Instance) -> BootOptions + Send + Sync;

/// Boots a machine for each instance that moto gets, and ends it when the instance is terminated or stopped. It looks after every
/// call that may have changed something, whoever made it. Dropped, it ends all machines.
pub struct Machines {
    shared: Arc<Shared>,
    watcher: Option<JoinHandle<()>>,
}

struct Shared {
    moto: Arc<Moto>,
    port: u16,
    plan: Mutex<Arc<Plan>>,
    machines: Watched<Vec<Machine>>,
    closing: AtomicBool,
}

impl fmt::Debug for Machines {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Machines")
            .field("port", &self.shared.port)
            .field("all", &self.all())
            .finish_non_exhaustive()
    }
}

impl Machines {
    /// For the instances of this server; all machines serve SSH at this port, each at its own address, so the subnets' ranges have to
    /// be in 127.0.0.0/8.
    ///
    /// # Errors
    /// No thread can be had.
    pub fn start(moto: &Arc<Moto>, port: u16, options: BootOptions) -> io::Result<Self> {
        let plan: Arc<Plan> = Arc::new(move |_, _: &Instance| options.clone());
        let (plan, machines) = (Mutex::new(plan), Watched::default());
        let shared = Arc::new(Shared { moto: moto.clone(), port, plan, machines, closing: AtomicBool::new(false) });
        let theirs = shared.clone();
        let watcher = std::thread::Builder::new().name("machines".to_owned()).spawn(move || watch(&theirs))?;
        Ok(Self { shared, watcher: Some(watcher) })
    }

    /// How machines boot that are noticed from now on, by their number from 0 and their instance.
    pub fn boot_with(&self, plan: impl Fn(usize, &Instance) -> BootOptions + Send + Sync + 'static) {
        *self.shared.plan.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(plan);
    }

    /// All that have been noticed, those that are gone too, in the order of their making.
    #[must_use]
    pub fn all(&self) -> Vec<Machine> {
        self.shared.machines.with(|machines| machines.clone())
    }

    /// Waits until so many have been noticed; gives all of them.
    ///
    /// # Panics
    /// There are fewer after some minutes.
    #[must_use]
    pub fn wait_for(&self, count: usize) -> Vec<Machine> {
        let found = self.shared.machines.wait_for(|machines| (machines.len() >= count).then(|| machines.clone()));
        found.unwrap_or_else(|| panic!("waited for {count} machines; there are {}", self.all().len()))
    }

    /// The machine of an instance; waits until it has been noticed.
    ///
    /// # Panics
    /// It is not within minutes.
    #[must_use]
    pub fn machine(&self, id: &str) -> Machine {
        let of = |machines: &mut Vec<Machine>| machines.iter().find(|machine| machine.id() == id).cloned();
        self.shared.machines.wait_for(of).unwrap_or_else(|| panic!("waited for the machine of {id}"))
    }
}

impl Drop for Machines {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::Release);
        self.shared.moto.changes.with(|changes| *changes += 1);
        // What has not noticed yet may wait at a gate with a thread of its own.
        if let Some(watcher) = self.watcher.take() {
            self.all().iter().for_each(Machine::open_gates);
            drop(watcher.join());
        }
        if std::thread::panicking() {
            for machine in self.all() {
                let said = machine.fault().unwrap_or_else(|| "no fault".to_owned());
                let _ = io::Write::write_fmt(&mut io::stderr(), format_args!("machine of {}: {said}\n", machine.id()));
            }
        }
    }
}

/// The watcher's thread.
fn watch(shared: &Arc<Shared>) {
    let mut seen = None;
    let mut threads = Vec::new();
    loop {
        // Minutes without a change are no fault.
        let now = shared.moto.changes.wait_for(|changes| (Some(*changes) != seen).then_some(*changes));
        seen = now.or(seen);
        if shared.closing.load(Ordering::Acquire) {
            break;
        }
        // A server that does not answer makes the test fail elsewhere.
        if let Ok(instances) = shared.moto.try_instances() {
            threads.retain(|thread: &JoinHandle<()>| !thread.is_finished());
            follow(shared, &instances, &mut threads);
        }
    }
    let all = shared.machines.with(|machines| machines.clone());
    all.iter().for_each(Machine::open_gates);
    all.iter().for_each(Machine::stop);
    for thread in threads {
        drop(thread.join());
    }
}

/// Makes the machines be what the instances are.
fn follow(shared: &Arc<Shared>, instances: &[Instance], threads: &mut Vec<JoinHandle<()>>) {
    let known = shared.machines.with(|machines| machines.clone());
    let known: HashMap<&str, &Machine> = known.iter().map(|machine| (machine.id(), machine)).collect();
    let runs = |instance: &&Instance| matches!(instance.state, InstanceState::Pending | InstanceState::Running);
    // Ends come first: EC2 gives addresses away again.
    for instance in instances.iter().filter(|instance| !runs(instance)) {
        if let Some(machine) = known.get(instance.id.as_str()).filter(|machine| !machine.is_gone()) {
            machine.stop();
        }
    }
    for instance in instances.iter().filter(runs).filter(|instance| !known.contains_key(instance.id.as_str())) {
        let Some(address) = instance.address else { continue };
        let plan = shared.plan.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let number = shared.machines.with(|machines| machines.len());
        let machine = Machine::new(instance.clone(), address, shared.port, plan(number, instance));
        let (theirs, moto) = (machine.clone(), shared.moto.clone());
        let work = move || boot(&moto, &theirs);
        let thread = std::thread::Builder::new().name(format!("machine-{number}")).spawn(work);
        threads.extend(thread);
        shared.machines.with(|machines| machines.push(machine));
    }
}

/// A machine's thread.
fn boot(moto: &Moto, machine: &Machine) {
    let key = machine.instance().key_name.as_ref().map(|name| moto.public_key(name)).transpose();
    let user_data = moto.user_data(machine.id());
    match key.and_then(|key| Ok((key.unwrap_or_default(), user_data?))) {
        Ok((key, user_data)) => machine.boot(&key, user_data.as_deref()),
        Err(error) => machine.fail(&format!("moto does not know what it boots with: {error}")),
    }
}
