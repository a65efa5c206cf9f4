//! What goes on while paths fail: a stream from left to right, and requests from right to left, each
//! with an answer. Both are TCP between the ULIDs.

use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use weft_vserver::net::TcpStream;

use super::super::LabError;
use super::super::scenario::pause;
use super::super::traffic::{self, SPACING, Sum, join, sleep_until};
use super::bench::{Bench, Told};

const STREAM_PORT: u16 = 5001;
const REQUEST_PORT: u16 = 5002;
/// Bytes of a request and of its answer.
const REQUEST: usize = 100;
const ANSWER: usize = 1000;

/// What came of both.
#[derive(Debug, Default)]
pub(super) struct Flown {
    sent: Sum,
    got: Sum,
    /// When something of the stream came, and when answers.
    pieces: Vec<Instant>,
    answers: Vec<Instant>,
    /// Errors that applications saw: resets, mostly.
    failures: Vec<String>,
}

/// The longest times without progress of both, ms: the stream's, the requests'.
pub(super) type Gaps = [f64; 2];

impl Flown {
    /// Everything that was sent came, once and in order, and no connection ended before its time.
    pub(super) fn is_whole(&self) -> bool {
        self.failures.is_empty() && self.sent == self.got
    }

    pub(super) fn bytes(&self) -> u64 {
        self.got.bytes
    }

    pub(super) fn requests(&self) -> usize {
        self.answers.len()
    }

    /// What was seen, for a check.
    pub(super) fn text(&self) -> String {
        if !self.failures.is_empty() {
            return self.failures.join("; ");
        }
        if self.sent != self.got {
            return format!("{} bytes sent, {} came, or others", self.sent.bytes, self.got.bytes);
        }
        let (bytes, answers) = (self.bytes(), self.answers.len());
        format!("{bytes} bytes, SHA-256 {}…, {answers} answers, no reset", &self.got.sha256[..16])
    }

    fn gaps(&self, from: Instant, to: Instant) -> Gaps {
        [&self.pieces, &self.answers].map(|times| ms(traffic::gap(times, from, to)))
    }

    /// While the fault lasted.
    pub(super) fn at_fault(&self, told: &Told) -> Gaps {
        self.gaps(told.broken, told.mended)
    }

    /// Before it, and when it was over.
    pub(super) fn otherwise(&self, told: &Told) -> [Gaps; 2] {
        [self.gaps(told.begin, told.broken), self.gaps(told.mended, told.end)]
    }
}

pub(super) fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Lets both flow while `story` goes on.
pub(super) fn flow<T>(
    bench: &Bench,
    patience: Duration,
    story: impl FnOnce() -> Result<T, LabError>,
) -> Result<(Flown, T), LabError> {
    let (source, sink) = bench.connection(STREAM_PORT)?;
    let (answering, asking) = bench.connection(REQUEST_PORT)?;
    let ended = &AtomicBool::new(false);
    std::thread::scope(|scope| {
        let produced = scope.spawn(move || traffic::produce(source, ended, patience));
        let [pieces, answers] = &bench.came;
        let consumed = scope.spawn(move || traffic::consume(Counted(sink, pieces)));
        let answered = scope.spawn(move || answer(&answering));
        let asked = scope.spawn(move || ask(&asking, answers, ended));
        let told = story();
        if told.is_err() {
            // What was broken may still be: nobody waits for data that does not come.
            bench.stop();
        }
        ended.store(true, Ordering::Release);
        let mut flown = Flown::default();
        let mut failed = |what: &str, e: io::Error| flown.failures.push(format!("{what}: {e}"));
        match join(produced)? {
            Ok(sent) => flown.sent = sent,
            Err(e) => failed("sending the stream", e),
        }
        match join(consumed)? {
            Ok((got, pieces)) => (flown.got, flown.pieces) = (got, pieces),
            Err(e) => failed("receiving the stream", e),
        }
        match join(asked)? {
            Ok(answers) => flown.answers = answers,
            Err(e) => failed("asking", e),
        }
        if let Err(e) = join(answered)? {
            failed("answering", e);
        }
        told.map(|told| (flown, told))
    })
}

/// Answers requests until there are no more.
fn answer(mut stream: &TcpStream) -> io::Result<()> {
    let mut request = [0; REQUEST];
    loop {
        // The end of the stream may only come where a request would begin.
        if stream.read(&mut request[..1])? == 0 {
            return Ok(());
        }
        stream.read_exact(&mut request[1..])?;
        stream.write_all(&content::<ANSWER>(number_of(&request)))?;
    }
}

/// Counts what is read.
struct Counted<'a, R>(R, &'a AtomicUsize);

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let got = self.0.read(buf)?;
        self.1.fetch_add(1, Ordering::Relaxed);
        Ok(got)
    }
}

/// Asks, not more often than each millisecond, until `ended`; when answers came.
fn ask(stream: &TcpStream, came: &AtomicUsize, ended: &AtomicBool) -> io::Result<Vec<Instant>> {
    let (mut times, mut number) = (Vec::new(), 0);
    while !ended.load(Ordering::Acquire) {
        let due = Instant::now() + SPACING;
        one_request(stream, number)?;
        times.push(Instant::now());
        came.fetch_add(1, Ordering::Relaxed);
        number += 1;
        sleep_until(due);
    }
    Ok(times)
}

fn one_request(mut stream: &TcpStream, number: u64) -> io::Result<()> {
    stream.write_all(&content::<REQUEST>(number))?;
    let mut came = [0; ANSWER];
    stream.read_exact(&mut came)?;
    if came == content::<ANSWER>(number) {
        return Ok(());
    }
    let text = format!("request {number} was answered as {}", number_of(&came));
    Err(io::Error::new(io::ErrorKind::InvalidData, text))
}

/// Request or answer of a number.
fn content<const N: usize>(number: u64) -> [u8; N] {
    let mut bytes = [number as u8; N];
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    bytes
}

fn number_of(bytes: &[u8]) -> u64 {
    bytes.first_chunk::<8>().map_or(0, |head| u64::from_be_bytes(*head))
}

/// Some requests, silence, `then`, and how long one more takes: ms.
pub(super) fn first_after_silence(
    bench: &Bench,
    (silence, stop): (Duration, &AtomicBool),
    then: impl FnOnce(&mut dyn FnMut() -> io::Result<Duration>) -> Result<Duration, LabError>,
) -> Result<f64, LabError> {
    let (answering, asking) = bench.connection(REQUEST_PORT)?;
    std::thread::scope(|scope| {
        let answered = scope.spawn(move || answer(&answering));
        let mut number = 0;
        let mut request = || -> io::Result<Duration> {
            let begin = Instant::now();
            one_request(&asking, number)?;
            number += 1;
            Ok(begin.elapsed())
        };
        let warm = (0..50).try_for_each(|_| request().map(|_| ()));
        let took = warm
            .map_err(LabError::io("ask"))
            .and_then(|()| pause(silence, stop))
            .and_then(|()| then(&mut request));
        if took.is_err() {
            bench.stop();
        }
        drop(asking);
        join(answered)?.map_err(LabError::io("answer"))?;
        took.map(ms)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_carries_the_number_of_its_request_and_no_other() {
        let request = content::<REQUEST>(0x1_0203);
        assert_eq!(number_of(&request), 0x1_0203);
        assert_ne!(content::<ANSWER>(7), content::<ANSWER>(7 + 256));
        assert_eq!(&content::<ANSWER>(7)[8..], [7; ANSWER - 8]);
    }

    #[test]
    fn a_stream_that_came_otherwise_is_not_whole() {
        let sum = |bytes| Sum { bytes, sha256: "0".repeat(64) };
        let whole = Flown { sent: sum(5), got: sum(5), ..Flown::default() };
        assert!(whole.is_whole(), "{}", whole.text());
        let short = Flown { sent: sum(5), got: sum(4), ..Flown::default() };
        assert!(!short.is_whole() && short.text().contains("5 bytes sent, 4 came"));
        let reset = Flown { failures: vec![String::from("asking: reset")], ..whole };
        assert!(!reset.is_whole() && reset.text() == "asking: reset");
    }
}
