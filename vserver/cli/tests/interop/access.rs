//! Port scans of a running daemon by nmap: every alias, both families, find what the access table
//! says.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;
use std::process::Stdio;

use weft_cli::lab::topology::{Cabling, Topology, nic, v4};
use weft_drivers::netns::Netns;

use crate::common::{ALPHA, Daemon, ask, installed, xdp};

/// Host number of alpha's management address.
const MGMT: u16 = ALPHA + 100;

fn v6(n: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, n)
}

/// Listeners everywhere, rules about some of them.
fn config(dir: &Path) -> String {
    let services: String = [22, 23, 80, 443, 8080, 9000]
        .map(|port| format!("[[vserver.alpha.service]]\nkind = \"echo\"\nport = {port}\n"))
        .concat();
    format!(
        r#"
[host]
control = "{control}"
[nic.eth0]
device = "{nic}"
driver = "af-xdp"
[alias.data0]
over = "eth0"
[alias.mgmt0]
over = "eth0"
[access]
rules = [{{ reject = "tcp/9000, udp/9000", on = "data" }}, {{ prohibit = "https", on = "mgmt" }}]
[access.class.lab]
services = ["tcp/8080", "udp/8080"]
[group.lab]
access = [{{ drop = "tcp/7000", on = "mgmt" }}]
[vserver.alpha]
group = "lab"
addresses = [
    "data0 {data4}/16", "data0 {data6}/64", "mgmt0 {mgmt4}/16", "mgmt0 {mgmt6}/64",
]
access = [
    {{ allow = "lab", from = "192.0.2.1" }},
    {{ drop = "lab", on = "data0" }},
    {{ reject = "telnet", on = "data0" }},
]
limits.icmp_errors_per_second = 100000
{services}"#,
        control = dir.join("weft.sock").display(),
        nic = nic(0),
        data4 = v4(ALPHA),
        data6 = v6(ALPHA),
        mgmt4 = v4(MGMT),
        mgmt6 = v6(MGMT),
    )
}

/// Ports and what nmap finds, by its grepable output.
fn scan(client: &Netns, how: &str, ports: &str, to: IpAddr) -> BTreeMap<u16, String> {
    let mut command = client.command("nmap");
    command.args(["-n", "-Pn", "--max-retries", "2", "--host-timeout", "40s", "-oG", "-"]);
    // Every port by name, not a count of the ignored ones.
    command.args(["-vv", "--initial-rtt-timeout", "250ms", "--max-rtt-timeout", "1s"]);
    command.args([how, "-p", ports]);
    if to.is_ipv6() {
        command.arg("-6");
    }
    let output = command.arg(to.to_string()).stdin(Stdio::null()).output().expect("nmap");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{errors}");
    let mut found = BTreeMap::new();
    for line in text.lines().filter(|l| l.contains("Ports: ")) {
        let list = line.split("Ports: ").nth(1).unwrap_or_default();
        let list = list.split('\t').next().unwrap_or_default();
        for entry in list.split(", ") {
            let mut fields = entry.trim().split('/');
            let (port, state) = (fields.next(), fields.next());
            if let (Some(Ok(port)), Some(state)) = (port.map(str::parse), state) {
                found.insert(port, state.to_owned());
            }
        }
    }
    assert!(!found.is_empty(), "{how} {to}: {text}\n{errors}");
    found
}

fn expect(name: &str, found: &BTreeMap<u16, String>, wanted: &[(u16, &str)]) {
    let wanted: BTreeMap<u16, String> =
        wanted.iter().map(|(port, state)| (*port, (*state).to_owned())).collect();
    assert_eq!(found, &wanted, "{name}");
}

const TCP: &str = "22,23,80,443,7000,8080,9000";
const UDP: &str = "U:80,161,623,7000,8080,9000";

fn report(dir: &Path) -> serde_json::Value {
    let text = ask(dir, &["access", "alpha", "--json"]);
    serde_json::from_str(&text).expect("JSON")
}

fn decision(dir: &Path, words: &[&str]) -> String {
    ask(dir, &[&["access", "test", "alpha"], words].concat())
}

#[test]
fn port_scans_of_every_alias_find_what_the_access_table_says() {
    if !xdp() || !installed("nmap") {
        return;
    }
    let dir = tempfile::tempdir().expect("directory");
    let topology = Topology::cabled(Cabling::default()).expect("topology");
    let client = &topology.client.netns;
    let config = config(dir.path());
    let _daemon = Daemon::start(&topology.weft, client, dir.path(), &config, 80);
    // IPv6 addresses come after duplicate address detection.
    let to: IpAddr = v6(MGMT).into();
    let answered = (0..40).any(|_| {
        let ping = client.command("ping").args(["-c1", "-W1", &to.to_string()]).output();
        ping.expect("ping").status.success()
    });
    assert!(answered, "{to} does not answer");

    for (data, mgmt) in [
        (IpAddr::V4(v4(ALPHA)), IpAddr::V4(v4(MGMT))),
        (IpAddr::V6(v6(ALPHA)), IpAddr::V6(v6(MGMT))),
    ] {
        expect(
            "SYN to data0",
            &scan(client, "-sS", TCP, data),
            &[
                (22, "filtered"),
                (23, "closed"),
                (80, "open"),
                (443, "open"),
                (7000, "closed"),
                (8080, "filtered"),
                (9000, "closed"),
            ],
        );
        expect(
            "SYN to mgmt0",
            &scan(client, "-sS", TCP, mgmt),
            &[
                (22, "open"),
                (23, "open"),
                (80, "open"),
                (443, "filtered"),
                // By its group.
                (7000, "filtered"),
                (8080, "open"),
                (9000, "open"),
            ],
        );
        // A listener answers an ACK with a RST too, whatever is open: only rules show.
        expect(
            "ACK to data0",
            &scan(client, "-sA", TCP, data),
            &[
                (22, "filtered"),
                (23, "unfiltered"),
                (80, "unfiltered"),
                (443, "unfiltered"),
                (7000, "unfiltered"),
                (8080, "filtered"),
                (9000, "unfiltered"),
            ],
        );
        for how in ["-sF", "-sX", "-sN"] {
            let found = scan(client, how, "22,8080,7000", data);
            let wanted = [(22, "open|filtered"), (7000, "closed"), (8080, "open|filtered")];
            expect(how, &found, &wanted);
        }
        expect(
            "UDP to data0",
            &scan(client, "-sU", UDP, data),
            &[
                (80, "open"),
                (161, "open|filtered"),
                (623, "open|filtered"),
                (7000, "closed"),
                (8080, "open|filtered"),
                (9000, "filtered"),
            ],
        );
        let found = scan(client, "-sU", "U:161,623,7000", mgmt);
        expect("UDP to mgmt0", &found, &[(161, "closed"), (623, "closed"), (7000, "closed")]);
    }

    let told = report(dir.path());
    let rules = told["access"][0]["rules"].as_array().expect("rules");
    let hits = |i: usize| rules[i]["hits"].as_u64().expect("hits");
    let clients: Vec<&str> = rules.iter().filter_map(|r| r["last_client"].as_str()).collect();
    for (i, rule) in rules.iter().enumerate().skip(1) {
        assert!(hits(i) > 0, "{rule}");
        println!("NUMBER {} {}: {} first packets", rule["action"], rule["services"], hits(i));
    }
    assert_eq!(hits(0), 0, "{told:#}");
    assert_eq!(clients.len(), rules.len() - 1, "{told:#}");
    let denied = told["access"][0]["denied"].as_u64().expect("denied");
    let rejected = told["access"][0]["rejected"].as_u64().expect("rejected");
    let all: u64 = (0..rules.len()).map(hits).sum();
    // Every denial is of a rule; probes that were merged are one frame and several hits.
    assert!((1..=all).contains(&(denied + rejected)), "{told:#}");

    let said = decision(dir.path(), &["tcp/22", "from", "10.0.0.5", "to", "data0"]);
    assert!(said.starts_with("tcp/22 on data0: drop (rule 7, default: "), "{said}");
    let said =
        decision(dir.path(), &["tcp/8080", "from", "192.0.2.1", "to", &v4(ALPHA).to_string()]);
    assert!(said.starts_with("tcp/8080 on data0: allow (rule 1, vserver, line "), "{said}");
    let said = decision(dir.path(), &["tcp/22", "from", "10.0.0.5", "to", "mgmt0"]);
    assert_eq!(said, "tcp/22 on mgmt0: allow (default: no rule matches)\n");
}
