//! The driver against a scripted query API.

mod creating;
mod keys;
mod listing;
mod series;
pub(in crate::cloud::ec2) mod stub;
