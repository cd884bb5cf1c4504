//! What a job cannot touch where the daemon is root: the runner's files and the daemon's, other containers', processes and locks
//! (spec 52 §2). It is another user there.

use rustix::process::geteuid;
use serde_json::Value;

use crate::harness::Site;
use crate::instances::http;

/// Tries all that it should not be able to do; each success is a line. Files and directories come on standard input, processes as
/// arguments; the first of both are to be had, so that a script that finds nothing would be noticed.
const INTRUDER: &str = r#"
say() { printf '%s\n' "$*"; }
# A shell ends where a redirection of its own cannot be made.
try() { (eval "$1") 2>/dev/null && say "$2"; }
while read -r file; do
    [ -e "$file" ] && say "seen $file"
    try 'exec < "$file"' "read $file"
    try 'exec >> "$file"' "written $file"
    try 'cd "$file" && ls . >/dev/null' "listed $file"
    try 'mkdir "$file/made" && rmdir "$file/made"' "made in $file"
    try 'mv "$file" "$file.moved" && mv "$file.moved" "$file"' "moved $file"
    try 'ln "$file" "link.$$" && rm "link.$$"' "linked $file"
    try 'chmod 777 "$file"' "opened $file"
    try 'flock -n "$file" true' "locked $file"
done
for process; do
    try 'kill -0 "$process"' "signalled $process"
    # (CONT may be sent within a session, whosever the processes are; to one that is not stopped it is nothing.)
    try 'kill -WINCH "$process"' "signalled $process with WINCH"
    for entry in environ mem fd/0 cwd/. root/. exe; do
        try 'exec < "/proc/$process/$entry"' "read $entry of $process"
    done
    try 'exec >> "/proc/$process/mem"' "written mem of $process"
    try 'ls "/proc/$process/fd/" >/dev/null' "listed fd of $process"
done
for process; do
    shift
    [ "$#" -gt 0 ] && try 'kill -KILL "$1"' "killed $1"
done
for descriptor in /proc/$$/fd/*; do
    case $(readlink "$descriptor") in *crunch-run-*) try 'exec >> "$descriptor"' "written a lock" ;; esac
done
ask='$_ = shift; my $s = /^\// ? IO::Socket::UNIX->new($_) : IO::Socket::INET->new($_); exit 1 unless $s;
    print $s "GET /muster/v1/containers HTTP/1.0\r\n\r\n"; my $line = <$s>; exit($line =~ m{^HTTP/1.[01] 2} ? 0 : 1)'
perl -MIO::Socket -MIO::Socket::UNIX -e 1 && say 'able to ask /control'
for api in "$SOCKET" "$ADDRESS"; do
    perl -MIO::Socket -MIO::Socket::UNIX -e "$ask" "$api" 2>/dev/null && say "asked $api"
done
say end
"#;

/// A site whose jobs run as this user.
fn site_for(user: &str) -> Site {
    let site = Site::new();
    let text = std::fs::read_to_string(site.config()).expect("there");
    let text = text.replacen("  Log:", &format!("  Runner: {{User: {user:?}}}\n  Log:"), 1);
    std::fs::write(site.config(), text).expect("written");
    site
}

/// All files and directories of a tree, itself first.
fn tree(path: &std::path::Path, found: &mut Vec<String>) {
    found.push(path.to_string_lossy().into_owned());
    if path.is_dir() && !path.is_symlink() {
        let entries = match std::fs::read_dir(path) {
            // The daemon tidies up meanwhile.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
            entries => entries.expect("root may"),
        };
        let mut entries: Vec<_> = entries.flatten().map(|one| one.path()).collect();
        entries.sort();
        entries.iter().for_each(|entry| tree(entry, found));
    }
}

/// The runner of a container, by its lock file.
fn runner_of(site: &Site, uuid: &str) -> String {
    let lock = site.state_dir().join(format!("loopback/lock/crunch-run-{uuid}.lock"));
    let holder: Value = serde_json::from_slice(&std::fs::read(lock).expect("it runs")).expect("JSON");
    holder["PID"].to_string()
}

fn intrude(user: &str, uid: &str) {
    let mut site = site_for(user);
    site.start();
    let done = site.submit(&["--output", "out", "--", "sh", "-c", "echo precious; echo precious > out"]);
    site.ok(&["wait", &done]);
    let gate = site.folder().join("runs/gate");
    let script = format!("echo precious; while [ ! -e {} ]; do sleep 0.05; done", gate.display());
    let victim = site.submit(&["--", "sh", "-c", &script]);
    site.wait_state(&victim, "Running");

    // What the intruder's own attempt will have is in the same places.
    let own_gate = site.folder().join("runs/own-gate");
    let control = site.folder().join("runs/control");
    std::fs::create_dir(&control).expect("made");
    std::fs::set_permissions(&control, std::os::unix::fs::PermissionsExt::from_mode(0o777)).expect("set");
    let control_file = site.folder().join("runs/controls/control");
    std::fs::create_dir(control_file.with_file_name("")).expect("made");
    std::fs::write(&control_file, b"").expect("written");
    for (path, mode) in [(control_file.with_file_name(""), 0o777), (control_file.clone(), 0o666)] {
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).expect("set");
    }
    let list = site.folder().join("runs/list");
    let (daemon, runner) = (site.pid().as_raw_nonzero().to_string(), runner_of(&site, &victim));
    // Its own process comes first, then its runner, the victim's, and the daemon.
    let script = format!(
        "id -u; while [ ! -e {} ]; do sleep 0.05; done; sleep 1000 & own=$!; sh \"$0\" \"$own\" \"$PPID\" {runner} {daemon} < {}",
        own_gate.display(),
        list.display()
    );
    let intruder_file = site.folder().join("runs/intruder");
    std::fs::write(&intruder_file, INTRUDER).expect("written");
    let environment = [
        format!("SOCKET={}", site.state_dir().join("muster.sock").display()),
        format!("ADDRESS={}", http::address(&site)),
    ];
    let options = ["--env", &environment[0], "--env", &environment[1], "--max-attempts", "1"];
    let intruder_file = intruder_file.to_string_lossy().into_owned();
    let intruder = site.submit(&[&options[..], &["--", "sh", "-c", &script, &intruder_file]].concat());
    site.wait_state(&intruder, "Running");

    let runners = site.folder().join("state-runner");
    let tidied = |site: &mut Site| {
        let mut files = Vec::new();
        tree(&runners, &mut files);
        let of_done = files.iter().any(|file| file.contains(&format!("{done}/1")));
        !of_done && [&victim, &intruder].iter().all(|uuid| !site.ok(&["logs", uuid]).is_empty())
    };
    site.wait_until("both have begun, and nothing is left of the first on the worker", tidied);
    let mut files = [&control, &control_file].map(|path| path.to_string_lossy().into_owned()).to_vec();
    tree(&site.state_dir(), &mut files);
    tree(&runners, &mut files);
    for part in ["management-token", "queue.db", "muster.sock", "crunch-run-all.lock", "muster-runner~", "outputs/out"]
    {
        assert!(files.iter().any(|file| file.contains(part)), "{part}: {files:#?}");
    }
    assert!(files.iter().filter(|file| file.ends_with("/1/stdout")).count() >= 3, "of all three: {files:#?}");
    // What it is given: its own directories.
    let is_its_own = |file: &String| ["/work", "/tmp"].iter().any(|part| file.contains(&format!("{intruder}/1{part}")));
    // Jobs of one user are not kept from each other's, which the documentation says.
    let is_of_its_user =
        |file: &String| ["/work", "/tmp"].iter().any(|part| file.contains(&format!("{victim}/1{part}")));
    files.retain(|file| !is_its_own(file) && !is_of_its_user(file));
    files.push(format!("{}/new", runners.display()));
    files.push(site.log_file().to_string_lossy().into_owned());
    std::fs::write(&list, files.join("\n") + "\n").expect("written");
    std::fs::write(&own_gate, b"").expect("written");
    site.ok(&["wait", &intruder]);

    let said = site.ok(&["logs", &intruder]);
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!((lines[0], lines.last()), (uid, Some(&"end")), "{said}");
    let (own, others): (Vec<&str>, Vec<&str>) =
        lines[1..lines.len() - 1].iter().partition(|line| line.ends_with("/control"));
    for word in ["seen", "read", "listed", "made in", "locked", "written", "moved", "linked", "able to ask"] {
        assert!(own.iter().any(|line| line.starts_with(word)), "{word}: {said}");
    }
    // That something is there may be seen outside of StateDir: everybody may pass through the runner's directories, or no job could use
    // its own.
    let below = format!("{}/", site.state_dir().display());
    let is_seen = |line: &&&str| line.starts_with("seen ") && !line.contains(&below);
    let others = others.iter().filter(|line| !is_seen(line)).copied();
    let (files, processes): (Vec<&str>, Vec<&str>) =
        others.partition(|line| line.contains('/') && !line.contains(" of "));
    assert_eq!(files, Vec::<&str>::new());
    // What could be done to its own process, and to no other.
    let own_process = processes.first().and_then(|line| line.strip_prefix("signalled ")).expect("its own").to_owned();
    assert!(processes.contains(&format!("read environ of {own_process}").as_str()), "{said}");
    for line in &processes {
        assert!(line.split(' ').any(|word| word == own_process), "{line}: {said}");
    }

    // Nobody was disturbed.
    assert!(!site.is_dead());
    assert_eq!(site.state(&victim), "Running");
    std::fs::write(&gate, b"").expect("written");
    site.ok(&["wait", &victim]);
    assert_eq!(site.ok(&["logs", &victim]), "precious\n");
    let detail = site.show(&intruder);
    assert_eq!(
        (&detail["container"]["state"], &detail["container"]["exit_code"]),
        (&"Complete".into(), &0.into()),
        "{detail:#}"
    );
    site.stop();
}

#[test]
fn a_job_as_nobody_touches_nothing() {
    if geteuid().is_root() {
        intrude("", "65534");
    }
}

#[test]
fn a_job_as_a_user_of_the_configuration_touches_nothing() {
    if geteuid().is_root() {
        intrude("64123", "64123");
    }
}

/// Without root there is nothing between a job and its runner: that is said once for each worker.
#[test]
fn without_root_it_is_said_that_nothing_is_isolated() {
    let mut site = Site::new();
    site.start();
    let uuid = site.submit(&["--", "true"]);
    site.ok(&["wait", &uuid]);
    let said = site.log().matches("jobs run as its own user and are not isolated from it").count();
    assert_eq!(said, usize::from(!geteuid().is_root()), "{}", site.log());
    site.stop();
}
