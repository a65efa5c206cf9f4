//! What is exported and read again is the same.

use proptest::prelude::*;

use super::super::parse;
use super::super::tests::{MANUAL, rows};
use super::*;

/// Exports, imports, and compares; then once more, for the order must be fixed too.
fn round_trip(config: &HostConfig) {
    for all in [false, true] {
        let text = export(config, all);
        let again = parse(&text, Path::new("/tmp/weft.toml"));
        let again = again.unwrap_or_else(|e| panic!("{e}\nin\n{text}"));
        assert_eq!(again, expanded(config), "{text}");
        assert_eq!(export(&again, all), text);
    }
}

fn config(text: &str) -> HostConfig {
    parse(text, Path::new("/tmp/weft.toml")).unwrap_or_else(|e| panic!("{e}\nin\n{text}"))
}

const HOST: &str = "[nic.eth0]\ndevice = \"veth0\"\n[alias.data0]\nover = \"eth0\"\n\
                    [alias.mgmt0]\nover = \"eth0\"\nmac = \"02:00:00:00:00:01\"\nmtu = 1400\n";

#[test]
fn the_examples_of_the_manual_come_back_equal() {
    for block in MANUAL.split("```toml\n").skip(1) {
        round_trip(&config(block.split("```").next().unwrap()));
    }
    round_trip(&config(include_str!("../../../tests/names/addresses.toml")));
    round_trip(&config(""));
}

#[test]
fn a_file_with_everything_in_it_comes_back_equal() {
    let text = r#"
[host]
control = "/run/other.sock"
lldp = "listen"
control_mode = "0660"
control_group = "0"
audit = "/run/audit.log"
audit_files = 3
privileges = "devices"
user = "root"
[access]
established = "end"
rules = [{ reject = "any", of = "many*", from = "192.0.2.0/24, fd00::1, Admin.example", log = true }]
[access.service.ssh]
ports = ["tcp/2222"]
[access.service.own]
ports = ["udp/5000-5010", "icmp"]
[access.class.mine]
services = ["own", "tcp/8"]
management = true
[access.class.mgmt]
services = ["ssh"]
management = false
[group.gold]
access = [{ allow = "mine, http", on = "data, mgmt", mark = 7 }, { prohibit = "tcp", on = "data0" }]
tcp = { congestion = "bbr" }
[group.silver]
parent = "gold"
roles = ["tenants"]
[role.tenants]
users = ["1000"]
groups = ["7"]
allow = "vserver"
vservers = ["many"]
vserver_groups = ["gold"]
[neighbours.lan]
learned = 7
entries = [
    { alias = "data0", address = "10.0.0.1", mac = "02:00:00:00:00:0a" },
    { alias = "data0", address = "fe80::1", mac = "02:00:00:00:00:0b" },
]
[neighbours.own]
[vserver.many]
count = 3
neighbours = "lan"
group = "silver"
addresses = ["data0 10.0.7.1/24"]
[cluster]
id = "00:07:34:04:12:0E"
node = "Filer1"
vendor_class = "acme"
enterprise = 7
vendor_options = [{ code = 1, text = "a" }, { code = 254, text = "b c" }]
[cluster.leases]
"data0:VsvrA:1" = ["10.2.2.1", "fd00::1"]
"mgmt0:Filer1" = "10.2.2.2"
[[cluster.subnet]]
network = "10.2.2.0/24"
gateway = "10.2.2.254"
dns = ["10.2.2.53", "fd00::53"]
search = ["example.net"]
ntp = ["10.2.2.123"]
mtu = 9000
pool = "10.2.2.100-10.2.2.200"
lease_s = 600
[[cluster.subnet]]
network = "fd00::/64"
[workers]
count = 2
affinity = [1, 0]
frames = 1024
frame_bytes = 2048
hugepages = "reserved"
numa_node = 0
[nic.eth1]
device = "tap7"
driver = "tap"
queues = 2
poll = "busy"
rx_checksum = "trust"
gro = false
mac = "02:00:00:00:00:07"
mtu = 1400
capture = "all.pcapng"
[nic.eth0]
device = "veth0"
xdp = "generic"
gather = "always"
[nic.eth2]
device = "veth2"
driver = "packet"
receive = "ring"
[nic.eth3]
driver = "mem"
[alias.san0]
over = "eth1"
mtu = 1300
mac = "02:00:00:00:01:07"
[nic.eth4]
device = "veth4"
[nic.eth5]
device = "veth5"
[nic.eth6]
device = "veth6"
[bond.bond0]
ports = ["eth4", "eth5"]
hash = "symmetric"
min_links = 2
mac = "02:00:00:00:04:00"
[bond.bond0.lacp]
activity = "passive"
rate = "fast"
system_priority = 7
system = "02:00:00:00:04:01"
key = 9
independent = false
max_ports = 2
select = "count"
fallback = true
[bond.bond0.lacp.ports.ETH5]
priority = 3
number = 77
individual = true
[vlan."bond0.5"]
priority = 3
[vlan."eth6.5"]
[fail.fail0]
members = ["bond0.5", "eth6.5"]
standby = ["eth6.5"]
failback = false
detect_ms = 100
probe = "transitive"
test = ["eth6.5 10.0.0.201/24", "eth6.5 fe80::1/64"]
targets = ["10.0.0.1", "fe80::2"]
fast = { peers = ["10.0.0.9"], interval_ms = 5, multiplier = 2 }
beyond = ["192.0.2.1"]
hook = "/etc/weft/event"
quiet_ms = 5
flaps_max = 9
qos = { send = { limit = "3 Gbit/s" }, receive = { limit = "2 Gbit/s" } }
[alias.data7]
over = "Fail0"
[alias."data8.7"]
over = "bond0"
[alias."san0.9"]
[alias.data0]
over = "eth0"
beyond = ["192.0.2.1", "2001:db8::1"]
detect_ms = 500
hook = "/etc/weft/lost"
[vserver.VsvrA]
addresses = ["data0 10.0.0.10/24", "data0 fd00::10/64", "san0 10.9.0.10/24"]
slaac = ["data0"]
forwarding = true
routes = [
{ to = "default", via = "10.0.0.1", alias = "data0" },
{ to = "default", via = "fe80::1", alias = "data0", src = "fd00::10", metric = 5 },
{ to = "10.99.0.0/16", alias = "san0" },
{ to = "default", via = "gw.example.net", alias = "data0", metric = 9 },
{ to = "10.98.0.0/16", via = "gw2", alias = "data0", src = "10.0.0.10" },
]
access = [{ drop = "tcp/1", from = "peer.example.net, 10.0.0.1" }]
rules = [{ class = "mine, tcp/99", from = "peer.example.net", to = "10.0.0.0/8", action = "prohibit" }]
dns = { servers = ["10.0.0.53", "[fd00::53]:5353"], search = ["a.example"], ndots = 2, timeout_ms = 100, attempts = 3, cache = 0, mixed_case = false }
[vserver.VsvrA.connect]
form = "weak"
pairs = 8
history = 9
policy_table = ["2001:db8::/32 45 1", "10.0.0.0/8 100 4"]
rules = [
{ class = "backup", form = "off" },
{ protocol = "udp", ports = "53", form = "full", repeat = true, answer_timeout_ms = 900 },
{ to = "2001:db8::/32", ports = "8000-8999", form = "full", attempt_delay_ms = 100, resolution_delay_ms = 20, reverse = false, pairs = 16 },
]
[vserver.VsvrA.shim]
enabled = false
set_up = "immediate"
reap = "rfc"
policy = "spread"
locators = ["fd00::10", "10.0.0.10 7"]
parameters = "/etc/weft/a.pds"
accept = ["keyed", "cga"]
offer = ["hba"]
udp_port = 4140
udp_for = "all"
udp_keepalive_s = 7
contexts = 9
home = 1
[vserver.VsvrA.mdns]
host = "box"
services = [{ name = "Files, all", type = "_nfs._tcp", port = 2049, txt = ["path=/", ""] }]
[vserver.VsvrA.register]
zone = "example.net"
names = ["files", "www.example.net 10.0.0.10 fd00::10"]
reverse = ["0.0.10.in-addr.arpa"]
server = "10.0.0.53"
ttl_s = 60
[[service]]
kind = "discard"
port = 9
address = "0.0.0.0"
[[service]]
group = "gold"
kind = "proxy"
port = 9
to = "unix:/run/x.sock"
[[vserver.VsvrA.qos.class]]
name = "named"
clients = ["10.0.0.0/8", "client.example.net"]
mark = "ef"
[[vserver.VsvrA.service]]
kind = "http"
port = 80
root = "."
upload = "."
upload_bytes_max = 1000
[[vserver.VsvrA.service]]
kind = "proxy"
port = 6379
address = "fd00::10"
to = "unix:/run/redis.sock"
connections = 10
idle_s = 7
[[vserver.VsvrA.service]]
kind = "proxy"
port = 6380
address = "0.0.0.0"
to = "127.0.0.1:6379"
[[vserver.VsvrA.service]]
kind = "proxy"
port = 6381
address = "cache.example.net"
to = "db.example.net:6379"
[[vserver.VsvrA.service]]
kind = "chargen"
port = 19
[vserver.box]
identity = "node"
addresses = []
[vserver.leased]
acd = "on"
dhcp = ["data0", "data0 v6 3", { alias = "san0", acd = "off", cache = "always", cached_after_s = 1, servers = ["10.0.0.1"], vendor_only = true, routes = false }]
[vserver.sql]
identity = "kind MySQLMgmtNode"
slaac = ["data0"]
"#;
    round_trip(&config(text));
}

#[test]
fn no_documented_number_or_switch_is_forgotten() {
    for (heading, table) in [
        ("[vserver.*.limits]", "vserver.v.limits"),
        ("[vserver.*.tcp]", "vserver.v.tcp"),
        ("dns = { ... }", "vserver.v.dns"),
    ] {
        for (key, default) in rows(MANUAL, heading) {
            let other = match default.parse::<u64>() {
                Ok(n) => (n + 1).to_string(),
                Err(_) if default == "true" => String::from("false"),
                Err(_) if default == "false" => String::from("true"),
                // Words and lists stand in the file with everything.
                Err(_) => continue,
            };
            let text = format!(
                "{HOST}[vserver.v]\naddresses = [\"data0 10.0.0.1/24\"]\n[{table}]\n{key} = {other}\n"
            );
            let config = config(&text);
            assert!(export(&config, false).contains(&format!("\n{key} = {other}\n")), "{key}");
            round_trip(&config);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn words_and_addresses_of_any_choice_come_back_equal(
        congestion in prop_oneof![Just("reno"), Just("cubic"), Just("bbr"), Just("dctcp")],
        ecn in prop_oneof![Just("off"), Just("accept"), Just("classic"), Just("accurate")],
        fast_open in prop_oneof![Just("off"), Just("client"), Just("server"), Just("both")],
        cookies in prop_oneof![Just("off"), Just("pressure"), Just("always")],
        probing in prop_oneof![Just("off"), Just("black-hole"), Just("always")],
        name in "[A-Za-z][A-Za-z0-9_-]{0,20}",
        hosts in proptest::collection::btree_set(1u8..250, 1..20),
        count in proptest::option::of(1u8..4),
        file in "[ -~é]{0,20}",
    ) {
        prop_assume!(!name.to_ascii_lowercase().starts_with("vs_mgmt"));
        let addresses: Vec<String> =
            hosts.iter().map(|h| format!("\"data0 10.{h}.0.1/24\", \"mgmt0 fd{h:02x}::1/64\"")).collect();
        let count = count.map(|n| format!("count = {n}\n")).unwrap_or_default();
        let text = format!(
            "[host]\ncontrol = {}\n{HOST}[vserver.{name}]\n{count}addresses = [{}]\n[vserver.{name}.tcp]\n\
             congestion = \"{congestion}\"\necn = \"{ecn}\"\nfast_open = \"{fast_open}\"\n\
             syn_cookies = \"{cookies}\"\nmtu_probing = \"{probing}\"\n",
            quoted(&format!("/run/x{}", file.replace('/', "-"))), addresses.join(", ")
        );
        round_trip(&config(&text));
    }
}
