//! The same results four ways, and the words they share.

pub(crate) mod html;
pub(crate) mod json;
pub(crate) mod markdown;
mod plot;
mod rows;
pub(crate) mod terminal;

#[cfg(test)]
mod tests;

use crate::outcome::Unit;

pub(crate) use rows::{Row, rows};

/// `3.21 Gbit/s`, `48.1 k/s`, `6.8 us`.
pub(crate) fn figure(value: f64, unit: Unit) -> String {
    match unit {
        Unit::Bits => format!("{:.2} Gbit/s", value * 1e-9),
        Unit::Operations if value < 1e4 => format!("{value:.0} /s"),
        Unit::Operations => format!("{:.1} k/s", value * 1e-3),
        Unit::Nanoseconds => nanoseconds(value),
    }
}

/// `850 ns`, `6.8 us`, `1.2 ms`.
pub(crate) fn nanoseconds(ns: f64) -> String {
    match ns {
        ns if ns < 1e3 => format!("{ns:.0} ns"),
        ns if ns < 1e6 => format!("{:.1} us", ns * 1e-3),
        ns if ns < 1e8 => format!("{:.1} ms", ns * 1e-6),
        ns => format!("{:.0} ms", ns * 1e-6),
    }
}

/// What CPU time is divided by.
pub(crate) fn work_unit(unit: Unit) -> &'static str {
    if unit == Unit::Bits { "KiB" } else { "operation" }
}
