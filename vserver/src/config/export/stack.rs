//! `limits` and `tcp` as a file has them.

use weft_stack::socket::tcp::CongestionControl;
use weft_stack::stack::{EcnMode, FastOpen, Limits, MtuProbing, Offers, SynCookies, TcpConfig};

use super::Writer;

/// Writes fields under their own names.
macro_rules! fields {
    ($w:expr, $from:expr, $default:expr, $( $field:ident ),* $(,)?) => {
        $( $w.unless(stringify!($field), &$from.$field, &$default.$field); )*
    };
}

pub(super) fn write_limits(w: &mut Writer, vserver: &str, limits: &Limits) {
    let default = Limits::default();
    if !w.all && *limits == default {
        return;
    }
    w.table(&format!("[vserver.{vserver}.limits]"));
    fields!(
        w,
        limits,
        default,
        neighbours,
        neighbour_queue,
        reassemblies,
        reassembly_bytes,
        routes,
        rules,
        addresses,
        groups,
        pmtu,
        tcp_connections,
        tcp_half_open,
        tcp_fast_open,
        tcp_listeners,
        tcp_bytes,
        access_states,
        udp_sockets,
        udp_recv_bytes,
        raw_sockets,
        icmp_sockets,
        raw_recv_bytes,
        app_frames,
        out_queue,
        icmp_errors_per_second,
        tcp_resets_per_second,
        service_timers,
        input_frames,
        round_us,
        weight,
    );
}

pub(super) fn write_tcp(w: &mut Writer, vserver: &str, tcp: &TcpConfig) {
    let default = TcpConfig::default();
    if !w.all && *tcp == default {
        return;
    }
    w.table(&format!("[vserver.{vserver}.tcp]"));
    fields!(
        w,
        tcp,
        default,
        send_buffer,
        send_buffer_max,
        recv_buffer,
        recv_buffer_max,
        rto_ms_min,
        time_wait_s,
        delayed_ack_ms,
        quick_acks,
    );
    let Offers { timestamps, sack, window_scaling } = tcp.offers;
    let offers = default.offers;
    w.unless("timestamps", &timestamps, &offers.timestamps);
    w.unless("sack", &sack, &offers.sack);
    w.unless("window_scaling", &window_scaling, &offers.window_scaling);
    w.word("congestion", &tcp.congestion, &default.congestion, |c| match c {
        CongestionControl::NewReno => "reno",
        CongestionControl::Cubic => "cubic",
        CongestionControl::Bbr => "bbr",
        CongestionControl::Dctcp => "dctcp",
    });
    w.unless("pacing", &tcp.pacing, &default.pacing);
    w.word("ecn", &tcp.ecn, &default.ecn, |e| match e {
        EcnMode::Off => "off",
        EcnMode::Accept => "accept",
        EcnMode::Classic => "classic",
        EcnMode::Accurate => "accurate",
    });
    w.word("fast_open", &tcp.fast_open, &default.fast_open, |f| match f {
        FastOpen::Off => "off",
        FastOpen::Client => "client",
        FastOpen::Server => "server",
        FastOpen::Both => "both",
    });
    w.word("syn_cookies", &tcp.syn_cookies, &default.syn_cookies, |s| match s {
        SynCookies::Off => "off",
        SynCookies::Pressure => "pressure",
        SynCookies::Always => "always",
    });
    w.word("mtu_probing", &tcp.mtu_probing, &default.mtu_probing, |m| match m {
        MtuProbing::Off => "off",
        MtuProbing::BlackHole => "black-hole",
        MtuProbing::Always => "always",
    });
}
