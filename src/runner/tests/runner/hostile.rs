//! Jobs that leave what nobody wants to have: it is left out, and said; collecting and forgetting end.

use std::fs;
use std::io::Read;
use std::process::{Command, Stdio};

use muster_runner::protocol::{ContainerSpec, Limits, Reason, ResultRecord};

use crate::common::{Host, script, uuid};

/// Path, length and first bytes of all that `--collect` sends below `outputs`.
fn collected(archive: impl Read) -> Vec<(String, u64, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in tar::Archive::new(archive).entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = String::from_utf8(entry.path_bytes().into_owned()).unwrap();
        let (mut first, size) = (Vec::new(), entry.size());
        (&mut entry).take(16).read_to_end(&mut first).unwrap();
        let rest = std::io::copy(&mut entry, &mut std::io::sink()).unwrap();
        assert_eq!(first.len() as u64 + rest, size, "{path} is as long as it claims");
        if path.starts_with("outputs/") {
            found.push((path, size, first));
        }
    }
    found
}

/// Output of a command of the first container that must succeed, with few descriptors and little memory.
fn ok(host: &Host, command: &str) -> Vec<u8> {
    let plain = host.command(&format!("{command} {} --attempt 1", uuid(1)));
    let mut command = Command::new("sh");
    command
        .args(["-c", "ulimit -n 250; ulimit -v 65536; exec \"$@\"", "sh"])
        .arg(plain.get_program())
        .args(plain.get_args());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn collect(host: &Host) -> Vec<(String, u64, Vec<u8>)> {
    collected(&*ok(host, "--collect"))
}

/// It ended well, whatever it left; forgetting takes all of that away.
fn forget(host: &Host, result: &ResultRecord) {
    assert_eq!((result.reason, result.exit_code), (Reason::Exited, Some(0)), "{result:?}");
    ok(host, "--forget");
    assert!(!host.attempt_dir(&uuid(1), 1).exists());
    assert_eq!(host.list().0, Vec::<String>::new());
}

/// A command line for a job.
fn perl(program: &str) -> String {
    format!("perl -e '{}'", program.replace('\'', r"'\''"))
}

fn spec(outputs: &[&str], text: &str) -> ContainerSpec {
    ContainerSpec { outputs: outputs.iter().map(|path| (*path).to_owned()).collect(), ..script(1, text) }
}

/// Its length counts, not what it takes on the disk: above the limit nothing is sent, and not a byte of it was read for that.
#[test]
fn a_sparse_terabyte() {
    let host = Host::new();
    let result = host.finished(&spec(&["giant", "small"], "truncate -s 1T giant; echo 1 > small"));
    assert!(result.outputs_too_large && result.outputs.is_empty(), "{result:?}");
    assert!(result.detail.contains(&format!("outputs of {} bytes", (1_u64 << 40) + 2)), "{result:?}");
    assert_eq!(collect(&host), Vec::new());
    host.ok(&format!("--forget {} --attempt 1", uuid(1)));
    assert!(host.attempt_dir(&uuid(1), 1).join("work/giant").exists(), "it stays there");
}

/// Below the limit a hole is what it reads as.
#[test]
fn a_sparse_file_within_the_limit() {
    let host = Host::new();
    let limits = Limits { output_bytes: 10 << 20, ..Limits::default() };
    let result = host.finished(&ContainerSpec { limits, ..spec(&["hole"], "truncate -s 10M hole") });
    assert_eq!(collect(&host), [("outputs/hole".to_owned(), 10 << 20, vec![0; 16])]);
    forget(&host, &result);
}

/// As many as are allowed are sent, and the first thing that is said is that there were more.
#[test]
fn more_files_than_anybody_wants() {
    let host = Host::new();
    let make = perl("for (1..100300) { open my $f, '>', qq(many/$_) or die }");
    let result = host.finished(&spec(&["first", "many", "last"], &format!("mkdir many; : > first; : > last; {make}")));
    assert_eq!(result.outputs, ["first", "many"]);
    let said = "more than 100000 files and directories: it and all that follows is left out";
    assert!(result.skipped[0].starts_with("many/") && result.skipped[0].ends_with(said), "{:?}", result.skipped);
    assert_eq!(collect(&host).len(), 100_000);
    forget(&host, &result);
}

/// Deeper than a path can say, and than there are descriptors.
#[test]
fn directories_in_directories() {
    let host = Host::new();
    let make = perl("for (1..3000) { mkdir 'd' or die; chdir 'd' or die } open my $f, '>', 'file'");
    let result = host.finished(&spec(&["d"], &make));
    assert_eq!(result.outputs, ["d"]);
    assert_eq!(result.skipped, [format!("{}: too deep", ["d"; 66].join("/"))]);
    assert_eq!(collect(&host).len(), 65);
    forget(&host, &result);
}

/// Line ends and what terminals obey: sent as they are, told so that they can be shown.
#[test]
fn names_that_nobody_can_read() {
    let host = Host::new();
    let names = r#"printf 'x' > "o/$(printf 'a\nb')"; ln -s / "o/$(printf 'c\nd\033[2J: fine')"; mkfifo "o/$(printf '\007\177\302\233')""#;
    let result = host.finished(&spec(&["o"], &format!("mkdir o; {names}; : > 'o/ '; : > o/-rf")));
    let skipped = result.skipped.join("|");
    assert!(result.skipped.len() == 2 && !skipped.chars().any(char::is_control), "{skipped:?}");
    assert!(skipped.contains(r"o/c\nd\u{1b}[2J: fine: a link (links are skipped)"), "{skipped}");
    assert!(skipped.contains(": neither a file nor a directory"), "{skipped}");
    let mut paths: Vec<String> = collect(&host).into_iter().map(|(path, ..)| path).collect();
    paths.sort();
    assert_eq!(paths, ["outputs/o", "outputs/o/ ", "outputs/o/-rf", "outputs/o/a\nb"]);
    forget(&host, &result);
}

/// While they are sent, files grow, shrink, go, and turn into something else, as those of a process that could not be killed: each is as
/// long as was announced, and the archive is a whole one.
#[test]
fn files_that_change_while_they_are_sent() {
    let host = Host::new();
    let make =
        "mkdir p q; for f in a b p/gone p/grown p/link p/pipe q/x; do head -c 300000 /dev/zero | tr '\\0' z > $f; done";
    let result = host.finished(&spec(&["a", "b", "p", "q"], make));
    assert_eq!((result.outputs.len(), result.skipped.len()), (4, 0), "{result:?}");
    let mut command = host.command(&format!("--collect {} --attempt 1", uuid(1)));
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    // Sixteen times what fits into a pipe: it has begun with `a`, and cannot have come to the others.
    let mut begun = vec![0; 4096];
    stdout.read_exact(&mut begun).unwrap();
    let work = host.attempt_dir(&uuid(1), 1).join("work");
    fs::OpenOptions::new().write(true).open(work.join("a")).unwrap().set_len(10).unwrap();
    fs::OpenOptions::new().write(true).open(work.join("p/grown")).unwrap().set_len(400_000).unwrap();
    for name in ["b", "p/gone", "p/link", "p/pipe"] {
        fs::remove_file(work.join(name)).unwrap();
    }
    std::os::unix::fs::symlink("/etc/passwd", work.join("p/link")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, work.join("p/pipe"), rustix::fs::FileType::Fifo, 0o666.into(), 0).unwrap();
    fs::remove_dir_all(work.join("q")).unwrap();
    let mut found = collected((&*begun).chain(&mut stdout));
    found.sort();
    let names: Vec<_> = found.iter().map(|(path, size, _)| (path.as_str(), *size)).collect();
    assert_eq!(names, [("outputs/a", 300_000), ("outputs/p", 0), ("outputs/p/grown", 400_000)]);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    forget(&host, &result);
}

/// Without root the runner cannot read what its job has locked, and says so; it can remove it.
#[test]
fn what_the_runner_may_not_read() {
    let host = Host::without_root();
    let deep = perl("for (1..100) { mkdir 'd' or die; chdir 'd' or die } for (1..100) { chmod 0, '../d'; chdir '..' }");
    let files = "mkdir -p locked/in fine deep; for f in locked/in/x secret fine/x fine/y; do echo $f > $f; done";
    let lock = "chmod 0 locked/in locked secret fine/y; cd deep";
    let result = host.finished(&spec(&["locked", "secret", "fine"], &format!("{files}; {lock}; {deep}")));
    assert_eq!(result.outputs, ["fine"]);
    let denied = ["locked", "secret", "fine/y"].map(|path| format!("{path}: Permission denied (os error 13)"));
    assert_eq!(result.skipped, denied);
    let paths: Vec<_> = collect(&host).into_iter().map(|(path, ..)| path).collect();
    assert_eq!(paths, ["outputs/fine", "outputs/fine/x"]);
    forget(&host, &result);
}

/// A job of the runner's own user can take its directory away: then there is nothing to bring back, and that is all.
#[test]
fn a_job_that_removes_its_directory() {
    let host = Host::without_root();
    let result = host.finished(&spec(&["x"], "rm -rf \"$HOME\" 2>/dev/null; true"));
    assert!(result.outputs.is_empty() && result.skipped[0].contains("no working directory"), "{result:?}");
    assert_eq!(collect(&host), Vec::new());
    forget(&host, &result);
}
