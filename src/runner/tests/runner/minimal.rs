//! The program as workers get it: no library. It starts where there is next to nothing.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Instant, SystemTime};

use muster_runner::protocol::{ContainerSpec, Facts, Reason, ResultRecord, StartConfig};
use rustix::process::geteuid;

use crate::common::{PATIENCE, message, parse_list, script, uuid};

const HOW: &str = "run `make static` (`make test` does it first)";

/// The static build for this machine, which `cargo test` alone does not make.
fn static_runner() -> PathBuf {
    // …/target/PROFILE/muster-runner, or …/target/TRIPLE/PROFILE/muster-runner.
    let this = Path::new(env!("CARGO_BIN_EXE_muster-runner"));
    let profile = this.parent().unwrap();
    let above: Vec<&Path> = profile.parent().into_iter().flat_map(|dir| [Some(dir), dir.parent()]).flatten().collect();
    let architecture = format!("{}-", std::env::consts::ARCH);
    let folders = above.iter().filter_map(|dir| fs::read_dir(dir).ok()).flatten().flatten();
    let of_this = folders.filter(|folder| folder.file_name().to_string_lossy().starts_with(&architecture));
    let programs = of_this.map(|folder| folder.path().join(profile.file_name().unwrap()).join("muster-runner"));
    let changed = |path: &PathBuf| fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    let newest = programs.filter(|path| path.is_file()).max_by_key(changed);
    let newest = newest.unwrap_or_else(|| panic!("there is no static build of muster-runner: {HOW}"));
    // Cargo's own list of what it was built from, beside it: `PROGRAM: SOURCE SOURCE …`, spaces in names with a backslash.
    let list = fs::read_to_string(newest.with_extension("d")).unwrap_or_default();
    let (_, sources) = list.split_once(": ").unwrap_or_default();
    let sources = sources.replace("\\ ", "\0");
    let sources = sources.split_whitespace().map(|path| PathBuf::from(path.replace('\0', " ")));
    // One that has gone is a change, too.
    let last_change = sources.map(|path| changed(&path).unwrap_or_else(SystemTime::now)).max();
    let built = changed(&newest).unwrap_or(SystemTime::UNIX_EPOCH);
    assert!(
        last_change.is_some_and(|change| change < built),
        "the static build of muster-runner is older than its sources: {HOW}"
    );
    newest
}

/// Little-endian or big, 32 bits or 64: the numbers of an ELF file.
struct Elf(Vec<u8>);

impl Elf {
    fn is_64(&self) -> bool {
        self.0[4] == 2
    }

    fn number(&self, at: usize, length: usize) -> usize {
        let bytes = &self.0[at..at + length];
        let add = |sum: usize, byte: &u8| sum << 8 | usize::from(*byte);
        if self.0[5] == 1 { bytes.iter().rev().fold(0, add) } else { bytes.iter().fold(0, add) }
    }

    /// Kind, offset and length of each segment.
    fn segments(&self) -> Vec<(usize, usize, usize)> {
        let (table, size, count) = match self.is_64() {
            true => (self.number(32, 8), self.number(54, 2), self.number(56, 2)),
            false => (self.number(28, 4), self.number(42, 2), self.number(44, 2)),
        };
        let segment = |index| {
            let at = table + index * size;
            match self.is_64() {
                true => (self.number(at, 4), self.number(at + 8, 8), self.number(at + 32, 8)),
                false => (self.number(at, 4), self.number(at + 4, 4), self.number(at + 16, 4)),
            }
        };
        (0..count).map(segment).collect()
    }

    /// What a dynamic linker would be asked for.
    fn needs(&self) -> (bool, usize) {
        const DYNAMIC: usize = 2;
        const INTERPRETER: usize = 3;
        const NEEDED: usize = 1;
        let word = if self.is_64() { 8 } else { 4 };
        let segments = self.segments();
        let has_interpreter = segments.iter().any(|(kind, ..)| *kind == INTERPRETER);
        let dynamic = segments.iter().filter(|(kind, ..)| *kind == DYNAMIC);
        let tags = dynamic.flat_map(|(_, at, length)| (*at..at + length).step_by(2 * word));
        (has_interpreter, tags.filter(|at| self.number(*at, word) == NEEDED).count())
    }
}

#[test]
fn it_needs_no_library() {
    let elf = Elf(fs::read(static_runner()).unwrap());
    assert!(elf.0.starts_with(b"\x7fELF") && !elf.segments().is_empty());
    assert_eq!(elf.needs(), (false, 0), "neither an interpreter nor a library");
    // What is read there is what it is: another program has both.
    let (has_interpreter, libraries) = Elf(fs::read(std::env::current_exe().unwrap()).unwrap()).needs();
    assert!(cfg!(target_feature = "crt-static") || (has_interpreter && libraries > 0));
}

/// A root directory with the runner, busybox and directories for locks and state; `/proc` and nothing of `/dev`.
struct Root(tempfile::TempDir);

impl Root {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        fs::set_permissions(root.path(), Permissions::from_mode(0o755)).unwrap();
        for dir in ["bin", "proc", "run/lock", "var/lib"] {
            fs::create_dir_all(root.path().join(dir)).unwrap();
        }
        let copy = |from: &Path, to: &str| {
            assert!(Command::new("cp").arg(from).arg(root.path().join(to)).status().unwrap().success())
        };
        copy(&static_runner(), "muster-runner");
        let path = std::env::var_os("PATH").unwrap();
        let busybox = std::env::split_paths(&path).map(|dir| dir.join("busybox")).find(|program| program.is_file());
        copy(&busybox.expect("busybox-static is installed"), "bin/busybox");
        for name in ["sh", "cat", "sleep", "mkdir", "id"] {
            symlink("busybox", root.path().join("bin").join(name)).unwrap();
        }
        Self(root)
    }

    fn spawn(&self, line: &str) -> Child {
        let script = "mount --rbind /proc proc && exec chroot . /muster-runner --set s \"$@\"";
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", script, "sh"]).args(line.split_whitespace());
        command.current_dir(self.0.path()).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    fn output(&self, line: &str, input: &[u8]) -> Output {
        let mut child = self.spawn(line);
        std::io::Write::write_all(child.stdin.as_mut().unwrap(), input).unwrap();
        child.wait_with_output().unwrap()
    }

    #[track_caller]
    fn ok(&self, line: &str) -> Vec<u8> {
        let output = self.output(line, b"");
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    fn start(&self, spec: &ContainerSpec) {
        let config = StartConfig { container: Some(spec.clone()), ..StartConfig::default() };
        let line = format!("--detach --stdin-config {}", spec.uuid);
        let output = self.output(&line, &serde_json::to_vec(&config).unwrap());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Long polls until the list has exactly this one line.
    fn wait_for(&self, line: &str) {
        let deadline = Instant::now() + PATIENCE;
        let (mut lines, mut token) = parse_list(&self.ok("--list"));
        while lines != [line] {
            assert!(Instant::now() < deadline, "{lines:?}, not {line}");
            let mut poll = self.spawn(&format!("--list --wait 60 --known {token}"));
            let stdin = poll.stdin.take();
            (lines, token) = parse_list(&poll.wait_with_output().unwrap().stdout);
            drop(stdin);
        }
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        for n in 1..=2 {
            let _ = self.output(&format!("--kill 15 {}", uuid(n)), b"");
        }
    }
}

#[test]
fn a_whole_life_where_there_is_next_to_nothing() {
    if !geteuid().is_root() {
        // Another root directory is root's to have. That it needs no library is tested without.
        return;
    }
    let root = Root::new();
    assert!(String::from_utf8(root.ok("--version")).unwrap().starts_with("muster-runner "));
    let facts: Facts = serde_json::from_slice(&root.ok("--facts")).unwrap();
    assert!(facts.cpus >= 1 && facts.ram > 1 << 20, "{facts:?}");
    let text = "mkdir out; id -u > out/who; cat; echo bad >&2; while [ ! -e go ]; do sleep 0.1; done; exit 7";
    let spec = ContainerSpec { outputs: vec!["out".into()], ..script(1, text) };
    root.start(&spec);
    root.wait_for(&uuid(1));
    let attempt = root.0.path().join(format!("var/lib/muster-runner/set-s/{}/1", uuid(1)));
    fs::write(attempt.join("work/go"), "").unwrap();
    root.wait_for(&format!("{} finished", uuid(1)));
    assert_eq!(root.ok(&format!("--tail {} --attempt 1 --stream stderr", uuid(1))), b"bad\n");

    let archive = root.ok(&format!("--collect {} --attempt 1", uuid(1)));
    let mut contents = Vec::new();
    for entry in tar::Archive::new(&*archive).entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut text = String::new();
        std::io::Read::read_to_string(&mut entry, &mut text).unwrap();
        contents.push((entry.path().unwrap().to_string_lossy().trim_end_matches('/').to_owned(), text));
    }
    let result: ResultRecord = serde_json::from_str(&contents[0].1).unwrap();
    assert_eq!((result.reason, result.exit_code), (Reason::Exited, Some(7)), "{result:?}");
    let rest: Vec<_> = contents[1..].iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    // There is no /etc/passwd that would say who nobody is.
    assert_eq!(rest, [("stdout", ""), ("stderr", "bad\n"), ("outputs/out", ""), ("outputs/out/who", "65534\n")]);
    root.ok(&format!("--forget {} --attempt 1", uuid(1)));
    assert!(parse_list(&root.ok("--list")).0.is_empty() && !attempt.exists());

    // One that is killed; what nobody here knows is refused by name.
    root.start(&script(2, "while :; do sleep 1; done"));
    root.output(&format!("--kill 15 {} --attempt 1", uuid(2)), b"");
    root.wait_for(&format!("{} finished", uuid(2)));
    root.ok(&format!("--forget {} --attempt 1", uuid(2)));
    let config = StartConfig {
        container: Some(ContainerSpec { user: "alice".into(), ..script(3, "true") }),
        ..StartConfig::default()
    };
    let refused = root.output(&format!("--detach --stdin-config {}", uuid(3)), &serde_json::to_vec(&config).unwrap());
    assert!(message(&refused).contains("alice"));
}
