//! DHCP clients of a host on a memory device, with a server that this test plays.
#![allow(missing_docs, clippy::unwrap_used, clippy::many_single_char_names)]

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use weft_drivers::device::{AnyDevice, Device};
use weft_stack::frame::Frame;
use weft_stack::wire::checksum;
use weft_vserver::change::{Changes, Options};
use weft_vserver::dhcp::{DhcpReport, DhcpWish, State};
use weft_vserver::{Host, config};

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);
const SERVER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];
const RIVAL_MAC: [u8; 6] = [2, 0, 0, 0, 0, 66];

fn text(state: &Path, vservers: &str) -> String {
    format!(
        r#"
[host]
state_dir = "{}"
[cluster]
id = "00:07:34:04:12:0E"
[nic.eth0]
device = "mem0"
driver = "mem"
[alias.data0]
over = "eth0"
{vservers}"#,
        state.display()
    )
}

fn host(state: &Path, vservers: &str) -> Host {
    let text = text(state, vservers);
    let config = config::parse(&text, "weft.toml".as_ref()).map_err(|e| e.to_string()).unwrap();
    Host::start(config).unwrap()
}

/// The far end: a server that knows clients by their identifiers, and maybe a host that has an
/// address already.
struct Far {
    device: AnyDevice,
    /// By identifier.
    leases: BTreeMap<String, [u8; 4]>,
    silent: bool,
    rival: Option<[u8; 4]>,
    seen: BTreeMap<u8, usize>,
}

fn option(data: &[u8], code: u8) -> Option<&[u8]> {
    let mut at = 240;
    while at + 1 < data.len() && data[at] != 255 {
        if data[at] == 0 {
            at += 1;
            continue;
        }
        let body = data.get(at + 2..at + 2 + usize::from(data[at + 1]))?;
        if data[at] == code {
            return Some(body);
        }
        at += 2 + body.len();
    }
    None
}

impl Far {
    fn new(host: &Host) -> Far {
        Far {
            device: host.take_mem_peer("eth0").unwrap(),
            leases: BTreeMap::new(),
            silent: false,
            rival: None,
            seen: BTreeMap::new(),
        }
    }

    /// Answers everything that came; returns how many frames that was.
    fn turn(&mut self) -> usize {
        let mut burst = Vec::new();
        let got = self.device.receive(&mut burst, 64).unwrap();
        let mut out = VecDeque::new();
        for frame in burst {
            let frame = frame.to_heap();
            let data = frame.data();
            let answer = match data[12..14] {
                [8, 6] => self.arp(data),
                [8, 0] if data[23] == 17 && data[36..38] == [0, 67] => self.dhcp(data),
                _ => None,
            };
            out.extend(answer.map(|a| Frame::from_heap(0, &a)));
        }
        self.device.transmit(&mut out).unwrap();
        self.device.flush().unwrap();
        got
    }

    fn arp(&self, data: &[u8]) -> Option<Vec<u8>> {
        let target: [u8; 4] = data[38..42].try_into().unwrap();
        let sender = &data[28..32];
        let mac = match self.rival {
            Some(rival) if rival == target && sender != target => RIVAL_MAC,
            _ if target == [10, 0, 0, 1] => SERVER_MAC,
            _ => return None,
        };
        let mut out = [&data[6..12], &mac[..], &[8, 6, 0, 1, 8, 0, 6, 4, 0, 2]].concat();
        out.extend(mac);
        out.extend(target);
        out.extend(&data[22..32]);
        Some(out)
    }

    fn dhcp(&mut self, frame: &[u8]) -> Option<Vec<u8>> {
        let data = &frame[42..];
        let kind = option(data, 53)?[0];
        *self.seen.entry(kind).or_default() += 1;
        assert_eq!(option(data, 60).unwrap_or(b"weft"), b"weft");
        let id = option(data, 61)?;
        assert_eq!(id[0], 0, "text");
        let id = String::from_utf8(id[1..].to_vec()).unwrap();
        let addr = *self.leases.get(&id)?;
        let answer = match kind {
            1 => 2,
            3 => 5,
            _ => return None,
        };
        if self.silent {
            return None;
        }
        let mut m = vec![0; 240];
        m[..3].copy_from_slice(&[2, 1, 6]);
        m[4..8].copy_from_slice(&data[4..8]);
        m[16..20].copy_from_slice(&addr);
        m[28..34].copy_from_slice(&data[28..34]);
        m[236..].copy_from_slice(&[99, 130, 83, 99]);
        m.extend([53, 1, answer, 54, 4, 10, 0, 0, 1, 51, 4, 0, 0, 14, 16, 1, 4, 255, 255, 0, 0]);
        m.extend([3, 4, 10, 0, 0, 1, 26, 2, 5, 0, 6, 4, 10, 0, 0, 53, 255]);
        // To everybody while the client has no address, else to it.
        let (mac, to) = match data[12..16] {
            [0, 0, 0, 0] => (&[0xff; 6][..], [255; 4]),
            [a, b, c, d] => (&frame[6..12], [a, b, c, d]),
            _ => unreachable!(),
        };
        let mut out = [mac, &SERVER_MAC, &[8, 0, 0x45, 0]].concat();
        out.extend((28 + m.len() as u16).to_be_bytes());
        out.extend([0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1]);
        out.extend(to);
        let header = checksum::finish(checksum::sum(&out[14..]));
        out[24..26].copy_from_slice(&header.to_be_bytes());
        out.extend([0, 67, 0, 68]);
        out.extend((8 + m.len() as u16).to_be_bytes());
        out.extend([0, 0]);
        out.extend(m);
        Some(out)
    }

    /// Serves until `done`.
    fn serve(&mut self, host: &Host, what: &str, done: impl Fn(&DhcpReport) -> bool) -> DhcpReport {
        let begin = Instant::now();
        loop {
            let idle = self.turn() == 0;
            let report = host.dhcp();
            if done(&report) {
                return report;
            }
            assert!(begin.elapsed() < PATIENCE, "{what}: {report:#?}");
            if idle {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }
}

fn all(report: &DhcpReport, state: State) -> bool {
    report.clients.iter().all(|c| c.state == state)
}

fn lease(far: &mut Far, vserver: &str, addr: [u8; 4]) {
    far.leases.insert(format!("00:07:34:04:12:0E:data0:{vserver}:0"), addr);
}

#[test]
fn clients_behind_one_mac_address_get_the_addresses_of_their_identifiers() {
    let dir = tempfile::tempdir().unwrap();
    let v = "[vserver.web]\ncount = 100\ndhcp = [{ alias = \"data0\", acd = \"off\" }]\n";
    let host = host(dir.path(), v);
    let mut far = Far::new(&host);
    for n in 1..=100 {
        lease(&mut far, &format!("web{n}"), [10, 0, 1, n]);
    }
    let report = far.serve(&host, "all bound", |r| all(r, State::Bound));
    assert_eq!((report.clients.len(), report.lost), (100, 0));
    for c in &report.clients {
        let n = c.vserver.strip_prefix("web").unwrap();
        assert_eq!(c.address.as_deref(), Some(format!("10.0.1.{n}/16").as_str()), "{c:?}");
        assert_eq!(c.id, format!("00:07:34:04:12:0E:data0:web{n}:0"));
    }
    let web7 = host.vserver("web7").unwrap();
    assert_eq!(web7.addresses(), ["10.0.1.7".parse::<std::net::IpAddr>().unwrap()]);
    let snapshot = host.snapshot();
    let line = snapshot.vservers.iter().find(|v| v.name == "web7").unwrap();
    assert_eq!(line.addresses, ["data0 10.0.1.7/16 dhcp"]);
    assert!(line.routes.iter().any(|r| r == "0.0.0.0/0 via 10.0.0.1 dev data0 metric 100"));
    let facts = host.dhcp_facts("web7");
    assert_eq!(facts.dns, ["10.0.0.53".parse::<std::net::IpAddr>().unwrap()]);

    // asked from the address, answered to the address
    assert_eq!(host.dhcp_wish("web7", "data0", None, DhcpWish::Renew), Ok(1));
    let acks = |r: &DhcpReport| {
        let c = r.clients.iter().find(|c| c.vserver == "web7").unwrap();
        (c.counters["DhcpAcks"], c.state)
    };
    far.serve(&host, "renewed", |r| acks(r) == (2, State::Bound));
    assert_eq!(host.dhcp_wish("web7", "data0", Some(0), DhcpWish::Release), Ok(1));
    far.serve(&host, "released", |r| acks(r).1 == State::Released);
    assert!(web7.addresses().is_empty());
    assert!(host.dhcp_wish("web7", "data1", None, DhcpWish::Renew).is_err());
    let begin = Instant::now();
    while !far.seen.contains_key(&7) {
        far.turn();
        assert!(begin.elapsed() < PATIENCE, "the server is told");
    }
}

#[test]
fn a_vserver_that_comes_asks_and_one_that_goes_gives_back() {
    let dir = tempfile::tempdir().unwrap();
    let dhcp = "dhcp = [{ alias = \"data0\", acd = \"off\" }]\n";
    let web = format!("[vserver.web]\n{dhcp}");
    let both = format!("{web}dns.ndots = 2\n[vserver.guest]\n{dhcp}");
    let host = Arc::new(host(dir.path(), &web));
    let changes = Changes::new(Arc::clone(&host), None, Vec::new(), |_, _| {});
    let apply = |vservers: &str| {
        let config = config::parse(&text(dir.path(), vservers), "weft.toml".as_ref());
        changes.apply(config.map_err(|e| e.to_string()).unwrap(), &Options::default()).unwrap();
    };
    let mut far = Far::new(&host);
    lease(&mut far, "web", [10, 0, 1, 1]);
    lease(&mut far, "guest", [10, 0, 1, 2]);
    far.serve(&host, "web is bound", |r| all(r, State::Bound));
    apply(&both);
    far.serve(&host, "guest is bound", |r| r.clients.len() == 2 && all(r, State::Bound));
    let dns = host.vserver("web").unwrap().dns();
    assert_eq!((dns.ndots, dns.servers.len()), (2, 1), "the lease's server, the file's ndots");
    let acks = |r: &DhcpReport| r.clients.iter().map(|c| c.counters["DhcpAcks"]).max();
    assert_eq!(acks(&host.dhcp()), Some(1), "who stays is not asked again");
    apply(&web);
    assert_eq!(host.dhcp().clients.len(), 1);
    let begin = Instant::now();
    while !far.seen.contains_key(&7) {
        assert!(begin.elapsed() < PATIENCE, "no DHCPRELEASE: {:?}", far.seen);
        far.turn();
    }
    assert!(all(&host.dhcp(), State::Bound));
}

#[test]
fn a_host_comes_up_from_the_cache_and_without_one_its_static_addresses_do() {
    let dir = tempfile::tempdir().unwrap();
    let v = "[vserver.a]\naddresses = [\"data0 10.0.2.1/16\"]\n\
             dhcp = [{ alias = \"data0\", acd = \"off\", cached_after_s = 0 }]\n";
    {
        let host = host(dir.path(), v);
        let mut far = Far::new(&host);
        lease(&mut far, "a", [10, 0, 1, 1]);
        far.serve(&host, "bound", |r| all(r, State::Bound));
    }
    {
        let host = host(dir.path(), v);
        let mut far = Far::new(&host);
        far.silent = true;
        lease(&mut far, "a", [10, 0, 1, 1]);
        let report = far.serve(&host, "cached", |r| all(r, State::Cached));
        assert_eq!(report.clients[0].address.as_deref(), Some("10.0.1.1/16"));
        assert!(report.clients[0].left_s.unwrap() > 3500);
        assert_eq!(host.vserver("a").unwrap().addresses().len(), 2);
        let begin = Instant::now();
        while !far.seen.contains_key(&3) {
            far.turn();
            assert!(begin.elapsed() < PATIENCE, "the server is asked all the same");
        }
        far.silent = false;
        host.dhcp_wish("a", "data0", None, DhcpWish::Renew).unwrap();
        far.serve(&host, "bound", |r| all(r, State::Bound));
    }
    for name in ["leases.a", "leases.b"] {
        std::fs::write(dir.path().join(name), "nonsense").unwrap();
    }
    let host = host(dir.path(), v);
    let mut far = Far::new(&host);
    far.turn();
    let problems = host.snapshot().problems;
    assert!(problems.iter().any(|p| p.contains("no whole copy is left")), "{problems:?}");
    let begin = Instant::now();
    while host.vserver("a").unwrap().addresses().len() != 1 {
        assert!(begin.elapsed() < PATIENCE);
        far.turn();
    }
    assert_eq!(host.dhcp().clients[0].state, State::Selecting);
    lease(&mut far, "a", [10, 0, 1, 1]);
    host.dhcp_wish("a", "data0", None, DhcpWish::Renew).unwrap();
    far.serve(&host, "bound", |r| all(r, State::Bound));
}

#[test]
fn addresses_that_moved_come_up_without_a_server_after_all_were_down() {
    let dir = tempfile::tempdir().unwrap();
    let v = |network: &str| {
        format!(
            "[cluster.leases]\n\"data0:a:0\" = \"{network}.1.1\"\n\
             [[cluster.subnet]]\nnetwork = \"{network}.0.0/16\"\ngateway = \"{network}.0.1\"\n\
             [vserver.a]\ndhcp = [{{ alias = \"data0\", acd = \"off\", cached_after_s = 0 }}]\n"
        )
    };
    let address = |r: &DhcpReport| r.clients[0].address.clone();
    {
        let host = host(dir.path(), &v("10.0"));
        let mut far = Far::new(&host);
        lease(&mut far, "a", [10, 0, 1, 1]);
        let report = far.serve(&host, "bound", |r| all(r, State::Bound));
        assert_eq!(address(&report).as_deref(), Some("10.0.1.1/16"));
    }
    let host = host(dir.path(), &v("10.9"));
    let mut far = Far::new(&host);
    far.silent = true;
    let report = far.serve(&host, "cached", |r| all(r, State::Cached));
    assert_eq!(address(&report).as_deref(), Some("10.9.1.1/16"));
    let gateway = &report.clients[0].routes[0];
    assert_eq!(gateway.via, Some("10.9.0.1".parse().unwrap()));
    // A server that knows better goes before all of it.
    far.silent = false;
    lease(&mut far, "a", [10, 0, 1, 7]);
    host.dhcp_wish("a", "data0", None, DhcpWish::Renew).unwrap();
    let report = far.serve(&host, "bound", |r| all(r, State::Bound));
    assert_eq!(address(&report).as_deref(), Some("10.0.1.7/16"));
}

// RFC 5227 2.1.1, RFC 2131 3.1 5
#[test]
fn an_address_that_a_host_of_the_link_has_is_declined_and_the_host_named() {
    let dir = tempfile::tempdir().unwrap();
    let host = host(dir.path(), "[vserver.a]\ndhcp = [\"data0\"]\n");
    let mut far = Far::new(&host);
    far.rival = Some([10, 0, 1, 1]);
    lease(&mut far, "a", [10, 0, 1, 1]);
    let report = far.serve(&host, "declined", |r| all(r, State::Waiting));
    let line = &report.clients[0];
    assert_eq!(line.counters["DhcpDeclined"], 1);
    let error = line.error.as_deref().unwrap();
    assert_eq!(error, "10.0.1.1 is in use by 02:00:00:00:00:42; declined");
    let problems = host.snapshot().problems;
    let told = "vserver a: 10.0.1.1 is in use by 02:00:00:00:00:42; not used";
    assert!(problems.iter().any(|p| p == told), "{problems:?}");
    assert!(host.vserver("a").unwrap().addresses().is_empty());
}

#[test]
fn every_worker_has_a_lease_and_loses_it() {
    let dir = tempfile::tempdir().unwrap();
    let v = "[workers]\ncount = 2\n[vserver.a]\ndhcp = [{ alias = \"data0\", acd = \"off\" }]\n";
    let host = host(dir.path(), v);
    let mut far = Far::new(&host);
    lease(&mut far, "a", [10, 0, 1, 1]);
    far.serve(&host, "bound", |r| all(r, State::Bound));
    let a = host.vserver("a").unwrap();
    let begin = Instant::now();
    while a.addresses().len() != 1 {
        assert!(begin.elapsed() < PATIENCE);
        far.turn();
    }
    host.dhcp_wish("a", "data0", None, DhcpWish::Renew).unwrap();
    far.serve(&host, "renewed", |r| r.clients[0].counters["DhcpAcks"] == 2);
    host.dhcp_wish("a", "data0", None, DhcpWish::Release).unwrap();
    far.serve(&host, "released", |r| all(r, State::Released));
    let begin = Instant::now();
    while !a.addresses().is_empty() {
        assert!(begin.elapsed() < PATIENCE);
        far.turn();
    }
}
