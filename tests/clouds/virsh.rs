//! The example program for libvirt, with a stand-in for `virsh` that checks every call: there is no libvirt where tests run.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use muster::cloud::boot::Boot;
use muster::cloud::exec::ExecCloud;
use muster::cloud::{CloudError, InstanceSet};
use muster::core::effect::{Ending, Tags};
use muster::core::errors::chain;
use muster::core::ids::InstanceId;
use muster::core::pool::limits::CapacityScope;
use muster_ssh_hosts::{ClientKey, client_key};
use serde_json::{Value, json};

use crate::contract;
use crate::rig::{Reach, Rig};
use crate::rigs::{example, exec_driver};
use crate::support::{SET, install, instance_type, log, new_secret, order, wait_until};

const ISO: &str = r#"#!/bin/sh
# Stands in for genisoimage: the "image" is what is to be in it.
[ "$*" = "-quiet -output $3 -volid cidata -joliet -rock user-data meta-data" ] || exit 1
echo "I: writing" >&2
cat user-data >"$3"
"#;

/// A libvirt that is a folder.
struct Libvirt {
    folder: tempfile::TempDir,
    key: ClientKey,
}

impl Libvirt {
    fn new() -> Self {
        log();
        let folder = tempfile::tempdir().expect("a folder");
        for part in ["domains", "volumes", "running", "temporary"] {
            std::fs::create_dir(folder.path().join(part)).expect("made");
        }
        std::fs::write(folder.path().join("volumes/base.qcow2"), "base").expect("written");
        let here = folder.path().to_string_lossy().into_owned();
        install(&include_str!("virsh_stand_in.py").replace("@HERE@", &here), &folder.path().join("virsh"));
        install(ISO, &folder.path().join("iso"));
        Self { folder, key: client_key().expect("made") }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn parameters(&self) -> Value {
        json!({"connect": "test:///stand-in", "pool": "vms", "max": 3,
            "virsh": self.path("virsh"), "iso_program": self.path("iso"), "temporary": self.path("temporary"),
            "lock": self.path("lock")})
    }

    fn driver(&self) -> ExecCloud {
        exec_driver(&example("virsh"), &self.parameters(), &self.key)
    }
}

fn boot() -> Boot {
    Boot {
        image_id: "base.qcow2".to_owned(),
        init_command: "echo \"<a> & 'b'\" \u{fc}\u{85}\u{2028}\u{1f980}\n".to_owned(),
        public_key: Some("ssh-ed25519 AAAA muster".to_owned()),
        ..Boot::default()
    }
}

/// Domains and volumes that are not the base.
fn left(folder: &Path) -> Vec<String> {
    let names = ["domains", "volumes", "running"].into_iter().flat_map(|part| {
        let entries = std::fs::read_dir(folder.join(part)).expect("there");
        entries.map(move |entry| format!("{part}/{}", entry.expect("readable").file_name().to_string_lossy()))
    });
    names.filter(|name| name != "volumes/base.qcow2").collect()
}

/// Nothing was called that the stand-in does not know, and no secret was on a command line.
fn calls_were_good(libvirt: &Libvirt) {
    let read = |name: &str| std::fs::read_to_string(libvirt.path(name)).unwrap_or_default();
    assert_eq!(read("complaints"), "");
    assert!(!read("calls").is_empty() && !read("calls").contains("5ec2e7"));
}

#[test]
fn the_contract() {
    let libvirt = Arc::new(Libvirt::new());
    let (of_open, folder) = (libvirt.clone(), libvirt.folder.path().to_path_buf());
    contract::check(&Rig {
        name: "exec with virsh",
        open: Box::new(move || Arc::new(of_open.driver())),
        shared: true,
        instance_type: instance_type("small"),
        boot: boot(),
        full: Some((3, |error| matches!(error, CloudError::Quota { .. }))),
        reach: Reach::Nothing,
        prices: true,
        unknown_id: "muster-0123456789abcdef",
        faulty: false,
        leftovers: Box::new(move || left(&folder)),
        errors: Default::default(),
    });
    calls_were_good(&libvirt);
}

/// What the machine's cloud-init gets.
#[test]
fn the_seed() {
    let libvirt = Libvirt::new();
    let driver = libvirt.driver();
    let new = order(&boot(), &instance_type("small"), &new_secret());
    let made = driver.create(&new).expect("made");
    let seed = std::fs::read_to_string(libvirt.path(&format!("volumes/{}-seed.iso", made.id))).expect("made");
    // Parsers of YAML take a pair of escapes for two letters, each of them wrong.
    assert!(seed.contains('\u{1f980}') && seed.contains("\\u2028") && !seed.contains("\\ud8"), "{seed}");
    let seed: Value = serde_json::from_str(seed.strip_prefix("#cloud-config\n").expect("its mark")).expect("JSON");
    assert_eq!(seed["runcmd"], json!([new.init_command]));
    assert_eq!(seed["users"], json!([{"name": "root", "ssh_authorized_keys": ["ssh-ed25519 AAAA muster"]}]));
    let private = seed["ssh_keys"]["ed25519_private"].as_str().expect("a text");
    let key = muster::remote::ssh::key::PrivateKey::parse(private).expect("a key");
    let public = seed["ssh_keys"]["ed25519_public"].as_str().expect("a text");
    assert!(key.public_openssh().starts_with(public), "{public}");
    assert_eq!(made.address, "192.0.2.7");
    calls_were_good(&libvirt);
}

#[test]
fn a_start_that_fails_leaves_nothing() {
    let libvirt = Libvirt::new();
    let driver = libvirt.driver();
    for (said, is_capacity) in [
        ("internal error: qemu: cannot set up guest memory 'pc.ram': Cannot allocate memory", true),
        ("Network not found: no network with matching name 'default'", false),
    ] {
        std::fs::write(libvirt.path("start-says"), said).expect("written");
        let error = driver.create(&order(&boot(), &instance_type("small"), &new_secret())).expect_err("no start");
        assert!(chain(&error).contains(said), "{error:?}");
        let capacity = matches!(error, CloudError::Capacity { scope: CapacityScope::Everything, .. });
        assert_eq!(capacity, is_capacity, "{error:?}");
        assert_eq!(left(libvirt.folder.path()), [""; 0]);
    }
    calls_were_good(&libvirt);
}

/// Wherever a create or a destroy is killed, the instance is listed with its tags, and a destroy leaves nothing.
#[test]
fn killed_at_every_step() {
    let libvirt = Libvirt::new();
    let driver = libvirt.driver();
    let kill_at = |command: &str| std::fs::write(libvirt.path("kill-at"), command).expect("written");
    let listed = || driver.list(&Tags::new()).expect("a list");
    let destroy = |id: &InstanceId| driver.destroy(id, None, Ending::Unwanted);
    for command in ["define", "vol-info", "dumpxml", "vol-create-as", "vol-path", "vol-upload", "start"] {
        let is_made = command != "define";
        kill_at(command);
        let new = order(&boot(), &instance_type("small"), &new_secret());
        driver.create(&new).expect_err("killed");
        let all = listed();
        assert_eq!(all.len(), usize::from(is_made), "{command}");
        for one in all {
            assert_eq!(one.tags, new.tags, "{command}");
            destroy(&one.id).expect("destroyed");
        }
        assert_eq!(left(libvirt.folder.path()), [""; 0], "{command}");
    }
    for command in ["dumpxml", "destroy", "vol-delete", "undefine"] {
        let made = driver.create(&order(&boot(), &instance_type("small"), &new_secret())).expect("made");
        kill_at(command);
        destroy(&made.id).expect_err("killed");
        assert_eq!(listed().len(), 1, "{command}");
        destroy(&made.id).expect("destroyed");
        assert_eq!(left(libvirt.folder.path()), [""; 0], "{command}");
    }
    calls_were_good(&libvirt);
}

/// Whatever fails: also the programs beside virsh.
#[test]
fn a_create_that_fails_leaves_nothing() {
    let libvirt = Libvirt::new();
    let driver = libvirt.driver();
    let fails = |part: &str, boot: &Boot| {
        let error = driver.create(&order(boot, &instance_type("small"), &new_secret())).expect_err("it fails");
        assert!(chain(&error).contains(part), "{error:?}");
        assert_eq!(left(libvirt.folder.path()), [""; 0]);
    };
    fails("ImageID is not configured", &Boot { image_id: String::new(), ..boot() });
    fails("no storage vol with matching name 'other'", &Boot { image_id: "other".to_owned(), ..boot() });
    install("#!/bin/sh\necho 'no cdrom' >&2; exit 3\n", &libvirt.path("iso"));
    fails("iso: no cdrom", &boot());
    std::fs::remove_file(libvirt.path("iso")).expect("removed");
    fails("No such file or directory", &boot());
    calls_were_good(&libvirt);
}

/// Who destroys a machine that is being made gets all of it, wherever the create is.
#[test]
fn destroyed_while_it_is_made() {
    for command in ["vol-info", "vol-create-as", "vol-path", "vol-upload", "start"] {
        let libvirt = Libvirt::new();
        let driver = libvirt.driver();
        std::fs::write(libvirt.path("pause-at"), command).expect("written");
        std::thread::scope(|scope| {
            let create = scope.spawn(|| driver.create(&order(&boot(), &instance_type("small"), &new_secret())));
            wait_until("the create is there", || libvirt.path("paused").exists());
            let id = driver.list(&Tags::new()).expect("a list")[0].id.clone();
            let driver = &driver;
            let destroy = scope.spawn(move || driver.destroy(&id, None, Ending::Unwanted));
            // While volumes are made, a destroy waits.
            if !["vol-create-as", "vol-path"].contains(&command) {
                wait_until("it is destroyed", || destroy.is_finished());
            }
            std::fs::write(libvirt.path("go"), "").expect("written");
            destroy.join().expect("no panic").expect("destroyed");
            // It may have come to its end just before.
            let _ = create.join().expect("no panic");
        });
        assert_eq!(left(libvirt.folder.path()), [""; 0], "{command}");
        calls_were_good(&libvirt);
    }
}

/// Volumes of a machine that is gone go with a late repeat.
#[test]
fn a_destroy_of_what_is_gone() {
    let libvirt = Libvirt::new();
    std::fs::write(libvirt.path("volumes/muster-00112233445566aa-seed.iso"), "secrets").expect("written");
    libvirt.driver().destroy(&InstanceId::new("muster-00112233445566aa"), None, Ending::Unwanted).expect("destroyed");
    assert_eq!(left(libvirt.folder.path()), [""; 0]);
    calls_were_good(&libvirt);
}

/// Those that come at the same time count each other's machines.
#[test]
fn creates_at_once_keep_to_the_limit() {
    let libvirt = Libvirt::new();
    let driver = libvirt.driver();
    let results: Vec<_> = std::thread::scope(|scope| {
        let create = || driver.create(&order(&boot(), &instance_type("small"), &new_secret()));
        let calls: Vec<_> = (0..5).map(|_| scope.spawn(create)).collect();
        calls.into_iter().map(|call| call.join().expect("no panic")).collect()
    });
    let refused = results.iter().filter(|one| matches!(one, Err(CloudError::Quota { .. }))).count();
    assert_eq!((results.iter().flatten().count(), refused), (3, 2), "{results:?}");
    calls_were_good(&libvirt);
}

/// The daemon is gone, and nobody reads what the program says: the machine is made all the same.
#[test]
fn made_though_nobody_listens() {
    let libvirt = Libvirt::new();
    let input = json!({"instance_set_id": SET, "image_id": "base.qcow2", "tags": {"a": "b"}, "init_command": "",
        "instance_type": {"ProviderType": "t", "Price": 0.5, "RAM": 1 << 30, "VCPUs": 1, "Scratch": 0}, "public_key": null,
        "parameters": libvirt.parameters()});
    crate::support::run_unheard(&example("virsh"), "create", &input);
    let all = libvirt.driver().list(&Tags::new()).expect("a list");
    assert_eq!((all.len(), all[0].address.as_str()), (1, "192.0.2.7"));
    assert!(libvirt.path(&format!("running/{}", all[0].id)).exists());
    calls_were_good(&libvirt);
}

/// A list that leaves one out would say that it is gone.
#[test]
fn a_damaged_machine_is_named() {
    let libvirt = Libvirt::new();
    let driver = libvirt.driver();
    let name = "muster-00112233445566aa";
    for ours in ["", "{", "[]", "null", "{\"set\": \"x\"}"] {
        let description = format!(
            "<domain><name>{name}</name><metadata><m:instance xmlns:m=\"urn:muster:exec-cloud:1\">{ours}</m:instance></metadata></domain>"
        );
        std::fs::write(libvirt.path(&format!("domains/{name}")), description).expect("written");
        let error = driver.list(&Tags::new()).expect_err("it may be ours");
        assert!(chain(&error).contains(&format!("the metadata of the domain {name} are damaged")), "{error:?}");
    }
    driver.destroy(&InstanceId::new(name), None, Ending::Unwanted).expect("destroyed");
    assert_eq!(left(libvirt.folder.path()), [""; 0]);
    calls_were_good(&libvirt);
}

/// Machines of others: of people, and of another dispatcher.
#[test]
fn others_are_left_alone() {
    let libvirt = Libvirt::new();
    let driver = libvirt.driver();
    for name in ["database", "muster-00112233445566aa"] {
        std::fs::write(libvirt.path(&format!("domains/{name}")), format!("<domain><name>{name}</name></domain>"))
            .expect("written");
        assert!(driver.list(&Tags::new()).expect("a list").is_empty());
        driver.destroy(&InstanceId::new(name), None, Ending::Unwanted).expect("nothing to do");
        let error = driver.set_tags(&InstanceId::new(name), &Tags::new()).expect_err("not ours");
        assert!(chain(&error).contains("no such instance"), "{error:?}");
        assert!(libvirt.path(&format!("domains/{name}")).exists());
    }
    calls_were_good(&libvirt);
}
