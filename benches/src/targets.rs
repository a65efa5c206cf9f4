//! The targets that weft sets itself, each computed from the results of one run.

use serde::{Deserialize, Serialize};

use crate::run::Results;

/// One line of the table of targets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Target {
    /// `1`, `2`, ...
    pub(crate) number: u8,
    /// What shall hold.
    pub(crate) text: String,
    /// The measured ratio; `None`: a contestant did not run.
    pub(crate) measured: Option<f64>,
    /// The bound, in the same measure.
    pub(crate) bound: f64,
    /// Less than the bound is good.
    pub(crate) at_most: bool,
}

impl Target {
    /// Whether it is met; `None`: not measured.
    pub(crate) fn met(&self) -> Option<bool> {
        let measured = self.measured?;
        Some(if self.at_most { measured <= self.bound } else { measured >= self.bound })
    }
}

/// All targets, from what was measured.
pub(crate) fn all(results: &Results) -> Vec<Target> {
    let _ = results;
    Vec::new()
}
