//! Opening the addresses: the first TCP address that this host has, and a Unix socket that only its owner can open.
//! Spec 82 §1, 80 §5.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use super::stream::Stream;

const SERVICE: &str = "arvados-dispatch-cloud";

/// One open address.
#[derive(Debug)]
pub enum Listener {
    Tcp(TcpListener),
    Unix(OwnSocket),
}

impl Listener {
    pub fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(listener) => listener.as_fd(),
            Self::Unix(socket) => socket.listener.as_fd(),
        }
    }

    /// A connection and its peer's address for logs; `WouldBlock` if none waits.
    pub fn accept(&self) -> io::Result<(Stream, String)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept()?;
                Ok((Stream::tcp(stream)?, peer.to_string()))
            }
            Self::Unix(socket) => {
                let (stream, _) = socket.listener.accept()?;
                Ok((Stream::unix(stream)?, "unix".to_owned()))
            }
        }
    }

    /// Whoever can open it owns the queue, so no token is asked for.
    pub fn is_trusted(&self) -> bool {
        matches!(self, Self::Unix(_))
    }

    pub fn tcp_address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr().ok(),
            Self::Unix(_) => None,
        }
    }
}

/// Binds the first of `addresses` (`host:port`) that can be.
///
/// # Errors
/// The texts of spec 82 §1; the kind is that of the last failure.
pub fn listen_tcp(addresses: &[String]) -> io::Result<Listener> {
    let mut failures: Vec<String> = Vec::new();
    let mut kind = io::ErrorKind::AddrNotAvailable;
    for address in addresses {
        match TcpListener::bind(address.as_str()) {
            Ok(listener) => {
                listener.set_nonblocking(true)?;
                return Ok(Listener::Tcp(listener));
            }
            // The address of another host of the cluster.
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {}
            Err(error) => {
                kind = error.kind();
                failures.push(format!("{address}: {error}"));
            }
        }
    }
    let text = if failures.is_empty() {
        format!("configuration does not enable the \"{SERVICE}\" service on this host")
    } else {
        format!("could not enable the \"{SERVICE}\" service on this host: {}", failures.join("; "))
    };
    Err(io::Error::new(kind, text))
}

/// A Unix socket that is removed when it is dropped, unless another has taken its name.
#[derive(Debug)]
pub struct OwnSocket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode.
    identity: (u64, u64),
}

impl Drop for OwnSocket {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|found| (found.dev(), found.ino()) == self.identity) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Makes the socket `path` with mode 0600, in place of one that a killed daemon has left.
///
/// It is bound inside a directory that nobody else can enter and then renamed, so at no moment could others connect, and
/// clients find the old socket or the new one.
///
/// # Errors
/// Name the path; among others when something that is not a socket has its name.
pub fn listen_unix(path: &Path) -> io::Result<Listener> {
    let named = |error: io::Error| {
        io::Error::new(error.kind(), format!("cannot listen on the socket {}: {error}", path.display()))
    };
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(named(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "something that is not a socket has this name; move it away",
            )));
        }
        _ => {}
    }
    let folder = path.with_extension("new");
    let temporary = folder.join("s");
    let listener = bind_in(&folder, &temporary).and_then(|listener| {
        fs::rename(&temporary, path)?;
        Ok(listener)
    });
    let _ = fs::remove_file(&temporary);
    let _ = fs::remove_dir(&folder);
    let listener = listener.map_err(named)?;
    let found = fs::symlink_metadata(path).map_err(named)?;
    Ok(Listener::Unix(OwnSocket { listener, path: path.to_owned(), identity: (found.dev(), found.ino()) }))
}

fn bind_in(folder: &Path, socket: &Path) -> io::Result<UnixListener> {
    // What a killed daemon may have left; in StateDir, whose lock is ours.
    let _ = fs::remove_file(socket);
    let _ = fs::remove_dir(folder);
    fs::DirBuilder::new().mode(0o700).create(folder)?;
    let listener = UnixListener::bind(socket)?;
    fs::set_permissions(socket, fs::Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn socket_is_private_replaces_a_stale_one_and_goes_with_its_owner() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("muster.sock");
        drop(UnixListener::bind(&path).unwrap());
        let first = listen_unix(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        UnixStream::connect(&path).unwrap();
        let second = listen_unix(&path).unwrap();
        drop(first);
        UnixStream::connect(&path).unwrap();
        drop(second);
        assert!(!path.exists());
    }

    #[test]
    fn other_files_are_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("muster.sock");
        fs::write(&path, "precious").unwrap();
        let error = listen_unix(&path).unwrap_err().to_string();
        assert!(error.contains("not a socket") && error.contains("muster.sock"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"precious");
        let error = listen_unix(&folder.path().join("none/muster.sock")).unwrap_err().to_string();
        assert!(error.contains("none/muster.sock"), "{error}");
    }

    #[test]
    fn first_tcp_address_of_this_host_wins() {
        let listen =
            |addresses: &[&str]| listen_tcp(&addresses.iter().map(|one| (*one).to_owned()).collect::<Vec<_>>());
        // 192.0.2.0/24 is for documentation: no host has it.
        let listener = listen(&["192.0.2.1:80", "127.0.0.1:0"]).unwrap();
        let taken = listener.tcp_address().unwrap();
        assert!(taken.ip().is_loopback());
        let nothing = listen(&["192.0.2.1:80"]).unwrap_err();
        assert_eq!(
            nothing.to_string(),
            "configuration does not enable the \"arvados-dispatch-cloud\" service on this host"
        );
        let busy = listen(&["192.0.2.1:80", &taken.to_string()]).unwrap_err();
        assert_eq!(busy.kind(), io::ErrorKind::AddrInUse);
        let text = busy.to_string();
        assert!(
            text.starts_with("could not enable the \"arvados-dispatch-cloud\" service on this host: 127."),
            "{text}"
        );
    }
}
