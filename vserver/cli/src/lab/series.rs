//! Failures of many kinds, each many times: which, how often, and what becomes of a kind that ends early.

use super::report::Report;
use super::{LabError, Runs};

/// What of a scenario is measured.
#[derive(Clone, Copy, Debug)]
pub(super) struct Series<'a> {
    /// Failures of each kind.
    pub(super) times: usize,
    only: &'a str,
}

impl<'a> Series<'a> {
    /// As the command line has it; the report begins with it.
    pub(super) fn begin(runs: &'a Runs, traffic: &str, report: &mut Report) -> Series<'a> {
        let times = runs.times.max(1);
        report.condition("runs", format!("{times} of each kind"));
        report.condition("traffic", traffic);
        Series { times, only: runs.kind.as_deref().unwrap_or("") }
    }

    /// Whether a kind is wanted.
    pub(super) fn has(&self, name: &str) -> bool {
        name.contains(self.only)
    }
}

/// A kind that ended early is a failed check; what was measured before it, and the other kinds, are told
/// all the same.
pub(super) fn go_on(
    name: &str,
    ended: Result<(), LabError>,
    report: &mut Report,
) -> Result<(), LabError> {
    match ended {
        Err(LabError::Interrupted) => Err(LabError::Interrupted),
        Err(e) => {
            report.check(format!("{name}: every run came to its end"), false, e.to_string());
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_chosen_by_a_part_of_their_name_and_each_happens_at_least_once() {
        let mut report = Report::new("mem", true);
        let all = Runs { times: 0, kind: None };
        let all = Series::begin(&all, "pings", &mut report);
        assert!(all.has("link down") && all.times == 1);
        let some = Runs { times: 7, kind: Some(String::from("IPv6")) };
        let some = Series::begin(&some, "pings", &mut report);
        assert!(some.has("link down, IPv6") && !some.has("link down, IPv4") && some.times == 7);
        assert_eq!(report.conditions[1], (String::from("traffic"), String::from("pings")));
    }

    #[test]
    fn a_kind_that_fails_does_not_take_the_others_with_it_and_a_signal_does() {
        let mut report = Report::new("mem", true);
        let failed = LabError::io("connect")(std::io::ErrorKind::TimedOut.into());
        assert!(go_on("dark", Err(failed), &mut report).is_ok());
        assert_eq!(report.failed(), 1);
        assert!(go_on("dark", Ok(()), &mut report).is_ok() && report.checks.len() == 1);
        assert!(go_on("dark", Err(LabError::Interrupted), &mut report).is_err());
    }
}
