//! Bonds: what LACP shows, or its absence.

use super::{BondEvidence, Code, Diagnosis, Evidence, Severity, list, seconds, settle};
use crate::bond::config::{Activity, Mode};
use crate::bond::lacp::{ChurnState, ReceiveState};
use crate::bond::{EndReport, LacpPortReport, PortReport, SaidReport, Unused};

/// Own frames in a window that are no chance.
const OWN_FRAMES_MIN: u64 = 3;
/// The system of a partner that is not known.
const NOBODY: &str = "00:00:00:00:00:00";
/// Frames in a window that show that a switch forwards to a port.
const FRAMES_MIN: u64 = 20;

pub(super) fn examine(all: &Evidence, bond: &BondEvidence, found: &mut Vec<Diagnosis>) {
    let case = Case { all, bond };
    if bond.report.mode != Mode::Lacp {
        case.without_lacp(found);
        return;
    }
    let silent: Vec<&PortReport> = case.ports().filter(|p| is_silent(p)).collect();
    case.silent(&silent, found);
    let mut explained: Vec<&str> = silent.iter().map(|p| &*p.name).collect();
    for port in case.ports() {
        if !explained.contains(&&*port.name)
            && let Some(diagnosis) = case.cable(port)
        {
            found.push(diagnosis);
            explained.push(&port.name);
        }
    }
    case.partners(&mut explained, found);
    for port in case.ports() {
        if !explained.contains(&&*port.name) {
            found.extend(case.port(port));
        }
    }
    if silent.is_empty() {
        case.looped(found);
    }
}

/// Nothing is heard, and the cable was there long enough.
fn is_silent(port: &PortReport) -> bool {
    port.lacp.as_ref().is_some_and(|l| l.receive == ReceiveState::Defaulted)
        && port.link_ms >= settle::SILENT
        && port.last_pdu_ms.is_none_or(|ms| ms >= settle::SILENT)
}

/// What LACPDUs said since the link came up, for so long that the last one is no chance.
fn steadily_said(port: &PortReport, ms: u64) -> Option<&SaidReport> {
    let last = port.last_pdu_ms.filter(|ms| *ms < settle::SILENT && *ms < port.link_ms)?;
    port.said.as_ref().filter(|said| said.since_ms >= last + ms)
}

/// The partner is heard, believed, and what it says is not new.
fn steady_partner(port: &PortReport) -> Option<(&LacpPortReport, &EndReport)> {
    let lacp = port.lacp.as_ref().filter(|l| l.receive == ReceiveState::Current && !l.resumed)?;
    Some((lacp, &steadily_said(port, settle::EXCHANGE)?.partner))
}

fn is_same_end(a: &EndReport, b: &EndReport) -> bool {
    (&a.system, a.key, a.port) == (&b.system, b.key, b.port)
}

fn end(end: &EndReport) -> String {
    format!("system {} key {} port {}", end.system, end.key, end.port)
}

struct Case<'a> {
    all: &'a Evidence,
    bond: &'a BondEvidence,
}

impl<'a> Case<'a> {
    /// Ports that should work.
    fn ports(&self) -> impl Iterator<Item = &'a PortReport> + use<'a> {
        self.bond.report.ports.iter().filter(|p| p.link && !p.offline)
    }

    fn of(&self, code: Code, severity: Severity, ports: &[&PortReport]) -> Diagnosis {
        Diagnosis {
            severity,
            code,
            interface: self.bond.name.clone(),
            ports: ports.iter().map(|p| p.name.clone()).collect(),
            evidence: Vec::new(),
            advice: String::new(),
        }
    }

    fn one(
        &self,
        code: Code,
        severity: Severity,
        port: &PortReport,
        evidence: Vec<String>,
        advice: String,
    ) -> Diagnosis {
        Diagnosis { evidence, advice, ..self.of(code, severity, &[port]) }
    }

    fn other_end(&self, port: &PortReport) -> String {
        self.all.other_end(&port.name)
    }

    fn other_ends(&self, ports: &[&PortReport]) -> String {
        list(&ports.iter().map(|p| self.other_end(p)).collect::<Vec<_>>())
    }

    fn own_frames(&self, port: &PortReport) -> Option<(u64, u64)> {
        let recent = self.all.nic(&port.name)?.recent.as_ref()?;
        (recent.own >= OWN_FRAMES_MIN).then_some((recent.own, recent.window_ms))
    }

    fn own_frames_lines(&self) -> Vec<String> {
        self.ports()
            .filter_map(|p| {
                let (own, window) = self.own_frames(p)?;
                Some(format!(
                    "{}: {own} of our own frames came back in {}",
                    p.name,
                    seconds(window)
                ))
            })
            .collect()
    }

    /// Modes that do not negotiate: whether the switch agrees can only be guessed.
    fn without_lacp(&self, found: &mut Vec<Diagnosis>) {
        let speaks = |p: &&PortReport| p.last_pdu_ms.is_some_and(|ms| ms < settle::SILENT);
        let heard: Vec<&PortReport> = self.ports().filter(speaks).collect();
        if !heard.is_empty() {
            let line = |p: &&PortReport| {
                let partner = p.partner.as_ref().map_or_else(String::new, end);
                format!(
                    "{}: LACPDUs come in, the last {} ago, {partner}",
                    p.name,
                    seconds(p.last_pdu_ms.unwrap_or(0))
                )
            };
            found.push(Diagnosis {
                evidence: heard.iter().map(line).collect(),
                advice: format!(
                    "set mode = \"lacp\" for {}, or take LACP off {}",
                    self.bond.name,
                    self.other_ends(&heard)
                ),
                ..self.of(Code::ModeMismatch, Severity::Error, &heard)
            });
            return;
        }
        // With one active port a switch rightly floods our broadcasts to the others.
        if self.bond.report.mode != Mode::ActiveBackup {
            self.looped(found);
        }
    }

    fn looped(&self, found: &mut Vec<Diagnosis>) {
        let ports: Vec<&PortReport> =
            self.ports().filter(|p| self.own_frames(p).is_some()).collect();
        if ports.is_empty() {
            return;
        }
        let advice = if self.bond.report.mode == Mode::Lacp {
            format!("look for a loop in the network behind {}", self.other_ends(&ports))
        } else {
            let all: Vec<&PortReport> = self.ports().collect();
            format!("put these into one static group: {}", self.other_ends(&all))
        };
        let evidence = self.own_frames_lines();
        let looped = self.of(Code::Looped, Severity::Error, &ports);
        found.push(Diagnosis { evidence, advice, ..looped });
    }

    fn silent(&self, silent: &[&PortReport], found: &mut Vec<Diagnosis>) {
        if silent.is_empty() {
            return;
        }
        let mut evidence: Vec<String> = silent.iter().map(|p| self.silent_line(p)).collect();
        let receives = |p: &&&PortReport| {
            let recent = self.all.nic(&p.name).and_then(|n| n.recent.as_ref());
            recent.is_some_and(|r| r.frames >= FRAMES_MIN)
        };
        let receiving = silent.iter().filter(receives).count();
        let back = self.own_frames_lines();
        let grouped = silent.iter().any(|p| {
            let aggregation = self.all.neighbour(&p.name).and_then(|n| n.aggregation);
            aggregation.is_some_and(|a| a.enabled)
        });
        // Frames over one port alone are what any silent neighbour sends.
        let code = if grouped || receiving > 1 || !back.is_empty() {
            Code::StaticOrNone
        } else {
            Code::NoPartner
        };
        if receiving > 1 {
            evidence
                .push(format!("data frames come in on {receiving} of these ports all the same"));
        }
        evidence.extend(back);
        let mut advice =
            format!("turn LACP on (active) with one key at {}", self.other_ends(silent));
        if code == Code::StaticOrNone && !grouped {
            advice.push_str("; now they are in a static group, or in none");
        } else if grouped {
            advice.push_str("; now they are in a static group");
        }
        let lacp = self.bond.report.lacp.as_ref();
        if lacp.is_some_and(|l| l.activity == Activity::Passive) {
            evidence
                .push(format!("{} is passive: it waits for the switch to begin", self.bond.name));
            advice = format!("{advice}, or set lacp.activity = \"active\" for {}", self.bond.name);
        }
        let silent = self.of(code, Severity::Error, silent);
        found.push(Diagnosis { evidence, advice, ..silent });
    }

    fn silent_line(&self, port: &PortReport) -> String {
        let heard = match port.last_pdu_ms {
            Some(ms) => format!("the last LACPDU came {} ago", seconds(ms)),
            None => "no LACPDU ever came".to_owned(),
        };
        let sent = port.counters.pdus_out;
        let mut line =
            format!("{}: link for {}, {heard}, {sent} sent", port.name, seconds(port.link_ms));
        if let Some(n) = self.all.neighbour(&port.name) {
            line = format!("{line}; LLDP comes in from {}", super::place(n));
            match n.aggregation {
                Some(a) if a.enabled => line = format!("{line}, in aggregate {}", a.id),
                Some(_) => line.push_str(", in no aggregate"),
                None => {}
            }
        }
        line
    }

    /// What is wrong with the cable itself.
    fn cable(&self, port: &PortReport) -> Option<Diagnosis> {
        if port.unused == Some(Unused::HalfDuplex) && port.unused_ms >= settle::EXCHANGE {
            let advice =
                format!("let both ends negotiate, or set full duplex at {}", self.other_end(port));
            let evidence = vec![format!("{}: the link is half duplex", port.name)];
            return Some(self.one(Code::HalfDuplex, Severity::Error, port, evidence, advice));
        }
        if port.unused == Some(Unused::Loopback) && port.unused_ms >= settle::EXCHANGE {
            return Some(self.loopback(port));
        }
        self.duplicate(port).or_else(|| self.one_way(port)).or_else(|| self.rate(port))
    }

    fn loopback(&self, port: &PortReport) -> Diagnosis {
        let partner = port.partner.as_ref();
        let other = self.bond.report.ports.iter().find(|p| {
            let number = p.lacp.as_ref().map(|l| l.actor.port);
            number.is_some() && number == partner.map(|e| e.port)
        });
        let mut evidence = vec![format!(
            "{}: the partner is this same system, {}",
            port.name,
            partner.map_or_else(String::new, end)
        )];
        let advice = match other {
            Some(p) if p.name == port.name => {
                evidence.push("what it hears are its own LACPDUs".to_owned());
                format!("remove the loop or mirror at {}", self.other_end(port))
            }
            Some(p) => {
                format!(
                    "{} and {} are cabled to each other: plug both into the switch",
                    port.name, p.name
                )
            }
            None => format!("plug {} into the switch instead of this host", port.name),
        };
        self.one(Code::Loopback, Severity::Error, port, evidence, advice)
    }

    fn duplicate(&self, port: &PortReport) -> Option<Diagnosis> {
        let same = port.same_partner_as.as_ref()?;
        let other = self.bond.report.ports.iter().find(|p| p.name == *same)?;
        let (_, partner) = steady_partner(port)?;
        steady_partner(other)?;
        let evidence = vec![format!("{} and {same} both hear {}", port.name, end(partner))];
        let advice = format!(
            "something between {}, {same} and the switch repeats frames (a hub, a mirror): connect each directly to a port of its own",
            port.name
        );
        Some(self.one(Code::Duplicate, Severity::Error, port, evidence, advice))
    }

    fn one_way(&self, port: &PortReport) -> Option<Diagnosis> {
        let said = steadily_said(port, settle::EXCHANGE)?;
        let state = &said.partner.state;
        let knows_nobody = said.view.system == NOBODY;
        let silent = state.expired || state.defaulted && knows_nobody;
        let stops =
            port.lacp.as_ref().is_some_and(|l| l.stale_view && is_same_end(&said.view, &l.actor));
        let what = if silent {
            format!("says for {} that it hears nobody", seconds(said.since_ms))
        } else if stops {
            let old = said.view.state.octet;
            format!(
                "knows an old state of us ({old:#04x}) for {} LACPDUs",
                port.counters.stale_view
            )
        } else {
            return None;
        };
        let evidence = vec![format!(
            "{}: {} {what} (state {:#04x}); {} LACPDUs were sent",
            port.name,
            end(&said.partner),
            state.octet,
            port.counters.pdus_out
        )];
        let advice = format!(
            "replace the cable or transceiver between {} and {}: it works in one direction only",
            port.name,
            self.other_end(port)
        );
        Some(self.one(Code::OneWay, Severity::Error, port, evidence, advice))
    }

    fn rate(&self, port: &PortReport) -> Option<Diagnosis> {
        let lacp = port.lacp.as_ref().filter(|l| l.expected_interval_ms <= 1000)?;
        let slow = port.interval_ms.filter(|ms| (25_000..=35_000).contains(ms))?;
        let heard = port.last_pdu_ms.is_some_and(|ms| ms < settle::SILENT);
        // Once is what any interruption looks like.
        // Who does not hear us does not know what we ask.
        let knows = port.said.as_ref().is_some_and(|s| s.view.state.short_timeout);
        if !heard || !knows || port.counters.expired < 2 {
            return None;
        }
        let evidence = vec![format!(
            "{}: LACPDUs come every {}, the partner knows that {} are asked for; silence was noticed {} times",
            port.name,
            seconds(slow),
            seconds(lacp.expected_interval_ms),
            port.counters.expired
        )];
        let advice = format!(
            "allow the fast rate at {}, or set lacp.rate = \"slow\" for {}",
            self.other_end(port),
            self.bond.name
        );
        Some(self.one(Code::RateIgnored, Severity::Error, port, evidence, advice))
    }

    /// Ports against each other: one system, one key.
    fn partners(&self, explained: &mut Vec<&'a str>, found: &mut Vec<Diagnosis>) {
        let heard: Vec<(&PortReport, &EndReport)> = self
            .ports()
            .filter(|p| !explained.contains(&&*p.name))
            .filter_map(|p| Some((p, steady_partner(p)?.1)))
            .collect();
        let Some(reference) = self.reference(&heard) else { return };
        let same_system = |e: &EndReport| e.system == reference.system;
        let (mine, others): (Vec<_>, Vec<_>) = heard.iter().partition(|(_, e)| same_system(e));
        let (_, keys): (Vec<_>, Vec<_>) = mine.iter().partition(|(_, e)| e.key == reference.key);
        let line = |(p, e): &(&PortReport, &EndReport)| {
            format!("{}: {}, at {}", p.name, end(e), self.other_end(p))
        };
        let evidence: Vec<String> = heard.iter().map(line).collect();
        let good = mine
            .iter()
            .find(|(_, e)| e.key == reference.key)
            .map_or_else(String::new, |(p, _)| self.other_end(p));
        if !others.is_empty() {
            let ports: Vec<&PortReport> = others.iter().map(|(p, _)| *p).collect();
            explained.extend(ports.iter().map(|p| &*p.name));
            found.push(Diagnosis {
                evidence: evidence.clone(),
                advice: format!(
                    "plug {} into the switch of {good}, or join both switches to one LACP system (MLAG); until then these ports carry nothing",
                    list(&names(&ports))
                ),
                ..self.of(Code::SystemMismatch, Severity::Error, &ports)
            });
        }
        if !keys.is_empty() {
            let ports: Vec<&PortReport> = keys.iter().map(|(p, _)| *p).collect();
            explained.extend(ports.iter().map(|p| &*p.name));
            let speeds: Vec<String> = heard
                .iter()
                .filter_map(|(p, _)| Some(format!("{} {} Mb/s", p.name, p.speed_mbit?)))
                .collect();
            let mut evidence = evidence;
            if !speeds.is_empty() {
                evidence.push(format!("speeds: {}", list(&speeds)));
            }
            found.push(Diagnosis {
                evidence,
                advice: format!(
                    "put {} into the channel group of {good} (key {}), with the same speed",
                    self.other_ends(&ports),
                    reference.key
                ),
                ..self.of(Code::KeyMismatch, Severity::Error, &ports)
            });
        }
    }

    /// The end that the others should agree with: that of the aggregate in use.
    fn reference<'b>(&self, heard: &[(&PortReport, &'b EndReport)]) -> Option<&'b EndReport> {
        let used = self.bond.report.lacp.as_ref().and_then(|l| l.partner.as_ref());
        let used =
            used.and_then(|u| heard.iter().find(|(_, e)| e.system == u.system && e.key == u.key));
        used.or(heard.first()).map(|(_, e)| *e)
    }

    /// One port whose partner is heard and is the right one.
    fn port(&self, port: &PortReport) -> Option<Diagnosis> {
        if let Some((lacp, partner)) = steady_partner(port)
            && let Some(diagnosis) = self.partner(port, lacp, partner)
        {
            return Some(diagnosis);
        }
        if port.unused == Some(Unused::OtherSpeed) && port.unused_ms >= settle::EXCHANGE {
            let speed = |p: &PortReport| Some(format!("{}: {} Mb/s", p.name, p.speed_mbit?));
            let evidence = self.ports().filter_map(speed).collect();
            let advice = format!(
                "set one speed at {} and the other ports of {}",
                self.other_end(port),
                self.bond.name
            );
            return Some(self.one(Code::SpeedMismatch, Severity::Error, port, evidence, advice));
        }
        self.churn(port)
    }

    fn partner(
        &self,
        port: &PortReport,
        lacp: &LacpPortReport,
        partner: &EndReport,
    ) -> Option<Diagnosis> {
        let state = &partner.state;
        if !state.aggregatable && lacp.actor.state.aggregatable && self.bond.report.ports.len() > 1
        {
            let evidence =
                vec![format!("{}: {} says that its port is individual", port.name, end(partner))];
            let advice = format!("put {} into the channel group", self.other_end(port));
            return Some(self.one(
                Code::PartnerIndividual,
                Severity::Error,
                port,
                evidence,
                advice,
            ));
        }
        let somebody = |view: &&EndReport| view.system != NOBODY;
        if let Some(view) = port.view.as_ref().filter(somebody).filter(|_| lacp.stale_view) {
            let evidence = vec![
                format!(
                    "{}: the partner says we are {}, for {} LACPDUs",
                    port.name,
                    end(view),
                    port.counters.stale_view
                ),
                format!("{}: we are {}", port.name, end(&lacp.actor)),
            ];
            let advice = format!(
                "{} talks to another host or port: look for a mirror or hub there, then reset its link",
                self.other_end(port)
            );
            return Some(self.one(Code::StaleView, Severity::Error, port, evidence, advice));
        }
        None
    }

    /// What should have come to an end long ago.
    fn churn(&self, port: &PortReport) -> Option<Diagnosis> {
        let lacp = port.lacp.as_ref()?;
        let partner = port.partner.as_ref()?;
        // Of one that fell silent the silence is to be told, not what it said before.
        port.last_pdu_ms.filter(|ms| *ms <= 2 * lacp.expected_interval_ms + 1000)?;
        let since = seconds(port.unused_ms);
        let (code, text, advice) = match port.unused {
            Some(Unused::PartnerNotInSync)
                if lacp.partner_churn == ChurnState::Churn && lacp.actor.state.sync =>
            {
                (
                    Code::PartnerChurn,
                    format!("we are in sync, the partner is not, for {since}"),
                    format!(
                        "look why {} refuses (most ports of the group are in use, standby, other speed, duplex or VLANs)",
                        self.other_end(port)
                    ),
                )
            }
            Some(Unused::PartnerNotCollecting) if port.unused_ms >= settle::CHURN => (
                Code::PartnerNotCollecting,
                format!("both are in sync, but the partner does not take frames, for {since}"),
                format!(
                    "look whether {} is blocked (min-links, spanning tree, error-disabled)",
                    self.other_end(port)
                ),
            ),
            None if partner.state.collecting
                && !partner.state.distributing
                && lacp.actor.state.collecting
                && steadily_said(port, settle::CHURN).is_some() =>
            {
                (
                    Code::PartnerNotDistributing,
                    format!("the partner takes frames but sends none, for {since}"),
                    format!("look whether {} is error-disabled or held back", self.other_end(port)),
                )
            }
            Some(Unused::MinLinks | Unused::Waiting | Unused::Individual)
                if port.unused_ms >= settle::CHURN =>
            {
                (
                    Code::ActorChurn,
                    format!("we do not take it into the bond, for {since}: {}", word(port.unused)),
                    format!(
                        "look at the limits of {} (min_links, max_ports, individual)",
                        self.bond.name
                    ),
                )
            }
            _ => return None,
        };
        let evidence = vec![format!("{}: {text}; {}", port.name, end(partner))];
        Some(self.one(code, Severity::Error, port, evidence, advice))
    }
}

fn names(ports: &[&PortReport]) -> Vec<String> {
    ports.iter().map(|p| p.name.clone()).collect()
}

/// A reason as the configuration and reports write it.
fn word(unused: Option<Unused>) -> String {
    let name = format!("{:?}", unused.unwrap_or(Unused::Waiting));
    let mut out = String::new();
    for c in name.chars() {
        if c.is_uppercase() && !out.is_empty() {
            out.push('-');
        }
        out.extend(c.to_lowercase());
    }
    out
}
