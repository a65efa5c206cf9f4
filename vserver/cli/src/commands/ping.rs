//! `weft ping [VSERVER] ADDR`: echo requests from a vserver, sent by the daemon.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Write;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use weft_vserver::control::{Answer, Command, Connection};
use weft_vserver::ping::{PingAnswers, PingError, PingLine, PingStep};

use super::daemon;
use crate::Error;

/// How often the daemon is asked for answers; times are measured by its stack.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Options of `weft ping`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// From which vserver (left out if there is only one), and to whom
    #[arg(value_name = "[VSERVER] ADDRESS", num_args = 1..=2, required = true)]
    pub words: Vec<String>,
    /// Requests to send
    #[arg(short, long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub count: u16,
    /// Seconds between requests
    #[arg(short, long, default_value_t = 1.0, value_parser = seconds)]
    pub interval: f64,
    /// Seconds to wait for the last answers
    #[arg(short = 'W', long, default_value_t = 1.0, value_parser = seconds)]
    pub wait: f64,
    /// Bytes of payload
    #[arg(short, long, default_value_t = 56, value_parser = clap::value_parser!(u16).range(0..=65_000))]
    pub size: u16,
    /// TTL or hop limit
    #[arg(short = 't', long)]
    pub ttl: Option<u8>,
    /// Print JSON: one object per answer
    #[arg(short, long)]
    pub json: bool,
}

fn seconds(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| String::from("not a number"))?;
    if (0.01..=60.0).contains(&value) { Ok(value) } else { Err(String::from("from 0.01 to 60")) }
}

/// What was sent and what came.
#[derive(Debug, Default)]
struct Tally {
    sent: u16,
    answered: BTreeSet<u16>,
    failed: BTreeSet<u16>,
    rtts_us: Vec<u64>,
}

/// Sends echo requests and shows the answers; fails if none came.
pub fn run(control: Option<&Path>, args: &Args) -> Result<(), Error> {
    let (vserver, to) = match &args.words[..] {
        [to] => (None, to),
        [vserver, to] => (Some(vserver.clone()), to),
        _ => return Err(Error::Config(String::from("one address is wanted"))),
    };
    // Told here, before anybody is asked.
    let address = to.split_once('%').map_or(&to[..], |(address, _)| address);
    if address.parse::<IpAddr>().is_err() {
        return Err(Error::Config(PingError::Address(to.clone()).to_string()));
    }
    let mut daemon = daemon::connect(control)?;
    let mut step = PingStep {
        vserver,
        to: to.clone(),
        payload_bytes: usize::from(args.size),
        hop_limit: args.ttl,
        ..PingStep::default()
    };
    let mut tally = Tally::default();
    let mut next = Instant::now();
    let mut end = next;
    while tally.sent < args.count || (tally.open() && Instant::now() < end) {
        step.send = (tally.sent < args.count && Instant::now() >= next).then(|| {
            tally.sent += 1;
            next += Duration::from_secs_f64(args.interval);
            end = Instant::now() + Duration::from_secs_f64(args.wait);
            tally.sent
        });
        let answers = ask(&mut daemon, &step)?;
        if step.session.replace(answers.session).is_none() && !args.json {
            let from = &answers.vserver;
            writeln!(std::io::stdout(), "PING {to} from vserver {from}: {} bytes", args.size)?;
        }
        for line in &answers.answers {
            tally.take(line);
            show(line, args.json)?;
        }
        std::thread::sleep(LOOK_EVERY);
    }
    if !args.json {
        write!(std::io::stdout(), "{}", tally.summary(to))?;
    }
    if tally.answered.is_empty() {
        return Err(Error::Failed(format!("{to} did not answer")));
    }
    Ok(())
}

fn ask(daemon: &mut Connection, step: &PingStep) -> Result<PingAnswers, Error> {
    match daemon.ask(Command::Echo(step.clone())).map_err(daemon::error)? {
        Answer::Echo(answers) => Ok(answers),
        _ => Err(Error::Failed(String::from("the daemon did not answer with answers to echo"))),
    }
}

fn show(line: &PingLine, json: bool) -> Result<(), Error> {
    let mut out = std::io::stdout().lock();
    if json {
        let text = serde_json::to_string(line).map_err(|e| Error::Failed(e.to_string()))?;
        return Ok(writeln!(out, "{text}")?);
    }
    let from = line.from.as_deref().unwrap_or("here");
    if let Some(error) = &line.error {
        return Ok(writeln!(out, "from {from}: seq={} {error}", line.sequence)?);
    }
    let time = line.rtt_us.map(|us| format!(" time={} ms", ms(us))).unwrap_or_default();
    let (bytes, seq, ttl) = (line.payload_bytes + 8, line.sequence, line.hop_limit);
    Ok(writeln!(out, "{bytes} bytes from {from}: seq={seq} ttl={ttl}{time}")?)
}

fn ms(us: u64) -> String {
    format!("{}.{:03}", us / 1000, us % 1000)
}

impl Tally {
    /// Whether an answer is still to come.
    fn open(&self) -> bool {
        self.answered.union(&self.failed).count() < usize::from(self.sent)
    }

    fn take(&mut self, line: &PingLine) {
        if line.error.is_some() {
            self.failed.insert(line.sequence);
        } else if self.answered.insert(line.sequence) {
            self.rtts_us.extend(line.rtt_us);
        }
    }

    fn summary(&self, to: &str) -> String {
        let answered = self.answered.len();
        let lost = 100 * (usize::from(self.sent) - answered) / usize::from(self.sent.max(1));
        let sent = self.sent;
        let mut text = format!("\n--- {to}: {sent} sent, {answered} answered, {lost}% lost");
        let (min, max) = (self.rtts_us.iter().min(), self.rtts_us.iter().max());
        if let (Some(min), Some(max)) = (min, max) {
            let mean = self.rtts_us.iter().sum::<u64>() / self.rtts_us.len() as u64;
            // Writing to a String cannot fail.
            let (min, mean, max) = (ms(*min), ms(mean), ms(*max));
            let _ = write!(text, ", min/avg/max {min}/{mean}/{max} ms");
        }
        text + "\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_and_times_are_summed_up() {
        let mut tally = Tally { sent: 4, ..Tally::default() };
        let answer = |sequence, us| PingLine { sequence, rtt_us: Some(us), ..PingLine::default() };
        // The second one twice: counted once.
        for line in [answer(1, 100), answer(2, 2_300), answer(2, 9_000)] {
            tally.take(&line);
        }
        let error = Some(String::from("host unreachable"));
        tally.take(&PingLine { sequence: 3, error, ..PingLine::default() });
        assert!(tally.open(), "the fourth is on its way");
        assert_eq!(
            tally.summary("10.0.0.1"),
            "\n--- 10.0.0.1: 4 sent, 2 answered, 50% lost, min/avg/max 0.100/1.200/2.300 ms\n"
        );
    }
}
