//! Services and classes by name, the built-in ones and those of the configuration.

use std::collections::BTreeMap;
use std::fmt;

use super::{AccessRule, Action, Place, Written};
use crate::interface::AliasClass;

/// What a port is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// Echo requests of ICMP and ICMPv6.
    Icmp,
    /// Everything: these, and protocols without ports.
    Any,
}

/// A protocol and a range of its ports; without ports (`icmp`, `any`) the range is whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ports {
    /// The protocol.
    pub protocol: Protocol,
    /// The lowest port.
    pub first: u16,
    /// The highest.
    pub last: u16,
}

impl Ports {
    /// Everything.
    pub const ANY: Ports = Ports { protocol: Protocol::Any, first: 0, last: u16::MAX };

    /// Reads `tcp/22`, `udp/5000-5010`, `tcp`, `udp`, `icmp` or `any`; `None`: it is none of them.
    /// `Err`: it begins like one.
    pub fn parse(text: &str) -> Option<Result<Ports, String>> {
        let (name, range) = match text.split_once('/') {
            Some((name, range)) => (name, Some(range)),
            None => (text, None),
        };
        let protocol = match name {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            "icmp" => Protocol::Icmp,
            "any" => Protocol::Any,
            _ => {
                let hint = "write tcp/PORT or udp/PORT";
                return range.map(|_| Err(format!("'{name}' is no protocol with ports; {hint}")));
            }
        };
        Some(Ports::parse_range(text, protocol, range))
    }

    fn parse_range(text: &str, protocol: Protocol, range: Option<&str>) -> Result<Ports, String> {
        let Some(range) = range else {
            return Ok(Ports { protocol, first: 0, last: u16::MAX });
        };
        if matches!(protocol, Protocol::Icmp | Protocol::Any) {
            return Err(format!("'{text}' has no ports; write tcp/PORT or udp/PORT"));
        }
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let port = |t: &str| t.parse::<u16>().ok().filter(|p| *p > 0 && !t.starts_with('+'));
        match (port(first), port(last)) {
            (Some(first), Some(last)) if first <= last => Ok(Ports { protocol, first, last }),
            (Some(_), Some(_)) => {
                Err(format!("'{range}' ends before it begins; write {last}-{first}"))
            }
            _ => Err(format!("'{range}' is no port from 1 to 65535, and no range like 5000-5010")),
        }
    }

    pub(super) fn covers(self, protocol: Protocol, port: u16) -> bool {
        (self.protocol == Protocol::Any || self.protocol == protocol)
            && (self.first..=self.last).contains(&port)
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Icmp => "icmp",
            Protocol::Any => "any",
        };
        match (self.first, self.last) {
            (0, u16::MAX) => f.write_str(name),
            (first, last) if first == last => write!(f, "{name}/{first}"),
            (first, last) => write!(f, "{name}/{first}-{last}"),
        }
    }
}

/// Services that belong together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Class {
    /// Its services as written.
    pub services: Vec<String>,
    /// What they are.
    pub ports: Vec<Ports>,
    /// Closed on `data` and `san` aliases unless a rule opens it.
    pub management: bool,
}

/// Services and classes by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Catalogue {
    /// Named services.
    pub services: BTreeMap<String, Vec<Ports>>,
    /// Classes.
    pub classes: BTreeMap<String, Class>,
}

/// Services that everybody knows.
const SERVICES: &[(&str, &[&str])] = &[
    // data
    ("nfs", &["tcp/2049", "udp/2049", "tcp/111", "udp/111", "tcp/20048", "udp/20048"]),
    ("cifs", &["tcp/445", "tcp/139", "udp/137-138"]),
    ("iscsi", &["tcp/3260", "tcp/860"]),
    ("nvme", &["tcp/4420", "tcp/8009"]),
    ("ftp", &["tcp/20-21"]),
    ("http", &["tcp/80"]),
    ("https", &["tcp/443", "udp/443"]),
    ("rsync", &["tcp/873"]),
    // mgmt
    ("ssh", &["tcp/22"]),
    ("telnet", &["tcp/23"]),
    ("snmp", &["udp/161", "tcp/161"]),
    ("web-mgmt", &["tcp/8443", "tcp/9090"]),
    ("netconf", &["tcp/830"]),
    ("ndmp", &["tcp/10000"]),
    ("ipmi", &["udp/623", "tcp/623"]),
    // others
    ("dns", &["udp/53", "tcp/53"]),
    ("ntp", &["udp/123"]),
    ("mdns", &["udp/5353"]),
];

const DATA: &[&str] = &["nfs", "cifs", "iscsi", "nvme", "ftp", "http", "https", "rsync"];
const MGMT: &[&str] = &["ssh", "telnet", "snmp", "web-mgmt", "netconf", "ndmp", "ipmi"];

impl Default for Catalogue {
    fn default() -> Catalogue {
        let ports = |list: &[&str]| -> Vec<Ports> {
            list.iter().filter_map(|t| Ports::parse(t)?.ok()).collect()
        };
        let services = SERVICES.iter().map(|(name, list)| ((*name).to_owned(), ports(list)));
        let mut all = Catalogue { services: services.collect(), classes: BTreeMap::new() };
        for (name, list, management) in [("data", DATA, false), ("mgmt", MGMT, true)] {
            let services: Vec<String> = list.iter().map(|s| (*s).to_owned()).collect();
            let class = Class { services, ports: Vec::new(), management };
            all.classes.insert(name.to_owned(), class);
        }
        all.resolve();
        all
    }
}

impl Catalogue {
    /// What a word means: a class, a service, a protocol with or without ports.
    pub fn find(&self, word: &str) -> Result<Vec<Ports>, String> {
        if let Some(class) = self.classes.get(word) {
            return Ok(class.ports.clone());
        }
        self.find_service(word)
    }

    /// The same without classes, of which none contains another.
    pub fn find_service(&self, word: &str) -> Result<Vec<Ports>, String> {
        if let Some(ports) = self.services.get(word) {
            return Ok(ports.clone());
        }
        match Ports::parse(word) {
            Some(Ok(ports)) => Ok(vec![ports]),
            Some(Err(problem)) => Err(problem),
            None => Err(format!("'{word}' is no service and no class")),
        }
    }

    /// Every name, for hints.
    pub fn names(&self) -> Vec<&str> {
        let all = self.classes.keys().chain(self.services.keys());
        all.map(String::as_str).chain(["any", "tcp", "udp", "icmp"]).collect()
    }

    /// Looks the services of all classes up again.
    pub(crate) fn resolve(&mut self) {
        for class in self.classes.values_mut() {
            let found = class.services.iter();
            let found = found.filter_map(|s| match self.services.get(s) {
                Some(ports) => Some(ports.clone()),
                None => Some(vec![Ports::parse(s)?.ok()?]),
            });
            class.ports = found.flatten().collect();
        }
    }

    /// The rules that hold where nobody says anything else: management is closed on `data` and `san`.
    /// What no rule matches is allowed.
    pub fn defaults(&self) -> impl Iterator<Item = AccessRule> + '_ {
        self.classes.iter().filter(|(_, c)| c.management).map(|(name, class)| AccessRule {
            action: Action::Drop,
            services: name.clone(),
            ports: class.ports.clone(),
            on: vec![Place::Kind(AliasClass::Data), Place::Kind(AliasClass::San)],
            of: Vec::new(),
            from: Vec::new(),
            names: Vec::new(),
            mark: 0,
            log: false,
            written: Written(String::from("default")),
        })
    }
}
