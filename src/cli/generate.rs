//! `muster generate` (hidden): files that are made from the code: man pages, completions, the reference configuration.

use std::path::{Path, PathBuf};

use clap_complete::{Shell, generate_to};

use super::exit::{self, Failure};

/// Write files that are made from the program: for `make install`
#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// `man`, `completions` or `config`
    #[arg(value_name = "WHAT", value_parser = ["man", "completions", "config"])]
    what: String,
    /// Directory to write to; `config` writes this file
    #[arg(value_name = "PATH")]
    path: PathBuf,
}

pub(super) fn run(options: &Options, command: clap::Command) -> Result<u8, Failure> {
    let result = match options.what.as_str() {
        "man" => man(&options.path, command),
        "completions" => completions(&options.path, command),
        _ => std::fs::write(&options.path, crate::config::reference()),
    };
    result.map_err(|error| Failure::Failed(format!("{}: {error}", options.path.display())))?;
    Ok(exit::DONE)
}

/// `muster.1`, and one page for each command.
fn man(directory: &Path, command: clap::Command) -> std::io::Result<()> {
    std::fs::create_dir_all(directory)?;
    clap_mangen::generate_to(command, directory)
}

fn completions(directory: &Path, mut command: clap::Command) -> std::io::Result<()> {
    std::fs::create_dir_all(directory)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        generate_to(shell, &mut command, "muster", directory)?;
    }
    Ok(())
}
