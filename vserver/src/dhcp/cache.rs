//! Leases on disk, for a start at which no server answers.
//!
//! Two copies, each with a generation and a checksum, written one after the other: whatever goes
//! wrong while one is written, the other is whole. A copy that is damaged is written anew from the
//! other; damaged ones without a whole one beside them are kept aside for whoever looks into it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::lease::{Lease, hex, span};

const NAMES: [&str; 2] = ["leases.a", "leases.b"];
/// Format of the files.
const VERSION: u32 = 1;
/// A file larger than this is none of ours.
const FILE_BYTES_MAX: u64 = 256 << 20;

/// A lease and when it was given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    /// Seconds since 1970.
    pub(super) given_s: u64,
    pub(super) lease: Lease,
}

#[derive(Debug, Serialize, Deserialize)]
struct Contents {
    version: u32,
    generation: u64,
    /// By client.
    leases: BTreeMap<String, Entry>,
}

/// What a copy was found to be.
#[derive(Debug)]
enum Copy {
    Missing,
    Damaged(String),
    Whole(Contents),
}

/// The leases of all clients.
#[derive(Debug)]
pub(super) struct Cache {
    dir: PathBuf,
    generation: u64,
    leases: BTreeMap<String, Entry>,
    changed: bool,
}

/// One line with format and checksum, then the contents.
fn encode(contents: &Contents) -> io::Result<Vec<u8>> {
    let body = serde_json::to_vec_pretty(contents)?;
    let mut file = format!("weft leases {VERSION} sha256 {}\n", sum(&body)).into_bytes();
    file.extend(body);
    file.push(b'\n');
    Ok(file)
}

fn sum(body: &[u8]) -> String {
    hex(&Sha256::digest(body))
}

fn decode(file: &[u8]) -> Result<Contents, String> {
    let split = file.iter().position(|b| *b == b'\n').ok_or("has no first line")?;
    let (head, body) = (String::from_utf8_lossy(&file[..split]), &file[split + 1..]);
    let body = body.strip_suffix(b"\n").ok_or("is cut off")?;
    let sum_read = head
        .strip_prefix(&format!("weft leases {VERSION} sha256 "))
        .ok_or("does not begin as a lease cache of this version")?;
    if sum_read != sum(body) {
        return Err(String::from("has another checksum than its contents"));
    }
    serde_json::from_slice(body).map_err(|e| format!("cannot be read: {e}"))
}

fn read(path: &Path) -> Copy {
    match fs::metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Copy::Missing,
        Err(e) => return Copy::Damaged(format!("cannot be read: {e}")),
        Ok(m) if m.len() > FILE_BYTES_MAX => return Copy::Damaged(String::from("is too large")),
        Ok(_) => {}
    }
    match fs::read(path).map_err(|e| format!("cannot be read: {e}")).and_then(|f| decode(&f)) {
        Ok(contents) => Copy::Whole(contents),
        Err(why) => Copy::Damaged(why),
    }
}

/// The whole file under its name, or what was there before.
fn write(dir: &Path, name: &str, file: &[u8]) -> io::Result<()> {
    let made = dir.join(format!("{name}.new"));
    let mut out = File::create(&made)?;
    out.write_all(file)?;
    out.sync_all()?;
    fs::rename(&made, dir.join(name))?;
    File::open(dir)?.sync_all()
}

impl Cache {
    /// Reads both copies; also what an operator has to know. A cache that cannot be read is empty.
    pub(super) fn open(dir: &Path) -> (Cache, Vec<String>) {
        let mut cache =
            Cache { dir: dir.to_owned(), generation: 0, leases: BTreeMap::new(), changed: false };
        let mut problems = Vec::new();
        if let Err(e) = fs::create_dir_all(dir) {
            problems.push(format!(
                "lease cache: cannot make {}: {e}; leases are not kept over a restart",
                dir.display()
            ));
        }
        let copies = NAMES.map(|name| read(&dir.join(name)));
        let newest = copies
            .iter()
            .filter_map(|c| match c {
                Copy::Whole(contents) => Some(contents.generation),
                _ => None,
            })
            .max();
        cache.generation = newest.unwrap_or(0);
        let damaged: Vec<String> = copies
            .iter()
            .zip(NAMES)
            .filter_map(|(copy, name)| match copy {
                Copy::Damaged(why) => Some(format!("{} {why}", dir.join(name).display())),
                _ => None,
            })
            .collect();
        let stale = |c: &Copy| !matches!(c, Copy::Whole(w) if Some(w.generation) == newest);
        cache.changed = newest.is_some() && copies.iter().any(stale);
        match (newest, damaged.is_empty()) {
            (_, true) => {}
            (Some(_), false) => problems.push(format!(
                "lease cache: {}; the other copy is used and this one written anew",
                damaged.join(", ")
            )),
            (None, false) => {
                problems.push(format!(
                    "lease cache: no whole copy is left: {}; addresses come from servers only, the \
                     files are kept with .damaged behind their names",
                    damaged.join(", ")
                ));
                cache.put_aside();
            }
        }
        for copy in copies {
            if let Copy::Whole(contents) = copy
                && Some(contents.generation) == newest
            {
                cache.leases = contents.leases;
            }
        }
        (cache, problems)
    }

    fn put_aside(&self) {
        for name in NAMES {
            // Not there, or it will be written over.
            let _ = fs::rename(self.dir.join(name), self.dir.join(format!("{name}.damaged")));
        }
    }

    /// What a client had, and how long ago it was given.
    pub(super) fn get(&self, client: &str, now_s: u64) -> Option<(Lease, Duration)> {
        let entry = self.leases.get(client)?;
        Some((entry.lease.clone(), Duration::from_secs(now_s.saturating_sub(entry.given_s))))
    }

    pub(super) fn put(&mut self, client: &str, entry: Entry) {
        self.changed |= self.leases.get(client) != Some(&entry);
        self.leases.insert(client.to_owned(), entry);
    }

    pub(super) fn remove(&mut self, client: &str) {
        self.changed |= self.leases.remove(client).is_some();
    }

    /// Forgets leases that are over, of clients that are not configured any more.
    pub(super) fn prune(&mut self, now_s: u64, configured: impl Fn(&str) -> bool) {
        let before = self.leases.len();
        self.leases.retain(|client, entry| {
            let age = Duration::from_secs(now_s.saturating_sub(entry.given_s));
            configured(client) || span(entry.lease.valid_s).is_none_or(|valid| age < valid)
        });
        self.changed |= self.leases.len() != before;
    }

    /// Whether there is something to write.
    pub(super) fn is_changed(&self) -> bool {
        self.changed
    }

    /// Writes both copies. Blocks for the disk.
    pub(super) fn save(&mut self) -> io::Result<()> {
        // Tried once per change: a full disk must not be asked for ever.
        self.changed = false;
        self.generation += 1;
        let leases = std::mem::take(&mut self.leases);
        let contents = Contents { version: VERSION, generation: self.generation, leases };
        let file = encode(&contents);
        self.leases = contents.leases;
        let file = file?;
        fs::create_dir_all(&self.dir)?;
        NAMES.iter().try_for_each(|name| write(&self.dir, name, &file))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(address: &str, given_s: u64) -> Entry {
        let lease = Lease {
            address: address.parse().unwrap(),
            prefix_len: 24,
            server: String::from("0a000001"),
            valid_s: 1000,
            preferred_s: 1000,
            renew_s: 500,
            rebind_s: 800,
            routes: Vec::new(),
            mtu: None,
            dns: Vec::new(),
            search: Vec::new(),
            ntp: Vec::new(),
            host_name: None,
            vendor: Vec::new(),
        };
        Entry { given_s, lease }
    }

    fn filled(dir: &Path) -> Cache {
        let (mut cache, problems) = Cache::open(dir);
        assert!(problems.is_empty(), "{problems:?}");
        cache.put("a", entry("10.0.0.1", 100));
        cache.save().unwrap();
        cache.put("a", entry("10.0.0.2", 200));
        cache.save().unwrap();
        cache
    }

    fn address(cache: &Cache) -> Option<String> {
        cache.get("a", 250).map(|(lease, _)| lease.address.to_string())
    }

    #[test]
    fn what_was_saved_is_there_after_a_restart_with_its_age() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("made/here");
        filled(&state);
        let (cache, problems) = Cache::open(&state);
        assert!(problems.is_empty() && !cache.is_changed());
        let (lease, age) = cache.get("a", 250).unwrap();
        assert_eq!((lease.address.to_string(), age), ("10.0.0.2".into(), Duration::from_secs(50)));
        assert_eq!(cache.get("a", 100).unwrap().1, Duration::ZERO, "a clock that went back");
        assert!(cache.get("b", 250).is_none());
    }

    #[test]
    fn a_damaged_copy_is_replaced_by_the_other() {
        for (name, damage) in [("leases.a", 0), ("leases.b", 0), ("leases.a", 1), ("leases.b", 2)] {
            let dir = tempfile::tempdir().unwrap();
            filled(dir.path());
            let path = dir.path().join(name);
            let mut file = fs::read(&path).unwrap();
            match damage {
                0 => {
                    let middle = file.len() / 2;
                    file[middle] ^= 1;
                }
                1 => file.truncate(file.len() / 2),
                _ => file.clear(),
            }
            fs::write(&path, &file).unwrap();
            let (mut cache, problems) = Cache::open(dir.path());
            assert_eq!(address(&cache).as_deref(), Some("10.0.0.2"));
            assert!(problems.len() == 1 && problems[0].contains(name), "{problems:?}");
            assert!(problems[0].contains("the other copy is used"), "{problems:?}");
            assert!(cache.is_changed());
            cache.save().unwrap();
            let (cache, problems) = Cache::open(dir.path());
            assert_eq!((address(&cache).as_deref(), problems.len()), (Some("10.0.0.2"), 0));
        }
    }

    #[test]
    fn the_newer_of_two_whole_copies_is_used() {
        let dir = tempfile::tempdir().unwrap();
        filled(dir.path());
        let old = fs::read(dir.path().join("leases.a")).unwrap();
        let (mut cache, _) = Cache::open(dir.path());
        cache.put("a", entry("10.0.0.3", 240));
        cache.save().unwrap();
        // the power went between the first copy and the second
        fs::write(dir.path().join("leases.b"), old).unwrap();
        let (cache, problems) = Cache::open(dir.path());
        assert_eq!((address(&cache).as_deref(), problems.len()), (Some("10.0.0.3"), 0));
        assert!(cache.is_changed(), "to be written anew");
    }

    #[test]
    fn without_a_whole_copy_there_is_an_error_and_an_empty_cache() {
        let dir = tempfile::tempdir().unwrap();
        filled(dir.path());
        for name in NAMES {
            fs::write(dir.path().join(name), b"weft leases 1 sha256 00\n{}\n").unwrap();
        }
        let (mut cache, problems) = Cache::open(dir.path());
        assert!(problems.len() == 1 && problems[0].contains("no whole copy"), "{problems:?}");
        assert_eq!(address(&cache), None);
        assert!(dir.path().join("leases.a.damaged").exists());
        cache.put("a", entry("10.0.0.9", 240));
        cache.save().unwrap();
        let (cache, problems) = Cache::open(dir.path());
        assert_eq!((address(&cache).as_deref(), problems.len()), (Some("10.0.0.9"), 0));
    }

    #[test]
    fn leases_of_clients_that_went_are_forgotten_when_they_are_over() {
        let dir = tempfile::tempdir().unwrap();
        let mut cache = filled(dir.path());
        cache.prune(1100, |_| false);
        assert!(!cache.is_changed());
        cache.prune(1300, |_| true);
        assert!(!cache.is_changed());
        cache.prune(1300, |_| false);
        assert!(cache.is_changed() && address(&cache).is_none());
    }
}
