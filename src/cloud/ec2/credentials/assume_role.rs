//! Roles of profiles (`role_arn`) that are asked for with other credentials: those of another profile, which may itself be a role's, or
//! those of this host (AssumeRole of STS).
//!
//! The whole way is read before anybody is asked, so that a mistake at its end shows without a call.

use std::time::Instant;

use super::chain::Chain;
use super::shared_files::{self, Profile};
use super::sts::{self, Signer, Wanted};
use super::{Credentials, Found};
use crate::cloud::ec2::query::{Params, QueryError};
use crate::cloud::ec2::xml::excerpt;

/// Roles in a row.
const ROLES_MAX: usize = 5;
/// The session's length that AWS allows, in seconds; a role may have a maximum of its own.
const SECONDS: std::ops::RangeInclusive<u32> = 900..=43_200;
const SOURCE: &str = "credential_source";
const ENVIRONMENT: &str = "Environment";
const INSTANCE: &str = "Ec2InstanceMetadata";
const CONTAINER: &str = "EcsContainer";

/// What a profile says of its role.
struct Role {
    arn: String,
    session_name: Option<String>,
    external_id: Option<String>,
    seconds: Option<u32>,
}

/// With whose credentials the first role is asked for.
enum Start {
    /// This profile's, whatever role it may have beside them.
    Profile(Profile),
    /// The one by this name, which the profile called so has named.
    Service(&'static str, String),
}

/// The credentials of the profile's role, by way of all others that are needed for it.
///
/// # Errors
/// A profile on the way is not there or makes no sense, a call fails or is refused.
pub fn from_profile(chain: &Chain, profile: Profile, deadline: Instant) -> Result<Credentials, QueryError> {
    let (roles, start) = way(chain, profile)?;
    let mut credentials = begin(chain, start, deadline)?;
    for role in roles.iter().rev() {
        credentials = role.assume(&credentials, chain, deadline)?;
    }
    Ok(credentials)
}

/// Whether the first role on the way is asked for with the keys of the environment. Where the way is wrong, what the profile itself says counts.
pub fn is_of_environment(chain: &Chain, profile: Profile) -> bool {
    profile.get(SOURCE) == Some(ENVIRONMENT) || matches!(way(chain, profile), Ok((_, Start::Service(ENVIRONMENT, _))))
}

/// The roles from the last to the first, and where it starts.
fn way(chain: &Chain, mut profile: Profile) -> Result<(Vec<Role>, Start), QueryError> {
    let (mut roles, mut names) = (Vec::new(), Vec::new());
    loop {
        roles.push(Role::of(&profile)?);
        names.push(profile.name.clone());
        let (shown, source) = (profile.shown(), profile.get("source_profile"));
        let wrong = |what: String| Err(QueryError::other(format!("the profile {shown} {what}")));
        let source = match (source, profile.get(SOURCE)) {
            (Some(source), None) => source.to_owned(),
            (None, Some(service)) => {
                let known = [ENVIRONMENT, INSTANCE, CONTAINER];
                return match known.into_iter().find(|known| *known == service) {
                    Some(service) => Ok((roles, Start::Service(service, shown))),
                    None => {
                        let (service, known) = (excerpt(service.as_bytes()), known.join(", "));
                        wrong(format!("has the credential_source {service:?}, which is none of {known}"))
                    }
                };
            }
            (Some(_), Some(_)) => {
                return wrong("has both source_profile and credential_source: a role has one source".to_owned());
            }
            (None, None) => {
                let what = "has role_arn, but says not whose credentials may have the role: give it source_profile (its \
                            own name, if it has keys), credential_source or web_identity_token_file";
                return wrong(what.to_owned());
            }
        };
        if source == profile.name && profile.has_keys() {
            return Ok((roles, Start::Profile(profile)));
        }
        if names.contains(&source) {
            return Err(QueryError::other(format!(
                "source_profile goes round in a circle: {}",
                arrows(&names, &source)
            )));
        }
        profile = match shared_files::read(&chain.environment, &source)? {
            Ok(profile) => profile,
            Err(why) => return wrong(format!("has a source_profile that is not there: {why}")),
        };
        // Keys go before a role: as for AWS's own tools, in a source but not in the profile that is used.
        if !profile.wants_role() || profile.has_keys() {
            return Ok((roles, Start::Profile(profile)));
        }
        if roles.len() == ROLES_MAX {
            let text = arrows(&names, &source);
            return Err(QueryError::other(format!("there are more than {ROLES_MAX} roles in a row: {text}")));
        }
    }
}

fn arrows(names: &[String], last: &str) -> String {
    let names = names.iter().map(String::as_str).chain([last]);
    names.map(|name| excerpt(name.as_bytes())).collect::<Vec<_>>().join(" → ")
}

fn begin(chain: &Chain, start: Start, deadline: Instant) -> Result<Credentials, QueryError> {
    let (found, whose) = match start {
        Start::Profile(profile) => {
            let whose = format!("the source_profile {}", profile.shown());
            (shared_files::own(chain, &profile, deadline)?, whose)
        }
        Start::Service(name, profile) => {
            let found = match name {
                ENVIRONMENT => chain.environment_keys(),
                INSTANCE => chain.instance(),
                _ => chain.container(),
            };
            (found?, format!("the credential_source {name} of the profile {profile}"))
        }
    };
    match found {
        Found::Credentials(credentials) => Ok(credentials),
        Found::Nothing(why) => Err(QueryError::other(format!("{whose} has no credentials: {why}"))),
    }
}

impl Role {
    fn of(profile: &Profile) -> Result<Self, QueryError> {
        let wrong = |what: &str| Err(QueryError::other(format!("the profile {} {what}", profile.shown())));
        if profile.get("mfa_serial").is_some() {
            return wrong("has mfa_serial, but nobody is there to type a code: take a role that wants none");
        }
        let seconds = match profile.get("duration_seconds").map(str::parse::<u32>) {
            None => None,
            Some(Ok(seconds)) if SECONDS.contains(&seconds) => Some(seconds),
            Some(_) => {
                let (min, max) = (SECONDS.start(), SECONDS.end());
                return wrong(&format!("has duration_seconds, but that is no number from {min} to {max}"));
            }
        };
        let text = |key: &str| profile.get(key).map(str::to_owned);
        Ok(Self {
            arn: text("role_arn").unwrap_or_default(),
            session_name: text("role_session_name"),
            external_id: text("external_id"),
            seconds,
        })
    }

    fn assume(&self, credentials: &Credentials, chain: &Chain, deadline: Instant) -> Result<Credentials, QueryError> {
        let mut params = Params::default();
        if let Some(id) = &self.external_id {
            params.add("ExternalId", id);
        }
        if let Some(seconds) = self.seconds {
            params.add("DurationSeconds", seconds.to_string());
        }
        let (role_arn, session_name) = (self.arn.as_str(), self.session_name.as_deref());
        let wanted = Wanted { action: "AssumeRole", role_arn, session_name, deadline };
        let signer = Signer { credentials, now: chain.clock.now() };
        sts::ask(wanted, params, Some(signer), &chain.environment, &chain.region)
    }
}

#[cfg(test)]
mod tests;
