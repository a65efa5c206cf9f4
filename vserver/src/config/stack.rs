//! `limits` and `tcp` of a vserver.

use weft_stack::socket::tcp::CongestionControl;
use weft_stack::stack::{EcnMode, FastOpen, Limits, MtuProbing, SynCookies, TcpConfig};

use super::diagnostic::Report;
use super::reader::Section;

/// Reads integers into fields of the same name.
macro_rules! integers {
    ($report:expr, $section:expr, $target:expr, $( $field:ident: $range:expr, )*) => {
        $( if let Some(v) = $section.integer($report, stringify!($field), $range) {
            $target.$field = v.value as _;
        } else {
            $section.default($report, stringify!($field), &$target.$field);
        } )*
    };
}

/// `limits` and `tcp`.
pub(super) fn read_stack(report: &mut Report, s: &mut Section) -> (Limits, TcpConfig) {
    let part = s.table_or_empty(report, "limits");
    let limits = read_limits(report, part);
    let part = s.table_or_empty(report, "tcp");
    (limits, read_tcp(report, part))
}

fn read_limits(report: &mut Report, mut s: Section) -> Limits {
    let mut l = Limits::default();
    integers!(report, s, l,
        neighbours: 1..=1_048_576,
        neighbour_queue: 1..=1024,
        reassemblies: 1..=65_536,
        reassembly_bytes: 65_536..=1_073_741_824,
        routes: 1..=4_194_304,
        rules: 0..=65_536,
        addresses: 1..=65_536,
        groups: 1..=65_536,
        pmtu: 1..=1_048_576,
        tcp_connections: 1..=16_777_216,
        tcp_half_open: 1..=1_048_576,
        tcp_fast_open: 0..=65_536,
        tcp_listeners: 1..=65_536,
        tcp_bytes: 65_536..=1_099_511_627_776,
        access_states: 1..=1_048_576,
        udp_sockets: 1..=65_536,
        udp_recv_bytes: 2048..=1_073_741_824,
        raw_sockets: 0..=65_536,
        icmp_sockets: 0..=65_536,
        raw_recv_bytes: 2048..=1_073_741_824,
        app_frames: 0..=16_777_216,
        service_timers: 16..=16_777_216,
        out_queue: 16..=65_536,
        icmp_errors_per_second: 0..=1_000_000,
        tcp_resets_per_second: 0..=100_000_000,
        input_frames: 16..=65_536,
        round_us: 1..=100_000,
        weight: 1..=10_000,
    );
    s.finish(report);
    l
}

/// Reads words into fields of the same name.
macro_rules! choices {
    ($report:expr, $section:expr, $target:expr, $( $field:ident: [$( $word:literal => $value:expr ),*], )*) => {
        $( if let Some(v) = $section.choice($report, stringify!($field), &[$( ($word, $value) ),*]) {
            $target.$field = v.value;
        } else {
            let words = [$( ($word, $value) ),*];
            let word = words.iter().find(|(_, v)| *v == $target.$field).map_or("", |(w, _)| w);
            $section.default($report, stringify!($field), &format_args!("{word:?}"));
        } )*
    };
}

fn read_tcp(report: &mut Report, mut s: Section) -> TcpConfig {
    let mut t = TcpConfig::default();
    integers!(report, s, t,
        send_buffer: 4096..=1_073_741_824,
        send_buffer_max: 4096..=1_073_741_824,
        recv_buffer: 4096..=1_073_741_824,
        recv_buffer_max: 4096..=1_073_741_824,
        rto_ms_min: 1..=60_000,
        time_wait_s: 0..=240,
        delayed_ack_ms: 0..=499,
        quick_acks: 0..=255,
    );
    choices!(report, s, t,
        congestion: [
            "reno" => CongestionControl::NewReno,
            "cubic" => CongestionControl::Cubic,
            "bbr" => CongestionControl::Bbr,
            "dctcp" => CongestionControl::Dctcp
        ],
        ecn: [
            "off" => EcnMode::Off,
            "accept" => EcnMode::Accept,
            "classic" => EcnMode::Classic,
            "accurate" => EcnMode::Accurate
        ],
        fast_open: [
            "off" => FastOpen::Off,
            "client" => FastOpen::Client,
            "server" => FastOpen::Server,
            "both" => FastOpen::Both
        ],
        syn_cookies: [
            "off" => SynCookies::Off,
            "pressure" => SynCookies::Pressure,
            "always" => SynCookies::Always
        ],
        mtu_probing: [
            "off" => MtuProbing::Off,
            "black-hole" => MtuProbing::BlackHole,
            "always" => MtuProbing::Always
        ],
    );
    let o = &mut t.offers;
    for (key, on) in [
        ("pacing", &mut t.pacing),
        ("timestamps", &mut o.timestamps),
        ("sack", &mut o.sack),
        ("window_scaling", &mut o.window_scaling),
    ] {
        if let Some(v) = s.boolean(report, key) {
            *on = v.value;
        } else {
            s.default(report, key, on);
        }
    }
    s.finish(report);
    t
}
