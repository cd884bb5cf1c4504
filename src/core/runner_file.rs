//! What can be said of the runner's files without touching a worker: which paths are plain, and which machine a program is for.
//!
//! Shared by the configuration (faults with their place) and the deployment, which checks what a file or a worker really says.

/// Longest path that is taken; file systems allow four times as much.
const PATH_BYTES_MAX: usize = 1000;
/// Bytes of a program that [`Format::of`] looks at.
pub const HEAD_BYTES: usize = 20;

/// `^/[A-Za-z0-9._/-]+$` without `..` (spec 62 §3): means the same to every shell and every program.
pub fn is_plain_path(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._/-".contains(&byte);
    text.len() > 1
        && text.len() <= PATH_BYTES_MAX
        && text.starts_with('/')
        && text.bytes().all(plain)
        && !text.split('/').any(|part| part == "..")
}

/// What kind of program a file is, by its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For machines of this architecture (as `uname -m` has it); `None`: one that is not in the table here.
    Elf(Option<&'static str>),
    /// Begins with `#!`: for any machine.
    Script,
    Neither,
}

impl Format {
    /// `head`: the first [`HEAD_BYTES`] bytes, or all of a shorter file.
    pub fn of(head: &[u8]) -> Self {
        if head.starts_with(b"#!") {
            return Self::Script;
        }
        let Some(head) = head.get(..HEAD_BYTES).filter(|head| head.starts_with(b"\x7fELF")) else {
            return Self::Neither;
        };
        let (is_64, is_big) = (head[4] == 2, head[5] == 2);
        let bytes = [head[18], head[19]];
        let machine = if is_big { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) };
        // Numbers of the ELF specification's e_machine.
        Self::Elf(match (machine, is_64, is_big) {
            (3, false, false) => Some("i386"),
            (21, true, false) => Some("ppc64le"),
            (21, true, true) => Some("ppc64"),
            (22, true, true) => Some("s390x"),
            (40, false, false) => Some("arm"),
            (62, true, false) => Some("x86_64"),
            (183, true, false) => Some("aarch64"),
            (243, true, false) => Some("riscv64"),
            (243, false, false) => Some("riscv32"),
            (258, true, false) => Some("loongarch64"),
            _ => None,
        })
    }

    /// Answers of `uname -m` on machines that run it; empty: any, or nobody knows.
    pub fn machines(self) -> &'static str {
        match self {
            Self::Elf(Some("i386")) => "i386 i486 i586 i686 x86_64 amd64",
            Self::Elf(Some("arm")) => "arm armv5tel armv6l armv7l armv8l aarch64 arm64",
            Self::Elf(Some("x86_64")) => "x86_64 amd64",
            Self::Elf(Some("aarch64")) => "aarch64 arm64",
            Self::Elf(Some(other)) => other,
            Self::Elf(None) | Self::Script | Self::Neither => "",
        }
    }

    /// Why a program of this kind is not for the architecture it is configured for; `None`: it may be.
    pub fn contradicts(self, architecture: &str) -> Option<String> {
        match self {
            Self::Neither => Some("it is no program: neither an ELF file nor a script".to_owned()),
            Self::Elf(Some(own)) if canonical(own) != canonical(architecture) => {
                Some(format!("it is a program for {own}, not for {architecture}"))
            }
            Self::Elf(_) | Self::Script => None,
        }
    }
}

/// One name for each architecture that `uname -m` has several for.
pub fn canonical(architecture: &str) -> &str {
    match architecture {
        "amd64" => "x86_64",
        "arm64" => "aarch64",
        "i486" | "i586" | "i686" => "i386",
        other if other.starts_with("armv") => "arm",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elf(class: u8, data: u8, machine: [u8; 2]) -> Vec<u8> {
        let mut head = b"\x7fELF".to_vec();
        head.extend([class, data, 1]);
        head.resize(18, 0);
        head.extend(machine);
        head
    }

    #[test]
    fn plain_paths() {
        for path in ["/a", "/var/lib/muster-runner/bin", "/home/a.b/x_1/.cache"] {
            assert!(is_plain_path(path), "{path}");
        }
        let long = format!("/{}", "a".repeat(PATH_BYTES_MAX));
        for path in
            ["", "/", "a/b", "/a b", "/a/../b", "/..", "/a'b", "/a$b", "/a\nb", "/ä", "/a;b", "/~", "/a\\b", &*long]
        {
            assert!(!is_plain_path(path), "{path:?}");
        }
    }

    #[test]
    fn formats() {
        for (head, format) in [
            (b"#!/bin/sh\n".to_vec(), Format::Script),
            (b"\x7fELF".to_vec(), Format::Neither),
            (b"MZ and more than twenty bytes".to_vec(), Format::Neither),
            (Vec::new(), Format::Neither),
            (elf(2, 1, [62, 0]), Format::Elf(Some("x86_64"))),
            (elf(1, 1, [62, 0]), Format::Elf(None)),
            (elf(1, 1, [3, 0]), Format::Elf(Some("i386"))),
            (elf(1, 1, [40, 0]), Format::Elf(Some("arm"))),
            (elf(2, 1, [183, 0]), Format::Elf(Some("aarch64"))),
            (elf(2, 1, [21, 0]), Format::Elf(Some("ppc64le"))),
            (elf(2, 2, [0, 21]), Format::Elf(Some("ppc64"))),
            (elf(2, 2, [0, 22]), Format::Elf(Some("s390x"))),
            (elf(2, 1, [99, 99]), Format::Elf(None)),
        ] {
            assert_eq!(Format::of(&head), format, "{head:?}");
        }
    }

    #[test]
    fn contradictions() {
        let is_for = |format: Format, architecture| format.contradicts(architecture).is_none();
        let x86 = Format::Elf(Some("x86_64"));
        for (format, architecture, fits) in [
            (x86, "x86_64", true),
            (x86, "amd64", true),
            (x86, "x86-64", false),
            (x86, "aarch64", false),
            (Format::Elf(Some("i386")), "i686", true),
            (Format::Elf(Some("arm")), "armv7l", true),
            (Format::Elf(Some("aarch64")), "arm64", true),
            (Format::Elf(None), "sparc64", true),
            (Format::Script, "anything", true),
            (Format::Neither, "x86_64", false),
        ] {
            assert_eq!(is_for(format, architecture), fits, "{format:?} {architecture}");
        }
        let machines = |format: Format| format.machines().split(' ').any(|one| one == "x86_64");
        assert!(machines(x86) && machines(Format::Elf(Some("i386"))) && !machines(Format::Elf(Some("arm"))));
    }
}
