//! Sockets as people read them: the columns and words of `ss`.

use std::fmt::Write as _;

use super::{SocketLine, SocketSummary, TcpLine};
use crate::stats::table::{Align, Table};

/// What is shown of each socket beside its line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Details {
    /// A column with the vserver.
    pub vserver: bool,
    /// A connection's inner state, on a line of its own (`-i`).
    pub info: bool,
    /// Timers (`-o`).
    pub timers: bool,
    /// Memory (`-m`).
    pub memory: bool,
    /// Alias and owner (`-e`).
    pub extended: bool,
}

/// Sockets as a table with what else is asked for; `header`: its first line, in bold if `bold`.
pub fn render(found: &[SocketLine], details: Details, header: bool, bold: bool) -> String {
    let (left, right) = (Align::Left, Align::Right);
    let mut columns = vec![
        ("NETID", left),
        ("STATE", left),
        ("RECV-Q", right),
        ("SEND-Q", right),
        ("LOCAL", left),
        ("PEER", left),
    ];
    if details.vserver {
        columns.insert(0, ("VSERVER", left));
    }
    let mut table = Table::new(&columns);
    for s in found {
        let mut cells = vec![
            s.protocol.clone(),
            s.state.clone(),
            s.recv_queue.to_string(),
            s.send_queue.to_string(),
            s.local.clone(),
            s.peer.clone(),
        ];
        if details.vserver {
            cells.insert(0, s.vserver.clone());
        }
        table.row(cells);
    }
    let text = table.render(bold);
    let mut lines = text.lines();
    let mut out = String::new();
    let first = lines.next().filter(|_| header);
    out.extend(first.into_iter().flat_map(|line| [line, "\n"]));
    for (line, s) in lines.zip(found) {
        out.push_str(line);
        more(&mut out, s, details);
        out.push('\n');
    }
    out
}

/// What follows a socket's columns.
fn more(out: &mut String, s: &SocketLine, details: Details) {
    // Writing to a String cannot fail.
    if let Some(t) = s.timer.as_ref().filter(|_| details.timers) {
        let _ = write!(out, "  timer:({},{},{})", t.kind, time(t.left_ms), t.retries);
    }
    if details.extended {
        let alias = s.alias.as_deref().unwrap_or("*");
        let owner = if s.owned { "application" } else { "none" };
        let _ = write!(out, "  alias:{alias} owner:{owner}");
    }
    if details.memory {
        let m = &s.memory;
        let _ = write!(
            out,
            "\n\tskmem:(r{},rb{},t{},tb{},d{})",
            m.recv_held_bytes, m.recv_limit_bytes, m.send_held_bytes, m.send_limit_bytes, m.drops
        );
    }
    if let Some(tcp) = s.tcp.as_ref().filter(|_| details.info) {
        let gap = if details.memory { " " } else { "\n\t" };
        let _ = write!(out, "{gap}{}", words(tcp));
    }
}

/// A time left, as `ss` has it.
fn time(ms: u64) -> String {
    let (min, sec, ms) = (ms / 60_000, ms / 1000 % 60, ms % 1000);
    match (min, sec) {
        (0, 0) => format!("{ms}ms"),
        // Below ten seconds parts count.
        (0, 0..10) => format!("{}sec", short(sec as f64 + ms as f64 / 1000.0)),
        (0, _) => format!("{sec}sec"),
        (_, 0) => format!("{min}min"),
        _ => format!("{min}min{sec}sec"),
    }
}

/// Bytes per second as bits, with three digits or more.
fn rate(bytes_per_second: u64) -> String {
    let bits = bytes_per_second as f64 * 8.0;
    let (value, unit) = match bits {
        b if b >= 1e9 => (b / 1e9, "Gbps"),
        b if b >= 1e6 => (b / 1e6, "Mbps"),
        b if b >= 1e3 => (b / 1e3, "Kbps"),
        b => (b, "bps"),
    };
    format!("{}{unit}", short(value))
}

/// With at most three decimals.
fn short(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn ms(us: u64) -> String {
    short(us as f64 / 1000.0)
}

/// A connection's inner state in the words and order of `ss -i`. Windows are in segments.
fn words(t: &TcpLine) -> String {
    let mut out: Vec<String> = Vec::new();
    agreed(t, &mut out);
    timing(t, &mut out);
    let count = |out: &mut Vec<String>, name: &str, n: u64| {
        if n > 0 {
            out.push(format!("{name}:{n}"));
        }
    };
    for (name, n) in [
        ("bytes_sent", t.bytes_sent),
        ("bytes_retrans", t.bytes_retransmitted),
        ("bytes_acked", t.bytes_acked),
        ("bytes_received", t.bytes_received),
        ("bytes_ce", t.bytes_ce),
        ("segs_out", t.segments_sent),
        ("segs_in", t.segments_received),
    ] {
        count(&mut out, name, n);
    }
    if let Some(per_second) = (t.cwnd_bytes as u64 * 1_000_000).checked_div(t.rtt_us) {
        out.push(format!("send {}", rate(per_second)));
    }
    count(&mut out, "lastsnd", t.last_sent_us / 1000);
    count(&mut out, "lastrcv", t.last_received_us / 1000);
    if let Some(pacing) = t.pacing_rate_bytes_per_second {
        out.push(format!("pacing_rate {}", rate(pacing)));
    }
    if t.delivery_rate_bytes_per_second > 0 {
        out.push(format!("delivery_rate {}", rate(t.delivery_rate_bytes_per_second)));
    }
    if t.delivery_rate_app_limited {
        out.push(String::from("app_limited"));
    }
    limited(t, &mut out);
    let segments = |bytes: usize| bytes.div_ceil(t.mss_bytes.max(1)) as u64;
    count(&mut out, "unacked", segments(t.in_flight_bytes));
    retransmits(t, &mut out);
    count(&mut out, "lost", segments(t.lost_bytes));
    count(&mut out, "sacked", segments(t.sacked_bytes));
    count(&mut out, "dsack_dups", t.dsacks);
    count(&mut out, "undone", t.undos);
    count(&mut out, "reord_seen", t.reordering_seen);
    count(&mut out, "rcv_ooopack", t.out_of_order_bytes as u64);
    out.push(format!("rcv_space:{}", t.recv_buffer_bytes));
    out.push(format!("rcv_wnd:{}", t.recv_window_bytes));
    out.push(format!("snd_wnd:{}", t.send_window_bytes));
    count(&mut out, "notsent", t.unsent_bytes as u64);
    if t.rtt_min_us > 0 {
        out.push(format!("minrtt:{}", ms(t.rtt_min_us)));
    }
    out.join(" ")
}

/// What both sides agreed on.
fn agreed(t: &TcpLine, out: &mut Vec<String>) {
    for (name, on) in [
        ("ts", t.timestamps),
        ("sack", t.sack),
        ("ecn", t.ecn == "classic"),
        ("accecn", t.ecn == "accurate"),
        ("fastopen", t.fast_open),
    ] {
        if on {
            out.push(name.to_owned());
        }
    }
    out.push(t.congestion.clone());
    if t.phase != "open" {
        out.push(format!("phase:{}", t.phase));
    }
    if let Some((peer, ours)) = t.window_scale {
        out.push(format!("wscale:{peer},{ours}"));
    }
}

/// Times and sizes.
fn timing(t: &TcpLine, out: &mut Vec<String>) {
    out.push(format!("rto:{}", ms(t.rto_us)));
    if t.backoff > 0 {
        out.push(format!("backoff:{}", t.backoff));
    }
    if t.rtt_us > 0 {
        out.push(format!("rtt:{}/{}", ms(t.rtt_us), ms(t.rtt_var_us)));
    }
    out.push(format!("mss:{} pmtu:{} rcvmss:{}", t.mss_bytes, t.pmtu_bytes, t.recv_mss_bytes));
    let mss = t.mss_bytes.max(1);
    out.push(format!("cwnd:{}", t.cwnd_bytes / mss));
    if let Some(ssthresh) = t.ssthresh_bytes {
        out.push(format!("ssthresh:{}", ssthresh / mss));
    }
}

/// Where the time went.
fn limited(t: &TcpLine, out: &mut Vec<String>) {
    if t.busy_us == 0 {
        return;
    }
    out.push(format!("busy:{}ms", t.busy_us / 1000));
    let parts = [("rwnd_limited", t.rwnd_limited_us), ("sndbuf_limited", t.sndbuf_limited_us)];
    for (name, us) in parts {
        if us > 0 {
            let percent = us as f64 * 100.0 / t.busy_us as f64;
            out.push(format!("{name}:{}ms({percent:.1}%)", us / 1000));
        }
    }
}

/// All retransmissions, with their causes.
fn retransmits(t: &TcpLine, out: &mut Vec<String>) {
    if t.retransmits() == 0 {
        return;
    }
    let causes: Vec<String> = [
        ("fast", t.retransmits_fast),
        ("tlp", t.retransmits_tail_probe),
        ("rto", t.retransmits_timeout),
        ("syn", t.retransmits_handshake),
        ("pmtu", t.retransmits_path_mtu),
    ]
    .into_iter()
    .filter(|(_, n)| *n > 0)
    .map(|(name, n)| format!("{name}:{n}"))
    .collect();
    out.push(format!("retrans:{}({})", t.retransmits(), causes.join(",")));
}

/// `ss -s`: how many sockets of what kind.
pub fn summary(s: &SocketSummary) -> String {
    let tcp = |state: &str| s.tcp_states.get(state).copied().unwrap_or(0);
    let all = s.protocols.values().map(|p| p.ipv4 + p.ipv6).sum::<u64>();
    let of = |protocol: &str| s.protocols.get(protocol).map_or((0, 0), |p| (p.ipv4, p.ipv6));
    let tcp_all = of("tcp").0 + of("tcp").1;
    let mut out = format!(
        "Total: {all}\nTCP:   {tcp_all} (estab {}, listen {}, synrecv {}, timewait {}, orphaned {})\n\n",
        tcp("ESTAB"),
        tcp("LISTEN"),
        tcp("SYN-RECV"),
        tcp("TIME-WAIT"),
        s.tcp_orphaned,
    );
    let columns = [
        ("TRANSPORT", Align::Left),
        ("TOTAL", Align::Right),
        ("IP", Align::Right),
        ("IPV6", Align::Right),
    ];
    let mut table = Table::new(&columns);
    for (name, p) in &s.protocols {
        let (v4, v6) = (p.ipv4, p.ipv6);
        table.row(vec![name.to_uppercase(), (v4 + v6).to_string(), v4.to_string(), v6.to_string()]);
    }
    out.push_str(&table.render(false));
    out
}

#[cfg(test)]
mod tests {
    use super::super::{MemoryLine, TimerLine};
    use super::*;

    fn line(state: &str, peer: &str) -> SocketLine {
        SocketLine {
            vserver: String::from("files"),
            protocol: String::from("tcp"),
            state: state.to_owned(),
            send_queue: 1024,
            local: String::from("[::]:80"),
            peer: peer.to_owned(),
            owned: true,
            ..SocketLine::default()
        }
    }

    #[test]
    fn sockets_look_like_those_of_ss() {
        let found = [line("LISTEN", "[::]:0"), line("ESTAB", "10.0.0.1:4711")];
        let expected = "NETID  STATE   RECV-Q  SEND-Q  LOCAL    PEER\n\
                        tcp    LISTEN       0    1024  [::]:80  [::]:0\n\
                        tcp    ESTAB        0    1024  [::]:80  10.0.0.1:4711\n";
        assert_eq!(render(&found, Details::default(), true, false), expected);
        let rows = expected.split_once('\n').unwrap().1;
        assert_eq!(render(&found, Details::default(), false, false), rows);
        let with = Details { vserver: true, ..Details::default() };
        assert!(render(&found, with, true, false).starts_with("VSERVER  NETID"));
    }

    #[test]
    fn details_follow_in_the_words_of_ss() {
        let mut s = line("ESTAB", "10.0.0.1:4711");
        s.alias = Some(String::from("data0"));
        s.timer = Some(TimerLine { kind: String::from("on"), left_ms: 200, retries: 1 });
        s.memory = MemoryLine {
            recv_limit_bytes: 131_072,
            send_held_bytes: 1024,
            send_limit_bytes: 87_040,
            ..MemoryLine::default()
        };
        s.tcp = Some(Box::new(TcpLine {
            congestion: String::from("cubic"),
            phase: String::from("open"),
            window_scale: Some((7, 7)),
            rto_us: 204_000,
            rtt_us: 500,
            rtt_var_us: 250,
            rtt_min_us: 400,
            mss_bytes: 1448,
            pmtu_bytes: 1500,
            recv_mss_bytes: 536,
            cwnd_bytes: 14_480,
            ssthresh_bytes: Some(7 * 1448),
            bytes_sent: 3000,
            retransmits_fast: 2,
            retransmits_timeout: 1,
            busy_us: 10_000,
            rwnd_limited_us: 2_500,
            sack: true,
            ecn: String::from("accurate"),
            pacing_rate_bytes_per_second: Some(34_750_000),
            ..TcpLine::default()
        }));
        let all =
            Details { info: true, timers: true, memory: true, extended: true, vserver: false };
        assert_eq!(
            render(&[s], all, false, false),
            "tcp    ESTAB       0    1024  [::]:80  10.0.0.1:4711  timer:(on,200ms,1)  alias:data0 \
             owner:application\n\
             \tskmem:(r0,rb131072,t1024,tb87040,d0) sack accecn cubic wscale:7,7 rto:204 rtt:0.5/0.25 mss:1448 pmtu:1500 rcvmss:536 \
             cwnd:10 ssthresh:7 bytes_sent:3000 send 231.68Mbps pacing_rate 278Mbps busy:10ms \
             rwnd_limited:2ms(25.0%) retrans:3(fast:2,rto:1) rcv_space:0 rcv_wnd:0 snd_wnd:0 \
             minrtt:0.4\n"
        );
    }

    #[test]
    fn times_left_are_short() {
        let told: Vec<_> = [0, 200, 1_500, 12_345, 60_000, 119_999].into_iter().map(time).collect();
        assert_eq!(told, ["0ms", "200ms", "1.5sec", "12sec", "1min", "1min59sec"]);
    }
}
