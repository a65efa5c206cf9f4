//! Two hosts with one to four addresses each, random failures, in virtual time: whenever a way
//! exists, traffic flows again within the bound; no packet gets to ULIDs that are not its own; when
//! traffic ends, nothing is left.
//!
//! `WEFT_SHIM_SEEDS` and `WEFT_SHIM_FIRST` choose how many seeds are run and from where on.
#![allow(clippy::unwrap_used)]

mod support;

use support::*;
use weft_shim::config::ShimConfig;
use weft_shim::context::State;
use weft_shim::locator::Pair;
use weft_shim::own::Change;
use weft_shim::reap::ReapConfig;
use weft_stack::path::PathLayer;
use weft_stack::rng::Rng;
use weft_stack::time::{Duration, Instant};

/// Within this, traffic flows again after a failure that leaves a way in each direction.
const BOUND: Duration = Duration::from_secs(3);
/// The same if one of the hosts lost the context at the same time.
const BOUND_LOST: Duration = Duration::from_secs(5);
/// Then it is looked at for so long.
const WINDOW: Duration = Duration::from_millis(400);
const SEEDS: u64 = 200;

/// Who sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Traffic {
    from: [bool; 2],
    every: Duration,
}

struct Scenario {
    lab: Lab,
    rng: Rng,
    traffic: Traffic,
    number: u64,
    /// What happened, to be read when it fails.
    story: Vec<String>,
}

fn ulids_of(host: usize) -> Pair {
    if host == 0 { ulids() } else { ulids().reversed() }
}

impl Scenario {
    fn new(seed: u64) -> Scenario {
        let mut rng = Rng::from_u64(seed ^ 0x5331);
        let addresses = [1 + rng.below(4) as u16, 1 + rng.below(4) as u16];
        let mut lab = Lab::two(seed, &ShimConfig::default(), ReapConfig::default(), addresses);
        lab.delay = Duration::from_micros(100 + rng.below(15_000));
        lab.jitter = Duration::from_micros(rng.below(2_000));
        let from =
            [[true, true], [true, true], [true, false], [false, true]][rng.below(4) as usize];
        let every = Duration::from_millis(2 + rng.below(18));
        let story = vec![format!("{addresses:?} {from:?} {every:?} delay {:?}", lab.delay)];
        Scenario { lab, rng, traffic: Traffic { from, every }, number: 0, story }
    }

    fn say(&mut self, what: &str) {
        self.story.push(format!("{:?} {what}", self.lab.now));
    }

    /// Traffic goes on until `until`.
    fn run_until(&mut self, until: Instant) {
        while self.lab.now < until {
            for host in 0..2 {
                if self.traffic.from[host] {
                    self.number += 1;
                    self.lab.send(host, ulids_of(host), self.number);
                }
            }
            let next = (self.lab.now + self.traffic.every).min(until);
            self.lab.run_until(next);
        }
    }

    fn works(&self, src: std::net::IpAddr, dst: std::net::IpAddr) -> bool {
        let there = |a| self.lab.hosts.iter().any(|h| h.addrs.contains(&a));
        there(src) && there(dst) && !self.lab.dead.contains(&(src, dst))
    }

    fn pairs(&self) -> impl Iterator<Item = (std::net::IpAddr, std::net::IpAddr)> + '_ {
        let all = |host: usize| {
            1..=self.lab.hosts[host].layer.shim().unwrap().report().locators.len() as u16
        };
        let b = all(1);
        all(0).flat_map(move |x| b.clone().map(move |y| (ip(1, x), ip(2, y))))
    }

    /// A way in each direction, perhaps not the same.
    fn has_ways(&self) -> bool {
        self.pairs().any(|(a, b)| self.works(a, b)) && self.pairs().any(|(a, b)| self.works(b, a))
    }

    /// A pair that works both ways: what set-up and recovery need.
    fn has_pair(&self) -> bool {
        self.pairs().any(|(a, b)| self.works(a, b) && self.works(b, a))
    }

    fn random_address(&mut self, host: usize) -> std::net::IpAddr {
        let n = self.lab.shim(host).report().locators.len() as u64;
        ip(host as u16 + 1, 1 + self.rng.below(n) as u16)
    }

    /// Something fails, or works again.
    fn change(&mut self) {
        let host = self.rng.below(2) as usize;
        match self.rng.below(7) {
            // A pair goes dark, in one direction or both.
            0 | 1 => {
                let (a, b) = (self.random_address(0), self.random_address(1));
                let both = self.rng.below(2) == 0;
                let (x, y) = if host == 0 { (a, b) } else { (b, a) };
                self.lab.dead.insert((x, y));
                if both {
                    self.lab.dead.insert((y, x));
                }
                self.say(&format!("dark: {x} to {y}, both {both}"));
            }
            // A locator goes dark: towards it, from it, or both.
            2 | 3 => {
                let at = self.random_address(host);
                let how = self.rng.below(3);
                let pairs: Vec<_> = self.pairs().collect();
                for (a, b) in pairs.into_iter().filter(|(a, b)| *a == at || *b == at) {
                    let other = if a == at { b } else { a };
                    if how != 1 {
                        self.lab.dead.insert((at, other));
                    }
                    if how != 0 {
                        self.lab.dead.insert((other, at));
                    }
                }
                let what = ["from it", "towards it", "both"][how as usize];
                self.say(&format!("dark: {at}, {what}"));
            }
            // An address is removed, or its link goes down, or the contrary.
            4 | 5 => {
                let at = self.random_address(host);
                let now = self.lab.now;
                let there = self.lab.hosts[host].addrs.contains(&at);
                if there {
                    self.lab.hosts[host].addrs.remove(&at);
                } else {
                    self.lab.hosts[host].addrs.insert(at);
                }
                // Both of a pair of changes are of one kind: what is removed is added.
                let change = if there { Change::Removed } else { Change::Added };
                self.lab.shim(host).address_changed(now, at, change);
                self.lab.pump(host);
                self.say(&format!("{at}: {change:?}"));
            }
            // What was dark works again.
            _ => {
                self.lab.dead.clear();
                self.say("nothing is dark");
            }
        }
    }

    /// One of the hosts forgets the context.
    fn lose(&mut self) {
        let host = self.rng.below(2) as usize;
        let now = self.lab.now;
        let had = self.lab.shim(host).end(now, ulids_of(host), 0);
        self.lab.pump(host);
        self.say(&format!("host {} forgets the context: {had}", host + 1));
    }

    fn check_flow(&mut self, since: Instant) {
        for host in 0..2 {
            let sender = 1 - host;
            if !self.traffic.from[sender] {
                continue;
            }
            let got = self.lab.hosts[host].got.iter().filter(|g| g.at >= since).count();
            assert!(got > 0, "nothing comes to host {} any more", host + 1);
        }
    }

    fn run(&mut self) {
        let now = self.lab.now;
        self.lab.shim(0).start(now, ulids(), 0).unwrap();
        self.lab.pump(0);
        self.run_until(now + Duration::from_millis(500));
        let now = self.lab.now;
        assert_eq!(self.lab.shim(0).state(now, ulids(), 0), State::Established);
        self.lab.loss_percent = if self.rng.below(3) == 0 { self.rng.below(3) } else { 0 };
        for _ in 0..=self.rng.below(6) {
            let at_once = 1 + self.rng.below(3);
            for _ in 0..at_once {
                self.change();
            }
            // Recovery takes a pair that works both ways and traffic of the end that knows.
            let both = self.traffic.from == [true, true];
            let lost = both && self.rng.below(4) == 0 && self.has_pair() && self.knows();
            if lost {
                self.lose();
            }
            // Told only if the seed fails.
            self.lab.log = Some(Vec::new());
            // Where nothing works there is nothing to wait for: then something works again.
            if !self.has_ways() || !self.knows() && !self.has_ulids() || !self.has_pair() && !both {
                let pause = Duration::from_millis(self.rng.below(4000));
                self.run_until(self.lab.now + pause);
                self.repair();
            }
            let bound = if lost || !self.knows() { BOUND_LOST } else { BOUND };
            self.run_until(self.lab.now + bound);
            let since = self.lab.now;
            self.run_until(since + WINDOW);
            self.check_flow(since);
            self.lab.hosts.iter_mut().for_each(|h| h.got.clear());
        }
        self.end();
    }

    /// Both hosts have an established context.
    fn knows(&mut self) -> bool {
        let now = self.lab.now;
        (0..2).all(|h| self.lab.shim(h).state(now, ulids_of(h), 0) == State::Established)
    }

    fn has_ulids(&self) -> bool {
        let (a, b) = (ulids().local, ulids().remote);
        self.works(a, b) && self.works(b, a)
    }

    /// Everything works again.
    fn repair(&mut self) {
        self.lab.dead.clear();
        let now = self.lab.now;
        for host in 0..2 {
            let locators = self.lab.shim(host).report().locators;
            for locator in locators {
                if self.lab.hosts[host].addrs.insert(locator.addr) {
                    self.lab.shim(host).address_changed(now, locator.addr, Change::Added);
                }
            }
            self.lab.pump(host);
        }
        self.say("all works again");
    }

    /// Traffic ends, and in time everything is forgotten.
    fn end(&mut self) {
        self.lab.run(Duration::from_mins(20));
        for host in 0..2 {
            let now = self.lab.now;
            let report = self.lab.shim(host).report();
            assert_eq!((report.contexts, report.initiating, report.held_down), (0, 0, 0));
            assert!(!self.lab.shim(host).wants_transmit());
            assert_eq!(self.lab.hosts[host].layer.poll_timeout(), None);
            assert!(self.lab.shim(host).report_contexts(now, 9).is_empty());
        }
    }
}

fn run(seed: u64) {
    let mut scenario = Scenario::new(seed);
    let end = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| scenario.run()));
    if let Err(error) = end {
        let now = scenario.lab.now;
        println!("seed {seed}:\n{}", scenario.story.join("\n"));
        for (at, p) in scenario.lab.log.iter().flatten() {
            let dead = scenario.lab.dead.contains(&(p.src, p.dst));
            println!("{at:?} {} {} {dead} {:?}", p.src, p.dst, p.message().map(|m| m.body));
        }
        for host in 0..2 {
            println!("{:#?}", scenario.lab.shim(host).report_contexts(now, 2));
        }
        std::panic::resume_unwind(error);
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

// RFC 5533 4
#[test]
fn traffic_flows_again_whenever_a_way_exists() {
    let first = number("WEFT_SHIM_FIRST", 0);
    for seed in first..first + number("WEFT_SHIM_SEEDS", SEEDS) {
        run(seed);
    }
}
