//! A script as read: what happens when.

use core::fmt;
use core::net::IpAddr;

use crate::token::Position;

/// A script that was read without errors.
#[derive(Clone, Debug)]
pub struct Script {
    /// File name, for messages.
    pub name: String,
    /// `--name=value` lines, in order.
    pub options: Vec<ScriptOption>,
    /// Command before the first event.
    pub init: Option<(Position, String)>,
    /// What happens, in order.
    pub events: Vec<Event>,
}

/// `--name=value`.
#[derive(Clone, Debug, PartialEq)]
pub struct ScriptOption {
    /// Where.
    pub at: Position,
    /// Without the dashes.
    pub name: String,
    /// Without quotes; empty if there was none.
    pub value: String,
}

/// One line of a script.
#[derive(Clone, Debug)]
pub struct Event {
    /// Where.
    pub at: Position,
    /// When.
    pub time: When,
    /// What.
    pub action: Action,
}

/// When an event happens or is expected, microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Since the first event.
    At(u64),
    /// Since the previous event.
    Plus(u64),
    /// Whenever (outbound packets).
    Any,
    /// Not before, not after (outbound packets).
    Between(u64, u64),
    /// The same, since the previous event.
    PlusBetween(u64, u64),
}

/// What happens.
#[derive(Clone, Debug)]
pub enum Action {
    /// A packet arrives or is expected.
    Packet(PacketSpec),
    /// The application calls.
    Call(Call),
    /// A command of the shell.
    Command(String),
    /// Assertions about the connection.
    Code(String),
}

/// The fields of an IP header that a script can fix.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IpSpec {
    /// Congestion marks.
    pub ecn: Option<EcnSpec>,
    /// The whole byte.
    pub traffic_class: Option<u8>,
    /// TTL or hop limit.
    pub ttl: Option<u8>,
    /// IPv6 flow label.
    pub flow_label: Option<u32>,
}

/// Congestion marks as scripts name them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EcnSpec {
    /// The two bits.
    Bits(u8),
    /// `[ect01]`: either of the two.
    AnyEct,
}

/// A packet as a script writes it.
#[derive(Clone, Debug, PartialEq)]
pub struct PacketSpec {
    /// Towards the stack.
    pub inbound: bool,
    /// IP header.
    pub ip: IpSpec,
    /// Source and destination port, if not those of the one connection.
    pub ports: Option<(u16, u16)>,
    /// What follows the IP header.
    pub body: Body,
}

/// What follows the IP header.
#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    /// A segment.
    Tcp(TcpSpec),
    /// A datagram with this many bytes.
    Udp(u16),
    /// An ICMP message.
    Icmp(IcmpSpec),
}

/// A segment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TcpSpec {
    /// The nine bits AE CWR ECE URG ACK PSH RST SYN FIN.
    pub flags: u16,
    /// Sequence number.
    pub seq: u32,
    /// Bytes of payload.
    pub len: u16,
    /// Acknowledgement number; none means 0 and is only compared without the ACK flag.
    pub ack: u32,
    /// Window field, not scaled.
    pub window: Option<u16>,
    /// Urgent pointer.
    pub urgent: u16,
    /// Options; `None`: whatever (`<...>`).
    pub options: Option<Vec<OptionSpec>>,
}

/// Bits of [`TcpSpec::flags`].
pub mod flag {
    /// No more data.
    pub const FIN: u16 = 0x001;
    /// Synchronise.
    pub const SYN: u16 = 0x002;
    /// Reset.
    pub const RST: u16 = 0x004;
    /// Push.
    pub const PSH: u16 = 0x008;
    /// Acknowledgement.
    pub const ACK: u16 = 0x010;
    /// Urgent.
    pub const URG: u16 = 0x020;
    /// ECN echo.
    pub const ECE: u16 = 0x040;
    /// Congestion window reduced.
    pub const CWR: u16 = 0x080;
    /// Accurate ECN.
    pub const AE: u16 = 0x100;
}

/// One TCP option.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OptionSpec {
    /// One byte of padding.
    Nop,
    /// End of the list.
    Eol,
    /// Maximum segment size.
    Mss(u16),
    /// Window scale.
    WindowScale(u8),
    /// SACK permitted.
    SackOk,
    /// SACK blocks.
    Sack(Vec<(u32, u32)>),
    /// Timestamps.
    Timestamp(u32, u32),
    /// Fast Open cookie (empty: a request), with the experimental option number.
    FastOpen {
        /// The cookie.
        cookie: Vec<u8>,
        /// Option 254 with magic 0xF989 instead of option 34.
        experimental: bool,
    },
    /// MD5 digest.
    Md5(Vec<u8>),
    /// Accurate ECN counters in their order: kind 172 has ECT(0) first, 174 ECT(1).
    AccEcn {
        /// Whether ECT(1) comes first.
        e1_first: bool,
        /// One to three counters of 24 bits.
        counters: Vec<u32>,
    },
    /// Anything else.
    Unknown(u8, Vec<u8>),
}

/// An ICMP message; the type by its name, as the family has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IcmpSpec {
    /// `unreachable`, `echo_request`, ...
    pub kind: String,
    /// `port_unreachable`, `frag_needed`, ...
    pub code: Option<String>,
    /// MTU of "too big".
    pub mtu: Option<u32>,
    /// Echo identifier.
    pub id: u16,
    /// What it quotes: sequence number and length; UDP with a length.
    pub quoted: Quoted,
}

/// What an ICMP message quotes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quoted {
    /// A segment: sequence number, payload bytes.
    Tcp(u32, u16),
    /// A datagram of this many bytes.
    Udp(u16),
    /// Payload of an echo.
    Raw(u16),
}

/// A system call with what it shall give.
#[derive(Clone, Debug)]
pub struct Call {
    /// Its name.
    pub name: String,
    /// Arguments.
    pub args: Vec<Expr>,
    /// When it returns, if it blocks: microseconds, of the kind of its start.
    pub end: Option<u64>,
    /// What it returns.
    pub result: Expr,
    /// Name of the error.
    pub errno: Option<String>,
}

/// An argument or result.
#[derive(Clone, Debug, PartialEq)]
pub enum Expr {
    /// `...`: whatever.
    Ellipsis,
    /// A number.
    Integer(i64),
    /// A name.
    Word(String),
    /// Text.
    Text(String),
    /// `a|b`.
    Or(Box<Expr>, Box<Expr>),
    /// `[a, b]`.
    List(Vec<Expr>),
    /// `{a, b}`.
    Braces(Vec<Expr>),
    /// `{name=value, ...}`; arguments of `name(...)=value` are left out.
    Record(Vec<(String, Expr)>),
    /// `name(a, b)`.
    Apply(String, Vec<Expr>),
    /// An address.
    Address(IpAddr),
}

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |f: &mut fmt::Formatter<'_>, items: &[Expr]| {
            for (i, item) in items.iter().enumerate() {
                write!(f, "{}{item}", if i > 0 { ", " } else { "" })?;
            }
            Ok(())
        };
        match self {
            Expr::Ellipsis => f.write_str("..."),
            Expr::Integer(n) => write!(f, "{n}"),
            Expr::Word(w) => f.write_str(w),
            Expr::Text(t) => write!(f, "\"{t}\""),
            Expr::Or(a, b) => write!(f, "{a}|{b}"),
            Expr::Address(a) => write!(f, "{a}"),
            Expr::List(items) => {
                f.write_str("[")?;
                list(f, items)?;
                f.write_str("]")
            }
            Expr::Braces(items) => {
                f.write_str("{")?;
                list(f, items)?;
                f.write_str("}")
            }
            Expr::Apply(name, args) => {
                write!(f, "{name}(")?;
                list(f, args)?;
                f.write_str(")")
            }
            Expr::Record(fields) => {
                for (i, (name, value)) in fields.iter().enumerate() {
                    write!(f, "{}{name}={value}", if i > 0 { ", " } else { "{" })?;
                }
                f.write_str("}")
            }
        }
    }
}
