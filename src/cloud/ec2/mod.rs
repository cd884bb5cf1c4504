//! Amazon EC2 (spec 42). In reading order: `query` is the API as the driver sees it, `errors` what its refusals mean, `fingerprint` under
//! which names EC2 may know a key. `xml` reads answers.

pub mod query;

pub mod errors;
pub mod fingerprint;

pub mod xml;
