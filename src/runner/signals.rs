//! The signals of a runner, as descriptors to wait for.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;

use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::low_level::pipe;

#[derive(Debug)]
pub(crate) struct Signals {
    pub(crate) stop: UnixStream,
    pub(crate) child: UnixStream,
}

impl Signals {
    /// From here on no signal that listers and dispatchers send ends this process. They have their defaults again in the job.
    pub(crate) fn install() -> io::Result<Self> {
        let channel = |signals: &[i32]| -> io::Result<UnixStream> {
            let (read, write) = UnixStream::pair()?;
            read.set_nonblocking(true)?;
            for signal in signals {
                pipe::register(*signal, write.try_clone()?)?;
            }
            Ok(read)
        };
        // SIGUSR2 means new prices to a crunch-run. Ours has no use for them: its dispatcher counts the cost.
        channel(&[SIGUSR1, SIGUSR2, SIGHUP])?;
        let signals = Self { stop: channel(&[SIGTERM, SIGINT, SIGQUIT])?, child: channel(&[SIGCHLD])? };
        listers(SigmaskHow::SIG_UNBLOCK)?;
        Ok(signals)
    }
}

/// Keeps SIGUSR1 and SIGUSR2 from a process that is started by this one until it has handlers for them: listers of other runner
/// versions send them to whatever process a lock file names (spec 50 §5). Blocked is inherited through exec like ignored is, and can
/// be said without `unsafe`.
pub(crate) fn hold_listers_off() -> io::Result<()> {
    listers(SigmaskHow::SIG_BLOCK)
}

fn listers(how: SigmaskHow) -> io::Result<()> {
    let signals: SigSet = [Signal::SIGUSR1, Signal::SIGUSR2].into_iter().collect();
    signals.thread_swap_mask(how).map(drop).map_err(io::Error::from)
}

/// True if a signal came; empties the channel.
pub(crate) fn arrived(mut channel: &UnixStream) -> bool {
    let mut buffer = [0; 64];
    let mut any = false;
    while matches!(channel.read(&mut buffer), Ok(1..)) {
        any = true;
    }
    any
}
