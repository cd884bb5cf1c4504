//! What the client takes from its process: variables, the home directory, threads, and the time of day. All of it is handed in, so that
//! tests have their own and nothing here reads a clock.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::core::time::WallMillis;
use crate::remote::Spawn;

type Lookup = dyn Fn(&str) -> Option<String> + Send + Sync;
type Names = dyn Fn() -> Vec<String> + Send + Sync;

/// Variables beside those of AWS that a program needs which is run for credentials: to be found, and to reach services.
const FOR_PROGRAMS: [&str; 11] = [
    "PATH",
    "HTTPS_PROXY",
    "https_proxy",
    "HTTP_PROXY",
    "http_proxy",
    "ALL_PROXY",
    "all_proxy",
    "NO_PROXY",
    "no_proxy",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
];
/// How AWS's own variables begin, and those of many programs for it.
const OF_AWS: &str = "AWS_";

/// The environment variables, where `~` is, and who starts threads.
#[derive(Clone)]
pub struct Environment {
    lookup: Arc<Lookup>,
    /// Of all variables.
    names: Arc<Names>,
    home: Option<PathBuf>,
    spawn: Spawn,
}

impl Environment {
    /// `home` is where the folder `.aws` is looked for; without it, nowhere.
    pub fn new(
        lookup: impl Fn(&str) -> Option<String> + Send + Sync + 'static,
        home: Option<PathBuf>,
        spawn: Spawn,
    ) -> Self {
        Self { lookup: Arc::new(lookup), names: Arc::new(Vec::new), home, spawn }
    }

    /// With the names of all variables there are. Without them, a program gets none of AWS.
    pub fn with_names(self, names: impl Fn() -> Vec<String> + Send + Sync + 'static) -> Self {
        Self { names: Arc::new(names), ..self }
    }

    /// That of this process. A variable that is not UTF-8 counts as not set.
    pub fn of_process(spawn: Spawn) -> Self {
        let lookup = |name: &str| std::env::var(name).ok();
        let names = || std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()).collect();
        let home = std::env::var_os("HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
        Self::new(lookup, home, spawn).with_names(names)
    }

    /// Starts threads for look-ups of names.
    pub fn spawn(&self) -> Spawn {
        self.spawn.clone()
    }

    /// A variable's value; one that is set to nothing is not set.
    pub fn get(&self, name: &str) -> Option<String> {
        (self.lookup)(name).filter(|value| !value.trim().is_empty())
    }

    /// The first that is set, with its name.
    pub fn first<'n>(&self, names: &[&'n str]) -> Option<(&'n str, String)> {
        names.iter().find_map(|name| Some((*name, self.get(name)?)))
    }

    /// An endpoint in place of a service's (`EC2`, `STS`) public one, as AWS's own tools know it.
    pub fn endpoint_url(&self, service: &str) -> Option<String> {
        self.get(&format!("AWS_ENDPOINT_URL_{service}")).or_else(|| self.get("AWS_ENDPOINT_URL"))
    }

    pub fn home(&self) -> Option<&Path> {
        self.home.as_deref()
    }

    /// What a program gets that is run for credentials. Nothing else: it may be anybody's, and the daemon has other secrets.
    pub fn for_programs(&self) -> Vec<(String, String)> {
        let of_aws = (self.names)().into_iter().filter(|name| name.starts_with(OF_AWS));
        let names = FOR_PROGRAMS.map(str::to_owned).into_iter().chain(of_aws);
        names.filter_map(|name| self.get(&name).map(|value| (name, value))).collect()
    }

    /// A file below the home directory.
    pub fn at_home(&self, path: &str) -> Option<PathBuf> {
        self.home.as_ref().map(|home| home.join(path))
    }
}

impl fmt::Debug for Environment {
    /// Without the variables: some are secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Environment").field("home", &self.home).finish_non_exhaustive()
    }
}

/// The time of day: signatures have it, and credentials end by it.
#[derive(Clone)]
pub struct WallClock(Arc<dyn Fn() -> WallMillis + Send + Sync>);

impl WallClock {
    pub fn new(now: impl Fn() -> WallMillis + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    pub fn now(&self) -> WallMillis {
        (self.0)()
    }
}

impl fmt::Debug for WallClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WallClock").finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(in crate::cloud::ec2) mod tests {
    use super::*;

    impl Environment {
        /// These variables and no others; `home` may be a temporary directory.
        pub(in crate::cloud::ec2) fn of(variables: &[(&str, &str)], home: Option<&std::path::Path>) -> Self {
            let owned: Vec<(String, String)> =
                variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            let names: Vec<String> = owned.iter().map(|(name, _)| name.clone()).collect();
            let lookup =
                move |name: &str| owned.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
            let spawn = Arc::new(crate::shell::threads::spawn);
            Self::new(lookup, home.map(PathBuf::from), spawn).with_names(move || names.clone())
        }
    }

    #[test]
    fn a_variable_that_is_set_to_nothing_is_not_set() {
        let environment = Environment::of(&[("A", ""), ("B", " "), ("C", "hush")], None);
        assert_eq!(environment.get("A"), None);
        assert_eq!(environment.get("B"), None);
        assert_eq!(environment.first(&["A", "B", "C"]), Some(("C", "hush".to_owned())));
        assert_eq!(environment.at_home("x"), None);
        assert!(!format!("{environment:?}").contains("hush"), "{environment:?}");
    }
}
