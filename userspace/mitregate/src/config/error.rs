//! Configuration errors: file, line, field, and what to write instead.

use std::fmt;
use std::path::{Path, PathBuf};

use super::locate::{FieldPath, guess_at, line_at, line_of, path_at};

/// One thing wrong with a configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The file.
    pub file: PathBuf,
    /// Line, from 1; None for what concerns the whole file.
    pub line: Option<usize>,
    /// The field, such as `connections.home.encap`; empty for the whole file.
    pub field: String,
    /// What is wrong, and what would be right.
    pub message: String,
}

impl ConfigError {
    /// About a whole file.
    pub fn file(file: &Path, message: impl fmt::Display) -> Self {
        Self {
            file: file.to_owned(),
            line: None,
            field: String::new(),
            message: message.to_string(),
        }
    }

    /// About a field.
    pub fn field(file: &Path, text: &str, field: &FieldPath, message: impl fmt::Display) -> Self {
        Self {
            file: file.to_owned(),
            line: line_of(text, field),
            field: field.to_string(),
            message: message.to_string(),
        }
    }

    /// From the TOML parser. Its own texts quote the file, so for secrets they are not used.
    pub fn toml(file: &Path, text: &str, error: &toml::de::Error) -> Self {
        let offset = error.span().map(|span| span.start);
        let field = offset
            .map(|offset| path_at(text, offset))
            .unwrap_or_default();
        let quotes_a_secret = field.is_in("secrets")
            && !error.message().starts_with("unknown field")
            && !error.message().starts_with("missing field");
        let message = if quotes_a_secret {
            "not what is expected here: ids is an array of texts; secret, secret_file and \
             credential are one text each"
                .to_owned()
        } else {
            error.message().trim_end().to_owned()
        };
        let guess = || {
            offset
                .map(|offset| guess_at(text, offset))
                .unwrap_or_default()
        };
        Self {
            file: file.to_owned(),
            line: offset.map(|offset| line_at(text, offset)),
            field: if field.is_root() {
                guess()
            } else {
                field.to_string()
            },
            message,
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, "{line}:")?;
        }
        if !self.field.is_empty() {
            write!(f, " {}:", self.field)?;
        }
        write!(f, " {}", self.message)
    }
}

impl std::error::Error for ConfigError {}
