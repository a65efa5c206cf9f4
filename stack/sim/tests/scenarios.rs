//! Random scenarios: a few here, 10 000 by `make simulate`.
#![allow(missing_docs, clippy::unwrap_used)]

use weft_sim::{each_seed, scenario};

#[test]
fn a_random_scenario_ends_well() {
    each_seed("a_random_scenario_ends_well", 150, |seed| scenario::run(seed).map(drop));
}

#[test]
fn a_scenario_repeats() {
    let run = |seed| {
        let report = scenario::run(seed).unwrap();
        (report.steps, report.segments, report.took, report.story)
    };
    assert_eq!(run(3), run(3));
    assert_ne!(run(3), run(4));
}
