//! What a lab run did and saw: progress while it works, a short result at the end.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write;
use std::time::Duration;

use serde::Serialize;

/// Everything a run found out. JSON output is this, as it stands.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// `af-xdp`, `tap`, ...
    pub driver: String,
    /// Facts that every number stands under: device mode, congestion control, offloads.
    pub conditions: Vec<(String, String)>,
    /// What was checked.
    pub checks: Vec<Check>,
    /// Timed bulk transfers.
    pub transfers: Vec<Transfer>,
    /// Counters per vserver over the run.
    pub vservers: Vec<VserverRow>,
    /// Numbers of the scale scenario: name, value with unit, how it was measured.
    pub numbers: Vec<Number>,
    /// Of measurements of many kinds of something.
    pub tables: Vec<Table>,
    #[serde(skip)]
    quiet: bool,
}

/// One check.
#[derive(Debug, Serialize)]
pub struct Check {
    /// What had to be true.
    pub name: String,
    /// Whether it was.
    pub ok: bool,
    /// What was seen.
    pub seen: String,
}

/// One bulk transfer.
#[derive(Debug, Serialize)]
pub struct Transfer {
    /// `download from alpha`.
    pub name: String,
    /// Payload bytes.
    pub bytes: u64,
    /// Seconds.
    pub seconds: f64,
}

/// One line of the vserver table.
#[derive(Debug, Serialize)]
#[allow(missing_docs)]
pub struct VserverRow {
    pub name: String,
    pub rx_frames: u64,
    pub rx_bytes: u64,
    pub tx_frames: u64,
    pub tx_bytes: u64,
    pub tcp_in_bytes: u64,
    pub tcp_out_bytes: u64,
    pub retransmitted: u64,
    pub dropped: u64,
    pub drops: BTreeMap<String, u64>,
}

/// One measured number.
#[derive(Debug, Serialize)]
#[allow(missing_docs)]
pub struct Number {
    pub name: String,
    pub value: String,
    pub method: String,
}

/// A table for a document.
#[derive(Debug, Default, Serialize)]
#[allow(missing_docs)]
pub struct Table {
    pub title: String,
    pub head: Vec<String>,
    pub rows: Vec<Vec<String>>,
}

impl Table {
    /// One without rows.
    pub fn new(title: &str, head: &[&str]) -> Table {
        let head = head.iter().map(|&cell| cell.to_owned()).collect();
        Table { title: title.to_owned(), head, rows: Vec::new() }
    }

    /// As Markdown has it.
    fn text(&self) -> String {
        let mut text = format!("{}\n\n", self.title);
        let mut line = |cells: &[String]| {
            let _ = writeln!(text, "| {} |", cells.join(" | "));
        };
        line(&self.head);
        line(&vec![String::from("---"); self.head.len()]);
        self.rows.iter().for_each(|row| line(row));
        text
    }
}

impl Report {
    /// An empty report; a quiet one prints no progress.
    pub fn new(driver: &str, quiet: bool) -> Report {
        Report { driver: driver.to_owned(), quiet, ..Report::default() }
    }

    /// Tells what is going on.
    pub fn step(&self, text: &str) {
        if !self.quiet {
            progress(&format!("     {text}"));
        }
    }

    /// Records a fact and tells it.
    pub fn condition(&mut self, name: &str, value: impl Into<String>) {
        let value = value.into();
        self.step(&format!("{name}: {value}"));
        self.conditions.push((name.to_owned(), value));
    }

    /// Records a check and tells it.
    pub fn check(&mut self, name: impl Into<String>, ok: bool, seen: impl Into<String>) {
        let (name, seen) = (name.into(), seen.into());
        if !self.quiet {
            progress(&format!("{}  {name}: {seen}", if ok { " ok" } else { "BAD" }));
        }
        self.checks.push(Check { name, ok, seen });
    }

    /// Records a transfer.
    pub fn transfer(&mut self, name: impl Into<String>, bytes: u64, time: Duration) {
        self.transfers.push(Transfer { name: name.into(), bytes, seconds: time.as_secs_f64() });
    }

    /// Records a number.
    pub fn number(&mut self, name: &str, value: impl Into<String>, method: &str) {
        let value = value.into();
        self.step(&format!("{name}: {value}"));
        self.numbers.push(Number { name: name.into(), value, method: method.into() });
    }

    /// How many checks failed.
    pub fn failed(&self) -> usize {
        self.checks.iter().filter(|c| !c.ok).count()
    }

    /// Whether a table has a line.
    pub fn has_rows(&self) -> bool {
        self.tables.iter().any(|table| !table.rows.is_empty())
    }

    /// Prints the result: tables, or JSON.
    pub fn print(&self, json: bool) -> Result<(), crate::Error> {
        let mut out = std::io::stdout().lock();
        if json {
            let text = serde_json::to_string_pretty(self)
                .map_err(|e| crate::Error::Failed(format!("writing the report: {e}")))?;
            writeln!(out, "{text}")?;
        } else {
            write!(out, "{}", self.text())?;
        }
        Ok(())
    }

    fn text(&self) -> String {
        let mut text = String::new();
        let mut part = |table: String| {
            text.push('\n');
            text.push_str(&table);
        };
        if !self.transfers.is_empty() {
            part(align(&self.transfer_rows()));
        }
        if !self.vservers.is_empty() {
            part(align(&self.vserver_rows()));
        }
        let drops: Vec<Vec<String>> = self.drop_rows();
        if drops.len() > 1 {
            part(align(&drops));
        }
        if !self.numbers.is_empty() {
            let row = |n: &Number| vec![n.name.clone(), n.value.clone(), n.method.clone()];
            let head = ["NUMBER", "VALUE", "METHOD"].map(str::to_owned).to_vec();
            part(align(
                &std::iter::once(head).chain(self.numbers.iter().map(row)).collect::<Vec<_>>(),
            ));
        }
        self.tables.iter().filter(|table| !table.rows.is_empty()).for_each(|t| part(t.text()));
        let failed: Vec<&Check> = self.checks.iter().filter(|c| !c.ok).collect();
        if !failed.is_empty() {
            let row = |c: &&Check| vec![c.name.clone(), c.seen.clone()];
            let head = vec!["FAILED".to_owned(), "SEEN".to_owned()];
            part(align(&std::iter::once(head).chain(failed.iter().map(row)).collect::<Vec<_>>()));
        }
        let passed = self.checks.len() - failed.len();
        part(format!("{}: {passed} checks passed, {} failed\n", self.driver, failed.len()));
        text
    }

    fn transfer_rows(&self) -> Vec<Vec<String>> {
        let head = ["TRANSFER", "MIB", "SECONDS", "MBIT/S"].map(str::to_owned).to_vec();
        let row = |t: &Transfer| {
            let rate = t.bytes as f64 * 8.0 / 1e6 / t.seconds.max(1e-6);
            vec![
                t.name.clone(),
                format!("{:.1}", t.bytes as f64 / f64::from(1 << 20)),
                format!("{:.2}", t.seconds),
                format!("{rate:.0}"),
            ]
        };
        std::iter::once(head).chain(self.transfers.iter().map(row)).collect()
    }

    fn drop_rows(&self) -> Vec<Vec<String>> {
        let mut rows = vec![["VSERVER", "DROP", "PACKETS"].map(str::to_owned).to_vec()];
        for v in &self.vservers {
            rows.extend(
                v.drops.iter().map(|(r, n)| vec![v.name.clone(), r.clone(), n.to_string()]),
            );
        }
        rows
    }

    fn vserver_rows(&self) -> Vec<Vec<String>> {
        let head = [
            "VSERVER",
            "RX-FRAMES",
            "RX-BYTES",
            "TX-FRAMES",
            "TX-BYTES",
            "TCP-IN",
            "TCP-OUT",
            "RETRANS",
            "DROPPED",
        ];
        let row = |v: &VserverRow| {
            let mut cells = vec![v.name.clone()];
            let numbers = [
                v.rx_frames,
                v.rx_bytes,
                v.tx_frames,
                v.tx_bytes,
                v.tcp_in_bytes,
                v.tcp_out_bytes,
                v.retransmitted,
                v.dropped,
            ];
            cells.extend(numbers.map(|n| n.to_string()));
            cells
        };
        std::iter::once(head.map(str::to_owned).to_vec())
            .chain(self.vservers.iter().map(row))
            .collect()
    }
}

/// One line on standard error; that nobody reads it is no reason to stop.
pub fn progress(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Columns without borders: text left, numbers right.
fn align(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |i: usize| {
        rows.iter().filter_map(|r| r.get(i)).map(|c| c.chars().count()).max().unwrap_or(0)
    };
    let numeric =
        |i: usize| rows.iter().skip(1).filter_map(|r| r.get(i)).all(|c| c.parse::<f64>().is_ok());
    let formats: Vec<(usize, bool)> = (0..columns).map(|i| (width(i), numeric(i))).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, (width, right)) in row.iter().zip(&formats) {
            if *right {
                let _ = write!(line, "{cell:>width$}  ");
            } else {
                let _ = write!(line, "{cell:<width$}  ");
            }
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stand_right_and_text_left() {
        let rows = [["NAME", "N"], ["a", "100"], ["longer", "7"]];
        let rows: Vec<Vec<String>> = rows.iter().map(|r| r.map(str::to_owned).to_vec()).collect();
        assert_eq!(align(&rows), "NAME      N\na       100\nlonger    7\n");
    }

    #[test]
    fn tables_are_markdown_and_those_without_rows_are_left_out() {
        let mut report = Report::new("mem", true);
        report.tables.push(Table::new("nothing", &["a"]));
        assert!(!report.has_rows());
        let mut table = Table::new("Gaps", &["Fault", "ms"]);
        table.rows.push(vec![String::from("dark"), String::from("72.0")]);
        report.tables.push(table);
        assert!(report.has_rows());
        let text = report.text();
        let wanted = "\nGaps\n\n| Fault | ms |\n| --- | --- |\n| dark | 72.0 |\n";
        assert!(text.starts_with(wanted), "{text}");
    }

    #[test]
    fn a_failed_check_is_listed_and_counted() {
        let mut report = Report::new("mem", true);
        report.check("good", true, "yes");
        report.check("bad", false, "no answer");
        assert_eq!(report.failed(), 1);
        let text = report.text();
        assert!(text.contains("bad     no answer"), "{text}");
        assert!(text.ends_with("mem: 1 checks passed, 1 failed\n"), "{text}");
    }
}
