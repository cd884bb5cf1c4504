//! The management API over real sockets, with a fake daemon behind it (spec 82, API.md).

#![expect(clippy::unwrap_used, reason = "a test may fail so")]

mod api;
mod fake;
mod transport;
