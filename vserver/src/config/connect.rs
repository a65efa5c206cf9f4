//! `connect = { ... }` of a vserver: what is tried when a connection is set up (the second shim).

use std::net::IpAddr;
use std::time::Duration;

use weft_shim::connect::{Form, PolicyTable, Protocol, Row, Rule, Treatment};
use weft_stack::ip::address::Cidr;

use super::diagnostic::Report;
use super::reader::{At, Section};

/// Most rules of one vserver.
const RULES_MAX: usize = 256;
/// Most rows of the table of addresses.
const ROWS_MAX: usize = 64;
/// Longest name of a kind of application.
const CLASS_BYTES_MAX: usize = 63;
/// Pairs of addresses remembered unless the file says otherwise.
const HISTORY_DEFAULT: usize = 512;
const FORMS: [(&str, Form); 3] = [("off", Form::Off), ("weak", Form::Weak), ("full", Form::Full)];

/// How connections are set up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connect {
    /// Which connections get which treatment.
    pub policy: PolicyTable,
    /// Pairs of addresses whose success or failure is remembered.
    pub history: usize,
    /// Rows of the table of RFC 6724 2.1 that are others than the standard's.
    pub policy_table: Vec<Row>,
}

impl Default for Connect {
    fn default() -> Connect {
        let policy = PolicyTable::default();
        Connect { policy, history: HISTORY_DEFAULT, policy_table: Vec::new() }
    }
}

/// The word for a form, as the file has it.
pub(super) fn form_word(form: Form) -> &'static str {
    FORMS.iter().find(|(_, f)| *f == form).map_or("off", |(word, _)| word)
}

/// Reads a `connect` table.
pub(super) fn read_connect(report: &mut Report, mut s: Section) -> Connect {
    let default = read_treatment(report, &mut s, &Treatment::of(Form::Off));
    s.default(report, "history", &HISTORY_DEFAULT);
    let history = s.integer(report, "history", 1..=65_536);
    let policy_table = read_policy_table(report, &mut s);
    let mut rules = Vec::new();
    for mut table in s.tables(report, "rules") {
        if rules.len() == RULES_MAX {
            report.error(&table.span, format!("more than {RULES_MAX} rules; use fewer"));
            break;
        }
        rules.push(read_rule(report, &mut table, &default));
        table.finish(report);
    }
    s.finish(report);
    let history = history.map_or(HISTORY_DEFAULT, |v| v.value as usize);
    Connect { policy: PolicyTable { rules, default }, history, policy_table }
}

fn read_policy_table(report: &mut Report, s: &mut Section) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for text in s.strings(report, "policy_table") {
        let Some(row) = read_row(text.value) else {
            let text_of = format!(
                "'{}' is no row; write a network, its precedence and its label (0 to 255), like \
                 \"2001:db8::/32 45 1\"",
                text.value
            );
            report.error(&text.span, text_of);
            continue;
        };
        if rows.len() == ROWS_MAX {
            report.error(&text.span, format!("more than {ROWS_MAX} rows; use fewer"));
            break;
        }
        if rows.iter().any(|r| r.prefix == row.prefix) {
            report.error(&text.span, format!("{} has a row already; leave one", row.prefix));
            continue;
        }
        rows.push(row);
    }
    rows
}

fn read_row(text: &str) -> Option<Row> {
    let mut words = text.split_whitespace();
    let (network, precedence, label) = (words.next()?, words.next()?, words.next()?);
    let row = Row::new(network.parse().ok()?, precedence.parse().ok()?, label.parse().ok()?);
    words.next().is_none().then_some(row)
}

fn read_treatment(report: &mut Report, s: &mut Section, base: &Treatment) -> Treatment {
    let mut t = base.clone();
    let ms = |d: Duration| d.as_millis();
    s.default(report, "form", &form_word(base.form));
    s.default(report, "attempt_delay_ms", &ms(base.delay()));
    s.default(report, "resolution_delay_ms", &ms(base.resolution_delay));
    s.default(report, "pairs", &base.pairs_max);
    s.default(report, "reverse", &base.reverse);
    s.default(report, "repeat", &base.repeat);
    s.default(report, "answer_timeout_ms", &ms(base.answer_timeout));
    if let Some(form) = s.choice(report, "form", &FORMS) {
        t.form = form.value;
    }
    let bounds = (Treatment::DELAY_MIN.as_millis() as u64, Treatment::DELAY_MAX.as_millis() as u64);
    if let Some(v) = s.integer(report, "attempt_delay_ms", bounds.0..=bounds.1) {
        t = t.with_delay(Duration::from_millis(v.value));
    }
    if let Some(v) = s.integer(report, "resolution_delay_ms", 0..=2000) {
        t.resolution_delay = Duration::from_millis(v.value);
    }
    if let Some(v) = s.integer(report, "pairs", 1..=Treatment::PAIRS_MAX as u64) {
        t.pairs_max = v.value as usize;
    }
    if let Some(v) = s.boolean(report, "reverse") {
        t.reverse = v.value;
    }
    if let Some(v) = s.boolean(report, "repeat") {
        t.repeat = v.value;
    }
    if let Some(v) = s.integer(report, "answer_timeout_ms", 10..=60_000) {
        t.answer_timeout = Duration::from_millis(v.value);
    }
    t
}

fn read_rule(report: &mut Report, s: &mut Section, default: &Treatment) -> Rule {
    let class = s.string(report, "class").map(|t| {
        if t.value.is_empty() || t.value.len() > CLASS_BYTES_MAX {
            report.error(&t.span, "a class has 1 to 63 bytes");
        }
        t.value.to_owned()
    });
    let words = [("tcp", Protocol::Tcp), ("udp", Protocol::Udp)];
    let protocol = s.choice(report, "protocol", &words).map(|v| v.value);
    let ports = s.string(report, "ports").and_then(|t| read_ports(report, &t));
    let to = s.string(report, "to").and_then(|t| read_network(report, &t));
    let treatment = read_treatment(report, s, default);
    if s.span_of_key("form").is_none() {
        s.missing(report, "form", "\"full\"");
    }
    Rule { class, protocol, ports, to, treatment }
}

fn read_ports(report: &mut Report, t: &At<&str>) -> Option<std::ops::RangeInclusive<u16>> {
    let (low, high) = t.value.split_once('-').unwrap_or((t.value, t.value));
    let range = low.trim().parse().ok().zip(high.trim().parse().ok());
    let range = range.filter(|(low, high): &(u16, u16)| low <= high && *low > 0);
    if range.is_none() {
        let text = format!("'{}' is no port; write \"80\" or \"8000-8100\"", t.value);
        report.error(&t.span, text);
    }
    range.map(|(low, high)| low..=high)
}

fn read_network(report: &mut Report, t: &At<&str>) -> Option<Cidr> {
    let single = t
        .value
        .parse::<IpAddr>()
        .ok()
        .map(|addr| Cidr { addr, prefix_len: if addr.is_ipv4() { 32 } else { 128 } });
    let network = single.or_else(|| t.value.parse::<Cidr>().ok()).map(|c| c.network());
    if network.is_none() {
        let text =
            format!("'{}' is no network; write one like 192.0.2.0/24 or 2001:db8::/32", t.value);
        report.error(&t.span, text);
    }
    network
}
