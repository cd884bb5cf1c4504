//! Who executes a job: the runner itself, or the program of a container engine (spec 52 §2).
//!
//! `docker` and `podman` keep a container that outlives their program, so it has a name, and everything after its start goes through
//! the engine ([`handle`], [`client`]). `singularity` and `apptainer` execute the job as their child ([`singularity`]): for us it is a
//! process like any other.

pub(crate) mod client;
pub(crate) mod handle;
pub(crate) mod limits;
pub(crate) mod singularity;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use muster_runner::protocol::ContainerSpec;

/// Of all engine arguments together; they are kept in the lock file.
const ARGUMENTS_BYTES_MAX: usize = 16 << 10;
/// Of a variable: engines read their file by lines, which they limit.
const VARIABLE_BYTES_MAX: usize = 32 << 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Process,
    Docker,
    Podman,
    Singularity,
    Apptainer,
}

impl Kind {
    const IMAGES: [Self; 4] = [Self::Docker, Self::Podman, Self::Singularity, Self::Apptainer];

    /// `None` for a name that this runner does not know.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        match name {
            "" | "process" => Some(Self::Process),
            _ => Self::IMAGES.into_iter().find(|kind| kind.name() == name),
        }
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Docker => "docker",
            Self::Podman => "podman",
            Self::Singularity => "singularity",
            Self::Apptainer => "apptainer",
        }
    }

    /// One project under two names: either will do.
    const fn programs(self) -> &'static [&'static str] {
        match self {
            Self::Process => &[],
            Self::Docker => &["docker"],
            Self::Podman => &["podman"],
            Self::Singularity => &["singularity", "apptainer"],
            Self::Apptainer => &["apptainer", "singularity"],
        }
    }

    /// The word between the options of the program and those of the container.
    const fn verb(self) -> &'static str {
        match self {
            Self::Singularity | Self::Apptainer => "exec",
            _ => "run",
        }
    }

    /// Where its program is; `None` for a process and for a program that is not on this machine.
    pub(crate) fn find(self) -> Option<PathBuf> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        // The caller's PATH may be short, as sshd's and sudo's are.
        let usual = ["/usr/local/bin", "/usr/bin", "/bin", "/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
        let directories: Vec<PathBuf> = std::env::split_paths(&path).chain(usual).collect();
        let mut candidates = self.programs().iter().flat_map(|name| directories.iter().map(move |dir| dir.join(name)));
        candidates.find(|path| path.is_absolute() && is_program(path))
    }
}

fn is_program(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

/// What a container may ask for on this machine.
pub(crate) fn available() -> Vec<String> {
    let found = Kind::IMAGES.into_iter().filter(|kind| kind.find().is_some());
    std::iter::once(Kind::Process).chain(found).map(|kind| kind.name().to_owned()).collect()
}

/// An engine's program with the operator's arguments.
#[derive(Clone, Debug)]
pub(crate) struct Engine {
    pub(crate) kind: Kind,
    pub(crate) program: PathBuf,
    /// Of the program: `Runner.EngineArguments` up to the word `run` (`exec`), if that is among them.
    pub(crate) globals: Vec<String>,
    /// Of the container.
    pub(crate) options: Vec<String>,
}

impl Engine {
    /// `Ok(None)`: the job is a plain process.
    ///
    /// # Errors
    /// Its program is not here.
    pub(crate) fn of(spec: &ContainerSpec) -> Result<Option<Self>, String> {
        let kind = Kind::parse(&spec.engine).unwrap_or(Kind::Process);
        if kind == Kind::Process {
            return Ok(None);
        }
        let program = kind.find().ok_or_else(|| {
            let name = kind.name();
            format!(
                "engine {name:?}: there is no program {name} on this machine: install it, or set Muster.Runner.Engine"
            )
        })?;
        let (globals, options) = split(&spec.engine_arguments, kind.verb());
        Ok(Some(Self { kind, program, globals, options }))
    }
}

/// Before and after the first `verb`; all are after it if it is not among them.
fn split(arguments: &[String], verb: &str) -> (Vec<String>, Vec<String>) {
    match arguments.iter().position(|argument| argument == verb) {
        Some(at) => (arguments[..at].to_vec(), arguments[at + 1..].to_vec()),
        None => (Vec::new(), arguments.to_vec()),
    }
}

/// What is wrong with engine, image and environment of a start.
pub(crate) fn fault(spec: &ContainerSpec) -> Option<String> {
    let Some(kind) = Kind::parse(&spec.engine) else {
        let known: Vec<&str> = Kind::IMAGES.iter().map(|kind| kind.name()).collect();
        return Some(format!(
            "engine {:?} is not known to this runner: it has process, {}",
            spec.engine,
            known.join(", ")
        ));
    };
    if kind == Kind::Process {
        let text = format!("engine \"process\" cannot run an image ({:?})", spec.image);
        return (!spec.image.is_empty()).then_some(text);
    }
    if spec.image.is_empty() {
        return Some(format!("engine {:?} needs an image", spec.engine));
    }
    if spec.image.starts_with('-') || spec.image.contains(|c: char| c.is_control() || c.is_whitespace()) {
        return Some(format!("{:?} is not the name of an image", spec.image));
    }
    let bytes: usize = spec.engine_arguments.iter().map(String::len).sum();
    if bytes > ARGUMENTS_BYTES_MAX || spec.engine_arguments.iter().any(|argument| argument.contains('\0')) {
        return Some(format!("engine_arguments hold a NUL or more than {ARGUMENTS_BYTES_MAX} bytes"));
    }
    // These reach the container through a file of lines, or as names with a prefix.
    let is_name = |name: &str| {
        name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') && !name.starts_with(|c: char| c.is_ascii_digit())
    };
    // An engine takes it for a list of words.
    if spec
        .command
        .first()
        .is_some_and(|program| program.starts_with('[') && program.ends_with(']') && program.len() > 1)
    {
        return Some(format!("command {:?}: with an image, a program's name is not in brackets", spec.command[0]));
    }
    let is_bad = |value: &str| value.contains(['\n', '\r']) || value.len() > VARIABLE_BYTES_MAX;
    let bad = spec.environment.iter().find(|(name, value)| !is_name(name) || is_bad(value));
    bad.map(|(name, _)| {
        format!(
            "environment {name:?}: with an image, names are letters, digits and _, and values have no line break and at most \
             {VARIABLE_BYTES_MAX} bytes"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn engine_arguments_reach_the_program_and_the_container() {
        for (arguments, globals, options) in [
            ("--runtime runc run --ulimit n=1 run", "--runtime runc", "--ulimit n=1 run"),
            ("--network=none", "", "--network=none"),
            ("run --network=none", "", "--network=none"),
            ("", "", ""),
        ] {
            assert_eq!(split(&words(arguments), "run"), (words(globals), words(options)), "{arguments}");
        }
    }

    #[test]
    fn what_no_engine_can_run_is_refused_with_its_name() {
        let spec = |engine: &str, image: &str| ContainerSpec {
            engine: engine.into(),
            image: image.into(),
            ..ContainerSpec::default()
        };
        let environment = |name: &str, value: &str| ContainerSpec {
            environment: [(name.to_owned(), value.to_owned())].into(),
            ..spec("podman", "debian")
        };
        for (spec, named) in [
            (spec("", ""), None),
            (spec("process", ""), None),
            (spec("podman", "localhost/debian:12"), None),
            (spec("apptainer", "/images/a.sif"), None),
            (spec("process", "debian"), Some("debian")),
            (spec("rkt", "debian"), Some("rkt")),
            (spec("docker", ""), Some("image")),
            (spec("docker", "--privileged"), Some("--privileged")),
            (spec("docker", "a b"), Some("a b")),
            (environment("A_1", "x = y #"), None),
            (environment("A", "two\nlines"), Some("\"A\"")),
            (environment("LD-X", ""), Some("LD-X")),
            (environment("1A", ""), Some("1A")),
        ] {
            let fault = fault(&spec);
            match named {
                None => assert_eq!(fault, None),
                Some(named) => assert!(fault.as_ref().is_some_and(|text| text.contains(named)), "{named}: {fault:?}"),
            }
        }
    }
}
