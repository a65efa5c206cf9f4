//! A host against the kernel, in namespaces that the test makes: every driver, every way to wait,
//! and what happens when the link changes.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::io::{Read, Write};
use std::net::{IpAddr, TcpStream};

use common::{PATIENCE, addr, config, echo_server, pattern, until, vs};
use weft_drivers::ethtool::{Offload, set_offload};
use weft_drivers::netlink::{Netlink, VethEnd};
use weft_drivers::netns::Netns;
use weft_vserver::Host;

/// `k0` of the kernel's side at 10.9.0.1/24 and fd09::1/64, `w0` of weft's, joined by a cable.
struct Cable {
    kernel: Netns,
    weft: Netns,
}

impl Cable {
    fn new(queues: usize) -> Option<Cable> {
        let (Ok(kernel), Ok(weft)) = (Netns::new(), Netns::new()) else {
            println!("SKIP: network namespaces need root");
            return None;
        };
        let (k, w) = (kernel.clone(), weft.clone());
        kernel
            .enter(move || {
                use std::os::fd::AsFd;
                let mut netlink = Netlink::open().unwrap();
                let near = VethEnd { name: "k0", netns: Some(k.as_fd()), mac: None };
                let far = VethEnd { name: "w0", netns: Some(w.as_fd()), mac: None };
                netlink.add_veth(&near, &far, queues, 1500).unwrap();
                set_offload("k0", Offload::TxChecksum, false).unwrap();
                address(&mut netlink, "k0");
            })
            .unwrap();
        weft.enter(|| Netlink::open().unwrap().set_up("w0", true).unwrap()).unwrap();
        Some(Cable { kernel, weft })
    }

    fn host(&self, nic: &str) -> Result<Host, weft_vserver::HostError> {
        let text = format!(
            "[nic.eth0]\ndevice = \"w0\"\n{nic}\n[alias.data0]\nover = \"eth0\"\n[vserver.v]\n\
             addresses = [\"data0 10.9.0.2/24\", \"data0 fd09::2/64\"]\n"
        );
        self.weft.enter(|| Host::start(config(&text))).unwrap()
    }
}

fn address(netlink: &mut Netlink, name: &str) {
    netlink.set_up(name, true).unwrap();
    netlink.add_address(name, "10.9.0.1".parse().unwrap(), 24).unwrap();
    netlink.add_address(name, "fd09::1".parse().unwrap(), 64).unwrap();
}

fn kernel_echo(kernel: &Netns, to: &str) {
    let bytes = pattern(2_000_000);
    let got = kernel
        .enter(|| {
            let stream = TcpStream::connect_timeout(&addr(to), PATIENCE).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut got = vec![0; bytes.len()];
            std::thread::scope(|scope| {
                scope.spawn(|| (&stream).write_all(&bytes).unwrap());
                (&stream).read_exact(&mut got).unwrap();
            });
            got
        })
        .unwrap();
    assert!(got == bytes, "{to}: wrong bytes");
}

fn serves(host: &Host, kernel: &Netns) {
    let v = vs(host, "v");
    echo_server(&v, addr("[::]:7"));
    until("IPv6 address", || v.addresses().contains(&IpAddr::from([0xfd09, 0, 0, 0, 0, 0, 0, 2])));
    kernel_echo(kernel, "10.9.0.2:7");
    kernel_echo(kernel, "[fd09::2]:7");
    let snapshot = host.snapshot();
    assert!(snapshot.problems.is_empty(), "{:?}", snapshot.problems);
    let c = &snapshot.vservers[0].counters;
    assert_eq!(c["TcpInErrs"] + c["TcpInCsumErrors"], 0);
}

#[test]
fn af_xdp_in_every_way_of_waiting() {
    for poll in ["interrupt", "adaptive", "busy"] {
        let Some(cable) = Cable::new(1) else { return };
        let host = match cable.host(&format!("poll = \"{poll}\"")) {
            Ok(host) => host,
            Err(e) => return println!("SKIP: {e}"),
        };
        serves(&host, &cable.kernel);
        drop(host);
        // The queue and the NIC's program are free at once.
        drop(cable.host("").unwrap());
    }
}

#[test]
fn several_queues_of_one_nic() {
    let Some(cable) = Cable::new(2) else { return };
    let host = match cable.host("queues = 2") {
        Ok(host) => host,
        Err(e) => return println!("SKIP: {e}"),
    };
    assert_eq!(host.snapshot().nics[0].queues, 2);
    serves(&host, &cable.kernel);
    for _ in 0..8 {
        kernel_echo(&cable.kernel, "10.9.0.2:7");
    }
}

#[test]
fn af_packet_beside_the_kernel() {
    let Some(cable) = Cable::new(1) else { return };
    match cable.host("driver = \"packet\"") {
        Ok(host) => serves(&host, &cable.kernel),
        Err(e) => println!("SKIP: {e}"),
    }
}

#[test]
fn tap_and_tun_in_the_namespace_of_the_caller() {
    for driver in ["tap", "tun"] {
        let Some(mut cable) = Cable::new(1) else { return };
        cable.weft = cable.kernel.clone();
        let move_away = |netlink: &mut Netlink| netlink.delete_link("k0").unwrap();
        cable.kernel.enter(|| move_away(&mut Netlink::open().unwrap())).unwrap();
        let host = match cable.host(&format!("driver = \"{driver}\"")) {
            Ok(host) => host,
            Err(e) => return println!("SKIP: {e}"),
        };
        cable.kernel.enter(|| address(&mut Netlink::open().unwrap(), "w0")).unwrap();
        serves(&host, &cable.kernel);
    }
}

#[test]
fn link_changes_reach_the_host() {
    let Some(cable) = Cable::new(1) else { return };
    let Ok(host) = cable.host("driver = \"packet\"") else {
        return println!("SKIP: AF_PACKET cannot be had");
    };
    let change = |f: &(dyn Fn(&mut Netlink) + Sync)| {
        cable.weft.enter(|| f(&mut Netlink::open().unwrap())).unwrap();
    };
    assert!(host.snapshot().nics[0].up);
    change(&|n| n.set_mtu("w0", 1400).unwrap());
    until("new MTU", || host.snapshot().nics[0].mtu == 1400);
    change(&|n| n.set_up("w0", false).unwrap());
    until("link down", || !host.snapshot().nics[0].up);
    change(&|n| n.set_up("w0", true).unwrap());
    until("link up", || host.snapshot().nics[0].up);
    change(&|n| n.delete_link("w0").unwrap());
    until("interface gone", || !host.snapshot().nics[0].up);
    until("told", || !host.snapshot().problems.is_empty());
    assert_eq!(
        host.snapshot().problems,
        ["interface w0 was removed; restart weft when it is back"]
    );
    assert!(host.is_running());
}
