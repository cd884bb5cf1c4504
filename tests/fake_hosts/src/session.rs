//! What russh asks of a server: who may log in, and what channels may do.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use russh::keys::PublicKey;
use russh::server::{Auth, ChannelOpenHandle, Handler, Msg, Session as Connection};
use russh::{Channel, ChannelId, ChannelOpenFailure, MethodKind, MethodSet, Pty};

use crate::exec;
use crate::host::Shared;
use crate::options::ExecFault;
use crate::transport::Link;

/// One connection.
#[derive(Debug)]
pub(crate) struct Session {
    shared: Arc<Shared>,
    link: Arc<Link>,
    /// With the channel itself until it has a command; one whose command hangs stays here.
    channels: HashMap<ChannelId, (Arc<OpenChannel>, Option<Channel<Msg>>)>,
    asked: bool,
}

/// Counts a channel as open until either side has closed it, or the connection ends.
#[derive(Debug)]
pub(crate) struct OpenChannel {
    shared: Arc<Shared>,
    open: AtomicBool,
}

impl OpenChannel {
    fn new(shared: &Arc<Shared>) -> Arc<Self> {
        shared.change(|state| {
            let counters = &mut state.counters;
            counters.channels_now += 1;
            counters.channels_most = counters.channels_most.max(counters.channels_now);
        });
        Arc::new(Self { shared: Arc::clone(shared), open: AtomicBool::new(true) })
    }

    pub(crate) fn close(&self) {
        if self.open.swap(false, Ordering::Relaxed) {
            self.shared.change(|state| state.counters.channels_now -= 1);
        }
    }
}

type Result<T> = std::result::Result<T, russh::Error>;

impl Session {
    pub(crate) fn new(shared: Arc<Shared>, link: Arc<Link>) -> Self {
        Self { shared, link, channels: HashMap::new(), asked: false }
    }

    /// Whoever asks to log in has been through the key exchange.
    fn asks(&mut self) {
        if !std::mem::replace(&mut self.asked, true) {
            self.shared.change(|state| state.counters.handshakes += 1);
        }
    }

    fn may_log_in(&mut self, user: &str, key: &PublicKey) -> bool {
        self.asks();
        let Shared { options, client_key, faults, .. } = &*self.shared;
        let known = client_key.as_ref().is_none_or(|known| known.key_data() == key.key_data());
        known && options.user.as_ref().is_none_or(|name| name == user) && !faults.borrow().refuse_auth
    }

    fn refuse(&self) -> Auth {
        self.shared.change(|state| state.counters.auths_refused += 1);
        only_keys()
    }
}

fn only_keys() -> Auth {
    let methods = MethodSet::from(&[MethodKind::PublicKey][..]);
    Auth::Reject { proceed_with_methods: Some(methods), partial_success: false }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.channels.values().for_each(|(open, _)| open.close());
    }
}

impl Handler for Session {
    type Error = russh::Error;

    async fn auth_none(&mut self, _user: &str) -> Result<Auth> {
        self.asks();
        Ok(only_keys())
    }

    async fn auth_publickey_offered(&mut self, user: &str, key: &PublicKey) -> Result<Auth> {
        Ok(if self.may_log_in(user, key) { Auth::Accept } else { self.refuse() })
    }

    async fn auth_publickey(&mut self, user: &str, key: &PublicKey) -> Result<Auth> {
        if !self.may_log_in(user, key) {
            return Ok(self.refuse());
        }
        self.shared.change(|state| state.counters.auths += 1);
        Ok(Auth::Accept)
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _connection: &mut Connection,
    ) -> Result<()> {
        if self.shared.faults.borrow().refuse_channels {
            reply.reject(ChannelOpenFailure::ResourceShortage).await;
            return Ok(());
        }
        // The client's answer to a close of ours is not told to us.
        self.channels.retain(|_, (open, _)| open.open.load(Ordering::Relaxed));
        self.channels.insert(channel.id(), (OpenChannel::new(&self.shared), Some(channel)));
        reply.accept().await;
        Ok(())
    }

    async fn channel_close(&mut self, channel: ChannelId, _connection: &mut Connection) -> Result<()> {
        if let Some((open, _)) = self.channels.remove(&channel) {
            open.close();
        }
        Ok(())
    }

    async fn exec_request(&mut self, id: ChannelId, line: &[u8], connection: &mut Connection) -> Result<()> {
        let line = String::from_utf8_lossy(line).into_owned();
        self.shared.command(&line);
        let faults = self.shared.faults.borrow().clone();
        let concerned = line.contains(&faults.exec_if);
        let Some((open, kept)) = self.channels.get_mut(&id) else { return Ok(()) };
        match faults.exec {
            Some(ExecFault::Hang) if concerned => return connection.channel_success(id),
            Some(ExecFault::Refuse) if concerned => return connection.channel_failure(id),
            _ => {}
        }
        let Some(channel) = kept.take() else { return connection.channel_failure(id) };
        connection.channel_success(id)?;
        let (shared, link, open) = (Arc::clone(&self.shared), Arc::clone(&self.link), Arc::clone(open));
        let handle = connection.handle();
        tokio::spawn(async move {
            exec::run(shared, link, handle, channel, line, faults).await;
            open.close();
        });
        Ok(())
    }

    async fn env_request(&mut self, id: ChannelId, _: &str, _: &str, connection: &mut Connection) -> Result<()> {
        connection.channel_failure(id)
    }

    async fn shell_request(&mut self, id: ChannelId, connection: &mut Connection) -> Result<()> {
        connection.channel_failure(id)
    }

    async fn subsystem_request(&mut self, id: ChannelId, _: &str, connection: &mut Connection) -> Result<()> {
        connection.channel_failure(id)
    }

    async fn pty_request(
        &mut self,
        id: ChannelId,
        _term: &str,
        _columns: u32,
        _rows: u32,
        _width: u32,
        _height: u32,
        _modes: &[(Pty, u32)],
        connection: &mut Connection,
    ) -> Result<()> {
        connection.channel_failure(id)
    }
}
