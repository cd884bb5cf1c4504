//! Accepting connections, and what may go wrong before the first encrypted byte.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::host::{LISTENER_LIMIT, Shared};
use crate::options::ConnectFault;
use crate::session::Session;
use crate::transport::{Link, Transport};

const BACKLOG: u32 = 1024;
const BANNER: &[u8] = b"SSH-2.0-fake\r\n";

/// A socket that is bound and does not listen: it holds a port and refuses connections.
pub(crate) fn bind(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    // The port may have connections of its former listener.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

/// Serves a host until the runtime ends.
pub(crate) async fn serve(shared: Arc<Shared>, mut port: TcpSocket) {
    let mut changes = shared.faults.subscribe();
    loop {
        let refuses = || shared.faults.borrow().connect == Some(ConnectFault::Refuse);
        while refuses() {
            shared.change(|state| state.listening = false);
            if changes.changed().await.is_err() {
                return;
            }
        }
        let listener = port.listen(BACKLOG).expect("a bound socket can listen");
        shared.change(|state| state.listening = true);
        while !refuses() {
            let frozen = changes.borrow_and_update().frozen;
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                accepted = listener.accept(), if !frozen => match accepted {
                    Ok((stream, _)) => accept(&shared, stream),
                    // No descriptor is left, or the client has gone meanwhile.
                    Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                },
            }
        }
        drop(listener);
        port = bind_again(shared.address).await;
    }
}

/// A process that is being started by this one has the listening socket, too, until it runs its program.
async fn bind_again(address: SocketAddr) -> TcpSocket {
    let until = Instant::now() + LISTENER_LIMIT;
    loop {
        match bind(address) {
            Ok(socket) => return socket,
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < until => {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            Err(error) => panic!("cannot bind {address} again: {error}"),
        }
    }
}

fn accept(shared: &Arc<Shared>, stream: TcpStream) {
    let Some(link) = shared.connected() else { return };
    let shared = Arc::clone(shared);
    tokio::spawn(async move {
        // Who breaks off is not our business.
        let _ = connection(&shared, stream, link).await;
        shared.change(|state| state.counters.connections_now -= 1);
    });
}

async fn connection(shared: &Arc<Shared>, stream: TcpStream, link: Arc<Link>) -> Result<(), russh::Error> {
    stream.set_nodelay(true)?;
    let faults = shared.faults.borrow().clone();
    let mut stream = Transport { stream, link: Arc::clone(&link) };
    match faults.connect {
        None | Some(ConnectFault::Refuse) => {}
        Some(ConnectFault::Close) => return Ok(()),
        Some(ConnectFault::Silent) => return Ok(swallow(stream).await?),
        Some(ConnectFault::SlowBanner(time)) => tokio::time::sleep(time).await,
        Some(ConnectFault::CloseAfterBanner) => {
            stream.write_all(BANNER).await?;
            return Ok(stream.shutdown().await?);
        }
        Some(ConnectFault::HangInHandshake) => {
            stream.write_all(BANNER).await?;
            return Ok(swallow(stream).await?);
        }
        Some(ConnectFault::NoSsh) => {
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n").await?;
            return Ok(stream.shutdown().await?);
        }
    }
    let config = Arc::clone(&shared.configs[usize::from(faults.other_host_key)]);
    let session = Session::new(Arc::clone(shared), link);
    russh::server::run_stream(config, stream, session).await?.await
}

/// Reads until the client goes.
async fn swallow(mut stream: Transport) -> io::Result<()> {
    let mut buffer = [0; 1024];
    while stream.read(&mut buffer).await? > 0 {}
    Ok(())
}
