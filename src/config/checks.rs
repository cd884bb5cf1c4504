//! What this version cannot do yet. Later versions delete lines here.

use super::fault::Fault;
use super::{CloudDriver, Config, ConfigSource, QueueDriver};

impl Config {
    fn fault(&self, key: &str, message: &str) -> Fault {
        let file = match &self.source {
            ConfigSource::File(path) => Some(path.clone()),
            ConfigSource::BuiltIn => None,
        };
        Fault { file, mark: None, key: key.to_owned(), message: message.to_owned() }
    }
}

/// One error for each thing that the configuration asks for and that does not exist yet.
pub fn not_built_yet(config: &Config) -> Vec<Fault> {
    let mut faults = Vec::new();
    let driver = match config.cloud.driver {
        CloudDriver::Loopback | CloudDriver::Static => None,
        CloudDriver::Exec => Some("exec"),
        CloudDriver::Ec2 => Some("ec2"),
        CloudDriver::Azure => Some("azure"),
    };
    if let Some(name) = driver {
        let message = format!(
            "the driver {name} is not built yet; this version has loopback (this host) and static (hosts over SSH)"
        );
        faults.push(config.fault("Containers.CloudVMs.Driver", &message));
    }
    if config.queue.driver == QueueDriver::Arvados {
        let message = "the queue arvados is not built yet; this version has local (set Muster.Queue.Driver: local)";
        faults.push(config.fault("Muster.Queue.Driver", message));
    }
    faults
}
