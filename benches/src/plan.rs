//! What is run: scenes, each one workload on one kind of device, and in each the contestants that
//! take turns in it.

use serde::{Deserialize, Serialize};

use crate::PlanArgs;
use crate::outcome::Unit;
use crate::place::Wiring;
use crate::spec::{Carrier, Poll, Workload};

mod rivals;
mod scenes;

/// One side of a cell.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SideSpec {
    pub(crate) engine: String,
    pub(crate) poll: Poll,
    /// `key=value`, for the engine.
    #[serde(default)]
    pub(crate) extra: Vec<String>,
}

impl SideSpec {
    pub(crate) fn new(engine: &str, poll: Poll) -> SideSpec {
        SideSpec { engine: engine.to_owned(), poll, extra: Vec::new() }
    }
}

/// One contestant of a scene.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Cell {
    /// Unique in its scene: `weft + kernel client`.
    pub(crate) contestant: String,
    pub(crate) server: SideSpec,
    /// `None`: the server side is the whole run (memory workloads).
    pub(crate) client: Option<SideSpec>,
    pub(crate) wiring: Wiring,
    /// What it takes to start, beyond making devices and processes.
    #[serde(default)]
    pub(crate) start_s: f64,
}

/// Cells that are compared with each other.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Scene {
    /// Unique: `request/response 1 B, 1 connection, veth, polling`.
    pub(crate) name: String,
    /// Chapter of the report.
    pub(crate) group: String,
    pub(crate) workload: Workload,
    pub(crate) unit: Unit,
    pub(crate) bytes: usize,
    pub(crate) connections: usize,
    pub(crate) operations_max: u64,
    /// Measured for longer than other scenes.
    #[serde(default)]
    pub(crate) slow: bool,
    pub(crate) cells: Vec<Cell>,
}

impl Scene {
    fn new(group: &str, name: &str, workload: Workload, unit: Unit) -> Scene {
        Scene {
            name: name.to_owned(),
            group: group.to_owned(),
            workload,
            unit,
            bytes: 1,
            connections: 1,
            operations_max: u64::MAX,
            slow: false,
            cells: Vec::new(),
        }
    }

    fn bytes(mut self, bytes: usize) -> Scene {
        self.bytes = bytes;
        self
    }

    /// Something that takes long to settle.
    fn slow(mut self) -> Scene {
        self.slow = true;
        self
    }

    fn connections(mut self, connections: usize) -> Scene {
        self.connections = connections;
        self
    }

    fn operations_max(mut self, n: u64) -> Scene {
        self.operations_max = n;
        self
    }

    /// Adds a contestant.
    fn cell(
        mut self,
        contestant: &str,
        server: SideSpec,
        client: Option<SideSpec>,
        wiring: Wiring,
    ) -> Scene {
        let contestant = contestant.to_owned();
        self.cells.push(Cell { contestant, server, client, wiring, start_s: 0.0 });
        self
    }
}

/// Everything that is run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(crate) full: bool,
    pub(crate) repetitions: usize,
    pub(crate) seconds: f64,
    pub(crate) warmup_s: f64,
    /// Measured time of slow scenes: a hundred round trips of a long path and more.
    pub(crate) slow_s: f64,
    pub(crate) scenes: Vec<Scene>,
}

/// Making and removing the devices and processes of a run, about.
const SETUP_S: f64 = 0.17;
/// Slow start on a long path.
const SLOW_WARMUP_S: f64 = 1.0;

impl Plan {
    /// Seconds of warm-up and of measurement in a scene.
    pub(crate) fn times(&self, scene: &Scene) -> (f64, f64) {
        if scene.slow {
            return (self.warmup_s.max(SLOW_WARMUP_S), self.seconds.max(self.slow_s));
        }
        (self.warmup_s, self.seconds)
    }

    /// How many runs that is.
    pub(crate) fn runs(&self) -> usize {
        self.repetitions * self.scenes.iter().map(|s| s.cells.len()).sum::<usize>()
    }

    /// How long it takes, about.
    pub(crate) fn seconds_expected(&self) -> f64 {
        let of = |scene: &Scene| {
            let (warmup_s, seconds) = self.times(scene);
            let start_s: f64 = scene.cells.iter().map(|cell| cell.start_s).sum();
            scene.cells.len() as f64 * (warmup_s + seconds + SETUP_S) + start_s
        };
        self.repetitions as f64 * self.scenes.iter().map(of).sum::<f64>()
    }

    /// The order of runs, as (scene, cell, repetition): in a scene, the first repetition of every
    /// contestant, then the second of every contestant, so that other load hits all alike.
    pub(crate) fn order(&self) -> Vec<(usize, usize, usize)> {
        let mut order = Vec::with_capacity(self.runs());
        for (s, scene) in self.scenes.iter().enumerate() {
            for repetition in 0..self.repetitions {
                order.extend((0..scene.cells.len()).map(|c| (s, c, repetition)));
            }
        }
        order
    }
}

/// The plan of these options.
pub(crate) fn make(args: &PlanArgs) -> Plan {
    let mut plan = if args.full {
        Plan {
            full: true,
            repetitions: 5,
            seconds: 0.4,
            warmup_s: 0.1,
            slow_s: 3.0,
            scenes: scenes::full(),
        }
    } else {
        Plan {
            full: false,
            repetitions: 5,
            seconds: 0.3,
            warmup_s: 0.06,
            slow_s: 2.0,
            scenes: scenes::quick(),
        }
    };
    plan.repetitions = args.repetitions.unwrap_or(plan.repetitions).max(1);
    plan.seconds = args.seconds.unwrap_or(plan.seconds).clamp(0.01, 60.0);
    if !args.only.is_empty() {
        select(&mut plan.scenes, &args.only);
    }
    if !args.contestant.is_empty() {
        for scene in &mut plan.scenes {
            scene.cells.retain(|c| args.contestant.contains(&c.contestant));
        }
        plan.scenes.retain(|s| !s.cells.is_empty());
    }
    plan
}

/// Keeps the scenes whose name has one of the texts, and of the others the contestants that do.
fn select(scenes: &mut Vec<Scene>, only: &[String]) {
    let wanted = |name: &str| only.iter().any(|text| name.contains(text.as_str()));
    for scene in scenes.iter_mut() {
        if !wanted(&scene.name) && !wanted(&scene.group) {
            scene.cells.retain(|c| wanted(&c.contestant));
        }
    }
    scenes.retain(|s| !s.cells.is_empty());
}

/// Two tiny cells.
pub(crate) fn smoke() -> Plan {
    let wiring = Wiring {
        carrier: Carrier::Veth,
        mtu: 1500,
        queues: 1,
        offloads_off: false,
        threaded_napi: false,
    };
    let side = |engine| SideSpec::new(engine, Poll::Interrupt);
    let scene = Scene::new("smoke", "smoke", Workload::RequestResponse, Unit::Nanoseconds)
        .cell("kernel", side("kernel"), Some(side("kernel")), wiring)
        // a TAP: it needs no BPF, and its driver is in the same process as the stack
        .cell(
            "weft, kernel client",
            side("weft"),
            Some(side("kernel")),
            Wiring { carrier: Carrier::Tap, ..wiring },
        );
    Plan {
        full: false,
        repetitions: 1,
        seconds: 0.1,
        warmup_s: 0.02,
        slow_s: 0.1,
        scenes: vec![scene],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(only: &[&str]) -> PlanArgs {
        PlanArgs {
            full: false,
            only: only.iter().map(|&s| s.to_owned()).collect(),
            contestant: vec![],
            repetitions: Some(3),
            seconds: None,
        }
    }

    #[test]
    fn contestants_take_turns_within_a_scene() {
        let mut plan = make(&args(&[]));
        plan.scenes.truncate(1);
        let cells = plan.scenes[0].cells.len();
        assert!(cells > 1);
        let order = plan.order();
        assert_eq!(order.len(), plan.runs());
        assert_eq!(order[0], (0, 0, 0));
        assert_eq!(order[1], (0, 1, 0));
        assert_eq!(order[cells], (0, 0, 1));
    }

    #[test]
    fn names_are_unique_in_both_forms() {
        for full in [false, true] {
            let plan = make(&PlanArgs { full, ..args(&[]) });
            let mut names: Vec<_> = plan.scenes.iter().map(|s| &s.name).collect();
            names.sort();
            names.dedup();
            assert_eq!(names.len(), plan.scenes.len());
            for scene in &plan.scenes {
                let mut names: Vec<_> = scene.cells.iter().map(|c| &c.contestant).collect();
                names.sort();
                names.dedup();
                assert_eq!(names.len(), scene.cells.len(), "{}", scene.name);
            }
        }
    }

    #[test]
    fn every_engine_of_a_plan_exists() {
        for full in [false, true] {
            for scene in make(&PlanArgs { full, ..args(&[]) }).scenes {
                for cell in scene.cells {
                    for side in std::iter::once(&cell.server).chain(&cell.client) {
                        assert!(crate::engine::find(&side.engine).is_some(), "{}", side.engine);
                    }
                }
            }
        }
    }

    #[test]
    fn the_quick_form_takes_less_than_five_minutes() {
        let plan = make(&PlanArgs { repetitions: None, ..args(&[]) });
        assert!(plan.repetitions >= 5);
        assert!(plan.seconds_expected() < 290.0, "{} s", plan.seconds_expected());
    }

    #[test]
    fn the_full_form_takes_less_than_twenty_four_minutes() {
        let plan = make(&PlanArgs { full: true, repetitions: None, ..args(&[]) });
        assert!(plan.repetitions >= 5);
        assert!(plan.seconds_expected() < 24.0 * 60.0, "{} s", plan.seconds_expected());
    }

    #[test]
    fn only_keeps_what_is_named() {
        let plan = make(&args(&["no scene has this name"]));
        assert_eq!(plan.runs(), 0);
        let all = make(&args(&[]));
        let name = all.scenes[0].name.clone();
        assert_eq!(make(&args(&[&name])).scenes[0].cells.len(), all.scenes[0].cells.len());
    }
}
