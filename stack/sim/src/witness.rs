//! A witness of the wire: reads every TCP segment that a host sends and every one that reaches it,
//! and knows from these alone what the host may do next.
//!
//! It shares no code and no state with the stack, so that it judges any TCP alike. Rules:
//!
//! - nothing is sent beyond the window that arrived (RFC 9293 3.8.6), nor above the peer's MSS;
//! - nothing is acknowledged, selectively either, that the peer has not sent;
//! - acknowledgement, right edge of the window (RFC 9293 3.8.6: SHOULD NOT shrink; rounding apart,
//!   RFC 7323 2.4) and timestamp never go back;
//! - nothing follows a FIN.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use weft_stack::wire::checksum;

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

/// SACK blocks of one segment, at most.
const BLOCKS_MAX: usize = 4;

/// What a TCP segment says.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// Sender.
    pub src: SocketAddr,
    /// Receiver.
    pub dst: SocketAddr,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// FIN is 1, SYN 2, RST 4, PSH 8, ACK 16.
    pub flags: u8,
    /// The window field, not scaled.
    pub window: u16,
    /// Payload bytes.
    pub len: u32,
    /// Bytes of options.
    pub options_len: u32,
    /// MSS option.
    pub mss: Option<u16>,
    /// Window scale option.
    pub scale: Option<u8>,
    /// Timestamp value.
    pub timestamp: Option<u32>,
    /// SACK blocks: the first `blocks_len` count.
    pub blocks: [(u32, u32); BLOCKS_MAX],
    /// How many.
    pub blocks_len: usize,
    /// It may stand for several segments, cut by a device.
    pub to_be_cut: bool,
}

impl Seen {
    /// Reads an IP packet; `None`: no whole TCP segment.
    pub fn parse(ip: &[u8]) -> Option<Seen> {
        Seen::read(ip).map(|(seen, _)| seen)
    }

    /// The same, and `None` also for one that was damaged on its way: nobody takes what it says.
    pub fn parse_intact(ip: &[u8]) -> Option<Seen> {
        let (seen, t) = Seen::read(ip)?;
        let pseudo = checksum::pseudo(seen.src.ip(), seen.dst.ip(), 6, t.len());
        checksum::is_valid(checksum::combine(pseudo, checksum::sum(t))).then_some(seen)
    }

    fn read(ip: &[u8]) -> Option<(Seen, &[u8])> {
        let (src, dst, header, total) = match ip.first()? >> 4 {
            4 if ip.len() >= 20 && ip[9] == 6 && !is_fragment(ip) => {
                let addr = |at: usize| IpAddr::from([ip[at], ip[at + 1], ip[at + 2], ip[at + 3]]);
                let total = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
                (addr(12), addr(16), usize::from(ip[0] & 15) * 4, total)
            }
            6 if ip.len() >= 40 && ip[6] == 6 => {
                let addr =
                    |at: usize| IpAddr::from(std::array::from_fn::<u8, 16, _>(|i| ip[at + i]));
                let total = 40 + usize::from(u16::from_be_bytes([ip[4], ip[5]]));
                (addr(8), addr(24), 40, total)
            }
            _ => return None,
        };
        let t = ip.get(header..total.min(ip.len()))?;
        if t.len() < 20 {
            return None;
        }
        let word = |at: usize| u32::from_be_bytes([t[at], t[at + 1], t[at + 2], t[at + 3]]);
        let half = |at: usize| u16::from_be_bytes([t[at], t[at + 1]]);
        let offset = usize::from(t[12] >> 4) * 4;
        let options = t.get(20..offset)?;
        let mut seen = Seen {
            src: SocketAddr::new(src, half(0)),
            dst: SocketAddr::new(dst, half(2)),
            seq: word(4),
            ack: word(8),
            flags: t[13],
            window: half(14),
            len: (t.len() - offset) as u32,
            options_len: options.len() as u32,
            mss: None,
            scale: None,
            timestamp: None,
            blocks: [(0, 0); BLOCKS_MAX],
            blocks_len: 0,
            to_be_cut: false,
        };
        seen.options(options);
        Some((seen, t))
    }

    fn options(&mut self, mut o: &[u8]) {
        let word = |v: &[u8]| u32::from_be_bytes([v[0], v[1], v[2], v[3]]);
        while let [kind, rest @ ..] = o {
            match kind {
                0 => return,
                1 => {
                    o = rest;
                    continue;
                }
                _ => {}
            }
            let Some(&len) = rest.first() else { return };
            let len = usize::from(len);
            if len < 2 || len > o.len() {
                return;
            }
            let value = &o[2..len];
            match (kind, value.len()) {
                (2, 2) => self.mss = Some(u16::from_be_bytes([value[0], value[1]])),
                (3, 1) => self.scale = Some(value[0].min(14)),
                (8, 8) => self.timestamp = Some(word(value)),
                (5, n) if n % 8 == 0 => {
                    for block in value.chunks_exact(8).take(BLOCKS_MAX) {
                        self.blocks[self.blocks_len] = (word(block), word(&block[4..]));
                        self.blocks_len += 1;
                    }
                }
                _ => {}
            }
            o = &o[len..];
        }
    }

    /// Whether `flag` is set.
    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Sequence number behind the segment.
    pub fn end(&self) -> u32 {
        let both = u32::from(self.has(SYN)) + u32::from(self.has(FIN));
        self.seq.wrapping_add(self.len + both)
    }
}

fn is_fragment(ip4: &[u8]) -> bool {
    u16::from_be_bytes([ip4[6], ip4[7]]) & 0x3fff != 0
}

/// `a` lies behind `b`.
fn after(a: u32, b: u32) -> bool {
    a.wrapping_sub(b) as i32 > 0
}

fn later(a: u32, b: u32) -> u32 {
    if after(b, a) { b } else { a }
}

/// One side of a connection, from the wire.
#[derive(Clone, Copy, Debug, Default)]
struct Side {
    isn: u32,
    /// Its SYN was sent.
    opened: bool,
    /// Behind the last byte sent, FIN and SYN counted.
    sent_end: u32,
    /// Where its FIN is.
    fin: Option<u32>,
    mss: Option<u16>,
    scale: Option<u8>,
    /// The last acknowledgement and the furthest right edge it sent.
    acked: Option<u32>,
    edge: Option<u32>,
    timestamp: Option<u32>,
    /// The furthest right edge that reached it.
    granted: Option<u32>,
    aborted: bool,
}

/// Both sides of a connection; `sides[0]` is the one with the smaller address.
#[derive(Clone, Copy, Debug, Default)]
struct Talk {
    sides: [Side; 2],
}

/// See the module documentation.
#[derive(Debug, Default)]
pub struct Witness {
    talks: HashMap<(SocketAddr, SocketAddr), Talk>,
    /// How many segments were judged.
    judged: u64,
}

macro_rules! ensure {
    ($holds:expr, $s:expr, $($what:tt)+) => {
        if !$holds {
            return Err(format!("{} in {:?}", format!($($what)+), $s));
        }
    };
}

impl Witness {
    /// Segments judged so far.
    pub fn judged(&self) -> u64 {
        self.judged
    }

    fn talk(&mut self, s: &Seen) -> (&mut Talk, usize) {
        let key = if s.src <= s.dst { (s.src, s.dst) } else { (s.dst, s.src) };
        (self.talks.entry(key).or_default(), usize::from(s.src > s.dst))
    }

    /// The sender hands a segment to its link.
    pub fn sent(&mut self, s: &Seen) -> Result<(), String> {
        self.judged += 1;
        self.follow(s, |mine, other| {
            data(s, mine, other)?;
            acknowledgement(s, mine, other)
        })
    }

    /// As [`Witness::sent`], of a sender that is not to be judged.
    pub fn heard(&mut self, s: &Seen) {
        // Nothing is judged, so nothing is wrong.
        let _ = self.follow(s, |_, _| Ok(()));
    }

    fn follow(
        &mut self,
        s: &Seen,
        judge: impl FnOnce(&Side, &Side) -> Result<(), String>,
    ) -> Result<(), String> {
        let (talk, me) = self.talk(s);
        if s.has(SYN) && (!talk.sides[me].opened || talk.sides[me].isn != s.seq) {
            // A new connection, maybe on old ports. The other side starts anew with its own SYN.
            talk.sides[me] =
                Side { isn: s.seq, opened: true, sent_end: s.end(), ..Side::default() };
            if !s.has(ACK) {
                talk.sides[1 - me] = Side::default();
            }
        }
        let (mine, other) = (talk.sides[me], talk.sides[1 - me]);
        if !mine.opened || s.has(RST) || mine.aborted {
            // An answer to something that is no connection (any more).
            talk.sides[me].aborted |= s.has(RST);
            return Ok(());
        }
        judge(&mine, &other)?;
        talk.sides[me] = after_sending(s, mine, &other);
        Ok(())
    }

    /// A segment reaches its receiver.
    pub fn arrived(&mut self, s: &Seen) {
        let (talk, from) = self.talk(s);
        let (sender, to) = (talk.sides[from], &mut talk.sides[1 - from]);
        if s.has(RST) || !(sender.opened && (s.has(ACK) || s.has(SYN))) {
            return;
        }
        // A SYN gives a window without acknowledging anything (RFC 7413).
        let from_ack = if s.has(ACK) { s.ack } else { to.isn.wrapping_add(1) };
        let edge = from_ack.wrapping_add(scaled(s, &sender, to));
        to.granted = Some(to.granted.map_or(edge, |old| later(old, edge)));
    }
}

/// The window of `s`, which `from` sent to `to`: scaled if both agreed, never in a SYN.
fn scaled(s: &Seen, from: &Side, to: &Side) -> u32 {
    let agreed = from.scale.is_some() && to.scale.is_some() && !s.has(SYN);
    u32::from(s.window) << if agreed { from.scale.unwrap_or(0) } else { 0 }
}

fn data(s: &Seen, mine: &Side, other: &Side) -> Result<(), String> {
    if s.len == 0 && !s.has(FIN) {
        return Ok(());
    }
    let new = after(s.end(), mine.sent_end);
    if let Some(fin) = mine.fin {
        ensure!(!after(s.end(), fin.wrapping_add(1)), s, "data behind the FIN at {fin}");
        ensure!(!s.has(FIN) || s.end() == fin.wrapping_add(1), s, "a FIN that moved from {fin}");
    }
    // Before the peer's SYN only Fast Open sends; its bound is the server's affair.
    if let (Some(granted), true) = (mine.granted, new && !s.has(SYN)) {
        let data_end = s.seq.wrapping_add(s.len);
        ensure!(!after(data_end, granted), s, "data beyond the window's edge {granted}");
    }
    if let (Some(mss), true) = (other.mss, s.len > 0 && !s.to_be_cut) {
        // Options are part of what the MSS bounds (RFC 6691); a tiny one may be refused.
        let most = u32::from(mss.max(64));
        ensure!(s.len + s.options_len <= most, s, "longer than the peer's MSS {mss}");
    }
    Ok(())
}

fn acknowledgement(s: &Seen, mine: &Side, other: &Side) -> Result<(), String> {
    // A SYN-ACK with a cookie hides the peer's options in the lowest bits (RFC 4987).
    if let (Some(old), Some(new), false) = (mine.timestamp, s.timestamp, s.has(SYN)) {
        ensure!(!after(old, new), s, "the timestamp went back from {old}");
    }
    if !s.has(ACK) || !other.opened {
        return Ok(());
    }
    ensure!(
        !after(s.ack, other.sent_end),
        s,
        "acknowledges what was never sent ({})",
        other.sent_end
    );
    if let Some(old) = mine.acked {
        ensure!(!after(old, s.ack), s, "the acknowledgement went back from {old}");
    }
    let edge = s.ack.wrapping_add(scaled(s, mine, other));
    if let (Some(old), false) = (mine.edge, s.has(SYN)) {
        // Once the peer has closed nothing more can come. RFC 7323 2.4: rounding may cost a unit.
        let closed = other.fin.is_some_and(|fin| after(s.ack, fin));
        let back = old.wrapping_sub(edge) as i32;
        let unit = 1i32 << if other.scale.is_some() { mine.scale.unwrap_or(0) } else { 0 };
        ensure!(closed || back < unit, s, "the window's edge went back from {old} to {edge}");
    }
    for (start, end) in &s.blocks[..s.blocks_len] {
        ensure!(after(*end, *start), s, "an empty SACK block");
        ensure!(!after(*end, other.sent_end), s, "SACK of what was never sent");
    }
    Ok(())
}

fn after_sending(s: &Seen, mut mine: Side, other: &Side) -> Side {
    mine.sent_end = later(mine.sent_end, s.end());
    mine.timestamp = s.timestamp.or(mine.timestamp);
    if s.has(SYN) {
        let default = if s.src.is_ipv6() { 1220 } else { 536 };
        // A repeated SYN may name another: whichever arrived.
        mine.mss = mine.mss.max(Some(s.mss.unwrap_or(default)));
        mine.scale = s.scale;
    }
    if s.has(FIN) {
        mine.fin = Some(s.end().wrapping_sub(1));
    }
    if s.has(ACK) && other.opened {
        mine.acked = Some(s.ack);
        let edge = s.ack.wrapping_add(scaled(s, &mine, other));
        mine.edge = Some(mine.edge.map_or(edge, |old| later(old, edge)));
    }
    mine
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(from: u16, to: u16, seq: u32, ack: u32, flags: u8, window: u16, len: u32) -> Seen {
        let at = |port| SocketAddr::new([10, 0, 0, 1].into(), port);
        Seen {
            src: at(from),
            dst: at(to),
            seq,
            ack,
            flags,
            window,
            len,
            options_len: 0,
            mss: (flags & SYN != 0).then_some(1460),
            scale: None,
            timestamp: None,
            blocks: [(0, 0); BLOCKS_MAX],
            blocks_len: 0,
            to_be_cut: false,
        }
    }

    fn open() -> Witness {
        let mut w = Witness::default();
        for s in [
            seen(1, 2, 100, 0, SYN, 1000, 0),
            seen(2, 1, 500, 101, SYN | ACK, 2000, 0),
            seen(1, 2, 101, 501, ACK, 1000, 0),
        ] {
            w.sent(&s).unwrap();
            w.arrived(&s);
        }
        w
    }

    #[test]
    fn a_window_is_kept_until_a_larger_one_arrives() {
        let mut w = open();
        w.sent(&seen(1, 2, 101, 501, ACK, 1000, 1400)).unwrap();
        let beyond = seen(1, 2, 1501, 501, ACK, 1000, 601);
        assert!(w.sent(&beyond).unwrap_err().contains("beyond the window"));
        let more = seen(2, 1, 501, 1501, ACK, 2000, 0);
        w.sent(&more).unwrap();
        assert!(w.sent(&beyond).is_err(), "it has not arrived");
        w.arrived(&more);
        w.sent(&beyond).unwrap();
    }

    #[test]
    fn what_a_router_passes_on_says_nothing_once_it_is_damaged() {
        let mut ip = [0; 60];
        ip[0] = 0x60;
        (ip[5], ip[6], ip[23], ip[39]) = (20, 6, 1, 2);
        ip[40 + 12] = 0x50;
        let pseudo = checksum::pseudo_v6(1u128.into(), 2u128.into(), 6, 20);
        let sum = checksum::finish(checksum::combine(pseudo, checksum::sum(&ip[40..])));
        ip[56..58].copy_from_slice(&sum.to_be_bytes());
        assert!(Seen::parse_intact(&ip).is_some());
        ip[40 + 8] ^= 0x80;
        assert!(Seen::parse(&ip).is_some_and(|seen| seen.ack == 1 << 31));
        assert!(Seen::parse_intact(&ip).is_none());
    }

    #[test]
    fn what_goes_back_is_noticed() {
        let mut w = open();
        w.sent(&seen(1, 2, 101, 501, ACK, 1000, 700)).unwrap();
        w.sent(&seen(2, 1, 501, 801, ACK, 2000, 0)).unwrap();
        let says = |w: &mut Witness, s: &Seen, what: &str| {
            let told = w.sent(s).unwrap_err();
            assert!(told.contains(what), "{told}");
        };
        says(&mut w, &seen(2, 1, 501, 802, ACK, 2000, 0), "never sent");
        says(&mut w, &seen(2, 1, 501, 800, ACK, 2001, 0), "acknowledgement went back");
        says(&mut w, &seen(2, 1, 501, 801, ACK, 1999, 0), "edge went back");
        let mut sack = seen(2, 1, 501, 801, ACK, 2000, 0);
        (sack.blocks[0], sack.blocks_len) = ((900, 1000), 1);
        says(&mut w, &sack, "SACK of what was never sent");
    }

    #[test]
    fn nothing_follows_a_fin_and_segments_fit_the_mss() {
        let mut w = open();
        assert!(w.sent(&seen(1, 2, 101, 501, ACK, 1000, 1461)).unwrap_err().contains("MSS"));
        w.sent(&seen(1, 2, 101, 501, ACK | FIN, 1000, 100)).unwrap();
        w.sent(&seen(1, 2, 101, 501, ACK | FIN, 1000, 100)).unwrap();
        assert!(
            w.sent(&seen(1, 2, 202, 501, ACK, 1000, 1)).unwrap_err().contains("behind the FIN")
        );
    }
}
