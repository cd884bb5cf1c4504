//! What this version cannot do yet. Later versions delete lines here.

use super::fault::Fault;
use super::{CloudDriver, Config, ConfigSource, QueueDriver};

impl Config {
    fn fault(&self, key: &str, message: &str) -> Fault {
        let file = match &self.source {
            ConfigSource::File(path) => Some(path.clone()),
            ConfigSource::BuiltIn => None,
        };
        Fault { file, mark: None, key: key.to_owned(), message: message.to_owned(), is_warning: false }
    }
}

/// One error for each thing that the configuration asks for and that does not exist yet.
pub fn not_built_yet(config: &Config) -> Vec<Fault> {
    let mut faults: Vec<Fault> = driver_not_built_yet(config).into_iter().collect();
    if config.queue.driver == QueueDriver::Arvados {
        let message = "the queue arvados is not built yet; this version has local (set Muster.Queue.Driver: local)";
        faults.push(config.fault("Muster.Queue.Driver", message));
    }
    faults
}

/// The driver alone: for what needs no queue.
pub fn driver_not_built_yet(config: &Config) -> Option<Fault> {
    let message = "the driver azure is not built yet; this version has loopback (this host), static (hosts over SSH), exec (a \
                   program of yours) and ec2";
    let key = "Containers.CloudVMs.Driver";
    (config.cloud.driver == CloudDriver::Azure).then(|| config.fault(key, message))
}
