//! `muster instance`: what operators do with instances (spec 82 §6: texts and columns are an interface).

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::Global;
use super::client::{Client, encode};
use super::exit::{self, Failure};
use super::output::{Output, say};

/// List instances, and hold, drain, release or kill them
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// List instances: tab-separated, one a line
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
    /// End a hold or drain
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

#[derive(Debug, Deserialize, Serialize)]
struct Instances {
    items: Option<Vec<Instance>>,
}

#[derive(Debug, Deserialize, Serialize)]
struct Instance {
    instance: String,
    address: String,
    price: f64,
    arvados_instance_type: String,
    provider_instance_type: String,
    last_container_uuid: String,
    last_busy: String,
    running_container_uuids: Option<Vec<String>>,
    worker_state: String,
    idle_behavior: String,
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
    let answer = client.send("GET", BASE, b"")?;
    if answer.status != 200 {
        return Err(Failure::Failed(format!("error doing API request: {}", answer.message())));
    }
    let instances: Instances = serde_json::from_slice(&answer.body)
        .map_err(|error| Failure::Failed(format!("error decoding API response: {error}")))?;
    let mut output = Output::new();
    if global.json {
        output.json(&instances)?;
    } else {
        if header {
            output.line(HEADER)?;
        }
        for one in instances.items.iter().flatten() {
            output.line(&line(one))?;
        }
    }
    output.done()?;
    Ok(exit::DONE)
}

fn line(one: &Instance) -> String {
    let or_dash = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
    let running = one.running_container_uuids.as_deref().unwrap_or_default().join(",");
    [
        or_dash(&one.instance),
        or_dash(&one.address),
        one.worker_state.clone(),
        one.idle_behavior.clone(),
        one.arvados_instance_type.clone(),
        one.provider_instance_type.clone(),
        format!("{:.6}", one.price),
        or_dash(&running),
    ]
    .join("\t")
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
