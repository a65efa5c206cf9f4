use super::*;
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};

use proptest::prelude::*;

#[test]
fn a_dropped_frame_returns_to_its_pool() {
    let pool = FramePool::heap(2, 512);
    let a = pool.alloc().unwrap();
    let b = pool.alloc().unwrap();
    assert!(pool.alloc().is_none());
    assert_eq!(pool.exhausted(), 1);
    drop(a);
    std::thread::spawn(move || drop(b.into_bytes())).join().unwrap();
    assert_eq!(pool.free(), 2);
}

#[test]
fn a_handle_is_a_pointer() {
    assert_eq!((size_of::<Frame>(), size_of::<Option<Frame>>()), (8, 8));
    assert!(size_of::<Slot>() <= 192);
}

#[test]
fn headers_are_pushed_and_pulled() {
    let pool = FramePool::heap(1, 512);
    let mut f = pool.alloc().unwrap();
    f.append(b"payload");
    f.push_front(3).copy_from_slice(b"ip:");
    f.mark_network_header();
    f.push_front(4).copy_from_slice(b"eth:");
    assert_eq!(f.data(), b"eth:ip:payload");
    f.pull_front(7);
    assert_eq!(f.data(), b"payload");
    assert_eq!(f.network_header(), b"ip:payload");
    f.frags.push(Bytes::from_static(b"+more"));
    assert_eq!(f.to_heap().data(), b"payload+more");
}

#[test]
fn a_slot_leaves_and_comes_back() {
    let pool = FramePool::heap(1, 512);
    let mut f = pool.alloc().unwrap();
    f.append(b"x");
    let slot = f.into_slot().unwrap();
    assert_eq!(pool.free(), 0);
    // SAFETY: the slot was just taken from its frame.
    let f = unsafe { pool.frame_at(slot, HEADROOM_BYTES, 1) };
    assert_eq!(f.data(), b"x");
    drop(f);
    assert_eq!(pool.free(), 1);
    assert!(Frame::from_heap(0, b"h").into_slot().is_err());
}

#[test]
fn a_frame_comes_back_as_new() {
    let pool = FramePool::heap(2, 512);
    let mut f = pool.alloc().unwrap();
    f.append(b"old");
    f.meta.gso = Gso::Tcp4 { mss: 7 };
    f.frags.push(Bytes::from_static(b"old"));
    f.frags.push(pool.alloc().unwrap());
    drop(f);
    for f in [pool.alloc().unwrap(), pool.alloc().unwrap()] {
        assert_eq!((f.total_len(), f.headroom(), f.meta.gso), (0, HEADROOM_BYTES, Gso::None));
        assert!(f.frags.is_empty());
    }
}

#[test]
fn applications_hold_no_more_than_their_quota_and_leave_a_quarter() {
    let pool = FramePool::heap(64, 2048);
    let quota = Quota::default();
    let mut buf = quota.alloc(&pool, 1000, 2).unwrap();
    buf[..5].copy_from_slice(b"hello");
    buf.truncate(5);
    let bytes = buf.freeze();
    assert!(pool.holds(&bytes) && !pool.holds(b"static"));
    let second = quota.alloc(&pool, 2048, 2).unwrap();
    assert!(quota.alloc(&pool, 1, 2).is_none());
    assert!(quota.alloc(&pool, 2049, 9).is_none());
    let slice = bytes.slice(1..3);
    drop((bytes, second));
    assert_eq!((&slice[..], pool.free()), (&b"el"[..], 63));
    std::thread::spawn(move || drop(slice)).join().unwrap();
    assert_eq!(pool.free(), 64);
    let held: Vec<_> = std::iter::from_fn(|| quota.alloc(&pool, 1, usize::MAX)).collect();
    assert_eq!((held.len(), pool.free()), (49, 15));
    assert_eq!(pool.exhausted(), 0);
}

#[test]
fn what_stacks_hold_leaves_a_driver_slots_to_send_it() {
    for domains in [false, true] {
        let pool = FramePool::heap(2048, 256);
        let mut domain = FrameDomain::new();
        assert!(!domains || domain.adopt(&pool));
        let _inside = domain.enter();
        let mut held: Vec<_> = std::iter::from_fn(|| pool.alloc()).collect();
        assert_eq!((held.len(), pool.free()), (2048 - 64, 64));
        // The kernel may have half of the reserve to receive, and what is sent all of it.
        let (mut filled, mut sent) = (Vec::new(), Vec::new());
        assert_eq!(pool.take_slots(64, &mut filled), 32);
        assert_eq!(pool.take_slots_to_send(31, &mut sent), 31);
        let last = pool.alloc_to_send().unwrap();
        assert!(pool.alloc_to_send().is_none() && pool.take_slots_to_send(1, &mut sent) == 0);
        // What comes back is the reserve's first, whoever had it.
        held.truncate(held.len() - 33);
        drop(last);
        pool.give_slots(&sent[1..]);
        assert_eq!(pool.free(), 64);
        assert!(pool.alloc().is_none());
        drop(held.pop());
        held.push(pool.alloc().unwrap());
        assert!(pool.alloc().is_none());
        pool.give_slots(&filled);
        pool.give_slots(&sent[..1]);
        drop(held);
        assert_eq!(pool.free(), 2048);
        assert_eq!(std::iter::from_fn(|| pool.alloc()).take(2048).collect::<Vec<_>>().len(), 1984);
    }
}

/// A region that tells when it is unmapped.
struct Told {
    _memory: Box<[u8]>,
    gone: Arc<AtomicBool>,
}

impl Region for Told {}

impl Drop for Told {
    fn drop(&mut self) {
        self.gone.store(true, Ordering::SeqCst);
    }
}

fn told_pool(slots: usize) -> (FramePool, Arc<AtomicBool>) {
    let gone = Arc::new(AtomicBool::new(false));
    let mut memory = vec![0u8; slots * 256].into_boxed_slice();
    let base = NonNull::new(memory.as_mut_ptr()).unwrap();
    // SAFETY: in bounds of the slab.
    let pointers = (0..slots).map(|i| unsafe { base.add(i * 256) }).collect();
    let region = Box::new(Told { _memory: memory, gone: Arc::clone(&gone) });
    // SAFETY: disjoint parts of the slab that the region owns.
    (unsafe { FramePool::from_region(region, pointers, 256) }, gone)
}

#[test]
fn the_region_goes_with_the_last_handle_and_the_last_frame() {
    let (pool, gone) = told_pool(3);
    let other = pool.clone();
    let mut a = pool.alloc().unwrap();
    a.append(b"still here");
    let b = pool.alloc().unwrap().into_bytes();
    drop(pool);
    let c = other.alloc().unwrap();
    drop(c);
    drop(other);
    assert!(!gone.load(Ordering::SeqCst));
    drop(b);
    assert_eq!(a.data(), b"still here");
    drop(a);
    assert!(gone.load(Ordering::SeqCst));

    let (pool, gone) = told_pool(3);
    drop(pool.alloc());
    drop(pool);
    assert!(gone.load(Ordering::SeqCst));
}

#[test]
fn a_domain_keeps_slots_and_gives_them_back() {
    let (pool, gone) = told_pool(64);
    let mut domain = FrameDomain::new();
    assert!(domain.adopt(&pool) && !domain.adopt(&pool));
    assert!(!FrameDomain::new().adopt(&pool));
    {
        let _inside = domain.enter();
        let frames: Vec<_> = std::iter::from_fn(|| pool.alloc()).collect();
        assert_eq!((frames.len(), pool.free()), (64, 0));
        drop(frames);
        assert_eq!(pool.free(), 64);
        let mut slots = Vec::new();
        assert_eq!(pool.take_slots(100, &mut slots), 64);
        assert_eq!(slots.iter().collect::<HashSet<_>>().len(), 64);
        pool.give_slots(&slots);
        // A second guard has no effect, inside or after.
        drop(domain.enter());
        drop(FrameDomain::new().enter());
        drop(pool.alloc());
    }
    let frame = pool.alloc().unwrap();
    drop(pool);
    drop(domain);
    assert!(!gone.load(Ordering::SeqCst));
    drop(frame);
    assert!(gone.load(Ordering::SeqCst));
}

#[test]
fn a_guard_that_outlives_its_domain_harms_nothing() {
    let (pool, gone) = told_pool(8);
    let mut domain = FrameDomain::new();
    domain.adopt(&pool);
    let inside = domain.enter();
    drop(domain);
    drop(pool.alloc());
    drop(inside);
    let frames: Vec<_> = std::iter::from_fn(|| pool.alloc()).collect();
    assert!(!frames.is_empty());
    drop((frames, pool));
    assert!(!gone.load(Ordering::SeqCst));
}

/// Threads that enter in turn, allocate, pass frames on to others, who drop them outside, at any
/// time, the pool's last handle included: no slot is ever handed out twice, and the region ends
/// exactly once, at the end.
#[test]
fn threads_share_a_domain_and_no_slot_is_lost_or_doubled() {
    const SLOTS: usize = 256;
    const TURNS: usize = 300;
    for seed in 0..4u64 {
        let (pool, gone) = told_pool(SLOTS);
        let owner: Arc<Vec<AtomicBool>> =
            Arc::new((0..SLOTS).map(|_| AtomicBool::new(false)).collect());
        let mut domain = FrameDomain::new();
        domain.adopt(&pool);
        let domain = Arc::new(Mutex::new(domain));
        let (send, receive) = mpsc::sync_channel::<Frame>(64);
        let receive = Arc::new(Mutex::new(receive));
        let release = {
            let owner = Arc::clone(&owner);
            move |frame: Frame| {
                let slot = frame.slot().unwrap() as usize;
                assert!(frame.data().iter().all(|b| usize::from(*b) == slot % 251));
                assert!(owner[slot].swap(false, Ordering::SeqCst), "slot {slot} was free");
                drop(frame);
            }
        };
        let threads = (0..4u64).map(|t| {
            let (pool, domain, send) = (pool.clone(), Arc::clone(&domain), send.clone());
            let (receive, owner, release) =
                (Arc::clone(&receive), Arc::clone(&owner), release.clone());
            std::thread::spawn(move || {
                let mut random = seed * 97 + t + 1;
                for _ in 0..TURNS {
                    let mut kept = Vec::new();
                    let mut domain = (t < 3).then(|| domain.lock().unwrap());
                    let inside = domain.as_mut().map(|d| d.enter());
                    for _ in 0..40 {
                        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                        let Some(mut frame) = pool.alloc() else { continue };
                        let slot = frame.slot().unwrap() as usize;
                        assert!(!owner[slot].swap(true, Ordering::SeqCst), "slot {slot} twice");
                        frame.push_back(16).fill((slot % 251) as u8);
                        match random >> 62 {
                            0 => kept.push(frame),
                            1 => {
                                if let Err(e) = send.try_send(frame) {
                                    let (mpsc::TrySendError::Full(f)
                                    | mpsc::TrySendError::Disconnected(f)) = e;
                                    release(f);
                                }
                            }
                            _ => release(frame),
                        }
                    }
                    drop(inside);
                    drop(domain);
                    while let Ok(frame) = receive.lock().unwrap().try_recv() {
                        release(frame);
                    }
                    kept.into_iter().for_each(&release);
                }
            })
        });
        let threads: Vec<_> = threads.collect();
        for thread in threads {
            thread.join().unwrap();
        }
        drop(send);
        receive.lock().unwrap().iter().for_each(&release);
        assert_eq!(pool.free(), SLOTS);
        let last = pool.alloc().unwrap();
        drop((domain, pool));
        assert!(!gone.load(Ordering::SeqCst));
        std::thread::spawn(move || drop(last)).join().unwrap();
        assert!(gone.load(Ordering::SeqCst));
    }
}

#[test]
fn the_last_frames_of_an_orphan_may_go_on_many_threads_at_once() {
    for _ in 0..50 {
        let (pool, gone) = told_pool(16);
        let frames: Vec<_> = std::iter::from_fn(|| pool.alloc()).collect();
        let threads = frames.into_iter().map(|f| std::thread::spawn(move || drop(f)));
        let threads: Vec<_> = threads.collect();
        drop(pool);
        for thread in threads {
            thread.join().unwrap();
        }
        assert!(gone.load(Ordering::SeqCst));
    }
}

#[test]
fn a_long_chain_needs_no_deep_stack() {
    let mut frame = Frame::from_heap(0, b"head");
    for _ in 0..200_000 {
        frame.frags.push(Frame::from_heap(0, b"x"));
    }
    assert_eq!(frame.total_len(), 200_004);
    let mut frags = std::mem::take(&mut frame.frags);
    frags.truncate(150_000);
    assert_eq!(frags.len(), 150_000);
}

#[derive(Clone, Debug)]
enum Op {
    Bytes(usize),
    Frame(usize, Vec<(bool, usize)>),
    Advance(usize),
    Truncate(usize),
    Pop,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        (0..20usize).prop_map(Op::Bytes),
        (0..20usize, prop::collection::vec((any::<bool>(), 0..9usize), 0..4))
            .prop_map(|(n, frags)| Op::Frame(n, frags)),
        (0..60usize).prop_map(Op::Advance),
        (0..200usize).prop_map(Op::Truncate),
        Just(Op::Pop),
    ]
}

proptest! {
    /// The model: a row of bytes.
    #[test]
    fn fragments_are_one_row_of_bytes(ops in prop::collection::vec(op(), 1..40)) {
        let pool = FramePool::heap(256, 64);
        let mut next = 0u8;
        let mut model: Vec<u8> = Vec::new();
        let mut make = |n: usize, model: &mut Vec<u8>| -> Vec<u8> {
            let data: Vec<u8> = (0..n).map(|_| { next = next.wrapping_add(1); next }).collect();
            model.extend(&data);
            data
        };
        let frame = |data: &[u8]| {
            let mut f = pool.alloc().unwrap();
            f.reset(0);
            f.append(data);
            f
        };
        let mut frags = Frags::new();
        for op in ops {
            match op {
                Op::Bytes(n) => frags.push(Bytes::from(make(n, &mut model))),
                Op::Frame(n, more) => {
                    let mut f = frame(&make(n, &mut model));
                    for (shared, n) in more {
                        let data = make(n, &mut model);
                        if shared { f.frags.push(Bytes::from(data)) } else { f.frags.push(frame(&data)) }
                    }
                    frags.push(f);
                }
                Op::Advance(n) => {
                    frags.advance(n);
                    model.drain(..n.min(model.len()));
                }
                Op::Truncate(n) => {
                    frags.truncate(n);
                    model.truncate(n);
                }
                Op::Pop => {
                    let piece = frags.pop_front();
                    if let Some(Frag::Frame(f)) = &piece {
                        prop_assert!(f.frags.is_empty());
                    }
                    let piece = piece.map(|p| p.to_vec()).unwrap_or_default();
                    prop_assert_eq!(&piece, &model[..piece.len()]);
                    model.drain(..piece.len());
                }
            }
            prop_assert_eq!(frags.bytes(), model.len());
            prop_assert_eq!(frags.iter().flatten().copied().collect::<Vec<u8>>(), model.clone());
        }
        let mut taken = Vec::new();
        for piece in frags {
            taken.extend_from_slice(&piece);
        }
        prop_assert_eq!(taken, model);
        prop_assert_eq!(pool.free(), pool.slots());
    }
}
