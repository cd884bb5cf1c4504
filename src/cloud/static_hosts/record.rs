//! The text of the state file: every host that is not free, what failed lately, and the pinned keys. What a restart needs. Times are by the
//! wall clock, and bounded when they are read: that clock may have jumped.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::host::{Cleaning, Host, HostSpec, Kind, Lease, PAUSE_MAX, Phase, Problem, Trouble};
use super::owner::LeaseId;
use super::table::Table;
use crate::core::effect::Tags;
use crate::core::ids::{InstanceId, TypeName};
use crate::core::time::{Moment, WallMillis};
use crate::remote::address::HostAddress;
use crate::remote::identity::{HostKey, HostTrust};

/// Of this text; a higher one is refused.
const VERSION: u32 = 1;
/// Only for an address without a port, which is never written.
const PORT: u16 = 22;

/// No `Debug`: the tags hold the instances' secrets.
#[derive(Serialize, Deserialize)]
pub(super) struct StateText {
    version: u32,
    /// Whose hosts these are.
    set: String,
    hosts: BTreeMap<String, HostRecord>,
    #[serde(default)]
    troubles: BTreeMap<String, TroubleRecord>,
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
struct HostRecord {
    phase: PhaseRecord,
    /// Of a clean-up: it is still an instance.
    listed: bool,
    lease: String,
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

/// Why a host was of no use lately, and until when it is not given out.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
struct TroubleRecord {
    strikes: u32,
    reason: Option<String>,
    detail: String,
    /// Milliseconds since the process began; in the text since the epoch.
    last_failed: Option<i64>,
    pause_until: Option<i64>,
}

/// What the file says of one host. Two that are equal need no new file.
#[derive(PartialEq, Eq)]
pub(super) struct Record {
    host: Option<HostRecord>,
    trouble: Option<TroubleRecord>,
}

/// `None` for a host that is free, and about which there is nothing to say.
pub(super) fn record_of(host: &Host) -> Option<Record> {
    let record = Record { host: host_record(host), trouble: trouble_record(host) };
    (record.host.is_some() || record.trouble.is_some()).then_some(record)
}

fn trouble_record(host: &Host) -> Option<TroubleRecord> {
    if host.strikes == 0 && host.trouble.is_none() {
        return None;
    }
    let problem = host.trouble.as_ref().map(|trouble| &trouble.problem);
    // What is wrong with a key or a login is put right in the configuration, and a restart is for that.
    let pause = host.pause_end().filter(|_| problem.is_none_or(|problem| problem.kind != Kind::Barred));
    let milliseconds = |moment: Moment| i64::try_from(moment.elapsed_since_start().as_millis()).unwrap_or(i64::MAX);
    Some(TroubleRecord {
        strikes: host.strikes,
        reason: problem.map(|problem| problem.kind.as_str().to_owned()),
        detail: problem.map(|problem| problem.detail.clone()).unwrap_or_default(),
        last_failed: host.last_failed,
        pause_until: pause.map(milliseconds),
    })
}

fn host_record(host: &Host) -> Option<HostRecord> {
    let lease = host.lease()?;
    let (phase, listed) = match &host.phase {
        Phase::Free | Phase::Claiming(_) => (PhaseRecord::Claiming, false),
        Phase::Taken(_) => (PhaseRecord::Taken, true),
        Phase::Cleaning(cleaning) => (PhaseRecord::Cleaning, cleaning.listed),
    };
    let HostSpec { address, user, sudo, trust, .. } = &host.spec;
    let trust = match trust {
        HostTrust::Keys(keys) => TrustRecord::Keys(keys.iter().map(HostKey::openssh).collect()),
        HostTrust::KnownHosts(path) => TrustRecord::KnownHosts(path.clone()),
        HostTrust::FirstUse => TrustRecord::FirstUse,
    };
    Some(HostRecord {
        phase,
        listed,
        lease: lease.id.as_str().to_owned(),
        address: address.to_string(),
        user: user.clone(),
        sudo: *sudo,
        trust,
        instance_type: lease.type_name.to_string(),
        provider_type: lease.provider_type.clone(),
        tags: lease.tags.clone().into_iter().collect(),
    })
}

impl StateText {
    /// # Errors
    /// None that are known: all keys are strings.
    pub(super) fn bytes(&self) -> serde_json::Result<Vec<u8>> {
        let mut bytes = serde_json::to_vec_pretty(self)?;
        bytes.push(b'\n');
        Ok(bytes)
    }
}

/// The text of the table as it is when what is planned has happened.
pub(super) fn snapshot(table: &Table, set: &str) -> StateText {
    let planned = |(id, host)| (id, table.planned.get(id).unwrap_or(host));
    let hosts = table.hosts.iter().map(planned);
    let hosts: Vec<_> = hosts.collect();
    let troubles =
        hosts.iter().filter_map(|(id, host)| Some((id.to_string(), trouble_record(host)?.moved(table.began))));
    let troubles = troubles.collect();
    let hosts = hosts.iter().filter_map(|(id, host)| Some((id.to_string(), host_record(host)?))).collect();
    let pins = table.pins.iter().chain(&table.planned_pins).map(|(id, key)| (id.to_string(), key.openssh())).collect();
    StateText { version: VERSION, set: set.to_owned(), hosts, troubles, pins }
}

#[cfg(test)]
pub(super) fn write(table: &Table, set: &str) -> serde_json::Result<Vec<u8>> {
    snapshot(table, set).bytes()
}

fn damaged(fault: &str) -> String {
    format!(
        "is damaged: {fault}; bring back a copy if there is one. Otherwise move the file away: hosts that were in use are found by their \
         owner files and cleaned up before they are used, what runs there is ended, and hosts that are trusted on first use are \
         trusted anew"
    )
}

impl TroubleRecord {
    /// With its times counted from a point that was so much earlier.
    fn moved(self, by: WallMillis) -> Self {
        let moved = |time: Option<i64>| time.map(|time| time.saturating_add(by));
        Self { last_failed: moved(self.last_failed), pause_until: moved(self.pause_until), ..self }
    }

    /// Into a host whose times are bounded by what may have happened.
    fn restore(self, host: &mut Host, now: Moment) {
        let milliseconds = i64::try_from(now.elapsed_since_start().as_millis()).unwrap_or(i64::MAX);
        host.strikes = self.strikes;
        host.last_failed = self.last_failed.map(|time| time.min(milliseconds));
        let left = self.pause_until.map_or(0, |until| until.saturating_sub(milliseconds));
        let pause = Duration::from_millis(u64::try_from(left).unwrap_or(0)).min(PAUSE_MAX);
        let until = (!pause.is_zero()).then(|| now + pause);
        let kind = self.reason.as_deref().and_then(Kind::parse);
        host.trouble = kind.map(|kind| Trouble { problem: Problem { kind, detail: self.detail }, until });
    }
}

/// When the text is read.
#[derive(Clone, Copy)]
pub(super) struct Times {
    pub(super) now: Moment,
    /// The wall clock at the moment 0.
    pub(super) began: WallMillis,
}

/// What a predecessor left, joined with what is configured now.
///
/// # Errors
/// What is wrong with the text, or that it is another dispatcher's.
pub(super) fn read(bytes: Option<&[u8]>, specs: Vec<HostSpec>, set: &str, times: Times) -> Result<Table, String> {
    let Times { now, began } = times;
    let mut table = Table { began, ..Table::default() };
    for spec in specs {
        table.hosts.insert(spec.id.clone(), Host::new(spec, true, Phase::Free));
    }
    let Some(bytes) = bytes else { return Ok(table) };
    let text: StateText = serde_json::from_slice(bytes).map_err(|error| damaged(&error.to_string()))?;
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
        let host = restore(&id, known, record, now).map_err(|fault| damaged(&format!("host {name}: {fault}")))?;
        table.hosts.insert(id, host);
    }
    for (name, trouble) in text.troubles {
        if let Some(host) = table.hosts.get_mut(&InstanceId::new(&name)) {
            trouble.moved(began.saturating_neg()).restore(host, now);
        }
    }
    for (name, key) in text.pins {
        let id = InstanceId::new(&name);
        // Also of a host that is out of the configuration, or trusted otherwise, for a while: what it shows when it comes back must be
        // that key.
        table.pins.insert(id, HostKey::parse(&key).map_err(|fault| damaged(&format!("pin {name}: {fault}")))?);
    }
    Ok(table)
}

/// A create that did not end, and a clean-up, are cleaned up now: nothing can have been started there since. The host is used as it was
/// taken, whatever is configured now: under another address, or as another user, nothing of it would be found.
fn restore(id: &InstanceId, known: Option<HostSpec>, record: HostRecord, now: Moment) -> Result<Host, String> {
    let lease = Lease {
        id: LeaseId::read(&record.lease).ok_or("its lease is no lease")?,
        type_name: TypeName::new(&record.instance_type),
        provider_type: record.provider_type,
        tags: Tags::from(record.tags),
    };
    let configured = known.is_some();
    let taken = HostSpec {
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
    };
    let reached = |spec: &HostSpec| (spec.address.clone(), spec.user.clone(), spec.sudo);
    let (spec, next_spec) = match known {
        None => (taken, None),
        Some(spec) if reached(&spec) == reached(&taken) => (spec, None),
        Some(spec) => {
            // The keys of the address that is used.
            let trust = if spec.address == taken.address { spec.trust.clone() } else { taken.trust };
            let (type_name, provider_type) = (spec.type_name.clone(), spec.provider_type.clone());
            (HostSpec { trust, type_name, provider_type, ..taken }, Some(spec))
        }
    };
    let phase = match record.phase {
        PhaseRecord::Taken => Phase::Taken(lease),
        PhaseRecord::Claiming | PhaseRecord::Cleaning => Phase::Cleaning(Cleaning::new(lease, record.listed, now)),
    };
    Ok(Host { next_spec, ..Host::new(spec, configured, phase) })
}
