//! One flow into memory: in-order full segments, their acknowledgement and delivery, on weft and
//! on smoltcp in turns, with the same frames. Medians of many batches; compare within one run.
#![allow(missing_docs)]

use std::hint::black_box;
use std::time::Instant;

use weft_micro::peer::MSS;
use weft_micro::receive::{Delivery, Receiver};
use weft_micro::rival;

const ROUNDS: usize = 4000;

struct Series {
    name: &'static str,
    ns: Vec<f64>,
}

impl Series {
    fn new(name: &'static str) -> Series {
        Series { name, ns: Vec::with_capacity(ROUNDS) }
    }

    fn time(&mut self, segments: usize, run: impl FnOnce() -> usize) {
        let start = Instant::now();
        let got = black_box(run());
        self.ns.push(start.elapsed().as_secs_f64() * 1e9 / segments as f64);
        assert_eq!(got, segments * MSS, "all of it is delivered");
    }

    fn median(&mut self) -> f64 {
        self.ns.sort_by(f64::total_cmp);
        self.ns[self.ns.len() / 2]
    }

    fn print(&mut self) -> f64 {
        let median = self.median();
        let (low, high) = (self.ns[self.ns.len() / 20], self.ns[self.ns.len() * 19 / 20]);
        println!("  {:<34} {median:>6.0} ns a segment [{low:.0}..{high:.0}]", self.name);
        median
    }
}

/// One turn of each kind after the other, so that other load hits all alike.
fn compare(delivery: Delivery, batch: usize) {
    println!("in-order segments of 1,448 bytes, {batch} a batch, delivery {delivery:?}:");
    let mut weft = Receiver::new(delivery, false);
    let mut merged = Receiver::new(delivery, true);
    let mut smoltcp = rival::Receiver::new(delivery);
    let mut series =
        [Series::new("weft"), Series::new("weft, merging receive bursts"), Series::new("smoltcp")];
    for _ in 0..ROUNDS {
        weft.load(batch);
        series[0].time(batch, || weft.run());
        weft.rest();
        merged.load(batch);
        series[1].time(batch, || merged.run());
        merged.rest();
        smoltcp.load(batch);
        series[2].time(batch, || smoltcp.run());
    }
    let [weft, merging, smoltcp] = series.each_mut().map(Series::print);
    let times = [weft, merging].map(|ns| smoltcp / ns);
    println!("  smoltcp takes {:.2} and {:.2} times as long", times[0], times[1]);
}

fn main() {
    for batch in [2, 32, 64] {
        for delivery in [Delivery::InPlace, Delivery::Views, Delivery::Copied] {
            compare(delivery, batch);
        }
    }
}
