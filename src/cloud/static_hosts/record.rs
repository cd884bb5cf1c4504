//! The text of the state file: every host that is not free, and the pinned keys. What a restart needs, and nothing that time undoes.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::host::{Cleaning, Event, Host, HostSpec, Lease, Phase};
use super::table::Table;
use crate::core::effect::Tags;
use crate::core::ids::{InstanceId, TypeName};
use crate::core::time::Moment;
use crate::remote::address::HostAddress;
use crate::remote::identity::{HostKey, HostTrust};

/// Of this text; a higher one is refused.
const VERSION: u32 = 1;
/// Only for an address without a port, which is never written.
const PORT: u16 = 22;

/// No `Debug`: the tags hold the instances' secrets.
#[derive(Serialize, Deserialize)]
struct StateText {
    version: u32,
    /// Whose hosts these are.
    set: String,
    hosts: BTreeMap<String, HostRecord>,
    pins: BTreeMap<String, String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum PhaseRecord {
    Claiming,
    Taken,
    Cleaning,
}

/// How to get to the host is part of it: it may be removed from the configuration while it is in use.
#[derive(PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct HostRecord {
    phase: PhaseRecord,
    address: String,
    user: String,
    sudo: bool,
    trust: TrustRecord,
    instance_type: String,
    provider_type: String,
    tags: BTreeMap<String, String>,
}

#[derive(PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum TrustRecord {
    Keys(Vec<String>),
    KnownHosts(PathBuf),
    FirstUse,
}

/// `None` for a host that is free.
pub(super) fn record_of(host: &Host) -> Option<HostRecord> {
    let (phase, lease) = match &host.phase {
        Phase::Free => return None,
        Phase::Claiming(lease) => (PhaseRecord::Claiming, lease),
        Phase::Taken(lease) => (PhaseRecord::Taken, lease),
        Phase::Cleaning(cleaning) => (PhaseRecord::Cleaning, &cleaning.lease),
    };
    let HostSpec { address, user, sudo, trust, .. } = &host.spec;
    let trust = match trust {
        HostTrust::Keys(keys) => TrustRecord::Keys(keys.iter().map(HostKey::openssh).collect()),
        HostTrust::KnownHosts(path) => TrustRecord::KnownHosts(path.clone()),
        HostTrust::FirstUse => TrustRecord::FirstUse,
    };
    Some(HostRecord {
        phase,
        address: address.to_string(),
        user: user.clone(),
        sudo: *sudo,
        trust,
        instance_type: lease.type_name.to_string(),
        provider_type: lease.provider_type.clone(),
        tags: lease.tags.clone().into_iter().collect(),
    })
}

/// Events that happen once they are written, with their times.
pub(super) type Changes = BTreeMap<InstanceId, (Event, Moment)>;

/// The table as it will be after the changes and with the pins.
pub(super) fn write(
    table: &Table,
    (changes, pins): (&Changes, &BTreeMap<InstanceId, HostKey>),
    set: &str,
) -> serde_json::Result<Vec<u8>> {
    let record = |(id, host): (&InstanceId, &Host)| {
        let record = match changes.get(id) {
            None => record_of(host),
            Some((event, now)) => {
                let mut after = host.clone();
                after.apply(event.clone(), *now);
                record_of(&after)
            }
        };
        Some((id.to_string(), record?))
    };
    let hosts = table.hosts.iter().filter_map(record).collect();
    let pins = table.pins.iter().chain(pins).map(|(id, key)| (id.to_string(), key.openssh())).collect();
    let mut bytes = serde_json::to_vec_pretty(&StateText { version: VERSION, set: set.to_owned(), hosts, pins })?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// What a predecessor left, joined with what is configured now.
///
/// # Errors
/// What is wrong with the text, or that it is another dispatcher's.
pub(super) fn read(bytes: Option<&[u8]>, specs: Vec<HostSpec>, set: &str, now: Moment) -> Result<Table, String> {
    let mut table = Table::default();
    for spec in specs {
        table.hosts.insert(spec.id.clone(), Host::new(spec, true, Phase::Free));
    }
    let Some(bytes) = bytes else { return Ok(table) };
    let text: StateText = serde_json::from_slice(bytes).map_err(|error| format!("is damaged: {error}"))?;
    if text.version > VERSION {
        return Err(format!(
            "has version {}, this program knows {VERSION}: use the program that wrote it",
            text.version
        ));
    }
    if text.set != set && !text.hosts.is_empty() {
        let names: Vec<&str> = text.hosts.keys().map(String::as_str).take(5).collect();
        return Err(format!(
            "belongs to the dispatcher {}, we are {set} (SystemRootToken or StateDir decides): its hosts ({}{}) would be lost; set \
             that back, or remove the file when nothing of it runs any more",
            text.set,
            names.join(", "),
            if text.hosts.len() > names.len() { ", …" } else { "" }
        ));
    }
    for (name, record) in text.hosts {
        let id = InstanceId::new(&name);
        let known = table.hosts.get(&id).map(|host| host.spec.clone());
        let host = restore(&id, known, record, now).map_err(|fault| format!("is damaged: host {name}: {fault}"))?;
        table.hosts.insert(id, host);
    }
    for (name, key) in text.pins {
        let id = InstanceId::new(&name);
        // A pin of a host that is not trusted on first use any more is of no use.
        if table.hosts.get(&id).is_some_and(|host| host.spec.trust == HostTrust::FirstUse) {
            table.pins.insert(id, HostKey::parse(&key).map_err(|fault| format!("is damaged: pin {name}: {fault}"))?);
        }
    }
    Ok(table)
}

/// A create that did not end, and a clean-up, are cleaned up now: nothing can have been started there since.
fn restore(id: &InstanceId, known: Option<HostSpec>, record: HostRecord, now: Moment) -> Result<Host, String> {
    let lease = Lease {
        type_name: TypeName::new(&record.instance_type),
        provider_type: record.provider_type,
        tags: Tags::from(record.tags),
    };
    let configured = known.is_some();
    let spec = match known {
        Some(spec) => spec,
        None => HostSpec {
            id: id.clone(),
            address: HostAddress::parse(&record.address, PORT)?,
            user: record.user,
            sudo: record.sudo,
            type_name: lease.type_name.clone(),
            provider_type: lease.provider_type.clone(),
            trust: match record.trust {
                TrustRecord::Keys(keys) => {
                    HostTrust::Keys(keys.iter().map(|key| HostKey::parse(key)).collect::<Result<_, _>>()?)
                }
                TrustRecord::KnownHosts(path) => HostTrust::KnownHosts(path),
                TrustRecord::FirstUse => HostTrust::FirstUse,
            },
        },
    };
    let phase = match record.phase {
        PhaseRecord::Taken => Phase::Taken(lease),
        PhaseRecord::Claiming | PhaseRecord::Cleaning => Phase::Cleaning(Cleaning::new(lease, false, now)),
    };
    Ok(Host::new(spec, configured, phase))
}
