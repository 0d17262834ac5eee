//! The settings beside an adapter's weights, key by key: every one is used, known to be harmless, or refused by name.
//!
//! Owns: the refusals. Never: what a key means.

use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// The keys that are left.
pub(super) struct Settings<'a> {
    path: &'a Path,
    map: Map<String, Value>,
    /// The way out where the file is refused.
    fix: &'static str,
}

impl<'a> Settings<'a> {
    /// Reads the file's text.
    pub(super) fn parse(path: &'a Path, text: &[u8], fix: &'static str) -> Result<Self> {
        let map = serde_json::from_slice(text);
        let map = map.map_err(|e| refused(path, format!("is not a JSON object: {e}"), fix))?;
        Ok(Self { path, map, fix })
    }

    /// The keys of an object that is a value of the file.
    pub(super) fn within(&mut self, key: &str) -> Result<Self> {
        match self.map.remove(key) {
            Some(Value::Object(map)) => Ok(Self { path: self.path, map, fix: self.fix }),
            other => Err(self.refuse(format!("its `{key}` is {}, and no object", other.unwrap_or_default()))),
        }
    }

    /// A key that may be missing or null.
    pub(super) fn take<T: DeserializeOwned>(&mut self, key: &str) -> Result<Option<T>> {
        match self.map.remove(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => serde_json::from_value(value.clone())
                .map(Some)
                .map_err(|e| self.refuse(format!("its `{key}` is {value}: {e}"))),
        }
    }

    /// A key that may be missing or null, and else has one of these values.
    pub(super) fn only(&mut self, key: &str, values: &[Value]) -> Result<()> {
        match self.map.remove(key) {
            Some(value) if !values.contains(&value) && !value.is_null() => {
                let known: Vec<String> = values.iter().map(Value::to_string).collect();
                Err(self.refuse(format!("its `{key}` is {value}; only {} is supported", known.join(" or "))))
            }
            _ => Ok(()),
        }
    }

    /// Refuses what is not known to change nothing: all keys that are left but these.
    pub(super) fn finish(self, harmless: &[&str]) -> Result<()> {
        let unknown: Vec<&str> =
            self.map.keys().map(String::as_str).filter(|key| !harmless.contains(key)).collect();
        if unknown.is_empty() {
            return Ok(());
        }
        let keys = unknown.join("`, `");
        Err(self.refuse(format!(
            "it has keys this program does not know, which may change what is computed: `{keys}`"
        )))
    }

    pub(super) fn refuse(&self, what: String) -> Error {
        refused(self.path, what, self.fix)
    }
}

fn refused(path: &Path, what: String, fix: &str) -> Error {
    Error::Checkpoint { path: path.to_path_buf(), what, fix: fix.into() }
}
