//! Is it the right host (spec 46 §1): by its key, by a known_hosts file, or by the key that it showed first. A mismatch is refused
//! loudly.

use std::path::PathBuf;
use std::sync::Weak;

use super::host::HostSpec;
use super::shared::Shared;
use crate::core::effect::{Level, Note};
use crate::core::ids::InstanceId;
use crate::log::write_note;
use crate::remote::address::HostAddress;
use crate::remote::identity::{HostCheck, HostKey, HostTrust, Verdict};
use crate::remote::known_hosts::KnownHosts;

/// What the table says of a key that a host shows.
#[derive(Debug)]
pub(super) enum PinAnswer {
    /// It is pinned now.
    First,
    Same,
    Other {
        pin: HostKey,
        file: PathBuf,
    },
    /// The first key, which could not be written.
    NotKept(String),
}

/// The judge of one host's keys.
#[derive(Debug)]
pub(super) struct Check {
    id: InstanceId,
    address: HostAddress,
    trust: HostTrust,
    /// Executors may live longer than the driver.
    shared: Weak<Shared>,
}

impl Check {
    pub(super) fn new(spec: &HostSpec, shared: Weak<Shared>) -> Self {
        Self { id: spec.id.clone(), address: spec.address.clone(), trust: spec.trust.clone(), shared }
    }

    fn judge(&self, key: &HostKey) -> Verdict {
        match &self.trust {
            HostTrust::Keys(keys) if keys.contains(key) => Verdict::Trusted,
            HostTrust::Keys(keys) => self.mismatch(format!(
                "it shows {}, configured is {}; if the host was installed anew, correct HostKey in the configuration, otherwise \
                 somebody is in between",
                shown(key),
                keys.iter().map(shown).collect::<Vec<_>>().join(", ")
            )),
            HostTrust::KnownHosts(file) => match KnownHosts::read(file) {
                Ok(known) => match known.judge(key, &self.address) {
                    Verdict::Refused(reason) => self.mismatch(reason),
                    other => other,
                },
                Err(error) => self.cannot_tell(error),
            },
            HostTrust::FirstUse => self.first_use(key),
        }
    }

    fn first_use(&self, key: &HostKey) -> Verdict {
        let Some(shared) = self.shared.upgrade() else {
            return self.cannot_tell("the driver has stopped".to_owned());
        };
        match shared.pin(&self.id, key) {
            PinAnswer::Same => Verdict::Trusted,
            PinAnswer::First => {
                let message = "trusting the key that the host shows on first use; compare it with ssh-keygen -l there";
                write_note(&self.note(Level::Warn, message).with("Key", shown(key)));
                Verdict::Trusted
            }
            PinAnswer::Other { pin, file } => self.mismatch(format!(
                "it shows {}, pinned on first use is {}; if the host was installed anew, stop the daemon, remove the entry {:?} \
                 below \"pins\" in {}, and start it again, otherwise somebody is in between",
                shown(key),
                shown(&pin),
                self.id.as_str(),
                file.display()
            )),
            PinAnswer::NotKept(error) => self.cannot_tell(format!("its key cannot be pinned: {error}")),
        }
    }

    fn mismatch(&self, reason: String) -> Verdict {
        write_note(&self.note(Level::Error, "HOST KEY MISMATCH: the connection is refused").with("Reason", &reason));
        Verdict::Refused(reason)
    }

    /// For a reason of ours: no alarm that says something of the host.
    fn cannot_tell(&self, reason: String) -> Verdict {
        write_note(
            &self.note(Level::Warn, "host cannot be verified: the connection is refused").with("Reason", &reason),
        );
        Verdict::Refused(reason)
    }

    fn note(&self, level: Level, message: &'static str) -> Note {
        Note::new(level, "hosts", message).with("Instance", &self.id).with("Address", &self.address)
    }
}

fn shown(key: &HostKey) -> String {
    format!("{} {}", key.algorithm(), key.fingerprint())
}

impl HostCheck for Check {
    fn check(&self, key: &HostKey, _address: &str) -> Verdict {
        self.judge(key)
    }

    fn algorithms(&self, _address: &str) -> Vec<String> {
        let mut kinds: Vec<String> = match &self.trust {
            HostTrust::Keys(keys) => keys.iter().map(|key| key.algorithm().to_owned()).collect(),
            HostTrust::KnownHosts(file) => {
                KnownHosts::read(file).map(|known| known.algorithms(&self.address)).unwrap_or_default()
            }
            HostTrust::FirstUse => {
                let pin = self.shared.upgrade().and_then(|shared| shared.pinned(&self.id));
                pin.iter().map(|key| key.algorithm().to_owned()).collect()
            }
        };
        kinds.sort();
        kinds.dedup();
        kinds
    }
}
