//! The loader as a whole: forms, defaults, faults with their places, dump and reload.

use std::path::Path;
use std::time::Duration;

use super::*;

fn host() -> Host {
    Host { is_root: false, cpus: 4, ram: 8 << 30, disk: 100 << 30 }
}

/// Real keys are looked at by `remote` and its tests.
fn private_key_fault(text: &str) -> Option<String> {
    (!text.starts_with("good")).then(|| "it is bad".to_owned())
}

fn load_with(text: &str, cluster: Option<&str>) -> Result<Loaded, Vec<Fault>> {
    let env = |name: &str| (name == "HOME").then(|| "/home/u".to_owned());
    let options =
        LoadOptions { path: None, cluster: cluster.map(str::to_owned), env: &env, host: host(), private_key_fault };
    load_text(Some(Path::new("/conf/config.yml")), text, &options)
}

pub(super) fn loaded(text: &str) -> Loaded {
    load_with(text, None).unwrap_or_else(|faults| panic!("{text}: {faults:#?}"))
}

pub(super) fn faults(text: &str) -> Vec<String> {
    match load_with(text, None) {
        Ok(loaded) => panic!("{text} loads: {:?}", loaded.warnings),
        Err(faults) => faults.iter().map(ToString::to_string).collect(),
    }
}

pub(super) fn warnings(text: &str) -> Vec<String> {
    loaded(text).warnings.iter().map(ToString::to_string).collect()
}

#[test]
fn nothing_at_all_is_one_host() {
    let config = loaded("").config;
    assert_eq!((config.cluster_id.as_str(), config.cloud.driver), ("local", CloudDriver::Loopback));
    assert_eq!(config.queue.driver, QueueDriver::Local);
    assert_eq!(config.state_dir, Path::new("/home/u/.local/state/muster"));
    assert_eq!(config.listen, ["127.0.0.1:9006"]);
    assert_eq!(config.cloud.boot_probe_command, "true");
    assert_eq!((config.containers.reserve_extra_ram, config.containers.local_keep_blob_buffers_per_vcpu), (0, 0));
    let this = &config.instance_types["localhost"];
    assert_eq!((this.vcpus, this.ram, this.scratch(), this.price), (4, 8 << 30, 100 << 30, 1.0));
    assert_eq!(config.cloud.max_concurrent_instance_create_ops, 10);
    let settings = config.settings("set");
    assert_eq!((settings.probe_interval, settings.runner_keeps_results), (Duration::from_secs(10), true));
}

/// Spec 60 §7, with the Arvados form's defaults.
#[test]
fn arvados_file() {
    let text = r#"
Clusters:
  zzzzz:
    SystemRootToken: 0123456789abcdef0123456789abcdef
    ManagementToken: fedcba9876543210fedcba9876543210
    Collections: {BlobSigningKey: 00112233445566778899aabbccddeeff}
    Services:
      Controller: {ExternalURL: "https://zzzzz.example/"}
      DispatchCloud: {InternalURLs: {"http://localhost:9006": {}}}
    PostgreSQL: {Connection: {host: localhost, user: arvados, password: secret, dbname: arvados}}
    Users: {Colour: blue}
    Containers:
      MaxDispatchAttempts: 10
      CloudVMs:
        Enable: yes
        Driver: ec2
        ImageID: ami-01234567890abcdef
        SSHPort: 2222
        DriverParameters: {Region: us-east-1, SubnetID: subnet-1, SecurityGroupIDs: [sg-1], AdminUsername: admin}
    InstanceTypes:
      small: {ProviderType: r6i.large, RAM: 16GiB, VCPUs: 2, AddedScratch: 120GB, Price: 0.126}
      gpu24:
        {ProviderType: g6.2xlarge, RAM: 32GiB, VCPUs: 8, IncludedScratch: 450GB, Price: 0.98,
         GPU: {Stack: cuda, DeviceCount: 1, VRAM: 24GiB, HardwareTarget: "8.9", DriverVersion: "12.4"}}
"#;
    let Loaded { config, warnings } = loaded(text);
    assert!(warnings.is_empty(), "{warnings:?}");
    assert_eq!((config.queue.driver, config.cloud.driver), (QueueDriver::Arvados, CloudDriver::Ec2));
    assert_eq!(config.cloud.ssh_port, "2222");
    assert_eq!(config.containers.reserve_extra_ram, 550 << 20);
    assert_eq!(config.cloud.boot_probe_command, "systemctl is-system-running");
    assert_eq!(config.cloud.driver_parameters.0["Region"], "us-east-1");
    assert_eq!(config.instance_types["gpu24"].gpu.vram, 24 << 30);
    let missing: Vec<_> = not_built_yet(&config).iter().map(ToString::to_string).collect();
    assert!(missing.len() == 1 && missing[0].contains("arvados"), "{missing:?}");
}

#[test]
fn instance_type_vectors() {
    let types = loaded(
        "Containers: {CloudVMs: {Driver: azure}, PreemptiblePriceFactor: 0.5}\n\
         InstanceTypes: {foo4: {IncludedScratch: 4GB}, foo8: {ProviderType: foo_8, AddedScratch: 8GB, RAM: \"12345M\", Price: 1.23}}",
    );
    let types = types.config.instance_types;
    assert_eq!((types["foo4"].provider_type.as_str(), types["foo4"].scratch()), ("foo4", 4_000_000_000));
    assert_eq!((types["foo8"].provider_type.as_str(), types["foo8"].scratch()), ("foo_8", 8_000_000_000));
    assert_eq!((types["foo8"].ram, types["foo4"].price), (12_345_000_000, 0.0));
    let spot = &types["foo8.preemptible"];
    assert!(spot.preemptible && (spot.price - 0.615).abs() < 1e-9 && spot.provider_type == "foo_8");
}

/// All faults in one run, each with its place and key.
#[test]
fn ten_faults_at_once() {
    let found = faults(
        "ClusterID: Local\n\
         Containers:\n\
        \x20 CloudVMs:\n\
        \x20   TimeoutIdle: soon\n\
        \x20   MaxInstances: -3\n\
        \x20   Driver: ecc2\n\
        \x20   ResourceTags: [a]\n\
        \x20   TimeoutIdle: 3s\n\
        Muster:\n\
        \x20 MaxWorkers: many\n\
        \x20 Log: {Level: loud}\n\
        \x20 Queue: {MaxLogBytes: 4BB}\n\
        InstanceTypes: {a: {RAM: -1GiB, VCPUs: 1.5}}\n\
        ManagementToken: a/b\n",
    );
    for part in [
        "/conf/config.yml:1:12: ClusterID: \"Local\"",
        "config.yml:4:18: Containers.CloudVMs.TimeoutIdle: invalid duration \"soon\"",
        "config.yml:5:19: Containers.CloudVMs.MaxInstances: -3 is negative",
        "config.yml:6:13: Containers.CloudVMs.Driver: unsupported cloud driver \"ecc2\": must be one of loopback, static, exec, ec2, azure (perhaps you meant ec2?)",
        "config.yml:7:19: Containers.CloudVMs.ResourceTags: must be a map, not a list",
        "config.yml:8:5: TimeoutIdle: given twice, first in line 4",
        "config.yml:10:15: Muster.MaxWorkers: \"many\" is not a whole number",
        "config.yml:11:16: Muster.Log.Level: unacceptable value \"loud\"",
        "config.yml:12:24: Muster.Queue.MaxLogBytes: \"4BB\" is not a size",
        "config.yml:13:26: InstanceTypes.a.RAM: ",
        "config.yml:13:40: InstanceTypes.a.VCPUs: \"1.5\" is not a whole number",
        "config.yml:14:18: ManagementToken: unacceptable characters",
    ] {
        assert!(found.iter().any(|fault| fault.contains(part)), "{part}\n{found:#?}");
    }
}

#[test]
fn single_faults_and_warnings() {
    for (text, part) in [
        ("InstanceTypes: [a]", "must be specified as a map, not an array"),
        ("InstanceTypes: {a: {}, b: {}}", "cannot use multiple InstanceTypes with loopback driver"),
        ("Clusters: {}", "does not define any clusters"),
        ("Clusters: {aaaaa: {}, bbbbb: {}}", "multiple clusters configured, cannot choose"),
        ("Clusters: {toolong: {}}", "should be 5 lowercase alphanumeric characters"),
        ("Containers: 3", "must be a map"),
        ("Services: [1]", "1:11: Services: must be a map, not a list"),
        ("Services: {Controller: 5}", "Services.Controller: must be a map"),
        ("Containers: {CloudVMs: {SupervisorFraction: 7}}", "from 0 to 1"),
        ("Containers: {DispatchPrivateKey: file:///dev/zero}", "must be the absolute path of a file"),
        (
            "Containers: {CloudVMs: {Driver: azure}}\nInstanceTypes: {a: {GPU: {DeviceCount: 1, DriverVersion: inf}}}",
            "expected format X.Y",
        ),
        ("- a", "must be a map, not a list"),
        ("Containers: {DispatchPrivateKey: file:///nonexistent/key}", "cannot read /nonexistent/key"),
        (
            "Containers: {DispatchPrivateKey: nonsense}",
            "/conf/config.yml:1:34: error parsing configured Containers.DispatchPrivateKey: it is bad",
        ),
        (
            "Clusters:\n  zzzzz:\n    Containers:\n      DispatchPrivateKey: |\n        nonsense\n",
            "config.yml:5:9: error parsing configured Containers.DispatchPrivateKey: it is bad",
        ),
        ("Containers: {DispatchPrivateKey: nonsense, CloudVMs: {MaxInstances: -1}}", "-1 is negative"),
        ("Services: {DispatchCloud: {InternalURLs: {\"https://h:1\": {}}}}", "https is not built yet"),
        ("Muster: {Queue: {MaxAttempts: 0}}", "must be at least 1"),
        ("Muster: {Runner: {Engine: rkt}}", "Muster.Runner.Engine"),
        (
            "Muster: {Runner: {Engine: podman, EngineArguments: [--privileged, --rm]}}",
            "\"--rm\" would keep the runner from",
        ),
        ("Muster: {Runner: {Engine: docker, EngineArguments: [--cidfile=/x]}}", "\"--cidfile=/x\" would keep"),
        (
            "Containers: {CloudVMs: {Driver: azure}}\nMuster: {Runner: {SelfDestructAfter: 299s}}",
            "power themselves off while in use: at least 300s",
        ),
        (
            "Containers: {CloudVMs: {Driver: azure, ProbeInterval: 2m}}\nMuster: {Runner: {SelfDestructAfter: 5m}}",
            "at least 360s",
        ),
        ("Muster: {Metrics: {Prefix: a-b}}", "no metric name"),
        ("Muster: {Queue: {MaxLogBytes: 17GiB}}", "Muster.Queue.MaxLogBytes: at most 16 GiB"),
        ("Containers: {CloudVMs: {Driver: azure}}\nInstanceTypes: {a: {RAM: 1.5}}", "fraction of a byte"),
        (
            "Containers: {CloudVMs: {Driver: azure}}\nInstanceTypes: {a: {GPU: {DeviceCount: 1, DriverVersion: x}}}",
            "expected format X.Y",
        ),
    ] {
        let found = faults(text);
        assert!(found.iter().any(|fault| fault.contains(part)), "{text}: {found:?}");
    }
    for (text, part) in [
        (
            "Containers: {CloudVMs: {TimeoutIdel: 1m}}",
            "1:25: Containers.CloudVMs.TimeoutIdel: deprecated or unknown config entry (perhaps you meant TimeoutIdle?)",
        ),
        ("Muster: {statedir: /x}", "perhaps you meant StateDir?"),
        ("Muster: {Runner: {EngineArguments: [--network=none]}}", "not used: Muster.Runner.Engine is process"),
        ("Containers: {CrunchRunArgumentsList: [--x]}", "Containers.CrunchRunArgumentsList: not used"),
        ("Containers: {RuntimeEngine: singularity}", "Containers.RuntimeEngine: not used"),
        ("InstanceTypes: {a: {VCPUs: 1, RAM: 1GiB, Scratch: 1GB}}", "unknown config entry"),
        ("SystemRootToken: short", "too short"),
        (
            "Clusters: {aaaaa: {Containers: {CloudVMs: {Driver: azure}}}}\nMuster: {StateDir: /x}",
            "2:1: Muster: ignored",
        ),
        ("Containers: {CloudVMs: {Driver: azure}}", "no instance types"),
    ] {
        let found = warnings(text);
        assert!(found.iter().any(|fault| fault.contains(part)), "{text}: {found:?}");
    }
    assert!(warnings("SomethingElse: {a: 1}\nAPI:\nMuster:\n").is_empty(), "others' keys and empty sections");
}

#[test]
fn nulls_are_not_set_and_ids_stay_as_they_are() {
    let config = loaded(
        "Containers: {CloudVMs: {Driver: azure, ResourceTags: {a: ~, b: c}, DriverParameters: {A: 0123, B: 5, C: inf, D: yes, E: 1.5, F: 123456789012345678901234567890}}}\n\
         InstanceTypes: {a: {VCPUs: 1, RAM: 1GiB, GPU: {VRAM: ~}}}",
    )
    .config;
    assert_eq!(config.cloud.resource_tags.len(), 1);
    let json = serde_json::to_string(&config.cloud.driver_parameters.0).expect("JSON");
    assert_eq!(json, r#"{"A":"0123","B":5,"C":"inf","D":true,"E":1.5,"F":"123456789012345678901234567890"}"#);
}

/// Also an empty file is not "none configured".
#[test]
fn keys_in_files() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("key");
    let text = format!("Containers: {{DispatchPrivateKey: \"file://{}\"}}", path.display());
    std::fs::write(&path, "good\n").expect("written");
    assert_eq!(loaded(&text).config.containers.dispatch_private_key.reveal(), "good\n");
    for content in ["", "other"] {
        std::fs::write(&path, content).expect("written");
        let found = faults(&text).concat();
        let part =
            format!("1:34: error parsing configured Containers.DispatchPrivateKey: {}: it is bad", path.display());
        assert!(found.contains(&part), "{found}");
    }
}

/// Spec 60 §5.3: the one type of the loopback driver is invented, or insisted on, only where it is enabled.
#[test]
fn loopback_that_is_not_enabled_keeps_its_types() {
    let config = loaded(
        "Containers: {CloudVMs: {Enable: false}}\nInstanceTypes: {a: {VCPUs: 1, RAM: 1}, b: {VCPUs: 1, RAM: 1}}",
    )
    .config;
    assert_eq!(config.instance_types.len(), 2);
    let dumped = dump(&loaded("Containers: {PreemptiblePriceFactor: 0.5}").config);
    assert_eq!(loaded(&dumped).config.instance_types.len(), 2, "a dump with variants loads again");
}

#[test]
fn clusters_are_chosen_by_name() {
    let text = "Clusters: {aaaaa: {}, bbbbb: {Containers: {CloudVMs: {Driver: loopback}}}}";
    let config = load_with(text, Some("bbbbb")).expect("there").config;
    assert_eq!((config.cluster_id.as_str(), config.cloud.driver), ("bbbbb", CloudDriver::Loopback));
    assert!(load_with(text, Some("ccccc")).is_err());
}

#[test]
fn zero_means_the_default_and_paths_begin_at_the_file() {
    let config = loaded(
        "Containers: {CloudVMs: {ProbeInterval: 0, PollInterval: 0s, BootProbeCommand: \"\", DeployRunnerBinary: bin/r}}\n\
         Muster: {StateDir: state, Log: {File: ../log/m.log}, Queue: {RetainFinished: 0}}",
    )
    .config;
    assert_eq!(
        (config.cloud.probe_interval, config.cloud.poll_interval),
        (Duration::from_secs(10), Duration::from_secs(10))
    );
    assert_eq!(config.cloud.boot_probe_command, "true");
    assert_eq!(config.state_dir, Path::new("/conf/state"));
    assert_eq!(config.cloud.deploy_runner_binary, DeployRunner::File("/conf/bin/r".into()));
    assert_eq!(config.queue.retain_finished, None);
}

#[test]
fn dump_loads_again_and_hides_secrets() {
    let text = format!(
        "ManagementToken: abcdefghijklmnopqrstuvwxyz0123456789\nMuster: {{StateDir: /s, Runner: {{Binaries: {{{}: /proc/self/exe}}}}}}\n\
        Containers: {{CloudVMs: {{ResourceTags: {{a: b}}, TimeoutIdle: 90s, DeployRunnerDirectory: /opt/m}}}}\n\
        InstanceTypes: {{big: {{VCPUs: 3, RAM: 1GiB, Price: 0.5, TimeoutIdle: never}}}}",
        std::env::consts::ARCH
    );
    let first = loaded(&text).config;
    let dumped = dump(&first);
    assert!(!dumped.contains("abcdefghij"), "{dumped}");
    let again = loaded(&dumped);
    let changed: Vec<_> = changes(&first, &again.config).into_iter().map(|change| change.key).collect();
    assert_eq!(changed, ["ManagementToken"], "{dumped}");
}

/// The installed file is the reference, and changes nothing.
#[test]
fn reference_file_is_up_to_date_and_empty() {
    let installed = include_str!("../../etc/config.yml");
    assert!(
        installed == reference(),
        "etc/config.yml differs from the code: write it anew with `muster generate config`"
    );
    let config = loaded(installed).config;
    assert_eq!(changes(&loaded("").config, &config), []);
    let uncommented: String =
        installed.lines().filter_map(|line| line.strip_prefix("# ")).map(|line| format!("{line}\n")).skip(3).collect();
    let env = |name: &str| (name == "HOME").then(|| "/home/u".to_owned());
    let options = LoadOptions { path: None, cluster: None, env: &env, host: host(), private_key_fault };
    let all = load_text(None, &uncommented, &options);
    assert!(all.is_ok(), "{all:?}\n{uncommented}");
}

/// The runner's files and its directory (spec 62 §3), each fault with its place.
#[test]
fn runner_files_and_directory() {
    let binaries = |entries: &str| format!("Muster:\n  Runner:\n    Binaries:\n{entries}");
    for (text, part) in [
        (
            binaries("      riscv64: /proc/self/exe\n"),
            "/conf/config.yml:4:16: Muster.Runner.Binaries.riscv64: /proc/self/exe: it is a program for ",
        ),
        (binaries("      a: /nonexistent/r\n"), ":4:10: Muster.Runner.Binaries.a: /nonexistent/r: cannot read it: "),
        (binaries("      a: /etc/passwd\n"), "Muster.Runner.Binaries.a: /etc/passwd: it is no program"),
        (binaries("      a: /dev/zero\n"), "it is not a file"),
        (binaries("      a: /\n"), "it is not a file"),
    ] {
        let found = faults(&text);
        assert!(found.len() == 1 && found[0].contains(part), "{text}: {found:?}");
    }
    for directory in ["bin", "~/bin", "/a b", "/a/../b", "/x'$(touch y)'", "/é", "/"] {
        let found = faults(&format!("Containers: {{CloudVMs: {{DeployRunnerDirectory: \"{directory}\"}}}}"));
        let part = "/conf/config.yml:1:48: Containers.CloudVMs.DeployRunnerDirectory: ";
        assert!(found.len() == 1 && found[0].starts_with(part) && found[0].contains("absolute path"), "{found:?}");
    }
    let both = format!(
        "Containers: {{CloudVMs: {{DeployRunnerBinary: /r, DeployRunnerDirectory: /opt/m}}}}\n{}",
        binaries(&format!("      {}: /proc/self/exe\n", std::env::consts::ARCH))
    );
    assert!(warnings(&both)[0].contains("Muster.Runner.Binaries: not used"), "{:?}", warnings(&both));
    assert_eq!(loaded(&both).config.cloud.deploy_runner_directory.as_deref(), Some("/opt/m"));
}

/// Every live key is taken over by a reload, and no other.
#[test]
fn reload_takes_over_exactly_the_live_keys() {
    let old = loaded("").config;
    // Refused with the loopback driver.
    for info in keys::KEYS.iter().filter(|info| info.path != "Muster.Runner.SelfDestructAfter") {
        let value = match info.kind {
            keys::Kind::Count => "7",
            keys::Kind::Number => "0.25",
            keys::Kind::Size => "7KiB",
            keys::Kind::Duration | keys::Kind::PositiveDuration => "77s",
            _ => continue,
        };
        let nested = info.path.split('.').rev().fold(value.to_owned(), |inner, name| format!("{{{name}: {inner}}}"));
        let new = loaded(&nested).config;
        let changed = changes(&old, &new);
        if info.path == "Containers.PreemptiblePriceFactor" {
            assert!(
                changed.iter().all(|change| change.key.starts_with("InstanceTypes.") && change.live),
                "{changed:?}"
            );
            continue;
        }
        let expected = [(info.path, info.live)];
        assert_eq!(changed.iter().map(|change| (change.key.as_str(), change.live)).collect::<Vec<_>>(), expected);
        let running = Config::with_live_part(&old, &new);
        assert_eq!(changes(&running, &new).is_empty(), info.live, "{}", info.path);
    }
}

proptest::proptest! {
    #[test]
    fn no_text_makes_the_loader_panic(text in "(Containers|Muster|InstanceTypes|Clusters|[a-z{}\\[\\]:,&*<! \n\"'-]|\\PC){0,60}") {
        let _ = load_with(&text, None);
    }
}

/// Of an unknown driver nothing else is said, and what is no error says so.
#[test]
fn warnings_among_errors() {
    let found = faults("Clusters: {aaaaa: {Containers: {CloudVMs: {Driver: awz}}}}");
    let (errors, warnings) = found.split_at(1);
    assert!(errors[0].contains("unsupported cloud driver \"awz\""), "{found:#?}");
    assert!(
        !warnings.is_empty() && warnings.iter().all(|one| one.starts_with("warning: /conf/config.yml:")),
        "{found:#?}"
    );
}
