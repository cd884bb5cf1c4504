//! What is done with the instance: boot, command, pause.

use std::time::{Duration, Instant};

use super::note;
use super::remote::{self, Outcome};
use super::tester::{Created, Login, Tester};
use crate::cloud::{Access, CloudInstance};
use crate::core::effect::{Level, seconds};
use crate::core::errors::chain;
use crate::log::write_note;
use crate::remote::ssh::quote;

/// One boot probe or secret check; a machine that hangs must not use up the whole time to boot.
const PROBE_LIMIT: Duration = Duration::from_secs(60);
/// Of the operator's command; the help text says so.
const COMMAND_LIMIT: Duration = Duration::from_secs(3600);

impl Tester<'_> {
    /// True if all was well. A stop ends it at once.
    pub(super) fn try_out(&self, made: &mut Created, deadline: Instant) -> bool {
        let access = match self.cloud.open(&made.instance.id, Some(&self.secret)) {
            Ok(access) => access,
            Err(error) => {
                write_note(&note(Level::Error, "cannot connect to the instance").with("error", chain(&error)));
                return false;
            }
        };
        let watch = remote::close_on_stop(&access, self.stop);
        if let Err(error) = &watch {
            let message = "no thread that watches for signals: they are obeyed between commands only";
            write_note(&note(Level::Warn, message).with("error", error));
        }
        let mut all_is_well = self.boot(made, &access, deadline);
        if !self.plan.command.is_empty() && !self.stop.is_stopped() {
            let command = &self.plan.command;
            all_is_well &= remote::run(&access, &made.instance, command, COMMAND_LIMIT) == Outcome::Succeeded;
        }
        if self.plan.pause_before_destroy && !self.stop.is_stopped() {
            self.show_login(&made.instance);
            (self.pause)(self.stop);
        }
        access.executor.close();
        all_is_well && !self.stop.is_stopped()
    }

    fn boot(&self, made: &mut Created, access: &Access, deadline: Instant) -> bool {
        let line = note(Level::Info, "waiting for instance to boot").with("Instance", &made.instance.id);
        write_note(&line.with("TimeoutBooting", seconds(deadline.saturating_duration_since(Instant::now()))));
        let mut shown = false;
        loop {
            if self.stop.is_stopped() {
                return false;
            }
            if !shown {
                shown = self.show_login(&made.instance);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let limit = left.min(PROBE_LIMIT);
            if remote::run(access, &made.instance, &self.plan.boot_probe_command, limit) == Outcome::Succeeded {
                write_note(&note(Level::Info, "instance has booted").with("Instance", &made.instance.id));
                return true;
            }
            if self.stop.is_stopped() {
                return false;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                write_note(&note(Level::Error, "timed out").with("Instance", &made.instance.id));
                return false;
            }
            if self.wait(left.min(self.plan.probe_interval)) {
                self.refresh(made);
            }
        }
    }

    /// Its address may have become known.
    fn refresh(&self, made: &mut Created) {
        // By its id: that its tags are missing in the list was told already.
        match self.listed(&self.set_tag()) {
            Ok(found) => {
                if let Some(now) = found.into_iter().find(|one| one.id == made.instance.id) {
                    made.instance = now;
                    made.seen = true;
                }
            }
            Err(error) => {
                write_note(&note(Level::Warn, "error getting list of instances").with("error", chain(&error)));
            }
        }
    }

    /// Nothing without SSH, or as long as there is no address: false then.
    fn show_login(&self, instance: &CloudInstance) -> bool {
        let Some(command) = self.plan.login.as_ref().and_then(|login| login_command(login, instance)) else {
            return false;
        };
        write_note(&note(Level::Info, "to log in").with("Command", command));
        true
    }
}

/// For a shell; `None` while there is no address.
fn login_command(login: &Login, instance: &CloudInstance) -> Option<String> {
    if instance.address.is_empty() {
        return None;
    }
    let (host, port) = match instance.address.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, port),
        _ => (instance.address.as_str(), login.port.as_str()),
    };
    // The program takes an IPv6 address without brackets.
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let key = login.key_file.as_ref().map(|path| format!(" -i {}", quote(&path.to_string_lossy())));
    Some(format!("ssh -p{port}{} {}@{host}", key.unwrap_or_default(), instance.remote_user))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::core::effect::Tags;
    use crate::core::ids::InstanceId;

    #[test]
    fn how_to_log_in() {
        for (address, key_file, expected) in [
            ("", None, None),
            ("10.0.0.1", None, Some("ssh -p22 admin@10.0.0.1")),
            ("host:2222", None, Some("ssh -p2222 admin@host")),
            ("fd00::1", None, Some("ssh -p22 admin@fd00::1")),
            ("[fd00::1]:2222", None, Some("ssh -p2222 admin@fd00::1")),
            ("10.0.0.1", Some("/var/lib/m/ssh/id"), Some("ssh -p22 -i /var/lib/m/ssh/id admin@10.0.0.1")),
            ("10.0.0.1", Some("/a b/id"), Some("ssh -p22 -i '/a b/id' admin@10.0.0.1")),
        ] {
            let login = Login { port: "22".to_owned(), key_file: key_file.map(PathBuf::from) };
            let instance = CloudInstance {
                id: InstanceId::new("i"),
                provider_type: String::new(),
                address: address.to_owned(),
                remote_user: "admin".to_owned(),
                tags: Tags::new(),
            };
            assert_eq!(login_command(&login, &instance).as_deref(), expected, "{address}");
        }
    }
}
