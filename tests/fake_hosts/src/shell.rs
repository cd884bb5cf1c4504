//! A small part of a POSIX shell: command lines as dispatchers send them, taken apart.
//!
//! Words with quotes and backslashes, `$NAME` and `$?`, `NAME=VALUE`, `;`, newline, `&&`, `||`, and redirections between the
//! output streams and to /dev/null. Anything else is an error that says so: a line that is not understood is never run in part.

/// Part of a word.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    /// Name of a variable, or `?`.
    Variable(String),
}

/// One word before its variables are replaced.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Word(Vec<Piece>);

impl Word {
    /// With the values that `value` gives.
    pub(crate) fn text(&self, value: impl Fn(&str) -> String) -> String {
        let piece = |piece: &Piece| match piece {
            Piece::Text(text) => text.clone(),
            Piece::Variable(name) => value(name),
        };
        self.0.iter().map(piece).collect()
    }

    fn push(&mut self, character: char) {
        match self.0.last_mut() {
            Some(Piece::Text(text)) => text.push(character),
            _ => self.0.push(Piece::Text(character.into())),
        }
    }
}

/// When a command is run, by the status of what came before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    Always,
    Success,
    Failure,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Stdout,
    Stderr,
    Nowhere,
}

/// One simple command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) when: When,
    pub(crate) words: Vec<Word>,
    pub(crate) stdout: Target,
    pub(crate) stderr: Target,
}

impl Step {
    fn new(when: When) -> Self {
        Self { when, words: Vec::new(), stdout: Target::Stdout, stderr: Target::Stderr }
    }
}

/// Takes a line apart.
///
/// # Errors
/// A text that names what is not understood.
pub(crate) fn parse(line: &str) -> Result<Vec<Step>, String> {
    let mut steps = Vec::new();
    let mut step = Step::new(When::Always);
    let mut rest = line.chars().peekable();
    loop {
        while rest.next_if(|next| matches!(next, ' ' | '\t')).is_some() {}
        let Some(&next) = rest.peek() else { break };
        let when = match next {
            ';' | '\n' => Some(When::Always),
            '&' => Some(When::Success),
            '|' => Some(When::Failure),
            _ => None,
        };
        if let Some(when) = when {
            rest.next();
            if when != When::Always && rest.next() != Some(next) {
                return Err(format!("a single {next} is not supported"));
            }
            if !step.words.is_empty() {
                steps.push(std::mem::replace(&mut step, Step::new(when)));
            } else if when != When::Always {
                return Err(format!("{next}{next} without a command before it"));
            }
            continue;
        }
        match redirection(&mut rest)? {
            Some((descriptor, target)) => redirect(&mut step, descriptor, &target)?,
            None => step.words.push(word(&mut rest)?),
        }
    }
    if !step.words.is_empty() {
        steps.push(step);
    }
    Ok(steps)
}

type Rest<'a> = std::iter::Peekable<std::str::Chars<'a>>;

/// A redirection that begins here: its descriptor, and what comes after the sign.
fn redirection(rest: &mut Rest<'_>) -> Result<Option<(u8, String)>, String> {
    let mut ahead = rest.clone();
    let digit = ahead.next_if(|next| matches!(next, '0' | '1' | '2'));
    let Some(sign) = ahead.next_if(|next| matches!(next, '<' | '>')) else {
        return Ok(None);
    };
    *rest = ahead;
    let descriptor = match (digit, sign) {
        (Some('0'), _) | (None, '<') => 0,
        (Some('2'), _) => 2,
        _ => 1,
    };
    let duplicates = rest.next_if_eq(&'&').is_some();
    while rest.next_if_eq(&' ').is_some() {}
    let name = word(rest)?.text(|_| String::new());
    Ok(Some((descriptor, if duplicates { format!("&{name}") } else { name })))
}

fn redirect(step: &mut Step, descriptor: u8, target: &str) -> Result<(), String> {
    let target = match target {
        "&1" => step.stdout,
        "&2" => step.stderr,
        "/dev/null" => Target::Nowhere,
        other => return Err(format!("a redirection of {descriptor} to {other} is not supported")),
    };
    match descriptor {
        1 => step.stdout = target,
        2 => step.stderr = target,
        // Standard input is read only by commands that are given theirs.
        _ => {}
    }
    Ok(())
}

fn word(rest: &mut Rest<'_>) -> Result<Word, String> {
    let mut word = Word::default();
    let mut any = false;
    while let Some(next) = rest.next_if(|next| !matches!(next, ' ' | '\t' | '\n' | ';' | '&' | '|' | '<' | '>')) {
        any = true;
        match next {
            '\'' => quoted(rest, &mut word)?,
            '"' => double_quoted(rest, &mut word)?,
            '\\' => word.push(rest.next().ok_or("a backslash at the end")?),
            '$' => variable(rest, &mut word)?,
            '`' | '(' | ')' => return Err(format!("{next} is not supported")),
            _ => word.push(next),
        }
    }
    if !any {
        return Err("a word is missing".into());
    }
    Ok(word)
}

fn quoted(rest: &mut Rest<'_>, word: &mut Word) -> Result<(), String> {
    // An empty word is a word.
    word.0.push(Piece::Text(String::new()));
    loop {
        match rest.next() {
            Some('\'') => return Ok(()),
            Some(next) => word.push(next),
            None => return Err("an unterminated quoted string".into()),
        }
    }
}

fn double_quoted(rest: &mut Rest<'_>, word: &mut Word) -> Result<(), String> {
    word.0.push(Piece::Text(String::new()));
    loop {
        match rest.next() {
            Some('"') => return Ok(()),
            Some('\\') => match rest.next_if(|next| matches!(next, '"' | '\\' | '$' | '`')) {
                Some(next) => word.push(next),
                None => word.push('\\'),
            },
            Some('$') => variable(rest, word)?,
            Some('`') => return Err("` is not supported".into()),
            Some(next) => word.push(next),
            None => return Err("an unterminated quoted string".into()),
        }
    }
}

fn variable(rest: &mut Rest<'_>, word: &mut Word) -> Result<(), String> {
    if rest.next_if_eq(&'?').is_some() {
        word.0.push(Piece::Variable("?".into()));
        return Ok(());
    }
    let braces = rest.next_if_eq(&'{').is_some();
    let mut name = String::new();
    while let Some(next) = rest.next_if(|next| next.is_ascii_alphanumeric() || *next == '_') {
        name.push(next);
    }
    if name.is_empty() || (braces && rest.next() != Some('}')) {
        return Err("this use of $ is not supported".into());
    }
    word.0.push(Piece::Variable(name));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(line: &str) -> Result<String, String> {
        let step = |step: &Step| {
            let words: Vec<String> = step.words.iter().map(|word| word.text(|name| format!("<{name}>"))).collect();
            let streams = match (step.stdout, step.stderr) {
                (Target::Stdout, Target::Stderr) => String::new(),
                other => format!(" {other:?}"),
            };
            format!("{:?} {words:?}{streams}", step.when)
        };
        Ok(parse(line)?.iter().map(step).collect::<Vec<_>>().join("; "))
    }

    #[test]
    fn lines() {
        for (line, expected) in [
            ("", ""),
            (" true ; ", r#"Always ["true"]"#),
            (r"printf '%s\n' X; 'a b' '' 'it'\''s'", r#"Always ["printf", "%s\\n", "X"]; Always ["a b", "", "it's"]"#),
            ("a && b >&2 || c\nd", r#"Always ["a"]; Success ["b"] (Stderr, Stderr); Failure ["c"]; Always ["d"]"#),
            ("a >/dev/null 2>&1", r#"Always ["a"] (Nowhere, Nowhere)"#),
            ("a 2>&1 > /dev/null </dev/null", r#"Always ["a"] (Nowhere, Stdout)"#),
            (r#"s=$?; exit "$s${x}" a2"#, r#"Always ["s=<?>"]; Always ["exit", "<s><x>", "a2"]"#),
            (r#""a\"b\c" d\ e"#, r#"Always ["a\"b\\c", "d e"]"#),
        ] {
            assert_eq!(shown(line).as_deref(), Ok(expected), "{line}");
        }
        for line in ["a | b", "a &", "a > f", "$(a)", "`a`", "'a", "\"a", "(a)", "&& a", "a >", "a\\"] {
            assert!(parse(line).is_err(), "{line}: {:?}", parse(line));
        }
    }
}
