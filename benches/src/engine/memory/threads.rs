//! Two stacks in two threads against one: what is left when workers share nothing but the machine.

use std::io;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use weft_micro::receive::{Delivery, Receiver};

use super::{BATCH, Receives, Weft, count, merging};
use crate::engine::stay_on_cpu;
use crate::meter::Meter;
use crate::side::Control;
use crate::spec::Side;

/// How long one and all run in turns.
const TURN: Duration = Duration::from_millis(50);

/// Tells `speedup`: segments a second of so many threads together, against one alone.
pub(super) fn speedup(side: &Side, control: &Control) -> io::Result<()> {
    let threads = count(side);
    control.fact("mode", format!("memory, {threads} stacks in {threads} threads"));
    let (mut alone, mut together) = (0.0, 0.0);
    let mut meter = Meter::start(side, control);
    loop {
        let began = Instant::now();
        alone += rate(side, 1)?;
        together += rate(side, threads)?;
        if !meter.operation(began, Instant::now()) {
            break;
        }
    }
    control.number("speedup", together / alone);
    Ok(())
}

/// Segments a second of so many threads, each with a stack and a CPU of its own.
fn rate(side: &Side, threads: usize) -> io::Result<f64> {
    let (stop, segments) = (AtomicBool::new(false), AtomicU64::new(0));
    let ready = Barrier::new(threads + 1);
    let work = |cpu: usize| {
        stay_on_cpu(cpu);
        let mut receiver = Weft(Receiver::new(Delivery::InPlace, merging(side)));
        ready.wait();
        let mut done = 0;
        while !stop.load(Ordering::Relaxed) {
            receiver.load(BATCH);
            receiver.run();
            done += BATCH as u64;
        }
        segments.fetch_add(done, Ordering::Relaxed);
    };
    let work = &work;
    thread::scope(|scope| {
        for cpu in 0..threads {
            thread::Builder::new().spawn_scoped(scope, move || work(cpu))?;
        }
        ready.wait();
        let began = Instant::now();
        thread::sleep(TURN);
        stop.store(true, Ordering::Relaxed);
        Ok::<_, io::Error>(began)
    })
    .map(|began| segments.load(Ordering::Relaxed) as f64 / began.elapsed().as_secs_f64())
}
