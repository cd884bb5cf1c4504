//! A TCP connection that can be cut or frozen from outside, by the byte.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// The switch of one connection.
#[derive(Debug, Default)]
pub(crate) struct Link {
    state: Mutex<LinkState>,
}

#[derive(Debug, Default)]
struct LinkState {
    cut: bool,
    frozen: bool,
    /// Bytes that may still be written. After the last one the other side sees the end of the stream, with all before it.
    budget: Option<usize>,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Link {
    fn state(&self) -> MutexGuard<'_, LinkState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut LinkState)) {
        let mut state = self.state();
        change(&mut state);
        let wakers = [state.reader.take(), state.writer.take()];
        drop(state);
        wakers.into_iter().flatten().for_each(Waker::wake);
    }

    /// Whoever reads or writes fails from now on, and so closes the connection.
    pub(crate) fn cut(&self) {
        self.change(|state| state.cut = true);
    }

    /// Counts written bytes.
    fn spend(&self, bytes: usize) {
        if let Some(budget) = self.state().budget.as_mut() {
            *budget = budget.saturating_sub(bytes);
        }
    }

    /// Ended for the client once this many more bytes are written.
    pub(crate) fn cut_after(&self, bytes: u64) {
        self.change(|state| state.budget = Some(usize::try_from(bytes).unwrap_or(usize::MAX)));
    }

    /// Nothing is read or written meanwhile.
    pub(crate) fn freeze(&self, frozen: bool) {
        self.change(|state| state.frozen = frozen);
    }
}

/// The connection with its switch.
#[derive(Debug)]
pub(crate) struct Transport {
    pub(crate) stream: TcpStream,
    pub(crate) link: Arc<Link>,
}

impl Transport {
    /// Ends our direction, and waits until the client has seen that. A close would throw away what is still on its way as soon as
    /// the client says a word more.
    fn end(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        if let Poll::Ready(Err(error)) = Pin::new(&mut self.stream).poll_shutdown(cx) {
            return Poll::Ready(error);
        }
        let mut bytes = [0; 1024];
        loop {
            let mut buffer = ReadBuf::new(&mut bytes);
            match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {}
                Poll::Ready(_) => return Poll::Ready(cut()),
            }
        }
    }
}

fn cut() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, "cut on purpose")
}

impl AsyncRead for Transport {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let ended;
        {
            let mut state = self.link.state();
            if state.cut {
                return Poll::Ready(Err(cut()));
            }
            state.reader = Some(cx.waker().clone());
            if state.frozen {
                return Poll::Pending;
            }
            ended = state.budget == Some(0);
        }
        if ended {
            return self.end(cx).map(Err);
        }
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Transport {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let allowed = {
            let mut state = self.link.state();
            if state.cut {
                return Poll::Ready(Err(cut()));
            }
            state.writer = Some(cx.waker().clone());
            if state.frozen {
                return Poll::Pending;
            }
            state.budget.unwrap_or(usize::MAX).min(bytes.len())
        };
        if allowed == 0 && !bytes.is_empty() {
            return self.end(cx).map(Err);
        }
        let written = Pin::new(&mut self.stream).poll_write(cx, &bytes[..allowed]);
        if let Poll::Ready(Ok(count)) = &written {
            self.link.spend(*count);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[test]
    fn all_that_was_allowed_arrives_although_the_client_goes_on_talking() {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("starts");
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).expect("a port is free");
        let address = listener.local_addr().expect("bound");
        let served = runtime.spawn(async move {
            let (stream, _) = listener.accept().await.expect("a client");
            let link = Arc::new(Link::default());
            link.cut_after(3_000_000);
            let mut transport = Transport { stream, link };
            let written = transport.write_all(&vec![7; 5_000_000]).await;
            (written.is_err(), transport.read_u8().await.is_err())
        });
        let mut client = std::net::TcpStream::connect(address).expect("it listens");
        let (mut bytes, mut buffer) = (0, vec![0; 100_000]);
        loop {
            match client.read(&mut buffer).expect("no reset") {
                0 => break,
                count => bytes += count,
            }
            client.write_all(b"still here").expect("it is taken");
        }
        assert_eq!(bytes, 3_000_000);
        drop(client);
        assert_eq!(runtime.block_on(served).expect("no panic"), (true, true));
    }
}
