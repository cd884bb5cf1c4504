//! `muster instance`: what operators do with instances (spec 82 §6: texts and columns are an interface).

use std::collections::BTreeSet;

use super::Global;
use super::client::{Client, encode};
use super::exit::{self, Failure};
use super::output::{Output, say};
use crate::management::records::{InstanceList, InstanceRow};

/// List instances, and hold, drain, release or kill them
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// List instances: tab-separated, one a line
    ///
    /// Hosts of the driver static that cannot be used now are listed too, with one of the states unreachable, failed, foreign
    /// (another dispatcher has it) and cleaning, and the reason in a last column. `run` ends their pauses.
    #[command(after_help = "Example:\n  muster instance list --header")]
    List {
        /// Begin with the names of the columns
        #[arg(long)]
        header: bool,
    },
    /// Start nothing new on instances, and never shut them down
    #[command(after_help = "Example:\n  muster instance hold localhost")]
    Hold(Ids),
    /// Start nothing new on instances, and shut them down as soon as nothing runs
    #[command(after_help = "Example:\n  muster instance drain localhost")]
    Drain(Ids),
    /// End a hold or drain, or the pause of a host that failed
    ///
    /// A host of the driver static that could not be used is tried again at once: for when what was wrong there is corrected.
    #[command(after_help = "Example:\n  muster instance run localhost")]
    Run(Ids),
    /// Destroy instances now, with what runs on them
    #[command(after_help = "Example:\n  muster instance kill --reason 'disk is dying' localhost")]
    Kill(Ids),
}

#[derive(Debug, clap::Args)]
pub(super) struct Ids {
    /// For the log
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    #[arg(value_name = "ID", required = true)]
    ids: Vec<String>,
}

const BASE: &str = "/arvados/v1/dispatch/instances";
const HEADER: &str = "instance\taddress\tstate\tidle-behavior\tconfig-type\tprovider-type\tprice\trunning-containers";

pub(super) fn run(global: &Global, command: &Command) -> Result<u8, Failure> {
    let client = Client::new(global)?;
    match command {
        Command::List { header } => list(global, &client, *header),
        Command::Hold(ids) => each(&client, "hold", ids),
        Command::Drain(ids) => each(&client, "drain", ids),
        Command::Run(ids) => each(&client, "run", ids),
        Command::Kill(ids) => each(&client, "kill", ids),
    }
}

fn list(global: &Global, client: &Client, header: bool) -> Result<u8, Failure> {
    let instances: InstanceList = client.get("instances")?;
    let mut output = Output::new();
    if global.json {
        output.json(&instances)?;
    } else {
        if header {
            output.line(HEADER)?;
        }
        for one in &instances.items {
            output.line(&line(one))?;
        }
    }
    output.done()?;
    Ok(exit::DONE)
}

/// What is no instance says why in one more column.
fn line(one: &InstanceRow) -> String {
    let or_dash = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
    let running = one.running_container_uuids.as_deref().unwrap_or_default().join(",");
    let mut columns = vec![
        or_dash(&one.instance),
        or_dash(&one.address),
        one.worker_state.clone(),
        or_dash(&one.idle_behavior),
        one.arvados_instance_type.clone(),
        one.provider_instance_type.clone(),
        format!("{:.6}", one.price),
        or_dash(&running),
    ];
    if !one.detail.is_empty() {
        columns.push(one_line(&one.detail));
    }
    columns.join("\t")
}

/// Whatever a host says must not end the line, or begin a column.
pub(super) fn one_line(text: &str) -> String {
    text.split(|letter: char| letter.is_control()).collect::<Vec<_>>().join(" ")
}

/// One line for each id on standard error.
fn each(client: &Client, action: &str, ids: &Ids) -> Result<u8, Failure> {
    let mut seen = BTreeSet::new();
    let mut code = exit::DONE;
    for id in ids.ids.iter().filter(|id| seen.insert(id.as_str())) {
        let path = format!("{BASE}/{action}?instance_id={}&reason={}", encode(id), encode(&ids.reason));
        let answer = client.send("POST", &path, b"")?;
        say(&format!("{id}: {} {} ({})", answer.status, answer.reason, client.address()));
        if answer.status != 200 {
            code = exit::FAILED;
        }
    }
    Ok(code)
}
