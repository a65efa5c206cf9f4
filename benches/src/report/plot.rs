//! Horizontal bars with whiskers, as SVG text.

use std::fmt::Write as _;

use super::figure;
use crate::outcome::Unit;
use crate::report::Row;

const WIDTH: f64 = 860.0;
const LABEL: f64 = 230.0;
const VALUE: f64 = 110.0;
const LINE: f64 = 24.0;

/// The contestants of a scene: a bar to the median, a whisker from min to max. Empty if nothing ran.
pub(crate) fn bars(rows: &[Row], unit: Unit) -> String {
    let ran: Vec<_> = rows.iter().filter_map(|r| Some((r, r.spread?))).collect();
    let most = ran.iter().map(|(_, s)| s.max).fold(0.0, f64::max);
    if ran.is_empty() || most <= 0.0 {
        return String::new();
    }
    let height = LINE * ran.len() as f64 + 6.0;
    let mut svg = format!(
        "<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" xmlns=\"http://www.w3.org/2000/svg\">\n"
    );
    let x = |value: f64| LABEL + value / most * (WIDTH - LABEL - VALUE);
    for (i, (row, s)) in ran.iter().enumerate() {
        let top = LINE * i as f64 + 4.0;
        let (middle, text) = (top + 8.0, top + 12.5);
        let class = class(&row.contestant);
        let (name, value) = (escape(&row.contestant), figure(s.median, unit));
        let (left, width) = (LABEL - 8.0, x(s.median) - LABEL);
        let (low, high, after) = (x(s.min), x(s.max), x(s.max) + 6.0);
        let _ = writeln!(svg, "<text x=\"{left:.1}\" y=\"{text:.1}\" class=\"l\">{name}</text>");
        let _ = writeln!(
            svg,
            "<rect x=\"{LABEL}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"16\" class=\"{class}\"/>"
        );
        let _ = writeln!(
            svg,
            "<path d=\"M{low:.1} {middle:.1}H{high:.1}M{low:.1} {top:.1}v16M{high:.1} {top:.1}v16\" class=\"w\"/>"
        );
        let _ = writeln!(svg, "<text x=\"{after:.1}\" y=\"{text:.1}\">{value}</text>");
    }
    svg + "</svg>\n"
}

/// Colour by who it is.
fn class(contestant: &str) -> &'static str {
    match contestant {
        c if c.starts_with("weft") => "weft",
        c if c.starts_with("kernel") => "kernel",
        c if c.starts_with("raw") || c.starts_with("relay") => "raw",
        _ => "other",
    }
}

/// Text as HTML.
pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
