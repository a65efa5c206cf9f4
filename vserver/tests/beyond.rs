//! Targets beyond the link over two hosts: a failover group and an alias that lose them, over IPv6;
//! and test addresses, which only those see who ask for them.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use common::{config, nic, start, start_on, until, vs};
use weft_interface::paths::{GroupHealth, TargetMode};
use weft_vserver::Host;
use weft_vserver::change::{Changes, Options};
use weft_vserver::stats::json;

const FAR: &str = "2001:db8:9::1";
const TEST: &str = "10.0.0.201";

fn host(number: u8, workers: usize, rest: &str) -> String {
    let nic = nic("eth0", 16 * number);
    format!("[workers]\ncount = {workers}\nframes = 4096\n{nic}{rest}")
}

/// The host that is bound to what is beyond; `links`: below `data0`, and it.
fn bound(workers: usize, links: &str) -> String {
    let rest = format!(
        "{links}[vserver.a]\naddresses = [\"data0 10.0.0.1/24\", \"data0 fd00::1/64\"]\n\
         routes = [{{ to = \"default\", via = \"fd00::2\" }}]\n"
    );
    host(1, workers, &rest)
}

/// The router, behind which is the target, or not.
fn router(workers: usize, far: bool) -> String {
    let far = if far { format!(", \"data0 {FAR}/128\"") } else { String::new() };
    let rest = format!(
        "[alias.data0]\nover = \"eth0\"\n[vserver.r]\n\
         addresses = [\"data0 10.0.0.2/24\", \"data0 fd00::2/64\"{far}]\n"
    );
    host(2, workers, &rest)
}

/// Until the target was asked and has answered.
fn answered(host: &Host) {
    let (mut after, mut seen) = (0, false);
    until("answer from beyond", || {
        let (_, page) = host.probes(Some(after));
        after = page.next;
        seen |= page.items.iter().any(|p| p.target == FAR && p.rtt_us.is_some());
        seen
    });
}

fn loses_and_finds_it_again(workers: usize, links: &str, name: &str) -> Arc<Host> {
    let (one, peers) = start(&bound(workers, links));
    let (one, two) = (Arc::new(one), Arc::new(start_on(&router(workers, true), peers)));
    let changes = Changes::new(Arc::clone(&two), None, Vec::new(), |_, _| {});
    let apply = |text: &str| {
        changes.apply(config(text), &Options::default()).unwrap_or_else(|e| panic!("{e}"));
    };
    answered(&one);
    let state = || one.paths().groups.iter().find(|g| g.group == name).unwrap().state;
    until("health", || state() == GroupHealth::Ok);
    apply(&router(workers, false));
    until("loss", || state() == GroupHealth::Failed);
    let events = |wanted: &str| {
        let (_, page) = one.events(Some(0));
        page.items.iter().any(|e| e.what.to_string() == wanted)
    };
    let lost = format!("notice {name} none {FAR} beyond the link is not reached any more");
    assert!(events(&lost) && events(&format!("group {name} failed")));
    apply(&router(workers, true));
    until("return", || state() == GroupHealth::Ok);
    assert!(one.snapshot().problems.is_empty(), "{:?}", one.snapshot().problems);
    one
}

#[test]
fn a_group_and_an_alias_lose_what_is_beyond_their_link_over_ipv6() {
    for workers in [1, 2] {
        let beyond = format!("beyond = [\"{FAR}\"]\ndetect_ms = 200\n");
        let group = format!(
            "[fail.fail0]\nmembers = [\"eth0\"]\nprobe = \"icmp\"\ntargets = [\"10.0.0.2\"]\n\
             test = [\"eth0 {TEST}/24\"]\n{beyond}[alias.data0]\nover = \"fail0\"\n"
        );
        let host = loses_and_finds_it_again(workers, &group, "fail0");
        assert!(host.paths().interfaces[0].active, "the data path goes on");
        // Who does not ask for test addresses does not see them.
        assert!(!json::snapshot(&host.snapshot(), &[]).contains(TEST));
        let test = TEST.parse().unwrap();
        assert!(!vs(&host, "a").addresses().contains(&test));
        let paths = host.paths();
        assert!(paths.addresses.iter().all(|a| a.address != test));
        let asked = paths.targets.iter().filter(|t| t.test_address.as_deref() == Some(TEST));
        assert_eq!(asked.map(|t| t.mode).collect::<Vec<_>>(), [TargetMode::Routes]);

        let alias = format!("[alias.data0]\nover = \"eth0\"\n{beyond}");
        let host = loses_and_finds_it_again(workers, &alias, "data0");
        let target = &host.paths().targets[0];
        assert_eq!((target.mode, target.interface.as_str()), (TargetMode::Beyond, "data0"));
        assert_eq!(target.test_address.as_deref(), Some("fd00::1"));
    }
}
