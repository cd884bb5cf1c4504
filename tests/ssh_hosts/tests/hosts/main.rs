//! The harness itself, with real logins through the `ssh` program. As root everything; as anybody else what they can have.

mod logins;
mod machines;
mod networks;
mod proxy;
mod servers;
mod support;
