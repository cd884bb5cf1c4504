//! The muster program: everything is in the library.

/// The system's own keeps what a large submission needed for good: a daemon that was given 100,000 containers at once and has ended them
/// all has 30 MB in use and holds 210. This one gives it back.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    muster::cli::run(std::env::args_os())
}
