//! What the dispatcher and the runner say to each other: JSON documents and the version line (spec 50 §3, 52).
//!
//! Plain data. A reader ignores fields it does not know and fills in those that are missing, so that either side may be newer;
//! what cannot be read differently gets a new [`PROTOCOL`] number.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Number of this protocol; the dispatcher uses a runner's additions (spec 52 §1) only with a number it knows.
pub const PROTOCOL: u32 = 1;
/// Exit code of a start whose runner has been made and has not answered: it may run later. Other failed starts have no runner.
pub const MAY_STILL_RUN: u8 = 75;
/// What a successful `--kill` of an attempt prints if that one has been here: it may have run, and has not ended before it began.
pub const HAS_RUN: &str = "has run";
/// First word of the version line.
pub const NAME: &str = "muster-runner";

/// Standard input of `--detach --stdin-config`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StartConfig {
    /// For the runner itself, never for the job. Ours needs nothing from it today; a crunch-run reads its API host and token here.
    #[serde(rename = "Env", default)]
    pub env: BTreeMap<String, String>,
    /// What to run; required by `muster-runner`.
    #[serde(rename = "Container", default, skip_serializing_if = "Option::is_none")]
    pub container: Option<ContainerSpec>,
}

/// One attempt of one container.
///
/// Its `Debug` form leaves out environment and standard input: they may hold secrets.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// `CCCCC-dz642-` and 15 of `0-9a-z`.
    pub uuid: String,
    /// From 1.
    pub attempt: u32,
    /// Program and arguments; the program is looked up in the job's PATH.
    pub command: Vec<String>,
    /// Absolute path to start in; empty = the fresh directory of this attempt. Outputs are always relative to the fresh one.
    #[serde(default)]
    pub cwd: String,
    /// Added to the few variables the runner sets; wins over them.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// The job's standard input; empty = end of file at once.
    #[serde(default)]
    pub stdin: String,
    /// `process`, or empty for the same; `docker`, `podman`, `singularity`, `apptainer`.
    #[serde(default)]
    pub engine: String,
    /// Options of the engine's program, the word `run` (`exec` for the last two), options of the container; without that word all
    /// are options of the container.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub engine_arguments: Vec<String>,
    /// Empty with `process`, and only there.
    #[serde(default)]
    pub image: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub array_index: Option<i64>,
    #[serde(default)]
    pub limits: Limits,
    /// Paths to bring back, relative to the fresh directory.
    #[serde(default)]
    pub outputs: Vec<String>,
    /// Name or number of the job's user. Empty: as root the user who called sudo, else `nobody`; without root the runner's own.
    #[serde(default)]
    pub user: String,
}

impl std::fmt::Debug for ContainerSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ContainerSpec")
            .field("uuid", &self.uuid)
            .field("attempt", &self.attempt)
            .field("command", &self.command)
            .field("engine", &self.engine)
            .field("limits", &self.limits)
            .field("outputs", &self.outputs)
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

/// Limits of one attempt. A missing field has the value of [`Limits::default`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// 0 = no limit. Not enforced for a process without a writable cgroup, as `ram`; see [`Facts::cgroup`].
    pub vcpus: i64,
    /// Bytes; 0 = no limit, and a process gets at least 16 MiB.
    pub ram: i64,
    /// Bytes; 0 = no limit. Not enforced.
    pub scratch: i64,
    /// Seconds; none, or not above 0, = no limit.
    pub max_run_time_s: Option<f64>,
    /// Bytes kept of each stream: the first half and the last half of it.
    pub log_bytes: u64,
    /// Bytes of all outputs together.
    pub output_bytes: u64,
}

impl Default for Limits {
    /// MaxLogBytes and MaxOutputBytes of spec 70 §4, no other limit.
    fn default() -> Self {
        Self { vcpus: 0, ram: 0, scratch: 0, max_run_time_s: None, log_bytes: 64 << 20, output_bytes: 1 << 30 }
    }
}

/// Why an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Reason {
    /// By itself, with `exit_code`. A command that cannot be executed counts as the shells have it: 127 not found, 126 otherwise.
    Exited,
    /// By `signal`, sent neither by the runner nor through it.
    Signaled,
    /// Someone sent the runner SIGTERM, SIGINT or SIGQUIT; perhaps before the job began.
    Killed,
    MaxRunTime,
    Oom,
    /// The runner could not do its part; `detail` says what.
    EngineError,
    DiskFull,
}

impl Reason {
    pub const ALL: [Self; 7] =
        [Self::Exited, Self::Signaled, Self::Killed, Self::MaxRunTime, Self::Oom, Self::EngineError, Self::DiskFull];

    /// The word of spec 52 §2.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Exited => "exited",
            Self::Signaled => "signaled",
            Self::Killed => "killed",
            Self::MaxRunTime => "max_run_time",
            Self::Oom => "oom",
            Self::EngineError => "engine error",
            Self::DiskFull => "disk full",
        }
    }

    /// `None` for a word that [`Reason::as_str`] never gives.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == word)
    }
}

impl TryFrom<String> for Reason {
    type Error = String;

    fn try_from(word: String) -> Result<Self, String> {
        Self::parse(&word).ok_or_else(|| format!("{word:?} is no reason for an attempt's end"))
    }
}

impl From<Reason> for String {
    fn from(reason: Reason) -> Self {
        reason.as_str().to_owned()
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// `result.json`: how an attempt ended. Times are milliseconds since 1970 by the worker's clock.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ResultRecord {
    pub uuid: String,
    pub attempt: u32,
    pub reason: Reason,
    /// How the job's first process ended, whatever the reason; neither if it never began.
    #[serde(default)]
    pub exit_code: Option<i32>,
    #[serde(default)]
    pub signal: Option<i32>,
    /// Equal to `finished_at` if the job never began; 0 = not said, as for that.
    #[serde(default)]
    pub started_at: i64,
    #[serde(default)]
    pub finished_at: i64,
    /// Bytes; of the largest process, or more if the job's cgroup was seen to use more (without page cache). Of containers that docker or
    /// podman keep only the latter: not known of those that ended before they were seen, or run on another machine.
    #[serde(default)]
    pub peak_memory: Option<u64>,
    /// User and system time of all processes in the job's cgroup; without one, of those that were waited for.
    #[serde(default)]
    pub cpu_seconds: Option<f64>,
    /// For people; empty when there is nothing to add.
    #[serde(default)]
    pub detail: String,
    /// Bytes the job wrote, before cutting.
    #[serde(default)]
    pub stdout_bytes: u64,
    #[serde(default)]
    pub stderr_bytes: u64,
    /// Of the requested outputs those that exist and that `--collect` sends, in the order of the request.
    #[serde(default)]
    pub outputs: Vec<String>,
    /// What was left out (missing, a link, a device, another user's, above the limit), each `PATH: why`; at most 100 and a line
    /// that says how many more.
    #[serde(default)]
    pub skipped: Vec<String>,
    /// The outputs are larger than the limit: none is sent, and they stay on the worker, also after `--forget`. (Those of any other
    /// result stay after `--forget --keep-outputs`; a runner that does not know the flag refuses the command with exit status 2.)
    #[serde(default)]
    pub outputs_too_large: bool,
}

/// Answer of `--facts`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Facts {
    pub version: String,
    pub protocol: u32,
    /// As `uname -m`.
    pub architecture: String,
    /// As `uname -r`.
    pub kernel: String,
    pub cpus: u32,
    /// Bytes.
    pub ram: u64,
    /// Bytes available to the runner where its state is.
    pub free_disk: u64,
    /// What `engine` of a [`ContainerSpec`] may be.
    pub engines: Vec<String>,
    /// The cgroup hierarchy whose limits are used: `none`, `v1` or `v2`.
    pub cgroup: String,
    /// The runner is root: jobs run as another user and cannot touch its files.
    pub isolates_user: bool,
}

/// The first line of `--version`, without the newline: `muster-runner VERSION protocol N`.
pub fn version_line() -> String {
    format!("{NAME} {} protocol {PROTOCOL}", env!("CARGO_PKG_VERSION"))
}

/// Version and protocol number of a muster-runner; `None` for any other program. Lines and words after these are ignored.
pub fn parse_version(output: &str) -> Option<(String, u32)> {
    let mut words = output.lines().next()?.split_whitespace();
    match (words.next()?, words.next()?, words.next()?, words.next()?.parse()) {
        (NAME, version, "protocol", Ok(number)) => Some((version.to_owned(), number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_lines() {
        let own = Some((env!("CARGO_PKG_VERSION").to_owned(), PROTOCOL));
        for (output, expected) in [
            (version_line(), own.clone()),
            (format!("{} and more\nnext line\n", version_line()), own),
            ("crunch-run 3.1.0 (go1.23)\n".to_owned(), None),
            ("muster-runner 1.0".to_owned(), None),
            ("muster-runner 1.0 protocol x".to_owned(), None),
            (String::new(), None),
        ] {
            assert_eq!(parse_version(&output), expected, "{output:?}");
        }
    }

    #[test]
    fn missing_fields_are_filled_in_and_unknown_ones_ignored() {
        let text = r#"{"KeepBuffers":0,"Container":{"uuid":"u","attempt":2,"command":["true"],"limits":{"ram":5,"new":1},"x":[]}}"#;
        let config: StartConfig = serde_json::from_str(text).unwrap();
        let spec = config.container.unwrap();
        assert_eq!(spec.limits, Limits { ram: 5, ..Limits::default() });
        assert_eq!((spec.attempt, spec.command), (2, vec!["true".to_owned()]));
    }

    #[test]
    fn reasons_are_read_as_they_are_written() {
        for reason in Reason::ALL {
            assert_eq!(serde_json::to_string(&reason).unwrap(), format!("{:?}", reason.as_str()));
            assert_eq!(Reason::parse(reason.as_str()), Some(reason));
        }
        assert!(serde_json::from_str::<Reason>("\"tired\"").is_err());
    }

    #[test]
    fn secrets_stay_out_of_debug_output() {
        let spec = ContainerSpec {
            stdin: "hidden".into(),
            environment: BTreeMap::from([("KEY".into(), "hidden".into())]),
            ..ContainerSpec::default()
        };
        assert!(!format!("{spec:?}").contains("hidden"));
    }
}
