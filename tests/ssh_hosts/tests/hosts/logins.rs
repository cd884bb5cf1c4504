//! Each kind of login, as a client sees it.

use muster_ssh_hosts::{HostOptions, KeyForm, KeyKind, Login, Server, Shell, SshHost, Sudo, caller_is_root};

use crate::support::{for_root, key, output, output_with, says, started, text};

fn id(host: &SshHost, key: &muster_ssh_hosts::ClientKey) -> (String, String) {
    (says(host, key, "id -un"), says(host, key, "id -u"))
}

#[test]
fn the_default_login_is_the_callers() {
    let key = key();
    let host = started(&HostOptions::new(key.public()));
    let uid = rustix::process::geteuid().as_raw();
    assert_eq!(id(&host, &key), (host.user().to_owned(), uid.to_string()));
    assert_eq!(says(&host, &key, "echo $HOME; pwd; uname -n; echo $0"), {
        format!("{0}\n{0}\n{1}\nbash", host.home(), host.name())
    });
    assert!(host.host_key_openssh().starts_with("ssh-ed25519 AAAA"));
    assert!(host.known_hosts_line().starts_with("[127.0.0.1]:"));
    assert!(host.log().contains("Accepted publickey"), "{}", host.log());
    assert_eq!(output(&host, &key, "exit 7").status.code(), Some(7));
}

/// All that a deployment looks at: the home's whole path belongs to root or the login.
#[test]
fn the_way_to_the_home_is_trusted() {
    let key = key();
    let host = started(&HostOptions::new(key.public()));
    let home = host.home();
    let owners = says(&host, &key, &format!("stat -c %u / $(dirname {home}) {home}; id -u"));
    let owners: Vec<&str> = owners.lines().collect();
    let own = owners.last().copied().expect("lines");
    assert!(owners.iter().all(|owner| *owner == "0" || *owner == own), "{owners:?}");
}

#[test]
fn only_the_given_keys_get_in() {
    let (key, other, second) = (key(), key(), key());
    let host = started(&HostOptions::new(key.public()).client_key(second.public()));
    assert_eq!(says(&host, &second, "echo in"), "in");
    let refused = output(&host, &other, "echo in");
    assert_eq!(refused.status.code(), Some(255));
    assert!(text(&refused.stderr).contains("Permission denied (publickey)"), "{}", text(&refused.stderr));
}

#[test]
fn keys_of_each_kind() {
    for (kind, other, form, begins) in [
        (KeyKind::Rsa, KeyKind::Ed25519, KeyForm::Pem, "-----BEGIN RSA PRIVATE KEY"),
        (KeyKind::Ecdsa, KeyKind::Ed25519, KeyForm::Pem, "-----BEGIN EC PRIVATE KEY"),
        (KeyKind::Ed25519, KeyKind::Ecdsa, KeyForm::OpenSsh, "-----BEGIN OPENSSH PRIVATE KEY"),
    ] {
        let key = muster_ssh_hosts::ClientKey::generate(kind, form, "").expect("a key");
        assert!(key.private().starts_with(begins), "{kind:?}");
        for server in [Server::OpenSsh, Server::Dropbear] {
            let host = started(&HostOptions::new(key.public()).server(server).host_keys(&[kind, other]));
            assert_eq!(host.host_keys().len(), 2);
            assert_eq!(says(&host, &key, "echo in"), "in", "{kind:?} {server:?}");
        }
    }
}

#[test]
fn worker_with_sudo() {
    let key = key();
    let Some(host) = for_root(&HostOptions::new(key.public()).login(Login::Worker)) else { return };
    assert_eq!(id(&host, &key), ("worker".to_owned(), "2001".to_owned()));
    assert_eq!(says(&host, &key, "echo $HOME $XDG_RUNTIME_DIR"), "/home/worker /run/user/2001");
    assert_eq!(says(&host, &key, "stat -c '%U %a' $XDG_RUNTIME_DIR"), "worker 700");
    // Nothing else on either stream, also not about a host name that nobody can look up.
    let sudo = output(&host, &key, "sudo sh -c 'id -u; echo $PATH'");
    assert_eq!(text(&sudo.stdout), "0\n/usr/sbin:/usr/bin:/sbin:/bin\n");
    assert_eq!(text(&sudo.stderr), "");
    assert_eq!(output(&host, &key, "ls /root").status.code(), Some(2), "worker is not root");
    assert!(!std::fs::read_to_string("/etc/passwd").expect("text").contains("worker:x:2001"), "known outside");
}

#[test]
fn worker_without_sudo() {
    let key = key();
    let options = HostOptions::new(key.public()).login(Login::Worker);
    let Some(missing) = for_root(&options.clone().sudo(Sudo::Missing)) else { return };
    let there = output(&missing, &key, "sudo true");
    assert_eq!(there.status.code(), Some(127), "{}", text(&there.stderr));
    assert_eq!(says(&missing, &key, "echo a | sed s/a/b/; md5sum </dev/null | cut -c1-4"), "b\nd41d");

    let refused = started(&options.clone().sudo(Sudo::Refused));
    let there = output(&refused, &key, "sudo true");
    assert_eq!(there.status.code(), Some(1));
    assert!(text(&there.stderr).contains("password"), "{}", text(&there.stderr));

    let strict = started(&options.sudoers_line("Defaults requiretty"));
    let there = output(&strict, &key, "sudo true");
    assert_eq!(there.status.code(), Some(1));
    assert!(text(&there.stderr).contains("you must have a tty"), "{}", text(&there.stderr));
}

#[test]
fn dash_and_a_noisy_bash() {
    let key = key();
    let dash = started(&HostOptions::new(key.public()).shell(Shell::Sh));
    assert_eq!(says(&dash, &key, "echo $0"), "sh");

    for server in [Server::OpenSsh, Server::Dropbear] {
        let noisy = started(&HostOptions::new(key.public()).server(server).noisy_bashrc());
        let printed = output(&noisy, &key, "echo mine");
        let (out, err) = (text(&printed.stdout), text(&printed.stderr));
        assert!(out.lines().any(|line| line == "broken"), "it looks like an answer: {out:?}");
        assert!(out.starts_with("Welcome") && out.ends_with("no newline at the end: mine\n"), "{server:?} {out:?}");
        // OpenSSH has the login shell run its own start file, too.
        let warned = err.lines().filter(|line| *line == "warning: something unimportant").count();
        assert!(warned == err.lines().count() && (1..=2).contains(&warned), "{server:?} {err:?}");
        assert_eq!(out.contains("once more"), server == Server::OpenSsh, "its own start file: {out:?}");
    }
}

#[test]
fn busybox_and_nothing_else() {
    let key = key();
    for server in [Server::OpenSsh, Server::Dropbear] {
        let host = started(&HostOptions::new(key.public()).server(server).shell(Shell::Busybox));
        let files = "for d in $(echo $PATH:/usr/sbin:/usr/local/bin | tr : ' '); do ls -l $d/; done";
        let listed = says(&host, &key, files);
        let mut programs = listed.lines().filter(|line| line.starts_with('-'));
        let only = ["busybox", "sshd", "dropbear"];
        assert!(programs.all(|line| only.iter().any(|name| line.ends_with(name))), "{listed}");
        assert!(listed.lines().filter(|line| line.contains("-> /usr/bin/busybox")).count() > 100, "{listed}");
        assert_eq!(says(&host, &key, "printf x | md5sum"), "9dd4e461268c8034f5c8564e155c67a6  -");
        assert_eq!(output(&host, &key, "bash -c true").status.code(), Some(127));
        assert_eq!(output(&host, &key, "sudo true").status.code(), Some(127));
        let versions = says(&host, &key, "ls --help 2>&1 | head -n 1");
        assert!(versions.contains("BusyBox"), "{versions}");
    }
}

/// A few programs, and nothing else; and root where there is no sudo.
#[test]
fn even_less() {
    let key = key();
    let few = started(&HostOptions::new(key.public()).shell(Shell::Busybox).only_applets(&["ls", "id"]));
    assert_eq!(says(&few, &key, "ls /usr/bin/"), "busybox\nid\nls\nsh");
    let Some(root) = for_root(&HostOptions::new(key.public()).sudo(Sudo::Missing)) else { return };
    assert_eq!(says(&root, &key, "id -u; sudo true 2>/dev/null; echo $?"), "0\n127");
}

#[test]
fn busybox_with_sudo() {
    let key = key();
    let options = HostOptions::new(key.public()).login(Login::Worker).shell(Shell::Busybox);
    let Some(host) = for_root(&options) else { return };
    assert_eq!(says(&host, &key, "id -u; sudo id -u; sudo sh -c 'ls --help 2>&1 | grep -c BusyBox'"), "2001\n0\n1");
}

#[test]
fn dropbear() {
    let key = key();
    let options = HostOptions::new(key.public()).server(Server::Dropbear);
    let host = started(&options.clone().banner("careful here\n"));
    assert_eq!(id(&host, &key).0, host.user());
    assert!(host.log().contains("Pubkey auth succeeded"), "{}", host.log());
    let shown = output_with(&host, &key, &["-oLogLevel=INFO"], "true");
    assert!(text(&shown.stderr).contains("careful here"), "{}", text(&shown.stderr));
    assert!(shown.status.success());
    let asked = output_with(&host, &key, &["-oLogLevel=INFO", "-oPubkeyAuthentication=no"], "true");
    assert!(text(&asked.stderr).contains("Permission denied (publickey)"), "{}", text(&asked.stderr));
    let Some(worker) = for_root(&options.login(Login::Worker)) else { return };
    assert_eq!(says(&worker, &key, "id -un; echo $XDG_RUNTIME_DIR; sudo id -un"), "worker\n/run/user/2001\nroot");
}

#[test]
fn lines_of_sshd_config() {
    let key = key();
    let host = started(&HostOptions::new(key.public()).max_sessions(0).max_auth_tries(1).banner("careful here\n"));
    let none = output_with(&host, &key, &["-oLogLevel=INFO"], "true");
    assert_eq!(none.status.code(), Some(255), "no session is allowed");
    assert!(text(&none.stderr).contains("careful here"), "{}", text(&none.stderr));
    assert!(host.log().contains("no more sessions"), "{}", host.log());
    let config = std::fs::read_to_string(host.path("/etc/ssh/sshd_config")).expect("text");
    for line in ["MaxSessions 0", "MaxAuthTries 1", "Banner /etc/ssh/banner"] {
        assert!(config.contains(line), "{line} in {config}");
    }
}

#[test]
fn impossible_options_are_refused() {
    let key = key();
    let options = HostOptions::new(key.public());
    for (options, word) in [
        (options.clone().server(Server::Dropbear).config_line("MaxSessions 1"), "Dropbear"),
        (options.clone().sudo(Sudo::Refused), "worker"),
        (options.clone().only_applets(&["ls"]), "busybox"),
        (options.clone().shell(Shell::Sh).noisy_bashrc(), "bashrc"),
        (options.clone().host_keys(&[]), "host key"),
        (options.clone().host_keys(&[KeyKind::Rsa, KeyKind::Rsa]), "each kind"),
        (options.clone().name("two words"), "host name"),
        (options.clone().listen(std::net::Ipv4Addr::new(10, 0, 0, 1), 2222), "loopback"),
        (options.clone().listen(std::net::Ipv4Addr::LOCALHOST, 0), "port"),
    ] {
        let error = options.start().expect_err("refused");
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
        assert!(error.to_string().contains(word), "{error}");
    }
    let error = options.config_line("NoSuchThing yes").start().expect_err("refused");
    assert!(error.to_string().contains("NoSuchThing"), "{error}");
    assert!(for_root(&HostOptions::new(key.public()).login(Login::Root)).is_some() == caller_is_root());
}
