//! Files that the configuration names: what can be said of them while it is loaded.

use std::io::Read;
use std::path::Path;

use crate::core::runner_file::{Format, HEAD_BYTES};

/// Bytes of a private key.
const KEY_BYTES_MAX: u64 = 64 * 1024;

/// A key's text. Only from a regular file with an absolute path, and not larger than a key is.
pub(super) fn read_key(file: &Path) -> Result<String, String> {
    let metadata = std::fs::metadata(file).map_err(|error| error.to_string())?;
    if !file.is_absolute() || !metadata.is_file() {
        return Err("it must be the absolute path of a file".to_owned());
    }
    if metadata.len() > KEY_BYTES_MAX {
        return Err(format!("it has more than {KEY_BYTES_MAX} bytes"));
    }
    std::fs::read_to_string(file).map_err(|error| error.to_string())
}

/// Whether the file is there, and a program for the architecture that it is configured for.
pub(super) fn check_binary(architecture: &str, path: &Path) -> Result<(), String> {
    let unreadable = |error: std::io::Error| format!("cannot read it: {error}");
    // Looked at before it is opened: that of a named pipe would wait for a writer.
    if !std::fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err("it is not a file".to_owned());
    }
    let mut head = Vec::new();
    let file = std::fs::File::open(path).map_err(unreadable)?;
    file.take(HEAD_BYTES as u64).read_to_end(&mut head).map_err(unreadable)?;
    Format::of(&head).contradicts(architecture).map_or(Ok(()), Err)
}
