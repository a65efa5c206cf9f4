//! Aliases that are bound to targets beyond their links.

use super::*;
use crate::events::What;
use crate::fail::config::{BeyondConfig, ConfigError};
use crate::paths::{GroupHealth, TargetMode};
use crate::tree::Illegal;

const ROUTER: [u8; 4] = [10, 0, 0, 1];
const ROUTER_MAC: Mac = [2, 0, 0, 0, 9, 9];
const FAR: [u8; 4] = [192, 0, 2, 1];

fn bound(name: &str, over: &str) -> AliasSpec {
    let hook = Some(String::from("/bin/true"));
    let beyond = BeyondConfig { targets: vec![FAR.into()], detect: Duration::from_secs(1), hook };
    AliasSpec { beyond, ..alias(name, over) }
}

/// What a router says to an ARP request or echo request; it forwards to what is behind it.
fn router(frame: &[u8], own: &[[u8; 4]]) -> Option<Vec<u8>> {
    let mut out = frame.to_vec();
    out.copy_within(6..12, 0);
    out[6..12].copy_from_slice(&ROUTER_MAC);
    match [frame[12], frame[13]] {
        [0x08, 0x06] if frame[21] == 1 && frame[38..42] == ROUTER => {
            out[21] = 2;
            out[22..28].copy_from_slice(&ROUTER_MAC);
            out[28..32].copy_from_slice(&ROUTER);
            out[32..42].copy_from_slice(&frame[22..32]);
        }
        [0x08, 0x00] if frame[23] == 1 && own.iter().any(|a| frame[30..34] == *a) => {
            assert_eq!(frame[..6], ROUTER_MAC);
            out[26..30].copy_from_slice(&frame[30..34]);
            out[30..34].copy_from_slice(&frame[26..30]);
            // An echo reply: the sum of the message is less by 8 in its upper byte.
            out[34] = 0;
            let sum = u32::from(u16::from_be_bytes([frame[36], frame[37]])) + 0x0800;
            let sum = (sum & 0xffff) + (sum >> 16);
            out[36..38].copy_from_slice(&(sum as u16).to_be_bytes());
        }
        _ => return None,
    }
    Some(out)
}

/// For some time, with a router that answers for these addresses.
fn run(lab: &mut Lab, time: Duration, own: &[[u8; 4]]) {
    let end = lab.now + time;
    loop {
        let frames = std::mem::take(&mut lab.sent[0]);
        for (link, frame) in frames {
            if let Some(answer) = router(&frame, own) {
                lab.hosts[0].handle_frame(lab.now, link, &answer);
            }
        }
        lab.exchange();
        if !lab.sent[0].is_empty() {
            continue;
        }
        let Some(at) = lab.hosts[0].poll_timeout().filter(|at| *at <= end) else { break };
        lab.now = lab.now.max(at);
        lab.hosts[0].handle_timeout(lab.now);
        lab.exchange();
    }
    lab.now = end;
}

#[test]
fn an_alias_that_is_bound_to_what_is_beyond_its_link_is_a_group_of_one_to_listeners() {
    for over in ["eth0", "eth0.7", "bond0", "fail0"] {
        let spec = TreeSpec {
            nics: (0..5).map(nic).collect(),
            bonds: vec![bond("bond0", &["eth1", "eth2"], Mode::Static)],
            groups: vec![group("fail0", &["eth3", "eth4"])],
            aliases: vec![alias("mgmt0", over), bound("data0", over)],
            ..TreeSpec::default()
        };
        let mut lab = Lab::alone(keeper(spec, 0));
        let events = |lab: &mut Lab| -> Vec<String> {
            let all = std::mem::take(&mut lab.events[0]);
            all.into_iter().filter(|e| e.contains("data0")).collect()
        };
        assert_eq!(events(&mut lab).len(), 1, "it has a link");
        lab.hosts[0].handle_alias_routers(lab.now, 1, &[ROUTER.into()]);
        // That of the other alias is not its own; of its own it takes that which fits the router.
        let now = lab.now;
        lab.hosts[0].handle_alias_address(now, 0, [10, 0, 0, 7].into(), true);
        run(&mut lab, Duration::from_secs(5), &[FAR]);
        assert!(lab.hosts[0].paths(lab.now).targets.iter().any(|t| t.mode == TargetMode::Disabled));
        for own in [[10, 9, 0, 5], [10, 0, 0, 5]] {
            lab.hosts[0].handle_alias_address(lab.now, 1, own.into(), true);
        }
        run(&mut lab, Duration::from_secs(5), &[FAR]);
        assert_eq!(events(&mut lab), [""; 0], "it is reached");
        let paths = lab.hosts[0].paths(lab.now);
        let target = paths.targets.iter().find(|t| t.interface == "data0").unwrap();
        assert_eq!(target.mode, TargetMode::Beyond);
        assert_eq!(target.test_address.as_deref(), Some("10.0.0.5"));

        run(&mut lab, Duration::from_secs(2), &[]);
        let told = events(&mut lab);
        assert_eq!(told[0], "notice data0 none 192.0.2.1 beyond the link is not reached any more");
        assert!(told[1].starts_with("group data0 failed"), "{told:?}");
        let paths = lab.hosts[0].paths(lab.now);
        let line = paths.groups.iter().find(|g| g.group == "data0").unwrap();
        assert_eq!((line.state, &line.active[..]), (GroupHealth::Failed, &[over.to_owned()][..]));
        assert_eq!(line.beyond_lost, [IpAddr::from(FAR)]);
        assert!(lab.hosts[0].is_up(link(&lab.hosts[0], over)), "frames go on");

        run(&mut lab, Duration::from_secs(5), &[FAR]);
        let told = events(&mut lab);
        assert_eq!(told[0], "notice data0 none 192.0.2.1 beyond the link is reached");
        assert!(told[1].starts_with("group data0 ok"), "{told:?}");
        // Without a link nothing is reached: listeners hear that at once.
        (0..5).for_each(|nic| lab.carrier(nic, false));
        assert!(events(&mut lab).iter().any(|e| e.starts_with("group data0 failed")));
    }
}

#[test]
fn an_alias_whose_targets_come_and_go_is_ok_again_when_they_are_stable() {
    let spec = TreeSpec {
        nics: vec![nic(0)],
        aliases: vec![bound("data0", "eth0")],
        ..TreeSpec::default()
    };
    let mut lab = Lab::alone(keeper(spec, 0));
    lab.hosts[0].handle_alias_routers(lab.now, 0, &[ROUTER.into()]);
    lab.hosts[0].handle_alias_address(lab.now, 0, [10, 0, 0, 5].into(), true);
    run(&mut lab, Duration::from_secs(5), &[FAR]);
    lab.events[0].clear();
    // Five times in less than a minute, then for good.
    let (from, mut told) = (lab.now, Vec::new());
    let mut listen = |lab: &mut Lab| {
        let all = std::mem::take(&mut lab.events[0]);
        let states = all.into_iter().filter(|e| e.starts_with("group") || e.contains("a minute"));
        told.extend(states.map(|e| (lab.now, e)));
    };
    for _ in 0..5 {
        for own in [&[][..], &[FAR]] {
            run(&mut lab, Duration::from_secs(5), own);
            listen(&mut lab);
        }
    }
    while lab.now < from + Duration::from_mins(2) {
        run(&mut lab, Duration::from_secs(1), &[FAR]);
        listen(&mut lab);
    }
    let kinds = ["group data0 failed", "group data0 ok", "a minute"];
    let kind = |e: &String| kinds.iter().position(|k| e.contains(k)).unwrap();
    let order: Vec<usize> = told.iter().map(|(_, e)| kind(e)).collect();
    // It fails, and comes back, twice; after the third failure each return is only noted.
    assert_eq!(order, [0, 1, 0, 1, 0, 2, 2, 2, 1], "{told:#?}");
    let repaired = |n: usize| told.iter().filter(|(_, e)| kind(e) == 1).nth(n).unwrap().0;
    let wait = repaired(2) - repaired(0);
    let seconds = Duration::from_secs(55)..=Duration::from_secs(66);
    assert!(seconds.contains(&wait), "a minute after the first of the last two: {wait:?}");
    assert_eq!(lab.hosts[0].paths(lab.now).groups[0].state, GroupHealth::Ok);
}

#[test]
fn hooks_hear_of_an_alias_as_of_a_group() {
    let what =
        What::Group { group: String::from("data0"), signature: 1, state: String::from("failed") };
    assert_eq!(what.group(), Some("data0"));
    assert!(what.is_for_hook());
}

#[test]
fn an_alias_is_bound_and_freed_while_everything_runs() {
    let spec = |data0| TreeSpec { nics: vec![nic(0)], aliases: vec![data0], ..TreeSpec::default() };
    let mut lab = Lab::alone(keeper(spec(alias("data0", "eth0")), 0));
    assert_eq!(lab.hosts[0].paths(lab.now).groups, []);
    let bound_tree = tree(spec(bound("data0", "eth0")));
    assert!(bound_tree.has_machines() && !lab.hosts[0].tree().has_machines());
    let standing = Standing { of_aliases: vec![(0, [10, 0, 0, 5].into())], ..Standing::default() };
    let now = lab.now;
    lab.hosts[0].update(now, &bound_tree, 7, &standing);
    lab.exchange();
    assert_eq!(lab.hosts[0].paths(now).groups[0].state, GroupHealth::Ok);
    lab.hosts[0].handle_alias_routers(now, 0, &[ROUTER.into()]);
    run(&mut lab, Duration::from_secs(3), &[]);
    assert_eq!(lab.hosts[0].paths(lab.now).groups[0].state, GroupHealth::Failed);
    // What is known stays with another change.
    let now = lab.now;
    lab.hosts[0].update(now, &bound_tree, 8, &standing);
    assert_eq!(lab.hosts[0].paths(now).groups[0].state, GroupHealth::Failed);
    lab.hosts[0].update(now, &tree(spec(alias("data0", "eth0"))), 9, &standing);
    assert_eq!(lab.hosts[0].paths(now).groups, []);
    assert_eq!(lab.hosts[0].poll_timeout(), None);
}

#[test]
fn what_an_alias_cannot_be_bound_to_is_refused() {
    let refused = |change: fn(&mut TreeSpec)| {
        let mut spec = TreeSpec {
            nics: vec![nic(0)],
            aliases: vec![bound("data0", "eth0")],
            ..TreeSpec::default()
        };
        change(&mut spec);
        Tree::new(spec).unwrap_err().remove(0).why
    };
    let why = refused(|s| s.aliases[0].beyond.targets.push([224, 0, 0, 1].into()));
    assert!(matches!(why, Illegal::Beyond { why: ConfigError::NotAHost(..), .. }), "{why}");
    let why = refused(|s| s.aliases[0].beyond.hook = Some(String::from("tell")));
    assert!(matches!(why, Illegal::Beyond { why: ConfigError::HookPath(_), .. }), "{why}");
    let why = refused(|s| s.aliases[0].beyond.detect = Duration::from_millis(99));
    assert!(matches!(why, Illegal::Beyond { why: ConfigError::DetectTooShort(_), .. }), "{why}");
    let why = refused(|s| s.nics[0].ethernet = false);
    assert!(matches!(why, Illegal::NotEthernet { .. }), "{why}");
}
