//! Reading JSON settings key by key, with errors that name the file and the key.

use std::path::{Path, PathBuf};

use serde_json::Value;

/// What is wrong with a JSON file of settings.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}; give the folder of a complete checkpoint", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// The file is not JSON.
    #[error("{} is not valid JSON: {source}; fetch or write the file again", file.display())]
    NotJson {
        /// The file.
        file: PathBuf,
        /// The parser's reason, with line and column.
        source: serde_json::Error,
    },
    /// A key is absent, of the wrong type, or has a value that is not supported.
    #[error("{}, key `{key}`: {problem}", file.display())]
    Key {
        /// The file.
        file: PathBuf,
        /// The key with the objects around it, joined by dots.
        key: String,
        /// What is wrong and what was expected.
        problem: String,
    },
}

/// A JSON object together with where it came from.
#[derive(Clone, Copy, Debug)]
pub struct Section<'a> {
    file: &'a Path,
    prefix: &'a str,
    value: &'a Value,
}

/// Reads and parses a JSON file.
pub fn read(file: &Path) -> Result<Value, ConfigError> {
    let bytes = std::fs::read(file).map_err(|source| ConfigError::Unreadable { file: file.to_path_buf(), source })?;
    serde_json::from_slice(&bytes).map_err(|source| ConfigError::NotJson { file: file.to_path_buf(), source })
}

impl<'a> Section<'a> {
    /// The object at the top of `file`.
    pub fn top(file: &'a Path, value: &'a Value) -> Result<Self, ConfigError> {
        let section = Section { file, prefix: "", value };
        match value {
            Value::Object(_) => Ok(section),
            _ => Err(section.error("", "expected a JSON object at the top of the file")),
        }
    }

    /// The object under `key`, or nothing when the key is absent or null.
    pub fn section(&self, key: &'a str) -> Result<Option<Section<'a>>, ConfigError> {
        match self.get(key) {
            None => Ok(None),
            Some(value @ Value::Object(_)) => Ok(Some(Section { file: self.file, prefix: key, value })),
            Some(_) => Err(self.error(key, "expected an object")),
        }
    }

    /// The raw value of `key`; null counts as absent.
    pub fn get(&self, key: &str) -> Option<&'a Value> {
        self.value.get(key).filter(|value| !value.is_null())
    }

    /// A whole number, or nothing when absent.
    pub fn optional_integer(&self, key: &str) -> Result<Option<i64>, ConfigError> {
        self.optional(key, Value::as_i64, "expected a whole number")
    }

    /// A whole number above zero.
    pub fn size(&self, key: &str) -> Result<i64, ConfigError> {
        let value = self.required(key, self.optional_integer(key)?)?;
        if value > 0 && value <= i64::from(i32::MAX) {
            return Ok(value);
        }
        Err(self.error(key, &format!("{value} is out of range; expected a number from 1 to {}", i32::MAX)))
    }

    /// A finite number.
    pub fn number(&self, key: &str) -> Result<f64, ConfigError> {
        self.required(key, self.optional_number(key)?)
    }

    /// A finite number, or nothing when absent.
    pub fn optional_number(&self, key: &str) -> Result<Option<f64>, ConfigError> {
        self.optional(key, Value::as_f64, "expected a number")
    }

    /// A text.
    pub fn text(&self, key: &str) -> Result<&'a str, ConfigError> {
        self.required(key, self.optional_text(key)?)
    }

    /// A text, or nothing when absent.
    pub fn optional_text(&self, key: &str) -> Result<Option<&'a str>, ConfigError> {
        self.optional(key, Value::as_str, "expected a text")
    }

    /// true or false, or nothing when absent.
    pub fn optional_bool(&self, key: &str) -> Result<Option<bool>, ConfigError> {
        self.optional(key, Value::as_bool, "expected true or false")
    }

    /// A list of whole numbers.
    pub fn integers(&self, key: &str) -> Result<Vec<i64>, ConfigError> {
        self.list(key, Value::as_i64, "expected a list of whole numbers")
    }

    /// A list of numbers.
    pub fn numbers(&self, key: &str) -> Result<Vec<f64>, ConfigError> {
        self.list(key, Value::as_f64, "expected a list of numbers")
    }

    /// A list of texts.
    pub fn texts(&self, key: &str) -> Result<Vec<&'a str>, ConfigError> {
        self.list(key, Value::as_str, "expected a list of texts")
    }

    /// An error about `key` of this section.
    pub fn error(&self, key: &str, problem: &str) -> ConfigError {
        let key = match (self.prefix, key) {
            ("", key) => key.to_string(),
            (prefix, "") => prefix.to_string(),
            (prefix, key) => format!("{prefix}.{key}"),
        };
        ConfigError::Key { file: self.file.to_path_buf(), key, problem: problem.to_string() }
    }

    /// `value`, or the error that `key` is missing.
    pub fn required<T>(&self, key: &str, value: Option<T>) -> Result<T, ConfigError> {
        value.ok_or_else(|| self.error(key, "missing"))
    }

    fn optional<T>(&self, key: &str, read: impl Fn(&'a Value) -> Option<T>, expected: &str) -> Result<Option<T>, ConfigError> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => read(value).map(Some).ok_or_else(|| self.error(key, expected)),
        }
    }

    fn list<T>(&self, key: &str, read: impl Fn(&'a Value) -> Option<T>, expected: &str) -> Result<Vec<T>, ConfigError> {
        let value = self.required(key, self.get(key))?;
        value.as_array().and_then(|items| items.iter().map(read).collect()).ok_or_else(|| self.error(key, expected))
    }
}
