//! Filter expressions in the manner of `ss`.
//!
//! ```text
//! filter  = { "state" STATE | "exclude" STATE } [ or ]
//! or      = and { ("or" | "|" | "||") and }
//! and     = not { ["and" | "&" | "&&"] not }
//! not     = { "not" | "!" } term
//! term    = "(" or ")" | "state" STATE
//!         | ("src" | "dst") ["=" | "==" | "!="] HOST
//!         | ("sport" | "dport") [OP] PORT
//!         | "dev" ["=" | "==" | "!="] ALIAS
//! HOST    = ADDRESS ["/" LENGTH] [":" PORT] | "[" ADDRESS ["/" LENGTH] "]" [":" PORT] | [*] ":" PORT
//! OP      = "=" "==" "eq" "!=" "ne" ">" "gt" "<" "lt" ">=" "ge" "<=" "le"
//! ```
//!
//! States before the expression add up, as with `ss`; `state` within it is a condition like others.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use weft_stack::ip::address::Cidr;
use weft_stack::socket::SocketInfo;

/// Parentheses and negations in one another, at most.
const DEPTH_MAX: usize = 32;

/// A set of socket states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct States(u16);

/// The names of `ss` for single states: as shown, and as typed.
const STATES: [(&str, &[&str]); 12] = [
    ("ESTAB", &["established", "estab"]),
    ("SYN-SENT", &["syn-sent"]),
    ("SYN-RECV", &["syn-recv"]),
    ("FIN-WAIT-1", &["fin-wait-1"]),
    ("FIN-WAIT-2", &["fin-wait-2"]),
    ("TIME-WAIT", &["time-wait"]),
    ("CLOSED", &["closed"]),
    ("CLOSE-WAIT", &["close-wait"]),
    ("LAST-ACK", &["last-ack"]),
    ("LISTEN", &["listening", "listen"]),
    ("CLOSING", &["closing"]),
    ("UNCONN", &["unconnected", "unconn"]),
];

impl States {
    /// Every state.
    pub const ALL: States = States((1 << STATES.len()) - 1);

    fn of(shown: &[&str]) -> States {
        let bit = |(i, (name, _)): (usize, &(&str, _))| u16::from(shown.contains(name)) << i;
        States(STATES.iter().enumerate().map(bit).sum())
    }

    /// What `ss` calls connected, and shows by default.
    pub fn connected() -> States {
        States::ALL.without(States::of(&["LISTEN", "CLOSED", "UNCONN", "TIME-WAIT", "SYN-RECV"]))
    }

    /// What `ss -l` shows: listening, and datagram sockets that are not connected.
    pub fn listening() -> States {
        States::of(&["LISTEN", "CLOSED", "UNCONN"])
    }

    fn with(self, other: States) -> States {
        States(self.0 | other.0)
    }

    fn without(self, other: States) -> States {
        States(self.0 & !other.0)
    }

    /// Whether the set has the state of that name, as dumps show it.
    pub fn has(self, shown: &str) -> bool {
        self.0 & States::of(&[shown]).0 != 0
    }

    /// A state or a group of states, as typed.
    fn named(name: &str) -> Option<States> {
        Some(match name {
            "all" => States::ALL,
            "connected" => States::connected(),
            "synchronized" => States::connected().without(States::of(&["SYN-SENT"])),
            "bucket" => States::of(&["SYN-RECV", "TIME-WAIT"]),
            "big" => States::ALL.without(States::of(&["SYN-RECV", "TIME-WAIT"])),
            name => {
                let (shown, _) = STATES.iter().find(|(_, typed)| typed.contains(&name))?;
                States::of(&[shown])
            }
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Local,
    Peer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compare {
    Equal,
    Unequal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Compare {
    fn holds(self, a: u16, b: u16) -> bool {
        match self {
            Compare::Equal => a == b,
            Compare::Unequal => a != b,
            Compare::Less => a < b,
            Compare::LessOrEqual => a <= b,
            Compare::Greater => a > b,
            Compare::GreaterOrEqual => a >= b,
        }
    }
}

/// An address, a network or any; a port or any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Host {
    network: Option<Cidr>,
    port: Option<u16>,
}

impl Host {
    fn has(&self, addr: SocketAddr) -> bool {
        self.network.is_none_or(|n| n.contains(addr.ip()))
            && self.port.is_none_or(|p| p == addr.port())
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Expr {
    State(States),
    Host(Side, Compare, Host),
    Port(Side, Compare, u16),
    Alias(Compare, String),
    Not(Box<Expr>),
    And(Box<Expr>, Box<Expr>),
    Or(Box<Expr>, Box<Expr>),
}

impl Expr {
    fn holds(&self, s: &SocketInfo, alias: Option<&str>) -> bool {
        let addr = |side| if side == Side::Local { s.local } else { s.peer };
        match self {
            Expr::State(states) => states.has(s.state),
            Expr::Host(side, how, host) => host.has(addr(*side)) == (*how == Compare::Equal),
            Expr::Port(side, how, port) => how.holds(addr(*side).port(), *port),
            Expr::Alias(how, name) => (alias == Some(name)) == (*how == Compare::Equal),
            Expr::Not(e) => !e.holds(s, alias),
            Expr::And(a, b) => a.holds(s, alias) && b.holds(s, alias),
            Expr::Or(a, b) => a.holds(s, alias) || b.holds(s, alias),
        }
    }
}

/// Which sockets to show.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// States named before the expression.
    states: Option<States>,
    /// The expression names states.
    names_states: bool,
    expr: Option<Expr>,
}

impl Filter {
    /// Reads a filter; the empty one takes all.
    pub fn parse(text: &str) -> Result<Filter, FilterError> {
        let mut parser = Parser { text, tokens: tokens(text), at: 0, depth: 0, states_seen: false };
        let states = parser.leading_states()?;
        let expr = if parser.peek().is_some() { Some(parser.or()?) } else { None };
        if parser.peek().is_some() {
            return Err(parser.expected("'and', 'or' or the end"));
        }
        Ok(Filter { states, names_states: parser.states_seen, expr })
    }

    /// Whether a command line that begins so can only go on as a filter: `(`, or a word of the grammar
    /// with something behind it.
    pub fn begins(words: &[impl AsRef<str>]) -> bool {
        const BEGIN: [&str; 11] =
            ["state", "exclude", "excl", "src", "dst", "sport", "dport", "dev", "not", "!", "("];
        let text: Vec<&str> = words.iter().map(AsRef::as_ref).collect();
        match tokens(&text.join(" ")).split_first() {
            Some(((_, first), rest)) => BEGIN.contains(&first.as_str()) && !rest.is_empty(),
            None => false,
        }
    }

    /// Whether the filter itself says which states are wanted.
    pub fn names_states(&self) -> bool {
        self.states.is_some() || self.names_states
    }

    /// Whether a socket passes; `alias` is the name of its alias. States other than `states` pass
    /// only if the filter names states itself.
    pub fn takes(&self, s: &SocketInfo, alias: Option<&str>, states: States) -> bool {
        let default = if self.names_states() { States::ALL } else { states };
        self.states.unwrap_or(default).has(s.state)
            && self.expr.as_ref().is_none_or(|e| e.holds(s, alias))
    }
}

/// What is wrong with a filter. Displayed with the text and a caret below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterError {
    text: String,
    /// In characters from 0.
    column: usize,
    found: Option<String>,
    expected: String,
}

impl FilterError {
    /// Where it is wrong: characters from 1.
    pub fn column(&self) -> usize {
        self.column + 1
    }
}

impl fmt::Display for FilterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "filter, column {}: expected {}", self.column(), self.expected)?;
        match &self.found {
            Some(found) => write!(f, ", found '{found}'")?,
            None => write!(f, ", but it ends there")?,
        }
        write!(f, "\n  {}\n  {}^", self.text, " ".repeat(self.column))
    }
}

impl std::error::Error for FilterError {}

/// Words and operators, with their columns.
fn tokens(text: &str) -> Vec<(usize, String)> {
    const OPERATORS: [&str; 13] =
        ["==", "!=", ">=", "<=", "&&", "||", "(", ")", "=", "!", "<", ">", "&"];
    let chars: Vec<char> = text.chars().collect();
    let operator = |at: usize| {
        let starts = |op: &&str| op.chars().enumerate().all(|(i, c)| chars.get(at + i) == Some(&c));
        OPERATORS.into_iter().chain(["|"]).find(starts)
    };
    let mut found = Vec::new();
    let mut at = 0;
    while at < chars.len() {
        if chars[at].is_whitespace() {
            at += 1;
        } else if let Some(op) = operator(at) {
            found.push((at, op.to_owned()));
            at += op.len();
        } else {
            let from = at;
            while at < chars.len() && !chars[at].is_whitespace() && operator(at).is_none() {
                at += 1;
            }
            found.push((from, chars[from..at].iter().collect()));
        }
    }
    found
}

struct Parser<'a> {
    text: &'a str,
    tokens: Vec<(usize, String)>,
    at: usize,
    depth: usize,
    states_seen: bool,
}

impl Parser<'_> {
    fn peek(&self) -> Option<&str> {
        self.tokens.get(self.at).map(|(_, word)| word.as_str())
    }

    /// Takes the next token if it is one of these.
    fn take(&mut self, words: &[&str]) -> bool {
        let found = self.peek().is_some_and(|word| words.contains(&word));
        self.at += usize::from(found);
        found
    }

    /// An error at the next token.
    fn expected(&self, what: &str) -> FilterError {
        let token = self.tokens.get(self.at);
        FilterError {
            text: self.text.to_owned(),
            column: token.map_or(self.text.chars().count(), |(column, _)| *column),
            found: token.map(|(_, word)| word.clone()),
            expected: what.to_owned(),
        }
    }

    fn leading_states(&mut self) -> Result<Option<States>, FilterError> {
        let mut states: Option<States> = None;
        loop {
            if self.take(&["state"]) {
                let more = self.state()?;
                states = Some(states.map_or(more, |s| s.with(more)));
            } else if self.take(&["exclude", "excl"]) {
                let less = self.state()?;
                states = Some(states.unwrap_or(States::ALL).without(less));
            } else {
                // `state established and ...`: the rest is a condition on these.
                if states.is_some() && self.peek().is_some() {
                    self.take(&["and", "&", "&&"]);
                    if self.peek().is_none() {
                        return Err(self.expected(TERM));
                    }
                }
                return Ok(states);
            }
        }
    }

    fn state(&mut self) -> Result<States, FilterError> {
        let states = self.peek().and_then(|word| States::named(&word.to_ascii_lowercase()));
        let states = states.ok_or_else(|| {
            self.expected(
                "a state (established, syn-sent, syn-recv, fin-wait-1, fin-wait-2, time-wait, \
                 closed, close-wait, last-ack, listening, closing, unconnected) or a group (all, \
                 connected, synchronized, bucket, big)",
            )
        })?;
        self.at += 1;
        Ok(states)
    }

    fn or(&mut self) -> Result<Expr, FilterError> {
        let mut left = self.and()?;
        while self.take(&["or", "|", "||"]) {
            left = Expr::Or(Box::new(left), Box::new(self.and()?));
        }
        Ok(left)
    }

    fn and(&mut self) -> Result<Expr, FilterError> {
        let mut left = self.not()?;
        loop {
            let written = self.take(&["and", "&", "&&"]);
            let ends = self.peek().is_none_or(|w| [")", "or", "|", "||"].contains(&w));
            if ends && !written {
                return Ok(left);
            }
            left = Expr::And(Box::new(left), Box::new(self.not()?));
        }
    }

    fn not(&mut self) -> Result<Expr, FilterError> {
        if self.depth >= DEPTH_MAX {
            return Err(self.expected("fewer parentheses and negations"));
        }
        self.depth += 1;
        let expr = if self.take(&["not", "!"]) {
            Expr::Not(Box::new(self.not()?))
        } else if self.take(&["("]) {
            let inner = self.or()?;
            if !self.take(&[")"]) {
                return Err(self.expected("')', 'and' or 'or'"));
            }
            inner
        } else {
            self.term()?
        };
        self.depth -= 1;
        Ok(expr)
    }

    fn term(&mut self) -> Result<Expr, FilterError> {
        if self.take(&["state"]) {
            self.states_seen = true;
            return Ok(Expr::State(self.state()?));
        }
        if self.take(&["dev"]) {
            let how = self.equality();
            let name = self.peek().map(str::to_owned);
            let name = name.ok_or_else(|| self.expected("the name of an alias"))?;
            self.at += 1;
            return Ok(Expr::Alias(how, name));
        }
        for (word, side) in [("src", Side::Local), ("dst", Side::Peer)] {
            if self.take(&[word]) {
                let how = self.equality();
                return Ok(Expr::Host(side, how, self.host()?));
            }
        }
        for (word, side) in [("sport", Side::Local), ("dport", Side::Peer)] {
            if self.take(&[word]) {
                let how = self.comparison();
                return Ok(Expr::Port(side, how, self.port()?));
            }
        }
        Err(self.expected(TERM))
    }

    fn equality(&mut self) -> Compare {
        if self.take(&["!=", "ne", "neq"]) {
            return Compare::Unequal;
        }
        self.take(&["=", "==", "eq"]);
        Compare::Equal
    }

    fn comparison(&mut self) -> Compare {
        const OTHERS: [(&[&str], Compare); 4] = [
            (&[">=", "ge", "geq"], Compare::GreaterOrEqual),
            (&["<=", "le", "leq"], Compare::LessOrEqual),
            (&[">", "gt"], Compare::Greater),
            (&["<", "lt"], Compare::Less),
        ];
        let other = OTHERS.into_iter().find(|(words, _)| self.take(words));
        other.map_or_else(|| self.equality(), |(_, how)| how)
    }

    fn port(&mut self) -> Result<u16, FilterError> {
        let number = |w: &str| w.strip_prefix(':').unwrap_or(w).parse().ok();
        let port = self.peek().and_then(number);
        let port =
            port.ok_or_else(|| self.expected("a port: a number from 0 to 65535, or ':' and one"))?;
        self.at += 1;
        Ok(port)
    }

    fn host(&mut self) -> Result<Host, FilterError> {
        let host = self.peek().and_then(parse_host);
        let host = host.ok_or_else(|| {
            self.expected("an address, a network (10.0.0.0/8), or one of them with a port ([fd00::/8]:80, 10.0.0.1:80, :80)")
        })?;
        self.at += 1;
        Ok(host)
    }
}

const TERM: &str = "src, dst, sport, dport, dev, state, 'not' or '('";

fn parse_host(word: &str) -> Option<Host> {
    let port_of = |text: &str| match text {
        "" | "*" => Some(None),
        text => text.parse().ok().map(Some),
    };
    if let Some(rest) = word.strip_prefix('[') {
        let (addr, rest) = rest.split_once(']')?;
        let (length, port) = match rest.split_once(':') {
            Some((length, port)) => (length, port_of(port)?),
            None => (rest, None),
        };
        let network = parse_network(&format!("{addr}{length}"))?;
        return Some(Host { network: Some(network), port });
    }
    if word.matches(':').count() > 1 {
        return Some(Host { network: Some(parse_network(word)?), port: None });
    }
    let (addr, port) = match word.split_once(':') {
        Some((addr, port)) => (addr, port_of(port)?),
        None => (word, None),
    };
    let network = match addr {
        "" | "*" => None,
        addr => Some(parse_network(addr)?),
    };
    Some(Host { network, port })
}

fn parse_network(text: &str) -> Option<Cidr> {
    if text.contains('/') {
        return text.parse().ok();
    }
    let addr: IpAddr = text.parse().ok()?;
    Some(Cidr { addr, prefix_len: if addr.is_ipv4() { 32 } else { 128 } })
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_stack::socket::{SocketId, SocketKind, SocketMemory};

    fn socket(state: &'static str, local: &str, peer: &str) -> SocketInfo {
        SocketInfo {
            id: SocketId { kind: SocketKind::TcpStream, index: 0, generation: 0 },
            state,
            local: local.parse().unwrap(),
            peer: peer.parse().unwrap(),
            recv_queue: 0,
            send_queue: 0,
            alias: None,
            timer: None,
            memory: SocketMemory::default(),
            owned: true,
        }
    }

    /// Which of five sockets a filter takes.
    fn taken(filter: &str) -> String {
        let all = [
            ("a", socket("ESTAB", "10.0.0.1:443", "10.9.0.7:50000")),
            ("b", socket("ESTAB", "[fd00::1]:80", "[fd00:9::7]:1023")),
            ("c", socket("LISTEN", "[::]:80", "[::]:0")),
            ("d", socket("TIME-WAIT", "10.0.0.1:80", "192.0.2.1:1024")),
            ("e", socket("UNCONN", "0.0.0.0:53", "0.0.0.0:0")),
        ];
        let filter = Filter::parse(filter).unwrap_or_else(|e| panic!("{e}"));
        let takes = |s: &SocketInfo| filter.takes(s, Some("data0"), States::connected());
        all.iter().filter(|(_, s)| takes(s)).map(|(name, _)| *name).collect()
    }

    #[test]
    fn filters_select_as_those_of_ss() {
        for (filter, expected) in [
            ("", "ab"),
            ("state all", "abcde"),
            ("state listening", "c"),
            ("state listening state time-wait", "cd"),
            ("exclude established", "cde"),
            ("exclude bucket exclude unconnected", "abc"),
            ("dst 10.0.0.0/8", "a"),
            ("dst = 10.9.0.7", "a"),
            ("dst != 10.9.0.7", "b"),
            ("dst [fd00::/8]:1023", "b"),
            ("dst [fd00::]/8:1023", "b"),
            ("dst fd00::/8", "b"),
            ("src :443", "a"),
            ("src *:443", "a"),
            ("src 10.0.0.1:443", "a"),
            ("state all sport 80", "bcd"),
            ("state all sport = :80", "bcd"),
            ("state all dport ge 1024", "ad"),
            ("state all dport >= 1024 and dport < 50000", "d"),
            ("state all (dport gt 1023 or sport 53)", "ade"),
            ("state all and not ( sport = 80 or sport = 53 )", "a"),
            ("! dst 10.0.0.0/8", "b"),
            ("sport 443 or state listening", "ac"),
            ("sport ne 443 dport le 1023", "b"),
            ("sport 443 || sport 80 && dport 1", "a"),
            ("dev = data0 sport 443", "a"),
            ("dev != data0", ""),
        ] {
            assert_eq!(taken(filter), expected, "{filter}");
        }
    }

    #[test]
    fn errors_point_at_the_place() {
        let told = |text: &str| Filter::parse(text).unwrap_err().to_string();
        assert_eq!(
            told("dst 10.0.0.0/8 and sport = htp"),
            "filter, column 28: expected a port: a number from 0 to 65535, or ':' and one, found \
             'htp'\n  dst 10.0.0.0/8 and sport = htp\n  \u{20}                          ^"
        );
        assert_eq!(
            told("( sport 80"),
            "filter, column 11: expected ')', 'and' or 'or', but it ends there\n  ( sport 80\n  \
             \u{20}         ^"
        );
        for (text, column, what) in [
            ("state estb", 7, "a state"),
            ("sport 80 and", 13, "src, dst"),
            ("sport 80 )", 10, "the end"),
            ("dst 10.0.0.0/33", 5, "an address"),
            ("dst [fd00::", 5, "an address"),
            ("sport 65536", 7, "a port"),
            ("frobnicate", 1, "src, dst"),
            ("dev", 4, "the name of an alias"),
            ("dst é or", 5, "an address"),
        ] {
            let e = Filter::parse(text).unwrap_err();
            assert_eq!(e.column(), column, "{text}");
            assert!(e.to_string().contains(what), "{text}: {e}");
        }
        assert!(Filter::parse(&"!".repeat(10_000)).is_err());
        assert!(Filter::parse(&"(".repeat(10_000)).is_err());
    }
}
