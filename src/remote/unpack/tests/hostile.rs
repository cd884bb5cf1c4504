//! Archives that no runner of ours sends: whatever is in them, nothing leaves the directory, memory and work have bounds, and what is
//! stored is files and directories.

use std::cell::Cell;
use std::io::Read;
use std::process::Command;

use super::*;

/// Room for all that is claimed, where the claim is not the point.
const ROOMY: UnpackLimits = UnpackLimits { log_bytes: 1 << 20, output_bytes: 1 << 20 };

/// A header with this size field, whatever that says.
fn header(kind: u8, name: &str, size: [u8; 12]) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    let old = header.as_old_mut();
    old.name[..name.len()].copy_from_slice(name.as_bytes());
    old.linkflag = [kind];
    old.linkname[..11].copy_from_slice(b"/etc/passwd");
    old.size = size;
    header.set_mode(0o777);
    header.set_cksum();
    header.as_bytes().to_vec()
}

fn octal(size: usize) -> [u8; 12] {
    let mut field = [0; 12];
    field[..11].copy_from_slice(format!("{size:011o}").as_bytes());
    field
}

/// An entry of any kind, with what belongs to it.
fn member(kind: u8, name: &str, content: &[u8]) -> Vec<u8> {
    let mut bytes = header(kind, name, octal(content.len()));
    bytes.extend(content);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

/// `LENGTH KEY=VALUE`, where the length counts itself.
fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = [b" ", key.as_bytes(), b"=", value, b"\n"].concat();
    let length = (1..).find(|length: &usize| length.to_string().len() + rest.len() == *length).expect("one fits");
    [length.to_string().into_bytes(), rest].concat()
}

fn whole(members: &[Vec<u8>]) -> Vec<u8> {
    [members.concat(), vec![0; 1024]].concat()
}

fn unpacked_within(archive: impl Read, limits: UnpackLimits) -> (tempfile::TempDir, Result<Vec<String>, UnpackError>) {
    let folder = tempfile::tempdir().expect("a folder");
    let target = folder.path().join("result");
    std::fs::create_dir(&target).expect("made");
    let result = unpack(archive, &target, limits);
    (folder, result.map(|unpacked| unpacked.left_out))
}

#[track_caller]
fn refused(bytes: &[u8]) -> String {
    let (folder, result) = unpacked_within(bytes, ROOMY);
    let names: Vec<_> = std::fs::read_dir(folder.path()).expect("there").flatten().map(|one| one.file_name()).collect();
    assert_eq!(names, ["result"], "nothing beside it");
    match result {
        Err(UnpackError::Archive(text)) => text,
        other => panic!("{other:?}"),
    }
}

/// An archive's reader that counts what was taken from it.
struct Counted<'a, R>(R, &'a Cell<u64>);

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.0.read(buffer)?;
        self.1.set(self.1.get() + count as u64);
        Ok(count)
    }
}

/// Links of both kinds, devices, pipes, and kinds that nobody knows: none is made, and what stands beside them is stored.
#[test]
fn nothing_but_files_and_directories_is_made() {
    let kinds = b"1234678SDKMNVgZ";
    for kind in kinds {
        let members = [
            member(b'0', "outputs/before", b"one"),
            member(*kind, "outputs/strange", b""),
            member(b'0', "outputs/after", b"two"),
        ];
        // Old GNU sparse files must have a header of that form; a `K` alone describes nothing. Either makes the archive a damaged one.
        let (folder, result) = unpacked_within(&*whole(&members), ROOMY);
        let outputs = folder.path().join("result/outputs");
        assert!(std::fs::symlink_metadata(outputs.join("strange")).is_err(), "{}", char::from(*kind));
        match result {
            Ok(left_out) if *kind == b'K' => assert!(left_out.is_empty()),
            Ok(left_out) => {
                assert_eq!(left_out, ["outputs/strange"], "{}", char::from(*kind));
                assert_eq!(std::fs::read(outputs.join("after")).expect("stored"), b"two");
            }
            Err(error) => assert!(*kind == b'S', "{}: {error}", char::from(*kind)),
        }
        assert_eq!(std::fs::read(outputs.join("before")).expect("stored"), b"one");
    }
}

/// A terabyte that is next to nothing in the archive, in each form that GNU tar has for it.
#[test]
fn sparse_giants_are_left_out() {
    let source = tempfile::tempdir().expect("a folder");
    let outputs = source.path().join("outputs");
    std::fs::create_dir(&outputs).expect("made");
    let giant = std::fs::File::create(outputs.join("giant")).expect("made");
    giant.set_len(1 << 40).expect("sparse");
    std::os::unix::fs::FileExt::write_all_at(&giant, b"data", 1 << 30).expect("written");
    std::fs::write(outputs.join("zzz"), "plain").expect("written");
    for form in [
        &["--format=gnu"][..],
        &["--format=posix"],
        &["--format=posix", "--sparse-version=0.1"],
        &["--format=posix", "--sparse-version=0.0"],
    ] {
        let mut command = Command::new("tar");
        command.arg("--sparse").args(form).arg("-C").arg(source.path());
        let output = command.args(["-cf", "-", "outputs/giant", "outputs/zzz"]).output().expect("tar is everywhere");
        assert!(output.status.success() && output.stdout.len() < 100_000, "{output:?}");
        let (folder, result) = unpacked_within(&*output.stdout, ROOMY);
        let left_out = result.unwrap_or_else(|error| panic!("{form:?}: {error}"));
        assert!(left_out.len() == 1 && left_out[0].ends_with("giant"), "{form:?}: {left_out:?}");
        let result = folder.path().join("result/outputs");
        assert_eq!(std::fs::read(result.join("zzz")).expect("stored"), b"plain", "{form:?}");
        assert!(!result.join("giant").exists(), "{form:?}");
    }
}

/// Sizes that are negative, beyond 64 bits, no numbers, or exabytes of nothing: for a kind of entry whose content is stored, and for
/// those whose content is only passed over.
#[test]
fn sizes_that_cannot_be() {
    let base_256 = |bytes: [u8; 8]| {
        let mut field = [0; 12];
        field[0] = 0x80;
        field[4..].copy_from_slice(&bytes);
        field
    };
    for (what, size) in [
        ("negative", [0xff; 12]),
        ("negative, a little", [255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 0]),
        ("8 EiB", base_256([0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff])),
        ("almost 16 EiB", base_256([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe, 0x01])),
        ("all of the octal digits", *b"777777777777"),
        ("no octal digits", *b"99999999999\0"),
        ("letters", *b"much\0\0\0\0\0\0\0\0"),
        ("a minus", *b"-0000000001\0"),
    ] {
        for kind in [b'0', b'5', b'2', b'L', b'x'] {
            for name in ["stdout", "outputs/x"] {
                let bytes = whole(&[header(kind, name, size), vec![b'x'; 4096]]);
                refused(&bytes);
                let more = [member(b'0', "outputs/first", b"1"), bytes].concat();
                assert!(!refused(&more).is_empty(), "{what}");
            }
        }
    }
}

/// Each of them may be as large as a stream, and all of them together may not.
#[test]
fn many_files_that_nobody_has_asked_for() {
    let stream = vec![0; 16 << 20];
    let names = (0..5).map(|number| format!("other/{number}"));
    let text = refused(&whole(&names.map(|name| member(b'0', &name, &stream)).collect::<Vec<_>>()));
    assert!(text.contains("all but its outputs needs"), "{text}");
}

/// What a PAX header says of a name or a size counts, and is judged as if the entry itself had said it.
#[test]
fn extended_headers_are_not_trusted_either() {
    let extended = |key: &str, value: &[u8], name: &str, content: &[u8]| {
        whole(&[member(b'x', "PaxHeaders/x", &record(key, value)), member(b'0', name, content)])
    };
    for path in ["../x", "/etc/x", "outputs/../../x", "outputs/a/../../../x"] {
        assert!(refused(&extended("path", path.as_bytes(), "outputs/good", b"1")).contains("leads out"), "{path}");
    }
    for size in ["9223372036854775807", "18446744073709551615", "1048577"] {
        refused(&extended("size", size.as_bytes(), "outputs/good", b"1"));
    }
    // No number: that of the header counts.
    for size in ["-1", "", "many"] {
        let (folder, result) = unpacked_within(&*extended("size", size.as_bytes(), "outputs/good", b"1"), ROOMY);
        result.unwrap_or_else(|error| panic!("{size:?}: {error}"));
        assert_eq!(std::fs::read(folder.path().join("result/outputs/good")).expect("stored"), b"1");
    }
    // A good name; a size that is smaller, so that what follows is no header.
    let (folder, result) = unpacked_within(&*extended("path", b"outputs/other", "../bad", b"1"), ROOMY);
    assert!(result.expect("acceptable").is_empty() && folder.path().join("result/outputs/other").exists());
    refused(&extended("size", b"1", "outputs/good", &[b'x'; 600]));
    // Links to elsewhere, owners and times change nothing.
    for (key, value) in [("linkpath", "/etc/passwd"), ("uid", "4711"), ("mtime", "-1e30"), ("SCHILY.xattr.user.x", "y")]
    {
        let (folder, result) = unpacked_within(&*extended(key, value.as_bytes(), "outputs/good", b"1"), ROOMY);
        assert!(result.expect(key).is_empty());
        let metadata = std::fs::symlink_metadata(folder.path().join("result/outputs/good")).expect("stored");
        assert_eq!(std::os::unix::fs::MetadataExt::uid(&metadata), rustix::process::geteuid().as_raw());
    }
    // One for all that follows is not heeded at all.
    let members = [member(b'g', "x", &record("path", b"../x")), member(b'0', "outputs/good", b"1")];
    let (folder, result) = unpacked_within(&*whole(&members), ROOMY);
    assert_eq!(result.expect("acceptable"), ["x"]);
    assert!(folder.path().join("result/outputs/good").exists());
    assert!(!refused(&whole(&[member(b'x', "x", b"no record"), member(b'0', "outputs/good", b"1")])).is_empty());
}

/// Long names upon long names, and one that never ends: little of it is read.
#[test]
fn long_names_without_end() {
    let long = |kind| member(kind, "././@LongLink", &[b'a'; 400_000]);
    let short = member(b'0', "outputs/x", b"1");
    refused(&whole(&[long(b'L'), long(b'L'), short.clone()]));
    let all = [long(b'L'), long(b'K'), member(b'x', "x", &record("comment", &[b'c'; 400_000])), short];
    assert!(refused(&whole(&all)).contains("between two files"));
    for kind in [b'L', b'K', b'x', b'g', b'S', b'2'] {
        let taken = Cell::new(0);
        let header = header(kind, "x", *b"77777777777\0");
        let endless = (&*header).chain(io::repeat(b'a'));
        let (_folder, result) = unpacked_within(Counted(endless, &taken), ROOMY);
        assert!(matches!(result, Err(UnpackError::Archive(_))), "{}", char::from(kind));
        assert!(taken.get() < 2 << 20, "{}: {} bytes were read", char::from(kind), taken.get());
    }
}

/// A name of a million characters, as one part and as half a million: left out before anything of it is made, and told in short.
#[test]
fn names_as_long_as_books() {
    for name in ["n".repeat(1_000_000), "d/".repeat(499_999) + "f", "outputs/".to_owned() + &"d/".repeat(150) + "f"] {
        let members =
            [member(b'L', "././@LongLink", name.as_bytes()), member(b'0', "x", b"1"), member(b'0', "outputs/y", b"2")];
        assert!(
            refused(&whole(&[member(b'L', "x", &[b"../", name.as_bytes()].concat()), member(b'0', "x", b"")])).len()
                < 1000
        );
        let (folder, result) = unpacked_within(&*whole(&members), ROOMY);
        let left_out = result.expect("acceptable");
        assert!(left_out.len() == 1 && left_out[0].len() < 1000 && left_out[0].ends_with('…'), "{left_out:?}");
        let names = std::fs::read_dir(folder.path().join("result")).expect("there");
        assert_eq!(names.flatten().map(|entry| entry.file_name()).collect::<Vec<_>>(), ["outputs"]);
    }
}

/// Each of them would be remembered with its name: all together they may not be.
#[test]
fn many_that_are_left_out_are_counted() {
    let name = "l".repeat(300_000);
    let link = [member(b'L', "././@LongLink", name.as_bytes()), member(b'2', "x", b"")].concat();
    let mut members = vec![link; 50];
    members.extend((0..150).map(|number| member(b'1', &format!("outputs/{number}"), b"")));
    let (_folder, result) = unpacked_within(&*whole(&members), ROOMY);
    let left_out = result.expect("acceptable");
    assert_eq!((left_out.len(), left_out.last().map(String::as_str)), (101, Some("and 51 more")));
    assert!(left_out.iter().all(|name| name.len() <= 203), "{left_out:?}");
}

/// Entries without end, of the kind that costs nothing to leave out; and directories that no entry names, by the hundred in each.
#[test]
fn entries_without_end() {
    struct Endless<'a>(&'a [u8], usize);
    impl Read for Endless<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let count = buffer.len().min(self.0.len() - self.1);
            buffer[..count].copy_from_slice(&self.0[self.1..self.1 + count]);
            self.1 = (self.1 + count) % self.0.len();
            Ok(count)
        }
    }
    let taken = Cell::new(0);
    let pipe = member(b'6', "outputs/pipe", b"");
    let (_folder, result) = unpacked_within(Counted(Endless(&pipe, 0), &taken), ROOMY);
    assert!(result.expect_err("it does not end").to_string().contains("more than 100016 entries"));
    assert!(taken.get() < 60 << 20, "{}", taken.get());

    let deep = |number: usize| format!("outputs/{number}/{}", "d/".repeat(120));
    let mut made = Made::default();
    let (mut number, mut path) = (0, PathBuf::new());
    let error = loop {
        let name = deep(number / 120);
        path = if number % 120 == 0 { PathBuf::from(name) } else { path.join("d") };
        number += 1;
        match made.add(&path) {
            Ok(()) => assert!(number <= ENTRIES_MAX + 1),
            Err(error) => break error.to_string(),
        }
    };
    assert!(error.contains("directories"), "{error}");
    // Of these few are too many already.
    let mut made = Made::default();
    let long = "n".repeat(4000);
    let many = (0..ENTRIES_MAX).find(|number| made.add(Path::new(&format!("{number}{long}"))).is_err());
    assert!(many.is_some_and(|many| many < 20_000), "{many:?}");
}

/// One name for two kinds of things, in each order: the first one stays, or the archive is refused; nothing is followed or replaced.
#[test]
fn names_that_change_what_they_are() {
    let file = |content: &[u8]| member(b'0', "outputs/x", content);
    let (directory, link) = (member(b'5', "outputs/x", b""), member(b'2', "outputs/x", b""));
    let below = member(b'0', "outputs/x/y", b"below");
    let bytes = whole(&[directory.clone(), file(b"1"), below.clone(), directory.clone()]);
    let (folder, result) = unpacked_within(&*bytes, ROOMY);
    assert_eq!(result.expect("acceptable"), ["outputs/x"]);
    assert_eq!(std::fs::read(folder.path().join("result/outputs/x/y")).expect("stored"), b"below");
    for second in [&directory, &below] {
        assert!(refused(&whole(&[file(b"1"), second.clone()])).contains("file and a directory"));
    }
    for first in [&link, &member(b'1', "outputs/x", b"")] {
        let (folder, result) = unpacked_within(&*whole(&[first.clone(), file(b"mine"), link.clone()]), ROOMY);
        assert_eq!(result.expect("acceptable"), ["outputs/x"]);
        let stored = folder.path().join("result/outputs/x");
        assert!(std::fs::symlink_metadata(&stored).expect("stored").is_file());
        assert_eq!(std::fs::read(stored).expect("stored"), b"mine");
    }
    for name in [".", "./", "././."] {
        let (_folder, result) = unpacked_within(&*whole(&[member(b'0', name, b"1"), file(b"2")]), ROOMY);
        assert_eq!(result.expect("acceptable"), [name]);
    }
    // With `result.json` a directory there is no result; nobody takes it for one.
    let (folder, result) = unpacked_within(&*whole(&[member(b'5', "result.json", b"")]), ROOMY);
    assert!(result.is_ok() && !folder.path().join("result/result.json").is_file());
}

/// What comes behind the end is not looked at. What is compressed stays as it is, and an archive that is, is none.
#[test]
fn garbage_behind_the_end_and_compressed_things() {
    let bytes = [whole(&[member(b'0', "outputs/x", b"1")]), vec![b'?'; 10_000]].concat();
    let (_folder, result) = unpacked_within(&*bytes, ROOMY);
    assert!(result.expect("acceptable").is_empty());
    let taken = Cell::new(0);
    let (_folder, result) = unpacked_within(Counted((&*bytes).chain(io::repeat(b'?')), &taken), ROOMY);
    assert!(result.expect("acceptable").is_empty() && taken.get() < 1 << 20, "{}", taken.get());

    // 16 MiB of nothing.
    let script = "head -c 16777216 /dev/zero | gzip -9";
    let bomb = Command::new("sh").args(["-c", script]).output().expect("runs").stdout;
    assert!(bomb.starts_with(&[0x1f, 0x8b]) && bomb.len() < 100_000);
    let (folder, result) = unpacked_within(&*whole(&[member(b'0', "outputs/bomb.gz", &bomb)]), ROOMY);
    assert!(result.expect("acceptable").is_empty());
    assert_eq!(std::fs::read(folder.path().join("result/outputs/bomb.gz")).expect("stored"), bomb);
    refused(&bomb);
}
