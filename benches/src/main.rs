//! `weft-bench`: weft, the kernel and other stacks through the same workloads on the same devices,
//! in turn, with the CPU time of both sides beside every figure.
//!
//! One run of a cell is two processes (`weft-bench side ...`), each in its namespace, and this
//! program between them. Modules, from the outside in: `plan` (what is run), `run` (one cell),
//! `place` (namespaces and devices), `side` (the child), `engine` (what it does), `report`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod cpu;
mod engine;
mod facts;
mod meter;
mod outcome;
mod place;
mod plan;
mod report;
mod run;
mod shim;
mod side;
mod spec;
mod stats;
mod targets;
mod wan;

/// Why the program ends early.
type Error = Box<dyn std::error::Error + Send + Sync>;

/// Benchmarks of weft beside the kernel and other stacks.
#[derive(Parser)]
#[command(name = "weft-bench", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the benchmark and report
    Run(RunArgs),
    /// Two tiny cells, as a test of the benchmark itself
    Smoke,
    /// What would be run
    List(PlanArgs),
    /// One end of one run (a child of `run`)
    #[command(hide = true)]
    Side(spec::Side),
    /// What the multipath shim costs: off, on, rewriting, in UDP
    Shim(shim::Args),
    /// Render the results of an earlier run
    Report(ReportArgs),
}

/// What is run.
#[derive(Clone, Debug, clap::Args)]
struct PlanArgs {
    /// Everything, about 24 minutes; else the quick form, under five minutes
    #[arg(long)]
    full: bool,
    /// Only scenes or contestants whose name has this in it (repeatable)
    #[arg(long, value_name = "TEXT")]
    only: Vec<String>,
    /// Of those only contestants with this name (repeatable)
    #[arg(long, value_name = "NAME")]
    contestant: Vec<String>,
    /// Repetitions of each cell
    #[arg(long, value_name = "N")]
    repetitions: Option<usize>,
    /// Measured seconds of each run
    #[arg(long, value_name = "S")]
    seconds: Option<f64>,
}

#[derive(clap::Args)]
struct RunArgs {
    #[command(flatten)]
    plan: PlanArgs,
    /// Where the results go as JSON
    #[arg(long, value_name = "FILE", default_value = "target/bench/results.json")]
    json: PathBuf,
    /// Where the page goes
    #[arg(long, value_name = "FILE", default_value = "target/bench/results.html")]
    html: PathBuf,
    /// Write the document too
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
}

#[derive(clap::Args)]
struct ReportArgs {
    /// Results of a run
    results: PathBuf,
    /// Write the page
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Write the document
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run(args) => benchmark(&args),
        Command::Smoke => smoke(),
        Command::List(args) => {
            list(&args);
            Ok(true)
        }
        Command::Side(args) => return side::main(&args),
        Command::Shim(args) => shim::run(&args),
        Command::Report(args) => render(&args),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("weft-bench: {e}");
            ExitCode::FAILURE
        }
    }
}

/// `false`: a contestant failed; its reason stands in the report.
fn benchmark(args: &RunArgs) -> Result<bool, Error> {
    let plan = plan::make(&args.plan);
    let mut progress = report::terminal::Progress::new(plan.runs(), plan.seconds_expected());
    // written again and again: whatever ends the run, what has been measured is kept
    let results = run::all(&plan, &mut progress, |so_far| report::json::write(&args.json, so_far))?;
    report::html::write(&args.html, &results)?;
    if let Some(path) = &args.markdown {
        report::markdown::write(path, &results)?;
    }
    print!("{}", report::terminal::table(&results));
    println!("\nresults: {}, page: {}", args.json.display(), args.html.display());
    Ok(results.complete())
}

fn smoke() -> Result<bool, Error> {
    let plan = plan::smoke();
    let mut progress = report::terminal::Progress::new(plan.runs(), plan.seconds_expected());
    let results = run::all(&plan, &mut progress, |_| Ok(()))?;
    print!("{}", report::terminal::table(&results));
    Ok(results.complete())
}

fn list(args: &PlanArgs) {
    let plan = plan::make(args);
    for scene in &plan.scenes {
        println!("{}", scene.name);
        for cell in &scene.cells {
            println!("    {}", cell.contestant);
        }
    }
    println!("{} runs, about {:.0} s", plan.runs(), plan.seconds_expected());
}

fn render(args: &ReportArgs) -> Result<bool, Error> {
    let results = report::json::read(&args.results)?;
    if let Some(path) = &args.html {
        report::html::write(path, &results)?;
    }
    if let Some(path) = &args.markdown {
        report::markdown::write(path, &results)?;
    }
    if args.html.is_none() && args.markdown.is_none() {
        print!("{}", report::terminal::table(&results));
    }
    Ok(results.complete())
}
