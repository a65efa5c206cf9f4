//! Packets: `< [ect0] SEW. 0:1(1) ack 1 win 100 urg 1 <mss 1460,nop>`, `> udp (10)`, `< icmp ...`.

use super::Parser;
use crate::script::{
    Body, EcnSpec, IcmpSpec, IpSpec, OptionSpec, PacketSpec, Quoted, TcpSpec, flag,
};
use crate::token::{Fault, Kind};

const U32: i64 = u32::MAX as i64;
const U16: i64 = u16::MAX as i64;
const U8: i64 = u8::MAX as i64;
const U24: i64 = 0xff_ffff;

impl Parser {
    pub(super) fn packet(&mut self) -> Result<PacketSpec, Fault> {
        let inbound = self.take_sign('<');
        if !inbound {
            self.sign('>', "or `<` before a packet")?;
        }
        for tunnel in ["ipv4", "ipv6", "gre", "GREv0", "mpls"] {
            if self.is_word(tunnel) {
                return self.expected("a packet that is in no tunnel");
            }
        }
        let at = self.peek().at;
        let ip = self.ip()?;
        if inbound && ip.ecn == Some(EcnSpec::AnyEct) {
            return Err((at, "`ect01` is only for outbound packets".into()));
        }
        let (ports, body) = if self.take_word("udp") {
            let ports = self.ports()?;
            self.sign('(', "and the length of the datagram")?;
            let len = self.integer("a length", U16)? as u16;
            self.sign(')', "after the length")?;
            (ports, Body::Udp(len))
        } else if self.take_word("icmp") {
            (None, Body::Icmp(self.icmp()?))
        } else {
            let ports = self.ports()?;
            (ports, Body::Tcp(self.tcp(inbound)?))
        };
        Ok(PacketSpec { inbound, ip, ports, body })
    }

    /// `[ect0]`, `(tos 0x10)`, `[ttl 3]`, `[ce, flowlabel 0x1]`.
    fn ip(&mut self) -> Result<IpSpec, Fault> {
        let mut ip = IpSpec::default();
        let close = match self.peek().kind {
            Kind::Sign('[') => ']',
            Kind::Sign('(') => ')',
            _ => return Ok(ip),
        };
        self.advance();
        loop {
            let token = self.peek();
            let mark = match token.text.as_str() {
                "noecn" => Some(EcnSpec::Bits(0)),
                "ect1" => Some(EcnSpec::Bits(1)),
                "ect0" => Some(EcnSpec::Bits(2)),
                "ce" => Some(EcnSpec::Bits(3)),
                "ect01" => Some(EcnSpec::AnyEct),
                _ => None,
            };
            if mark.is_some() {
                self.advance();
                ip.ecn = mark;
            } else if self.take_word("tos") {
                ip.traffic_class = Some(self.integer("a traffic class", U8)? as u8);
            } else if self.take_word("ttl") {
                ip.ttl = Some(self.integer("a time to live", U8)? as u8);
            } else if self.take_word("flowlabel") {
                ip.flow_label = Some(self.integer("a flow label", 0xf_ffff)? as u32);
            } else {
                return self.expected("noecn, ect0, ect1, ect01, ce, tos, ttl or flowlabel");
            }
            if !self.take_sign(',') {
                break;
            }
        }
        self.sign(close, "after the fields of the IP header")?;
        Ok(ip)
    }

    fn ports(&mut self) -> Result<Option<(u16, u16)>, Fault> {
        let Kind::Integer(_) = self.peek().kind else { return Ok(None) };
        let src = self.integer("a source port", U16)? as u16;
        self.sign('>', "between the ports")?;
        let dst = self.integer("a destination port", U16)? as u16;
        Ok(Some((src, dst)))
    }

    fn tcp(&mut self, inbound: bool) -> Result<TcpSpec, Fault> {
        let mut tcp = TcpSpec { flags: self.flags()?, ..TcpSpec::default() };
        (tcp.seq, tcp.len) = self.range()?;
        if self.take_word("ack") {
            tcp.ack = self.integer("an acknowledgement number", U32)? as u32;
        }
        if self.take_word("win") {
            tcp.window = Some(self.integer("a window", U16)? as u16);
        }
        if self.take_word("urg") {
            tcp.urgent = self.integer("an urgent pointer", U16)? as u16;
        }
        tcp.options = Some(Vec::new());
        let at = self.peek().at;
        if self.take_sign('<') {
            tcp.options = self.options_of_segment()?;
        }
        if inbound && tcp.options.is_none() {
            return Err((at, "`<...>` is only for outbound packets".into()));
        }
        Ok(tcp)
    }

    /// Letters, then `.` for ACK or `.5` for ACK and the counter of accurate ECN; `-` for none.
    fn flags(&mut self) -> Result<u16, Fault> {
        const WHAT: &str = "flags: some of F S R P . E W A U, or `-`";
        if self.take_sign('-') {
            return Ok(0);
        }
        let mut flags = 0;
        let token = self.peek();
        let mut seen = false;
        if token.kind == Kind::Word {
            for letter in token.text.chars() {
                flags |= match letter {
                    'F' => flag::FIN,
                    'S' => flag::SYN,
                    'R' => flag::RST,
                    'P' => flag::PSH,
                    'U' => flag::URG,
                    'E' => flag::ECE,
                    'W' => flag::CWR,
                    'A' => flag::AE,
                    _ => return self.expected(WHAT),
                };
            }
            self.advance();
            seen = true;
        }
        let token = self.peek();
        match token.kind {
            Kind::Sign('.') => flags |= flag::ACK,
            Kind::Float(_) => match token.text.strip_prefix('.').and_then(|d| d.parse().ok()) {
                Some(ace @ 0..=7u16) => flags |= flag::ACK | ace << 6,
                _ => return self.expected("`.` and one digit from 0 to 7"),
            },
            _ if seen => return Ok(flags),
            _ => return self.expected(WHAT),
        }
        self.advance();
        Ok(flags)
    }

    /// `1:1001(1000)`.
    fn range(&mut self) -> Result<(u32, u16), Fault> {
        let at = self.peek().at;
        let from = self.integer("a sequence number", U32)?;
        self.sign(':', "in a range of sequence numbers")?;
        let to = self.integer("the sequence number after the last", U32)?;
        self.sign('(', "and the length of the payload")?;
        let len = self.integer("a length", U16)?;
        self.sign(')', "after the length")?;
        if (from + len) & U32 != to {
            let what = format!("{from}:{to} is not {len} bytes long");
            return Err((at, what));
        }
        Ok((from as u32, len as u16))
    }

    fn options_of_segment(&mut self) -> Result<Option<Vec<OptionSpec>>, Fault> {
        if self.peek().kind == Kind::Ellipsis {
            self.advance();
            self.sign('>', "after `...`")?;
            return Ok(None);
        }
        let mut options = Vec::new();
        loop {
            options.push(self.option_of_segment()?);
            if !self.take_sign(',') {
                break;
            }
        }
        self.sign('>', "or `,` after an option")?;
        Ok(Some(options))
    }

    fn option_of_segment(&mut self) -> Result<OptionSpec, Fault> {
        const WHAT: &str =
            "an option: mss, wscale, sackOK, sack, TS, FO, FOEXP, md5, ECN, opt, nop or eol";
        let at = self.peek();
        let Kind::Word = at.kind else { return self.expected(WHAT) };
        self.advance();
        Ok(match at.text.as_str() {
            "nop" => OptionSpec::Nop,
            "eol" => OptionSpec::Eol,
            "sackOK" => OptionSpec::SackOk,
            "mss" => OptionSpec::Mss(self.integer("a segment size", U16)? as u16),
            "wscale" => OptionSpec::WindowScale(self.integer("a shift", U8)? as u8),
            "TS" => {
                self.keyword("val")?;
                let value = self.integer("a timestamp", U32)? as u32;
                self.keyword("ecr")?;
                OptionSpec::Timestamp(value, self.integer("an echoed timestamp", U32)? as u32)
            }
            "sack" => self.sack_blocks()?,
            "FO" | "FOEXP" => {
                let experimental = at.text == "FOEXP";
                OptionSpec::FastOpen { cookie: self.bytes()?, experimental }
            }
            "md5" => OptionSpec::Md5(self.bytes()?),
            "ECN" => self.accecn()?,
            "opt" => {
                let kind = self.integer("an option's number", U8)? as u8;
                OptionSpec::Unknown(kind, self.bytes()?)
            }
            _ => {
                self.next -= 1;
                return self.expected(WHAT);
            }
        })
    }

    fn keyword(&mut self, word: &str) -> Result<(), Fault> {
        if self.take_word(word) { Ok(()) } else { self.expected(&format!("`{word}`")) }
    }

    fn sack_blocks(&mut self) -> Result<OptionSpec, Fault> {
        let mut blocks = Vec::new();
        while blocks.is_empty() || matches!(self.peek().kind, Kind::Integer(_)) {
            let left = self.integer("the left edge of a block", U32)? as u32;
            self.sign(':', "in a block")?;
            blocks.push((left, self.integer("the right edge of a block", U32)? as u32));
        }
        Ok(OptionSpec::Sack(blocks))
    }

    /// Hexadecimal digits in pairs; nothing is no bytes.
    fn bytes(&mut self) -> Result<Vec<u8>, Fault> {
        let token = self.peek();
        let (Kind::Word | Kind::Integer(_)) = token.kind else { return Ok(Vec::new()) };
        let digits = token.text.as_bytes();
        let pair = |two: &[u8]| u8::from_str_radix(core::str::from_utf8(two).ok()?, 16).ok();
        if !digits.len().is_multiple_of(2) {
            return self.expected("pairs of hexadecimal digits");
        }
        let Some(bytes) = digits.chunks(2).map(pair).collect() else {
            return self.expected("pairs of hexadecimal digits");
        };
        self.advance();
        Ok(bytes)
    }

    /// `ECN e0b 1 ceb 0 e1b 1`, from either end, cut after one or two.
    fn accecn(&mut self) -> Result<OptionSpec, Fault> {
        let e1_first = self.is_word("e1b");
        let order = if e1_first { ["e1b", "ceb", "e0b"] } else { ["e0b", "ceb", "e1b"] };
        let mut counters = Vec::new();
        for name in order {
            if counters.is_empty() {
                self.keyword(name)?;
            } else if !self.take_word(name) {
                break;
            }
            counters.push(self.integer("a counter", U24)? as u32);
        }
        Ok(OptionSpec::AccEcn { e1_first, counters })
    }

    fn icmp(&mut self) -> Result<IcmpSpec, Fault> {
        let kind = self.word("the type of an ICMP message, such as `unreachable`")?;
        let mut icmp = IcmpSpec { kind, code: None, mtu: None, id: 0, quoted: Quoted::Tcp(0, 0) };
        let free = |p: &Parser| !p.is_word("mtu") && !p.is_word("id");
        if self.peek().kind == Kind::Word && free(self) {
            icmp.code = Some(self.advance().text);
        }
        if self.take_word("mtu") {
            icmp.mtu = Some(self.integer("an MTU", U32)? as u32);
        }
        if self.take_word("id") {
            icmp.id = self.integer("an identifier", U16)? as u16;
        }
        if self.take_sign('[') {
            icmp.quoted = self.quoted()?;
            self.sign(']', "after the quoted packet")?;
        }
        Ok(icmp)
    }

    fn quoted(&mut self) -> Result<Quoted, Fault> {
        let udp = self.take_word("udp");
        if !udp && !self.take_word("raw") {
            let (seq, len) = self.range()?;
            return Ok(Quoted::Tcp(seq, len));
        }
        self.sign('(', "and a length")?;
        let len = self.integer("a length", U16)? as u16;
        self.sign(')', "after the length")?;
        Ok(if udp { Quoted::Udp(len) } else { Quoted::Raw(len) })
    }
}
