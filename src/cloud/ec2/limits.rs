//! What EC2 takes of tags and user data: checked before the call, since its own words do not say which key is meant. Messages name
//! keys and lengths, never a value: one of them is the instance's secret.

use crate::cloud::CloudError;
use crate::core::effect::Tags;

/// Per resource; AWS's own tags do not count.
const TAGS_MAX: usize = 50;
const KEY_CHARACTERS_MAX: usize = 128;
const VALUE_CHARACTERS_MAX: usize = 256;
/// Before base64.
const USER_DATA_BYTES_MAX: usize = 16 * 1024;

/// Tags that AWS sets itself, and nobody else can set or change.
pub(super) fn is_reserved(key: &str) -> bool {
    key.get(..4).is_some_and(|prefix| prefix.eq_ignore_ascii_case("aws:"))
}

/// Tags that an instance shall have.
///
/// # Errors
/// EC2 would refuse them; unclassified.
pub(super) fn check_tags(tags: &Tags) -> Result<(), CloudError> {
    if tags.len() > TAGS_MAX {
        return Err(refused(format!("{} tags: EC2 takes {TAGS_MAX} of an instance", tags.len())));
    }
    for (key, value) in tags {
        let (key_length, value_length) = (key.chars().count(), value.chars().count());
        let fault = if key.is_empty() {
            "its key is empty".to_owned()
        } else if is_reserved(key) {
            "keys that begin with aws: are AWS's own".to_owned()
        } else if key_length > KEY_CHARACTERS_MAX {
            format!("its key has {key_length} characters, EC2 takes {KEY_CHARACTERS_MAX}")
        } else if value_length > VALUE_CHARACTERS_MAX {
            format!("its value has {value_length} characters, EC2 takes {VALUE_CHARACTERS_MAX}")
        } else {
            continue;
        };
        return Err(refused(format!("tag {key:?} cannot be set: {fault}")));
    }
    Ok(())
}

/// What the instance runs at its first boot, as EC2 takes it: base64 of a script.
///
/// # Errors
/// It is too long; unclassified.
pub(super) fn user_data(init_command: &str) -> Result<String, CloudError> {
    let script = format!("#!/bin/sh\n{init_command}\n");
    if script.len() > USER_DATA_BYTES_MAX {
        let length = script.len();
        let advice = "shorten InstanceInitCommand";
        return Err(refused(format!(
            "the first boot's script has {length} bytes, EC2 takes {USER_DATA_BYTES_MAX}: {advice}"
        )));
    }
    Ok(openssl::base64::encode_block(script.as_bytes()))
}

fn refused(message: String) -> CloudError {
    CloudError::Other { message, source: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tags(pairs: &[(&str, &str)]) -> Tags {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn tags_within_the_limits_and_beyond() {
        let (key, value) = ("k".repeat(128), "ä".repeat(256));
        let (long_key, long_value) = (format!("{key}k"), format!("{value}x"));
        for (pairs, expected) in [
            (&[][..], None),
            (&[("a", "")][..], None),
            (&[(&*key, &*value)][..], None),
            (&[("awsome", "x"), ("Xaws:", "aws:")][..], None),
            (&[("", "x")][..], Some("empty")),
            (&[("aws:x", "x")][..], Some("AWS's own")),
            (&[("AWS:", "x")][..], Some("AWS's own")),
            (&[(&*long_key, "x")][..], Some("129 characters")),
            (&[("a", &*long_value)][..], Some("257 characters")),
        ] {
            let result = check_tags(&tags(pairs)).map_err(|error| error.to_string());
            match expected {
                None => assert_eq!(result, Ok(())),
                Some(words) => assert!(result.expect_err(words).contains(words), "{words}"),
            }
        }
        let many = |count: usize| (0..count).map(|number| (format!("k{number}"), String::new())).collect();
        assert!(check_tags(&many(50)).is_ok());
        assert!(check_tags(&many(51)).expect_err("too many").to_string().starts_with("51 tags"));
    }

    #[test]
    fn messages_show_no_value() {
        let secret = "s3cret".repeat(50);
        let error = check_tags(&tags(&[("InstanceSecret", &secret)])).expect_err("too long");
        assert!(error.to_string().contains("InstanceSecret") && !format!("{error:?}").contains("s3cret"), "{error:?}");
        let error = user_data(&"s3cret".repeat(3000)).expect_err("too long");
        assert!(!format!("{error:?} {error}").contains("s3cret"), "{error:?}");
    }

    #[test]
    fn user_data_is_a_script_in_base64() {
        assert_eq!(user_data("echo a\necho b").expect("short"), "IyEvYmluL3NoCmVjaG8gYQplY2hvIGIK");
        let longest = USER_DATA_BYTES_MAX - "#!/bin/sh\n\n".len();
        assert!(user_data(&"x".repeat(longest)).is_ok());
        assert!(user_data(&"x".repeat(longest + 1)).expect_err("too long").to_string().contains("16385 bytes"));
    }
}
