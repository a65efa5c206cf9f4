//! Rates and shares as a table for people.

use super::table::{Align, Table};
use crate::qos::{Kind, QosNode, QosSnapshot, Way};

/// `12.3M`: a rate in three digits.
fn short(n: u64) -> String {
    let (mut value, mut unit) = (n as f64, "");
    for next in ["k", "M", "G", "T"] {
        if value < 999.5 {
            break;
        }
        (value, unit) = (value / 1e3, next);
    }
    match unit {
        "" => n.to_string(),
        _ if value < 9.995 => format!("{value:.2}{unit}"),
        _ if value < 99.95 => format!("{value:.1}{unit}"),
        _ => format!("{value:.0}{unit}"),
    }
}

fn both(bits: Option<u64>, packets: Option<u64>) -> String {
    let packets = packets.map(|n| format!("{}pps", short(n)));
    let all: Vec<_> = bits.map(short).into_iter().chain(packets).collect();
    if all.is_empty() { String::from("-") } else { all.join(",") }
}

fn name(node: &QosNode) -> String {
    let class = node.class.iter().map(|c| format!("/{c}"));
    let client = node.client.iter().map(|c| format!("/{c}"));
    let rest: String = class.chain(client).collect();
    let kind = match node.kind {
        Kind::Link => "link ",
        Kind::Group => "group ",
        Kind::Vserver | Kind::Class | Kind::Client => "",
    };
    format!("{kind}{}{rest}", node.name)
}

/// One line per node and direction.
pub fn qos(s: &QosSnapshot) -> Table {
    use Align::{Left, Right};
    let mut t = Table::new(&[
        ("NODE", Left),
        ("DIR", Left),
        ("LIMIT", Right),
        ("GUARANTEE", Right),
        ("WEIGHT", Right),
        ("PRIO", Right),
        ("BIT/S", Right),
        ("PKT/S", Right),
        ("BORROWED", Right),
        ("DROPPED", Right),
        ("MARKED", Right),
        ("QUEUED", Right),
        ("SOJOURN-US", Right),
    ]);
    for node in &s.nodes {
        t.row(vec![
            name(node),
            String::from(if node.direction == Way::Send { "send" } else { "recv" }),
            both(node.limit_bits, node.limit_packets),
            both(node.guarantee_bits, node.guarantee_packets),
            node.weight.to_string(),
            node.priority.to_string(),
            short(node.bits_per_second),
            short(node.packets_per_second),
            short(node.borrowed_bytes),
            node.dropped().to_string(),
            node.marked.to_string(),
            short(node.queued_bytes),
            node.sojourn_us.to_string(),
        ]);
    }
    t
}

/// One line per vserver: its part of the rounds of its worker, and what it uses of one worker.
pub fn processing(s: &QosSnapshot) -> Table {
    use Align::{Left, Right};
    let mut t = Table::new(&[
        ("VSERVER", Left),
        ("WEIGHT", Right),
        ("WORKER-%", Right),
        ("MS", Right),
        ("DEFERRED", Right),
    ]);
    for p in &s.processing {
        t.row(vec![
            p.vserver.clone(),
            p.weight.to_string(),
            format!("{:.1}", p.us_per_second as f64 / 10_000.0),
            (p.us / 1_000).to_string(),
            p.deferred.to_string(),
        ]);
    }
    t
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_have_three_digits() {
        for (n, text) in [
            (0, "0"),
            (999, "999"),
            (1_000, "1.00k"),
            (99_960, "100k"),
            (1_234_567, "1.23M"),
            (999_600_000, "1.00G"),
        ] {
            assert_eq!(short(n), text);
        }
        assert_eq!(both(Some(5_000_000), Some(20_000)), "5.00M,20.0kpps");
        assert_eq!(both(None, None), "-");
    }
}
