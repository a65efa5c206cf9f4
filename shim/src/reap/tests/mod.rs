//! Tests of REAP: the table of its state machine, the RFC's timers, and two of them against each
//! other over pairs that fail.

mod broken;
mod hints;
mod policy;
mod random;
mod recovery;
mod rfc;
mod table;
mod world;

use core::net::IpAddr;
use core::time::Duration;

use weft_stack::time::Instant;

use super::*;
use crate::locator::{Preference, Verification};

fn ip(host: u8, locator: u8) -> IpAddr {
    format!("2001:db8:{locator}::{host}").parse().unwrap()
}

fn locators(host: u8, count: u8) -> Vec<Locator> {
    (1..=count).map(|n| Locator::new(ip(host, n), Verification::Keyed)).collect()
}

/// So many seeds, or more where the environment asks for more: `WEFT_SHIM_SEEDS` times as many.
fn seeds(count: u64) -> u64 {
    let times = std::env::var("WEFT_SHIM_SEEDS").ok().and_then(|n| n.parse::<u64>().ok());
    count * times.unwrap_or(1)
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Local locator `l` of host 1 and remote locator `r` of host 2.
fn pair(l: u8, r: u8) -> Pair {
    Pair::new(ip(1, l), ip(2, r))
}

/// Host 1 with `local` locators towards host 2 with `remote`, over the first of both.
fn reap(config: &ReapConfig, local: u8, remote: u8) -> Reap {
    let now = Instant::from_millis(1_000);
    let mut reap = Reap::new(config, [7; 16], now, pair(1, 1));
    reap.set_paths(now, &locators(1, local), &locators(2, remote));
    reap
}

/// Everything to send at `now`.
fn drain(reap: &mut Reap, now: Instant) -> Vec<(Pair, Outgoing)> {
    core::iter::from_fn(|| reap.poll_transmit(now)).collect()
}

fn events(reap: &mut Reap) -> Vec<ReapEvent> {
    core::iter::from_fn(|| reap.poll_event()).collect()
}

/// A probe of host 2 by the first pair, that reports what it received.
fn from_peer(state: ReapState, received: &[Report]) -> Probe {
    from_peer_by(pair(1, 1), state, received)
}

fn from_peer_by(by: Pair, state: ReapState, received: &[Report]) -> Probe {
    let sent = Report { src: by.remote, dst: by.local, nonce: 99, data: 0 };
    Probe { state, sent: Reports::from_slice(&[sent]), received: Reports::from_slice(received) }
}

/// The reports of what the probes among `sent` say of themselves.
fn reports_of(sent: &[(Pair, Outgoing)]) -> Vec<Report> {
    let own = |(_, m): &(Pair, Outgoing)| match m {
        Outgoing::Probe(p) => Some(p.sent[0]),
        Outgoing::Keepalive => None,
    };
    sent.iter().filter_map(own).collect()
}
