//! The job's user (spec 52 §2). Reads /etc/passwd itself: a static program has no name service.

use rustix::process::{getegid, geteuid};

use crate::error::{Error, Result};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// The runner must change to it.
    pub(crate) switch: bool,
}

/// The user that `wanted` names; see [`crate::protocol::ContainerSpec::user`] for the empty text.
///
/// # Errors
/// [`Error::Refused`] for an unknown one, or for another than the runner's own without root.
pub(crate) fn find(wanted: &str) -> Result<User> {
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    if geteuid().is_root() {
        let caller = std::env::var("SUDO_USER").ok();
        return as_root(wanted, caller.as_deref(), &passwd);
    }
    let own = User { uid: geteuid().as_raw(), gid: getegid().as_raw(), switch: false };
    if wanted.is_empty() || lookup(wanted, &passwd).is_some_and(|(uid, _)| uid == own.uid) {
        return Ok(own);
    }
    Err(Error::Refused(format!(
        "the runner is not root and cannot run a job as user {wanted:?}: leave Runner.User empty"
    )))
}

fn as_root(wanted: &str, caller: Option<&str>, passwd: &str) -> Result<User> {
    let caller = caller.filter(|name| lookup(name, passwd).is_some_and(|(uid, _)| uid != 0));
    let name = if wanted.is_empty() { caller.unwrap_or("nobody") } else { wanted };
    match lookup(name, passwd) {
        Some((uid, gid)) => Ok(User { uid, gid, switch: true }),
        // A minimal system may lack the entry; the number is the kernel's own for "nobody".
        None if name == "nobody" => Ok(User { uid: 65534, gid: 65534, switch: true }),
        None => Err(Error::Refused(format!("there is no user {name:?} on this machine: create it or set Runner.User"))),
    }
}

/// User and group number; a number without an entry stands for itself and the group of that number.
fn lookup(name: &str, passwd: &str) -> Option<(u32, u32)> {
    let number: Option<u32> = name.parse().ok();
    let entry = passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let (uid, gid) = (fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?);
        (fields.first() == Some(&name) || number == Some(uid)).then_some((uid, gid))
    });
    entry.or_else(|| number.map(|number| (number, number)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_of_a_runner_that_is_root() {
        let passwd = "root:x:0:0::/root:/bin/sh\nalice:x:1000:100::/:/bin/sh\ndamaged\nodd:x:y:z\n";
        for (wanted, caller, expected) in [
            ("", None, Some((65534, 65534))),
            ("", Some("root"), Some((65534, 65534))),
            ("", Some("alice"), Some((1000, 100))),
            ("", Some("mallory"), Some((65534, 65534))),
            ("alice", Some("root"), Some((1000, 100))),
            ("1000", None, Some((1000, 100))),
            ("1001", None, Some((1001, 1001))),
            ("root", None, Some((0, 0))),
            ("odd", None, None),
            ("mallory", None, None),
        ] {
            let user = as_root(wanted, caller, passwd).ok().map(|user| (user.uid, user.gid));
            assert_eq!(user, expected, "{wanted:?} called by {caller:?}");
        }
    }
}
