//! Commands as one line for the login shell of a worker.
//!
//! sshd hands the line to the user's shell, which may have printed something of its own before (a noisy `.bashrc`): output counts from
//! [`BEGIN`]. And libssh2 says exit status 0 also when none ever came, so a command's success is confirmed by [`END`] on standard error.

use crate::remote::Program;

/// On standard output, in front of the command's own.
pub(super) const BEGIN: &[u8] = b"--muster-begin--\n";
/// At the very end of standard error, if the command's exit status was 0.
pub(super) const END: &[u8] = b"--muster-end--\n";

/// Arguments reach the program as they are: each is quoted. `sudo` goes in front of programs, never of an operator's own line.
pub(super) fn line(program: &Program, sudo: bool) -> String {
    let command = match program {
        Program::Shell(text) => format!("sh -c {}", quote(text)),
        Program::Arguments(words) => {
            let words = words.iter().map(|word| quote(word)).collect::<Vec<_>>().join(" ");
            if sudo { format!("sudo {words}") } else { words }
        }
    };
    let printed = |mark: &[u8]| String::from_utf8_lossy(mark).trim_end().to_owned();
    format!("printf '%s\\n' {}; {command} && printf '%s\\n' {} >&2", printed(BEGIN), printed(END))
}

/// A word that a POSIX shell takes literally.
pub fn quote(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-./:=@%+,".contains(&byte);
    // `=` in front would be an assignment only in a first word, which is a program's path here; `~` is not plain.
    if !word.is_empty() && word.bytes().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn arguments(words: &[&str]) -> Program {
        Program::Arguments(words.iter().map(|word| (*word).to_owned()).collect())
    }

    #[test]
    fn lines() {
        let begin = "printf '%s\\n' --muster-begin--; ";
        let end = " && printf '%s\\n' --muster-end-- >&2";
        let rows = [
            (arguments(&["/a/b~1", "--x", "it's"]), false, r"'/a/b~1' --x 'it'\''s'"),
            (arguments(&["/a/b", ""]), true, "sudo /a/b ''"),
            (Program::Shell("a && b".to_owned()), true, "sh -c 'a && b'"),
        ];
        for (program, sudo, expected) in rows {
            assert_eq!(line(&program, sudo), format!("{begin}{expected}{end}"));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// Whatever the words are, a real shell hands them over unchanged.
        #[test]
        fn shells_take_words_literally(words in proptest::collection::vec("[^\0]{0,12}", 1..4)) {
            let mut line = "printf '%s\\0'".to_owned();
            for word in &words {
                line.push(' ');
                line.push_str(&quote(word));
            }
            let output = std::process::Command::new("sh").args(["-c", &line]).output().expect("runs");
            let found = String::from_utf8(output.stdout).expect("text");
            let expected: String = words.iter().map(|word| format!("{word}\0")).collect();
            prop_assert_eq!(found, expected);
        }
    }
}
