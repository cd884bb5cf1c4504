//! The dispatcher's SSH key against the programs that others use: ssh-keygen, openssl, sshd.

mod first_start;
mod formats;
mod login;
mod mutations;
mod refused;
mod tools;
