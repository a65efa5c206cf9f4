//! `weft paths`: failover groups in the forms of ipmpstat.

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use weft_interface::paths::{
    GroupHealth, LinkHealth, MemberHealth, PathsReport, ProbeHealth, ProbeLine, TargetMode,
};
use weft_interface::probe::bfd::State;
use weft_vserver::control::{Answer, Command, Connection};
use weft_vserver::stats::json;

use super::bonds::Row;
use super::daemon;
use super::watch::Watch;
use crate::Error;

/// Columns beyond this are shown only if they are asked for.
const WIDTH: usize = 80;
/// How often the daemon is asked for probes that ended.
const PAUSE: Duration = Duration::from_millis(200);
/// Lines of a stream on a terminal before the header is repeated.
const SCREENFUL: usize = 22;

/// Options of `weft paths`.
#[derive(Debug, clap::Args)]
#[command(
    group(clap::ArgGroup::new("mode").required(true)
        .args(["addresses", "groups", "interfaces", "probes", "targets", "bfd", "counters"])),
    after_help = "\
INTERFACES of a group are: those that carry frames, (those that could and wait), [those that cannot].
An alias that is bound to targets beyond its link (beyond = [...]) is a group of one; targets in [] are lost.
FLAGS: i waits, s standby, m and b nominated for IPv4 multicast and broadcast, M for IPv6 multicast,
d down, h taken out for a duplicate MAC address. Empty values are --, with -P nothing.
-b: TX is between two packets of ours; silence of DETECT ends a session; DIAG and REMOTE are the numbers of
RFC 5880 for why it ended, at this end and at the other. -c: what is 0 is left out. -p goes on until it is stopped; TIME is since its start, a lost probe has no RTT."
)]
#[allow(clippy::struct_excessive_bools, reason = "what is shown: one of seven switches")]
pub struct Args {
    /// Data addresses: state, group, member that receives, members that send
    #[arg(short, long)]
    pub addresses: bool,
    /// Groups: state, failure detection time, members
    #[arg(short, long)]
    pub groups: bool,
    /// Members: flags, link, probes, state
    #[arg(short, long)]
    pub interfaces: bool,
    /// Probes as they end
    #[arg(short, long, conflicts_with = "watch")]
    pub probes: bool,
    /// Test addresses and their targets
    #[arg(short, long)]
    pub targets: bool,
    /// BFD sessions of fast mode
    #[arg(short, long)]
    pub bfd: bool,
    /// What groups, members, probers and BFD counted
    #[arg(short, long)]
    pub counters: bool,
    /// Only these columns, in this order; all: every one
    #[arg(short, long, value_name = "FIELD,...", value_delimiter = ',')]
    pub output: Vec<String>,
    /// For programs: no header, fields between colons, `:` and `\` in them after a `\`
    #[arg(short = 'P', long, requires = "output")]
    pub parsable: bool,
    /// Print JSON: one document with schema_version; with --watch or -p one per line
    #[arg(short, long, conflicts_with_all = ["output", "parsable"])]
    pub json: bool,
    /// Again and again
    #[command(flatten)]
    pub watch: Watch,
}

/// A column: its name, its width with the blank after it.
type Column = (&'static str, usize);

const ADDRESSES: &[Column] =
    &[("ADDRESS", 26), ("STATE", 7), ("GROUP", 12), ("INBOUND", 12), ("OUTBOUND", 23)];
const GROUPS: &[Column] =
    &[("GROUP", 12), ("GROUPNAME", 12), ("STATE", 10), ("FDT", 10), ("INTERFACES", 30)];
const INTERFACES: &[Column] = &[
    ("INTERFACE", 12),
    ("ACTIVE", 8),
    ("GROUP", 12),
    ("FLAGS", 10),
    ("LINK", 10),
    ("PROBE", 10),
    ("STATE", 10),
];
const PROBES: &[Column] = &[
    ("TIME", 10),
    ("INTERFACE", 12),
    ("PROBE", 7),
    ("NETRTT", 10),
    ("RTT", 10),
    ("RTTAVG", 10),
    ("TARGET", 20),
    ("RTTDEV", 10),
];
const TARGETS: &[Column] = &[("INTERFACE", 12), ("MODE", 10), ("TESTADDR", 20), ("TARGETS", 38)];
const SESSIONS: &[Column] = &[
    ("INTERFACE", 12),
    ("PEER", 26),
    ("STATE", 11),
    ("TX", 9),
    ("DETECT", 9),
    ("DIAG", 5),
    ("REMOTE", 7),
];
const COUNTERS: &[Column] = &[("GROUP", 12), ("INTERFACE", 12), ("COUNTER", 28), ("VALUE", 12)];

impl Args {
    fn columns(&self) -> &'static [Column] {
        if self.addresses {
            ADDRESSES
        } else if self.groups {
            GROUPS
        } else if self.interfaces {
            INTERFACES
        } else if self.probes {
            PROBES
        } else if self.bfd {
            SESSIONS
        } else if self.counters {
            COUNTERS
        } else {
            TARGETS
        }
    }
}

/// What of a row is printed, and how.
#[derive(Debug)]
struct Layout {
    columns: &'static [Column],
    /// Positions in `columns`.
    chosen: Vec<usize>,
    parsable: bool,
}

impl Layout {
    fn new(args: &Args) -> Result<Layout, Error> {
        let columns = args.columns();
        let parsable = args.parsable;
        if args.output.iter().any(|o| o.eq_ignore_ascii_case("all")) {
            return Ok(Layout { columns, chosen: (0..columns.len()).collect(), parsable });
        }
        if args.output.is_empty() {
            let mut used = 0;
            let fits = columns.iter().take_while(|(_, width)| {
                used += width;
                used <= WIDTH
            });
            return Ok(Layout { columns, chosen: (0..fits.count()).collect(), parsable });
        }
        let find = |name: &String| {
            columns.iter().position(|(c, _)| c.eq_ignore_ascii_case(name)).ok_or_else(|| {
                let known: Vec<_> = columns.iter().map(|c| c.0.to_lowercase()).collect();
                let known = known.join(", ");
                Error::Config(format!("no field '{name}' here; there are {known}, all"))
            })
        };
        let chosen = args.output.iter().map(find).collect::<Result<_, _>>()?;
        Ok(Layout { columns, chosen, parsable })
    }

    fn header(&self) -> String {
        let names: Vec<_> = self.columns.iter().map(|c| c.0.to_owned()).collect();
        if self.parsable { String::new() } else { self.pad(&names) }
    }

    fn row(&self, fields: &[String]) -> String {
        if !self.parsable {
            let shown: Vec<_> = fields
                .iter()
                .map(|f| if f.is_empty() { String::from("--") } else { f.clone() })
                .collect();
            return self.pad(&shown);
        }
        let several = self.chosen.len() > 1;
        let texts = self.chosen.iter().map(|at| {
            let field = &fields[*at];
            if several { field.replace('\\', "\\\\").replace(':', "\\:") } else { field.clone() }
        });
        texts.collect::<Vec<_>>().join(":") + "\n"
    }

    /// Fields at their columns; one that is too long moves those after it.
    fn pad(&self, fields: &[String]) -> String {
        let cell = |at: &usize| format!("{:<1$}", fields[*at], self.columns[*at].1 - 1);
        let cells: Vec<String> = self.chosen.iter().map(cell).collect();
        cells.join(" ").trim_end().to_owned() + "\n"
    }
}

/// Shows the groups of the daemon behind `control`.
pub fn run(control: Option<&Path>, args: &Args) -> Result<(), Error> {
    let layout = Layout::new(args)?;
    let mut connection = daemon::connect(control)?;
    if args.probes {
        return follow(&mut connection, args, &layout);
    }
    args.watch.repeat(args.json, || {
        let report = report(&mut connection)?;
        Ok(if args.json {
            json::document("paths", &for_json(report, args)) + "\n"
        } else {
            render(&report, args, &layout)
        })
    })
}

fn report(connection: &mut Connection) -> Result<PathsReport, Error> {
    match connection.ask(Command::Paths).map_err(daemon::error)? {
        Answer::Paths(report) => Ok(*report),
        _ => Err(Error::Failed(String::from("the daemon gave an answer to something else"))),
    }
}

/// Everything but test addresses, which are nobody's who is not asking for them.
fn for_json(mut report: PathsReport, args: &Args) -> PathsReport {
    if !args.targets {
        let of_members = report.targets.iter().filter(|t| t.mode != TargetMode::Beyond);
        let tests: Vec<String> = of_members.filter_map(|t| t.test_address.clone()).collect();
        // What is beyond the link is asked from those, or from data addresses.
        for target in &mut report.targets {
            target.test_address.take_if(|address| tests.contains(address));
        }
    }
    report
}

fn render(report: &PathsReport, args: &Args, layout: &Layout) -> String {
    let rows = if args.addresses {
        addresses(report)
    } else if args.groups {
        groups(report)
    } else if args.interfaces {
        interfaces(report)
    } else if args.bfd {
        sessions(report)
    } else if args.counters {
        counters(report)
    } else {
        targets(report)
    };
    layout.header() + &rows.iter().map(|r| layout.row(r)).collect::<String>()
}

fn addresses(report: &PathsReport) -> Vec<Vec<String>> {
    let row = |a: &weft_interface::paths::AddressPath| {
        let state = if a.up { "up" } else { "down" };
        vec![
            a.address.to_string(),
            state.to_owned(),
            a.group.clone(),
            a.inbound.clone().unwrap_or_default(),
            a.outbound.join(" "),
        ]
    };
    report.addresses.iter().map(row).collect()
}

fn groups(report: &PathsReport) -> Vec<Vec<String>> {
    let row = |g: &weft_interface::paths::GroupPath| {
        let bracketed = |open: &str, names: &[String], close: &str| {
            (!names.is_empty()).then(|| format!("{open}{}{close}", names.join(" ")))
        };
        let parts = [
            bracketed("", &g.active, ""),
            bracketed("(", &g.inactive, ")"),
            bracketed("[", &g.unusable, "]"),
        ];
        let state = match g.state {
            GroupHealth::Ok => "ok",
            GroupHealth::Degraded => "degraded",
            GroupHealth::Failed => "failed",
        };
        let detection = g.detection_ms.map(|ms| format!("{:.2}s", ms as f64 / 1e3));
        vec![
            g.group.clone(),
            g.group_name.clone(),
            state.to_owned(),
            detection.unwrap_or_default(),
            parts.into_iter().flatten().collect::<Vec<_>>().join(" "),
        ]
    };
    report.groups.iter().map(row).collect()
}

fn interfaces(report: &PathsReport) -> Vec<Vec<String>> {
    let row = |i: &weft_interface::paths::InterfacePath| {
        let link = match i.link {
            LinkHealth::Up => "up",
            LinkHealth::Down => "down",
            LinkHealth::Unknown => "unknown",
        };
        let probe = match i.probe {
            ProbeHealth::Ok => "ok",
            ProbeHealth::Failed => "failed",
            ProbeHealth::Unknown => "unknown",
            ProbeHealth::Disabled => "disabled",
        };
        let state = match i.state {
            MemberHealth::Ok => "ok",
            MemberHealth::Failed => "failed",
            MemberHealth::Offline => "offline",
            MemberHealth::Unknown => "unknown",
        };
        let active = if i.active { "yes" } else { "no" };
        let words = [active, &i.group, &i.flags.letters(), link, probe, state].map(str::to_owned);
        std::iter::once(i.interface.clone()).chain(words).collect()
    };
    report.interfaces.iter().map(row).collect()
}

fn targets(report: &PathsReport) -> Vec<Vec<String>> {
    let row = |t: &weft_interface::paths::TargetPath| {
        let mode = match t.mode {
            TargetMode::Disabled => "disabled",
            TargetMode::Routes => "routes",
            TargetMode::Multicast => "multicast",
            TargetMode::Arp => "arp",
            TargetMode::Transitive => "transitive",
            TargetMode::Beyond => "beyond",
        };
        let address = t.test_address.clone().unwrap_or_default();
        let lost = (!t.lost.is_empty()).then(|| format!("[{}]", t.lost.join(" ")));
        let targets: Vec<String> = t.targets.iter().cloned().chain(lost).collect();
        vec![t.interface.clone(), mode.to_owned(), address, targets.join(" ")]
    };
    report.targets.iter().map(row).collect()
}

fn sessions(report: &PathsReport) -> Vec<Vec<String>> {
    let time = |us: u64| if us == 0 { String::new() } else { format!("{:.1}ms", us as f64 / 1e3) };
    let row = |s: &weft_interface::paths::SessionPath| {
        let state = match s.state {
            State::AdminDown => "admin-down",
            State::Down => "down",
            State::Init => "init",
            State::Up => "up",
        };
        vec![
            s.interface.clone(),
            s.peer.to_string(),
            state.to_owned(),
            time(s.tx_us),
            time(s.detect_us),
            s.diagnostic.0.to_string(),
            s.remote_diagnostic.0.to_string(),
        ]
    };
    report.sessions.iter().map(row).collect()
}

fn counters(report: &PathsReport) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for counted in &report.probing {
        let group = counted.group.as_str();
        rows.extend(count((group, "", ""), &counted.counters));
        rows.extend(counted.members.iter().flat_map(|m| count((group, &m.interface, ""), m)));
        rows.extend(count((group, "", "probes."), &counted.probes));
        rows.extend(count((group, "", "bfd."), &counted.bfd));
    }
    rows.extend(count(("", "", "lost."), &report.lost));
    rows
}

/// A row for each counter that is not 0; their names are those of JSON.
fn count((group, interface, prefix): (&str, &str, &str), counters: &impl Serialize) -> Vec<Row> {
    let value = serde_json::to_value(counters).unwrap_or_default();
    let all = value.as_object().into_iter().flatten();
    let counted = all.filter(|(_, v)| v.as_u64().is_some_and(|v| v > 0));
    let row = |(name, v): (&String, &serde_json::Value)| {
        vec![group.to_owned(), interface.to_owned(), format!("{prefix}{name}"), v.to_string()]
    };
    counted.map(row).collect()
}

/// Whether there is anything to follow: members are probed, or what is beyond a link.
fn is_probed(report: &PathsReport) -> bool {
    report.interfaces.iter().any(|i| i.probe != ProbeHealth::Disabled)
        || report.targets.iter().any(|t| t.mode == TargetMode::Beyond)
}

/// Prints probes as they end, from now on.
fn follow(connection: &mut Connection, args: &Args, layout: &Layout) -> Result<(), Error> {
    if !is_probed(&report(connection)?) {
        return Err(Error::Failed(String::from(
            "nothing is probed: no group has a test address, or probe = \"arp\" or \"transitive\", \
             and nothing is bound to targets beyond its link",
        )));
    }
    let (mut after, mut start, mut lines) = (None, None, 0);
    let screenful = std::io::stdout().is_terminal().then_some(SCREENFUL);
    loop {
        let asked = Command::Probes { after };
        let Answer::Probes { now_us, probes } = connection.ask(asked).map_err(daemon::error)?
        else {
            return Err(Error::Failed(String::from("the daemon gave an answer to something else")));
        };
        let start = *start.get_or_insert(now_us);
        let mut out = std::io::stdout().lock();
        if after.is_none() && !args.json {
            out.write_all(layout.header().as_bytes())?;
        }
        for probe in &probes.items {
            if args.json {
                writeln!(out, "{}", json::document("probe", probe))?;
                continue;
            }
            lines += 1;
            if screenful.is_some_and(|most| lines % most == 0) {
                out.write_all(layout.header().as_bytes())?;
            }
            out.write_all(layout.row(&probe_row(probe, start)).as_bytes())?;
        }
        if probes.lost > 0 {
            crate::output::error(&format!("{} probes ended unseen", probes.lost));
        }
        out.flush()?;
        drop(out);
        after = Some(probes.next);
        std::thread::sleep(PAUSE);
    }
}

fn probe_row(p: &ProbeLine, start_us: u64) -> Vec<String> {
    let time = |us: Option<u64>| us.map(|us| format!("{:.2}ms", us as f64 / 1e3));
    let smoothed = |us: Option<u64>| time(us.filter(|us| *us > 0)).unwrap_or_default();
    vec![
        format!("{:.2}s", (p.at_us as f64 - start_us as f64) / 1e6),
        p.interface.clone(),
        p.probe.to_string(),
        time(p.net_rtt_us).unwrap_or_default(),
        time(p.rtt_us).unwrap_or_default(),
        smoothed(p.rtt_avg_us),
        p.target.clone(),
        smoothed(p.rtt_dev_us),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    use clap::Parser;
    use weft_interface::fail::{GroupCounters, MemberCounters};
    use weft_interface::keeper::Lost;
    use weft_interface::paths::{
        AddressPath, GroupPath, InterfacePath, MemberCount, MemberFlags, ProbingPath, SessionPath,
        TargetPath,
    };
    use weft_interface::probe::bfd::Diagnostic;
    use weft_interface::probe::{BfdCounters, ProbeCounters};

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn names(all: &[&str]) -> Vec<String> {
        all.iter().map(|n| (*n).to_owned()).collect()
    }

    fn sample() -> PathsReport {
        let flags = MemberFlags {
            multicast4: true,
            broadcast: true,
            multicast6: true,
            ..MemberFlags::default()
        };
        PathsReport {
            addresses: vec![
                AddressPath {
                    address: "10.1.1.10".parse().unwrap(),
                    up: true,
                    group: String::from("fail0"),
                    inbound: Some(String::from("eth0")),
                    outbound: names(&["eth0", "eth1"]),
                },
                AddressPath {
                    address: "fd00::12".parse().unwrap(),
                    up: false,
                    group: String::from("fail0"),
                    inbound: None,
                    outbound: vec![],
                },
            ],
            groups: vec![GroupPath {
                group: String::from("fail0"),
                group_name: String::from("fail0"),
                state: GroupHealth::Degraded,
                detection_ms: Some(10_000),
                active: names(&["eth0"]),
                inactive: names(&["eth2"]),
                unusable: names(&["eth1"]),
                signature: 1,
                beyond_lost: vec![],
            }],
            interfaces: vec![InterfacePath {
                interface: String::from("eth0"),
                active: true,
                group: String::from("fail0"),
                flags,
                link: LinkHealth::Up,
                probe: ProbeHealth::Ok,
                state: MemberHealth::Ok,
                why: None,
            }],
            targets: vec![
                TargetPath {
                    interface: String::from("eth0"),
                    mode: TargetMode::Routes,
                    test_address: Some(String::from("10.1.1.20")),
                    targets: names(&["10.1.1.1", "10.1.1.3"]),
                    lost: vec![],
                },
                TargetPath {
                    interface: String::from("data0"),
                    mode: TargetMode::Beyond,
                    test_address: Some(String::from("fd00::12")),
                    targets: vec![],
                    lost: names(&["2001:db8::1"]),
                },
                TargetPath {
                    interface: String::from("fail0"),
                    mode: TargetMode::Beyond,
                    test_address: Some(String::from("10.1.1.20")),
                    targets: names(&["192.0.2.9"]),
                    lost: vec![],
                },
            ],
            sessions: vec![SessionPath {
                interface: String::from("eth1"),
                peer: "fe80::9".parse().unwrap(),
                state: State::Up,
                diagnostic: Diagnostic::EXPIRED,
                remote_diagnostic: Diagnostic::NONE,
                discriminator: 7,
                tx_us: 50_000,
                detect_us: 0,
            }],
            probing: vec![ProbingPath {
                group: String::from("fail0"),
                counters: GroupCounters { moves: 33, ..GroupCounters::default() },
                members: vec![MemberCount {
                    interface: String::from("eth1"),
                    counters: MemberCounters { failures: 2, ..MemberCounters::default() },
                    damped_ms: Some(9000),
                }],
                probes: ProbeCounters { lost: 5, ..ProbeCounters::default() },
                bfd: BfdCounters { hop_limit: 1, ..BfdCounters::default() },
            }],
            lost: Lost { stray: 3, ..Lost::default() },
        }
    }

    fn shown(line: &str) -> String {
        let args = Line::try_parse_from(line.split(' ')).map_err(|e| e.to_string()).unwrap().args;
        let layout = Layout::new(&args).unwrap();
        render(&sample(), &args, &layout)
    }

    #[test]
    fn each_view_has_its_columns_at_their_places() {
        assert_eq!(
            shown("paths -a"),
            "\
ADDRESS                   STATE  GROUP       INBOUND     OUTBOUND
10.1.1.10                 up     fail0       eth0        eth0 eth1
fd00::12                  down   fail0       --          --
"
        );
        assert_eq!(
            shown("paths -g"),
            "\
GROUP       GROUPNAME   STATE     FDT       INTERFACES
fail0       fail0       degraded  10.00s    eth0 (eth2) [eth1]
"
        );
        assert_eq!(
            shown("paths -i"),
            "\
INTERFACE   ACTIVE  GROUP       FLAGS     LINK      PROBE     STATE
eth0        yes     fail0       --mbM--   up        ok        ok
"
        );
        assert_eq!(
            shown("paths -t"),
            "\
INTERFACE   MODE      TESTADDR            TARGETS
eth0        routes    10.1.1.20           10.1.1.1 10.1.1.3
data0       beyond    fd00::12            [2001:db8::1]
fail0       beyond    10.1.1.20           192.0.2.9
"
        );
        assert_eq!(
            shown("paths -b"),
            "\
INTERFACE   PEER                      STATE      TX       DETECT   DIAG REMOTE
eth1        fe80::9                   up         50.0ms   --       1    0
"
        );
    }

    #[test]
    fn what_was_counted_is_shown_without_zeros() {
        assert_eq!(
            shown("paths -c"),
            "\
GROUP       INTERFACE   COUNTER                     VALUE
fail0       --          moves                       33
fail0       eth1        damped_ms                   9000
fail0       eth1        failures                    2
fail0       --          probes.lost                 5
fail0       --          bfd.hop_limit               1
--          --          lost.stray                  3
"
        );
        assert_eq!(shown("paths -cP -o counter,value").lines().next(), Some("moves:33"));
    }

    #[test]
    fn test_addresses_are_shown_to_who_asks_for_them_only() {
        let test = "10.1.1.20";
        for view in ["-a", "-g", "-i", "-b", "-c"] {
            assert!(!shown(&format!("paths {view} -o all")).contains(test), "{view}");
            let args = Line::try_parse_from(["paths", view, "-j"]).unwrap().args;
            let json = json::document("paths", &for_json(sample(), &args));
            assert!(!json.contains(test), "{view}: {json}");
        }
        assert!(shown("paths -t").contains(test));
        let args = Line::try_parse_from(["paths", "-t", "-j"]).unwrap().args;
        assert!(json::document("paths", &for_json(sample(), &args)).contains(test));
    }

    #[test]
    fn the_parsable_form_has_no_header_and_escapes_only_between_several_fields() {
        assert_eq!(
            shown("paths -gP -o group,STATE,interfaces"),
            "fail0:degraded:eth0 (eth2) [eth1]\n"
        );
        assert_eq!(shown("paths -a -P -o address,inbound"), "10.1.1.10:eth0\nfd00\\:\\:12:\n");
        assert_eq!(shown("paths -a -P -o address"), "10.1.1.10\nfd00::12\n");
    }

    #[test]
    fn what_is_asked_for_must_exist_and_be_one_thing() {
        let parse = |line: &str| Line::try_parse_from(line.split(' ')).map(|l| l.args);
        assert!(parse("paths").is_err(), "nothing is asked for");
        assert!(parse("paths -a -g").is_err(), "two things");
        assert!(parse("paths -g -P").is_err(), "programs name their fields");
        let wrong = Layout::new(&parse("paths -g -o group,rtt").unwrap()).unwrap_err();
        assert_eq!(wrong.exit_code(), 2);
        assert!(wrong.to_string().contains("no field 'rtt'"), "{wrong}");
    }

    #[test]
    fn probes_of_members_and_of_what_is_beyond_a_link_are_followed() {
        let mut report = sample();
        assert!(is_probed(&report));
        // An alias on a NIC has no members.
        report.interfaces.clear();
        assert!(is_probed(&report));
        report.targets.retain(|t| t.mode != TargetMode::Beyond);
        assert!(!is_probed(&report));
    }

    #[test]
    fn probes_have_times_and_a_lost_one_has_none() {
        let args = |line: &str| Line::try_parse_from(line.split(' ')).unwrap().args;
        let layout = Layout::new(&args("paths -p")).unwrap();
        assert_eq!(
            layout.header(),
            "TIME      INTERFACE   PROBE  NETRTT    RTT       RTTAVG    TARGET\n"
        );
        let mut probe = ProbeLine {
            number: 1,
            at_us: 1_110_000,
            interface: String::from("eth0"),
            probe: 589,
            net_rtt_us: Some(510),
            rtt_us: Some(760),
            rtt_avg_us: Some(800),
            rtt_dev_us: Some(0),
            target: String::from("10.1.1.1"),
        };
        assert_eq!(
            layout.row(&probe_row(&probe, 1_000_000)),
            "0.11s     eth0        589    0.51ms    0.76ms    0.80ms    10.1.1.1\n"
        );
        (probe.net_rtt_us, probe.rtt_us, probe.rtt_avg_us) = (None, None, None);
        let all = Layout::new(&args("paths -p -P -o all")).unwrap();
        assert_eq!(all.row(&probe_row(&probe, 2_000_000)), "-0.89s:eth0:589::::10.1.1.1:\n");
    }
}
