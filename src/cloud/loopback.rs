//! The driver of the embedded default: the one instance is this host (spec 40 §6, 62 §3).
//!
//! Commands run directly, without SSH. That the host is taken, and its tags, are kept in `StateDir/loopback.json`, so that a
//! restarted daemon adopts what runs.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::{Access, CloudError, CloudInstance, InstanceSet, NewInstance, Traits};
use crate::core::effect::{Ending, Tags};
use crate::core::ids::{InstanceId, InstanceSecret};
use crate::core::instance_type::InstanceType;
use crate::remote::local::LocalExecutor;
use crate::remote::runner::RunnerPlaces;

/// The state file is small; anything larger is not ours.
const STATE_BYTES_MAX: u64 = 1024 * 1024;
/// The mark by which a runner says that its host is broken: a destroy and create would repair a machine, so a create clears it here.
const BROKEN_MARK: &str = "crunch-run-broken";

#[derive(Clone, Debug)]
struct Taken {
    provider_type: String,
    tags: Tags,
}

/// [`Taken`] in the state file. No `Debug`: the tags hold the instance's secret.
#[derive(Serialize, Deserialize)]
struct StateFile {
    provider_type: String,
    tags: BTreeMap<String, String>,
}

/// See the module.
#[derive(Debug)]
pub struct Loopback {
    state_file: PathBuf,
    /// Below StateDir: the runner's program and locks.
    directory: PathBuf,
    /// Results and working directories: beside StateDir, since jobs run as another user who may not enter that.
    runner_dir: PathBuf,
    home: String,
    taken: Mutex<Option<Taken>>,
}

impl Loopback {
    /// `state_dir` exists. Reads what a previous daemon left. `mark` is the tag that says whose instances are ours.
    ///
    /// # Errors
    /// A directory cannot be made, or the state file cannot be read, is damaged, or is another dispatcher's (the text names it).
    pub fn open(state_dir: &Path, home: String, mark: (&str, &str)) -> io::Result<Self> {
        let directory = state_dir.join("loopback");
        make_private(&directory)?;
        make_private(&directory.join("lock"))?;
        let state_file = state_dir.join("loopback.json");
        let taken = read_state(&state_file)?;
        refuse_another_set(&state_file, taken.as_ref(), mark)?;
        let mut name = state_dir.file_name().unwrap_or_default().to_owned();
        name.push("-runner");
        let runner_dir = state_dir.with_file_name(name);
        // Jobs pass through it as another user.
        match std::fs::DirBuilder::new().mode(0o711).create(&runner_dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                let text = format!("cannot make {} for the runner's files: {error}", runner_dir.display());
                return Err(io::Error::new(error.kind(), text));
            }
            _ => {}
        }
        Ok(Self { state_file, directory, runner_dir, home, taken: Mutex::new(taken) })
    }

    /// Where the runner keeps results and working directories.
    pub fn runner_dir(&self) -> &Path {
        &self.runner_dir
    }

    fn lock_dir(&self) -> PathBuf {
        self.directory.join("lock")
    }

    fn save(&self, taken: Option<&Taken>) -> Result<(), CloudError> {
        let result = match taken {
            Some(Taken { provider_type, tags }) => serde_json::to_vec(&StateFile {
                provider_type: provider_type.clone(),
                tags: tags.clone().into_iter().collect(),
            })
            .map_err(io::Error::other)
            .and_then(|bytes| replace_file(&self.state_file, &bytes)),
            None => remove_if_there(&self.state_file),
        };
        result.map_err(|error| CloudError::other(format!("cannot write {}", self.state_file.display()), error))
    }
}

fn make_private(path: &Path) -> io::Result<()> {
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn replace_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("json.new");
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    std::fs::File::open(path.parent().unwrap_or(path))?.sync_all()
}

fn read_state(path: &Path) -> io::Result<Option<Taken>> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let size = match std::fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(named(error)),
        Ok(metadata) => metadata.len(),
    };
    if size > STATE_BYTES_MAX {
        return Err(named(io::Error::new(io::ErrorKind::InvalidData, "too large to be the loopback driver's state")));
    }
    let bytes = std::fs::read(path).map_err(named)?;
    let state: StateFile = serde_json::from_slice(&bytes).map_err(|error| named(error.into()))?;
    Ok(Some(Taken { provider_type: state.provider_type, tags: Tags::from(state.tags) }))
}

/// An instance of another set would be invisible to us, and yet keep the host for ever.
fn refuse_another_set(file: &Path, taken: Option<&Taken>, (tag, set): (&str, &str)) -> io::Result<()> {
    let theirs = taken.and_then(|taken| taken.tags.get(tag)).map(String::as_str);
    if taken.is_none() || theirs == Some(set) {
        return Ok(());
    }
    let text = format!(
        "{}: this host was taken by the dispatcher {}, we are {set} (SystemRootToken decides); set that back, or remove the file \
         when nothing of it runs any more",
        file.display(),
        theirs.unwrap_or("without a mark")
    );
    Err(io::Error::new(io::ErrorKind::InvalidData, text))
}

fn instance(taken: &Taken) -> CloudInstance {
    CloudInstance {
        id: InstanceId::new(&taken.provider_type),
        provider_type: taken.provider_type.clone(),
        address: "127.0.0.1".to_owned(),
        // Commands run as the daemon's own user: never with sudo.
        remote_user: "root".to_owned(),
        tags: taken.tags.clone(),
    }
}

impl InstanceSet for Loopback {
    fn create(&self, new: &NewInstance) -> Result<CloudInstance, CloudError> {
        let mut taken = self.taken.lock();
        if taken.is_some() {
            return Err(CloudError::Quota { message: "loopback driver is always at quota".to_owned() });
        }
        let mark = self.lock_dir().join(BROKEN_MARK);
        remove_if_there(&mark)
            .map_err(|error| CloudError::other(format!("cannot remove the broken mark {}", mark.display()), error))?;
        let now = Taken { provider_type: new.instance_type.provider_type.clone(), tags: new.tags.clone() };
        self.save(Some(&now))?;
        let made = instance(&now);
        *taken = Some(now);
        Ok(made)
    }

    fn list(&self, _tags: &Tags) -> Result<Vec<CloudInstance>, CloudError> {
        Ok(self.taken.lock().iter().map(instance).collect())
    }

    /// What still runs goes on; the next instance finds it, and the scheduler ends what is an older attempt by then.
    fn destroy(&self, id: &InstanceId, _secret: Option<&InstanceSecret>, _ending: Ending) -> Result<(), CloudError> {
        let mut taken = self.taken.lock();
        if taken.as_ref().is_some_and(|taken| taken.provider_type == id.as_str()) {
            self.save(None)?;
            *taken = None;
        }
        Ok(())
    }

    fn set_tags(&self, id: &InstanceId, tags: &Tags) -> Result<(), CloudError> {
        let mut taken = self.taken.lock();
        if let Some(known) = taken.as_mut().filter(|taken| taken.provider_type == id.as_str()) {
            let changed = Taken { tags: tags.clone(), ..known.clone() };
            self.save(Some(&changed))?;
            *known = changed;
        }
        Ok(())
    }

    fn quota_group(&self, _instance_type: &InstanceType) -> String {
        String::new()
    }

    fn traits(&self) -> Traits {
        Traits { cheap_list: true, exact_list: true, instances_max: Some(1), ..Traits::default() }
    }

    fn open(&self, _id: &InstanceId, _secret: Option<&InstanceSecret>) -> io::Result<Access> {
        let places = RunnerPlaces {
            directory: Some(self.directory.join("bin").to_string_lossy().into_owned()),
            lock_dir: Some(self.lock_dir()),
            state_dir: Some(self.runner_dir.clone()),
            ..RunnerPlaces::default()
        };
        Ok(Access { executor: Arc::new(LocalExecutor::new(self.home.clone())?), places })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cloud::boot::Boot;

    const MARK: (&str, &str) = ("ArvadosInstanceSetID", "set");

    fn new_instance() -> NewInstance {
        let instance_type = InstanceType { provider_type: "localhost".to_owned(), ..InstanceType::default() };
        let tags = Tags::from_iter([("ArvadosInstanceSetID".to_owned(), "set".to_owned())]);
        Boot::default().order(Arc::new(instance_type), tags, InstanceSecret::new("secret"))
    }

    fn listed(driver: &Loopback) -> Vec<CloudInstance> {
        driver.list(&Tags::new()).expect("always works")
    }

    /// The scenario of spec 40 §6, and that it survives a restart.
    #[test]
    fn one_instance_that_survives_a_restart() {
        let folder = tempfile::tempdir().expect("a folder");
        let state_dir = folder.path().join("state");
        std::fs::create_dir(&state_dir).expect("made");
        let open = || Loopback::open(&state_dir, "/".to_owned(), MARK).expect("opens");
        let driver = open();
        let made = driver.create(&new_instance()).expect("the host is free");
        assert_eq!(made.id.as_str(), "localhost");
        assert!(matches!(driver.create(&new_instance()), Err(CloudError::Quota { .. })));
        let mut tags = made.tags.clone();
        tags.insert("a".to_owned(), "b".to_owned());
        driver.set_tags(&made.id, &tags).expect("saved");
        drop(driver);

        let driver = open();
        assert_eq!(listed(&driver), [CloudInstance { tags, ..made.clone() }]);
        driver.destroy(&InstanceId::new("another"), None, Ending::Unwanted).expect("nothing to do");
        assert_eq!(listed(&driver).len(), 1);
        driver.destroy(&made.id, None, Ending::Unwanted).expect("freed");
        driver.destroy(&made.id, None, Ending::Unwanted).expect("freed already");
        assert!(listed(&driver).is_empty());
        assert!(listed(&open()).is_empty());
        driver.create(&new_instance()).expect("free again");
        let error = Loopback::open(&state_dir, "/".to_owned(), (MARK.0, "other")).expect_err("another set").to_string();
        assert!(error.contains("loopback.json") && error.contains("other"), "{error}");
    }

    #[test]
    fn create_clears_the_broken_mark() {
        let folder = tempfile::tempdir().expect("a folder");
        let state_dir = folder.path().join("state");
        std::fs::create_dir(&state_dir).expect("made");
        let driver = Loopback::open(&state_dir, "/".to_owned(), MARK).expect("opens");
        let mark = state_dir.join("loopback/lock").join(BROKEN_MARK);
        std::fs::write(&mark, b"").expect("written");
        driver.create(&new_instance()).expect("the host is free");
        assert!(!mark.exists());
    }

    #[test]
    fn a_damaged_state_file_is_named_and_kept() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("loopback.json");
        std::fs::write(&file, b"{\"provider_type\": 7}").expect("written");
        let error = Loopback::open(folder.path(), "/".to_owned(), MARK).expect_err("damaged");
        assert!(error.to_string().contains("loopback.json"), "{error}");
        assert!(file.exists());
    }
}
