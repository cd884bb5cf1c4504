//! The work: real files of this machine, and the scripts that look at them.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::daemon::{Demo, Failure};

/// Containers of the array, one file each.
pub(crate) const ARRAY: usize = 150;
/// Containers of the job file, one file each.
pub(crate) const BY_FILE: usize = 150;
/// Exit status of the one that fails on purpose.
pub(crate) const FAILS_WITH: i32 = 3;
/// Files above this are left out: the demo is about dispatching, not about reading disks.
const FILE_BYTES_MAX: u64 = 1_000_000;

/// What is to be done.
pub(crate) struct Work {
    /// The first [`ARRAY`] are checksummed, the rest counted.
    pub(crate) files: Vec<PathBuf>,
    /// One path a line.
    pub(crate) list: PathBuf,
    pub(crate) job_file: PathBuf,
    /// Each container appends a line to the file of its uuid here, whenever it runs.
    pub(crate) runs: PathBuf,
}

impl Work {
    /// The line that counts a run.
    pub(crate) fn mark(&self) -> String {
        format!(r#"echo "attempt $MUSTER_ATTEMPT" >> '{}'/"$MUSTER_UUID""#, self.runs.display())
    }

    /// Takes the file of its index from the list.
    pub(crate) fn checksum_script(&self) -> String {
        let (mark, list) = (self.mark(), self.list.display());
        format!(r#"{mark}; file=$(sed -n "$((MUSTER_ARRAY_INDEX + 1))p" '{list}'); sha256sum < "$file""#)
    }
}

pub(crate) fn submit_array(demo: &Demo, work: &Work) -> Result<Vec<String>, Failure> {
    let range = format!("0-{}", ARRAY - 1);
    let script = work.checksum_script();
    let arguments = ["submit", "--name", "checksum", "--array", &range, "--", "sh", "-c", &script];
    Ok(demo.muster(&arguments)?.lines().map(str::to_owned).collect())
}

pub(crate) fn submit_file(demo: &Demo, work: &Work) -> Result<Vec<String>, Failure> {
    let file = work.job_file.to_string_lossy();
    Ok(demo.muster(&["submit", "--file", &file])?.lines().map(str::to_owned).collect())
}

pub(crate) fn prepare(folder: &Path) -> Result<Work, Failure> {
    let mut files = Vec::new();
    collect(Path::new("/usr/share"), &mut files);
    files.sort();
    let wanted = ARRAY + BY_FILE;
    if files.len() < wanted {
        return Err(Failure::Wrong(format!(
            "only {} readable files below /usr/share, {wanted} are needed",
            files.len()
        )));
    }
    // Spread over all of them.
    let step = files.len() / wanted;
    let files: Vec<PathBuf> = files.into_iter().step_by(step).take(wanted).collect();
    let runs = folder.join("runs");
    std::fs::create_dir(&runs)?;
    std::fs::set_permissions(&runs, std::fs::Permissions::from_mode(0o777))?;
    let (list, job_file) = (folder.join("files.txt"), folder.join("jobs.jsonl"));
    let lines: String = files.iter().map(|file| format!("{}\n", file.display())).collect();
    std::fs::write(&list, lines)?;
    let work = Work { files, list, job_file, runs };
    std::fs::write(&work.job_file, job_lines(&work))?;
    Ok(work)
}

/// One record a line, as `muster submit --file` takes them: priorities from 1 to 1000, results as output files.
fn job_lines(work: &Work) -> String {
    let line = |(index, file): (usize, &PathBuf)| {
        let script = format!(r#"{}; wc -lc < "$1" > count.txt"#, work.mark());
        let record = serde_json::json!({
            "name": format!("count-{index}"),
            "command": ["sh", "-c", script, "sh", file],
            "priority": 1 + (index * 379) % 1000,
            "ram": "64MiB",
            "outputs": ["count.txt"],
        });
        format!("{record}\n")
    };
    work.files.iter().skip(ARRAY).enumerate().map(line).collect()
}

/// Regular files that everybody may read, with plain names, without following links.
fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(metadata) = entry.metadata() else { continue };
        let path = entry.path();
        if metadata.is_dir() {
            collect(&path, files);
        } else if metadata.is_file()
            && metadata.permissions().mode() & 0o004 != 0
            && metadata.len() <= FILE_BYTES_MAX
            && path.to_str().is_some_and(|text| text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' '))
        {
            files.push(path);
        }
    }
}
