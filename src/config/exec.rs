//! `DriverParameters` of the driver `exec` (spec 46 §2): a program of the operator's that knows a cloud.

use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::DriverParameters;
use super::fault::{Faults, Mark};
use super::section::Section;

const KEYS: [&str; 3] = ["Parameters", "Program", "Timeout"];
const TIMEOUT: Duration = Duration::from_secs(300);

/// What the driver `exec` works with.
#[derive(Clone, Debug, PartialEq)]
pub struct ExecConfig {
    /// Absolute.
    pub program: PathBuf,
    /// Of one operation, more than 0.
    pub timeout: Duration,
    /// For the program; may hold secrets.
    pub parameters: DriverParameters,
}

/// `driver` is the place of the driver's name, `absolute` makes paths so.
pub(super) fn read(
    section: &Section<'_>,
    driver: Option<Mark>,
    absolute: &dyn Fn(&str) -> PathBuf,
    faults: &mut Faults,
) -> Option<ExecConfig> {
    for (mark, path, message) in section.unknown(&KEYS) {
        // A key of another driver may stand here.
        faults.warn(Some(mark), &path, message);
    }
    let timeout = section.duration("Timeout", faults).unwrap_or(TIMEOUT);
    if timeout.is_zero() {
        faults.error(section.mark("Timeout"), &section.at("Timeout"), "must be more than 0: 5m is the default");
    }
    let parameters = DriverParameters(section.free("Parameters", faults));
    match section.text("Program", faults) {
        Some((text, mark)) => {
            let program = absolute(&text);
            if let Err(why) = check_program(&program) {
                let message = format!("{}: {why}", program.display());
                faults.error(Some(mark), &section.at("Program"), message);
            }
            Some(ExecConfig { program, timeout, parameters })
        }
        None => {
            let message =
                "the driver exec needs a program: the path of one of yours (examples: etc/examples/exec-cloud)";
            faults.error(section.node.map(|node| node.mark).or(driver), &section.at("Program"), message);
            None
        }
    }
}

fn check_program(path: &Path) -> Result<(), String> {
    let metadata = std::fs::metadata(path).map_err(|error| error.to_string())?;
    match (metadata.is_file(), metadata.permissions().mode() & 0o111) {
        (false, _) => Err("is not a file".to_owned()),
        (true, 0) => Err("is not executable: chmod +x".to_owned()),
        _ => Ok(()),
    }
}

impl fmt::Display for ExecConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.program.display())
    }
}
