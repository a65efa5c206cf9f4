//! Results as a file.

use std::fs;
use std::path::Path;

use crate::Error;
use crate::run::{Results, SCHEMA};

/// Writes them, directories included.
pub(crate) fn write(path: &Path, results: &Results) -> Result<(), Error> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    fs::write(path, serde_json::to_string_pretty(results)? + "\n")
        .map_err(|e| format!("write {}: {e}", path.display()).into())
}

/// Reads what [`write`] wrote.
pub(crate) fn read(path: &Path) -> Result<Results, Error> {
    let text = fs::read_to_string(path).map_err(|e| format!("read {}: {e}", path.display()))?;
    let results: Results =
        serde_json::from_str(&text).map_err(|e| format!("read {}: {e}", path.display()))?;
    if results.schema != SCHEMA {
        return Err(format!(
            "{} has schema {}, this program reads {SCHEMA}; run the benchmark again",
            path.display(),
            results.schema
        )
        .into());
    }
    Ok(results)
}
