//! The daemon dies in the middle, and comes back.

use crate::daemon::{Demo, Failure, launch};

impl Demo {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn kill_9(&mut self) -> Result<(), Failure> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    pub(crate) fn start_again(&mut self) -> Result<(), Failure> {
        self.child = launch(&self.program, &self.config, &self.log)?;
        self.wait_until_ready()
    }
}
