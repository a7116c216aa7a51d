//! What can go wrong in the lab: every variant says what was being done, where, and what would be right.

use std::{fmt, io, process::Output, time::Duration};

/// A failure of the lab itself (never of what is being tested in it).
#[derive(thiserror::Error)]
pub enum Error {
    /// Not started by root.
    #[error("the lab needs root: network namespaces, cgroups, libvirtd; run it with sudo")]
    NotRoot,
    /// Programs or files that `tests/setup.sh` provides are not there.
    #[error("missing for the lab: {}; run tests/setup.sh", .0.join(", "))]
    Missing(Vec<String>),
    /// A system call failed.
    #[error("{doing}")]
    Io {
        /// What was being done, and to what.
        doing: String,
        /// Why it did not work.
        #[source]
        source: io::Error,
    },
    /// A program that the lab ran did not exit with 0.
    #[error("`{command}` ended with {status}: {stderr}")]
    Command {
        /// The command line.
        command: String,
        /// Exit status or signal.
        status: String,
        /// What it said.
        stderr: String,
    },
    /// Something did not happen in time.
    #[error("waited {:.1} s for {what}; {found}", .after.as_secs_f64())]
    Timeout {
        /// What was waited for.
        what: String,
        /// How long.
        after: Duration,
        /// What was seen instead.
        found: String,
    },
    /// The lab was asked for something that it cannot do, or found something that it cannot be.
    #[error("{0}")]
    Unfit(String),
}

/// As `unwrap` in a test prints it: the same words, then the causes.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")?;
        let mut source = std::error::Error::source(self);
        while let Some(cause) = source {
            write!(f, ": {cause}")?;
            source = cause.source();
        }
        Ok(())
    }
}

/// The lab's results.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Adds what was being done to an [`io::Error`].
pub(crate) trait Doing<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<io::Error>> Doing<T> for std::result::Result<T, E> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error::Io { doing: what(), source: source.into() })
    }
}

/// Turns an unsuccessful [`Output`] into an error that quotes it.
pub(crate) fn require_success(command: &[impl AsRef<str>], output: Output) -> Result<Output> {
    if output.status.success() {
        return Ok(output);
    }
    let words: Vec<&str> = command.iter().map(AsRef::as_ref).collect();
    Err(Error::Command {
        command: words.join(" "),
        status: output.status.to_string(),
        stderr: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}
