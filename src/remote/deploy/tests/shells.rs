//! Workers with little on them: other shells, busybox alone, tools that are missing.

use std::os::unix::fs::symlink;

use super::*;

/// What the script needs beside a program that computes checksums.
const NEEDED: [&str; 8] = ["cat", "chmod", "id", "ls", "mkdir", "mv", "rm", "uname"];

fn which(program: &str) -> Option<PathBuf> {
    let directories = ["/usr/bin", "/bin", "/usr/local/bin"].map(Path::new);
    directories.into_iter().map(|directory| directory.join(program)).find(|path| path.exists())
}

/// A worker whose PATH is this directory alone.
fn worker_with(tools: &Path, directory: &Path, binary: &RunnerBinary) -> Runner {
    let path = format!("PATH={}", tools.display());
    let supply = RunnerSupply::of_binary(binary.clone(), Some(text(directory)));
    runner(Behind::new(&["env", "-i", &path], is_root()), supply)
}

fn link(tools: &Path, name: &str, program: &Path) {
    std::fs::create_dir_all(tools).expect("made");
    symlink(program, tools.join(name)).expect("made");
}

/// Installs, finds it again, repairs, refuses: all that the script does.
fn all_of_it(site: &Site, tools: &Path) {
    let binary = fake("one", 50_000);
    let directory = site.path(&format!("for {}", tools.file_name().expect("named").display()));
    let worker = || worker_with(tools, &directory, &binary);
    let program = directory.join(name(&binary));
    assert_eq!(deploy(&worker()).expect("installs").done, Deployed::Installed, "{tools:?}");
    assert_eq!(deploy(&worker()).expect("is there").done, Deployed::AlreadyThere, "{tools:?}");
    std::fs::write(&program, b"#!/bin/sh\n").expect("written");
    let repaired = deploy(&worker()).expect("repairs");
    assert_eq!((repaired.done, repaired.facts.map(|facts| facts.cpus)), (Deployed::Installed, Some(3)), "{tools:?}");
    assert_eq!((names(&directory), mode(&program)), (vec![name(&binary)], 0o755), "{tools:?}");
    set_mode(&directory, 0o777);
    assert!(refused(deploy(&worker())).contains("writable for others"), "{tools:?}");
}

#[test]
fn any_posix_shell_will_do() {
    let site = Site::new();
    for shell in ["dash", "bash"] {
        let Some(path) = which(shell) else { continue };
        let tools = site.path(shell);
        link(&tools, "sh", &path);
        for tool in NEEDED.iter().chain(&["sha256sum", "find"]) {
            link(&tools, tool, &which(tool).expect("on every Linux"));
        }
        all_of_it(&site, &tools);
    }
}

#[test]
fn busybox_alone_will_do() {
    let Some(busybox) = which("busybox") else { return };
    let site = Site::new();
    let tools = site.path("busybox");
    let list = std::process::Command::new(&busybox).arg("--list").output().expect("runs");
    for applet in String::from_utf8_lossy(&list.stdout).split_whitespace() {
        link(&tools, applet, &busybox);
    }
    all_of_it(&site, &tools);
}

/// Each of the programs that compute checksums, and none.
#[test]
fn one_program_for_checksums_is_enough() {
    let site = Site::new();
    let shell = which("dash").or_else(|| which("bash")).expect("a shell that does not bring programs of its own");
    for sums in ["sha256sum", "busybox", "shasum", "openssl", "none"] {
        let tools = site.path(sums);
        link(&tools, "sh", &shell);
        for tool in NEEDED {
            link(&tools, tool, &which(tool).expect("on every Linux"));
        }
        if sums == "none" {
            let error = refused(deploy(&worker_with(&tools, &site.path("bin"), &fake("one", 0))));
            assert!(error.contains("nothing here computes a SHA-256: install one of sha256sum"), "{error}");
            assert!(names(&site.path("bin")).is_empty());
        } else if let Some(path) = which(sums) {
            link(&tools, sums, &path);
            // A Perl script.
            link(&tools, "perl", Path::new("/usr/bin/perl"));
            all_of_it(&site, &tools);
        }
    }
}

#[test]
fn other_missing_tools_are_named() {
    let site = Site::new();
    for missing in NEEDED {
        let tools = site.path(missing);
        link(&tools, "sh", &which("dash").or_else(|| which("bash")).expect("a shell"));
        for tool in NEEDED.iter().chain(&["sha256sum"]).filter(|tool| **tool != missing) {
            link(&tools, tool, &which(tool).expect("on every Linux"));
        }
        let directory = site.path(&format!("bin-{missing}"));
        let result = deploy(&worker_with(&tools, &directory, &fake("one", 0)));
        // Removing is for the rare case only.
        match (missing, result) {
            ("rm", Ok(_)) => {}
            (_, Ok(deployment)) => panic!("without {missing}: {deployment:?}"),
            (_, Err(error)) => assert!(error.text().contains(missing), "{missing}: {}", error.text()),
        }
        assert!(missing == "rm" || !directory.join(name(&fake("one", 0))).exists(), "{missing}");
    }
}
