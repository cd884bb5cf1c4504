//! The runner on a worker: what the dispatcher and the program share.
