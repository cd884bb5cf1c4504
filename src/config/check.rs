//! `muster check`: every problem, then what the configuration amounts to (spec 80 §1).

use std::fmt::Write;

use super::load::{LoadOptions, load};
use super::{CloudDriver, Config, QueueDriver, dump, not_built_yet};

/// What `muster check` says.
#[derive(Clone, Debug)]
pub struct Checked {
    /// One line each: errors, then warnings (these begin with `warning: `).
    pub problems: Vec<String>,
    /// For standard output: the summary or, if asked for, the effective configuration. Empty if there is none.
    pub text: String,
    /// A daemon would start with it, and run jobs.
    pub good: bool,
    /// What was loaded; `None` after errors.
    pub config: Option<Config>,
}

/// Loads and judges. `public_key`: what workers must accept, `None` if the driver uses no SSH; or why the daemon would have no key.
pub fn check(
    options: &LoadOptions<'_>,
    dump_wanted: bool,
    public_key: &dyn Fn(&Config) -> Result<Option<String>, String>,
) -> Checked {
    let loaded = match load(options) {
        Ok(loaded) => loaded,
        Err(faults) => {
            let problems = faults.iter().map(ToString::to_string).collect();
            return Checked { problems, text: String::new(), good: false, config: None };
        }
    };
    let config = &loaded.config;
    let missing = not_built_yet(config);
    let mut problems: Vec<String> = missing.iter().map(ToString::to_string).collect();
    let public_key = public_key(config);
    problems.extend(public_key.as_ref().err().cloned());
    problems.extend(loaded.warnings.iter().map(|warning| format!("warning: {warning}")));
    let good = missing.is_empty() && public_key.is_ok();
    let text = if dump_wanted { dump(config) } else { summary(config, public_key.ok().flatten()) };
    Checked { problems, text, good, config: Some(loaded.config) }
}

fn summary(config: &Config, public_key: Option<String>) -> String {
    let queue = match config.queue.driver {
        QueueDriver::Local => "local (embedded)",
        QueueDriver::Arvados => "arvados",
    };
    let driver = match config.cloud.driver {
        CloudDriver::Loopback => "loopback (this host is the worker)",
        CloudDriver::Static => "static (hosts over SSH)",
        CloudDriver::Exec => "exec",
        CloudDriver::Ec2 => "ec2",
        CloudDriver::Azure => "azure",
    };
    let types: Vec<&str> = config.instance_types.values().map(|one| one.name.as_str()).collect();
    let cloud = &config.cloud;
    let of_driver = [
        cloud.static_hosts.as_ref().map(|hosts| ("hosts", hosts.to_string())),
        cloud.ec2.as_ref().map(|ec2| ("region", ec2.to_string())),
        cloud.exec.as_ref().map(|exec| ("program", exec.to_string())),
    ];
    let rows = [
        ("configuration", config.source.to_string()),
        ("cluster", config.cluster_id.clone()),
        ("queue", queue.to_owned()),
        ("driver", driver.to_owned()),
        ("instance types", types.join(", ")),
    ];
    let more = [
        ("state directory", config.state_dir.display().to_string()),
        ("management API", config.listen.join(", ")),
        (
            "log",
            config.log.file.as_ref().map_or_else(|| "standard error".to_owned(), |path| path.display().to_string()),
        ),
    ];
    let public_key = public_key.map(|key| ("public key", key));
    let mut text = String::new();
    for (name, value) in rows.into_iter().chain(of_driver.into_iter().flatten()).chain(more).chain(public_key) {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{name:<16} {value}");
    }
    text
}
