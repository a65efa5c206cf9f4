//! Which connections get which treatment: the administrator's table.

use core::net::IpAddr;
use core::ops::RangeInclusive;

use serde::Serialize;
use weft_stack::ip::address::Cidr;
use weft_stack::time::Duration;

/// How far alternatives go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// One attempt, from where the stack chooses.
    #[default]
    Off,
    /// Only what the application named, from every address of ours.
    Weak,
    /// Other addresses of the peer too: the application may be connected to another one than it
    /// named.
    Full,
}

/// What is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// A connection.
    Tcp,
    /// A request of one datagram and its answer.
    Udp,
}

/// How a connection is set up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Treatment {
    /// How far alternatives go.
    pub form: Form,
    /// Attempts in all; the budget of one race.
    pub pairs_max: usize,
    /// Between one attempt and the next (RFC 8305 5: 250 ms).
    attempt_delay: Duration,
    /// How long an answer with IPv4 addresses waits for the one with IPv6 (RFC 8305 3: 50 ms).
    pub resolution_delay: Duration,
    /// Full form: an address given is looked up by reverse, then forward.
    pub reverse: bool,
    /// UDP: the request may reach the peer more than once, so it may be repeated.
    pub repeat: bool,
    /// UDP: how long one attempt waits for an answer.
    pub answer_timeout: Duration,
}

impl Treatment {
    /// The least time between attempts (RFC 8305 5).
    pub const DELAY_MIN: Duration = Duration::from_millis(10);
    /// The longest time between attempts (RFC 8305 5).
    pub const DELAY_MAX: Duration = Duration::from_secs(2);
    /// The largest budget.
    pub const PAIRS_MAX: usize = 64;

    /// The defaults, in this form.
    pub fn of(form: Form) -> Treatment {
        Treatment {
            form,
            pairs_max: 16,
            attempt_delay: Duration::from_millis(250),
            resolution_delay: Duration::from_millis(50),
            reverse: true,
            repeat: false,
            answer_timeout: Duration::from_secs(5),
        }
    }

    /// With another time between attempts, within 10 ms and 2 s.
    pub fn with_delay(mut self, delay: Duration) -> Treatment {
        self.attempt_delay = delay.clamp(Treatment::DELAY_MIN, Treatment::DELAY_MAX);
        self
    }

    /// Time between attempts.
    pub fn delay(&self) -> Duration {
        self.attempt_delay
    }
}

/// What a rule is asked about.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// The kind of application, if it says.
    pub class: Option<&'a str>,
    /// What is set up.
    pub protocol: Protocol,
    /// The peer's port.
    pub port: u16,
    /// The peer's address; `None` while only a name is known.
    pub address: Option<IpAddr>,
}

/// One line of the table; what it does not mention it does not ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The kind of application.
    pub class: Option<String>,
    /// What is set up.
    pub protocol: Option<Protocol>,
    /// The peer's ports.
    pub ports: Option<RangeInclusive<u16>>,
    /// The peer's addresses.
    pub to: Option<Cidr>,
    /// What is done.
    pub treatment: Treatment,
}

impl Rule {
    fn matches(&self, wanted: &Wanted<'_>) -> bool {
        let reaches = |to: &Cidr| wanted.address.is_some_and(|a| to.contains(a));
        self.class.as_deref().is_none_or(|c| wanted.class == Some(c))
            && self.protocol.is_none_or(|p| p == wanted.protocol)
            && self.ports.as_ref().is_none_or(|p| p.contains(&wanted.port))
            && self.to.as_ref().is_none_or(reaches)
    }
}

/// The table of a vserver: the first rule that matches decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyTable {
    /// In order.
    pub rules: Vec<Rule>,
    /// For what no rule matches.
    pub default: Treatment,
}

impl Default for PolicyTable {
    fn default() -> PolicyTable {
        PolicyTable { rules: Vec::new(), default: Treatment::of(Form::Off) }
    }
}

impl PolicyTable {
    /// What is done with `wanted`. A rule for addresses matches no name; each address of the name
    /// is asked about when it is known.
    pub fn treatment(&self, wanted: &Wanted<'_>) -> &Treatment {
        let rule = self.rules.iter().find(|r| r.matches(wanted));
        rule.map_or(&self.default, |r| &r.treatment)
    }

    /// Nothing is ever done: whoever connects need not ask.
    pub fn is_off(&self) -> bool {
        self.default.form == Form::Off && self.rules.iter().all(|r| r.treatment.form == Form::Off)
    }
}
