//! What `RUNNER --list` printed (spec 10 §6, 50 §5, 52 §1): text in, closed values out.

use std::collections::BTreeMap;

use crate::core::ids::{Attempt, ContainerUuid};

/// Characters of a reason that are kept.
const REASON_MAX: usize = 300;

/// State of one listed container's runner. In the order of what counts if it is listed twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RunnerState {
    Alive,
    /// The runner has exited but something still holds its lock.
    Stale,
    /// Its result waits to be collected.
    Finished,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listed {
    pub state: RunnerState,
    /// 0 = the runner did not say.
    pub attempt: Attempt,
}

/// A complete list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    pub runners: BTreeMap<ContainerUuid, Listed>,
    /// The instance says that it cannot start containers.
    pub broken: bool,
    /// Why, for the log; empty if it does not say.
    pub broken_because: String,
    /// Names this state of the list, for the next long poll; `None` from a runner without that.
    pub token: Option<String>,
}

/// The output is not a complete list: the probe has failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ListFault {
    #[error("the list lacks its final token line")]
    NoToken,
    #[error("the list is not UTF-8 text")]
    NotText,
}

/// Reads a list. Lines that belong to other clusters (`cluster_id` empty: to none), and words we don't know, are ignored (forward
/// compatible).
///
/// # Errors
/// [`ListFault::NoToken`] if `token_expected` (muster-runner) and the last line is not `# TOKEN`: an incomplete list must never
/// pass for a short one.
pub fn parse(output: &[u8], cluster_id: &str, token_expected: bool) -> Result<Listing, ListFault> {
    let text = std::str::from_utf8(output).map_err(|_| ListFault::NotText)?;
    let mut listing = Listing::default();
    let mut attempts = BTreeMap::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match (words.next(), words.next(), words.next()) {
            (Some("broken"), None, _) => listing.broken = true,
            (Some("#broken"), Some(_), _) => {
                let text = line.trim_start_matches("#broken").trim();
                listing.broken_because = text.chars().filter(|letter| !letter.is_control()).take(REASON_MAX).collect();
            }
            (Some("#attempt"), Some(uuid), Some(number)) => {
                if let (Some(uuid), Ok(number)) = (ContainerUuid::parse(uuid), number.parse::<Attempt>()) {
                    // Of several attempts of one container the last one counts: only that one can be alive.
                    let newest: &mut Attempt = attempts.entry(uuid).or_default();
                    *newest = number.max(*newest);
                }
            }
            (Some(uuid), word, _) => read_runner(&mut listing, cluster_id, uuid, word),
            _ => {}
        }
    }
    listing.token = text.lines().last().and_then(|line| line.strip_prefix("# ")).map(str::to_owned);
    if token_expected && (listing.token.is_none() || !text.ends_with('\n')) {
        return Err(ListFault::NoToken);
    }
    for (uuid, listed) in &mut listing.runners {
        listed.attempt = attempts.get(uuid).copied().unwrap_or(0);
    }
    Ok(listing)
}

fn read_runner(listing: &mut Listing, cluster_id: &str, uuid: &str, word: Option<&str>) {
    let Some(uuid) = ContainerUuid::parse(uuid).filter(|uuid| cluster_id.is_empty() || uuid.cluster_id() == cluster_id)
    else {
        return;
    };
    let state = match word {
        None => RunnerState::Alive,
        Some("stale") => RunnerState::Stale,
        Some("finished") => RunnerState::Finished,
        Some(_) => return,
    };
    // A container that is listed twice (an old attempt's result beside a live runner) counts by what must not be overlooked.
    let kept = listing.runners.entry(uuid).or_insert(Listed { state, attempt: 0 });
    kept.state = kept.state.min(state);
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "local-dz642-00000000000000a";
    const B: &str = "local-dz642-00000000000000b";

    /// A row per line of the table in spec 10 §6.
    #[test]
    fn lines() {
        let listed = |state| Some(Listed { state, attempt: 0 });
        for (line, a, broken) in [
            ("", None, false),
            ("broken", None, true),
            ("broken\n#broken why", None, true),
            ("#broken why", None, false),
            ("zzzzz-dz642-00000000000000a", None, false),
            ("garbage in the list", None, false),
            ("local-dz642-00000000000000a", listed(RunnerState::Alive), false),
            ("local-dz642-00000000000000a stale", listed(RunnerState::Stale), false),
            ("local-dz642-00000000000000a finished", listed(RunnerState::Finished), false),
            ("local-dz642-00000000000000a sleeping", None, false),
        ] {
            let listing = parse(format!("{line}\n").as_bytes(), "local", false).expect("complete");
            let uuid = ContainerUuid::parse(A).expect("well formed");
            assert_eq!(listing.runners.get(&uuid).copied(), a, "{line:?}");
            assert_eq!(listing.broken, broken, "{line:?}");
        }
    }

    #[test]
    fn reasons_can_be_shown() {
        let of = |text: &str| parse(text.as_bytes(), "local", false).expect("complete").broken_because;
        assert_eq!(of("broken\n#broken   /run/lock is  read-only\u{1b}[2J \n"), "/run/lock is  read-only[2J");
        assert_eq!(of("broken\n#broken\n#brokenness x\n"), "");
        assert_eq!(of(&format!("broken\n#broken {}\n", "é".repeat(5000))), "é".repeat(REASON_MAX));
    }

    /// Giving a machine back is about everything of the set, also from before the cluster id was changed.
    #[test]
    fn uuids_of_every_cluster() {
        let text = format!("{A}\nzzzzz-dz642-00000000000000a\n# t\n");
        assert_eq!(parse(text.as_bytes(), "local", true).expect("complete").runners.len(), 1);
        assert_eq!(parse(text.as_bytes(), "", true).expect("complete").runners.len(), 2);
    }

    /// Several attempts of one container on one host: the newest counts, and what must not be overlooked.
    #[test]
    fn a_container_listed_twice() {
        for (lines, state) in [
            (["", " finished"], RunnerState::Alive),
            ([" finished", ""], RunnerState::Alive),
            ([" finished", " stale"], RunnerState::Stale),
            ([" stale", " finished"], RunnerState::Stale),
        ] {
            let [first, second] = lines;
            let text = format!("{A}{first}\n#attempt {A} 2\n{A}{second}\n#attempt {A} 1\n# t\n");
            let listing = parse(text.as_bytes(), "local", true).expect("complete");
            let uuid = ContainerUuid::parse(A).expect("well formed");
            assert_eq!(listing.runners.get(&uuid), Some(&Listed { state, attempt: 2 }), "{lines:?}");
        }
    }

    #[test]
    fn an_incomplete_list_is_a_fault_and_never_a_short_list() {
        let whole = format!("{A}\n#attempt {A} 3\n{B} finished\n# t17\n");
        let listing = parse(whole.as_bytes(), "local", true).expect("complete");
        assert_eq!(listing.token.as_deref(), Some("t17"));
        assert_eq!(listing.runners.values().map(|listed| listed.attempt).collect::<Vec<_>>(), [3, 0]);
        for cut in 0..whole.len() {
            assert_eq!(parse(&whole.as_bytes()[..cut], "local", true), Err(ListFault::NoToken), "cut at {cut}");
        }
        assert_eq!(parse(b"\xff\n# t\n", "local", true), Err(ListFault::NotText));
    }
}
