//! A host's folder: the machine's root directory, the files that differ from the caller's, and the mounts between them.
//!
//! ```text
//! muster-ssh-host-XXXXXX/
//!   fs/           the machine's root: run, home, root (and tmp) are its own; every other directory is the caller's, mounted
//!   var-lib/      mounted over var/lib
//!   etc/          files that are mounted over the caller's: passwd, group, …, and the directory ssh
//!   usr-bin/ …    only where programs are to be missing: in the place of /usr/bin
//!   fstab         the mounts, in order
//!   server.log, setup.log
//! ```

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::files::{self, User};
use crate::options::{HostOptions, Login, Server, Shell, Sudo};

/// Directories that are the machine's own, as directories of its root.
const OWN: [&str; 3] = ["run", "home", "root"];

/// The folder, laid out; mounting is the holder's work.
#[derive(Debug)]
pub(crate) struct Layout {
    pub(crate) folder: PathBuf,
    pub(crate) user: User,
    /// The server's program as the machine sees it.
    pub(crate) server: String,
    /// `unshare` as the machine sees it.
    pub(crate) unshare: String,
    /// Where the server listens.
    pub(crate) address: Ipv4Addr,
    /// The directory that is a small disk, as the machine sees it.
    pub(crate) disk: Option<String>,
    fstab: String,
}

impl Layout {
    /// Everything but the server's configuration and keys, whose directory is there.
    pub(crate) fn make(folder: &Path, options: &HostOptions, name: &str) -> io::Result<Self> {
        let user = User::of(options.login)?;
        let (server, package) = match options.server {
            Server::OpenSsh => ("sshd", "openssh-server"),
            Server::Dropbear => ("dropbear", "dropbear-bin"),
        };
        let mut layout = Self {
            folder: folder.to_owned(),
            user,
            server: program(server, package)?,
            unshare: program("unshare", "util-linux")?,
            address: Ipv4Addr::LOCALHOST,
            disk: None,
            fstab: String::new(),
        };
        layout.root_directory(options)?;
        layout.own_directories(options)?;
        layout.own_files(options, name)?;
        if options.shell == Shell::Busybox {
            layout.only_busybox(options)?;
        } else if options.sudo == Sudo::Missing {
            layout.no_sudo()?;
        }
        write_file(&folder.join("fstab"), &layout.fstab, 0o600)?;
        Ok(layout)
    }

    /// Where something of the machine is for the caller: for `/run`, `/home`, `/root`, `/var/lib`, `/etc/ssh`.
    pub(crate) fn outside(&self, inside: &str) -> Option<PathBuf> {
        let below = |inside: &str, folder: PathBuf| match inside.strip_prefix('/') {
            Some(rest) => Some(folder.join(rest)),
            None => inside.is_empty().then_some(folder),
        };
        for (prefix, folder) in [("/var/lib", "var-lib"), ("/etc/ssh", "etc/ssh"), ("/tmp", "fs/tmp")] {
            if let Some(rest) = inside.strip_prefix(prefix).filter(|_| self.folder.join(folder).is_dir()) {
                return if prefix == "/tmp" && !self.has_own_tmp() {
                    None
                } else {
                    below(rest, self.folder.join(folder))
                };
            }
        }
        OWN.iter().find_map(|name| {
            let rest = inside.strip_prefix('/')?.strip_prefix(name)?;
            below(rest, self.folder.join("fs").join(name))
        })
    }

    fn has_own_tmp(&self) -> bool {
        !self.fstab.lines().any(|line| line.starts_with("/tmp "))
    }

    fn mount(&mut self, kind: &str, source: &Path, target: &str) {
        let target = self.folder.join("fs").join(target);
        let (source, target) = (escape(source.as_os_str()), escape(target.as_os_str()));
        writeln!(self.fstab, "{source} {target} none {kind} 0 0").expect("a string takes everything");
    }

    /// The root as a mount point, and in it the caller's directories and links.
    fn root_directory(&mut self, options: &HostOptions) -> io::Result<()> {
        let root = self.folder.join("fs");
        make_dir(&root, 0o755)?;
        self.mount("bind", &root, "");
        for entry in fs::read_dir("/")? {
            let entry = entry?;
            let name = entry.file_name();
            let own = OWN.iter().any(|own| name == *own) || (options.private_tmp && name == "tmp");
            if own || name == "lost+found" {
                continue;
            }
            let kind = entry.file_type()?;
            if kind.is_symlink() {
                symlink(fs::read_link(entry.path())?, root.join(&name))?;
            } else if kind.is_dir() {
                make_dir(&root.join(&name), 0o755)?;
                self.mount("rbind", &entry.path(), &name.to_string_lossy());
            }
        }
        Ok(())
    }

    fn own_directories(&mut self, options: &HostOptions) -> io::Result<()> {
        let root = self.folder.join("fs");
        make_dir(&root.join("run"), 0o755)?;
        make_dir(&root.join("home"), 0o755)?;
        make_dir(&root.join("root"), 0o700)?;
        if options.private_tmp {
            make_dir(&root.join("tmp"), 0o1777)?;
        }
        for (link, target) in [("var/run", "run"), ("var/lock", "run/lock")] {
            if !Path::new("/").join(link).is_symlink() && Path::new("/").join(link).is_dir() {
                self.mount("bind", &root.join(target), link);
            }
        }
        let lib = self.folder.join("var-lib");
        make_dir(&lib, 0o755)?;
        self.mount("bind", &lib, "var/lib");
        self.home(options)?;
        self.small_disk(options)?;
        self.fill_run()
    }

    /// What a machine has in `/run` when it has started.
    fn fill_run(&self) -> io::Result<()> {
        let run = self.folder.join("fs/run");
        for (path, mode) in [("lock", 0o1777), ("sshd", 0o755), ("user", 0o755)] {
            make_dir(&run.join(path), mode)?;
        }
        if self.user.uid != 0 {
            let folder = run.join(format!("user/{}", self.user.uid));
            make_dir(&folder, 0o700)?;
            chown(&folder, Some(self.user.uid), Some(self.user.gid)).map_err(|error| named(&folder, &error))?;
        }
        Ok(())
    }

    /// Where a runner of the login keeps its attempts.
    fn small_disk(&mut self, options: &HostOptions) -> io::Result<()> {
        let Some(mebibytes) = options.small_disk else { return Ok(()) };
        let disk = match options.login {
            Login::Caller if self.user.uid != 0 => format!("{}/.local", self.user.home),
            _ => "/var/lib".to_owned(),
        };
        let place = self.folder.join("fs").join(disk.trim_start_matches('/'));
        if disk != "/var/lib" {
            make_dir(&place, 0o755)?;
        }
        let place = escape(place.as_os_str());
        writeln!(self.fstab, "tmpfs {place} tmpfs size={mebibytes}m,mode=0755 0 0").expect("a string takes everything");
        self.disk = Some(disk);
        Ok(())
    }

    /// `/run` as after a start; nothing may use it.
    pub(crate) fn empty_run(&self) -> io::Result<()> {
        for entry in fs::read_dir(self.folder.join("fs/run"))? {
            let path = entry?.path();
            if path.is_dir() && !path.is_symlink() { fs::remove_dir_all(&path)? } else { fs::remove_file(&path)? }
        }
        self.fill_run()
    }

    /// The login's home with its keys.
    fn home(&self, options: &HostOptions) -> io::Result<()> {
        let root = self.folder.join("fs");
        let home = root.join(self.user.home.trim_start_matches('/'));
        let mut made = vec![home.clone(), home.join(".ssh")];
        if self.user.home != "/root" {
            make_dir(&home, 0o755)?;
        }
        make_dir(&home.join(".ssh"), 0o700)?;
        let keys: String = options.client_keys.iter().map(|key| format!("{key}\n")).collect();
        write_file(&home.join(".ssh/authorized_keys"), &keys, 0o600)?;
        made.push(home.join(".ssh/authorized_keys"));
        if options.noisy {
            // All that shells read, those that log in and those that do not; only the first is read here.
            for name in [".bashrc", ".bash_profile", ".profile", ".cshrc"] {
                write_file(&home.join(name), files::NOISY_BASHRC, 0o644)?;
                made.push(home.join(name));
            }
            if options.server == Server::OpenSsh {
                write_file(&home.join(".ssh/rc"), files::NOISY_RC, 0o644)?;
                made.push(home.join(".ssh/rc"));
            }
        }
        for path in made {
            chown(&path, Some(self.user.uid), Some(self.user.gid)).map_err(|error| named(&path, &error))?;
        }
        Ok(())
    }

    fn own_files(&mut self, options: &HostOptions, name: &str) -> io::Result<()> {
        let etc = self.folder.join("etc");
        make_dir(&etc, 0o755)?;
        let shell = if options.shell == Shell::Bash { "/bin/bash" } else { "/bin/sh" };
        for (file, text, mode) in [
            ("passwd", files::passwd(&self.user, shell)?, 0o644),
            ("group", files::group(&self.user)?, 0o644),
            ("shadow", files::shadow(&self.user), 0o600),
            ("hosts", files::hosts(name)?, 0o644),
            ("hostname", format!("{name}\n"), 0o644),
            ("shells", "/bin/sh\n/bin/bash\n".to_owned(), 0o644),
            ("sudoers", files::sudoers(options), 0o440),
        ] {
            write_file(&etc.join(file), &text, mode)?;
            // What the caller's machine lacks has no place to be mounted on, and nothing there that reads it.
            if Path::new("/etc").join(file).exists() {
                self.mount("bind", &etc.join(file), &format!("etc/{file}"));
            }
        }
        make_dir(&etc.join("ssh"), 0o755)?;
        // With what is mounted in it.
        self.mount("rbind", &etc.join("ssh"), "etc/ssh");
        Ok(())
    }

    /// In the place of all programs: busybox's applets, the server, and sudo where that is asked for.
    fn only_busybox(&mut self, options: &HostOptions) -> io::Result<()> {
        let busybox = program("busybox", "busybox-static")?;
        let (bin, sbin, none) =
            (self.folder.join("usr-bin"), self.folder.join("usr-sbin"), self.folder.join("nothing"));
        for folder in [&bin, &sbin, &none] {
            make_dir(folder, 0o755)?;
        }
        let wanted = |applet: &&str| *applet == "sh" || options.applets.is_none_or(|applets| applets.contains(applet));
        let all = run(Command::new(&busybox).arg("--list"))?;
        for applet in all.lines().filter(|applet| *applet != "busybox").filter(wanted) {
            symlink("/usr/bin/busybox", bin.join(applet))?;
        }
        self.put(&bin, "busybox", &busybox)?;
        if options.login == Login::Worker && options.sudo != Sudo::Missing {
            self.put(&bin, "sudo", &program("sudo", "sudo")?)?;
        }
        let server = self.server.clone();
        let name = server.rsplit('/').next().unwrap_or_default().to_owned();
        self.put(&sbin, &name, &server)?;
        // Where no PATH leads: only the harness calls it.
        let (hidden, unshare) = (self.folder.join("etc/ssh"), self.unshare.clone());
        self.put(&hidden, "unshare", &unshare)?;
        for (place, folder) in [
            ("usr/bin", &bin),
            ("usr/sbin", &sbin),
            ("usr/local/bin", &none),
            ("usr/local/sbin", &none),
            ("usr/games", &none),
            ("bin", &bin),
            ("sbin", &sbin),
        ] {
            let there = Path::new("/").join(place);
            if there.is_dir() && !there.is_symlink() {
                self.mount("rbind", folder, place);
            }
        }
        (self.server, self.unshare) = (format!("/usr/sbin/{name}"), "/etc/ssh/unshare".to_owned());
        Ok(())
    }

    /// A program by itself in a folder that is to be mounted: by a mount, since the folder's own may forbid programs.
    fn put(&mut self, folder: &Path, name: &str, original: &str) -> io::Result<()> {
        let place = folder.join(name);
        write_file(&place, "", 0o755)?;
        let line = format!("{} {} none bind 0 0\n", escape(original.as_ref()), escape(place.as_os_str()));
        // Before the mount of its folder, which takes it along.
        self.fstab.insert_str(0, &line);
        Ok(())
    }

    /// `/usr/bin` as links to all its programs but sudo.
    fn no_sudo(&mut self) -> io::Result<()> {
        let links = self.folder.join("usr-bin");
        make_dir(&links, 0o755)?;
        make_dir(&self.folder.join("fs/.programs"), 0o755)?;
        for entry in fs::read_dir("/usr/bin")? {
            let name = entry?.file_name();
            if name != "sudo" && name != "sudoedit" {
                symlink(Path::new("/.programs").join(&name), links.join(&name))?;
            }
        }
        self.mount("rbind", Path::new("/usr/bin"), ".programs");
        self.mount("bind", &links, "usr/bin");
        Ok(())
    }
}

/// A new folder for its owner only. Not below what a host has of its own, since a host could not mount it from there.
pub(crate) fn private_folder(prefix: &str) -> io::Result<tempfile::TempDir> {
    let usual = std::env::temp_dir();
    let own = ["/run", "/var/lib", "/home", "/root", "/etc", "/usr"].iter().any(|folder| usual.starts_with(folder));
    let base = if own { PathBuf::from("/tmp") } else { usual };
    let owner_only = fs::Permissions::from_mode(0o700);
    let folder = tempfile::Builder::new().prefix(prefix).permissions(owner_only).tempdir_in(&base);
    folder.map_err(|error| named(&base, &error))
}

/// In the form of fstab(5).
fn escape(path: &OsStr) -> String {
    let mut text = String::new();
    for byte in path.as_bytes() {
        match byte {
            b' ' | b'\t' | b'\n' | b'\\' => write!(text, "\\{byte:03o}").expect("a string takes everything"),
            byte => text.push(char::from(*byte)),
        }
    }
    text
}

/// The place of a program, also where the caller's PATH lacks the directories for administrators.
pub(crate) fn program(name: &str, package: &str) -> io::Result<String> {
    let path = std::env::var("PATH").unwrap_or_default();
    let places = path.split(':').chain(["/usr/sbin", "/usr/bin", "/sbin", "/bin", "/usr/local/sbin"]);
    let found = places.filter(|folder| folder.starts_with('/')).map(|folder| format!("{folder}/{name}"));
    found.into_iter().find(|file| Path::new(file).is_file()).ok_or_else(|| {
        io::Error::new(io::ErrorKind::NotFound, format!("{name} is not installed here; please install {package}"))
    })
}

/// Runs a short command to its end; gives its output.
pub(crate) fn run(command: &mut Command) -> io::Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().map_err(|error| named(Path::new(&name), &error))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(io::Error::other(format!("{name}: {}: {}", output.status, said.trim())));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A new directory, whatever the umask.
pub(crate) fn make_dir(path: &Path, mode: u32) -> io::Result<()> {
    fs::create_dir(path).map_err(|error| named(path, &error))?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(|error| named(path, &error))
}

/// A file, whatever the umask.
pub(crate) fn write_file(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    fs::write(path, text).map_err(|error| named(path, &error))?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(|error| named(path, &error))
}

pub(crate) fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}
