//! Snapshots as tables for people: no borders, one header, numbers to the right, columns that stay.

use std::fmt::Write as _;

use weft_stack::drop::DropReason;

pub use super::neighbours::{neighbour_tables, neighbours};
pub use super::qos::{processing, qos};
use super::{HostSnapshot, ServiceSnapshot, VserverSnapshot};

/// Where the text of a column stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Right,
}

/// Rows below a header.
#[derive(Debug)]
pub struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(columns: &[(&'static str, Align)]) -> Table {
        Table { columns: columns.to_vec(), rows: Vec::new() }
    }

    pub(crate) fn row(&mut self, cells: Vec<String>) {
        debug_assert_eq!(cells.len(), self.columns.len());
        self.rows.push(cells);
    }

    /// The table as lines; the header in bold if `bold`.
    pub fn render(&self, bold: bool) -> String {
        let width = |i: usize| {
            let cells = self.rows.iter().map(|r| r[i].chars().count());
            cells.chain([self.columns[i].0.len()]).max().unwrap_or(0)
        };
        let widths: Vec<_> = (0..self.columns.len()).map(width).collect();
        let line = |cells: &mut dyn Iterator<Item = &str>| {
            let mut text = String::new();
            for (i, cell) in cells.enumerate() {
                let gap = if i == 0 { "" } else { "  " };
                let w = widths[i];
                // Writing to a String cannot fail.
                let _ = match self.columns[i].1 {
                    Align::Left => write!(text, "{gap}{cell:<w$}"),
                    Align::Right => write!(text, "{gap}{cell:>w$}"),
                };
            }
            text.truncate(text.trim_end().len());
            text
        };
        let header = line(&mut self.columns.iter().map(|(name, _)| *name));
        let mut out =
            if bold { format!("\x1b[1m{header}\x1b[0m\n") } else { format!("{header}\n") };
        for row in &self.rows {
            out.push_str(&line(&mut row.iter().map(String::as_str)));
            out.push('\n');
        }
        out
    }
}

use Align::{Left, Right};

/// One line per vserver: traffic, losses, connections.
pub fn traffic(vservers: &[&VserverSnapshot]) -> Table {
    let mut t = Table::new(&[
        ("VSERVER", Left),
        ("RX-PKTS", Right),
        ("RX-BYTES", Right),
        ("TX-PKTS", Right),
        ("TX-BYTES", Right),
        ("DROPS", Right),
        ("CONNS", Right),
        ("ESTAB", Right),
        ("OPENED", Right),
        ("RETRANS", Right),
        ("RTO", Right),
        ("RST-SENT", Right),
    ]);
    let mut total = vec![0; 11];
    for v in vservers {
        let c = |name: &str| v.counters.get(name).copied().unwrap_or(0);
        let numbers = [
            v.rx_frames,
            v.rx_bytes,
            v.tx_frames,
            v.tx_bytes,
            v.drops.values().sum(),
            v.tcp_connections as u64,
            c("TcpCurrEstab"),
            c("TcpActiveOpens") + c("TcpPassiveOpens"),
            c("TcpRetransSegs"),
            c("TcpExtTCPTimeouts"),
            c("TcpOutRsts"),
        ];
        for (sum, n) in total.iter_mut().zip(numbers) {
            *sum += n;
        }
        t.row(named(&v.name, &numbers));
    }
    if vservers.len() > 1 {
        t.row(named("total", &total));
    }
    t
}

/// One line per vserver that shared the rounds of a worker with others; `None`: nobody did.
pub fn shares(vservers: &[&VserverSnapshot]) -> Option<Table> {
    let count = |v: &VserverSnapshot, name: &str| v.counters.get(name).copied().unwrap_or(0);
    let mut t = Table::new(&[
        ("VSERVER", Left),
        ("SHARE", Right),
        ("ROUNDS", Right),
        ("OWING", Right),
        ("US-MAX", Right),
        ("QUEUE", Right),
        ("QUEUE-MAX", Right),
        ("LOST", Right),
    ]);
    let all: u64 = vservers.iter().map(|v| count(v, "ShareUs")).sum();
    for v in vservers.iter().filter(|v| count(v, "ShareRounds") > 0) {
        let mut cells = named(
            &v.name,
            &[
                0,
                count(v, "ShareRounds"),
                count(v, "ShareRoundsOwing"),
                count(v, "ShareUsMax"),
                v.input_queue as u64,
                count(v, "ShareQueuedMax"),
                v.drops.get(DropReason::InputQueueFull.name()).copied().unwrap_or(0),
            ],
        );
        cells[1] = format!("{:.1}%", count(v, "ShareUs") as f64 * 100.0 / all.max(1) as f64);
        t.row(cells);
    }
    (!t.rows.is_empty()).then_some(t)
}

/// One line on what the workers handed to each other; `None`: there is one.
pub fn workers(s: &HostSnapshot) -> Option<Table> {
    if s.hand_over.is_empty() {
        return None;
    }
    let names = ["Arrived", "Home", "Transmits", "Local", "Moved", "Copies", "Wakes"];
    let mut t = Table::new(&[
        ("WORKERS", Left),
        ("ARRIVED", Right),
        ("HOME", Right),
        ("TRANSMITS", Right),
        ("LOCAL", Right),
        ("MOVED", Right),
        ("COPIES", Right),
        ("WAKES", Right),
    ]);
    let count = |name| s.hand_over.get(&format!("HandOver{name}")).copied().unwrap_or(0);
    t.row(named(&s.workers.to_string(), &names.map(count)));
    Some(t)
}

/// One line per NIC.
pub fn nics(s: &HostSnapshot) -> Table {
    let mut t = Table::new(&[
        ("NIC", Left),
        ("DEVICE", Left),
        ("MODE", Left),
        ("STATE", Left),
        ("RX-PKTS", Right),
        ("RX-BYTES", Right),
        ("TX-PKTS", Right),
        ("TX-BYTES", Right),
        ("RX-DROPS", Right),
        ("TX-DROPS", Right),
        ("ERRORS", Right),
    ]);
    for n in &s.nics {
        let c = |name: &str| n.counters.get(name).copied().unwrap_or(0).to_string();
        t.row(vec![
            n.name.clone(),
            n.device.clone(),
            n.mode.clone(),
            String::from(if n.up { "up" } else { "down" }),
            c("DeviceInFrames"),
            c("DeviceInBytes"),
            c("DeviceOutFrames"),
            c("DeviceOutBytes"),
            c("DeviceInDropped"),
            c("DeviceOutDropped"),
            c("DeviceInErrors"),
        ]);
    }
    t
}

/// One line per vserver: what it is.
pub fn list(s: &HostSnapshot) -> Table {
    let mut t = Table::new(&[
        ("VSERVER", Left),
        ("LISTEN", Right),
        ("CONNS", Right),
        ("UDP", Right),
        ("SERVICES", Left),
        ("ADDRESSES", Left),
    ]);
    for v in &s.vservers {
        let services: Vec<_> = v.services.iter().map(service_name).collect();
        t.row(vec![
            v.name.clone(),
            v.tcp_listeners.to_string(),
            v.tcp_connections.to_string(),
            v.udp_sockets.to_string(),
            or_dash(services.join(",")),
            or_dash(v.addresses.join(", ")),
        ]);
    }
    // One listener for many; its connections are counted with their vservers.
    for s in &s.services {
        let of = s.listen.rsplit_once(", ").map_or("", |(of, _)| of);
        let none = || String::from("-");
        t.row(vec![of.to_owned(), none(), none(), none(), service_name(s), none()]);
    }
    t
}

/// Everything about one vserver: addresses, routes, counters that are not zero (or all), losses
/// with their meaning, services.
pub fn details(v: &VserverSnapshot, zeros: bool, bold: bool) -> String {
    let mut out = format!("vserver {}\n", v.name);
    for a in &v.addresses {
        let _ = writeln!(out, "  address {a}");
    }
    for r in &v.routes {
        let _ = writeln!(out, "  route {r}");
    }
    for r in &v.rules {
        let _ = writeln!(out, "  rule {r}");
    }
    for (name, routes) in &v.tables {
        for r in routes {
            let _ = writeln!(out, "  table {name} {r}");
        }
    }
    let mut counters = Table::new(&[("COUNTER", Left), ("VALUE", Right)]);
    // Losses have a table of their own.
    let counts = v.counters.iter().filter(|(name, _)| !name.starts_with("Drop"));
    for (name, n) in counts.filter(|(_, n)| zeros || **n > 0) {
        counters.row(vec![name.clone(), n.to_string()]);
    }
    let _ = write!(out, "\n{}", counters.render(bold));
    let drops = drops(&v.drops, zeros);
    if !drops.rows.is_empty() {
        let _ = write!(out, "\n{}", drops.render(bold));
    }
    for n in &v.names {
        let addresses =
            if n.addresses.is_empty() { "no address yet" } else { &n.addresses.join(", ") };
        let _ = write!(
            out,
            "\nname {} ({}): {addresses}, changed {} times",
            n.name, n.used_for, n.changes
        );
        let _ = match &n.error {
            Some(error) => writeln!(out, "; {error}"),
            None => writeln!(out),
        };
    }
    for m in &v.mdns {
        let state = if m.announced { "announced" } else { "not announced" };
        let _ = writeln!(out, "\nmdns {} on {}: {state}", m.host, m.alias);
        for (name, n) in m.counters.iter().filter(|(_, n)| zeros || **n > 0) {
            let _ = writeln!(out, "  {name} {n}");
        }
    }
    for r in &v.records {
        let error = r.error.as_ref().map(|e| format!("; {e}")).unwrap_or_default();
        let state = if r.registered { "registered" } else { "not registered" };
        let _ = writeln!(out, "\nrecord {}: {state}{error}", r.record);
    }
    for s in &v.services {
        let state = if s.listening { "listening" } else { "waiting for its address" };
        let _ = writeln!(
            out,
            "\nservice {} on {}: {state}, {} connections",
            s.kind, s.listen, s.connections
        );
        for (name, n) in s.counters.iter().filter(|(_, n)| zeros || **n > 0) {
            let _ = writeln!(out, "  {name} {n}");
        }
    }
    for s in &v.shared_services {
        let _ = writeln!(out, "\nservice {s}");
    }
    out
}

/// What vservers keep in DNS.
pub fn records(vservers: &[&VserverSnapshot]) -> Table {
    let mut t = Table::new(&[("VSERVER", Left), ("RECORD", Left), ("STATE", Left)]);
    for v in vservers {
        for r in &v.records {
            let state = match (&r.error, r.registered) {
                (_, true) => String::from("registered"),
                (Some(error), _) => format!("failed: {error}"),
                (None, _) => String::from("under way"),
            };
            t.row(vec![v.name.clone(), r.record.clone(), state]);
        }
    }
    t
}

/// Losses by reason, the most frequent first, with what they mean and what to do.
pub fn drops(found: &std::collections::BTreeMap<String, u64>, zeros: bool) -> Table {
    let mut t =
        Table::new(&[("DROP", Left), ("PACKETS", Right), ("MEANING", Left), ("REMEDY", Left)]);
    let mut reasons: Vec<_> = DropReason::ALL
        .iter()
        .map(|r| (found.get(r.name()).copied().unwrap_or(0), r))
        .filter(|(n, _)| zeros || *n > 0)
        .collect();
    reasons.sort_by_key(|(n, _)| std::cmp::Reverse(*n));
    for (n, r) in reasons {
        let cells = [r.name(), &n.to_string(), r.meaning(), r.remedy()];
        t.row(cells.iter().map(|c| String::from(*c)).collect());
    }
    t
}

fn service_name(s: &ServiceSnapshot) -> String {
    let port = s.listen.rsplit(':').next().unwrap_or_default();
    format!("{}:{port}", s.kind)
}

fn named(name: &str, numbers: &[u64]) -> Vec<String> {
    let numbers = numbers.iter().map(ToString::to_string);
    std::iter::once(name.to_owned()).chain(numbers).collect()
}

fn or_dash(text: String) -> String {
    if text.is_empty() { String::from("-") } else { text }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::stats::NicSnapshot;

    fn vserver(name: &str, n: u64) -> VserverSnapshot {
        VserverSnapshot {
            name: name.to_owned(),
            rx_frames: n,
            rx_bytes: n * 100,
            tcp_connections: 3,
            addresses: vec![String::from("data0 10.0.0.1")],
            counters: [("TcpRetransSegs", 4), ("TcpInSegs", 0), ("DropIpNoRoute", 2)]
                .map(|(k, v)| (k.to_owned(), v))
                .into(),
            drops: BTreeMap::from([(String::from("IpNoRoute"), 2)]),
            services: vec![ServiceSnapshot {
                kind: String::from("http"),
                listen: String::from("[::]:80"),
                listening: true,
                connections: 1,
                counters: BTreeMap::from([
                    (String::from("Requests"), 5),
                    (String::from("Failed"), 0),
                ]),
            }],
            ..Default::default()
        }
    }

    #[test]
    fn traffic_is_aligned_and_summed() {
        let (a, b) = (vserver("files", 12_345), vserver("a-longer-name", 7));
        assert_eq!(
            traffic(&[&a, &b]).render(false),
            "VSERVER        RX-PKTS  RX-BYTES  TX-PKTS  TX-BYTES  DROPS  CONNS  ESTAB  OPENED  RETRANS  RTO  RST-SENT\n\
             files            12345   1234500        0         0      2      3      0       0        4    0         0\n\
             a-longer-name        7       700        0         0      2      3      0       0        4    0         0\n\
             total            12352   1235200        0         0      4      6      0       0        8    0         0\n"
        );
        assert!(!traffic(&[&a]).render(false).contains("total"));
    }

    #[test]
    fn shares_are_parts_of_the_time_that_was_shared() {
        let counted = |name, us, rounds| {
            let mut v = vserver(name, 1);
            v.counters.insert("ShareUs".into(), us);
            v.counters.insert("ShareRounds".into(), rounds);
            v.drops.insert("InputQueueFull".into(), us / 10);
            v
        };
        let (a, b, idle) = (counted("a", 100, 7), counted("b", 300, 8), vserver("idle", 1));
        assert_eq!(
            shares(&[&a, &b, &idle]).expect("two shared").render(false),
            "VSERVER  SHARE  ROUNDS  OWING  US-MAX  QUEUE  QUEUE-MAX  LOST\n\
             a        25.0%       7      0       0      0          0    10\n\
             b        75.0%       8      0       0      0          0    30\n"
        );
        assert!(shares(&[&idle]).is_none());
    }

    #[test]
    fn details_show_what_is_not_zero() {
        let text = details(&vserver("files", 1), false, false);
        assert!(text.starts_with("vserver files\n  address data0 10.0.0.1\n"), "{text}");
        assert!(text.contains("TcpRetransSegs      4\n"), "{text}");
        assert!(!text.contains("TcpInSegs") && !text.contains("DropIpNoRoute"), "{text}");
        assert!(
            text.contains("IpNoRoute        2  No route leads to the destination.  Add a route"),
            "{text}"
        );
        assert!(
            text.contains("service http on [::]:80: listening, 1 connections\n  Requests 5\n"),
            "{text}"
        );
        let all = details(&vserver("files", 1), true, false);
        assert!(all.contains("TcpInSegs") && all.contains("EthernetTruncated"), "{all}");
    }

    #[test]
    fn nics_and_vservers_are_listed() {
        let nic = NicSnapshot {
            name: String::from("eth0"),
            device: String::from("veth0"),
            mode: String::from("af-xdp native copy"),
            up: true,
            counters: BTreeMap::from([(String::from("DeviceInFrames"), 9)]),
            ..Default::default()
        };
        let s = HostSnapshot {
            nics: vec![nic],
            vservers: vec![vserver("files", 1)],
            ..Default::default()
        };
        let text = nics(&s).render(false);
        assert!(text.contains("eth0  veth0   af-xdp native copy  up           9"), "{text}");
        assert_eq!(
            list(&s).render(false),
            "VSERVER  LISTEN  CONNS  UDP  SERVICES  ADDRESSES\n\
             files         0      3    0  http:80   data0 10.0.0.1\n"
        );
        assert!(list(&s).render(true).starts_with("\x1b[1mVSERVER"));
        assert!(workers(&s).is_none());
        let hand_over = BTreeMap::from(
            [("HandOverArrived", 7), ("HandOverHome", 5)].map(|(n, v)| (n.into(), v)),
        );
        let s = HostSnapshot { workers: 4, hand_over, ..s };
        let text = workers(&s).expect("several workers").render(false);
        assert!(
            text.ends_with("4              7     5          0      0      0       0      0\n"),
            "{text}"
        );
    }
}
