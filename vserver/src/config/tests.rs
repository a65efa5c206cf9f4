//! Exact texts of errors, and what a good file becomes.
//!
//! `tests/config_errors.txt` holds one case after another: a title, a file, and what is reported.
//! `WEFT_BLESS=1 cargo test -p weft-vserver config` writes what is reported now into it. The manual
//! in `docs/` is held against the parser here too.

use std::fmt::Write as _;
use std::path::Path;

use weft_stack::ip::address::{Acd, AcdPace};
use weft_stack::socket::tcp::CongestionControl;
use weft_stack::stack::{EcnMode, FastOpen, MtuProbing, Offers, SynCookies};

use super::*;

const CASES: &str = include_str!("../../tests/config_errors.txt");
const TITLE: &str = "======== ";
const REPORTED: &str = "-------- reported";

/// What every good file of the cases starts from.
const GOOD: &str = r#"
[nic.eth0]
device = "veth0"
[alias.data0]
over = "eth0"
"#;

fn reported(text: &str) -> String {
    match parse(text, Path::new("weft.toml")) {
        Ok(_) => String::from("nothing"),
        Err(e) => e.to_string(),
    }
}

#[test]
fn every_wrong_line_is_reported_with_its_place() {
    let mut now = String::new();
    let mut wrong = Vec::new();
    for case in CASES.split(TITLE).skip(1) {
        let (title, rest) = case.split_once('\n').unwrap();
        let (text, want) = rest.split_once(REPORTED).unwrap();
        let got = reported(text);
        if got != want.trim_matches('\n') || got == "nothing" {
            wrong.push(format!("{title}:\n{got}\ninstead of:\n{}", want.trim_matches('\n')));
        }
        write!(now, "{TITLE}{title}\n{text}{REPORTED}\n{got}\n\n").unwrap();
    }
    if std::env::var_os("WEFT_BLESS").is_some() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/config_errors.txt");
        std::fs::write(path, now).unwrap();
        return;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn what_is_no_text_is_shown_short_and_without_control_characters() {
    let long = format!("x{}\u{1b}]0;title\u{7}{}", "é".repeat(1000), "y".repeat(1000));
    for text in [reported(&long), reported("[nic.eth0]\n# \u{1b}[31m")] {
        assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
        assert!(text.lines().skip(1).all(|l| l.chars().count() <= 210), "{text:?}");
    }
}

#[test]
fn a_full_file_becomes_a_host() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("www")).unwrap();
    let text = r#"
[host]
control = "weft.sock"
[workers]
count = 1
affinity = [1]
frames = 1024
frame_bytes = 2048
hugepages = "reserved"
numa_node = 0
[nic.ETH1]
device = "tap7"
driver = "tap"
queues = 2
poll = "busy"
rx_checksum = "trust"
mac = "02:00:00:00:00:07"
mtu = 1400
capture = "all.pcapng"
[nic.eth0]
device = "veth0"
xdp = "generic"
[alias.san0]
over = "eth1"
mtu = 1300
mac = "02:00:00:00:01:07"
[alias.Data0]
over = "eth0"
[vserver.files]
addresses = ["data0 10.0.0.10/24", "DATA0 fd00::10/64", "san0 10.0.0.10/24"]
slaac = ["data0"]
forwarding = true
routes = [
    { to = "default", via = "10.0.0.1", alias = "data0" },
    { to = "default", via = "fe80::1", alias = "data0", src = "fd00::10", metric = 5 },
    { to = "10.9.0.0/16", alias = "san0" },
]
[vserver.files.limits]
tcp_connections = 5
tcp_bytes = 1000000
[vserver.files.tcp]
rto_ms_min = 50
recv_buffer_max = 8000000
congestion = "bbr"
pacing = false
ecn = "accurate"
fast_open = "server"
syn_cookies = "off"
mtu_probing = "always"
timestamps = false
sack = false
window_scaling = false
quick_acks = 3
[[vserver.files.service]]
kind = "http"
port = 80
root = "www"
upload = "www"
upload_bytes_max = 1000
[[vserver.files.service]]
kind = "proxy"
port = 6379
address = "fd00::10"
to = "unix:/run/redis.sock"
connections = 10
idle_s = 0
"#;
    let c = parse(text, &directory.path().join("weft.toml")).map_err(|e| e.to_string()).unwrap();
    assert_eq!(c.control, directory.path().join("weft.sock"));
    assert_eq!((c.workers.count, c.workers.affinity.as_slice()), (1, &[1][..]));
    assert_eq!((c.workers.frames, c.workers.frame_bytes), (1024, 2048));
    assert_eq!((c.workers.hugepages, c.workers.numa_node), (Hugepages::Reserved, Some(0)));
    // in order of the file, names in lower case
    let tap = &c.nics[0];
    assert_eq!((tap.name.as_str(), tap.device.as_str(), tap.queues), ("eth1", "tap7", 2));
    assert_eq!((tap.driver, tap.poll, tap.rx_checksum_trust), (Driver::Tap, PollMode::Busy, true));
    assert_eq!((tap.mac, tap.mtu), (Some([2, 0, 0, 0, 0, 7]), Some(1400)));
    assert_eq!(tap.capture, Some(directory.path().join("all.pcapng")));
    assert_eq!((c.nics[1].driver, c.nics[1].xdp), (Driver::AfXdp, XdpMode::Generic));
    assert_eq!((c.aliases[0].name.as_str(), c.aliases[0].over.as_str()), ("san0", "eth1"));
    assert_eq!((c.aliases[1].name.as_str(), c.aliases[1].over.as_str()), ("data0", "eth0"));
    let v = &c.vservers[0];
    assert_eq!(v.addresses.len(), 3);
    assert_eq!(v.addresses[0], (1, "10.0.0.10/24".parse().unwrap()));
    assert_eq!((v.slaac.as_slice(), v.forwarding), (&[1][..], true));
    assert_eq!(v.routes[0].to, "0.0.0.0/0".parse().unwrap());
    assert_eq!(v.routes[1].to, "::/0".parse().unwrap());
    assert_eq!((v.routes[1].src, v.routes[1].metric), (Some("fd00::10".parse().unwrap()), 5));
    assert_eq!((v.routes[2].via, v.routes[2].alias), (None, 0));
    assert_eq!((v.limits.tcp_connections, v.tcp.rto_ms_min), (5, 50));
    assert_eq!((v.limits.tcp_bytes, v.tcp.recv_buffer_max), (1_000_000, 8_000_000));
    assert_eq!((v.tcp.congestion, v.tcp.pacing), (CongestionControl::Bbr, false));
    assert_eq!((v.tcp.ecn, v.tcp.fast_open), (EcnMode::Accurate, FastOpen::Server));
    assert_eq!((v.tcp.syn_cookies, v.tcp.mtu_probing), (SynCookies::Off, MtuProbing::Always));
    let offers = Offers { timestamps: false, sack: false, window_scaling: false };
    assert_eq!((v.tcp.offers, v.tcp.quick_acks), (offers, 3));
    assert_eq!(v.services[0].listen, "[::]:80".parse().unwrap());
    let ServiceKind::Http { root, upload, upload_bytes_max } = &v.services[0].kind else {
        panic!("{:?}", v.services[0]);
    };
    assert_eq!((root, upload.as_ref()), (&directory.path().join("www"), Some(root)));
    assert_eq!(*upload_bytes_max, 1000);
    assert_eq!(v.services[1].listen, "[fd00::10]:6379".parse().unwrap());
    assert_eq!((v.services[1].connections, v.services[1].idle_s), (10, 0));
    assert!(matches!(&v.services[1].kind, ServiceKind::Proxy(ProxyTarget::Unix(p))
        if p == Path::new("/run/redis.sock")));
}

#[test]
fn an_empty_file_is_a_host_without_anything() {
    let c = parse("", Path::new("weft.toml")).unwrap();
    assert_eq!(c.control, Path::new(CONTROL_DEFAULT));
    assert!(c.nics.is_empty() && c.aliases.is_empty() && c.vservers.is_empty());
}

#[test]
fn one_address_may_be_on_two_links() {
    let text = format!(
        "{GOOD}[nic.eth1]\ndevice = \"veth1\"\n[alias.data1]\nover = \"eth1\"\n\
         [alias.data2]\nover = \"eth0\"\nmac = \"02:00:00:00:00:01\"\n\
         [vserver.a]\naddresses = [\"data0 10.0.0.1/24\"]\n\
         [vserver.b]\naddresses = [\"data1 10.0.0.1/24\"]\n\
         [vserver.c]\naddresses = [\"data2 10.0.0.1/24\"]\n"
    );
    assert_eq!(reported(&text), "nothing");
}

#[test]
fn a_count_stands_for_many() {
    let text = format!(
        "{GOOD}[vserver.web]\ncount = 1000\n\
         addresses = [\"data0 10.1.0.2/16\", \"data0 fd01::2/64\"]\n\
         routes = [{{ to = \"default\", via = \"10.1.0.1\" }}]\n\
         [[vserver.web.service]]\nkind = \"echo\"\nport = 7\n"
    );
    let c = parse(&text, Path::new("weft.toml")).unwrap();
    assert_eq!(c.vservers.len(), 1000);
    let (first, last) = (&c.vservers[0], &c.vservers[999]);
    assert_eq!((first.name.as_str(), last.name.as_str()), ("web1", "web1000"));
    assert_eq!(first.addresses[0].1, "10.1.0.2/16".parse().unwrap());
    assert_eq!(last.addresses[0].1, "10.1.3.233/16".parse().unwrap());
    assert_eq!(last.addresses[1].1, "fd01::3e9/64".parse().unwrap());
    assert_eq!((last.routes.len(), last.services.len()), (1, 1));
}

#[test]
fn the_table_of_a_cluster_is_read_and_names_what_vservers_ask_for() {
    let text = format!(
        "{GOOD}[cluster]\nid = \"00:07:34:04:12:0E\"\nnode = \"Filer1\"\n\
         [cluster.leases]\n\"data0:VsvrA:1\" = [\"10.2.2.1\", \"fd00::1\"]\n\
         \"mgmt0:MySQLMgmtNode\" = \"10.1.1.10\"\n\
         [vserver.VsvrA]\naddresses = [\"data0 10.2.2.1/24\"]\n\
         [vserver.box]\nidentity = \"node\"\naddresses = [\"data0 10.2.2.3/24\"]\n\
         [vserver.sql]\nidentity = \"kind MySQLMgmtNode\"\naddresses = [\"data0 10.2.2.4/24\"]\n"
    );
    let c = parse(&text, Path::new("weft.toml")).map_err(|e| e.to_string()).unwrap();
    let cluster = c.cluster.as_ref().unwrap();
    let leases: Vec<_> =
        cluster.leases.iter().map(|l| format!("{} {}", l.claim, l.address)).collect();
    let given =
        ["data0:VsvrA:1 10.2.2.1", "data0:VsvrA:1 fd00::1", "mgmt0:MySQLMgmtNode 10.1.1.10"];
    assert_eq!(leases, given);
    let id = |v: usize, instance| c.client_id(&c.vservers[v], 0, instance).map(|i| i.to_string());
    assert_eq!(id(0, 1).unwrap(), "00:07:34:04:12:0E:data0:VsvrA:1");
    assert_eq!(id(1, 0).unwrap(), "00:07:34:04:12:0E:data0:Filer1");
    assert_eq!(id(2, 0).unwrap(), "00:07:34:04:12:0E:data0:MySQLMgmtNode");
    assert_eq!((id(1, 1), c.vservers[0].name.as_str()), (None, "vsvra"));
}

#[test]
fn addresses_of_servers_are_asked_for_short_and_in_full() {
    let text = format!(
        "{GOOD}[cluster]\nid = \"00:07:34:04:12:0E\"\n[vserver.v]\nacd = \"off\"\n\
         dhcp = [\"data0\", \"data0 v6\", \"data0\", {{ alias = \"Data0\", instance = 7, acd = \"off\", \
         cache = \"always\", cached_after_s = 0, servers = [\"10.0.0.1\"], vendor_only = true, \
         rapid_commit = true, routes = false }}, \"data0 9 v4\"]\n"
    );
    let c = parse(&text, Path::new("weft.toml")).map_err(|e| e.to_string()).unwrap();
    let v = &c.vservers[0];
    let all: Vec<_> = v.dhcp.iter().map(|d| (d.family.name(), d.instance)).collect();
    assert_eq!(all, [("v4", 0), ("v6", 0), ("v4", 1), ("v4", 7), ("v4", 9)]);
    assert_eq!(v.dhcp[0], DhcpClient::new(0, DhcpFamily::V4));
    let full = &v.dhcp[3];
    assert_eq!((full.cache, full.cached_after_s, full.servers.len()), (CacheUse::Always, 0, 1));
    assert!(full.vendor_only && full.rapid_commit && !full.routes);
    assert_eq!((Some(full.acd), v.acd), (v.acd, Some(Acd::Off)));
}

#[test]
fn conflicts_are_settled_as_the_vserver_says_else_as_the_alias_does() {
    let text = |own: &str| {
        format!(
            "[cluster]\nid = \"00:07:34:04:12:0E\"\n[nic.eth0]\ndevice = \"veth0\"\n\
             [alias.data0]\nover = \"eth0\"\nacd = \"on\"\nacd_interval_ms = 50\nacd_probes = 2\n\
             [alias.data1]\nover = \"eth0\"\nacd = \"off\"\n[alias.data2]\nover = \"eth0\"\n\
             [vserver.a]\naddresses = [\"data0 10.0.0.1/24\"]\ndhcp = [\"data1\", \"data2\"]\n{own}"
        )
    };
    let read = |own: &str| parse(&text(own), Path::new("weft.toml")).unwrap();
    let fast = AcdPace { interval: weft_stack::time::Duration::from_millis(50), probes: 2 };
    let c = read("");
    let v = &c.vservers[0];
    assert_eq!(v.conflicts_on(0), Conflicts { acd: Acd::On, pace: fast });
    assert_eq!(v.conflicts_on(1), Conflicts { acd: Acd::Off, pace: AcdPace::default() });
    assert_eq!(v.conflicts_on(2), Conflicts::default());
    assert_eq!((v.dhcp[0].acd, v.dhcp[1].acd), (Acd::Off, Acd::On));
    assert_eq!(read("acd = \"defend\"\n").vservers[0].conflicts_on(0).pace, fast);
    for c in [c, read("acd = \"defend\"\n")] {
        assert_eq!(parse(&export::export(&c, false), Path::new("weft.toml")).unwrap(), c);
    }
}

#[test]
fn rates_of_bonds_and_groups_are_those_of_the_aliases_on_them() {
    let text = |bond: &str, nic: &str| {
        format!(
            "[nic.eth0]\ndevice = \"a\"\n{nic}\n[nic.eth1]\ndevice = \"b\"\n[nic.eth2]\ndevice = \"c\"\n\
             [nic.eth3]\ndevice = \"d\"\n[bond.bond0]\nports = [\"eth0\", \"eth1\"]\n{bond}\n\
             [bond.bond1]\nports = [\"eth2\"]\n[fail.fail0]\nmembers = [\"bond1\", \"eth3\"]\n\
             qos.receive.limit = \"2 Gbit/s\"\n[alias.data0]\nover = \"bond0.5\"\n\
             [alias.data1]\nover = \"fail0\"\n[vserver.a]\n\
             addresses = [\"data0 10.0.0.1/24\", \"data1 10.1.0.1/24\"]\n\
             qos.send.guarantee = \"5 Mbit/s\"\n"
        )
    };
    let read = |bond: &str, nic: &str| parse(&text(bond, nic), Path::new("weft.toml"));
    let c = read("qos.send.limit = \"10 Mbit/s\"", "").unwrap();
    let names: Vec<_> = c.link_qos.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["bond0", "fail0"]);
    assert_eq!(c.link_qos[0].1.send.limit, Some(10_000_000));
    assert_eq!(parse(&export::export(&c, false), Path::new("weft.toml")).unwrap(), c);
    // Their vserver's frames take them, those of a VLAN on the bond too; nothing else is shaped.
    let plan = crate::qos::plan(&c, None);
    let active = |way: &[crate::qos::WayPlan]| -> Vec<usize> {
        (0..way.len()).filter(|link| way[*link].is_active()).collect()
    };
    let link = |name: &str| usize::from(c.tree().unwrap().link(&name.parse().unwrap()).unwrap().0);
    assert_eq!(active(&plan.send), [link("bond0"), link("fail0")], "the guarantee is on both");
    assert_eq!(active(&plan.receive), [link("fail0")]);
    // More is promised than there is.
    let wrong = read("qos.send.limit = \"4 Mbit/s\"", "").unwrap_err().to_string();
    assert!(wrong.contains("guaranteed below bond0, which has a limit of 4000000"), "{wrong}");
    // Components have none of their own.
    let wrong = read("", "qos.send.limit = \"1 Gbit/s\"").unwrap_err().to_string();
    assert!(
        wrong.contains("eth0 is a part of bond0") && wrong.contains("[bond.bond0.qos]"),
        "{wrong}"
    );
    let bond1 = text("", "")
        .replace("ports = [\"eth2\"]", "ports = [\"eth2\"]\nqos.send.limit = \"9 Mbit/s\"");
    let wrong = parse(&bond1, Path::new("weft.toml")).unwrap_err().to_string();
    assert!(wrong.contains("bond1 is a part of fail0"), "{wrong}");
}

#[test]
fn an_alias_is_bound_to_targets_beyond_its_link() {
    let read = |more: &str| {
        let text = format!(
            "[nic.eth0]\ndevice = \"a\"\n[alias.data0]\nover = \"eth0\"\n{more}\n\
             [vserver.a]\naddresses = [\"data0 10.0.0.1/24\"]\n"
        );
        parse(&text, Path::new("weft.toml"))
    };
    let c = read("beyond = [\"192.0.2.1\"]\nhook = \"/bin/true\"").unwrap();
    let beyond = &c.aliases[0].beyond;
    assert_eq!((beyond.targets.len(), beyond.detect.as_millis()), (1, 10_000));
    assert!(c.tree().unwrap().has_machines());
    assert_eq!(parse(&export::export(&c, true), Path::new("weft.toml")).unwrap(), c);
    for (more, wrong) in [
        ("hook = \"/bin/true\"", "'hook' is for an alias with 'beyond'"),
        ("detect_ms = 200", "'detect_ms' is for an alias with 'beyond'"),
        ("beyond = [\"192.0.2.1\", \"192.0.2.1\"]", "192.0.2.1 twice in 'beyond'"),
        ("beyond = [\"ff02::1\"]", "ff02::1 in `beyond` is not the address of a host"),
        ("beyond = [\"192.0.2.1\"]\nhook = \"tell\"", "hook 'tell' is no absolute path"),
    ] {
        let text = read(more).unwrap_err().to_string();
        assert!(text.contains(wrong), "{more}: {text}");
    }
}

#[test]
fn an_alias_with_a_tag_of_its_own_has_its_own_client_identifiers() {
    let text = "[cluster]\nid = \"00:07:34:04:12:0E\"\n[nic.eth0]\ndevice = \"a\"\n\
                [alias.data0]\nover = \"eth0\"\n[alias.\"data0.5\"]\n[alias.\"data0.6\"]\n\
                [vserver.VsvrA]\ndhcp = [\"data0\", \"data0.5\", \"data0.6 v6\"]\n";
    let c = parse(text, Path::new("weft.toml")).unwrap();
    let v = &c.vservers[0];
    let ids: Vec<String> = v
        .dhcp
        .iter()
        .map(|d| c.client_id(v, d.alias, d.instance).expect("it has a name").to_string())
        .collect();
    assert_eq!(
        ids,
        [
            "00:07:34:04:12:0E:data0:VsvrA:0",
            "00:07:34:04:12:0E:data0.5:VsvrA:0",
            "00:07:34:04:12:0E:data0.6:VsvrA:0"
        ]
    );
}

#[test]
fn a_file_that_is_not_utf8_is_reported_with_its_place() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("weft.toml");
    std::fs::write(&file, b"[host]\ncontrol = \"\xff\"\n").unwrap();
    let text = load(&file).unwrap_err().to_string();
    let first = text.lines().next().unwrap();
    assert!(
        first.ends_with("weft.toml:2:12: a byte that is not UTF-8; save the file as UTF-8"),
        "{text}"
    );
}

#[test]
fn a_file_that_is_missing_is_named() {
    let text = load(Path::new("/nonexistent/weft.toml")).unwrap_err().to_string();
    assert_eq!(text, "cannot read /nonexistent/weft.toml: No such file or directory (os error 2)");
}

pub(super) const MANUAL: &str = include_str!("../../../docs/configuration.md");
const OPERATING: &str = include_str!("../../../docs/operating.md");

/// The first and second cells of the table rows below a heading.
pub(super) fn rows<'m>(manual: &'m str, heading: &str) -> Vec<(&'m str, &'m str)> {
    let (_, below) = manual.split_once(&format!("# `{heading}`\n")).expect(heading);
    let section = below.split("\n#").next().unwrap();
    let cells = section.lines().filter_map(|l| l.strip_prefix("| `"));
    cells
        .map(|l| {
            let (key, rest) = l.split_once("` | ").expect(l);
            (key, rest.split(" | ").next().unwrap().trim_matches('`'))
        })
        .collect()
}

#[test]
fn the_manual_has_every_key() {
    // A file with every kind of table, wrong as it is, makes the parser ask for every key.
    let text = "[host]\n[cluster]\nvendor_options = [{}]\nsubnet = [{}]\n[workers]\n[access]\nrules = [{}]\n[access.class.c]\n[access.service.s]\n\
                [group.g]\n[role.r]\n[nic.eth0]\n[nic.eth0.qos]\n[bond.bond0]\nports = [\"eth0\"]\nlacp = { ports.eth0 = {} }\n[vlan.\"eth0.5\"]\n[fail.fail0]\nfast = {}\n[alias.data0]\n[qos.g]\n\
                [table.t]\nroutes = [{}]\n[neighbours.n]\nentries = [{}]\n[[service]]\nkind = \"http\"\n[[service]]\nkind = \"proxy\"\n[vserver.v]\nroutes = [{}]\nrules = [{}]\ndns = {}\nconnect = { rules = [{}] }\nregister = {}\nmdns = { services = [{}] }\ndhcp = [{}]\n[vserver.v.qos]\nsend = {}\nclass = [{}]\nclients = [{}]\n\
                [vserver.v.limits]\n[vserver.v.tcp]\n[vserver.v.shim]\n\
                [[vserver.v.service]]\nkind = \"http\"\n[[vserver.v.service]]\nkind = \"proxy\"\n";
    let mut report = diagnostic::Report::new(text);
    let (document, syntax) = toml::de::DeTable::parse_recoverable(text);
    assert!(syntax.is_empty());
    let root = reader::Section::new(String::new(), 0..0, document.get_ref());
    parse::read_document(&mut report, root, Path::new(""));
    for (table, heading) in [
        ("host", "[host]"),
        ("cluster", "[cluster]"),
        ("cluster.vendor_options", "[[cluster.vendor_options]]"),
        ("cluster.subnet", "[[cluster.subnet]]"),
        ("workers", "[workers]"),
        ("nic.eth0", "[nic.eth#]"),
        ("bond.bond0", "[bond.*]"),
        ("bond.bond0.lacp", "lacp = { ... }"),
        ("bond.bond0.lacp.ports.eth0", "ports.eth# = { ... }"),
        ("vlan.eth0.5", "[vlan.*]"),
        ("fail.fail0", "[fail.*]"),
        ("fail.fail0.fast", "fast = { ... }"),
        ("alias.data0", "[alias.*]"),
        ("vserver.v", "[vserver.*]"),
        ("group.g", "[group.*]"),
        ("role.r", "[role.*]"),
        ("vserver.v.routes", "routes = [{ ... }]"),
        ("vserver.v.dns", "dns = { ... }"),
        ("vserver.v.dhcp", "dhcp = [{ ... }]"),
        ("vserver.v.register", "register = { ... }"),
        ("vserver.v.connect", "connect = { ... }"),
        ("vserver.v.connect.rules", "[[vserver.*.connect.rules]]"),
        ("vserver.v.shim", "[vserver.*.shim]"),
        ("vserver.v.mdns", "mdns = { ... }"),
        ("vserver.v.mdns.services", "[[vserver.*.mdns.services]]"),
        ("access", "[access]"),
        ("access.class.c", "[access.class.*]"),
        ("access.service.s", "[access.service.*]"),
        ("access.rules", "access = [{ ... }]"),
        ("vserver.v.rules", "rules = [{ ... }]"),
        ("table.t", "[table.*]"),
        ("neighbours.n", "[neighbours.*]"),
        ("neighbours.n.entries", "entries = [{ ... }]` of a `[neighbours.*]"),
        ("vserver.v.limits", "[vserver.*.limits]"),
        ("vserver.v.tcp", "[vserver.*.tcp]"),
        ("service", "[[service]]"),
        ("vserver.v.service", "[[vserver.*.service]]"),
        ("vserver.v.qos", "[vserver.*.qos]"),
        ("vserver.v.qos.send", "send = { ... }"),
        ("vserver.v.qos.class", "[[vserver.*.qos.class]]"),
        ("vserver.v.qos.clients", "[[vserver.*.qos.clients]]"),
        ("qos.g", "[qos.*]"),
    ] {
        let tables = report.known.iter().filter(|(name, _)| name == table);
        let mut known: Vec<_> = tables.flat_map(|(_, keys)| keys.iter().copied()).collect();
        let mut written: Vec<_> = rows(MANUAL, heading).iter().map(|(key, _)| *key).collect();
        if table == "service" {
            written.extend(rows(MANUAL, "[[vserver.*.service]]").into_iter().map(|(key, _)| key));
        }
        if table == "group.g" {
            // and those of a vserver, which have their own table
            let vserver = rows(MANUAL, "[vserver.*]").into_iter().map(|(key, _)| key);
            written.extend(vserver.filter(|k| !["addresses", "count", "group", "cut"].contains(k)));
        }
        known.sort_unstable();
        known.dedup();
        written.sort_unstable();
        assert_eq!(written, known, "keys of {heading} in docs/configuration.md and in the parser");
    }
}

#[test]
fn the_manual_has_the_right_defaults() {
    let limits = format!("{:?}", weft_stack::stack::Limits::default());
    let tcp = format!("{:?}", weft_stack::stack::TcpConfig::default());
    let workers = format!("{:?}", Workers::default());
    let dns = format!("{:?}", Dns::default());
    for (heading, values) in [
        ("[vserver.*.limits]", limits),
        ("[vserver.*.tcp]", tcp),
        ("[workers]", workers),
        ("dns = { ... }", dns),
    ] {
        let chosen = ["affinity", "numa_node", "servers", "search"];
        for (key, default) in rows(MANUAL, heading).iter().filter(|(key, _)| !chosen.contains(key))
        {
            // Words are the names of variants: "black-hole" is BlackHole.
            let wanted = format!(" {key}: {default}").replace(['"', '-'], "");
            let same = |v: &str| v.trim_end().eq_ignore_ascii_case(&wanted);
            let found = values.split(['{', ',', '}']).any(same);
            assert!(found, "{key} = {default} in docs/configuration.md, {values} in the program");
        }
    }
    assert_eq!(rows(MANUAL, "[host]")[0].1.trim_matches('"'), CONTROL_DEFAULT);
}

#[test]
fn the_examples_of_the_manual_are_right() {
    let mut examples = 0;
    for block in MANUAL.split("```toml\n").skip(1) {
        assert_eq!(reported(block.split("```").next().unwrap()), "nothing");
        examples += 1;
    }
    assert!(examples > 0);
}

#[test]
fn the_manual_has_every_drop_reason() {
    let mut table = String::new();
    for r in weft_stack::drop::DropReason::ALL {
        writeln!(table, "| `{}` | {} | {} |", r.name(), r.meaning(), r.remedy()).unwrap();
    }
    let start = "| reason | meaning | remedy |\n|---|---|---|\n";
    let (before, _) = OPERATING.split_once(start).unwrap();
    let now = format!("{before}{start}{table}");
    if std::env::var_os("WEFT_BLESS").is_some() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/operating.md");
        std::fs::write(path, now).unwrap();
        return;
    }
    assert!(OPERATING == now, "WEFT_BLESS=1 writes the table of losses into docs/operating.md");
}

#[test]
fn mutated_files_are_refused_with_a_place_inside_them() {
    let files: Vec<_> =
        CASES.split(TITLE).skip(1).map(|c| c.split(REPORTED).next().unwrap()).collect();
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut below = |n: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed % n as u64) as usize
    };
    for _ in 0..4000 {
        let mut text: Vec<char> = files[below(files.len())].chars().collect();
        for _ in 0..=below(6) {
            let at = below(text.len());
            match below(4) {
                0 => text[at] = ['"', '=', '[', ']', '\n', '\\', 'ü', '9', '/', ' '][below(10)],
                1 => drop(text.splice(at..(at + 5).min(text.len()), [])),
                2 => text.insert(at, ['"', '.', '{', '-', '\t', ','][below(6)]),
                _ => text.truncate(at.max(1)),
            }
            if text.is_empty() {
                text.push('x');
            }
        }
        let text: String = text.into_iter().collect();
        let Err(errors) = parse(&text, Path::new("weft.toml")) else { continue };
        assert!(!errors.list.is_empty());
        for d in &errors.list {
            // The place is in the file, or right behind its end.
            let line = text.lines().nth(d.line - 1).unwrap_or_default();
            assert!(d.line <= text.lines().count() + 1, "{errors}\nin\n{text}");
            assert!(d.column <= line.chars().count() + 1, "{errors}\nin\n{text}");
        }
    }
}
