//! The contents of a host's own files.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::Path;

use crate::layout::named;
use crate::options::{HostOptions, Login, Sudo};

/// Prints where a careful one would be silent, and on both streams: greetings, and what commands of ours might answer, an archive's end
/// among it.
pub(crate) const NOISY_BASHRC: &str = "echo 'Welcome to this machine!'\necho 'It prints in every shell.'\n\
    echo 'warning: something unimportant' >&2\n\
    printf '%s\\n' broken '#broken by noise' missing 'ok /tmp/another' /nowhere other-machine 'muster-runner 9.9.9 protocol 99'\n\
    printf '%s\\n' '{\"cpus\": 1}' 'local-dz642-99999999999999n stale' local-dz642-99999999999999o '#attempt local-dz642-99999999999999o 7'\n\
    printf '%s\\n' '# 0123456789abcdef' '' '--muster-begin-- not yet' '--muster-end--'\n\
    head -c 1024 /dev/zero\nprintf 'no newline at the end: '\n";

/// What OpenSSH runs before the login shell, whatever that is.
pub(crate) const NOISY_RC: &str = "echo 'Welcome once more!'\ncat >/dev/null\necho broken\nprintf '# 00'\n";

/// Who logs in.
#[derive(Clone, Debug)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) home: String,
}

impl User {
    pub(crate) fn of(login: Login) -> io::Result<Self> {
        let root = || Self { name: "root".to_owned(), uid: 0, gid: 0, home: "/root".to_owned() };
        Ok(match login {
            Login::Root => root(),
            Login::Worker => Self { name: "worker".to_owned(), uid: 2001, gid: 2001, home: "/home/worker".to_owned() },
            Login::Caller => {
                let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
                if uid == 0 {
                    return Ok(root());
                }
                let text = read("/etc/passwd")?;
                let line = text.lines().find(|line| line.split(':').nth(2) == Some(&uid.to_string()));
                let name = line.and_then(|line| line.split(':').next()).unwrap_or("caller").to_owned();
                Self { home: format!("/home/{name}"), name, uid, gid }
            }
        })
    }
}

fn read(path: &str) -> io::Result<String> {
    fs::read_to_string(path).map_err(|error| named(Path::new(path), &error))
}

/// The lines of a file like `/etc/passwd` but those with one of the names or the number in the third field.
fn others(path: &str, names: &[&str], number: u32) -> io::Result<String> {
    let number = number.to_string();
    let mut kept = String::new();
    for line in read(path)?.lines() {
        let mut fields = line.split(':');
        let (name, third) = (fields.next().unwrap_or_default(), fields.nth(1));
        if !names.contains(&name) && third != Some(&number) {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    Ok(kept)
}

/// The caller's, so that files have their owners' names, and the login; root has the same shell.
pub(crate) fn passwd(user: &User, shell: &str) -> io::Result<String> {
    let mut text = format!("root:x:0:0:root:/root:{shell}\n");
    if user.uid != 0 {
        writeln!(text, "{0}:x:{1}:{2}::{3}:{shell}", user.name, user.uid, user.gid, user.home).expect("a string");
    }
    let others = others("/etc/passwd", &["root", &user.name], user.uid)?;
    if !others.contains("\nsshd:") && !others.starts_with("sshd:") {
        // OpenSSH's server, for its part before authentication.
        text.push_str("sshd:x:102:65534::/run/sshd:/usr/sbin/nologin\n");
    }
    Ok(text + &others)
}

pub(crate) fn group(user: &User) -> io::Result<String> {
    let mut text = "root:x:0:\n".to_owned();
    if user.gid != 0 {
        writeln!(text, "{}:x:{}:", user.name, user.gid).expect("a string");
    }
    Ok(text + &others("/etc/group", &["root", &user.name], user.gid)?)
}

/// No password fits `*`, and it does not lock the account as `!` does.
pub(crate) fn shadow(user: &User) -> String {
    let mut names = vec!["root", "sshd", "nobody"];
    if !names.contains(&user.name.as_str()) {
        names.push(&user.name);
    }
    names.iter().map(|name| format!("{name}:*:19000:0:99999:7:::\n")).collect()
}

/// The caller's and the machine's own name: sudo complains about a name that it cannot look up.
pub(crate) fn hosts(name: &str) -> io::Result<String> {
    let there = if Path::new("/etc/hosts").exists() { read("/etc/hosts")? } else { "127.0.0.1 localhost\n".to_owned() };
    Ok(format!("{}\n127.0.1.1 {name}\n", there.trim_end()))
}

pub(crate) fn sudoers(options: &HostOptions) -> String {
    let mut text = "Defaults env_reset, !requiretty\nDefaults secure_path=\"/usr/sbin:/usr/bin:/sbin:/bin\"\n\
        root ALL=(ALL:ALL) ALL\n"
        .to_owned();
    text.push_str(match options.sudo {
        Sudo::Passwordless => "worker ALL=(ALL:ALL) NOPASSWD: ALL\n",
        Sudo::Refused => "worker ALL=(ALL:ALL) ALL\n",
        Sudo::Missing => "",
    });
    for line in &options.sudoers {
        text.push_str(line);
        text.push('\n');
    }
    text
}

/// The port comes on the command line.
pub(crate) fn sshd_config(options: &HostOptions, user: &User, address: Ipv4Addr) -> String {
    let mut text = options.config.join("\n");
    writeln!(text, "\nListenAddress {address}\nPidFile none\nUseDNS no\nUsePAM no").expect("a string");
    text.push_str("PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\n");
    text.push_str("AuthorizedKeysFile .ssh/authorized_keys\nPrintMotd no\nPrintLastLog no\n");
    writeln!(text, "AllowUsers {}", user.name).expect("a string");
    if options.banner.is_some() {
        text.push_str("Banner /etc/ssh/banner\n");
    }
    if let Some(folder) = runtime_dir(options, user) {
        writeln!(text, "SetEnv XDG_RUNTIME_DIR={folder}").expect("a string");
    }
    for kind in &options.host_keys {
        writeln!(text, "HostKey /etc/ssh/ssh_host_{}_key", kind.name()).expect("a string");
    }
    text
}

/// What `XDG_RUNTIME_DIR` is in a session, if it is anything.
pub(crate) fn runtime_dir(options: &HostOptions, user: &User) -> Option<String> {
    (options.runtime_dir && user.uid != 0).then(|| format!("/run/user/{}", user.uid))
}
