//! Rates and sizes with their units: `"100 Mbit/s"`, `"20 kpps"`, `"64 KiB"`.

use std::ops::RangeInclusive;

use super::diagnostic::Report;
use super::reader::{At, Section};

/// Units of one quantity, each with what it multiplies by.
type Units = &'static [(&'static str, f64)];

const BIT_RATES: Units =
    &[("bit/s", 1.0), ("kbit/s", 1e3), ("Mbit/s", 1e6), ("Gbit/s", 1e9), ("Tbit/s", 1e12)];
const PACKET_RATES: Units = &[("pps", 1.0), ("kpps", 1e3), ("Mpps", 1e6)];
const SIZES: Units = &[
    ("B", 1.0),
    ("kB", 1e3),
    ("MB", 1e6),
    ("KiB", 1024.0),
    ("MiB", 1_048_576.0),
    ("GiB", 1_073_741_824.0),
];

/// Bits per second a limit may have.
const BIT_RATE: RangeInclusive<u64> = 1_000..=10_000_000_000_000;
/// Packets per second.
const PACKET_RATE: RangeInclusive<u64> = 1..=10_000_000_000;

/// The value of `text` in the smallest unit; `None`: no number with one of the units.
fn parse(text: &str, units: Units) -> Option<f64> {
    let at = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let number: f64 = number.parse().ok()?;
    let unit = unit.trim();
    let (_, factor) = units.iter().find(|(u, _)| u.eq_ignore_ascii_case(unit))?;
    Some(number * factor)
}

fn read(
    report: &mut Report,
    s: &mut Section,
    key: &'static str,
    (units, example): (Units, &str),
    range: &RangeInclusive<u64>,
) -> Option<At<u64>> {
    let v = s.string(report, key)?;
    let Some(value) = parse(v.value, units) else {
        let known: Vec<_> = units.iter().map(|(u, _)| *u).collect();
        let text = format!(
            "'{key}' is \"{}\"; write a number and one of {}, like \"{example}\"",
            v.value,
            known.join(", ")
        );
        report.error(&v.span, text);
        return None;
    };
    let value = value.round() as u64;
    if !range.contains(&value) {
        let unit = units[0].0;
        let (low, high) = (range.start(), range.end());
        report.error(
            &v.span,
            format!("'{key}' is {value} {unit}; it must be from {low} to {high} {unit}"),
        );
        return None;
    }
    Some(At::new(value, v.span))
}

/// Bits per second.
pub(super) fn bit_rate(report: &mut Report, s: &mut Section, key: &'static str) -> Option<At<u64>> {
    read(report, s, key, (BIT_RATES, "100 Mbit/s"), &BIT_RATE)
}

/// Packets per second.
pub(super) fn packet_rate(
    report: &mut Report,
    s: &mut Section,
    key: &'static str,
) -> Option<At<u64>> {
    read(report, s, key, (PACKET_RATES, "20 kpps"), &PACKET_RATE)
}

/// Bytes.
pub(super) fn size(
    report: &mut Report,
    s: &mut Section,
    key: &'static str,
    range: &RangeInclusive<u64>,
) -> Option<At<u64>> {
    read(report, s, key, (SIZES, "64 KiB"), range)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_and_its_unit_are_a_value() {
        let bits = |t| parse(t, BIT_RATES).map(|v| v as u64);
        assert_eq!(bits("100 Mbit/s"), Some(100_000_000));
        assert_eq!(bits("1.5Gbit/s"), Some(1_500_000_000));
        assert_eq!(bits("64 kbit/s"), Some(64_000));
        assert_eq!(bits("100"), None);
        assert_eq!(bits("100 MB"), None);
        assert_eq!(bits("Mbit/s"), None);
        assert_eq!(parse("20 kpps", PACKET_RATES).map(|v| v as u64), Some(20_000));
        assert_eq!(parse("64 KiB", SIZES).map(|v| v as u64), Some(65_536));
    }
}
