//! What vservers use of the workers' processing time.

use crate::host::Shared;
use crate::qos::Processing;

/// Of every vserver, or of one. A worker's lock is held once per worker.
pub(crate) fn processing(shared: &Shared, vserver: Option<&str>) -> Vec<Processing> {
    let live = shared.live();
    let named = live.nodes.iter().zip(&live.config.vservers);
    let named = named.filter(|(_, v)| vserver.is_none_or(|name| v.name == name));
    let mut all: Vec<_> = named
        .map(|(id, v)| {
            let vserver = v.name.clone();
            let none = Processing { vserver, weight: 0, us_per_second: 0, us: 0, deferred: 0 };
            (*id, none)
        })
        .collect();
    for worker in &shared.workers {
        let now = worker.clock.now();
        let mut core = worker.lock();
        for (id, sum) in &mut all {
            let Some((last, weight, used)) = core.used_last(now, *id) else { continue };
            sum.weight = weight;
            sum.us_per_second += last;
            sum.us += used.us;
            sum.deferred += used.deferred;
        }
    }
    all.into_iter().map(|(_, processing)| processing).filter(|p| p.weight > 0).collect()
}
