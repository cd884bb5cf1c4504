//! A small synchronous HTTP/1.1 server side for TCP and Unix sockets: what the management API needs and no more.
//!
//! One thread per connection, bounded in number; every read and write has a deadline and ends at once when the server
//! stops, so a slow or idle client costs one thread for a bounded time and blocks nobody. Ready-made synchronous servers
//! listen on TCP only or have no read deadline.
//! Absent: TLS, HTTP/2, compression, trailers, upgrades.
//! Spec 82 §1, 80 §5.

pub mod connection;
pub mod listen;
pub mod parse;
pub mod response;
pub mod stream;

use std::time::Duration;

/// Request line and headers together, in bytes.
pub const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Headers of one request: browsers send about twenty.
pub const HEADERS_MAX: usize = 128;
/// From a request's first byte (or the connection's beginning) to the end of its headers.
pub const HEAD_TIME_MAX: Duration = Duration::from_secs(10);
/// Between two requests on one connection.
pub const IDLE_TIME_MAX: Duration = Duration::from_secs(15);
/// For the whole body: 10 MiB at 170 KiB/s.
pub const BODY_TIME_MAX: Duration = Duration::from_secs(60);
/// For the whole answer; the largest are log chunks of 1 MiB and long lists.
pub const WRITE_TIME_MAX: Duration = Duration::from_secs(60);
/// What an answer may still take once the server stops.
pub const STOP_WRITE_TIME_MAX: Duration = Duration::from_millis(500);
