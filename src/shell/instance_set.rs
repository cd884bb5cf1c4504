//! Which instances are a dispatcher's: the id of their set (spec 72 §2).

use md5::{Digest, Md5};

use super::state_dir::{StateDir, StateDirError, kept_instance_set_id};
use crate::config::Config;

/// Derived from the token, so that it is the same wherever the cluster's dispatcher runs; without one drawn and kept.
pub(super) fn id(config: &Config, state_dir: &StateDir) -> Result<String, StateDirError> {
    match of_token(config.system_root_token.reveal()) {
        Some(id) => Ok(id),
        None => state_dir.instance_set_id(),
    }
}

/// Whether it is the set of this configuration's dispatcher, which may run; nothing is made.
pub(super) fn is_of_dispatcher(config: &Config, id: &str) -> Result<bool, StateDirError> {
    match of_token(config.system_root_token.reveal()) {
        Some(own) => Ok(own == id),
        // What cannot have been drawn need not be compared, and who asks need not be who may read.
        None if !id.bytes().all(|byte| byte.is_ascii_alphanumeric()) => Ok(false),
        None => Ok(kept_instance_set_id(&config.state_dir)?.is_some_and(|own| own == id)),
    }
}

fn of_token(token: &str) -> Option<String> {
    if token.is_empty() {
        return None;
    }
    if let Some(uuid) = token.strip_prefix("v2/").and_then(|rest| rest.split('/').next()) {
        return Some(uuid.to_owned());
    }
    Some(Md5::digest(token.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_tokens() {
        assert_eq!(of_token(""), None);
        assert_eq!(of_token("v2/zzzzz-gj3su-000000000000000/secret").as_deref(), Some("zzzzz-gj3su-000000000000000"));
        assert_eq!(of_token("abc").as_deref(), Some("900150983cd24fb0d6963f7d28e17f72"));
    }
}
