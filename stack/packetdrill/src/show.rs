//! Packets as scripts write them.

use std::fmt::Write as _;

use crate::packet::{Content, Packet, Segment};
use crate::script::{OptionSpec, flag};

/// A segment of the script's numbers.
pub(crate) fn segment(s: &Segment) -> String {
    let mut out = flags(s.flags);
    let len = s.payload.len() as u32;
    let _ = write!(out, " {}:{}({len})", s.seq, s.seq.wrapping_add(len));
    if s.flags & flag::ACK != 0 {
        let _ = write!(out, " ack {}", s.ack);
    }
    let _ = write!(out, " win {}", s.window);
    if s.urgent != 0 || s.flags & flag::URG != 0 {
        let _ = write!(out, " urg {}", s.urgent);
    }
    if !s.options.is_empty() {
        let options: Vec<String> = s.options.iter().map(option).collect();
        let _ = write!(out, " <{}>", options.join(","));
    }
    out
}

pub(crate) fn flags(bits: u16) -> String {
    let letters = [
        (flag::FIN, 'F'),
        (flag::SYN, 'S'),
        (flag::RST, 'R'),
        (flag::PSH, 'P'),
        (flag::ECE, 'E'),
        (flag::CWR, 'W'),
        (flag::AE, 'A'),
        (flag::URG, 'U'),
        (flag::ACK, '.'),
    ];
    let out: String = letters.iter().filter(|(b, _)| bits & b != 0).map(|(_, c)| *c).collect();
    if out.is_empty() { "-".into() } else { out }
}

pub(crate) fn option(option: &OptionSpec) -> String {
    let hex = |bytes: &[u8]| {
        bytes.iter().fold(String::new(), |mut s, b| {
            let _ = write!(s, "{b:02x}");
            s
        })
    };
    match option {
        OptionSpec::Nop => "nop".into(),
        OptionSpec::Eol => "eol".into(),
        OptionSpec::Mss(n) => format!("mss {n}"),
        OptionSpec::WindowScale(n) => format!("wscale {n}"),
        OptionSpec::SackOk => "sackOK".into(),
        OptionSpec::Sack(blocks) => {
            let blocks: Vec<String> = blocks.iter().map(|(l, r)| format!("{l}:{r}")).collect();
            format!("sack {}", blocks.join(" "))
        }
        OptionSpec::Timestamp(value, echo) => format!("TS val {value} ecr {echo}"),
        OptionSpec::FastOpen { cookie, experimental } => {
            let name = if *experimental { "FOEXP" } else { "FO" };
            format!("{name} {}", hex(cookie)).trim_end().to_owned()
        }
        OptionSpec::Md5(digest) => format!("md5 {}", hex(digest)),
        OptionSpec::AccEcn { e1_first, counters } => {
            let order = if *e1_first { ["e1b", "ceb", "e0b"] } else { ["e0b", "ceb", "e1b"] };
            let fields = order.iter().zip(counters).map(|(n, c)| format!(" {n} {c}"));
            fields.fold("ECN".into(), |all, f| all + &f)
        }
        OptionSpec::Unknown(kind, body) => format!("opt {kind} {}", hex(body)),
    }
}

/// Any packet, with the marks of its IP header.
pub(crate) fn packet(p: &Packet) -> String {
    let mark = ["", "[ect1] ", "[ect0] ", "[ce] "][usize::from(p.traffic_class & 3)];
    let body = match &p.content {
        Content::Tcp(s) => segment(s),
        Content::Udp { ports, payload } => {
            format!("udp {}>{} ({})", ports.0, ports.1, payload.len())
        }
        Content::Icmp { kind, code, rest, .. } => {
            format!("icmp type {kind} code {code} rest {rest:#x}")
        }
        Content::Other(protocol) => format!("protocol {protocol}"),
    };
    format!("{mark}{body}")
}
