//! `DriverParameters` of the driver `static` (spec 46 §1): the hosts that are there already. Every fault with its place.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::fault::{Faults, Mark, nearest};
use super::section::Section;
use super::values::text_of;
use super::yaml::{Content, Node};
use crate::core::ids::TypeName;
use crate::core::instance_type::InstanceType;
use crate::remote::address::HostAddress;
use crate::remote::identity::{HostKey, HostTrust};
use crate::remote::known_hosts::KnownHosts;

/// As many as one process watches (spec 62 §2).
const HOSTS_MAX: usize = 10_000;
/// Host names end up in log lines, URLs and file names.
const NAME_BYTES_MAX: usize = 64;
/// Faults of one `known_hosts` file that are told; more help nobody.
const FILE_FAULTS_MAX: usize = 10;

const DRIVER_KEYS: [&str; 6] = ["Hosts", "KnownHosts", "StateFile", "TrustOnFirstUse", "User", "UseSudo"];
const HOST_KEYS: [&str; 8] =
    ["Address", "HostKey", "InstanceType", "KnownHosts", "Name", "TrustOnFirstUse", "User", "UseSudo"];

/// What the driver `static` works with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaticConfig {
    /// Which hosts are taken.
    pub state_file: PathBuf,
    /// Names and addresses are different.
    pub hosts: Vec<StaticHost>,
}

/// One entry of `Hosts`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaticHost {
    pub name: String,
    pub address: HostAddress,
    pub user: String,
    /// Where `user` is not root.
    pub use_sudo: bool,
    /// One of the configured.
    pub instance_type: TypeName,
    pub trust: HostTrust,
}

/// What the rest of the configuration says.
pub(super) struct Around<'a> {
    /// Of the section: `DriverParameters` with what comes before it.
    pub(super) path: String,
    /// Of the section, if the file has one.
    pub(super) mark: Option<Mark>,
    /// Makes paths absolute.
    pub(super) absolute: &'a dyn Fn(&str) -> PathBuf,
    pub(super) state_dir: &'a Path,
    /// `SSHPort`, if it is one.
    pub(super) port: u16,
    pub(super) types: &'a BTreeMap<TypeName, Arc<InstanceType>>,
}

/// Reads the section; what is wrong in one host does not keep the others from being read.
pub(super) fn read(section: Option<&Node>, around: &Around<'_>, faults: &mut Faults) -> StaticConfig {
    let mut reader = Reader { around, faults, files: BTreeMap::new() };
    let driver = Section { node: section, path: around.path.clone() };
    for key in driver.unknown(&DRIVER_KEYS) {
        // A key of another driver may stand here.
        let (mark, path, message) = key;
        reader.faults.warn(Some(mark), &path, message);
    }
    let defaults = Defaults {
        user: reader.user(&driver).unwrap_or_else(|| "root".to_owned()),
        use_sudo: reader.flag(&driver, "UseSudo").unwrap_or(true),
        first_use: reader.flag(&driver, "TrustOnFirstUse").unwrap_or(false),
        known_hosts: reader.text(&driver, "KnownHosts").map(|(text, mark)| ((around.absolute)(&text), mark)),
    };
    let state_file = reader.text(&driver, "StateFile").map(|(text, _)| (around.absolute)(&text));
    let hosts = reader.hosts(&driver, &defaults);
    reader.warn_of_types_without_hosts(&driver, &hosts);
    StaticConfig { state_file: state_file.unwrap_or_else(|| around.state_dir.join("static-hosts.json")), hosts }
}

/// What holds for a host that does not say otherwise.
struct Defaults {
    user: String,
    use_sudo: bool,
    first_use: bool,
    known_hosts: Option<(PathBuf, Mark)>,
}

struct Reader<'a, 'f> {
    around: &'a Around<'a>,
    faults: &'f mut Faults,
    /// Each file is read, and its faults told, once. `None`: it cannot be read.
    files: BTreeMap<PathBuf, Option<KnownHosts>>,
}

impl Reader<'_, '_> {
    fn text(&mut self, entry: &Section<'_>, name: &str) -> Option<(String, Mark)> {
        entry.text(name, self.faults)
    }

    fn flag(&mut self, entry: &Section<'_>, name: &str) -> Option<bool> {
        entry.flag(name, self.faults)
    }

    /// A login name: it reaches command lines and logs.
    fn user(&mut self, entry: &Section<'_>) -> Option<String> {
        let (user, mark) = self.text(entry, "User")?;
        if let Err(message) = check_name(&user) {
            self.faults.error(Some(mark), &entry.at("User"), format!("{user:?} {message}"));
        }
        Some(user)
    }

    fn hosts(&mut self, driver: &Section<'_>, defaults: &Defaults) -> Vec<StaticHost> {
        let path = driver.at("Hosts");
        let nodes = match driver.get("Hosts").map(|node| (&node.content, node)) {
            Some((Content::List(nodes), _)) if nodes.len() > HOSTS_MAX => {
                let message = format!("{} hosts: at most {HOSTS_MAX}", nodes.len());
                self.faults.error(driver.get("Hosts").map(|node| node.mark), &path, message);
                return Vec::new();
            }
            Some((Content::List(nodes), _)) => nodes.as_slice(),
            Some((_, node)) => {
                self.faults.error(Some(node.mark), &path, format!("must be a list of hosts, not {}", node.kind()));
                return Vec::new();
            }
            None => &[],
        };
        if nodes.is_empty() {
            let message = "the driver static needs hosts: a list of {Name, Address, InstanceType, HostKey}";
            self.faults.error(driver.node.map(|node| node.mark).or(self.around.mark), &path, message);
        }
        let entries = nodes.iter().enumerate();
        let entries: Vec<Section<'_>> =
            entries.map(|(index, node)| Section { node: Some(node), path: format!("{path}[{index}]") }).collect();
        let mut seen = Seen::default();
        entries.iter().filter_map(|entry| self.host(entry, defaults, &mut seen)).collect()
    }

    fn host(&mut self, entry: &Section<'_>, defaults: &Defaults, seen: &mut Seen) -> Option<StaticHost> {
        let node = entry.node?;
        if !matches!(node.content, Content::Map(_)) {
            self.faults.error(Some(node.mark), &entry.path, format!("must be a map, not {}", node.kind()));
            return None;
        }
        for (mark, path, message) in entry.unknown(&HOST_KEYS) {
            self.faults.error(Some(mark), &path, message);
        }
        let name = self.name(entry, seen);
        let address = self.address(entry, seen);
        let instance_type = self.instance_type(entry);
        let user = self.user(entry).unwrap_or_else(|| defaults.user.clone());
        let use_sudo = self.flag(entry, "UseSudo").unwrap_or(defaults.use_sudo);
        let trust = self.trust(entry, address.as_ref(), defaults);
        Some(StaticHost {
            name: name?,
            address: address?,
            user,
            use_sudo,
            instance_type: instance_type?,
            trust: trust?,
        })
    }

    fn required(&mut self, entry: &Section<'_>, name: &str) -> Option<(String, Mark)> {
        let found = self.text(entry, name);
        let wrong = entry.get(name).is_some_and(|node| text_of(node).is_err());
        if found.is_none() && !wrong {
            self.faults.error(entry.node.map(|node| node.mark), &entry.at(name), "is missing");
        }
        found
    }

    fn name(&mut self, entry: &Section<'_>, seen: &mut Seen) -> Option<String> {
        let (name, mark) = self.required(entry, "Name")?;
        let result = check_name(&name)
            .map_err(|message| format!("{name:?} {message}"))
            .and_then(|()| Seen::once(&mut seen.names, &name, mark));
        result.map_err(|message| self.faults.error(Some(mark), &entry.at("Name"), message)).ok().map(|()| name)
    }

    fn address(&mut self, entry: &Section<'_>, seen: &mut Seen) -> Option<HostAddress> {
        let (text, mark) = self.required(entry, "Address")?;
        let result = HostAddress::parse(&text, self.around.port)
            .map_err(|message| format!("{text:?} {message}"))
            .and_then(|address| Seen::once(&mut seen.addresses, &address.to_string(), mark).map(|()| address));
        result.map_err(|message| self.faults.error(Some(mark), &entry.at("Address"), message)).ok()
    }

    fn instance_type(&mut self, entry: &Section<'_>) -> Option<TypeName> {
        let (text, mark) = self.required(entry, "InstanceType")?;
        let found = self.around.types.keys().find(|name| name.as_str() == text).cloned();
        if found.is_none() {
            let near = nearest(&text, self.around.types.keys().map(TypeName::as_str));
            let hint = near.map(|name| format!(" (perhaps you meant {name}?)")).unwrap_or_default();
            let message = format!("{text:?} is none of the InstanceTypes{hint}");
            self.faults.error(Some(mark), &entry.at("InstanceType"), message);
        }
        found
    }

    /// The host's own word goes before the driver's, and what can prove more before what proves less.
    fn trust(&mut self, entry: &Section<'_>, address: Option<&HostAddress>, defaults: &Defaults) -> Option<HostTrust> {
        let first_use = self.flag(entry, "TrustOnFirstUse").unwrap_or(defaults.first_use);
        let own = self.text(entry, "KnownHosts").map(|(text, mark)| ((self.around.absolute)(&text), mark));
        if let Some(node) = entry.get("HostKey") {
            if own.is_some() {
                let message = "HostKey and KnownHosts exclude each other: one of them must decide";
                self.faults.error(Some(node.mark), &entry.at("HostKey"), message);
            }
            return self.keys(node, &entry.at("HostKey"));
        }
        let path = if own.is_some() { entry.at("KnownHosts") } else { format!("{}.KnownHosts", self.around.path) };
        match own.as_ref().or(defaults.known_hosts.as_ref()) {
            Some((file, mark)) => {
                let known = self.known_hosts(file, *mark, &path)?;
                let has_entry = address.is_none_or(|address| !known.algorithms(address).is_empty());
                match (has_entry, address) {
                    (true, _) => Some(HostTrust::KnownHosts(file.clone())),
                    (false, _) if first_use => Some(HostTrust::FirstUse),
                    (false, None) => None,
                    (false, Some(address)) => {
                        let mut message = known.no_entry(address);
                        if let [fault, ..] = known.faults() {
                            let count = known.faults().len();
                            message += &format!("; {count} of its lines cannot be used, as line {}", fault.line);
                        }
                        let mark = if own.is_some() { Some(*mark) } else { entry.node.map(|node| node.mark) };
                        self.faults.error(mark, &entry.at("KnownHosts"), message);
                        None
                    }
                }
            }
            None if first_use => Some(HostTrust::FirstUse),
            None => {
                let message = "nothing says which host this is: give HostKey (a line like that of \
                               /etc/ssh/ssh_host_ed25519_key.pub there) or KnownHosts (a file), or set TrustOnFirstUse: true";
                self.faults.error(entry.node.map(|node| node.mark), &entry.path, message);
                None
            }
        }
    }

    /// One key, or a list of them.
    fn keys(&mut self, node: &Node, path: &str) -> Option<HostTrust> {
        let one = [node.clone()];
        let nodes: &[Node] = if let Content::List(nodes) = &node.content { nodes } else { &one };
        if nodes.is_empty() {
            self.faults.error(Some(node.mark), path, "is an empty list: give at least one key");
        }
        let mut keys = Vec::new();
        for node in nodes {
            match text_of(node).and_then(HostKey::parse) {
                Ok(key) => keys.push(key),
                Err(message) => self.faults.error(Some(node.mark), path, message),
            }
        }
        (keys.len() == nodes.len() && !keys.is_empty()).then_some(HostTrust::Keys(keys))
    }

    /// `None`: it cannot be read, which was told.
    fn known_hosts(&mut self, file: &Path, mark: Mark, path: &str) -> Option<&KnownHosts> {
        if !self.files.contains_key(file) {
            let read = KnownHosts::read(file);
            match &read {
                Err(message) => self.faults.error(Some(mark), path, message.clone()),
                Ok(known) => {
                    // A file of many hosts' keys is kept by many hands; what is ours there is looked for below. But a key that
                    // may be revoked must not be trusted.
                    for fault in known.faults().iter().take(FILE_FAULTS_MAX) {
                        let message = format!("{} line {}: {}", file.display(), fault.line, fault.message);
                        match fault.revokes {
                            true => self.faults.error(Some(mark), path, message),
                            false => self.faults.warn(Some(mark), path, message),
                        }
                    }
                }
            }
            self.files.insert(file.to_owned(), read.ok());
        }
        self.files.get(file).and_then(Option::as_ref)
    }

    fn warn_of_types_without_hosts(&mut self, driver: &Section<'_>, hosts: &[StaticHost]) {
        let listed = driver
            .get("Hosts")
            .map_or(0, |node| if let Content::List(nodes) = &node.content { nodes.len() } else { 0 });
        if hosts.len() < listed || hosts.is_empty() {
            // Those that are wrong may have it.
            return;
        }
        let unused = self.around.types.keys().filter(|name| hosts.iter().all(|host| host.instance_type != **name));
        let unused: Vec<&str> = unused.map(TypeName::as_str).collect();
        if !unused.is_empty() {
            let message = format!("no host has the type {}: containers that need it wait", unused.join(", "));
            self.faults.warn(driver.get("Hosts").map(|node| node.mark), &driver.at("Hosts"), message);
        }
    }
}

/// Texts that must differ, with the place of the first.
#[derive(Default)]
struct Seen {
    names: BTreeMap<String, Mark>,
    addresses: BTreeMap<String, Mark>,
}

impl Seen {
    fn once(seen: &mut BTreeMap<String, Mark>, text: &str, mark: Mark) -> Result<(), String> {
        match seen.get(text) {
            Some(first) => Err(format!("{text} is given twice, first in line {}", first.line)),
            None => {
                seen.insert(text.to_owned(), mark);
                Ok(())
            }
        }
    }
}

fn check_name(name: &str) -> Result<(), String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let begins_well = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if name.len() > NAME_BYTES_MAX {
        return Err(format!("is longer than {NAME_BYTES_MAX} characters"));
    }
    if !begins_well || !name.bytes().all(plain) {
        return Err("must be of letters, digits, dot, dash and underscore, and begin with a letter or digit".to_owned());
    }
    Ok(())
}

impl fmt::Display for StaticConfig {
    /// How many hosts there are, in all and of each type.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut counts: BTreeMap<&TypeName, usize> = BTreeMap::new();
        for host in &self.hosts {
            *counts.entry(&host.instance_type).or_default() += 1;
        }
        let counts: Vec<String> = counts.into_iter().map(|(name, count)| format!("{count} {name}")).collect();
        write!(f, "{} ({})", self.hosts.len(), counts.join(", "))
    }
}

#[cfg(test)]
mod tests;
