//! Runs packetdrill scripts against weft in virtual time: `weft-packetdrill [--name=value...] FILE...`

use std::process::ExitCode;

use weft_packetdrill::script::ScriptOption;
use weft_packetdrill::token::Position;
use weft_packetdrill::{Settings, parse, run};

fn one(file: &str, settings: &Settings) -> Result<String, String> {
    let text = std::fs::read_to_string(file).map_err(|e| format!("{file}: {e}"))?;
    let script = parse(file, &text).map_err(|e| e.to_string())?;
    let summary = run(&script, settings).map_err(|e| e.to_string())?;
    Ok(format!("{} events in {:?} of virtual time", summary.events, summary.time))
}

fn main() -> ExitCode {
    let mut settings = Settings::default();
    let mut files = Vec::new();
    for argument in std::env::args().skip(1) {
        let Some(option) = argument.strip_prefix("--") else {
            files.push(argument);
            continue;
        };
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        let option =
            ScriptOption { at: Position::default(), name: name.into(), value: value.into() };
        if let Err(what) = settings.apply(&option) {
            eprintln!("{what}");
            return ExitCode::from(2);
        }
    }
    if files.is_empty() {
        eprintln!("usage: weft-packetdrill [--name=value...] FILE...");
        return ExitCode::from(2);
    }
    let mut failed = 0;
    for file in &files {
        match one(file, &settings) {
            Ok(summary) => println!("ok   {file}: {summary}"),
            Err(what) => {
                failed += 1;
                println!("FAIL {what}");
            }
        }
    }
    println!("{} of {} scripts passed", files.len() - failed, files.len());
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
