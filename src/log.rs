//! The program's log: one line per event on stderr or in a file, in logfmt or JSON, through the crates `log` and
//! `env_logger` (which filters by level and target).
//!
//! Any thread logs; lines are written whole, one after the other. A line that cannot be written (disk full) is counted, not
//! waited for: the log must not stop the work.
//! Spec 80 §4.

pub mod line;

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use ::log::kv::{Key, Value, VisitSource};
use ::log::{Level, Metadata, Record};
use parking_lot::Mutex;

pub use line::{Format, text_of};

use crate::core::effect::{self, Note};
use crate::core::time::WallMillis;

/// Where and how to log.
#[derive(Clone, Debug, Default)]
pub struct Options {
    pub format: Format,
    /// A level, or a filter as `RUST_LOG` takes it; empty = info. The environment's `RUST_LOG` goes before it.
    pub filter: String,
    /// `None` = stderr. Made with mode 0640 if it does not exist; appended to.
    pub file: Option<PathBuf>,
    /// Bytes of a command's output (`stdout`, `stderr`) that are shown; `None`: 1 KiB.
    pub output_bytes_max: Option<usize>,
}

/// Libraries whose lines are about themselves, and could have parts of requests in them: only their warnings, at any level of ours.
const WORDY: [&str; 3] = ["native_tls", "ureq", "ureq_proto"];

static SINK: OnceLock<Arc<Sink>> = OnceLock::new();

/// Installs the logger. The first call counts; later ones change nothing.
///
/// # Errors
/// The file cannot be opened.
pub fn init(options: &Options) -> io::Result<()> {
    let sink = Arc::new(Sink::open(options.file.clone())?);
    let logger = build(options, Arc::clone(&sink));
    let level = logger.filter();
    if ::log::set_boxed_logger(Box::new(logger)).is_ok() {
        ::log::set_max_level(level);
        let _ = SINK.set(sink);
    }
    Ok(())
}

/// Opens the log file anew, after it was renamed (SIGHUP). Without a file it does nothing.
///
/// # Errors
/// It cannot be opened: the old one stays in use.
pub fn reopen() -> io::Result<()> {
    SINK.get().map_or(Ok(()), |sink| sink.reopen())
}

/// Logs a panic as one error line with thread, place and message. The process aborts after it (`panic = "abort"`).
pub fn install_panic_hook() {
    std::panic::set_hook(Box::new(|info| {
        let payload = info.payload();
        let message = payload
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| payload.downcast_ref::<String>().cloned())
            .unwrap_or_default();
        event(Level::Error, "panic", "a thread panicked; this is a bug")
            .with("Thread", std::thread::current().name().unwrap_or("?"))
            .with("Place", info.location().map(ToString::to_string).unwrap_or_default())
            .with("Reason", message)
            .emit();
    }));
}

fn build(options: &Options, sink: Arc<Sink>) -> env_logger::Logger {
    let mut builder = env_logger::Builder::new();
    let from_environment = std::env::var("RUST_LOG").ok().filter(|text| !text.is_empty());
    let filter = from_environment.unwrap_or_else(|| options.filter.clone());
    builder.parse_filters(if filter.is_empty() { "info" } else { &filter });
    for library in WORDY {
        builder.filter_module(library, ::log::LevelFilter::Warn);
    }
    builder.target(env_logger::Target::Pipe(Box::new(SinkWriter(sink))));
    let (format, output_bytes_max) = (options.format, options.output_bytes_max.unwrap_or(line::OUTPUT_BYTES_MAX));
    builder.format(move |buffer, record| buffer.write_all(render(record, format, output_bytes_max).as_bytes()));
    builder.build()
}

fn render(record: &Record<'_>, format: Format, output_bytes_max: usize) -> String {
    let mut fields = Fields(Vec::new());
    // Its visitor never fails.
    let _ = record.key_values().visit(&mut fields);
    let time = time_text(jiff::Timestamp::now());
    let level = record.level().as_str().to_ascii_lowercase();
    let message = record.args().to_string();
    let (time, level, target, message) = (&*time, &*level, record.target(), &*message);
    line::Line { time, level, target, message, fields: &fields.0, output_bytes_max }.render(format)
}

struct Fields(Vec<(String, String)>);

impl<'kvs> VisitSource<'kvs> for Fields {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), ::log::kv::Error> {
        self.0.push((key.to_string(), value.to_string()));
        Ok(())
    }
}

/// The open end of the log.
#[derive(Debug)]
struct Sink {
    path: Option<PathBuf>,
    state: Mutex<SinkState>,
}

#[derive(Debug)]
struct SinkState {
    /// `None` = stderr.
    file: Option<File>,
    /// Lines that could not be written since the last one that could.
    lost: u64,
}

impl Sink {
    fn open(path: Option<PathBuf>) -> io::Result<Self> {
        let file = path.as_ref().map(open_file).transpose()?;
        Ok(Self { path, state: Mutex::new(SinkState { file, lost: 0 }) })
    }

    fn reopen(&self) -> io::Result<()> {
        if let Some(path) = &self.path {
            let file = open_file(path)?;
            self.state.lock().file = Some(file);
        }
        Ok(())
    }

    fn write_line(&self, line: &[u8]) {
        let mut state = self.state.lock();
        let written = match &mut state.file {
            Some(file) => file.write_all(line),
            None => io::stderr().lock().write_all(line),
        };
        match written {
            Ok(()) => state.lost = 0,
            Err(_) => state.lost += 1,
        }
    }
}

/// How many lines in a row could not be written, up to now; for `muster status`.
pub fn lines_lost() -> u64 {
    SINK.get().map_or(0, |sink| sink.state.lock().lost)
}

fn open_file(path: &PathBuf) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o640)
        .open(path)
        .map_err(|error| io::Error::new(error.kind(), format!("cannot open the log file {}: {error}", path.display())))
}

/// Passes whole lines on and never fails.
struct SinkWriter(Arc<Sink>);

impl Write for SinkWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.write_line(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// An event that is being put together. Nothing is logged before [`emit`](Event::emit).
#[derive(Debug)]
#[must_use = "an event is logged by `emit`"]
pub struct Event {
    level: Level,
    target: &'static str,
    message: &'static str,
    /// `None` if nobody would read it: then values are not even formatted.
    fields: Option<Vec<(&'static str, String)>>,
}

/// Begins an event; names of fields are those of spec 80 §4.
pub fn event(level: Level, target: &'static str, message: &'static str) -> Event {
    let metadata = Metadata::builder().level(level).target(target).build();
    let enabled = level <= ::log::max_level() && ::log::logger().enabled(&metadata);
    Event { level, target, message, fields: enabled.then(Vec::new) }
}

impl Event {
    /// Adds a field after those before.
    pub fn with(mut self, name: &'static str, value: impl ToString) -> Self {
        if let Some(fields) = &mut self.fields {
            fields.push((name, value.to_string()));
        }
        self
    }

    pub fn emit(self) {
        if let Some(fields) = &self.fields {
            write(self.level, self.target, self.message, fields);
        }
    }
}

/// A time of day as the log's lines have it; empty for one that no calendar has.
pub fn time_of_day(at: WallMillis) -> String {
    jiff::Timestamp::from_millisecond(at).map(time_text).unwrap_or_default()
}

fn time_text(at: jiff::Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string()
}

/// Writes a note of the core as it stands.
pub fn write_note(note: &Note) {
    let level = match note.level {
        effect::Level::Debug => Level::Debug,
        effect::Level::Info => Level::Info,
        effect::Level::Warn => Level::Warn,
        effect::Level::Error => Level::Error,
    };
    write(level, note.target, note.message, &note.fields);
}

fn write(level: Level, target: &str, message: &str, fields: &[(&'static str, String)]) {
    let pairs: Vec<(&str, &str)> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
    ::log::logger().log(
        &Record::builder().level(level).target(target).args(format_args!("{message}")).key_values(&&pairs[..]).build(),
    );
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use ::log::Log;

    use super::*;

    fn log_to(logger: &env_logger::Logger, text: &str) {
        let pairs = [("Instance", text)];
        let arguments = format_args!("hello");
        logger.log(&Record::builder().level(Level::Info).target("t").args(arguments).key_values(&pairs).build());
    }

    #[test]
    fn file_is_appended_to_and_opened_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        std::fs::write(&path, "old\n").unwrap();
        let options = Options { file: Some(path.clone()), filter: "info".to_owned(), ..Options::default() };
        let sink = Arc::new(Sink::open(options.file.clone()).unwrap());
        let logger = build(&options, Arc::clone(&sink));
        log_to(&logger, "a b");
        let moved = folder.path().join("log.1");
        std::fs::rename(&path, &moved).unwrap();
        log_to(&logger, "second");
        sink.reopen().unwrap();
        log_to(&logger, "third");
        let old = std::fs::read_to_string(&moved).unwrap();
        let lines: Vec<&str> = old.lines().collect();
        assert_eq!(lines.len(), 3, "{old}");
        assert_eq!(lines[0], "old");
        assert!(lines[1].ends_with(" level=info target=t msg=hello Instance=\"a b\""), "{old}");
        assert_eq!(lines[1].split(' ').next().unwrap().len(), "time=2026-11-23T22:01:02.123Z".len());
        assert!(std::fs::read_to_string(&path).unwrap().ends_with("Instance=third\n"));
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o137, 0);
    }

    #[test]
    fn a_full_disk_is_counted_and_harmless() {
        let sink = Sink::open(Some(PathBuf::from("/dev/full"))).unwrap();
        sink.write_line(b"x\n");
        sink.write_line(b"x\n");
        assert_eq!(sink.state.lock().lost, 2);
        let error = Sink::open(Some(PathBuf::from("/nonexistent/log"))).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/log"));
    }
}
