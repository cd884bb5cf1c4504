//! Archives as bytes, honest and hostile.

mod hostile;

use super::*;

const LIMITS: UnpackLimits = UnpackLimits { log_bytes: 1000, output_bytes: 2000 };

struct Archive(tar::Builder<Vec<u8>>);

impl Archive {
    fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    fn entry(mut self, kind: tar::EntryType, name: &str, claimed: u64, content: &[u8]) -> Self {
        let mut header = tar::Header::new_gnu();
        let field = &mut header.as_old_mut().name;
        field[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(kind);
        header.set_size(claimed);
        header.set_mode(0o6777);
        if kind == tar::EntryType::Symlink {
            header.set_link_name("/etc").expect("short");
        }
        header.set_cksum();
        self.0.append(&header, content).expect("appended");
        self
    }

    fn file(self, name: &str, content: &[u8]) -> Self {
        self.entry(tar::EntryType::Regular, name, content.len() as u64, content)
    }

    fn bytes(self) -> Vec<u8> {
        self.0.into_inner().expect("complete")
    }
}

/// What was left out.
fn unpacked(bytes: &[u8]) -> (tempfile::TempDir, Result<Vec<String>, UnpackError>) {
    let (folder, result) = taken_apart(bytes);
    (folder, result.map(|unpacked| unpacked.left_out))
}

fn taken_apart(bytes: &[u8]) -> (tempfile::TempDir, Result<Unpacked, UnpackError>) {
    let folder = tempfile::tempdir().expect("a folder");
    let target = folder.path().join("result");
    std::fs::create_dir(&target).expect("made");
    let result = unpack(bytes, &target, LIMITS);
    (folder, result)
}

#[test]
fn files_and_directories_are_stored_with_modes_of_ours() {
    use std::os::unix::fs::PermissionsExt;
    let bytes = Archive::new()
        .file("result.json", b"{}")
        .file("stdout", b"hello")
        .entry(tar::EntryType::Directory, "outputs/", 0, b"")
        .file("outputs/a/b.txt", b"deep")
        .bytes();
    let (folder, result) = unpacked(&bytes);
    assert_eq!(result.expect("acceptable"), Vec::<String>::new());
    let file = folder.path().join("result/outputs/a/b.txt");
    assert_eq!(std::fs::read(&file).expect("there"), b"deep");
    let mode = |name: &str| {
        std::fs::metadata(folder.path().join("result").join(name)).expect("there").permissions().mode() & 0o7777
    };
    // Less what the umask takes.
    assert_eq!((mode("outputs/a/b.txt") & 0o7700, mode("outputs/a/b.txt") & 0o7022), (0o700, 0), "a program");
    assert_eq!((mode("stdout") & 0o7700, mode("stdout") & 0o7133), (0o600, 0), "none of ours is one");
}

#[test]
fn hostile_archives_are_refused() {
    let entry = |kind, name, claimed, content: &[u8]| Archive::new().entry(kind, name, claimed, content).bytes();
    let regular = tar::EntryType::Regular;
    for (what, bytes, text) in [
        ("parent", entry(regular, "../x", 1, b"x"), "leads out"),
        ("parent inside", entry(regular, "outputs/../../x", 1, b"x"), "leads out"),
        ("root", entry(regular, "/etc/x", 1, b"x"), "leads out"),
        ("large log", entry(regular, "stdout", 1 << 30, b""), "middle of a file"),
        ("large unknown", entry(regular, "other", 1 << 40, b""), "allowed"),
        ("large output", Archive::new().file("outputs/a", &[0; 1500]).file("outputs/b", &[0; 600]).bytes(), "allowed"),
        (
            "outputs are a file",
            Archive::new().file("result.json", b"{}").file("outputs", b"1").file("outputs/a", &[0; 2001]).bytes(),
            "are a file",
        ),
        ("endless log", entry(regular, "stdout", 1 << 50, b""), "allowed"),
        ("file as directory", Archive::new().file("a", b"1").file("a/b", b"2").bytes(), "file and a directory"),
        ("long name", entry(tar::EntryType::GNULongName, "x", 4 << 20, &[b'a'; 4 << 20]), "between two files"),
        ("long link", entry(tar::EntryType::GNULongLink, "x", 4 << 20, &[b'a'; 4 << 20]), "between two files"),
        ("extensions", entry(tar::EntryType::XHeader, "x", 4 << 20, &[b'a'; 4 << 20]), "between two files"),
        ("large link", entry(tar::EntryType::Symlink, "x", 4 << 20, &[b'a'; 4 << 20]), "between two files"),
        ("garbage", vec![7; 2048], ""),
    ] {
        let (_folder, result) = unpacked(&bytes);
        let error = result.expect_err(what).to_string();
        assert!(error.contains(text), "{what}: {error}");
    }
}

#[test]
fn a_name_that_comes_twice_counts_once_and_many_files_are_stored() {
    let (folder, result) = unpacked(&Archive::new().file("a", b"1").file("a", b"2").bytes());
    assert_eq!(result.expect("acceptable"), ["a"]);
    assert_eq!(std::fs::read(folder.path().join("result/a")).expect("there"), b"1");
    let many = (0..200).fold(Archive::new(), |archive, number| archive.file(&format!("outputs/{number}"), b"x"));
    let (folder, result) = unpacked(&many.bytes());
    assert!(result.expect("acceptable").is_empty());
    assert_eq!(std::fs::read_dir(folder.path().join("result/outputs")).expect("there").count(), 200);
}

/// Legal where they come from; too long where they go to.
#[test]
fn names_that_cannot_be_are_left_out() {
    let part = "d".repeat(200);
    let (deep, long) = (format!("outputs/{}/file", vec![part; 21].join("/")), format!("outputs/{}", "n".repeat(300)));
    let mut archive = Archive::new();
    for name in [&deep, &long] {
        let mut header = tar::Header::new_gnu();
        header.set_size(1);
        header.set_mode(0o644);
        archive.0.append_data(&mut header, name, &b"x"[..]).expect("appended");
    }
    let (folder, result) = unpacked(&archive.file("outputs/short", b"kept").bytes());
    let left_out = [deep, long].map(|name| format!("{}…", &name[..TOLD_CHARACTERS_MAX]));
    assert_eq!(result.expect("acceptable"), left_out);
    assert_eq!(std::fs::read(folder.path().join("result/outputs/short")).expect("there"), b"kept");
}

#[test]
fn links_are_left_out_and_never_followed() {
    let bytes = Archive::new().entry(tar::EntryType::Symlink, "outputs", 0, b"").file("outputs/passwd", b"x").bytes();
    let (folder, result) = unpacked(&bytes);
    assert_eq!(result.expect("acceptable"), ["outputs"]);
    assert!(folder.path().join("result/outputs/passwd").is_file());
}

#[test]
fn a_cut_archive_is_refused_at_every_length() {
    let bytes = Archive::new().file("result.json", &[b'x'; 700]).bytes();
    for cut in (1..512 + 700).step_by(37) {
        let (_folder, result) = unpacked(&bytes[..cut]);
        assert!(matches!(result, Err(UnpackError::Archive(_))), "cut at {cut}: {result:?}");
    }
}

/// The limits may have been lowered since the job began: its result counts all the same (spec 70 §4).
#[test]
fn what_is_above_a_limit_that_was_lowered() {
    let stream: Vec<u8> = (0..ALLOWANCE + 5000).map(|number| b'a' + (number % 26) as u8).collect();
    let bytes = Archive::new()
        .file("result.json", b"{}")
        .file("stdout", &stream)
        .file("stderr", b"short")
        .file("outputs/deep/a", &[1; 1500])
        .file("outputs/b", &[2; 600])
        .file("outputs/c", b"small")
        .bytes();
    let (folder, result) = taken_apart(&bytes);
    assert_eq!(result.expect("acceptable"), Unpacked { left_out: Vec::new(), outputs_too_large: true });
    let read = |name: &str| std::fs::read(folder.path().join("result").join(name));
    let lost = stream.len() as u64 - LIMITS.log_bytes;
    let mark = format!("\n[muster: {lost} bytes left out]\n");
    let expected = [&stream[..500], mark.as_bytes(), &stream[stream.len() - 500..]].concat();
    assert_eq!(read("stdout").expect("there"), expected);
    assert_eq!(read("stderr").expect("there"), b"short");
    assert!(!folder.path().join("result/outputs").exists(), "all of them or none");
    // The stream is cut, and what comes after it is read.
    let bytes = Archive::new().file("stderr", &stream).file("result.json", b"{}").file("outputs/a", b"1").bytes();
    let (folder, result) = taken_apart(&bytes);
    assert!(!result.expect("acceptable").outputs_too_large);
    assert_eq!(std::fs::read(folder.path().join("result/outputs/a")).expect("there"), b"1");
}
