//! Packets of a script: sent to the stack, or compared with what it sends.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use super::{Fault, PATIENCE, Runner};
use crate::flow::Flow;
use crate::packet::{Content, Packet, Segment, icmp_code, icmp_kind};
use crate::script::{Body, EcnSpec, IcmpSpec, OptionSpec, PacketSpec, Quoted, TcpSpec, flag};
use crate::show;
use crate::token::Position;

const TTL: u8 = 255;
/// Ports of peers that connect to us.
const FIRST_PEER_PORT: u16 = 53_055;

/// The connections of a script.
#[derive(Debug, Default)]
pub(super) struct Flows {
    all: Vec<Flow>,
    /// Packets without ports belong to this one.
    current: Option<usize>,
    /// A listener waits for the next SYN, at this address.
    pub(super) listening: Option<SocketAddr>,
    /// The UDP socket: local address and peer.
    pub(super) udp: Option<(SocketAddr, SocketAddr)>,
    accepted: u16,
}

impl Flows {
    pub(super) fn add(&mut self, local: SocketAddr, remote: SocketAddr) {
        self.all.push(Flow::new(local, remote));
        self.current = Some(self.all.len() - 1);
    }

    /// Adds a connection unless it is there.
    pub(super) fn add_once(&mut self, local: SocketAddr, remote: SocketAddr) {
        if self.by_ports(local.port(), remote.port()).is_none() {
            self.add(local, remote);
        }
    }

    fn by_ports(&self, local: u16, remote: u16) -> Option<usize> {
        self.all.iter().rposition(|f| f.local.port() == local && f.remote.port() == remote)
    }

    /// A packet with the script's numbers.
    pub(super) fn show(&self, packet: &Packet) -> String {
        let mut packet = packet.clone();
        if let Content::Tcp(s) = &mut packet.content
            && let Some(i) = self.by_ports(s.ports.0, s.ports.1)
        {
            s.seq = self.all[i].to_script(s.seq);
        }
        show::packet(&packet)
    }
}

/// Byte `offset` of the stream that applications and peers send.
pub(super) fn pattern(offset: u64) -> u8 {
    (offset % 251) as u8
}

fn payload(from: u64, len: u16) -> Vec<u8> {
    (from..from + u64::from(len)).map(pattern).collect()
}

impl Runner {
    fn packet(&self, spec: &PacketSpec, content: Content) -> Packet {
        let mark = match spec.ip.ecn {
            Some(EcnSpec::Bits(bits)) => bits,
            _ => 0,
        };
        Packet {
            src: self.settings.remote,
            dst: self.settings.local,
            traffic_class: spec.ip.traffic_class.unwrap_or(mark),
            ttl: spec.ip.ttl.unwrap_or(TTL),
            flow_label: spec.ip.flow_label.unwrap_or(0),
            content,
        }
    }

    /// A packet of the script arrives.
    pub(super) fn inject(&mut self, spec: &PacketSpec) -> Result<(), String> {
        let content = match &spec.body {
            Body::Tcp(tcp) => self.inbound_segment(spec, tcp)?,
            Body::Udp(len) => {
                let (local, remote) = self.flows.udp.ok_or("no UDP socket is bound yet")?;
                let ports = spec.ports.unwrap_or((remote.port(), local.port()));
                Content::Udp { ports, payload: payload(0, *len) }
            }
            Body::Icmp(icmp) => self.inbound_icmp(icmp)?,
        };
        let packet = self.packet(spec, content).encode();
        self.host.inject(&packet);
        Ok(())
    }

    fn inbound_segment(&mut self, spec: &PacketSpec, tcp: &TcpSpec) -> Result<Content, String> {
        let opens = tcp.flags & (flag::SYN | flag::ACK | flag::RST) == flag::SYN;
        let index = match spec.ports {
            Some((remote, local)) => self.flows.by_ports(local, remote).or_else(|| {
                let at = |ip, port| SocketAddr::new(ip, port);
                let (local, remote) =
                    (at(self.settings.local, local), at(self.settings.remote, remote));
                self.flows.add(local, remote);
                self.flows.current
            }),
            None => match self.flows.listening.take_if(|_| opens) {
                Some(local) => {
                    let port = FIRST_PEER_PORT + self.flows.accepted;
                    self.flows.accepted += 1;
                    self.flows.add(local, SocketAddr::new(self.settings.remote, port));
                    self.flows.current
                }
                None => self.flows.current,
            },
        };
        let index = index.ok_or("no connection: the script listens and connects nowhere before")?;
        self.flows.current = Some(index);
        let flow = &mut self.flows.all[index];
        if opens && flow.over() {
            flow.restart();
        }
        if tcp.flags & flag::SYN != 0 {
            flow.peer_isn.get_or_insert(tcp.seq);
        }
        let mut segment = segment_of(tcp, flow.peer_isn);
        segment.ports = (flow.remote.port(), flow.local.port());
        flow.note(tcp.flags, true);
        flow.map_inbound(&mut segment);
        Ok(Content::Tcp(segment))
    }

    fn inbound_icmp(&mut self, icmp: &IcmpSpec) -> Result<Content, String> {
        let v4 = self.settings.v4;
        let (kind, code) = icmp_numbers(v4, icmp)?;
        let echo = matches!(icmp.kind.as_str(), "echo_request" | "echo_reply");
        let rest = if echo { u32::from(icmp.id) << 16 } else { icmp.mtu.unwrap_or(0) };
        let quoted = match icmp.quoted {
            Quoted::Raw(len) => {
                return Ok(Content::Icmp { kind, code, rest, payload: payload(0, len) });
            }
            _ if echo => return Ok(Content::Icmp { kind, code, rest, payload: Vec::new() }),
            Quoted::Udp(len) => {
                let (local, remote) = self.flows.udp.ok_or("no UDP socket is bound yet")?;
                let ports = (local.port(), remote.port());
                Content::Udp { ports, payload: payload(0, len) }
            }
            Quoted::Tcp(seq, len) => {
                let index = self.flows.current.ok_or("no connection that could be quoted")?;
                let flow = &self.flows.all[index];
                let ports = (flow.local.port(), flow.remote.port());
                let tcp = TcpSpec { seq, len, flags: flag::ACK, ..TcpSpec::default() };
                let mut segment = segment_of(&tcp, None);
                segment.ports = ports;
                segment.seq = flow.to_live(seq);
                Content::Tcp(segment)
            }
        };
        let inner = Packet {
            src: self.settings.local,
            dst: self.settings.remote,
            traffic_class: 0,
            ttl: TTL,
            flow_label: 0,
            content: quoted,
        };
        let mut payload = inner.encode();
        // RFC 1812 4.3.2.3: as much as fits into 576 bytes; IPv6: into 1280.
        payload.truncate(if v4 { 548 } else { 1232 });
        Ok(Content::Icmp { kind, code, rest, payload })
    }

    /// Takes what the host has sent.
    pub(super) fn collect(&mut self, at: Position) -> Result<(), Fault> {
        while let Some((when, bytes)) = self.host.take_transmitted() {
            match Packet::decode(&bytes) {
                Ok(packet) => self.sent.push_back((when, packet)),
                Err(what) => return Err((at, format!("the stack sent a bad packet: {what}"))),
            }
        }
        Ok(())
    }

    /// Waits for the packet of an outbound line and compares it. `window`: when it may come.
    pub(super) fn expect_packet(
        &mut self,
        at: Position,
        spec: &PacketSpec,
        window: Option<(u64, u64)>,
        tolerance: u64,
    ) -> Result<(), Fault> {
        let until = match window {
            Some((_, end)) => self.instant(end + tolerance),
            None => self.host.now() + PATIENCE,
        };
        let mut found = self.next_sent(at, spec, until)?;
        while let (Content::Tcp(have), Body::Tcp(want)) = (&found.1.content, &spec.body)
            && !self.settings.strict_segments
            && have.payload.len() < usize::from(want.len)
            && !have.payload.is_empty()
        {
            let rest = self.next_sent(at, spec, until)?;
            join(&mut found.1, rest.1).map_err(|e| (at, e))?;
        }
        let (when, packet) = found;
        let mut wrong = self.compare(spec, packet.clone()).map_err(|e| (at, e))?;
        if let Some((from, to)) = window {
            let happened = self.micros(when);
            if happened + tolerance < from || happened > to + tolerance {
                let (from, to) = (self.seconds(self.instant(from)), self.seconds(self.instant(to)));
                let range = if from == to { format!("at {from}") } else { format!("{from}~{to}") };
                wrong.insert(
                    0,
                    format!("timing: expected {range}, happened at {}", self.seconds(when)),
                );
            }
        }
        if wrong.is_empty() {
            return Ok(());
        }
        let mut what = format!("outbound packet differs: {}", wrong.join("; "));
        let _ = write!(what, "\nscript packet: {}", self.flows.show(&self.wanted(spec, &packet)));
        let _ =
            write!(what, "\nactual packet: {} at {}", self.flows.show(&packet), self.seconds(when));
        Err((at, what))
    }

    /// The next packet of the line's kind and connection.
    fn next_sent(
        &mut self,
        at: Position,
        spec: &PacketSpec,
        until: weft_stack::time::Instant,
    ) -> Result<(weft_stack::time::Instant, Packet), Fault> {
        loop {
            self.collect(at)?;
            if let Some(i) = self.sent.iter().position(|(_, p)| self.concerns(spec, p))
                && let Some(found) = self.sent.remove(i)
            {
                return Ok(found);
            }
            if self.host.now() >= until {
                break;
            }
            // A microsecond more than the end, so that what is due at the end has happened.
            self.step(until + Duration::from_micros(1))?;
        }
        let mut what = format!("no outbound packet until {}", self.seconds(self.host.now()));
        for (when, packet) in &self.sent {
            let _ = write!(
                what,
                "\nother packet: {} at {}",
                self.flows.show(packet),
                self.seconds(*when)
            );
        }
        Err((at, what))
    }

    fn concerns(&self, spec: &PacketSpec, packet: &Packet) -> bool {
        match (&spec.body, &packet.content) {
            (Body::Tcp(_), Content::Tcp(s)) => match (spec.ports, self.flows.current) {
                (Some(ports), _) => ports == s.ports,
                (None, Some(i)) => {
                    let flow = &self.flows.all[i];
                    s.ports == (flow.local.port(), flow.remote.port())
                }
                (None, None) => true,
            },
            (Body::Udp(_), Content::Udp { ports, .. }) => spec.ports.is_none_or(|p| p == *ports),
            (Body::Icmp(_), Content::Icmp { .. }) => true,
            _ => false,
        }
    }

    /// The packet the script writes, for messages.
    fn wanted(&self, spec: &PacketSpec, actual: &Packet) -> Packet {
        let mut wanted = self.packet(spec, actual.content.clone());
        if let (Body::Tcp(tcp), Content::Tcp(have)) = (&spec.body, &actual.content) {
            let mut segment = segment_of(tcp, None);
            segment.ports = have.ports;
            segment.window = tcp.window.unwrap_or(have.window);
            if tcp.options.is_none() {
                segment.options.clone_from(&have.options);
            }
            // It is shown with the script's numbers, which it has already.
            if let Some(i) = self.flows.by_ports(have.ports.0, have.ports.1) {
                segment.seq = self.flows.all[i].to_live(segment.seq);
            }
            wanted.content = Content::Tcp(segment);
        }
        wanted
    }

    /// In what a packet differs from its line.
    fn compare(&mut self, spec: &PacketSpec, packet: Packet) -> Result<Vec<String>, String> {
        let mut wrong = Vec::new();
        compare_ip(spec, &packet, &mut wrong);
        differ("source", self.settings.local, packet.src, &mut wrong);
        differ("destination", self.settings.remote, packet.dst, &mut wrong);
        match (&spec.body, packet.content) {
            (Body::Tcp(tcp), Content::Tcp(segment)) => {
                self.compare_segment(tcp, segment, &mut wrong);
            }
            (Body::Udp(len), Content::Udp { ports, payload }) => {
                differ("length", usize::from(*len), payload.len(), &mut wrong);
                if let Some(wanted) = spec.ports {
                    differ("ports", wanted, ports, &mut wrong);
                }
            }
            (Body::Icmp(icmp), Content::Icmp { kind, code, rest, .. }) => {
                let (want_kind, want_code) = icmp_numbers(self.settings.v4, icmp)?;
                differ("ICMP type", want_kind, kind, &mut wrong);
                differ("ICMP code", want_code, code, &mut wrong);
                if let Some(mtu) = icmp.mtu {
                    differ("MTU", mtu, rest, &mut wrong);
                }
            }
            _ => wrong.push("another protocol".into()),
        }
        Ok(wrong)
    }

    fn compare_segment(&mut self, want: &TcpSpec, mut have: Segment, wrong: &mut Vec<String>) {
        let expected = segment_of(want, None);
        let ports = have.ports;
        if self.flows.by_ports(ports.0, ports.1).is_none() {
            let local = SocketAddr::new(self.settings.local, ports.0);
            self.flows.add(local, SocketAddr::new(self.settings.remote, ports.1));
        }
        let Some(i) = self.flows.by_ports(ports.0, ports.1) else { return };
        let flow = &mut self.flows.all[i];
        let ticks = flow.map_outbound(&mut have, &expected);
        flow.note(have.flags, false);
        let isn = flow.isn.map_or(0, |(script, _)| script);
        if let (Some(ticks), Some(tick_us)) = (ticks, self.settings.timestamp_tick_us) {
            let off = u64::from(ticks.unsigned_abs()) * tick_us;
            if off > self.settings.tolerance_us.max(tick_us) {
                wrong.push(format!("timestamp is {ticks} ticks off"));
            }
        }
        let free = if self.settings.ignore_push { flag::PSH } else { 0 };
        if (want.flags ^ have.flags) & !free != 0 {
            let (want, have) = (show::flags(want.flags), show::flags(have.flags));
            wrong.push(format!("flags: expected {want}, found {have}"));
        }
        differ("sequence number", want.seq, have.seq, wrong);
        differ("length", usize::from(want.len), have.payload.len(), wrong);
        if want.flags & flag::ACK != 0 {
            differ("acknowledgement", want.ack, have.ack, wrong);
        }
        if let Some(window) = want.window {
            differ("window", window, have.window, wrong);
        }
        differ("urgent pointer", want.urgent, have.urgent, wrong);
        if let Some(options) = &want.options {
            compare_options(options, &have.options, wrong);
        }
        let first = u64::from(have.seq.wrapping_sub(isn).wrapping_sub(1))
            + u64::from(have.flags & flag::SYN != 0);
        let same = have.payload.iter().zip(first..).all(|(b, at)| *b == pattern(at));
        // Applications that write text of their own are not checked here.
        if !same && !self.own_text {
            wrong.push("payload is not what was written".into());
        }
    }
}

fn differ<T: Copy + PartialEq + std::fmt::Debug>(
    what: &str,
    want: T,
    have: T,
    wrong: &mut Vec<String>,
) {
    if want != have {
        wrong.push(format!("{what}: expected {want:?}, found {have:?}"));
    }
}

fn compare_ip(spec: &PacketSpec, packet: &Packet, wrong: &mut Vec<String>) {
    let mark = packet.traffic_class & 3;
    match spec.ip.ecn {
        Some(EcnSpec::Bits(bits)) => {
            let names = ["noecn", "ect1", "ect0", "ce"];
            let name = |b: u8| names[usize::from(b & 3)];
            differ("mark", name(bits), name(mark), wrong);
        }
        Some(EcnSpec::AnyEct) if mark != 1 && mark != 2 => {
            wrong.push(format!("mark: expected ect0 or ect1, found {mark}"));
        }
        _ => {}
    }
    if let Some(class) = spec.ip.traffic_class {
        differ("traffic class", class, packet.traffic_class, wrong);
    }
    if let Some(ttl) = spec.ip.ttl {
        differ("TTL", ttl, packet.ttl, wrong);
    }
    if let Some(label) = spec.ip.flow_label {
        differ("flow label", label, packet.flow_label, wrong);
    }
}

/// Options must be the same in the same order; of timestamps the echo counts.
fn compare_options(want: &[OptionSpec], have: &[OptionSpec], wrong: &mut Vec<String>) {
    let same = |(w, h): (&OptionSpec, &OptionSpec)| match (w, h) {
        (OptionSpec::Timestamp(_, a), OptionSpec::Timestamp(_, b)) => a == b,
        _ => w == h,
    };
    if want.len() != have.len() || !want.iter().zip(have).all(same) {
        let text = |options: &[OptionSpec]| {
            format!("<{}>", options.iter().map(show::option).collect::<Vec<_>>().join(","))
        };
        wrong.push(format!("options: expected {}, found {}", text(want), text(have)));
    }
}

/// The segment a line describes; `peer_isn` names its payload.
fn segment_of(tcp: &TcpSpec, peer_isn: Option<u32>) -> Segment {
    let syn = u32::from(tcp.flags & flag::SYN != 0);
    let first = tcp.seq.wrapping_sub(peer_isn.unwrap_or(0)).wrapping_sub(1).wrapping_add(syn);
    Segment {
        ports: (0, 0),
        seq: tcp.seq,
        ack: tcp.ack,
        flags: tcp.flags,
        window: tcp.window.unwrap_or(0),
        urgent: tcp.urgent,
        options: tcp.options.clone().unwrap_or_default(),
        payload: payload(u64::from(first), tcp.len),
    }
}

/// Makes one segment of two that follow each other.
fn join(first: &mut Packet, second: Packet) -> Result<(), String> {
    let (Content::Tcp(a), Content::Tcp(b)) = (&mut first.content, second.content) else {
        return Ok(());
    };
    let end = a.seq.wrapping_add(a.payload.len() as u32);
    if b.seq != end || b.payload.is_empty() {
        return Err(format!(
            "a segment of {} bytes is followed by one that does not continue it",
            a.payload.len()
        ));
    }
    a.flags |= b.flags;
    a.payload.extend(b.payload);
    (a.ack, a.window) = (b.ack, b.window);
    Ok(())
}

fn icmp_numbers(v4: bool, icmp: &IcmpSpec) -> Result<(u8, u8), String> {
    let kind = icmp_kind(v4, &icmp.kind).ok_or(format!("`{}` is no type of ICMP", icmp.kind))?;
    let code = match &icmp.code {
        None => 0,
        Some(name) => {
            icmp_code(v4, kind, name).ok_or(format!("`{name}` is no code of {}", icmp.kind))?
        }
    };
    Ok((kind, code))
}
