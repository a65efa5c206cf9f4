//! wrk as the client: one thread, kept-alive connections, whole seconds.

use std::io;
use std::process::{Command, Stdio};

use super::{FILE, answers, program};
use crate::engine::{Engine, unsupported};
use crate::side::Control;
use crate::spec::{Role, Side, Workload};

/// `wrk`.
pub(crate) struct Wrk;

impl Engine for Wrk {
    fn name(&self) -> &'static str {
        "wrk"
    }

    fn in_kernel(&self) -> bool {
        true
    }

    fn missing(&self) -> Option<String> {
        program("wrk").err()
    }

    fn run(&self, side: &Side, control: &Control) -> io::Result<()> {
        if (side.workload, side.role) != (Workload::Http, Role::Client) {
            return Err(unsupported(side));
        }
        let wrk = program("wrk").map_err(io::Error::other)?;
        answers(side)?;
        control.begin();
        let output = Command::new(wrk)
            .args(["--threads", "1", "--latency"])
            .arg("--connections")
            .arg(side.connections.to_string())
            .arg("--duration")
            .arg(format!("{}s", side.seconds.ceil().max(1.0)))
            .arg(format!("http://{}/{FILE}", side.server()))
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()?;
        let said = Said::parse(&String::from_utf8_lossy(&output.stdout))
            .ok_or_else(|| io::Error::other("wrk told no result"))?;
        control.work().set_operations(said.requests);
        control.work().add_received(said.requests as usize * side.bytes);
        control.end();
        control.number("failed requests", said.failed as f64);
        for (name, us) in said.quantiles_us {
            control.number(&format!("{name} us"), us);
        }
        Ok(())
    }
}

/// What is of interest in its report.
#[derive(Debug, Default, PartialEq)]
struct Said {
    requests: u64,
    failed: u64,
    /// `p50`, `p99`.
    quantiles_us: Vec<(String, f64)>,
}

impl Said {
    fn parse(text: &str) -> Option<Said> {
        let mut said = Said::default();
        let mut complete = false;
        for line in text.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words.as_slice() {
                [n, "requests", "in", ..] => {
                    said.requests = n.parse().ok()?;
                    complete = true;
                }
                ["Non-2xx", "or", "3xx", "responses:", n] => {
                    said.failed += n.parse::<u64>().ok()?;
                }
                ["Socket", "errors:", rest @ ..] => {
                    let counts =
                        rest.iter().filter_map(|w| w.trim_end_matches(',').parse::<u64>().ok());
                    said.failed += counts.sum::<u64>();
                }
                [quantile, time] if quantile.ends_with('%') => {
                    let name = format!("p{}", quantile.trim_end_matches('%'));
                    said.quantiles_us.push((name, microseconds(time)?));
                }
                _ => {}
            }
        }
        complete.then_some(said)
    }
}

/// `98.00us`, `1.20ms`, `2.00s`.
fn microseconds(text: &str) -> Option<f64> {
    let scales = [("us", 1.0), ("ms", 1e3), ("s", 1e6), ("m", 60e6)];
    let (number, scale) =
        scales.iter().find_map(|(unit, scale)| Some((text.strip_suffix(unit)?, scale)))?;
    Some(number.parse::<f64>().ok()? * scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_of_wrk_is_read() {
        let text = "Running 1s test @ http://10.77.0.1:5001/file.bin\n  1 threads and 64 \
                    connections\n  Thread Stats   Avg      Stdev     Max   +/- Stdev\n    Latency   \
                    1.03ms  140.20us   4.02ms   90.61%\n    Req/Sec    62.01k     2.20k   65.70k    \
                    72.73%\n  Latency Distribution\n     50%    0.98ms\n     99%  998.00us\n  67833 \
                    requests in 1.10s, 82.22MB read\n  Socket errors: connect 0, read 1, write 0, \
                    timeout 2\n  Non-2xx or 3xx responses: 3\nRequests/sec:  61662.48\n";
        let said = Said::parse(text).unwrap();
        assert_eq!((said.requests, said.failed), (67833, 6));
        assert_eq!(said.quantiles_us, [("p50".into(), 980.0), ("p99".into(), 998.0)]);
        assert_eq!(Said::parse("unable to connect"), None);
    }
}
