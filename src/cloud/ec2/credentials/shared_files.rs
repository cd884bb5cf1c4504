//! Credentials from the files that all of AWS's tools share: `~/.aws/credentials` and `~/.aws/config`, with their profiles.
//!
//! A profile may say how credentials are to be got instead of having them. What cannot be done here (single sign-on) is an error: the
//! next place might belong to somebody else.

use std::collections::BTreeMap;
use std::fmt;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::Instant;

use super::chain::Chain;
use super::web_identity::{self, WebIdentity};
use super::{Credentials, Found, Lifetime, Secret, assume_role, read_text};
use crate::cloud::ec2::environment::Environment;
use crate::cloud::ec2::query::QueryError;
use crate::cloud::ec2::xml::excerpt;

/// Where the two files are and how they name profiles.
const CREDENTIALS: Kind = Kind { variable: "AWS_SHARED_CREDENTIALS_FILE", path: ".aws/credentials", has_prefix: false };
const CONFIG: Kind = Kind { variable: "AWS_CONFIG_FILE", path: ".aws/config", has_prefix: true };
const KEYS: [&str; 3] = ["aws_access_key_id", "aws_secret_access_key", "aws_session_token"];
const ROLE: &str = "role_arn";
const TOKEN_FILE: &str = "web_identity_token_file";
const PROFILE: [&str; 2] = ["AWS_PROFILE", "AWS_DEFAULT_PROFILE"];

type Section = BTreeMap<String, String>;

struct Kind {
    variable: &'static str,
    path: &'static str,
    /// All profiles but `default` are called `[profile NAME]`; other sections are no profiles.
    has_prefix: bool,
}

/// What one of the files says of the profile.
enum Read {
    Profile(Section),
    /// Why it says nothing, for people.
    Nothing(String),
}

/// What both files say of a profile.
pub struct Profile {
    pub name: String,
    values: Section,
}

impl fmt::Debug for Profile {
    /// Without the values: some are secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Profile").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Profile {
    /// The value of a key; one that is empty is none.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Its name, for errors.
    pub fn shown(&self) -> String {
        excerpt(self.name.as_bytes())
    }

    /// Keys of its own, or one of the two.
    pub fn has_keys(&self) -> bool {
        KEYS[..2].iter().any(|key| self.get(key).is_some())
    }

    /// A role that other credentials are needed for: not one for a token.
    pub fn wants_role(&self) -> bool {
        self.get(ROLE).is_some() && self.get(TOKEN_FILE).is_none()
    }
}

/// What the profile has that AWS_PROFILE names, or else `default`.
///
/// # Errors
/// A file that is named explicitly is there and cannot be read, or one is not in its form. The profile is named explicitly and not there; it is
/// incomplete or wants what is not supported, or what it says does not work.
pub fn from_files(chain: &Chain, deadline: Instant) -> Result<Found, QueryError> {
    let named = chain.environment.first(&PROFILE);
    let name = named.as_ref().map_or("default", |(_, name)| name.trim());
    match (read(&chain.environment, name)?, named) {
        (Ok(profile), _) if profile.wants_role() => {
            assume_role::from_profile(chain, profile, deadline).map(Found::Credentials)
        }
        (Ok(profile), _) => own(chain, &profile, deadline),
        (Err(why), None) => Ok(Found::Nothing(why)),
        (Err(why), Some((variable, _))) => {
            Err(QueryError::other(format!("{variable} names a profile that is not there: {why}")))
        }
    }
}

/// The variable that names the profile, if that has a role which is asked for with the keys of the environment. What is wrong with the files
/// shows where they are asked.
pub fn named_for_environment(chain: &Chain) -> Option<&'static str> {
    let (variable, name) = chain.environment.first(&PROFILE)?;
    let profile = read(&chain.environment, name.trim()).ok()?.ok()?;
    (profile.wants_role() && assume_role::is_of_environment(chain, profile)).then_some(variable)
}

/// The profile by this name; why there is none, for people.
///
/// # Errors
/// A file that is named explicitly is there and cannot be read, or one is not in its form.
pub fn read(environment: &Environment, name: &str) -> Result<Result<Profile, String>, QueryError> {
    let (mut values, mut reasons) = (Section::new(), Vec::new());
    for kind in [&CONFIG, &CREDENTIALS] {
        match kind.read(environment, name)? {
            // The pair and its token belong together: they are not mixed of two files.
            Read::Profile(section) => {
                if KEYS.iter().any(|key| section.contains_key(*key)) {
                    values.retain(|key, _| !KEYS.contains(&key.as_str()));
                }
                values.extend(section);
            }
            Read::Nothing(why) => reasons.push(why),
        }
    }
    Ok(match reasons.len() {
        2 => Err(reasons.join("; ")),
        _ => Ok(Profile { name: name.to_owned(), values }),
    })
}

impl Kind {
    fn read(&self, environment: &Environment, profile: &str) -> Result<Read, QueryError> {
        let named = environment.get(self.variable);
        let path = match &named {
            Some(path) => {
                path.strip_prefix("~/").and_then(|rest| environment.at_home(rest)).unwrap_or(PathBuf::from(path))
            }
            None => match environment.at_home(self.path) {
                Some(path) => path,
                None => return Ok(Read::Nothing(format!("no home directory for ~/{}", self.path))),
            },
        };
        let shown = path.display();
        let text = match read_text(&path) {
            Ok(text) => text,
            // A service's home may be out of its reach. A file that is named may be for whoever makes it some day, as for AWS's own tools.
            Err(error) if named.is_none() || error.kind() == ErrorKind::NotFound => {
                return Ok(Read::Nothing(format!("cannot read {shown}: {error}")));
            }
            Err(error) => {
                return Err(QueryError::caused(format!("cannot read {shown}, which {} names", self.variable), error));
            }
        };
        let mut sections = parse(&text).map_err(|line| {
            QueryError::other(format!("line {line} of {shown} is neither [PROFILE] nor NAME = VALUE in a profile"))
        })?;
        let mut names = vec![format!("profile {profile}"), profile.to_owned()];
        if !self.has_prefix {
            names.remove(0);
        } else if profile != "default" {
            names.pop();
        }
        let section = names.iter().find_map(|name| sections.remove(name));
        let nothing = || Read::Nothing(format!("no profile {} in {shown}", excerpt(profile.as_bytes())));
        Ok(section.map_or_else(nothing, Read::Profile))
    }
}

/// Sections by name; the number of the first line that is in no form. A line is not shown: it may be a secret.
fn parse(text: &str) -> Result<BTreeMap<String, Section>, usize> {
    let mut sections: BTreeMap<String, Section> = BTreeMap::new();
    let mut current: Option<&mut Section> = None;
    // `s3 =` with lines after it that are indented more is a section in a section, of which nothing here is of interest: how far the line
    // is indented that may have opened one.
    let mut opened = None;
    for (number, raw) in (1_usize..).zip(text.lines()) {
        let line = raw.trim();
        let indent = raw.len() - raw.trim_start().len();
        if line.is_empty() || line.starts_with(['#', ';']) || opened.is_some_and(|opened| indent > opened) {
            continue;
        }
        if let Some(name) = line.strip_prefix('[') {
            let (name, _) = name.split_once(']').ok_or(number)?;
            let words: Vec<&str> = name.split_whitespace().map(|word| word.trim_matches(['"', '\''])).collect();
            current = Some(sections.entry(words.join(" ")).or_default());
            opened = None;
            continue;
        }
        let (name, value) = line.split_once('=').ok_or(number)?;
        let value = without_comment(value).trim();
        opened = value.is_empty().then_some(indent);
        let section = current.as_mut().ok_or(number)?;
        section.insert(name.trim().to_ascii_lowercase(), value.to_owned());
    }
    Ok(sections)
}

/// A value up to ` #` or ` ;`, but for those between quotation marks (as `credential_process` knows them): there they mean what they say.
/// A quotation mark that has no other is a letter like others.
fn without_comment(value: &str) -> &str {
    let mut rest = value.char_indices();
    let mut last = None;
    while let Some((at, letter)) = rest.next() {
        match letter {
            '#' | ';' if last == Some(' ') => return &value[..at - 1],
            '\\' if rest.as_str().starts_with(['"', '\'']) => drop(rest.next()),
            '"' | '\'' => {
                let mut inside = rest.clone();
                while let Some((_, other)) = inside.next() {
                    match other {
                        '\\' if letter == '"' => drop(inside.next()),
                        other if other == letter => {
                            rest = inside;
                            break;
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
        last = Some(letter);
    }
    value
}

/// What the profile has without another's credentials.
///
/// # Errors
/// It is incomplete or wants what is not supported, or what it says does not work.
pub fn own(chain: &Chain, profile: &Profile, deadline: Instant) -> Result<Found, QueryError> {
    let shown = profile.shown();
    if let (Some(role_arn), Some(token_file)) = (profile.get(ROLE), profile.get(TOKEN_FILE)) {
        let session_name = profile.get("role_session_name").map(str::to_owned);
        let identity =
            WebIdentity { token_file: PathBuf::from(token_file), role_arn: role_arn.to_owned(), session_name };
        return web_identity::assume(&identity, &chain.environment, &chain.region, deadline).map(Found::Credentials);
    }
    match [profile.get(KEYS[0]), profile.get(KEYS[1])] {
        [Some(id), Some(secret)] => {
            return Ok(Found::Credentials(Credentials {
                access_key_id: id.to_owned(),
                secret_access_key: Secret::new(secret),
                session_token: profile.get(KEYS[2]).map(Secret::new),
                lifetime: Lifetime::Reread,
            }));
        }
        [None, None] => {}
        _ => {
            let [id, secret, _] = KEYS;
            return Err(QueryError::other(format!("the profile {shown} has only one of {id} and {secret}")));
        }
    }
    if let Some(line) = profile.get("credential_process") {
        return chain.programs.run(line, &shown, deadline).map(Found::Credentials);
    }
    if profile.values.keys().any(|key| key.starts_with("sso_")) {
        return Err(QueryError::other(format!(
            "the profile {shown} wants single sign-on (sso_…), for which somebody would have to log in: log in with AWS's own tool, and use \
             a profile with `credential_process = aws configure export-credentials --profile {shown} --format process`"
        )));
    }
    Ok(Found::Nothing(format!("the profile {shown} has no credentials")))
}

#[cfg(test)]
mod tests;
