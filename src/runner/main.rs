//! Runs one container on a worker.

fn main() {}
