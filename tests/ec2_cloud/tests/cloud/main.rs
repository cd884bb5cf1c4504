//! EC2 on this machine, tried without the program that it is for: the API, the proxy, and real logins to instances.

mod credentials;
mod eventual;
mod machines;
mod moto;
mod proxy;
mod support;
