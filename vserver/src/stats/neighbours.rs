//! Neighbours as tables for people.

use super::table::{Align, Table};
use crate::NeighbourReport;

/// One line per neighbour.
pub fn neighbours(report: &NeighbourReport) -> Table {
    use Align::{Left, Right};
    let mut t = Table::new(&[
        ("VSERVER", Left),
        ("WORKER", Right),
        ("ALIAS", Left),
        ("ADDRESS", Left),
        ("MAC", Left),
        ("STATE", Left),
        ("ORIGIN", Left),
    ]);
    for n in &report.neighbours {
        let router = if n.router { " router" } else { "" };
        t.row(vec![
            n.vserver.clone(),
            n.worker.to_string(),
            n.alias.clone(),
            n.address.to_string(),
            n.mac.clone().unwrap_or_else(|| String::from("-")),
            format!("{}{router}", n.state),
            n.origin.clone(),
        ]);
    }
    t
}

/// One line per table that vservers share.
pub fn neighbour_tables(report: &NeighbourReport) -> Table {
    use Align::{Left, Right};
    let mut t = Table::new(&[
        ("TABLE", Left),
        ("VSERVERS", Right),
        ("STATIC", Right),
        ("LEARNED", Right),
        ("MAX", Right),
        ("EVICTED", Right),
    ]);
    for table in &report.tables {
        t.row(vec![
            table.name.clone(),
            table.vservers.to_string(),
            table.configured.to_string(),
            table.learned.to_string(),
            table.learned_max.to_string(),
            table.evicted.to_string(),
        ]);
    }
    t
}
