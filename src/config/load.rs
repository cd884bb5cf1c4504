//! From a file to a checked [`Config`] (spec 60 §1, 62 §1): where it is looked for, and its three forms.

use std::io::Read;
use std::path::{Path, PathBuf};

use super::Config;
use super::build::build;
use super::fault::{Fault, Faults};
use super::host::Host;
use super::yaml::{self, Content, FILE_BYTES_MAX, Node};

/// Looked for in this order when neither flag nor environment names a file.
const PLACES: [&str; 2] = ["/etc/muster/config.yml", "/etc/arvados/config.yml"];

/// What the command line and the environment say.
pub struct LoadOptions<'a> {
    /// `--config`; `-` = standard input.
    pub path: Option<PathBuf>,
    /// `--cluster`: needed only when the file has several.
    pub cluster: Option<String>,
    pub env: &'a dyn Fn(&str) -> Option<String>,
    pub host: Host,
    /// What is wrong with a text as a private key, in one line without the secret. Passed in, since keys are read by `remote`.
    pub private_key_fault: fn(&str) -> Option<String>,
}

impl std::fmt::Debug for LoadOptions<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LoadOptions").field("path", &self.path).field("cluster", &self.cluster).finish_non_exhaustive()
    }
}

/// A configuration that can be used.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub config: Config,
    /// What is doubtful, or ignored. Sorted by place.
    pub warnings: Vec<Fault>,
}

/// Reads the configuration: `options.path`, else `$MUSTER_CONFIG`, `$ARVADOS_CONFIG` (spec 60), `/etc/muster/config.yml`,
/// `/etc/arvados/config.yml`, else the built-in one.
///
/// # Errors
/// Every error found, sorted by place; the warnings are behind them.
pub fn load(options: &LoadOptions<'_>) -> Result<Loaded, Vec<Fault>> {
    load_with(options, WrongSubnets::Refused)
}

/// The same for who tries each subnet by itself (spec 40 §7.2): those of [`Ec2Config::wrong_subnets`](super::Ec2Config) are no errors.
///
/// # Errors
/// As [`load`], but for those.
pub fn load_for_trial(options: &LoadOptions<'_>) -> Result<Loaded, Vec<Fault>> {
    load_with(options, WrongSubnets::Kept)
}

/// What becomes of a configuration that has some.
#[derive(Clone, Copy, PartialEq, Eq)]
enum WrongSubnets {
    Refused,
    Kept,
}

fn load_with(options: &LoadOptions<'_>, wrong_subnets: WrongSubnets) -> Result<Loaded, Vec<Fault>> {
    let Some(path) = find_file(options) else {
        return read_text(None, "", options, wrong_subnets);
    };
    let text = read_file(&path).map_err(|message| {
        vec![Fault { file: Some(path.clone()), mark: None, key: String::new(), message, is_warning: false }]
    })?;
    read_text(Some(&path), &text, options, wrong_subnets)
}

fn find_file(options: &LoadOptions<'_>) -> Option<PathBuf> {
    let by_environment = |name| (options.env)(name).filter(|path| !path.is_empty()).map(PathBuf::from);
    let named =
        options.path.clone().or_else(|| ["MUSTER_CONFIG", "ARVADOS_CONFIG"].into_iter().find_map(by_environment));
    named.or_else(|| PLACES.into_iter().map(PathBuf::from).find(|path| path.exists()))
}

fn read_file(path: &Path) -> Result<String, String> {
    let mut bytes = Vec::new();
    let result = if path == Path::new("-") {
        std::io::stdin().lock().take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes))
    };
    result.map_err(|error| format!("cannot read it: {error}"))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(format!("it has more than {FILE_BYTES_MAX} bytes"));
    }
    String::from_utf8(bytes)
        .map_err(|error| format!("it is not UTF-8 text (byte {})", error.utf8_error().valid_up_to()))
}

/// The same for a text that was read already; `file` is where relative paths begin, and the place of the faults.
///
/// # Errors
/// As [`load`].
pub fn load_text(file: Option<&Path>, text: &str, options: &LoadOptions<'_>) -> Result<Loaded, Vec<Fault>> {
    read_text(file, text, options, WrongSubnets::Refused)
}

fn read_text(
    file: Option<&Path>,
    text: &str,
    options: &LoadOptions<'_>,
    wrong_subnets: WrongSubnets,
) -> Result<Loaded, Vec<Fault>> {
    let mut faults = Faults::of_file(file);
    let root = yaml::read(text, &mut faults);
    let readable = faults.errors.is_empty() || root.is_some();
    let config = if readable { build(file, root.as_ref(), options, &mut faults) } else { None };
    if let (WrongSubnets::Kept, Some(ec2)) = (wrong_subnets, config.as_ref().and_then(|one| one.cloud.ec2.as_ref())) {
        faults.errors.retain(|fault| !ec2.wrong_subnets.iter().any(|(_, wrong)| wrong == fault));
    }
    faults.errors.sort();
    faults.warnings.sort();
    match config {
        Some(config) if faults.errors.is_empty() => Ok(Loaded { config, warnings: faults.warnings }),
        _ => {
            let warnings = faults.warnings.into_iter().map(|fault| Fault { is_warning: true, ..fault });
            Err(faults.errors.into_iter().chain(warnings).collect())
        }
    }
}

/// The part of the file that is about one cluster.
pub(super) struct Cluster<'a> {
    pub(super) id: Option<String>,
    pub(super) node: Option<&'a Node>,
    pub(super) prefix: String,
    /// `Clusters:` at top level: Arvados' own file, with Arvados' defaults.
    pub(super) arvados_form: bool,
}

pub(super) fn choose_cluster<'a>(
    root: Option<&'a Node>,
    wanted: Option<&str>,
    faults: &mut Faults,
) -> Option<Cluster<'a>> {
    let plain = |node| Cluster { id: None, node, prefix: String::new(), arvados_form: false };
    let Some(root) = root else {
        return Some(plain(None));
    };
    if !matches!(root.content, Content::Map(_)) {
        faults.error(Some(root.mark), "", format!("must be a map, not {}", root.kind()));
        return None;
    }
    let Some(clusters) = root.get("Clusters") else {
        return Some(plain(Some(root)));
    };
    let names: Vec<&str> = clusters.entries().iter().map(|(key, _)| key.name.as_str()).collect();
    let name = match (names.as_slice(), wanted) {
        ([], _) => {
            faults.error(Some(clusters.mark), "Clusters", "config does not define any clusters");
            return None;
        }
        (_, Some(wanted)) if names.contains(&wanted) => wanted.to_owned(),
        (_, Some(wanted)) => {
            faults.error(
                Some(clusters.mark),
                "Clusters",
                format!("there is no cluster {wanted:?}, but {}", names.join(", ")),
            );
            return None;
        }
        ([only], None) => (*only).to_owned(),
        _ => {
            let message =
                format!("multiple clusters configured, cannot choose: use --cluster with one of {}", names.join(", "));
            faults.error(Some(clusters.mark), "Clusters", message);
            return None;
        }
    };
    for section in ["Muster", "Containers", "InstanceTypes", "Services"] {
        if let Some((key, _)) = root.entries().iter().find(|(key, _)| key.name == section) {
            let message = format!("ignored: in this form of the file it belongs below Clusters.{name}");
            faults.warn(Some(key.mark), section, message);
        }
    }
    let prefix = format!("Clusters.{name}.");
    if let Some(node) = clusters.get(&name).filter(|node| !matches!(node.content, Content::Map(_) | Content::Null)) {
        faults.error(Some(node.mark), &format!("Clusters.{name}"), format!("must be a map, not {}", node.kind()));
    }
    Some(Cluster { node: clusters.get(&name), id: Some(name), prefix, arvados_form: true })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_file_the_environment_names() {
        for (variables, expected) in [
            (vec![("MUSTER_CONFIG", "/m"), ("ARVADOS_CONFIG", "/a")], "/m"),
            (vec![("MUSTER_CONFIG", ""), ("ARVADOS_CONFIG", "/a")], "/a"),
            (vec![("ARVADOS_CONFIG", "/a")], "/a"),
        ] {
            let env = |name: &str| variables.iter().find(|(one, _)| *one == name).map(|(_, value)| (*value).to_owned());
            let mut options =
                LoadOptions { path: None, cluster: None, env: &env, host: Host::this(), private_key_fault: |_| None };
            assert_eq!(find_file(&options), Some(PathBuf::from(expected)));
            options.path = Some("/flag".into());
            assert_eq!(find_file(&options), Some(PathBuf::from("/flag")));
        }
    }
}
