//! `muster cloudtest`: tries the configured cloud by running one instance. Its flags may have one dash or two, as the reference's.

use std::ffi::OsString;

use super::Global;
use super::exit::{self, Failure};
use super::locate::configuration;
use crate::config::Loaded;
use crate::core::effect::{Level, Note};
use crate::core::errors::chain;
use crate::log::{self, write_note};
use crate::shell::cloudtest::{CloudTestOptions, run as run_cloudtest};

/// Try configuration, account, image and network by running one instance
///
/// Creates an instance with the configured driver, waits until it has booted, runs a command if one is given, and destroys it. It
/// costs what such an instance costs for some minutes. A dispatcher that runs is not disturbed: the instance has an instance set
/// id of its own. Every step is a line on standard error.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  muster cloudtest --config /etc/muster/config.yml --command 'uname -a; df -h'\n\nFlags may also be written with one dash."
)]
pub(super) struct Options {
    /// Marks the instance; that of a dispatcher would be shared with it
    #[arg(long, value_name = "ID", default_value = "zzzzz-zzzzz-zzzzzzcloudtest")]
    instance_set_id: String,
    /// Image in place of the configured ImageID
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    image_id: String,
    /// Configured type of the instance [default: the cheapest]
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    instance_type: String,
    /// Destroy instances that earlier tests left, instead of failing
    #[arg(long)]
    destroy_existing: bool,
    /// Shell command to run on the instance when it has booted
    #[arg(long, value_name = "COMMAND", default_value = "", hide_default_value = true)]
    command: String,
    /// Wait for Enter before the instance is destroyed
    #[arg(long)]
    pause_before_destroy: bool,
}

/// Names of flags, for [`with_two_dashes`].
const FLAGS: [&str; 9] = [
    "config",
    "cluster",
    "instance-set-id",
    "image-id",
    "instance-type",
    "destroy-existing",
    "command",
    "pause-before-destroy",
    "help",
];

/// `-config FILE` and `-config=FILE` as this parser knows them; only for this command.
pub(super) fn with_two_dashes(arguments: Vec<OsString>) -> Vec<OsString> {
    let Some(at) = arguments.iter().position(|argument| argument == "cloudtest") else { return arguments };
    // A value of another command's option, perhaps: what comes before the command are its options.
    let convert = |(index, argument): (usize, OsString)| {
        let name = argument
            .to_str()
            .and_then(|text| text.strip_prefix('-'))
            .map(|text| text.split('=').next().unwrap_or(text));
        match name {
            Some(name) if index > at && FLAGS.contains(&name) => {
                let mut long = OsString::from("-");
                long.push(&argument);
                long
            }
            _ => argument,
        }
    };
    arguments.into_iter().enumerate().map(convert).collect()
}

pub(super) fn run(global: &Global, options: &Options) -> Result<u8, Failure> {
    let Loaded { config, warnings } = configuration(global)?;
    if options.instance_set_id.is_empty() || options.instance_set_id.len() > 64 || !options.instance_set_id.is_ascii() {
        return Err(Failure::Usage("--instance-set-id must be of 1 to 64 ASCII characters".to_owned()));
    }
    log::init(&log::Options::default())
        .map_err(|error| Failure::Failed(format!("cannot set up the log: {}", chain(&error))))?;
    log::install_panic_hook();
    for warning in &warnings {
        write_note(&Note::new(Level::Warn, "config", "configuration").with("error", warning));
    }
    let result = run_cloudtest(
        &config,
        &CloudTestOptions {
            instance_set_id: options.instance_set_id.clone(),
            image_id: options.image_id.clone(),
            instance_type: options.instance_type.clone(),
            destroy_existing: options.destroy_existing,
            command: options.command.clone(),
            pause_before_destroy: options.pause_before_destroy,
        },
    );
    let all_is_well = result.unwrap_or_else(|error| {
        write_note(&Note::new(Level::Error, "cloudtest", "fatal").with("error", chain(&error)));
        false
    });
    write_note(
        &Note::new(Level::Info, "cloudtest", "exiting")
            .with("Result", if all_is_well { "all is well" } else { "failed" }),
    );
    Ok(if all_is_well { exit::DONE } else { exit::FAILED })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_dash_is_as_good_as_two_after_the_command() {
        for (given, expected) in [
            (
                "muster cloudtest -config f -image-id=i -command -x",
                "muster cloudtest --config f --image-id=i --command -x",
            ),
            ("muster --config f cloudtest --destroy-existing", "muster --config f cloudtest --destroy-existing"),
            ("muster submit -config f", "muster submit -config f"),
            ("muster cloudtest -h -frobnicate", "muster cloudtest -h -frobnicate"),
        ] {
            let words = |text: &str| text.split(' ').map(OsString::from).collect::<Vec<_>>();
            assert_eq!(with_two_dashes(words(given)), words(expected));
        }
    }
}
