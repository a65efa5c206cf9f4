//! Two stacks with applications; the bytes decide what becomes of each packet between them.

use std::net::SocketAddr;

use weft_sim::{Fate, Fates, Fault, HostSpec, LinkSpec, Manner, Medium, Net, Peer, Role, topology};
use weft_stack::socket::tcp::{CongestionControl, TcpOption};
use weft_stack::stack::{EcnMode, FastOpen, MtuProbing, SynCookies, TcpConfig};
use weft_stack::time::{Duration, Instant};

/// Bytes of the beginning that say what is built; the rest are fates.
const HEAD: usize = 16;

/// Every byte is the fate of a packet; when there are none left all packets pass.
struct Bytes {
    bytes: Vec<u8>,
    next: usize,
}

impl Bytes {
    fn take(&mut self) -> Option<u8> {
        let byte = self.bytes.get(self.next).copied();
        self.next += 1;
        byte
    }
}

impl Fates for Bytes {
    fn fate(&mut self, now: Instant, header: usize, frame: &mut Vec<u8>) -> Fate {
        let soon = now + Duration::from_millis(1);
        let Some(byte) = self.take() else { return Fate::At(soon) };
        let more = u64::from(byte >> 3);
        match byte & 7 {
            0..=2 => Fate::At(soon),
            3 => Fate::At(now + Duration::from_millis(1 + more * more)),
            4 | 5 => Fate::Lost,
            6 => Fate::Twice(soon, soon + Duration::from_millis(more * 20)),
            _ => {
                let place = usize::from(self.take().unwrap_or(0)) << 1 | usize::from(byte >> 7);
                let ip = frame.len().saturating_sub(header);
                if ip > 0 {
                    frame[header + place % ip] ^= 1 << (byte >> 4 & 7);
                }
                Fate::At(soon)
            }
        }
    }
}

fn tcp(a: u8, b: u8, c: u8) -> TcpConfig {
    let of = |list: [usize; 4], bits: u8| list[usize::from(bits & 3)];
    TcpConfig {
        send_buffer: of([2_048, 16_000, 64_000, 1 << 20], a),
        recv_buffer: of([2_048, 8_000, 64_000, 1 << 20], a >> 2),
        rto_ms_min: [10, 50, 200, 1000][usize::from(a >> 4 & 3)],
        delayed_ack_ms: [1, 40, 40, 200][usize::from(a >> 6)],
        congestion: CongestionControl::ALL[usize::from(b & 3)],
        ecn: [EcnMode::Off, EcnMode::Accept, EcnMode::Classic, EcnMode::Accurate]
            [usize::from(b >> 2 & 3)],
        fast_open: if b & 16 == 0 { FastOpen::Off } else { FastOpen::Both },
        syn_cookies: if b & 32 == 0 { SynCookies::Pressure } else { SynCookies::Always },
        mtu_probing: [MtuProbing::Off, MtuProbing::BlackHole, MtuProbing::Always, MtuProbing::Off]
            [usize::from(b >> 6)],
        pacing: c & 1 == 0,
        time_wait_s: 1,
        ..TcpConfig::default()
    }
}

fn manner(a: u8, b: u8) -> Manner {
    let ms = Duration::from_millis(u64::from(b) * 8);
    let n = u64::from(b) * 64;
    let mut m = Manner { forgiving: true, ..Manner::default() };
    match a & 7 {
        1 => m.read_pause = Some(ms),
        2 => m.read_stall = Some((n, Duration::from_secs(4))),
        3 => m.write_pieces = Some((1 + n, Duration::from_millis(3))),
        4 => m.abort_after = Some(n),
        5 => m.close_after = Some(n),
        _ => {}
    }
    if a & 8 != 0 {
        m.options.push(TcpOption::NoDelay(true));
    }
    if a & 16 != 0 {
        m.options.push(TcpOption::KeepAlive(Some((ms, ms, 3))));
    }
    if a & 32 != 0 {
        m.options.push(TcpOption::UserTimeout(Some(ms * 16)));
    }
    m
}

/// The first sixteen bytes say what hosts, connections and clocks are like; each that follows is the
/// fate of one packet: it passes, is late, lost, doubled, or one bit of it flips.
///
/// # Panics
/// If a byte of a stream is wrong, a rule of the wire is broken, an invariant does not hold, or
/// anything is held in the end.
pub fn two_stacks(data: &[u8]) {
    let Some((head, fates)) = data.split_first_chunk::<HEAD>() else { return };
    let mut net = Net::new(u64::from(head[0]));
    let mut nth = 0;
    let (of_left, of_right) = (tcp(head[1], head[2], head[3]), tcp(head[4], head[5], head[6]));
    net.vary_template(move |_, spec: &mut HostSpec| {
        nth += 1;
        spec.tcp = if nth == 1 { of_left.clone() } else { of_right.clone() };
        spec.frames = 256;
    });
    let medium = if head[3] & 2 == 0 { Medium::Ethernet } else { Medium::Ip };
    let mtu = [1280, 1500, 1500, 9000][usize::from(head[3] >> 2 & 3)];
    let offload = head[3] & 16 != 0;
    let pair = topology::pair(&mut net, LinkSpec { medium, mtu, offload, ..LinkSpec::default() });
    // Addresses are ready, neighbours known or not.
    net.run_for(Duration::from_secs(3));
    net.set_fates(Bytes { bytes: fates.to_vec(), next: 0 });
    let v6 = head[3] & 32 != 0;
    for number in 0..=u64::from(head[6] >> 7) {
        let remote = SocketAddr::new(net.address(pair.right, 0, v6), 1000 + number as u16);
        let (up, down) = (u64::from(head[7]) * 97, u64::from(head[8]) * 97);
        let server = Peer::new(Role::Server(remote), 1, 2).sending(down).expecting(up);
        net.add_actor(pair.right, server.behaving(manner(head[9], head[10])));
        let client = Peer::new(Role::Client(remote), 2, 1).sending(up).expecting(down);
        net.add_actor(pair.left, client.behaving(manner(head[11], head[12])));
    }
    let time = Duration::from_millis(u64::from(head[14]) * 16);
    match head[13] & 7 {
        1 => net.at(time, Fault::ClockStall(pair.left, time)),
        2 => net.at(time, Fault::ClockLeap(pair.right, time * 4)),
        3 => {
            net.at(time, Fault::SeizeFrames(pair.right, 1000));
            net.at(time * 2, Fault::ReleaseFrames(pair.right));
        }
        _ => {}
    }
    net.run_until(Duration::from_mins(10), Net::all_done);
    net.check_at_rest().unwrap_or_else(|e| panic!("{e}"));
}
