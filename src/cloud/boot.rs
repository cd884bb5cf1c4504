//! What a new instance is given for its first boot (spec 40 §5): image, key, and the shell text that writes its secret.
//!
//! The secret file is how a machine proves that it is the one that was created: one that took over an old address cannot know it.

use std::sync::Arc;
use std::time::Instant;

use super::NewInstance;
use super::refusals::Refusals;
use crate::core::effect::Tags;
use crate::core::ids::InstanceSecret;
use crate::core::instance_type::InstanceType;
use crate::core::settings::CREATE_DEADLINE;

/// What all new instances have in common, by configuration.
#[derive(Clone, Debug, Default)]
pub struct Boot {
    pub image_id: String,
    /// Shell text of the operator's, run after the secret is written.
    pub init_command: String,
    /// In the form of `authorized_keys`; `None`: none is to be installed.
    pub public_key: Option<String>,
    pub refusals: Arc<Refusals>,
}

impl Boot {
    /// The order for one instance, wanted from now on for as long as the pool waits for a create. `secret` is of letters and digits.
    pub fn order(&self, instance_type: Arc<InstanceType>, tags: Tags, secret: InstanceSecret) -> NewInstance {
        let asked = Instant::now();
        NewInstance {
            instance_type,
            image_id: self.image_id.clone(),
            tags,
            init_command: format!("{}\n{}", write_secret(&secret), self.init_command),
            secret,
            public_key: self.public_key.clone(),
            wanted_until: asked + CREATE_DEADLINE,
            asked,
            refusals: self.refusals.clone(),
        }
    }
}

/// One line: the file is for root only, or it is not written. In a subshell, so that what follows has the image's own umask.
fn write_secret(secret: &InstanceSecret) -> String {
    format!(r#"(umask 0177 && printf %s "{}" >/var/run/arvados-instance-secret)"#, secret.reveal())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;

    use super::*;

    fn init_command(operators: &str) -> String {
        let boot = Boot { init_command: operators.to_owned(), ..Boot::default() };
        boot.order(Arc::default(), Tags::new(), InstanceSecret::new("0123abcd")).init_command
    }

    /// Runs the text with the secret's file in another place.
    fn run(text: &str, file: &std::path::Path, shell_options: &[&str]) -> String {
        let text = text.replace("/var/run/arvados-instance-secret", &file.to_string_lossy());
        let output = Command::new("sh").args(shell_options).args(["-c", &text]).output().expect("sh runs");
        String::from_utf8(output.stdout).expect("text")
    }

    #[test]
    fn the_secret_is_written_for_root_only_and_the_operators_text_follows() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("secret");
        assert_eq!(run(&init_command("umask"), &file, &[]).trim(), run("umask", &file, &[]).trim());
        assert_eq!(std::fs::read_to_string(&file).expect("written"), "0123abcd");
        let mode = std::fs::metadata(&file).expect("written").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_failing_umask_prevents_the_write() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("secret");
        let text = init_command("echo on").replace("umask 0177", "umask nonsense");
        run(&text, &file, &[]);
        assert!(!file.exists());
    }

    #[test]
    fn debug_output_hides_the_secret() {
        let order = Boot::default().order(Arc::default(), Tags::new(), InstanceSecret::new("0123abcd"));
        assert!(!format!("{order:?}").contains("0123abcd"));
    }
}
