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
    /// Bytes that may still be written before it is cut.
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

    /// Counts written bytes; the last one allowed cuts.
    fn spend(&self, bytes: usize) {
        let mut state = self.state();
        let Some(budget) = state.budget.as_mut() else { return };
        *budget = budget.saturating_sub(bytes);
        if *budget == 0 {
            drop(state);
            self.cut();
        }
    }

    /// Cut once this many more bytes are written.
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

fn cut() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, "cut on purpose")
}

impl AsyncRead for Transport {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        {
            let mut state = self.link.state();
            if state.cut {
                return Poll::Ready(Err(cut()));
            }
            state.reader = Some(cx.waker().clone());
            if state.frozen {
                return Poll::Pending;
            }
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
