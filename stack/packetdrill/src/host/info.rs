//! `struct tcp_info` of Linux from a connection's dump.

use weft_stack::socket::tcp::{EcnState, TcpInfo, TcpState};
use weft_stack::stats::Mib;

/// A field: name, bytes, value.
pub(crate) type Field = (&'static str, usize, u64);

fn state(state: TcpState) -> u64 {
    match state {
        TcpState::Established => 1,
        TcpState::SynSent => 2,
        TcpState::SynReceived => 3,
        TcpState::FinWait1 => 4,
        TcpState::FinWait2 => 5,
        TcpState::TimeWait => 6,
        TcpState::Closed => 7,
        TcpState::CloseWait => 8,
        TcpState::LastAck => 9,
        TcpState::Listen => 10,
        TcpState::Closing => 11,
    }
}

/// `tcpi_options`.
fn options(i: &TcpInfo) -> u64 {
    u64::from(i.timestamps)
        | u64::from(i.sack) << 1
        | u64::from(i.window_scale.is_some()) << 2
        | u64::from(i.ecn != EcnState::Off) << 3
        | u64::from(i.bytes_ce > 0) << 4
        | u64::from(i.fast_open) << 5
}

fn ca_state(i: &TcpInfo) -> u64 {
    match i.phase {
        "recovery" => 3,
        "loss" => 4,
        _ => u64::from(i.sacked > 0),
    }
}

/// The fields in the order and sizes of the kernel's structure. What the stack does not count is 0.
pub(crate) fn tcp_info_fields(i: &TcpInfo) -> Vec<Field> {
    let segments = |bytes: usize| bytes.div_ceil(i.mss.max(1)) as u64;
    let us = |d: std::time::Duration| d.as_micros() as u64;
    let ms = |d: std::time::Duration| d.as_millis() as u64;
    let ssthresh =
        if i.ssthresh == usize::MAX { 0x7fff_ffff } else { (i.ssthresh / i.mss.max(1)) as u64 };
    let (snd_scale, rcv_scale) = i.window_scale.unwrap_or_default();
    let scales = u64::from(snd_scale) | u64::from(rcv_scale) << 4;
    vec![
        ("tcpi_state", 1, state(i.state)),
        ("tcpi_ca_state", 1, ca_state(i)),
        ("tcpi_retransmits", 1, u64::from(i.backoff)),
        ("tcpi_probes", 1, 0),
        ("tcpi_backoff", 1, u64::from(i.backoff)),
        ("tcpi_options", 1, options(i)),
        ("tcpi_wscales", 1, scales),
        ("tcpi_flags", 1, u64::from(i.delivery_rate_app_limited)),
        ("tcpi_rto", 4, us(i.rto)),
        ("tcpi_ato", 4, 0),
        ("tcpi_snd_mss", 4, i.mss as u64),
        ("tcpi_rcv_mss", 4, i.recv_mss as u64),
        ("tcpi_unacked", 4, segments(i.in_flight)),
        ("tcpi_sacked", 4, segments(i.sacked)),
        ("tcpi_lost", 4, segments(i.lost)),
        ("tcpi_retrans", 4, 0),
        ("tcpi_fackets", 4, 0),
        ("tcpi_last_data_sent", 4, ms(i.last_sent)),
        ("tcpi_last_ack_sent", 4, 0),
        ("tcpi_last_data_recv", 4, ms(i.last_received)),
        ("tcpi_last_ack_recv", 4, ms(i.last_received)),
        ("tcpi_pmtu", 4, i.pmtu as u64),
        ("tcpi_rcv_ssthresh", 4, i.recv_window as u64),
        ("tcpi_rtt", 4, us(i.rtt)),
        ("tcpi_rttvar", 4, us(i.rtt_var)),
        ("tcpi_snd_ssthresh", 4, ssthresh),
        ("tcpi_snd_cwnd", 4, (i.cwnd / i.mss.max(1)) as u64),
        ("tcpi_advmss", 4, i.mss as u64),
        ("tcpi_reordering", 4, 3),
        ("tcpi_rcv_rtt", 4, 0),
        ("tcpi_rcv_space", 4, i.recv_buffer as u64),
        ("tcpi_total_retrans", 4, i.retransmits.total()),
        ("tcpi_pacing_rate", 8, i.pacing_rate.unwrap_or(u64::MAX)),
        ("tcpi_max_pacing_rate", 8, u64::MAX),
        ("tcpi_bytes_acked", 8, i.bytes_acked),
        ("tcpi_bytes_received", 8, i.bytes_received),
        ("tcpi_segs_out", 4, i.segments_sent),
        ("tcpi_segs_in", 4, i.segments_received),
        ("tcpi_notsent_bytes", 4, i.unsent as u64),
        ("tcpi_min_rtt", 4, us(i.rtt_min)),
        ("tcpi_data_segs_in", 4, 0),
        ("tcpi_data_segs_out", 4, 0),
        ("tcpi_delivery_rate", 8, i.delivery_rate),
        ("tcpi_busy_time", 8, us(i.busy)),
        ("tcpi_rwnd_limited", 8, us(i.rwnd_limited)),
        ("tcpi_sndbuf_limited", 8, us(i.sndbuf_limited)),
        ("tcpi_delivered", 4, segments(i.bytes_acked as usize)),
        ("tcpi_delivered_ce", 4, segments(i.bytes_ce as usize)),
        ("tcpi_bytes_sent", 8, i.bytes_sent),
        ("tcpi_bytes_retrans", 8, i.bytes_retransmitted),
        ("tcpi_dsack_dups", 4, i.dsacks),
        ("tcpi_reord_seen", 4, i.reordering_seen),
        ("tcpi_rcv_ooopack", 4, 0),
        ("tcpi_snd_wnd", 4, i.send_window as u64),
        ("tcpi_rcv_wnd", 4, i.recv_window as u64),
        ("tcpi_rehash", 4, 0),
        ("tcpi_total_rto", 2, i.retransmits.timeout),
        ("tcpi_total_rto_recoveries", 2, 0),
        ("tcpi_total_rto_time", 4, 0),
    ]
}

/// The structure's bytes, zeroed to the size that newer kernels have.
pub fn tcp_info_bytes(info: &TcpInfo, _stats: &Mib) -> Vec<u8> {
    let mut out = Vec::with_capacity(280);
    for (_, bytes, value) in tcp_info_fields(info) {
        out.resize(out.len().next_multiple_of(bytes), 0);
        out.extend(&value.to_ne_bytes()[..bytes]);
    }
    out.resize(280, 0);
    out
}

/// Names that assertions may use: every field, and those that the structure keeps in bits.
pub(crate) fn names(info: &TcpInfo) -> Vec<(&'static str, i128)> {
    let fields = tcp_info_fields(info);
    let mut names: Vec<_> = fields.iter().map(|(n, _, v)| (*n, i128::from(*v))).collect();
    let (snd, rcv) = info.window_scale.unwrap_or_default();
    names.push(("tcpi_snd_wscale", i128::from(snd)));
    names.push(("tcpi_rcv_wscale", i128::from(rcv)));
    names.push(("tcpi_delivery_rate_app_limited", i128::from(info.delivery_rate_app_limited)));
    names.push(("tcpi_undos", i128::from(info.undos)));
    names.push(("tcpi_cwnd_bytes", info.cwnd as i128));
    names.push(("tcpi_lost_bytes", info.lost as i128));
    names.push(("tcpi_tlp_retrans", i128::from(info.retransmits.tail_probe)));
    names.push(("tcpi_fast_retrans", i128::from(info.retransmits.fast)));
    names.push(("tcpi_ecn_mode", info.ecn as i128));
    names.push(("TCPI_OPT_TIMESTAMPS", 1));
    names.push(("TCPI_OPT_SACK", 2));
    names.push(("TCPI_OPT_WSCALE", 4));
    names.push(("TCPI_OPT_ECN", 8));
    names.push(("TCPI_OPT_ECN_SEEN", 16));
    names.push(("TCPI_OPT_SYN_DATA", 32));
    for (i, name) in ["Open", "Disorder", "CWR", "Recovery", "Loss"].into_iter().enumerate() {
        names.push((CA_NAMES[i], i as i128));
        debug_assert!(CA_NAMES[i].ends_with(name), "the names are in order");
    }
    names.extend(STATE_NAMES.iter().zip(1..).map(|(n, v)| (*n, v)));
    names
}

const CA_NAMES: [&str; 5] =
    ["TCP_CA_Open", "TCP_CA_Disorder", "TCP_CA_CWR", "TCP_CA_Recovery", "TCP_CA_Loss"];
const STATE_NAMES: [&str; 11] = [
    "TCP_ESTABLISHED",
    "TCP_SYN_SENT",
    "TCP_SYN_RECV",
    "TCP_FIN_WAIT1",
    "TCP_FIN_WAIT2",
    "TCP_TIME_WAIT",
    "TCP_CLOSE",
    "TCP_CLOSE_WAIT",
    "TCP_LAST_ACK",
    "TCP_LISTEN",
    "TCP_CLOSING",
];
