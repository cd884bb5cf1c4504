//! A podman with a store of the test's own, and an image made of a static busybox.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

pub(crate) const IMAGE: &str = "localhost/muster-test:1";

/// Containers that are left at its end are removed.
pub(crate) struct Store {
    dir: PathBuf,
    globals: Vec<String>,
}

impl Store {
    /// Beneath `dir`, with [`IMAGE`] in it.
    pub(crate) fn new(dir: &Path) -> Self {
        let path = |name: &str| dir.join(name).to_string_lossy().into_owned();
        // What it takes on machines without a newer kernel's control groups and without a network.
        let globals = format!(
            "--root {} --runroot {} --storage-driver vfs --runtime runc --cgroup-manager=cgroupfs",
            path("store"),
            path("run")
        );
        let store = Self { dir: dir.to_owned(), globals: globals.split_whitespace().map(str::to_owned).collect() };
        store.import_image();
        store
    }

    /// As `Muster.Runner.EngineArguments`: options of the program, `run`, options of the container.
    pub(crate) fn engine_arguments(&self) -> Vec<String> {
        let options = "run --ulimit nofile=20000:20000 --ulimit nproc=32768:32768 --network=none";
        self.globals.iter().cloned().chain(options.split_whitespace().map(str::to_owned)).collect()
    }

    pub(crate) fn podman(&self, arguments: &[&str]) -> String {
        let output = Command::new("podman").args(&self.globals).args(arguments).output().expect("podman is installed");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    }

    fn import_image(&self) {
        let tree = self.dir.join("tree");
        for dir in ["bin", "etc", "tmp"] {
            fs::create_dir_all(tree.join(dir)).expect("made");
        }
        let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| Path::new(path).exists());
        fs::copy(busybox.expect("busybox-static is installed"), tree.join("bin/busybox")).expect("copied");
        for name in ["sh", "cat", "dd", "echo", "env", "id", "kill", "ls", "pwd", "sleep", "touch", "true", "wc"] {
            std::os::unix::fs::symlink("busybox", tree.join("bin").join(name)).expect("linked");
        }
        fs::write(tree.join("etc/passwd"), "root:x:0:0::/:/bin/sh\n").expect("written");
        let archive = self.dir.join("image.tar");
        let tar = Command::new("tar").arg("-C").arg(&tree).arg("-cf").arg(&archive).arg(".").status();
        assert!(tar.expect("tar is installed").success());
        self.podman(&["import", "--quiet", archive.to_str().expect("text"), IMAGE]);
    }

    /// Nothing of any container is left in the engine.
    pub(crate) fn assert_empty(&self) {
        assert_eq!(self.podman(&["ps", "--all", "--quiet"]), "");
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        let _ = Command::new("podman").args(&self.globals).args(["rm", "--all", "--force"]).output();
    }
}
