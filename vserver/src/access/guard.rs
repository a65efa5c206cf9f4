//! The rules of one vserver as its stacks ask them, with what they counted; and all of a host's.

use std::net::IpAddr;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use weft_stack::admission::{First, Rules, Verdict, Watch};
use weft_stack::ip::address::AliasId;
use weft_stack::time::{Duration, Instant};

use super::compile::{Compiler, Table};
use super::report::{AccessDecision, AccessQuery, NamedClient, RuleReport, VserverAccess};
use super::{AccessConfig, AccessRule, Action, Catalogue, Established, Protocol};
use crate::config::HostConfig;
use crate::interface::class_of;
use crate::resolver::Answers;

/// Lines of denials that may wait for whoever writes them.
const LINES_WAITING: usize = 64;
/// Lines in [`LINES_TIME`].
const LINES_PER_TIME: u32 = 10;
const LINES_TIME: Duration = Duration::from_secs(1);

/// What one rule decided.
#[derive(Clone, Copy, Debug, Default)]
struct Hit {
    count: u64,
    last: Option<(Instant, IpAddr)>,
}

/// The rules of one vserver; all its shards ask the same.
#[derive(Debug)]
pub(crate) struct Guard {
    table: Arc<Table>,
    /// By rule. Only first packets of flows that some rule means come here.
    hits: Box<[Mutex<Hit>]>,
    vserver: String,
    log: Option<Arc<Log>>,
}

impl Rules for Guard {
    fn watch(&self) -> &Arc<Watch> {
        &self.table.watch
    }

    fn judge(&self, now: Instant, first: &First, packets: u64) -> Verdict {
        let Some(number) = self.table.find(first) else { return Verdict::Allow };
        let rule = &self.table.rules[number];
        let mut hit = self.hits[number].lock();
        hit.count += packets;
        hit.last = Some((now, first.src));
        drop(hit);
        if rule.log
            && rule.action != Action::Allow
            && let Some(log) = &self.log
        {
            log.write(now, || line(&self.vserver, rule, first));
        }
        rule.action.verdict()
    }

    fn allows(&self, first: &First) -> bool {
        let rule = self.table.find(first);
        rule.is_none_or(|number| self.table.rules[number].action == Action::Allow)
    }

    fn mark(&self, first: &First) -> u32 {
        self.table.find(first).map_or(0, |number| self.table.rules[number].mark)
    }
}

fn line(vserver: &str, rule: &AccessRule, first: &First) -> String {
    let what = match first.protocol {
        6 => format!("tcp/{}", first.port),
        17 => format!("udp/{}", first.port),
        1 | 58 => String::from("icmp"),
        number => format!("protocol {number}"),
    };
    format!(
        "access: vserver {vserver}: {what} from {} denied by \"{rule}\" ({})",
        first.src, rule.written.0
    )
}

impl Guard {
    /// Takes over what rules that stayed had counted.
    fn inherit(&self, before: &Guard) {
        for (rule, hit) in self.table.rules.iter().zip(&self.hits) {
            if let Some(at) = before.table.rules.iter().position(|r| r.is_same(rule)) {
                *hit.lock() = *before.hits[at].lock();
            }
        }
    }

    /// Its rules in order of evaluation, and what they decided.
    pub(crate) fn report(&self, now: Instant) -> VserverAccess {
        let each = self.table.rules.iter().zip(&self.hits).map(|(rule, hit)| {
            let hit = *hit.lock();
            RuleReport {
                action: rule.action,
                services: rule.services.clone(),
                ports: rule.ports.iter().map(ToString::to_string).collect(),
                on: rule.on.iter().map(ToString::to_string).collect(),
                from: rule.clients(),
                names: rule.names.iter().map(NamedClient::of).collect(),
                mark: Some(rule.mark).filter(|mark| *mark != 0),
                origin: rule.written.0.clone(),
                hits: hit.count,
                last_client: hit.last.map(|(_, client)| client),
                last_ms_ago: hit.last.map(|(at, _)| now.saturating_since(at).as_millis() as u64),
            }
        });
        VserverAccess { vserver: self.vserver.clone(), rules: each.collect(), ..Default::default() }
    }

    /// Which rule decides, on each of `aliases` (indices and names).
    pub(crate) fn test(
        &self,
        query: &AccessQuery,
        catalogue: &Catalogue,
        aliases: &[(usize, String)],
    ) -> Result<Vec<AccessDecision>, String> {
        let ports = catalogue.find(&query.service)?;
        let mut all = Vec::new();
        for (alias, name) in aliases {
            for p in &ports {
                let protocol = match p.protocol {
                    Protocol::Tcp => 6,
                    Protocol::Udp => 17,
                    Protocol::Icmp => 1,
                    Protocol::Any => return Err(String::from("name one service: tcp/22, icmp")),
                };
                let port = if p.protocol == Protocol::Icmp { 0 } else { p.first };
                if p.protocol != Protocol::Icmp && p.first != p.last && ports.len() == 1 {
                    return Err(format!("{p} is many ports; name one of them"));
                }
                let alias = AliasId(*alias as u16);
                let first = First { alias, protocol, src: query.from, port };
                let rule = self.table.find(&first);
                let found = rule.map(|n| &self.table.rules[n]);
                all.push(AccessDecision {
                    alias: name.clone(),
                    service: p.to_string(),
                    action: found.map_or(Action::Allow, |r| r.action),
                    mark: found.map(|r| r.mark).filter(|mark| *mark != 0),
                    rule: rule.map(|n| n + 1),
                    text: found
                        .map_or_else(|| String::from("no rule matches"), ToString::to_string),
                    origin: found.map_or_else(|| String::from("default"), |r| r.written.0.clone()),
                });
            }
        }
        Ok(all)
    }
}

/// Lines for whoever looks after the host. Workers never wait for who writes them.
#[derive(Debug)]
struct Log {
    /// To the thread that writes. It begins with the first line, when the daemon has given up root's
    /// rights; without a thread there are counters still.
    lines: OnceLock<Option<SyncSender<String>>>,
    /// Since when, and how many lines since.
    budget: Mutex<(Instant, u32)>,
}

impl Log {
    fn new() -> Log {
        Log { lines: OnceLock::new(), budget: Mutex::new((Instant::ZERO, 0)) }
    }

    fn start() -> Option<SyncSender<String>> {
        let (lines, waiting) = sync_channel::<String>(LINES_WAITING);
        let write = move || {
            for line in waiting {
                eprintln!("weft: {line}");
            }
        };
        std::thread::Builder::new().name(String::from("weft-access")).spawn(write).ok()?;
        Some(lines)
    }

    fn write(&self, now: Instant, line: impl FnOnce() -> String) {
        let mut budget = self.budget.lock();
        if now.saturating_since(budget.0) >= LINES_TIME {
            *budget = (now, 0);
        }
        budget.1 += 1;
        if budget.1 <= LINES_PER_TIME
            && let Some(lines) = self.lines.get_or_init(Log::start)
        {
            // More than can wait: the rule's counter tells.
            let _ = lines.try_send(line());
        }
    }
}

/// The rules of all vservers of a host.
#[derive(Debug, Default)]
pub(crate) struct HostAccess {
    compiler: Compiler,
    /// By vserver.
    guards: Vec<Option<Arc<Guard>>>,
    log: Option<Arc<Log>>,
    /// What clients' names stand for.
    pub(crate) answers: Arc<Answers>,
}

impl HostAccess {
    /// Makes the rules of vserver number `index` as `config` has them, called `vserver` there. `None`:
    /// they are what they were.
    pub(crate) fn update(
        &mut self,
        config: &HostConfig,
        index: usize,
        (vserver, own): (&str, &[AccessRule]),
    ) -> Option<Arc<Guard>> {
        self.compiler.set_kinds(config.aliases.iter().map(|a| class_of(&a.name)).collect());
        let mut rules = config.access.effective(vserver, own);
        for rule in &mut rules {
            self.answers.fill(index as u32, &mut rule.names);
        }
        if self.log.is_none() && rules.iter().any(|r| r.log) {
            self.log = Some(Arc::new(Log::new()));
        }
        if self.guards.len() <= index {
            self.guards.resize(index + 1, None);
        }
        let table = self.compiler.table(rules);
        let before = self.guards[index].take();
        if let Some(before) = &before
            && Arc::ptr_eq(&before.table, &table)
            && before.vserver == vserver
        {
            self.guards[index] = Some(Arc::clone(before));
            return None;
        }
        let hits = table.rules.iter().map(|_| Mutex::default()).collect();
        let log = self.log.clone();
        let guard = Arc::new(Guard { table, hits, vserver: vserver.to_owned(), log });
        if let Some(before) = before.filter(|b| b.vserver == vserver) {
            guard.inherit(&before);
        }
        self.guards[index] = Some(Arc::clone(&guard));
        Some(guard)
    }

    pub(crate) fn guard(&self, index: usize) -> Option<Arc<Guard>> {
        self.guards.get(index)?.clone()
    }
}

impl AccessConfig {
    /// Whether connections whose rule was withdrawn are to be reset.
    pub(crate) fn ends_denied(&self) -> bool {
        self.established == Established::End
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_denials_are_ten_a_second_and_who_decides_waits_for_nobody() {
        let log = Log::new();
        let (lines, waiting) = sync_channel(LINES_WAITING);
        log.lines.set(Some(lines)).unwrap();
        let at = |ms: u64| Instant::from_millis(60_000 + ms);
        let taken = || waiting.try_iter().map(|l| l.parse::<u64>().unwrap()).collect::<Vec<_>>();
        // A flood: those of the first second that have a place, and then nothing until it is over.
        for n in 0..5_000 {
            log.write(at(n / 5), || n.to_string());
        }
        assert_eq!(taken(), (0..10).collect::<Vec<_>>());
        log.write(at(999), || unreachable!("no line is made that is not written"));
        for n in 0..12 {
            log.write(at(1_000), || n.to_string());
        }
        assert_eq!(taken(), (0..10).collect::<Vec<_>>(), "the next second has its own");
        // Nobody writes them: what has no place is lost, and the caller goes on.
        for n in 0..1_000 {
            log.write(at(2_000 + n * 100), || n.to_string());
        }
        assert_eq!(taken(), (0..LINES_WAITING as u64).collect::<Vec<_>>());
        drop(waiting);
        log.write(at(200_000), || String::from("to nobody"));
    }
}
