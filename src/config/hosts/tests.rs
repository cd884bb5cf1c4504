//! The section as a whole: what it amounts to, and every fault in one run.

use std::path::{Path, PathBuf};

use super::super::{Fault, Host, LoadOptions, Loaded, check, load, load_text};
use super::*;

const ED: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIP7wl7ph/6MNRgATP0w+uDH49iBd43LFbVSi2z5sDBGT";
const OTHER: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIMnD7vfIQv+UUlVoM1yvtFj6hvr6SdBe9zei5VargEh";

fn host() -> Host {
    Host { is_root: false, cpus: 4, ram: 8 << 30, disk: 100 << 30 }
}

fn with_options<T>(path: Option<PathBuf>, work: impl FnOnce(&LoadOptions<'_>) -> T) -> T {
    let env = |name: &str| (name == "HOME").then(|| "/home/u".to_owned());
    work(&LoadOptions { path, cluster: None, env: &env, host: host(), private_key_fault: |_| None })
}

/// `parameters`: the lines below `DriverParameters`, indented by six.
fn text(parameters: &str) -> String {
    format!(
        "Containers:\n  CloudVMs:\n    Driver: static\n    DriverParameters:\n{parameters}\n\
         InstanceTypes: {{big: {{VCPUs: 8, RAM: 8GiB}}, small: {{VCPUs: 1, RAM: 1GiB}}}}\n"
    )
}

fn load_at(folder: &Path, parameters: &str) -> Result<Loaded, Vec<Fault>> {
    with_options(None, |options| load_text(Some(&folder.join("config.yml")), &text(parameters), options))
}

fn hosts_of(parameters: &str) -> StaticConfig {
    match load_at(Path::new("/conf"), parameters) {
        Ok(loaded) => loaded.config.cloud.static_hosts.expect("the driver is static"),
        Err(faults) => panic!("{faults:#?}"),
    }
}

fn faults_of(parameters: &str) -> Vec<String> {
    match load_at(Path::new("/conf"), parameters) {
        Ok(loaded) => panic!("it loads: {:?}", loaded.warnings),
        Err(faults) => faults.iter().map(ToString::to_string).collect(),
    }
}

fn key(text: &str) -> HostKey {
    HostKey::parse(text).expect("a key")
}

#[test]
fn defaults_and_what_a_host_says_itself() {
    let found = hosts_of(&format!(
        "      Hosts:\n\
        \x20     - {{Name: node1, Address: 10.0.0.5, InstanceType: big, HostKey: \"{ED} root@node1\"}}\n\
        \x20     - {{Name: n-2, Address: \"[::1]:2222\", InstanceType: small, User: job, UseSudo: no, HostKey: [\"{ED}\", \"{OTHER}\"]}}\n\
        \x20     - {{Name: n.3, Address: Node3.Lab, InstanceType: small, TrustOnFirstUse: true}}"
    ));
    assert_eq!(found.state_file, Path::new("/home/u/.local/state/muster/static-hosts.json"));
    let shown: Vec<_> =
        found.hosts.iter().map(|host| (host.address.to_string(), host.user.as_str(), host.use_sudo)).collect();
    assert_eq!(
        shown,
        [
            ("10.0.0.5:22".to_owned(), "root", true),
            ("[::1]:2222".to_owned(), "job", false),
            ("node3.lab:22".to_owned(), "root", true)
        ]
    );
    let trust: Vec<_> = found.hosts.into_iter().map(|host| host.trust).collect();
    assert_eq!(
        trust,
        [HostTrust::Keys(vec![key(ED)]), HostTrust::Keys(vec![key(ED), key(OTHER)]), HostTrust::FirstUse]
    );
}

#[test]
fn the_drivers_own_keys_hold_for_all_hosts() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("known"), format!("node1,[node2]:7 {ED}\n")).expect("written");
    let loaded = load_at(
        folder.path(),
        "      User: muster\n      UseSudo: false\n      StateFile: hosts.json\n      KnownHosts: known\n      Hosts:\n\
        \x20     - {Name: a, Address: node1, InstanceType: big}\n\
        \x20     - {Name: b, Address: \"node2:7\", InstanceType: small, User: root, UseSudo: true}\n\
        \x20     - {Name: c, Address: node3, InstanceType: small, TrustOnFirstUse: true}",
    );
    let found = loaded.expect("good").config.cloud.static_hosts.expect("static");
    let known = HostTrust::KnownHosts(folder.path().join("known"));
    assert_eq!(found.state_file, folder.path().join("hosts.json"));
    let shown: Vec<_> = found.hosts.iter().map(|host| (host.user.as_str(), host.use_sudo, &host.trust)).collect();
    assert_eq!(shown, [("muster", false, &known), ("root", true, &known), ("muster", false, &HostTrust::FirstUse)]);
}

/// Each with its place and key.
#[test]
fn all_faults_in_one_run() {
    let found = faults_of(&format!(
        "      User: a b\n\
        \x20     UseSudo: perhaps\n\
        \x20     Hosts:\n\
        \x20     - {{Name: node1, Address: 10.0.0.5, InstanceType: big, HostKey: \"{ED}\"}}\n\
        \x20     - {{Name: node1, Address: \"10.0.0.5:22\", InstanceType: bigg, HostKey: ssh-ed25519}}\n\
        \x20     - {{Name: \"../x\", Address: \"::1\", HostKye: \"{ED}\"}}\n\
        \x20     - node4\n\
        \x20     - {{Name: node5, Address: node5, InstanceType: big, KnownHosts: /nonexistent/known}}\n\
        \x20     - {{Name: node6, Address: [a], InstanceType: big, HostKey: []}}\n\
        \x20     - {{Name: node7, Address: node7, InstanceType: big, HostKey: \"{ED}\", KnownHosts: x}}\n\
        \x20     - {{Name: {}, Address: node8, InstanceType: big, TrustOnFirstUse: 3}}",
        "x".repeat(65)
    ));
    let at = "Containers.CloudVMs.DriverParameters";
    for part in [
        format!("/conf/config.yml:5:13: {at}.User: \"a b\" must be of letters"),
        format!("config.yml:6:16: {at}.UseSudo: \"perhaps\" is neither true nor false"),
        format!("config.yml:9:16: {at}.Hosts[1].Name: node1 is given twice, first in line 8"),
        format!("config.yml:9:32: {at}.Hosts[1].Address: 10.0.0.5:22 is given twice, first in line 8"),
        format!(
            "config.yml:9:61: {at}.Hosts[1].InstanceType: \"bigg\" is none of the InstanceTypes (perhaps you meant big?)"
        ),
        format!("config.yml:9:76: {at}.Hosts[1].HostKey: must be a public key"),
        format!("config.yml:10:16: {at}.Hosts[2].Name: \"../x\" must be of letters"),
        format!("config.yml:10:33: {at}.Hosts[2].Address: \"::1\" is an IPv6 address without brackets"),
        format!("config.yml:10:9: {at}.Hosts[2].InstanceType: is missing"),
        format!("config.yml:10:40: {at}.Hosts[2].HostKye: there is no such key (perhaps you meant HostKey?)"),
        format!("config.yml:10:9: {at}.Hosts[2]: nothing says which host this is"),
        format!("config.yml:11:9: {at}.Hosts[3]: must be a map, not a single value"),
        format!("config.yml:12:70: {at}.Hosts[4].KnownHosts: cannot read /nonexistent/known: No such file"),
        format!("{at}.Hosts[5].Address: must be a single value, not a list"),
        format!("{at}.Hosts[5].HostKey: is an empty list"),
        format!("{at}.Hosts[6].HostKey: HostKey and KnownHosts exclude each other"),
        format!("{at}.Hosts[7].Name: \"{}\" is longer than 64 characters", "x".repeat(65)),
        format!("{at}.Hosts[7].TrustOnFirstUse: \"3\" is neither"),
    ] {
        assert!(found.iter().any(|fault| fault.contains(&part)), "{part}\n{found:#?}");
    }
    assert!(!found.iter().any(|fault| fault.contains("Hosts[5].Address: is missing")), "{found:#?}");
}

#[test]
fn single_faults() {
    let many: String = (0..=HOSTS_MAX).map(|number| format!("      - {{Name: n{number}}}\n")).collect();
    for (parameters, part) in [
        ("      User: root", "Hosts: the driver static needs hosts"),
        ("      Hosts: []", "5:"),
        ("      Hosts: {a: b}", "must be a list of hosts, not a map"),
        (format!("      Hosts:\n{many}").as_str(), "10001 hosts: at most 10000"),
    ] {
        let found = faults_of(parameters);
        assert!(found.iter().any(|fault| fault.contains(part)), "{part}: {found:?}");
    }
    let none = with_options(None, |options| {
        load_text(None, "Containers: {CloudVMs: {Driver: static, SSHPort: moon}}", options)
    });
    let none: Vec<String> = none.expect_err("no hosts").iter().map(ToString::to_string).collect();
    assert!(
        none.iter().any(|fault| fault.contains("needs hosts")) && none.iter().any(|fault| fault.contains("SSHPort")),
        "{none:?}"
    );
}

#[test]
fn a_known_hosts_file_without_the_host_is_an_error_that_says_so() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("known"), format!("other {ED}\nbad line\n*.lab {ED}\n")).expect("written");
    let parameters =
        "      KnownHosts: known\n      Hosts:\n      - {Name: a, Address: \"node1.lab:7\", InstanceType: big}";
    let found = load_at(folder.path(), parameters).expect_err("no entry");
    let found: Vec<String> = found.iter().map(ToString::to_string).collect();
    for part in
        ["known has no entry for [node1.lab]:7 or node1.lab (patterns", "1 of its lines cannot be used, as line 2"]
    {
        assert!(found.iter().any(|fault| fault.contains(part)), "{part}: {found:?}");
    }
}

#[test]
fn a_bad_line_about_another_host_is_a_warning_unless_it_revokes() {
    let folder = tempfile::tempdir().expect("a folder");
    let parameters =
        "      KnownHosts: known\n      Hosts:\n      - {Name: a, Address: \"node1.lab:7\", InstanceType: big}";
    let file = folder.path().join("known");
    std::fs::write(&file, format!("other ssh-weird AAAA\n[node1.lab]:7 {ED}\n")).expect("written");
    let loaded = load_at(folder.path(), parameters).expect("good");
    let warnings: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
    assert!(warnings.iter().any(|warning| warning.contains("known line 1: ")), "{warnings:?}");
    std::fs::write(&file, format!("@revoked * ssh-weird AAAA\n[node1.lab]:7 {ED}\n")).expect("written");
    let found = load_at(folder.path(), parameters).expect_err("what is revoked is not known");
    assert!(found.iter().any(|fault| fault.to_string().contains("known line 1: ")), "{found:?}");
}

#[test]
fn warnings_and_the_prefix_of_the_arvados_form() {
    let parameters = format!(
        "      Regoin: x\n      Hosts:\n      - {{Name: a, Address: a, InstanceType: big, HostKey: \"{ED}\"}}\n\
        \x20     - {{Name: b, Address: b, InstanceType: big, HostKey: \"{ED}\"}}"
    );
    let text = text(&parameters).replace("Driver: static", "Driver: static\n    MaxInstances: 1");
    let loaded = with_options(None, |options| load_text(None, &text, options)).expect("good");
    let warnings: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
    for part in ["DriverParameters.Regoin: there is no such key", "no host has the type small", "1 of 2 hosts are used"]
    {
        assert!(warnings.iter().any(|warning| warning.contains(part)), "{part}: {warnings:?}");
    }
    let text = "Clusters: {zzzzz: {Containers: {CloudVMs: {Driver: static, DriverParameters: {Hosts: [{Name: a}]}}}}}";
    let faults = with_options(None, |options| load_text(None, text, options)).expect_err("incomplete");
    assert!(
        faults.iter().any(|fault| fault.key == "Clusters.zzzzz.Containers.CloudVMs.DriverParameters.Hosts[0].Address")
    );
}

/// Hosts are not ours to power off (spec 52 §2).
#[test]
fn self_destruction_is_refused() {
    for driver in ["static", "loopback"] {
        let text =
            format!("Containers: {{CloudVMs: {{Driver: {driver}}}}}\nMuster: {{Runner: {{SelfDestructAfter: 1h}}}}");
        let faults = with_options(None, |options| load_text(None, &text, options)).expect_err("refused");
        let place = Mark { line: 2, column: 38 };
        assert!(
            faults.iter().any(|fault| fault.key == "Muster.Runner.SelfDestructAfter" && fault.mark == Some(place)),
            "{faults:?}"
        );
    }
}

#[test]
fn check_shows_the_hosts_and_the_dump_loads_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("config.yml");
    let parameters = format!(
        "      Hosts:\n      - {{Name: a, Address: a, InstanceType: big, HostKey: \"{ED}\"}}\n\
        \x20     - {{Name: b, Address: b, InstanceType: small, HostKey: \"{ED}\"}}\n\
        \x20     - {{Name: c, Address: c, InstanceType: big, HostKey: \"{ED}\"}}"
    );
    std::fs::write(&path, text(&parameters)).expect("written");
    let checked = with_options(Some(path.clone()), |options| check(options, false, &|_| Ok(None)));
    assert!(checked.good && checked.problems.is_empty(), "{:?}", checked.problems);
    assert!(checked.text.contains("hosts            3 (2 big, 1 small)\n"), "{}", checked.text);
    assert!(checked.text.contains("driver           static (hosts over SSH)\n"), "{}", checked.text);
    let first = with_options(Some(path.clone()), load).expect("good").config;
    let dumped = with_options(Some(path.clone()), |options| check(options, true, &|_| Ok(None))).text;
    let again = with_options(Some(path), |options| load_text(None, &dumped, options)).expect("good").config;
    assert_eq!(first.cloud.static_hosts, again.cloud.static_hosts);
}
