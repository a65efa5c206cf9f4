//! Later.

use std::path::Path;

use crate::Error;
use crate::run::Results;

/// Writes it.
pub(crate) fn write(path: &Path, results: &Results) -> Result<(), Error> {
    super::json::write(path, results)
}
