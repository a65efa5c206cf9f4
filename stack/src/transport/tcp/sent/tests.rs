use core::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::time::Instant;

const SPACE: u32 = 600;

fn stamp(ms: u64) -> Stamp {
    let at = Instant::from_millis(ms);
    Stamp {
        sent_at: at,
        delivered: 0,
        delivered_at: at,
        first_sent_at: at,
        flight: 0,
        lost: 0,
        ce: 0,
        app_limited: false,
    }
}

fn sent(lens: &[u32]) -> Records {
    let mut q = Records::new();
    let mut at = SeqNum(0);
    for (i, len) in lens.iter().enumerate() {
        q.push(at, at + *len, stamp(i as u64));
        at += *len;
    }
    q
}

fn fates(q: &Records) -> Vec<(u32, u32, Fate)> {
    q.queue.iter().map(|r| (r.start.0, r.end.0, r.fate)).collect()
}

// RFC 2018 4
#[test]
fn a_report_inside_a_super_segment_splits_it() {
    let mut q = sent(&[1000]);
    let mut delivered = 0;
    q.sack((SeqNum(300), SeqNum(500)), |r| delivered += r.bytes());
    assert_eq!(delivered, 200);
    let expected =
        [(0, 300, Fate::InFlight), (300, 500, Fate::Sacked), (500, 1000, Fate::InFlight)];
    assert_eq!(fates(&q), expected);
}

// RFC 8985 5.2, 6.1
#[test]
fn each_record_knows_when_it_left_last_and_how_often_it_was_sent_again() {
    let mut q = sent(&[100, 100]);
    q.lose_front(100, |_| {});
    let (from, to) = q.next_lost(100).unwrap();
    q.resend(from, to, stamp(50));
    let seen = q.queue.iter().map(|r| (r.stamp.sent_at.as_millis(), r.resent));
    assert_eq!(seen.collect::<Vec<_>>(), [(50, 1), (1, 0)]);
}

#[test]
fn reports_beyond_the_limit_of_records_are_ignored_and_told() {
    let mut q = sent(&[20_000]);
    let noted =
        (0..9000u32).filter(|i| q.sack((SeqNum(1 + i * 2), SeqNum(2 + i * 2)), |_| {})).count();
    assert!(noted < 2100, "{noted}");
    assert!(q.queue.len() <= SPLIT_RECORDS_MAX + 2);
    q.check(SeqNum(0), SeqNum(20_000)).unwrap();
}

#[test]
fn tiny_segments_beyond_the_limit_share_a_record() {
    let mut q = Records::new();
    let shared =
        (0..40_000u32).filter(|i| q.push(SeqNum(*i), SeqNum(i + 1), stamp(u64::from(*i)))).count();
    assert_eq!((q.queue.len(), shared), (PUSH_RECORDS_MAX, 40_000 - PUSH_RECORDS_MAX));
    q.check(SeqNum(0), SeqNum(40_000)).unwrap();
}

// RFC 8985 6.2
// RFC 9293 3.4
#[test]
fn loss_is_found_after_gigabytes_without_one() {
    let mut q = Records::new();
    let (mut una, mut nxt) = (SeqNum(0), SeqNum(0));
    // Never empty, and nothing lost for three quarters of the sequence space.
    for i in 0..3u64 << 10 {
        q.push(nxt, nxt + (1 << 20), stamp(i));
        nxt += 1 << 20;
        if i > 0 {
            una += 1 << 20;
            q.ack(una, |_| {});
            let newest = Transmission { at: Instant::from_millis(i - 1), end: una, resent: false };
            let judged = q.judge(newest, Duration::ZERO, Instant::from_millis(i), |_| {});
            assert_eq!(judged, Judged::default(), "{i}");
        }
    }
    q.push(nxt, nxt + 1000, stamp(5000));
    q.sack((nxt, nxt + 1000), |_| {});
    let newest = Transmission { at: Instant::from_millis(5000), end: nxt + 1000, resent: false };
    let judged = q.judge(newest, Duration::ZERO, Instant::from_millis(6000), |_| {});
    assert_eq!(judged.lost, 1 << 20);
    assert_eq!(q.next_lost(1000), Some((una, nxt)));
}

#[test]
fn an_empty_queue_keeps_little_memory_and_an_idle_one_none() {
    let mut q = sent(&[1; 1000]);
    q.ack(SeqNum(1000), |_| {});
    assert!(q.queue.capacity() <= RECORDS_KEPT);
    let mut q = SentQueue::default();
    q.push(SeqNum(0), SeqNum(1), stamp(0));
    q.release();
    assert!(!q.is_empty(), "there is something in flight");
    q.ack(SeqNum(1), |_| {});
    q.release();
    assert!(q.0.is_none());
}

/// A byte: when it left, how often again, what is known.
type Byte = (u64, u8, Fate);

/// The same by the byte, without any cleverness.
struct Model {
    bytes: Vec<Byte>,
    una: usize,
    nxt: usize,
}

impl Model {
    fn count(&self, fate: Fate) -> usize {
        self.flight().iter().filter(|b| b.2 == fate).count()
    }
    fn flight(&self) -> &[Byte] {
        &self.bytes[self.una..self.nxt]
    }
    fn set(&mut self, from: usize, to: usize, of: Fate, fate: Fate) -> usize {
        let part = self.bytes[from..to].iter_mut().filter(|b| b.2 == of);
        part.map(|b| b.2 = fate).count()
    }
    fn first_lost(&self) -> Option<usize> {
        (self.una..self.nxt).find(|i| self.bytes[*i].2 == Fate::Lost)
    }
}

proptest! {
    #[test]
    fn agrees_with_a_model_of_single_bytes(
        ops in proptest::collection::vec((0..8u8, 0..SPACE, 1..90u32, 0..20u64), 1..80),
        base in prop_oneof![Just(0u32), Just(u32::MAX - 200)],
    ) {
        let base = SeqNum(base);
        let mut q = Records::new();
        let mut m = Model { bytes: vec![(0, 0, Fate::InFlight); SPACE as usize], una: 0, nxt: 0 };
        for (clock, (op, a, n, back)) in ops.into_iter().enumerate() {
            let now = 100 + clock as u64 * 3;
            let flight = m.nxt - m.una;
            match op {
                0 | 1 => {
                    let end = (m.nxt + n as usize).min(SPACE as usize);
                    if end > m.nxt {
                        q.push(base + m.nxt as u32, base + end as u32, stamp(now));
                        m.bytes[m.nxt..end].fill((now, 0, Fate::InFlight));
                        m.nxt = end;
                    }
                }
                2 | 3 if flight > 1 => {
                    let from = m.una + 1 + a as usize % (flight - 1);
                    let to = (from + n as usize).min(m.nxt);
                    let mut new = 0;
                    let block = (base + from as u32, base + to as u32);
                    prop_assert!(q.sack(block, |r| new += r.bytes() as usize));
                    let expected = m.set(from, to, Fate::InFlight, Fate::Sacked)
                        + m.set(from, to, Fate::Lost, Fate::Sacked);
                    prop_assert_eq!(new, expected);
                }
                4 if flight > 0 => {
                    let to = m.una + a as usize % (flight + 1);
                    let mut new = 0;
                    q.ack(base + to as u32, |r| {
                        new += if r.fate == Fate::Sacked { 0 } else { r.bytes() as usize };
                    });
                    let part = &m.bytes[m.una..to];
                    prop_assert_eq!(new, part.iter().filter(|b| b.2 != Fate::Sacked).count());
                    m.una = to;
                }
                5 => {
                    // Between two instants at which something left.
                    let at = Instant::from_millis(now - back) + Duration::from_micros(1);
                    let newest = Transmission { at, end: base, resent: true };
                    let patience = Duration::from_millis(u64::from(n) / 8);
                    let judged =
                        q.judge(newest, patience, Instant::from_millis(now), |_| {});
                    let until = (now - back).min(now - u64::from(n) / 8);
                    let (una, nxt) = (m.una, m.nxt);
                    let late = m.bytes[una..nxt].iter_mut();
                    let late = late.filter(|b| b.2 == Fate::InFlight && b.0 <= until);
                    prop_assert_eq!(judged.lost as usize, late.map(|b| b.2 = Fate::Lost).count());
                }
                6 => {
                    let first = m.first_lost().map(|i| base + i as u32);
                    let next = q.next_lost(n);
                    prop_assert_eq!(next.map(|n| n.0), first);
                    if let Some((from, to)) = next {
                        let to = to.min(from + n);
                        let run = (from - base) as usize..(to - base) as usize;
                        prop_assert!(m.bytes[run.clone()].iter().all(|b| b.2 == Fate::Lost));
                        q.resend(from, to, stamp(now));
                        for b in &mut m.bytes[run] {
                            *b = (now, b.1 + 1, Fate::InFlight);
                        }
                    }
                }
                7 if back < 4 && flight > 0 => {
                    if back < 2 {
                        let void = back == 0;
                        let first_end = q.queue[0].end;
                        q.lose_all(Instant::from_millis(now - 10), void);
                        let (una, nxt) = (m.una, m.nxt);
                        if void {
                            m.set(una, nxt, Fate::Sacked, Fate::InFlight);
                        }
                        for i in una..nxt {
                            let first = base + (i as u32) < first_end;
                            let b = &mut m.bytes[i];
                            if b.2 == Fate::InFlight && (first || b.0 <= now - 10) {
                                b.2 = Fate::Lost;
                            }
                        }
                    } else {
                        let (una, nxt) = (m.una, m.nxt);
                        prop_assert_eq!(q.unlose() as usize, m.count(Fate::Lost));
                        m.set(una, nxt, Fate::Lost, Fate::InFlight);
                    }
                }
                _ => {}
            }
            if let Err(wrong) = q.check(base + m.una as u32, base + m.nxt as u32) {
                prop_assert!(false, "{}", wrong);
            }
            let bytes = q.queue.iter().flat_map(|r| {
                let at = r.stamp.sent_at.as_millis();
                std::iter::repeat_n((at, r.resent, r.fate), r.bytes() as usize)
            });
            prop_assert_eq!(bytes.collect::<Vec<_>>(), m.flight());
        }
    }
}
