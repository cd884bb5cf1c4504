//! `muster cloudtest`: tries the configured cloud by running one instance. Its flags may have one dash or two, as the reference's.

use std::ffi::OsString;

use clap::ArgAction;
use clap::builder::BoolishValueParser;

use super::Global;
use super::exit::{self, Failure};
use super::locate::configuration_for_trial;
use crate::config::Loaded;
use crate::core::effect::{Level, Note};
use crate::core::errors::chain;
use crate::log::{self, write_note};
use crate::shell::cloudtest::{CloudTestOptions, run as run_cloudtest};

/// Try configuration, account, image and network by running one instance
///
/// Creates an instance with the configured driver, waits until it has booted, runs a command if one is given, and destroys it. It
/// costs what such an instance costs for some minutes; with several subnets configured, one instance in each, one after the other.
/// A dispatcher that runs is not disturbed: the instance has an instance set id of its own. Every step is a line on standard error.
/// The first SIGINT, SIGTERM, SIGHUP or SIGQUIT ends the test and destroys the instance, a second one leaves it behind.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  muster cloudtest --config /etc/muster/config.yml --command 'uname -a; df -h'\n\nFlags may also be written with one dash."
)]
pub(super) struct Options {
    /// Marks the instance; that of the configuration's dispatcher is refused
    #[arg(long, value_name = "ID", default_value = "zzzzz-zzzzz-zzzzzzcloudtest")]
    instance_set_id: String,
    /// Image in place of the configured ImageID
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    image_id: String,
    /// Configured type of the instance [default: the cheapest]
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    instance_type: String,
    /// Destroy instances that earlier tests left, instead of failing
    #[arg(long, action = ArgAction::Set, value_parser = BoolishValueParser::new(), num_args = 0..=1, require_equals = true,
        default_value = "false", default_missing_value = "true", hide_default_value = true, hide_possible_values = true, value_name = "BOOL")]
    destroy_existing: bool,
    /// Shell command to run on the instance when it has booted or its time for that is over; it may take an hour at most
    #[arg(long, value_name = "COMMAND", default_value = "", hide_default_value = true, allow_hyphen_values = true)]
    command: String,
    /// Wait for Enter before the instance is destroyed
    #[arg(long, action = ArgAction::Set, value_parser = BoolishValueParser::new(), num_args = 0..=1, require_equals = true,
        default_value = "false", default_missing_value = "true", hide_default_value = true, hide_possible_values = true, value_name = "BOOL")]
    pause_before_destroy: bool,
}

/// What a command on the instance writes is shown up to this: it is what the test was made for.
const OUTPUT_BYTES_MAX: usize = 64 * 1024;

/// Flags of this command that take the next word as their value, and those that do not.
const WITH_VALUE: [&str; 6] = ["config", "cluster", "instance-set-id", "image-id", "instance-type", "command"];
const WITHOUT_VALUE: [&str; 3] = ["destroy-existing", "pause-before-destroy", "help"];

/// `-config FILE` and `-config=FILE` as this parser knows them; only for this command, and nothing that is a value or stands behind `--`.
pub(super) fn with_two_dashes(mut arguments: Vec<OsString>) -> Vec<OsString> {
    let Some(command) = position_of_command(&arguments) else { return arguments };
    let mut index = command + 1;
    while let Some(argument) = arguments.get_mut(index) {
        let text = argument.to_str().unwrap_or_default();
        if text == "--" {
            break;
        }
        let dashes = if text.starts_with("--") { 2 } else { usize::from(text.starts_with('-')) };
        let (name, has_value) = match text[dashes..].split_once('=') {
            Some((name, _)) => (name, true),
            None => (&text[dashes..], false),
        };
        let takes_next = WITH_VALUE.contains(&name);
        let is_flag = dashes > 0 && (takes_next || WITHOUT_VALUE.contains(&name));
        // Whatever it looks like, it is a value.
        index += if is_flag && takes_next && !has_value { 2 } else { 1 };
        if is_flag && dashes == 1 {
            *argument = OsString::from(format!("-{text}"));
        }
    }
    arguments
}

/// Where `cloudtest` stands if it is the command: the first word that is neither an option nor the value of one.
fn position_of_command(arguments: &[OsString]) -> Option<usize> {
    let mut words = arguments.iter().enumerate().skip(1);
    while let Some((index, word)) = words.next() {
        match word.to_str()? {
            "--config" | "--cluster" => drop(words.next()),
            "--" => return None,
            text if text.starts_with('-') => {}
            text => return (text == "cloudtest").then_some(index),
        }
    }
    None
}

pub(super) fn run(global: &Global, options: &Options) -> Result<u8, Failure> {
    if options.instance_set_id.is_empty() || options.instance_set_id.len() > 64 || !options.instance_set_id.is_ascii() {
        return Err(Failure::Usage("--instance-set-id must be of 1 to 64 ASCII characters".to_owned()));
    }
    let log_options = log::Options { output_bytes_max: Some(OUTPUT_BYTES_MAX), ..log::Options::default() };
    log::init(&log_options).map_err(|error| Failure::Failed(format!("cannot set up the log: {}", chain(&error))))?;
    log::install_panic_hook();
    let all_is_well = test(global, options).unwrap_or_else(|error| {
        write_note(&Note::new(Level::Error, "cloudtest", "fatal").with("error", error));
        false
    });
    write_note(
        &Note::new(Level::Info, "cloudtest", "exiting")
            .with("Result", if all_is_well { "all is well" } else { "failed" }),
    );
    Ok(if all_is_well { exit::DONE } else { exit::FAILED })
}

/// Whether all was well; the fault if nothing was begun.
fn test(global: &Global, options: &Options) -> Result<bool, String> {
    let Loaded { config, warnings } = configuration_for_trial(global).map_err(Failure::into_text)?;
    for warning in &warnings {
        write_note(&Note::new(Level::Warn, "config", "configuration").with("error", warning));
    }
    let options = CloudTestOptions {
        instance_set_id: options.instance_set_id.clone(),
        image_id: options.image_id.clone(),
        instance_type: options.instance_type.clone(),
        destroy_existing: options.destroy_existing,
        command: options.command.clone(),
        pause_before_destroy: options.pause_before_destroy,
    };
    run_cloudtest(&config, &options).map_err(|error| chain(&error))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[test]
    fn one_dash_is_as_good_as_two_after_the_command() {
        for (given, expected) in [
            ("muster cloudtest -config f -image-id=i", "muster cloudtest --config f --image-id=i"),
            ("muster cloudtest -destroy-existing=true -help", "muster cloudtest --destroy-existing=true --help"),
            ("muster --config f cloudtest -command x", "muster --config f cloudtest --command x"),
            ("muster --config=f --json cloudtest -command x", "muster --config=f --json cloudtest --command x"),
            // The same as they are.
            ("muster cloudtest -h -frobnicate", ""),
            ("muster --config f cloudtest --destroy-existing", ""),
            // Values.
            ("muster cloudtest -command -config", "muster cloudtest --command -config"),
            ("muster cloudtest --command -config", ""),
            ("muster cloudtest --command=-config", ""),
            ("muster cloudtest -command=-config", "muster cloudtest --command=-config"),
            ("muster cloudtest -- -config", ""),
            // Other commands, and words that are no commands.
            ("muster submit -config f", ""),
            ("muster submit --name cloudtest -- tool -config x", ""),
            ("muster submit cloudtest -config x", ""),
            ("muster --config cloudtest submit -- tool -config x", ""),
            ("muster --cluster cloudtest list -help", ""),
            ("muster -- cloudtest -config x", ""),
            ("cloudtest submit -config x", ""),
            ("muster", ""),
        ] {
            let words = |text: &str| text.split(' ').map(OsString::from).collect::<Vec<_>>();
            let expected = if expected.is_empty() { given } else { expected };
            assert_eq!(with_two_dashes(words(given)), words(expected));
        }
    }

    /// As the reference's parser takes them.
    #[test]
    fn values_of_flags() {
        let parse = |text: &str| {
            let words = text.split(' ').map(OsString::from).collect();
            let cli = crate::cli::Cli::try_parse_from(with_two_dashes(words)).expect("good");
            match cli.command {
                crate::cli::Command::CloudTest(options) => options,
                other => panic!("{other:?}"),
            }
        };
        for (flags, expected) in [
            ("-command x", (false, false, "x")),
            ("-destroy-existing -pause-before-destroy", (true, true, "")),
            ("-destroy-existing=true -pause-before-destroy=false", (true, false, "")),
            ("-destroy-existing=1 -command -x", (true, false, "-x")),
            ("-destroy-existing -command=-config=f", (true, false, "-config=f")),
        ] {
            let options = parse(&format!("muster cloudtest {flags}"));
            let found = (options.destroy_existing, options.pause_before_destroy, options.command.as_str());
            assert_eq!(found, expected, "{flags}");
        }
    }
}
