//! Every key that is read, in one table: it drives reading, the check for unknown keys, the defaults, and the reference file.

/// What a key's value must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    /// Not shown in a dump.
    SecretText,
    /// At least 0.
    Count,
    /// At least 0, with a fraction.
    Number,
    Flag,
    Size,
    Duration,
    /// A duration that the default replaces when it is 0.
    PositiveDuration,
    Texts,
    TextMap,
    /// Any map; not interpreted.
    Free,
}

/// One key. `default` is written as in a file; empty for lists and maps = empty.
#[derive(Clone, Copy, Debug)]
pub(super) struct KeyInfo {
    pub(super) path: &'static str,
    pub(super) kind: Kind,
    pub(super) default: &'static str,
    /// One sentence.
    pub(super) meaning: &'static str,
    /// Takes effect at SIGHUP; the others need a restart.
    pub(super) live: bool,
}

const fn key(path: &'static str, kind: Kind, default: &'static str, meaning: &'static str) -> KeyInfo {
    KeyInfo { path, kind, default, meaning, live: false }
}

const fn live(path: &'static str, kind: Kind, default: &'static str, meaning: &'static str) -> KeyInfo {
    KeyInfo { path, kind, default, meaning, live: true }
}

use Kind::{Count, Duration, Flag, Free, Number, PositiveDuration, SecretText, Size, Text, TextMap, Texts};

/// In the order of the reference file. Sections that hold keys of other services are not checked for unknown ones.
#[rustfmt::skip]
pub(super) const KEYS: &[KeyInfo] = &[
    key("ClusterID", Text, "local", "First five characters of every container's uuid (plain form only; in the Arvados form it is the key below Clusters)."),
    key("SystemRootToken", SecretText, "", "Token for Arvados' API, and the source of the instance set id; empty with the local queue: the id is drawn once and kept in StateDir."),
    key("ManagementToken", SecretText, "", "Token of the management API; empty: one is made in StateDir/management-token."),
    key("Services.Controller.ExternalURL", Text, "", "Arvados' API server; set: the queue is Arvados'."),
    key("Services.DispatchCloud.InternalURLs", Free, "", "Where the management API listens: a map whose keys are URLs; default {\"http://127.0.0.1:9006\": {}}."),
    key("TLS.Insecure", Flag, "false", "Do not verify the API server's certificate."),

    key("Muster.StateDir", Text, "", "Queue, results, socket and tokens; default /var/lib/muster for root, else $XDG_STATE_HOME/muster or ~/.local/state/muster."),
    key("Muster.MaxWorkers", Count, "10000", "Instances watched by one process."),
    key("Muster.Queue.Driver", Text, "", "local (embedded) or arvados; default arvados when Services.Controller.ExternalURL is set."),
    key("Muster.Queue.MaxQueued", Count, "1000000", "Waiting containers; more are refused."),
    key("Muster.Queue.MaxAttempts", Count, "3", "Tries per container when its runner or instance is lost, unless it says otherwise."),
    live("Muster.Queue.RetainFinished", Duration, "720h", "Finished containers are removed with their files after this; 0 = never."),
    key("Muster.Queue.MaxLogBytes", Size, "64MiB", "Kept of each output stream, head and tail; at most 16GiB."),
    key("Muster.Queue.MaxOutputBytes", Size, "1GiB", "Output files of one container together."),
    live("Muster.Queue.TimeoutCollect", PositiveDuration, "5m", "A result that waits keeps its instance for at most this long."),
    key("Muster.Runner.User", Text, "", "Whom jobs run as; default the login user, or nobody where that is root."),
    key("Muster.Runner.Engine", Text, "process", "process, docker, podman, singularity or apptainer: what runs containers that name an image; others are processes."),
    key("Muster.Runner.EngineArguments", Texts, "", "For the engine: options of its program, the word run (exec for singularity), options of the container; without that word all are the container's."),
    key("Muster.Runner.Binaries", TextMap, "", "Runner program per worker architecture (uname -m): with more than one the worker is asked; default the installed one for all."),
    key("Muster.Runner.SelfDestructAfter", Duration, "0", "A worker that was not probed for so long and runs nothing powers itself off; 0 = never."),
    key("Muster.Log.File", Text, "", "Log file; default standard error."),
    key("Muster.Log.Level", Text, "info", "error, warn, info, debug or trace; RUST_LOG goes before it."),
    key("Muster.Log.Format", Text, "logfmt", "logfmt or json."),
    key("Muster.Metrics.Prefix", Text, "arvados_dispatchcloud", "First part of every metric's name."),

    key("Containers.DispatchPrivateKey", SecretText, "", "SSH key for workers: its text, or file:///PATH; empty: a pair is made in StateDir/ssh."),
    live("Containers.StaleLockTimeout", PositiveDuration, "1m", "How long a start waits for containers of the process before it to show up."),
    key("Containers.CrunchRunCommand", Text, "crunch-run", "Runner on the instances when none is deployed."),
    key("Containers.CrunchRunArgumentsList", Texts, "", "Further arguments for it."),
    key("Containers.RuntimeEngine", Text, "docker", "docker or singularity: for crunch-run."),
    live("Containers.ReserveExtraRAM", Size, "", "Added to every container's need; default 0 with the local queue, else 550MiB."),
    live("Containers.LocalKeepBlobBuffersPerVCPU", Count, "", "Buffers of a local keepstore; default 0 with the local queue, else 1."),
    live("Containers.MaximumPriceFactor", Number, "1.5", "Types up to this times the cheapest price are taken too."),
    live("Containers.PreemptiblePriceFactor", Number, "0", "Above 0: for each type a preemptible one at this share of its price."),

    key("Containers.CloudVMs.Enable", Flag, "true", "Accepted for Arvados' sake."),
    key("Containers.CloudVMs.Driver", Text, "", "loopback (this host), static, exec, ec2 or azure; default ec2 in the Arvados form, else loopback."),
    key("Containers.CloudVMs.DriverParameters", Free, "", "Keys of the driver; those of static, exec and ec2 stand at the end of this file."),
    key("Containers.CloudVMs.ImageID", Text, "", "Image of new instances."),
    key("Containers.CloudVMs.SSHPort", Text, "22", "Port name or number."),
    key("Containers.CloudVMs.PollInterval", PositiveDuration, "10s", "Time between two looks at the whole queue."),
    key("Containers.CloudVMs.BootProbeCommand", Text, "", "Exit status 0 = booted; default systemctl is-system-running for ec2 and azure, else true."),
    live("Containers.CloudVMs.ProbeInterval", PositiveDuration, "10s", "Time between two looks at a worker."),
    live("Containers.CloudVMs.MaxProbesPerSecond", Number, "", "Over all workers; default as many as needed."),
    live("Containers.CloudVMs.TimeoutSignal", PositiveDuration, "5s", "Between two SIGTERMs to a container."),
    live("Containers.CloudVMs.TimeoutTERM", PositiveDuration, "2m", "After this a container counts as unkillable."),
    live("Containers.CloudVMs.TimeoutStaleRunLock", PositiveDuration, "5s", "How long a dead runner's lock is tolerated."),
    key("Containers.CloudVMs.MaxCloudOpsPerSecond", Count, "10", "Calls to the cloud by the drivers ec2 and exec; 0 = no limit."),
    live("Containers.CloudVMs.MaxConcurrentInstanceCreateOps", Count, "10", "Creates in flight; 0 = no limit."),
    live("Containers.CloudVMs.MaxInstances", Count, "64", "Instances at a time; 0 = no limit."),
    live("Containers.CloudVMs.MaxRunningContainersPerInstance", Count, "0", "0 = as many as fit."),
    live("Containers.CloudVMs.InitialQuotaEstimate", Count, "0", "Start of the dynamic limit; 0 = MaxInstances."),
    live("Containers.CloudVMs.SupervisorFraction", Number, "0.5", "Largest share of containers that mainly submit others; 0 = no limit."),
    live("Containers.CloudVMs.SyncInterval", PositiveDuration, "1m", "Time between two lists of the cloud's instances."),
    live("Containers.CloudVMs.TimeoutIdle", PositiveDuration, "1m", "An idle instance goes after this."),
    live("Containers.CloudVMs.TimeoutBooting", PositiveDuration, "10m", "An instance that has not booted by then goes."),
    live("Containers.CloudVMs.TimeoutProbe", PositiveDuration, "10m", "An instance that does not answer for so long goes, and what ran there gets another attempt."),
    live("Containers.CloudVMs.TimeoutShutdown", PositiveDuration, "10s", "A destroy is repeated after this while the instance is listed."),
    key("Containers.CloudVMs.InstanceInitCommand", Text, "", "Shell script for an instance's first boot."),
    key("Containers.CloudVMs.DeployRunnerBinary", Text, "/proc/self/exe", "Runner that is copied to all workers; default Runner.Binaries or the installed one, empty: CrunchRunCommand is there already."),
    key("Containers.CloudVMs.DeployRunnerDirectory", Text, "", "Where it is copied to: a directory that nobody but root and the login user can write; default /var/lib/muster-runner/bin, without root ~/.cache/muster-runner/bin."),
    key("Containers.CloudVMs.DeployPublicKey", Flag, "true", "Install the public key at creation."),
    key("Containers.CloudVMs.ResourceTags", TextMap, "", "Further tags of all instances."),
    key("Containers.CloudVMs.TagKeyPrefix", Text, "Arvados", "First part of our tags' names; change it only while no instance exists."),
];

/// Keys of Arvados' that are known and not used here: no warning.
pub(super) const ACCEPTED: &[&str] = &[
    "Containers.MaxDispatchAttempts",
    "Containers.AlwaysUsePreemptibleInstances",
    "Containers.DefaultKeepCacheRAM",
    "Containers.MaxRetryAttempts",
    "Containers.SupportedDockerImageFormats",
    "Containers.LogReuseDecisions",
    "Containers.MinRetryPeriod",
    "Containers.SLURM",
    "Containers.LSF",
    "Containers.Logging",
    "Containers.ShellAccess",
    "Containers.LocalKeepLogsToContainerLog",
];

/// Sections whose unknown keys are warned of.
pub(super) const CHECKED: &[&str] = &["Containers", "Muster"];

pub(super) fn find(path: &str) -> Option<&'static KeyInfo> {
    KEYS.iter().find(|info| info.path == path)
}
