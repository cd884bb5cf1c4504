//! Hosts with a network of their own: reached from it only, and links that break, lose packets and heal.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Stdio;

use muster_ssh_hosts::{HostOptions, Network, Server};

use crate::support::{key, output_with, says, started, text, wait_until};

const BRIEF: [&str; 2] = ["-o", "ConnectTimeout=2"];

fn network_of(pid: u32) -> u64 {
    std::fs::metadata(format!("/proc/{pid}/ns/net")).expect("it runs").ino()
}

/// Each host is alone with its link; the machine's own network has nothing of it.
#[test]
fn each_has_its_own() {
    let (key, network) = (key(), Network::start().expect("a network"));
    let options = HostOptions::new(key.public()).network(&network);
    let (one, two) = (started(&options), started(&options.clone().server(Server::Dropbear)));
    assert_eq!((one.address(), two.address()), ("10.77.1.2:2222".to_owned(), "10.77.2.2:2222".to_owned()));
    for host in [&one, &two] {
        assert_eq!(says(host, &key, "echo in"), "in");
        host.restart().expect("starts");
        assert_eq!(says(host, &key, "uname -n"), host.name());
    }
    let user = text(&network.command("id").arg("-u").output().expect("runs").stdout);
    assert_eq!(user.trim(), rustix::process::geteuid().as_raw().to_string());
    let here = text(&network.command("readlink").arg("/proc/self/ns/net").output().expect("runs").stdout);
    let ids = [network_of(one.pid()), network_of(two.pid()), network_of(std::process::id())];
    assert!(ids[0] != ids[1] && !ids[..2].contains(&ids[2]), "{ids:?}");
    assert!(ids.iter().all(|id| !here.contains(&id.to_string())), "{here} {ids:?}");
    let devices = std::fs::read_to_string("/proc/net/dev").expect("readable");
    assert!(!devices.contains("host1") && !devices.contains("eth0@"), "{devices}");
}

/// A pulled cable and a black hole: nobody gets through, and everybody does when it is over; the counters say what was.
#[test]
fn links_break_and_heal() {
    let (key, network) = (key(), Network::start().expect("a network"));
    let host = started(&HostOptions::new(key.public()).network(&network));
    let link = host.link().expect("one");
    let before = link.carrier_changes().expect("counted");
    link.down().expect("down");
    assert!(!output_with(&host, &key, &BRIEF, "true").status.success());
    link.up().expect("up");
    assert_eq!(says(&host, &key, "echo up"), "up");
    assert_eq!(link.carrier_changes().expect("counted"), before + 2);

    link.lose(100).expect("lost");
    assert!(!output_with(&host, &key, &BRIEF, "true").status.success());
    let (there, _) = link.heal().expect("healed");
    assert!(there > 0 && network.retransmitted().expect("counted") > 0, "{there}");
    assert_eq!(link.lost().expect("counted"), (0, 0));
    assert_eq!(says(&host, &key, "echo healed"), "healed");

    // Until it was seen in both directions: of how much at a time is a matter of luck, and so is how long TCP then pauses.
    link.lose(15).expect("lost");
    let bytes = 20_000;
    loop {
        let got = says(&host, &key, &format!("head -c {bytes} /dev/zero | tr '\\0' x"));
        assert_eq!(got.len(), bytes);
        let (there, back) = link.lost().expect("counted");
        if there > 0 && back > 0 {
            break;
        }
    }
    link.heal().expect("healed");
}

/// What runs in it ends with it, and so do its interfaces: there is nothing that could be left.
#[test]
fn nothing_is_left_of_a_network() {
    let (key, folder) = (key(), tempfile::tempdir_in("/var/tmp").expect("a folder"));
    let network = Network::with_small_disk(folder.path(), 1).expect("a network");
    let host = started(&HostOptions::new(key.public()).network(&network));
    let mark = folder.path().join("mark");
    let script = format!("touch '{}'; echo in; exec sleep 1000", mark.display());
    let mut child = network.command("sh").args(["-c", &script]).stdout(Stdio::piped()).spawn().expect("starts");
    let mut line = String::new();
    let output = child.stdout.take().expect("piped");
    std::io::BufRead::read_line(&mut std::io::BufReader::new(output), &mut line).expect("text");
    let inside = format!("/proc/{}/root{}", child.id(), mark.display());
    assert!(Path::new(&inside).exists() && !mark.exists(), "the disk is the network's");
    assert_ne!(network_of(child.id()), network_of(std::process::id()));
    drop(host);
    drop(network);
    wait_until("it has ended", || child.try_wait().expect("a child").is_some());
}

/// A small disk is full, and has room again.
#[test]
fn disks_that_fill_up() {
    let key = key();
    let host = started(&HostOptions::new(key.public()).small_disk(2).private_tmp());
    let place = if host.user() == "root" { "/var/lib".to_owned() } else { format!("{}/.local", host.home()) };
    let fallocate = format!("head -c 4096 /dev/zero >{place}/file 2>/dev/null && echo room || echo full");
    assert_eq!(says(&host, &key, &fallocate), "room");
    assert_eq!(std::fs::metadata(host.path(&format!("{place}/file"))).expect("there").len(), 4096);
    says(&host, &key, &format!("rm {place}/file"));
    host.fill_disk().expect("filled");
    assert_eq!(says(&host, &key, &fallocate), "full");
    host.empty_disk().expect("emptied");
    assert_eq!(says(&host, &key, &fallocate), "room");
}
