//! What is watched while a path dies: echo requests each millisecond, and a stream of known bytes.
//! How long nothing came, and what many runs say of it.

use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{RecvFlags, SendFlags, recv, send};
use sha2::{Digest, Sha256};
use weft_stack::rng::Rng;

use super::LabError;
use super::client::icmp_socket;

/// Echo requests and pieces of the stream come so often.
pub(super) const SPACING: Duration = Duration::from_millis(1);
/// Bytes of a piece: 64 Mbit/s.
const PIECE: usize = 8000;
/// How long the last answers are waited for.
const LAST: Duration = Duration::from_millis(300);
/// What is called off after so long: a stream that does not end.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// When echo requests were sent and answers came.
#[derive(Debug, Default)]
pub(super) struct Pings {
    /// By sequence number.
    pub(super) sent: Vec<Instant>,
    /// First answers, in the order of their coming: sequence number and time.
    pub(super) answered: Vec<(u16, Instant)>,
}

impl Pings {
    /// Of those sent in this time, how many were never answered.
    pub(super) fn lost(&self, from: Instant, to: Instant) -> usize {
        let sent = self.sent.iter().filter(|at| (from..to).contains(at)).count();
        let known = |(n, _): &&(u16, Instant)| {
            self.sent.get(usize::from(*n)).is_some_and(|at| (from..to).contains(at))
        };
        sent.saturating_sub(self.answered.iter().filter(known).count())
    }

    /// When answers came.
    pub(super) fn times(&self) -> Vec<Instant> {
        self.answered.iter().map(|(_, at)| *at).collect()
    }
}

/// The longest time without anything, between `from` and `to`. What came last before `from` and first
/// after `to` counts: nothing comes between.
pub(super) fn gap(times: &[Instant], from: Instant, to: Instant) -> Duration {
    let first = times.partition_point(|at| *at < from).saturating_sub(1);
    let last = times.partition_point(|at| *at <= to).min(times.len().saturating_sub(1));
    let within = times.get(first..=last).unwrap_or_default();
    if within.len() < 2 {
        return to - from;
    }
    within.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
}

/// Median, the value that 99 % do not exceed, and the most, of ms.
pub(super) fn spread(values: &[f64]) -> String {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |part: f64| {
        let rank = (sorted.len() as f64 * part).ceil() as usize;
        sorted.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
    };
    format!("{:.1} / {:.1} / {:.1}", at(0.5), at(0.99), at(1.0))
}

/// What a thread returned.
pub(super) fn join<T>(thread: std::thread::ScopedJoinHandle<'_, T>) -> Result<T, LabError> {
    thread.join().map_err(|_| LabError::io("a thread")(io::Error::other("it panicked")))
}

/// Pings from the calling thread's namespace until `stop`; at most 65,535.
pub(super) fn pings(to: IpAddr, stop: &AtomicBool) -> io::Result<Pings> {
    let socket = icmp_socket(to)?;
    set_socket_timeout(&socket, Timeout::Recv, Some(LAST))?;
    let (request, reply) = if to.is_ipv4() { (8, 0) } else { (128, 129) };
    let ended = AtomicBool::new(false);
    let mut seen = Pings::default();
    std::thread::scope(|scope| {
        let receiver = scope.spawn(|| {
            let mut answered: Vec<(u16, Instant)> = Vec::new();
            let (mut packet, mut known) = ([0; 64], vec![false; 1 << 16]);
            while !ended.load(Ordering::Acquire) {
                let Ok((n, _)) = recv(&socket, &mut packet[..], RecvFlags::empty()) else {
                    continue;
                };
                let at = Instant::now();
                let number = u16::from_be_bytes([packet[6], packet[7]]);
                if n == 8 && packet[0] == reply && !known[usize::from(number)] {
                    known[usize::from(number)] = true;
                    answered.push((number, at));
                }
            }
            answered
        });
        let begin = Instant::now();
        for number in 0..u16::MAX {
            sleep_until(begin + SPACING * u32::from(number));
            if stop.load(Ordering::Acquire) {
                break;
            }
            let [high, low] = number.to_be_bytes();
            seen.sent.push(Instant::now());
            // One that the kernel cannot send is a lost one.
            let _ = send(&socket, &[request, 0, 0, 0, 0, 0, high, low], SendFlags::empty());
        }
        std::thread::sleep(LAST);
        ended.store(true, Ordering::Release);
        seen.answered = receiver.join().unwrap_or_default();
    });
    Ok(seen)
}

pub(super) fn sleep_until(at: Instant) {
    let now = Instant::now();
    if at > now {
        std::thread::sleep(at - now);
    }
}

/// Both ends of a stream agree in this.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Sum {
    pub(super) bytes: u64,
    pub(super) sha256: String,
}

/// Sends pieces, one each millisecond, or later ones faster if it was held up, until `stop` but not
/// longer than `patience`.
pub(super) fn produce(
    mut to: impl Write,
    stop: &AtomicBool,
    patience: Duration,
) -> io::Result<Sum> {
    let (mut hash, mut rng, mut bytes) = (Sha256::new(), Rng::from_u64(11), 0);
    let mut piece: Vec<u8> = (0..PIECE / 8).flat_map(|_| rng.next_u64().to_le_bytes()).collect();
    let begin = Instant::now();
    let mut due = begin;
    while !stop.load(Ordering::Acquire) && begin.elapsed() < patience {
        sleep_until(due);
        due += SPACING;
        piece[..8].copy_from_slice(&u64::to_le_bytes(bytes));
        to.write_all(&piece)?;
        hash.update(&piece);
        bytes += piece.len() as u64;
    }
    Ok(Sum { bytes, sha256: super::plan::hex(&hash.finalize()) })
}

/// Reads to the end; also when something came. The stream has its own read timeout.
pub(super) fn consume(mut from: impl Read) -> io::Result<(Sum, Vec<Instant>)> {
    let (mut hash, mut bytes, mut times) = (Sha256::new(), 0, Vec::new());
    let mut buffer = vec![0; 1 << 16];
    loop {
        let n = from.read(&mut buffer)?;
        if n == 0 {
            return Ok((Sum { bytes, sha256: super::plan::hex(&hash.finalize()) }, times));
        }
        times.push(Instant::now());
        hash.update(&buffer[..n]);
        bytes += n as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gap_is_the_longest_silence_that_touches_the_window() {
        let begin = Instant::now();
        let at = |ms: u64| begin + Duration::from_millis(ms);
        let times: Vec<Instant> = [0, 1, 2, 50, 51, 52, 60].map(at).to_vec();
        let ms = |from, to| gap(&times, at(from), at(to)).as_millis();
        assert_eq!((ms(0, 60), ms(2, 10), ms(51, 55), ms(51, 51)), (48, 48, 8, 1));
        assert_eq!(gap(&[], at(3), at(10)), Duration::from_millis(7));
    }

    #[test]
    fn a_spread_is_the_median_the_99th_percentile_and_the_most() {
        let values: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        assert_eq!(spread(&values), "100.0 / 198.0 / 200.0");
        assert_eq!(spread(&[3.0]), "3.0 / 3.0 / 3.0");
    }

    #[test]
    fn what_was_sent_in_a_time_and_not_answered_is_lost() {
        let begin = Instant::now();
        let at = |ms: u64| begin + Duration::from_millis(ms);
        let pings = Pings {
            sent: (0..10).map(at).collect(),
            answered: [0, 1, 2, 5, 7, 8, 9].map(|n| (n, at(u64::from(n) + 1))).to_vec(),
        };
        assert_eq!(pings.lost(at(0), at(10)), 3);
        assert_eq!(pings.lost(at(4), at(6)), 1);
        assert_eq!(pings.lost(at(7), at(10)), 0);
    }
}
