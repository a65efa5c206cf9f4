//! Against a TCP that is not ours: smoltcp, in virtual time, over bad links, both ways.
#![allow(missing_docs, clippy::unwrap_used)]

use std::collections::VecDeque;
use std::net::IpAddr;

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium as SmolMedium, RxToken, TxToken};
use smoltcp::socket::tcp;
use smoltcp::time::Instant as SmolInstant;
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr, IpEndpoint};
use weft_sim::{
    Discipline, HostSpec, LinkSpec, Medium, Net, Peer, Role, Station, each_seed, stream_bytes,
};
use weft_stack::rng::Rng;
use weft_stack::socket::tcp::CongestionControl;
use weft_stack::stack::{EcnMode, FastOpen, MtuProbing, SynCookies, TcpConfig};
use weft_stack::time::{Duration, Instant};

const PORT: u16 = 80;

#[derive(Default)]
struct Queue {
    received: VecDeque<Vec<u8>>,
    sent: Vec<Vec<u8>>,
    mtu: usize,
}

struct Received(Vec<u8>);
struct Sent<'a>(&'a mut Vec<Vec<u8>>);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Sent<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut packet = vec![0; len];
        let result = f(&mut packet);
        self.0.push(packet);
        result
    }
}

impl Device for Queue {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sent<'a>;

    fn receive(&mut self, _: SmolInstant) -> Option<(Received, Sent<'_>)> {
        Some((Received(self.received.pop_front()?), Sent(&mut self.sent)))
    }

    fn transmit(&mut self, _: SmolInstant) -> Option<Sent<'_>> {
        Some(Sent(&mut self.sent))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut c = DeviceCapabilities::default();
        c.medium = SmolMedium::Ip;
        c.max_transmission_unit = self.mtu;
        c
    }
}

/// Sends the stream of one key, expects that of another, closes after both.
struct Smol {
    queue: Queue,
    interface: Interface,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    sent: u64,
    send_total: u64,
    received: u64,
    recv_total: u64,
    keys: (u64, u64),
    closed: bool,
    problem: Option<String>,
}

fn smol(at: Instant) -> SmolInstant {
    SmolInstant::from_micros(at.as_micros() as i64)
}

struct Plan {
    address: IpAddr,
    connect_to: Option<IpAddr>,
    mtu: usize,
    buffer: usize,
    up: u64,
    down: u64,
}

impl Smol {
    fn new(seed: u64, p: &Plan) -> Smol {
        let mut queue = Queue { mtu: p.mtu, ..Queue::default() };
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut interface = Interface::new(config, &mut queue, SmolInstant::ZERO);
        let prefix = if p.address.is_ipv4() { 24 } else { 64 };
        interface.update_ip_addrs(|all| {
            all.push(IpCidr::new(IpAddress::from(p.address), prefix)).unwrap();
        });
        let buffer = || tcp::SocketBuffer::new(vec![0; p.buffer]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        if seed.is_multiple_of(3) {
            socket.set_congestion_control(tcp::CongestionControl::Reno);
        }
        match p.connect_to {
            Some(remote) => {
                let remote = IpEndpoint::new(remote.into(), PORT);
                let local = 50_000 + (seed % 1000) as u16;
                socket.connect(interface.context(), remote, local).unwrap();
            }
            None => socket.listen(PORT).unwrap(),
        }
        let mut sockets = SocketSet::new(Vec::new());
        let handle = sockets.add(socket);
        Smol {
            queue,
            interface,
            sockets,
            handle,
            sent: 0,
            send_total: p.up,
            received: 0,
            recv_total: p.down,
            keys: (1, 2),
            closed: false,
            problem: None,
        }
    }

    fn use_socket(&mut self) {
        let socket = self.sockets.get_mut::<tcp::Socket<'_>>(self.handle);
        while socket.can_recv() {
            let (keys, offset) = (self.keys, self.received);
            let taken = socket.recv(|data| (data.len(), data.to_vec())).unwrap();
            if taken != stream_bytes(keys.1, offset, taken.len()) {
                self.problem.get_or_insert(format!("wrong bytes after {offset}"));
            }
            self.received += taken.len() as u64;
        }
        while socket.can_send() && self.sent < self.send_total {
            let len = (self.send_total - self.sent).min(8_000) as usize;
            let data = stream_bytes(self.keys.0, self.sent, len);
            self.sent += socket.send_slice(&data).unwrap() as u64;
        }
        if self.sent == self.send_total && socket.may_send() {
            socket.close();
        }
        if self.received > self.recv_total {
            self.problem.get_or_insert(format!("{} bytes came", self.received));
        }
        // Its FIN is out, or the connection is over.
        let over = matches!(socket.state(), tcp::State::Closed | tcp::State::TimeWait);
        self.closed |= over && self.sent == self.send_total && self.received == self.recv_total;
    }
}

impl Station for Smol {
    fn receive(&mut self, _: Instant, frame: &[u8]) {
        self.queue.received.push_back(frame.to_vec());
    }

    fn poll(&mut self, now: Instant, out: &mut Vec<Vec<u8>>) {
        loop {
            self.interface.poll(smol(now), &mut self.queue, &mut self.sockets);
            let before = (self.sent, self.received, self.closed);
            self.use_socket();
            let idle = before == (self.sent, self.received, self.closed);
            let quiet = self.queue.received.is_empty() && self.queue.sent.is_empty();
            out.append(&mut self.queue.sent);
            if idle && quiet {
                return;
            }
        }
    }

    fn next(&mut self, now: Instant) -> Option<Instant> {
        let at = self.interface.poll_at(smol(now), &self.sockets)?;
        // Its clock counts microseconds: the next one at the earliest.
        let at = Instant::from_micros(at.total_micros().max(0) as u64);
        Some(at.max(Instant::from_micros(now.as_micros() + 1)))
    }

    fn done(&self) -> bool {
        self.closed || self.problem.is_some()
    }

    fn verdict(&self) -> Result<(), String> {
        match &self.problem {
            Some(problem) => Err(problem.clone()),
            None if self.closed => Ok(()),
            None => Err(format!(
                "{} of {} sent, {} of {} received",
                self.sent, self.send_total, self.received, self.recv_total
            )),
        }
    }
}

fn config(rng: &mut Rng) -> TcpConfig {
    let mut pick = |of: [usize; 4]| of[rng.below(4) as usize];
    TcpConfig {
        send_buffer: pick([4_000, 16_000, 64_000, 1 << 20]),
        recv_buffer: pick([3_000, 8_000, 64_000, 1 << 20]),
        delayed_ack_ms: pick([5, 40, 40, 200]) as u32,
        congestion: CongestionControl::ALL[pick([0, 1, 2, 3])],
        ecn: [EcnMode::Off, EcnMode::Accept, EcnMode::Classic, EcnMode::Accurate]
            [pick([0, 1, 2, 3])],
        fast_open: [FastOpen::Off, FastOpen::Both][pick([0, 0, 1, 1])],
        syn_cookies: [SynCookies::Pressure, SynCookies::Always][pick([0, 0, 0, 1])],
        mtu_probing: [MtuProbing::BlackHole, MtuProbing::Always][pick([0, 0, 0, 1])],
        ..TcpConfig::default()
    }
}

fn link(rng: &mut Rng, bad: bool) -> LinkSpec {
    let permille = |rng: &mut Rng, most: u64| rng.below(most) as f64 / 1000.0;
    let mut spec = LinkSpec {
        medium: Medium::Ip,
        latency: Duration::from_micros(50 + rng.below(20_000)),
        rate: [None, Some(5_000_000), Some(100_000_000)][rng.below(3) as usize],
        queue_bytes: 60_000,
        discipline: [Discipline::Tail, Discipline::Step(20_000)][rng.below(2) as usize],
        mtu: [1280, 1500, 1500, 4000][rng.below(4) as usize],
        ..LinkSpec::default()
    };
    if bad {
        spec.loss = permille(rng, 40);
        spec.reorder = permille(rng, 60);
        spec.duplicate = permille(rng, 30);
        spec.corrupt = permille(rng, 15);
    }
    spec
}

fn transfer(seed: u64, bad: bool, smol_connects: bool) -> Result<(), String> {
    let mut net = Net::new(seed);
    let mut rng = Rng::from_u64(seed ^ 0xd1ff);
    let spec = link(&mut rng, bad);
    let segment = net.add_segment(spec);
    let tcp = config(&mut rng);
    let host = net.add_host(HostSpec { tcp, ..HostSpec::named("weft") });
    let v6 = rng.below(2) == 1;
    let (ours, theirs) = if v6 { ("fd00::1", "fd00::2") } else { ("10.0.0.1", "10.0.0.2") };
    net.attach(host, segment, &[&format!("{ours}/{}", if v6 { 64 } else { 24 })]);
    // The address is no longer tentative.
    net.run_for(Duration::from_secs(2));
    let (ours, theirs): (IpAddr, IpAddr) = (ours.parse().unwrap(), theirs.parse().unwrap());
    let (up, down) = (rng.below(120_000), rng.below(120_000));
    let plan = Plan {
        address: theirs,
        connect_to: smol_connects.then_some(ours),
        mtu: spec.mtu,
        buffer: [4_000, 20_000, 60_000, 200_000][rng.below(4) as usize],
        up,
        down,
    };
    let role = if smol_connects {
        Role::Server((ours, PORT).into())
    } else {
        Role::Client((theirs, PORT).into())
    };
    net.add_actor(host, Peer::new(role, 2, 1).sending(down).expecting(up));
    net.add_station(Smol::new(seed, &plan), segment, [0; 6]);
    net.run_until(Duration::from_mins(20), Net::all_done);
    net.check_at_rest()
}

#[test]
fn smoltcp_connects_over_a_clean_link() {
    each_seed("smoltcp_connects_over_a_clean_link", 40, |seed| transfer(seed, false, true));
}

#[test]
fn smoltcp_listens_over_a_clean_link() {
    each_seed("smoltcp_listens_over_a_clean_link", 40, |seed| transfer(seed, false, false));
}

#[test]
fn smoltcp_connects_over_a_bad_link() {
    each_seed("smoltcp_connects_over_a_bad_link", 80, |seed| transfer(seed, true, true));
}

#[test]
fn smoltcp_listens_over_a_bad_link() {
    each_seed("smoltcp_listens_over_a_bad_link", 80, |seed| transfer(seed, true, false));
}

// RFC 4987 3.6
#[test]
fn without_timestamps_a_cookie_agrees_to_nothing_it_would_forget() {
    let mut net = Net::new(1);
    let segment = net.add_segment(LinkSpec { medium: Medium::Ip, ..LinkSpec::default() });
    let tcp = TcpConfig { syn_cookies: SynCookies::Always, ..TcpConfig::default() };
    let host = net.add_host(HostSpec { tcp, ..HostSpec::named("weft") });
    net.attach(host, segment, &["10.0.0.1/24"]);
    let (ours, theirs): (IpAddr, IpAddr) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
    net.add_actor(host, Peer::new(Role::Server((ours, PORT).into()), 2, 1).expecting(500_000));
    let (address, connect_to) = (theirs, Some(ours));
    // A buffer that only a window scale can name.
    let plan = Plan { address, connect_to, mtu: 1500, buffer: 300_000, up: 500_000, down: 0 };
    net.add_station(Smol::new(1, &plan), segment, [0; 6]);
    net.run_for(Duration::from_millis(1));
    let mut agreed = Vec::new();
    let stack = net.stack(host);
    stack.for_each_socket(|s| agreed.extend(stack.tcp_info(net.now(), s.id)));
    let [info] = &agreed[..] else { panic!("{agreed:?}") };
    assert_eq!((info.window_scale, info.sack, info.timestamps), (None, false, false));
    net.run_until(Duration::from_mins(1), Net::all_done);
    net.check_at_rest().unwrap();
    assert_eq!(net.stack(host).mib().tcp.syncookies_recv, 1);
}
