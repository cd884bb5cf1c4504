//! Errors of engines that mean that the machine cannot run containers (spec 50 §7, "broken node").

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use muster_runner::protocol::ContainerSpec;

/// Bytes of what an engine said last.
const LAST_WORDS: u64 = 2 << 10;

/// What docker's client says when there is nobody to take its request: of old, and since version 29.
const NO_DAEMON: [&str; 2] = ["annot connect to the Docker daemon", "ailed to connect to the docker API"];
/// Parts that come in this order.
const BROKEN: [&[&str]; 5] = [
    &[NO_DAEMON[0]],
    &[NO_DAEMON[1]],
    &[
        "oci runtime error",
        "starting container process",
        "container init",
        "mounting",
        "to rootfs",
        "no such file or directory",
    ],
    &["grpc: the connection is unavailable"],
    &["no space left on device"],
];

/// `said`: by the engine. Words of the job in it may be chosen to mislead: they do not count.
pub(crate) fn means_broken(said: &str, spec: &ContainerSpec) -> bool {
    let text = without_words_of_the_job(said, spec);
    let has_all = |parts: &&[&str]| {
        let mut rest = text.as_str();
        parts.iter().all(|part| match rest.find(part) {
            Some(at) => {
                rest = &rest[at + part.len()..];
                true
            }
            None => false,
        })
    };
    BROKEN.iter().any(has_all)
}

/// The same for a daemon that no request has reached.
pub(crate) fn means_no_daemon(said: &str, spec: &ContainerSpec) -> bool {
    let text = without_words_of_the_job(said, spec);
    NO_DAEMON.iter().any(|part| text.contains(part))
}

fn without_words_of_the_job(said: &str, spec: &ContainerSpec) -> String {
    let words = spec.command.iter().chain([&spec.cwd, &spec.image]).filter(|word| !word.is_empty());
    words.fold(said.to_owned(), |text, word| text.replace(word.as_str(), " "))
}

/// The end of a stream's file, in one line.
pub(crate) fn last_words(path: &Path) -> String {
    let mut bytes = Vec::new();
    if let Ok(mut file) = File::open(path) {
        let length = file.metadata().map_or(0, |metadata| metadata.len());
        let _ = file.seek(SeekFrom::Start(length.saturating_sub(LAST_WORDS)));
        // What cannot be read is not told.
        let _ = file.take(LAST_WORDS).read_to_end(&mut bytes);
    }
    let text = String::from_utf8_lossy(&bytes);
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" / ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_errors_mean_that_a_machine_is_broken() {
        for (text, broken) in [
            ("docker: Cannot connect to the Docker daemon at unix:///var/run/docker.sock.", true),
            ("error: cannot connect to the Docker daemon", true),
            ("failed to connect to the docker API at unix:///var/run/docker.sock; check if the path is correct", true),
            (
                "oci runtime error: x: starting container process caused \"container init: mounting /proc to rootfs: no such file or \
                 directory\"",
                true,
            ),
            ("oci runtime error: no such file or directory", false),
            ("rpc error: grpc: the connection is unavailable", true),
            ("write /var/lib/x: no space left on device", true),
            ("Error: no such image", false),
            ("", false),
        ] {
            assert_eq!(means_broken(text, &ContainerSpec::default()), broken, "{text}");
            let no_daemon = text.contains("connect to the");
            assert_eq!(means_no_daemon(text, &ContainerSpec::default()), no_daemon, "{text}");
        }
        let spec = ContainerSpec { cwd: "/no space left on device".into(), ..ContainerSpec::default() };
        assert!(!means_broken("cannot go to /no space left on device", &spec));
    }

    #[test]
    fn last_words_are_one_short_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stderr");
        assert_eq!(last_words(&path), "");
        std::fs::write(&path, format!("{}\n  one\n\ntwo \n", "x".repeat(5000))).unwrap();
        let text = last_words(&path);
        assert!(text.ends_with(" / one / two") && text.len() < 3000, "{text}");
    }
}
