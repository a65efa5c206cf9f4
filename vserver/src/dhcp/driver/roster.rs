//! Which clients there are: they follow the configuration, each with what it is told once.

use std::time::Duration;

use hashbrown::HashMap;
use weft_stack::ip::address::{AliasId, AliasMedium};
use weft_stack::time::Instant;

use super::super::cache::{Cache, Entry};
use super::super::client::State;
use super::super::slot::{Machine, Place, Slot};
use super::super::v4::Client4;
use super::super::v6::Client6;
use super::super::{Lease, planned, v4, v6};
use super::{Clients, Inner, unix_s};
use crate::config::{CacheUse, DhcpClient, DhcpFamily, HostConfig, Vserver};

/// Clients that start together send their first messages over this time each, at most `SPREAD_MAX`
/// in all.
const SPREAD: Duration = Duration::from_millis(2);
const SPREAD_MAX: Duration = Duration::from_secs(10);

/// What the configuration promises a client goes before another address that the cache has of it.
fn keep_promise(cache: Option<&mut Cache>, slot: &Slot) {
    let (Some(cache), Some(planned)) = (cache, &slot.planned) else { return };
    let (key, now_s) = (slot.key(), unix_s());
    if cache.get(&key, now_s).is_some_and(|(had, _)| had.address != planned.address) {
        cache.put(&key, Entry { given_s: now_s, lease: planned.clone() });
    }
}

fn seed() -> u64 {
    let mut seed = [0; 8];
    // Transaction ids that can be guessed are still matched by more than themselves.
    let _ = rustix::rand::getrandom(&mut seed[..], rustix::rand::GetRandomFlags::empty());
    u64::from_ne_bytes(seed)
}

impl Inner {
    pub(super) fn set_clients(
        &self,
        config: &HostConfig,
        index: impl Fn(&str) -> Option<crate::runtime::NodeId>,
    ) {
        let now = self.now();
        let mut wanted: HashMap<(String, String), (crate::runtime::NodeId, &Vserver, &DhcpClient)> =
            HashMap::new();
        for v in &config.vservers {
            let Some(index) = index(&v.name) else { continue };
            for client in &v.dhcp {
                let id = config.client_id(v, client.alias, client.instance);
                let Some(id) = id.map(|id| id.to_string()) else { continue };
                let key = format!("{} {id}", client.family.name());
                wanted.insert((v.name.clone(), key), (index, v, client));
            }
        }
        let links = config.links_of_aliases();
        let mut clients = self.clients.lock();
        for at in 0..clients.slots.len() {
            let Some(slot) = &mut clients.slots[at] else { continue };
            let key = (slot.vserver.clone(), slot.key());
            let same = wanted.remove_entry(&key);
            if let Some((key, (index, v, client))) = same {
                let place = self.place((config, &links), index, client);
                let stays = place.as_ref().is_none_or(|place| place.mac == slot.mac);
                if index == slot.index && *client == slot.config && stays {
                    let moved = place.is_some_and(|place| slot.stand(now, place));
                    let planned = planned::lease(config, v, client);
                    slot.pace = config.aliases[client.alias].conflicts.pace;
                    self.plan_again(&mut clients, now, at, planned);
                    if moved {
                        self.carry_out(&mut clients, now, at);
                    }
                    continue;
                }
                wanted.insert(key, (index, v, client));
            }
            let Some(slot) = &mut clients.slots[at] else { continue };
            slot.release(now);
            self.carry_out(&mut clients, now, at);
            self.forget(&mut clients, at);
        }
        let spread = (SPREAD * wanted.len() as u32).min(SPREAD_MAX);
        let configured: Vec<String> = wanted
            .keys()
            .map(|k| k.1.clone())
            .chain(clients.slots.iter().flatten().map(Slot::key))
            .collect();
        if let Some(cache) = &mut clients.cache {
            let configured: hashbrown::HashSet<String> = configured.into_iter().collect();
            cache.prune(unix_s(), |client| configured.contains(client));
        }
        for (_, (index, v, client)) in wanted {
            if let Some(slot) = self.slot((config, &links), index, v, client) {
                let free = clients.slots.iter().position(Option::is_none);
                let at = free.unwrap_or(clients.slots.len());
                if free.is_none() {
                    clients.slots.push(None);
                }
                clients.slots[at] = Some(slot);
                self.start(&mut clients, now, at, spread);
                self.carry_out(&mut clients, now, at);
            }
        }
    }

    /// The configuration may promise a client another address than before: the cache has it from
    /// now on, and servers are asked.
    fn plan_again(&self, clients: &mut Clients, now: Instant, at: usize, planned: Option<Lease>) {
        let Clients { slots, cache, .. } = &mut *clients;
        let Some(slot) = slots[at].as_mut().filter(|s| s.planned != planned) else { return };
        slot.planned = planned;
        keep_promise(cache.as_mut(), slot);
        if slot.state() != State::Released {
            slot.renew(now);
        }
        self.carry_out(clients, now, at);
    }

    /// Where a client is; `None` where there is no Ethernet, or no such vserver any more.
    fn place(
        &self,
        (config, links): (&HostConfig, &[usize]),
        index: crate::runtime::NodeId,
        client: &DhcpClient,
    ) -> Option<Place> {
        let alias = AliasId(client.alias as u16);
        let mac = self.shared.home().peek(index, |node| {
            let own = node.stack.aliases().find(|(a, _)| a.id == alias)?;
            match own.0.medium {
                AliasMedium::Ethernet { mac } => Some(mac),
                AliasMedium::Ip => None,
            }
        });
        Some(Place {
            link: links.get(client.alias).copied()?,
            name: config.aliases[client.alias].link(),
            mac: mac.ok()??,
        })
    }

    fn slot(
        &self,
        (config, links): (&HostConfig, &[usize]),
        index: crate::runtime::NodeId,
        v: &Vserver,
        client: &DhcpClient,
    ) -> Option<Slot> {
        let alias = AliasId(client.alias as u16);
        let Place { link, name, mac } = self.place((config, links), index, client)?;
        Some(Slot {
            vserver: v.name.clone(),
            index,
            alias,
            alias_name: config.aliases[client.alias].name.clone(),
            link,
            link_name: name,
            mac,
            id: config.client_id(v, client.alias, client.instance)?.to_string(),
            config: client.clone(),
            pace: config.aliases[client.alias].conflicts.pace,
            planned: planned::lease(config, v, client),
            machine: None,
            applied: None,
            refused: None,
            strange: 0,
            via: None,
            tag: None,
            armed: None,
        })
    }

    /// Makes the state machine of a slot, when it can speak.
    pub(super) fn start(&self, clients: &mut Clients, now: Instant, at: usize, spread: Duration) {
        let Clients { slots, cache, .. } = clients;
        let Some(slot) = slots[at].as_mut().filter(|s| s.machine.is_none()) else { return };
        let live = self.shared.live();
        let cluster = live.config.cluster.as_ref();
        let class = cluster.map_or("weft", |c| c.vendor_class.as_str()).to_owned();
        let id = slot.id.parse::<crate::naming::ClientId>();
        let (Ok(id), client) = (id, &slot.config) else { return };
        keep_promise(cache.as_mut(), slot);
        let cached = cache.as_ref().filter(|_| client.cache != CacheUse::Off);
        let cached = cached.and_then(|c| c.get(&slot.key(), unix_s()));
        let (cached_after, keep_expired) =
            (Duration::from_secs(client.cached_after_s.into()), client.cache == CacheUse::Always);
        let machine = match client.family {
            DhcpFamily::V4 => {
                let settings = v4::Settings {
                    client: id.option_61(),
                    class,
                    mac: slot.mac,
                    servers: client.servers.clone(),
                    prefer: client.prefer.clone(),
                    vendor_only: client.vendor_only,
                    cached_after,
                    keep_expired,
                    spread,
                };
                Machine::V4(Box::new(Client4::start(settings, seed(), now, cached)))
            }
            DhcpFamily::V6 => {
                if self.link_local(slot).is_none() {
                    return;
                }
                let enterprise =
                    cluster.map_or(crate::naming::ENTERPRISE_DEFAULT, |c| c.enterprise);
                let settings = v6::Settings {
                    client: id.duid(enterprise),
                    iaid: client.instance,
                    enterprise,
                    class,
                    rapid_commit: client.rapid_commit,
                    vendor_only: client.vendor_only,
                    cached_after,
                    keep_expired,
                    spread,
                };
                Machine::V6(Box::new(Client6::start(settings, seed(), now, cached)))
            }
        };
        slot.machine = Some(machine);
    }

    /// The client is no longer configured.
    fn forget(&self, clients: &mut Clients, at: usize) {
        if let Some(slot) = clients.slots[at].take() {
            self.tap.want(slot.tag, None);
            if let Some(tag) = slot.tag {
                clients.by_tag.remove(&tag);
            }
            if let Some(armed) = slot.armed {
                clients.deadlines.remove(&(armed, at));
            }
        }
    }
}
