//! The muster program: everything is in the library.

fn main() -> std::process::ExitCode {
    muster::cli::run(std::env::args_os())
}
