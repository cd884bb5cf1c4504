//! Several dispatchers at once, and programs that run while they are replaced.

use std::process::{Child, Command as Process, Stdio};

use super::*;

/// A program that runs until it is dropped.
struct Running(Child);

impl Running {
    /// A copy of a real one at `path`: the kernel refuses to write to it while it runs.
    fn at(path: &Path) -> Self {
        copy_program(Path::new("/bin/sleep"), path);
        Self(Process::new(path).arg("1000").stdin(Stdio::null()).spawn().expect("starts"))
    }

    fn is_alive(&mut self) -> bool {
        self.0.try_wait().expect("a child").is_none()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn eight_deployments_of_two_versions_at_once() {
    let site = Site::new();
    let directory = site.path("bin");
    make_dir(&directory, 0o755);
    let versions = [fake("one", 400_000), fake("two", 400_000)];
    let old = directory.join("muster-runner~0");
    let mut running_old = Running::at(&old);
    for round in 0..4 {
        // The first time it is there already, damaged, and runs.
        let mut running_damaged = (round == 0).then(|| Running::at(&directory.join(name(&versions[0]))));
        std::thread::scope(|scope| {
            for number in 0..8 {
                let (directory, version) = (text(&directory), &versions[number % 2]);
                scope.spawn(move || {
                    let runner = plain(&directory, version);
                    let deployment = deploy(&runner).unwrap_or_else(|error| panic!("{number}: {}", error.text()));
                    assert!(deployment.program.ends_with(&version.sha256));
                    assert!(runner.facts().is_ok(), "it runs");
                });
            }
        });
        let mut expected: Vec<String> = versions.iter().map(name).chain(["muster-runner~0".to_owned()]).collect();
        expected.sort();
        assert_eq!(names(&directory), expected);
        for version in &versions {
            assert_eq!(std::fs::read(directory.join(name(version))).expect("there"), &*version.bytes);
            std::fs::remove_file(directory.join(name(version))).expect("there");
        }
        assert!(running_damaged.as_mut().is_none_or(Running::is_alive), "not disturbed");
    }
    assert!(running_old.is_alive());
    assert_eq!(std::fs::read(&old).expect("there"), std::fs::read("/bin/sleep").expect("there"));
}

/// The directory is being made by all of them.
#[test]
fn the_first_deployments_make_the_directory_together() {
    let site = Site::new();
    let binary = fake("one", 0);
    for round in 0..5 {
        let directory = site.path(&format!("{round}/a/b/c"));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| deploy(&plain(&text(&directory), &binary)).expect("installs"));
            }
        });
        assert_eq!(names(&directory), [name(&binary)]);
    }
}
