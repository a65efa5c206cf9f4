//! What controllers reach at 1 Gbit/s and 20 ms of round trip with random loss both ways, against
//! what theory says. The numbers are kept in `goodput.txt`; `WEFT_BLESS=1` writes them anew. They
//! may move by a few percent with any change of the stack, and not by more unless it is meant.
#![allow(missing_docs, clippy::unwrap_used)]

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use weft_sim::{HostSpec, LinkSpec, Net, Sink, Source};
use weft_stack::socket::tcp::CongestionControl;
use weft_stack::stack::TcpConfig;
use weft_stack::time::Duration;

const SERVER: &str = "10.0.0.2:80";
const RATE: u64 = 1_000_000_000;
const RTT: Duration = Duration::from_millis(20);
/// Payload of a full segment with timestamps.
const MSS: f64 = 1448.0;
/// What a segment takes of the rate: IP, TCP, timestamps, Ethernet.
const FRAME: f64 = MSS + 66.0;

/// Mbit/s of payload that arrive, after a start.
fn goodput(cc: CongestionControl, loss: f64, start: Duration, time: Duration) -> f64 {
    let mut net = Net::new(3);
    net.unchecked();
    let link = net.add_segment(LinkSpec {
        latency: RTT / 2,
        loss,
        rate: Some(RATE),
        // The path's volume.
        queue_bytes: 2_500_000,
        ..LinkSpec::default()
    });
    // Three times that, from the start: this is about congestion control, not about tuning.
    let buffers = 8 << 20;
    let tcp = TcpConfig { send_buffer: buffers, recv_buffer: buffers, ..TcpConfig::default() };
    let host = |name| HostSpec { tcp: tcp.clone(), ..HostSpec::named(name) };
    let client = net.add_host(host("client"));
    let server = net.add_host(host("server"));
    net.attach(client, link, &["10.0.0.1/24"]);
    net.attach(server, link, &["10.0.0.2/24"]);
    let sink = net.add_actor(server, Sink::new(SERVER.parse().unwrap()));
    net.add_actor(client, Source::new(SERVER.parse().unwrap(), cc));
    net.run_for(start);
    let before = net.progress(sink);
    net.run_for(time);
    (net.progress(sink) - before) as f64 * 8e-6 / time.as_secs_f64()
}

/// The response of a controller to random loss, in Mbit/s of payload.
fn theory(cc: CongestionControl, loss: f64) -> f64 {
    let rtt = RTT.as_secs_f64();
    let full = RATE as f64 * 1e-6 * MSS / FRAME * (1.0 - loss);
    let of_window = |segments: f64| (segments * MSS * 8e-6 / rtt).min(full);
    // RFC 5681 halves and adds one: RFC 9438 5.1 with Reno's constants.
    let reno = (1.5 / loss).sqrt();
    match cc {
        CongestionControl::Bbr => full,
        // RFC 9438 4.3, 5.1: never less than Reno.
        CongestionControl::Cubic => of_window(reno.max(1.054 * (rtt / loss).powf(0.75))),
        _ => of_window(reno),
    }
}

// RFC 9438 5.1
// RFC 9438 5.2
// draft-ietf-ccwg-bbr 2.5
#[test]
fn goodput_under_random_loss_is_four_fifths_of_theory_or_more() {
    let seconds = Duration::from_secs;
    let cases = [
        (CongestionControl::NewReno, 0.01, seconds(2), seconds(60)),
        (CongestionControl::Cubic, 0.01, seconds(2), seconds(60)),
        (CongestionControl::Cubic, 0.001, seconds(5), seconds(30)),
        // A hundred times the segments per second, and a hundred times the losses.
        (CongestionControl::Bbr, 0.01, seconds(1), seconds(2)),
    ];
    let mut table = String::from("Goodput at 1 Gbit/s, 20 ms round trip, payload in Mbit/s\n\n");
    let _ = writeln!(table, "{:8}{:>8}{:>10}{:>10}{:>7}", "control", "loss", "theory", "seen", "%");
    for (cc, loss, start, time) in cases {
        let (model, seen) = (theory(cc, loss), goodput(cc, loss, start, time));
        let percent = seen * 100.0 / model;
        let _ = writeln!(
            table,
            "{:8}{:>7}%{model:>10.1}{seen:>10.1}{percent:>7.0}",
            cc.name(),
            loss * 100.0
        );
        assert!(percent >= 80.0, "{table}");
    }
    println!("{table}");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goodput.txt");
    if std::env::var_os("WEFT_BLESS").is_some() {
        fs::write(&path, &table).unwrap();
    }
    let kept = seen(&fs::read_to_string(&path).unwrap_or_default());
    let now = seen(&table);
    let same =
        kept.len() == now.len() && kept.iter().zip(&now).all(|(k, n)| (n / k - 1.0).abs() < 0.08);
    assert!(
        same,
        "{table}\nif this is meant: WEFT_BLESS=1 cargo test --profile sim -p weft-sim --test goodput"
    );
}

/// The column of measured numbers.
fn seen(table: &str) -> Vec<f64> {
    table.lines().filter_map(|l| l.split_whitespace().nth(3)?.parse().ok()).collect()
}
