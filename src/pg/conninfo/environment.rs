//! Where settings come from besides the DSN: variables, files and the operating system's user, behind one trait so
//! that resolving them needs no real process.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::{Uid, User};

/// What resolving a [`super::Target`] may ask of its surroundings.
pub trait Environment {
    /// The value of an environment variable, where it is set and is text.
    fn variable(&self, name: &str) -> Option<String>;

    /// A small text file.
    ///
    /// # Errors
    /// When it cannot be read; `NotFound` is for callers to judge.
    fn file(&self, path: &Path) -> io::Result<TextFile>;

    /// Whether a directory of this name exists.
    fn is_directory(&self, path: &Path) -> bool;

    /// The name of the user this process runs as.
    fn user_name(&self) -> Option<String>;

    /// The user's home directory.
    fn home(&self) -> Option<PathBuf>;
}

/// A file's text and what libpq asks before it trusts a password in it.
#[derive(Debug, Clone)]
pub struct TextFile {
    /// The content; bytes that are not UTF-8 are replaced.
    pub text: String,
    /// Whether it is a plain file, not a pipe or device.
    pub regular: bool,
    /// Whether neither group nor others may do anything with it.
    pub private: bool,
}

/// This process's own surroundings.
#[derive(Debug, Clone, Copy)]
pub struct Process;

impl Environment for Process {
    fn variable(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }

    fn file(&self, path: &Path) -> io::Result<TextFile> {
        let status = std::fs::metadata(path)?;
        let regular = status.is_file();
        // Reading a pipe could wait for ever.
        let bytes = if regular { std::fs::read(path)? } else { Vec::new() };
        Ok(TextFile {
            text: String::from_utf8_lossy(&bytes).into_owned(),
            regular,
            private: status.mode() & 0o077 == 0,
        })
    }

    fn is_directory(&self, path: &Path) -> bool {
        path.is_dir()
    }

    fn user_name(&self) -> Option<String> {
        User::from_uid(Uid::effective()).ok().flatten().map(|user| user.name)
    }

    fn home(&self) -> Option<PathBuf> {
        match std::env::var_os("HOME") {
            Some(home) if !home.is_empty() => Some(PathBuf::from(home)),
            _ => User::from_uid(Uid::effective()).ok().flatten().map(|user| user.dir),
        }
    }
}

/// Surroundings made up by a test.
#[cfg(test)]
#[derive(Debug, Clone, Default)]
pub(super) struct Fake {
    pub(super) variables: std::collections::HashMap<String, String>,
    pub(super) files: std::collections::HashMap<PathBuf, TextFile>,
    pub(super) directories: Vec<PathBuf>,
}

#[cfg(test)]
impl Fake {
    pub(super) fn with_variable(mut self, name: &str, value: &str) -> Self {
        self.variables.insert(name.to_owned(), value.to_owned());
        self
    }

    pub(super) fn with_file(mut self, path: &str, text: &str) -> Self {
        let file = TextFile { text: text.to_owned(), regular: true, private: true };
        self.files.insert(PathBuf::from(path), file);
        self
    }
}

#[cfg(test)]
impl Environment for Fake {
    fn variable(&self, name: &str) -> Option<String> {
        self.variables.get(name).cloned()
    }

    fn file(&self, path: &Path) -> io::Result<TextFile> {
        self.files.get(path).cloned().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }

    fn is_directory(&self, path: &Path) -> bool {
        self.directories.iter().any(|known| known == path)
    }

    fn user_name(&self) -> Option<String> {
        Some("ann".to_owned())
    }

    fn home(&self) -> Option<PathBuf> {
        Some(PathBuf::from("/home/ann"))
    }
}
