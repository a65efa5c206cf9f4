//! `weft doctor`.

use std::fmt::Write as _;
use std::io::Write;
use std::path::Path;

use weft_interface::doctor::{Diagnosis, Severity};
use weft_vserver::control::{Answer, Command};
use weft_vserver::stats::json;

use super::daemon;
use crate::Error;

/// Options of `weft doctor`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Each finding is a line with its severity, code, interface and ports, then what was seen, then what to
change. What is still coming about is not told: after a change wait two minutes. Exit status 1 if there is
an error or a warning; a remark (INFO) alone leaves it 0. docs/doctor.md has the table of codes.")]
pub struct Args {
    /// Print JSON: one document with schema_version
    #[arg(short, long)]
    pub json: bool,
}

/// Says what is wrong around the daemon behind `control`.
pub fn run(control: Option<&Path>, args: &Args) -> Result<(), Error> {
    let mut connection = daemon::connect(control)?;
    let Answer::Doctor(found) = connection.ask(Command::Doctor).map_err(daemon::error)? else {
        return Err(Error::Failed(String::from("the daemon gave an answer to something else")));
    };
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{}", json::document("diagnoses", &found))?;
    } else {
        out.write_all(render(&found).as_bytes())?;
    }
    out.flush()?;
    verdict(&found)
}

fn verdict(found: &[Diagnosis]) -> Result<(), Error> {
    match found.iter().filter(|d| d.severity < Severity::Info).count() {
        0 => Ok(()),
        1 => Err(Error::Failed(String::from("one finding"))),
        n => Err(Error::Failed(format!("{n} findings"))),
    }
}

fn render(found: &[Diagnosis]) -> String {
    if found.is_empty() {
        return String::from("nothing found\n");
    }
    let mut text = String::new();
    for d in found {
        let severity = match d.severity {
            Severity::Error => "ERROR",
            Severity::Warning => "WARNING",
            Severity::Info => "INFO",
        };
        // Writing to a String cannot fail.
        let _ = write!(text, "{severity}  {}  {}", d.code, d.interface);
        if !d.ports.is_empty() {
            let _ = write!(text, "  {}", d.ports.join(" "));
        }
        text.push('\n');
        for line in &d.evidence {
            let _ = writeln!(text, "  {line}");
        }
        let _ = writeln!(text, "  -> {}", d.advice);
    }
    text
}

#[cfg(test)]
mod tests {
    use weft_interface::doctor::Code;

    use super::*;

    fn found(severity: Severity) -> Diagnosis {
        Diagnosis {
            severity,
            code: Code::NoPartner,
            interface: String::from("bond0"),
            ports: vec![String::from("eth0"), String::from("eth1")],
            evidence: vec![String::from("eth0: silent"), String::from("eth1: silent")],
            advice: String::from("turn it on"),
        }
    }

    #[test]
    fn a_finding_is_told_with_its_evidence_and_what_to_change() {
        let text = "ERROR  NO_PARTNER  bond0  eth0 eth1\n  eth0: silent\n  eth1: silent\n  -> turn it on\n";
        assert_eq!(render(&[found(Severity::Error)]), text);
        assert_eq!(render(&[]), "nothing found\n");
    }

    #[test]
    fn only_what_is_wrong_makes_the_exit_status() {
        assert!(verdict(&[]).is_ok());
        assert!(verdict(&[found(Severity::Info)]).is_ok());
        let e = verdict(&[found(Severity::Info), found(Severity::Warning)]).unwrap_err();
        assert_eq!((e.exit_code(), e.to_string().as_str()), (1, "one finding"));
    }
}
