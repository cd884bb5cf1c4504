//! The driver `exec`: any cloud, through a program of the operator's (spec 46 §2).
//!
//! The program is run once for each operation, with one JSON document on its standard input and one on its standard output. It gets
//! nothing else: secrets (the instance's tags, the text of its first boot) are in that document only, never on a command line, in
//! an environment, in an error or in the log; its own standard error is logged as it is.
//!
//! Reading order: [`program`] (one run), [`turns`] (how many at once, who is next) and [`stderr`] (what it says meanwhile); [`documents`] (what goes in),
//! [`answers`] (what comes out); [`known`] (host keys and prices). *Absent*: threads, retries, knowledge of clouds.

mod answers;
mod documents;
mod known;
mod program;
mod stderr;
mod turns;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use answers::Capabilities;
use documents::Parameters;
use known::{Check, Known};
use program::{Program, Verb};

use super::ssh_access::SshAccess;
use super::{Access, CloudError, CloudInstance, InstanceSet, NewInstance, Traits};
use crate::core::effect::{Ending, Level, Note, Tags};
use crate::core::ids::{InstanceId, InstanceSecret, TypeName};
use crate::core::instance_type::{InstanceType, PricePoint};
use crate::log::write_note;

/// What the driver is made from.
#[derive(Clone)]
pub struct ExecOptions {
    /// An absolute path.
    pub program: PathBuf,
    /// For one run; then its process group is killed. To say what it is capable of, it has a minute at most, for a list five seconds less
    /// than two.
    pub timeout: Duration,
    /// Opaque: every document has it. May hold secrets.
    pub parameters: serde_json::Map<String, serde_json::Value>,
    /// Our instance set id.
    pub set: String,
    /// The home directory that the program sees.
    pub home: String,
    pub access: SshAccess,
    /// The names of all types there are.
    pub type_names: BTreeSet<TypeName>,
}

impl std::fmt::Debug for ExecOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ExecOptions").field("program", &self.program).finish_non_exhaustive()
    }
}

/// See the module. Dropping it kills nothing.
pub struct ExecCloud {
    program: Program,
    parameters: Parameters,
    set: String,
    access: SshAccess,
    capabilities: Capabilities,
    known: Arc<Known>,
}

impl std::fmt::Debug for ExecCloud {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ExecCloud")
            .field("program", &self.program)
            .field("capabilities", &self.capabilities)
            .finish_non_exhaustive()
    }
}

impl ExecCloud {
    /// Asks the program what it is capable of: that one run is all that this waits for.
    ///
    /// # Errors
    /// The path is not absolute, the program cannot be run, or its answer is an error or none; the text says which.
    pub fn open(options: ExecOptions) -> Result<Self, CloudError> {
        let ExecOptions { program, timeout, parameters, set, home, access, type_names } = options;
        write_note(&Note::new(Level::Info, "cloud", "asking the driver program").with("Program", program.display()));
        let program = Program::new(&program, timeout, &home)
            .map_err(|error| CloudError::other("cannot use DriverParameters.Program", error))?;
        let answer = program.run(Verb::Capabilities, &documents::capabilities(&parameters))?;
        let capabilities = answer.read(answers::capabilities)?;
        for name in capabilities.quota_groups.keys().filter(|name| !type_names.contains(&TypeName::new(name))) {
            let note =
                Note::new(Level::Warn, "cloud", "the driver program's quota_groups name a type that there is not");
            write_note(&note.with("InstanceType", name));
        }
        Ok(Self { program, parameters, set, access, capabilities, known: Arc::default() })
    }
}

impl InstanceSet for ExecCloud {
    fn create(&self, new: &NewInstance) -> Result<CloudInstance, CloudError> {
        let answer = self.program.run_if_begun_by(
            new.wanted_until,
            Verb::Create,
            &documents::create(&self.set, new, &self.parameters),
            || new.still_wanted(),
        )?;
        let described = answer.read(|fields| answers::created(fields, &new.tags, &new.instance_type.provider_type))?;
        self.known.created(&described);
        Ok(described.instance)
    }

    fn list(&self, tags: &Tags) -> Result<Vec<CloudInstance>, CloudError> {
        let asked = self.known.asked();
        let answer = self.program.run(Verb::List, &documents::list(&self.set, tags, &self.parameters))?;
        let all = answer.read(answers::listed)?;
        self.known.listed(asked, &all);
        Ok(all.into_iter().map(|one| one.instance).collect())
    }

    /// The program's ids do not come again, so a late repeat finds nothing.
    fn destroy(&self, id: &InstanceId, _secret: Option<&InstanceSecret>, _ending: Ending) -> Result<(), CloudError> {
        self.program.run(Verb::Destroy, &documents::destroy(id, &self.parameters)).map(drop)
    }

    fn set_tags(&self, id: &InstanceId, tags: &Tags) -> Result<(), CloudError> {
        self.program.run(Verb::SetTags, &documents::set_tags(id, tags, &self.parameters)).map(drop)
    }

    fn quota_group(&self, instance_type: &InstanceType) -> String {
        self.capabilities.quota_groups.get(&instance_type.name).cloned().unwrap_or_default()
    }

    fn traits(&self) -> Traits {
        Traits { cheap_list: self.capabilities.cheap_list, calls_provider: true, ..Traits::default() }
    }

    /// As of the last list, whatever the type.
    fn price_history(&self, id: &InstanceId, _instance_type: &InstanceType) -> Vec<PricePoint> {
        self.known.prices(id)
    }

    fn open(&self, id: &InstanceId, secret: Option<&InstanceSecret>) -> std::io::Result<Access> {
        let announced = self.capabilities.verify_host_key;
        self.access.open(Arc::new(Check { id: id.clone(), known: self.known.clone(), announced }), secret)
    }

    /// Programs that only read are killed, others are left to end; none is started any more.
    fn stop(&self) {
        self.program.stop();
    }
}
