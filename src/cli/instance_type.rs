//! `muster instance-type`: the configured types, and what holds them back.

use super::client::{Client, encode};
use super::exit::{self, Failure};
use super::output::{Output, width};
use super::{Global, status, table};
use crate::core::units::format_size;
use crate::management::records::{InstanceTypeList, InstanceTypeRecord};

/// List instance types, and end their pauses
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// List the configured types, cheapest first, with what holds them back now
    ///
    /// A type whose instances failed to boot three times in a row is not created for a while (`breaker`), with the last error.
    #[command(after_help = "Example:\n  muster instance-type list")]
    List,
    /// End the pause of a type whose instances failed to boot
    ///
    /// For when what was wrong is corrected: its failures are forgotten, and instances of it are created as if there had been none.
    #[command(after_help = "Example:\n  muster instance-type reset m5.large")]
    Reset {
        #[arg(value_name = "TYPE")]
        name: String,
    },
}

pub(super) fn run(global: &Global, command: &Command) -> Result<u8, Failure> {
    let client = Client::new(global)?;
    match command {
        Command::List => list(global, &client),
        Command::Reset { name } => {
            client.call("POST", &format!("instance-types/reset?name={}", encode(name)), b"")?;
            Ok(exit::DONE)
        }
    }
}

/// Its limits; and before there are any, what was wrong with its last instance.
fn held_back(one: &InstanceTypeRecord) -> String {
    let mut texts: Vec<String> = one.limits.iter().map(status::limit).collect();
    if texts.is_empty() && one.boot_failures > 0 {
        texts.push(format!("the last instance failed to boot: {}", one.last_boot_error));
    }
    texts.join("; ")
}

fn list(global: &Global, client: &Client) -> Result<u8, Failure> {
    let list: InstanceTypeList = client.get("instance-types")?;
    let mut output = Output::new();
    if global.json {
        output.json(&list)?;
    } else {
        let rows: Vec<Vec<String>> = list
            .items
            .iter()
            .map(|one| {
                vec![
                    one.name.clone(),
                    one.vcpus.to_string(),
                    format_size(one.ram),
                    format_size(one.scratch),
                    format!("{:.4}", one.price),
                    one.instances.to_string(),
                    held_back(one),
                ]
            })
            .collect();
        for line in table::lines(&["TYPE", "VCPUS", "RAM", "SCRATCH", "PRICE", "INSTANCES", "LIMITS"], &rows, width()) {
            output.line(&line)?;
        }
    }
    output.done()?;
    Ok(exit::DONE)
}
