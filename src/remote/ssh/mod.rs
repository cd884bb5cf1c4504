//! Hosts over SSH (spec 45), with libssh2 in non-blocking mode.
