//! Amazon EC2 (spec 42). In reading order: `query` is the API as the driver sees it.

pub mod query;
