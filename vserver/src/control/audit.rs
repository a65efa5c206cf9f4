//! The log of changes: who, what, before, after, result; one JSON object per line.
//!
//! A change is logged twice. The first record, without `result`, is on the disk before anything is
//! done: a change that cannot be logged is refused. The second one, of the same `id`, tells how it
//! ended; a first one that stands alone is a change during which the daemon ended. Each record is
//! written with one write to a file opened for appending, and followed by fdatasync; refusals are
//! not synced, and of one user's only so many are told per minute, so that they cannot fill the log.

use std::collections::{HashMap, VecDeque};
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::peer::Peer;
use super::socket::make_directory_of;
use crate::config::Privilege;

/// Bytes of `before` and of `after` in a record; of more, the beginning.
const VALUE_BYTES_MAX: usize = 64 << 10;
/// Bytes of a text in `request`; of a longer one, a whole configuration, only its length is told:
/// what it changes is in `before` and `after`.
const TEXT_BYTES_MAX: usize = 1024;
/// Refusals of one user that are told per minute.
pub(super) const REFUSALS_PER_MINUTE: u32 = 30;
/// Users whose refusals are counted apart; the others share one count.
const REFUSED_USERS_MAX: usize = 1024;
/// Records of one answer.
const PAGE_RECORDS: usize = 1000;

/// A line of the log.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Record {
    /// When, in UTC (RFC 3339, milliseconds).
    pub time: String,
    /// The same in both records of a change.
    pub id: u64,
    /// Who: user, group, process.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its process.
    pub pid: u32,
    /// With which roles.
    pub role: String,
    /// The command.
    pub what: String,
    /// The command with everything it says.
    #[serde(skip_serializing_if = "Value::is_null")]
    pub request: Value,
    /// What was there before.
    #[serde(skip_serializing_if = "Value::is_null")]
    pub before: Value,
    /// What is there now.
    #[serde(skip_serializing_if = "Value::is_null")]
    pub after: Value,
    /// `ok`, `failed: ...` or `refused: ...`; none: it begins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<String>,
    /// Refusals of this user that were not told since the last record.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub untold: Option<u32>,
}

/// Which records are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AuditQuery {
    /// From this time on (RFC 3339, UTC), as records have it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
}

/// The last records of a query.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AuditPage {
    /// Oldest first.
    pub records: Vec<Record>,
    /// There are older ones; the file has them.
    pub more: bool,
    /// The current file; none: records go to the daemon's standard error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
}

/// Why a record was not written.
#[derive(Debug, thiserror::Error)]
#[error("audit log {}: {operation}: {source}", file.display())]
pub struct AuditError {
    /// The log.
    pub file: PathBuf,
    /// What was tried.
    pub operation: &'static str,
    /// The system's answer.
    pub source: io::Error,
}

/// Where records go.
#[derive(Debug)]
pub(super) struct Log {
    file: Option<Current>,
    last_id: u64,
    refused: HashMap<u32, Refused>,
}

#[derive(Debug)]
struct Current {
    path: PathBuf,
    open: File,
    bytes: u64,
    bytes_max: u64,
    files: u64,
    /// Directory made for it.
    made: Option<PathBuf>,
}

#[derive(Debug)]
struct Refused {
    since: Instant,
    told: u32,
    untold: u32,
}

impl Log {
    /// Opens the file of the configuration, making its directory if that is missing.
    pub(super) fn open(p: &Privilege) -> Result<Log, AuditError> {
        let file = p.audit.as_deref().map(|path| Current::open(path, p)).transpose()?;
        Ok(Log { file, last_id: 0, refused: HashMap::new() })
    }

    pub(super) fn path(&self) -> Option<&Path> {
        self.file.as_ref().map(|f| f.path.as_path())
    }

    /// What it has made: to be given to the user that is to write it.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        let Some(file) = &self.file else { return Vec::new() };
        file.made.iter().cloned().chain([file.path.clone()]).collect()
    }

    /// Whether it can be written and turned over by this process as it is now.
    pub(super) fn check(&self) -> Result<(), AuditError> {
        let Some(file) = &self.file else { return Ok(()) };
        let directory = file.path.parent().filter(|d| !d.as_os_str().is_empty());
        let directory = directory.unwrap_or(Path::new("."));
        use rustix::fs::Access;
        rustix::fs::access(directory, Access::WRITE_OK | Access::EXEC_OK)
            .and_then(|()| rustix::fs::access(&file.path, Access::WRITE_OK))
            .map_err(|e| {
                file.error("the daemon's user may not write it or its directory", e.into())
            })
    }

    /// A change begins. The record is on the disk when this returns `Ok`.
    pub(super) fn begin(&mut self, mut record: Record) -> Result<Record, AuditError> {
        let micros = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let micros = micros.unwrap_or_default().as_micros() as u64;
        self.last_id = micros.max(self.last_id + 1);
        record.id = self.last_id;
        self.write(&mut record, true)?;
        Ok(record)
    }

    /// It ended.
    pub(super) fn end(&mut self, mut record: Record) -> Result<(), AuditError> {
        // The first record has it.
        record.request = Value::Null;
        self.write(&mut record, true)
    }

    /// It was refused.
    pub(super) fn refusal(&mut self, mut record: Record) -> Result<(), AuditError> {
        let full = self.refused.len() >= REFUSED_USERS_MAX;
        let user =
            if full && !self.refused.contains_key(&record.uid) { u32::MAX } else { record.uid };
        let fresh = || Refused { since: Instant::now(), told: 0, untold: 0 };
        let count = self.refused.entry(user).or_insert_with(fresh);
        if count.since.elapsed() >= Duration::from_mins(1) {
            (count.since, count.told) = (Instant::now(), 0);
        }
        if count.told >= REFUSALS_PER_MINUTE {
            count.untold += 1;
            return Ok(());
        }
        count.told += 1;
        record.untold = (count.untold > 0).then_some(count.untold);
        count.untold = 0;
        self.write(&mut record, false)
    }

    fn write(&mut self, record: &mut Record, sync: bool) -> Result<(), AuditError> {
        record.time = now();
        bound(&mut record.before);
        bound(&mut record.after);
        shorten(&mut record.request);
        bound(&mut record.request);
        // Plain data with string keys: it has a JSON form.
        let mut line = serde_json::to_vec(&*record).unwrap_or_default();
        line.push(b'\n');
        if let Some(file) = &mut self.file {
            return file.append(&line, sync);
        }
        // Who runs the daemon without a log keeps its standard error, or not.
        let _ = io::stderr().lock().write_all(&line);
        Ok(())
    }

    /// The last records of a query.
    pub(super) fn read(&self, query: &AuditQuery) -> Result<AuditPage, AuditError> {
        let Some(file) = &self.file else { return Ok(AuditPage::default()) };
        read_files(&file.path, query, PAGE_RECORDS)
    }
}

impl Current {
    fn open(path: &Path, p: &Privilege) -> Result<Current, AuditError> {
        let error =
            |operation| move |source| AuditError { file: path.to_owned(), operation, source };
        let made = make_directory_of(path).map_err(error("make its directory"))?;
        let open = appending(path).map_err(error("open"))?;
        let facts = open.metadata().map_err(error("open"))?;
        if !facts.is_file() {
            // It is renamed some day, and no device may be.
            return Err(error("use as a log")(io::ErrorKind::InvalidInput.into()));
        }
        let bytes = facts.len();
        let (bytes_max, files) = (p.audit_bytes, p.audit_files);
        Ok(Current { path: path.to_owned(), open, bytes, bytes_max, files, made })
    }

    fn append(&mut self, line: &[u8], sync: bool) -> Result<(), AuditError> {
        if self.bytes > 0 && self.bytes + line.len() as u64 > self.bytes_max {
            self.turn_over().map_err(|e| self.error("begin the next file", e))?;
        }
        // Half a line, of a disk that was full, is ended before the next one.
        let written = self.open.write(line).and_then(|n| {
            self.bytes += n as u64;
            if n == line.len() { Ok(()) } else { Err(io::ErrorKind::StorageFull.into()) }
        });
        if written.is_err() && self.open.write(b"\n").is_ok() {
            self.bytes += 1;
        }
        written.map_err(|e| self.error("write", e))?;
        if sync {
            self.open.sync_data().map_err(|e| self.error("write to the disk", e))?;
        }
        Ok(())
    }

    /// `log` becomes `log.1`, that `log.2`, and so on; the oldest goes.
    fn turn_over(&mut self) -> io::Result<()> {
        self.open.sync_data()?;
        let old = |n: u64| numbered(&self.path, n);
        for n in (1..self.files).rev() {
            let from = if n == 1 { self.path.clone() } else { old(n - 1) };
            match std::fs::rename(from, old(n)) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        if self.files == 1 {
            std::fs::remove_file(&self.path)?;
        }
        self.open = appending(&self.path)?;
        self.bytes = 0;
        Ok(())
    }

    fn error(&self, operation: &'static str, source: io::Error) -> AuditError {
        AuditError { file: self.path.clone(), operation, source }
    }
}

fn appending(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

fn numbered(path: &Path, n: u64) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{n}"));
    PathBuf::from(name)
}

fn now() -> String {
    humantime::format_rfc3339_millis(SystemTime::now()).to_string()
}

fn shorten(value: &mut Value) {
    match value {
        Value::String(s) if s.len() > TEXT_BYTES_MAX => *s = format!("({} bytes)", s.len()),
        Value::Array(list) => list.iter_mut().for_each(shorten),
        Value::Object(map) => map.values_mut().for_each(shorten),
        _ => {}
    }
}

fn bound(value: &mut Value) {
    let text = match &*value {
        Value::String(s) if s.len() > VALUE_BYTES_MAX => s.clone(),
        Value::Array(_) | Value::Object(_) => value.to_string(),
        _ => return,
    };
    let end = text.floor_char_boundary(VALUE_BYTES_MAX);
    let rest = text.len() - end;
    if rest > 0 {
        *value = Value::String(format!("{}... and {rest} more bytes", &text[..end]));
    }
}

/// The last `max` records of a log and its older files that a query finds. Lines that are no
/// records, of a disk that was full, are passed over.
pub fn read_files(path: &Path, query: &AuditQuery, max: usize) -> Result<AuditPage, AuditError> {
    let error = |source| AuditError { file: path.to_owned(), operation: "read", source };
    let mut page = AuditPage { file: Some(path.to_owned()), ..AuditPage::default() };
    for n in 0.. {
        let file = if n == 0 { path.to_owned() } else { numbered(path, n) };
        let open = match File::open(&file) {
            Ok(open) => open,
            Err(e) if n > 0 && e.kind() == io::ErrorKind::NotFound => break,
            Err(e) => return Err(error(e)),
        };
        let mut found: VecDeque<Record> = VecDeque::new();
        let mut older = false;
        let room = max - page.records.len();
        for line in BufReader::new(open).split(b'\n') {
            let Ok(record) = serde_json::from_slice::<Record>(&line.map_err(error)?) else {
                continue;
            };
            if query.since.as_ref().is_some_and(|s| record.time < *s) {
                older = true;
                continue;
            }
            found.push_back(record);
            if found.len() > room {
                found.pop_front();
                page.more = true;
            }
        }
        page.records.splice(0..0, found);
        // Files are older the higher their number.
        if older || page.more {
            break;
        }
    }
    Ok(page)
}

/// The record of a peer's command, as far as it is known before.
pub(super) fn record(peer: &Peer, role: String, what: String, request: Value) -> Record {
    Record { uid: peer.uid, gid: peer.gid, pid: peer.pid, role, what, request, ..Record::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(bytes: u64, files: u64) -> (tempfile::TempDir, Log, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log/audit.log");
        let p = Privilege {
            audit: Some(path.clone()),
            audit_bytes: bytes,
            audit_files: files,
            ..Privilege::default()
        };
        (directory, Log::open(&p).unwrap(), path)
    }

    fn change(n: u32) -> Record {
        let peer = Peer { uid: n, gid: 1, groups: vec![], pid: 7 };
        record(&peer, String::from("ops"), String::from("set-poll"), Value::from(n))
    }

    #[test]
    fn a_change_has_two_records_and_both_are_read_back() {
        let (_d, mut log, path) = log(1 << 20, 3);
        let mut r = log.begin(change(5)).unwrap();
        r.before = Value::from("busy");
        r.after = Value::from("interrupt");
        r.result = Some(String::from("ok"));
        log.end(r).unwrap();
        let page = log.read(&AuditQuery::default()).unwrap();
        assert_eq!((page.records.len(), page.more, page.file.as_ref()), (2, false, Some(&path)));
        let [begun, ended] = &page.records[..] else { panic!() };
        assert_eq!((begun.id, begun.result.as_deref()), (ended.id, None));
        assert_eq!((ended.uid, ended.gid, ended.pid, ended.role.as_str()), (5, 1, 7, "ops"));
        assert_eq!((ended.result.as_deref(), &ended.before), (Some("ok"), &Value::from("busy")));
        assert_eq!((&begun.request, &ended.request), (&Value::from(5), &Value::Null));
        let since = AuditQuery { since: Some(String::from("2999-01-01T00:00:00Z")) };
        assert!(log.read(&since).unwrap().records.is_empty());
    }

    #[test]
    fn files_turn_over_and_the_number_of_them_is_bounded() {
        let (_d, mut log, path) = log(1000, 3);
        for n in 0..100 {
            log.begin(change(n)).unwrap();
        }
        let sizes: Vec<u64> = [path.clone(), numbered(&path, 1), numbered(&path, 2)]
            .iter()
            .map(|p| std::fs::metadata(p).unwrap().len())
            .collect();
        assert!(sizes.iter().all(|s| *s <= 1000), "{sizes:?}");
        assert!(!numbered(&path, 3).exists());
        let page = log.read(&AuditQuery::default()).unwrap();
        let uids: Vec<u32> = page.records.iter().map(|r| r.uid).collect();
        assert_eq!(uids.last(), Some(&99));
        assert!(uids.len() > 10 && uids.windows(2).all(|w| w[0] + 1 == w[1]), "{uids:?}");
        let last = read_files(&path, &AuditQuery::default(), 4).unwrap();
        assert!(last.more && last.records.iter().map(|r| r.uid).eq(96..100));
    }

    #[test]
    fn what_cannot_be_written_is_an_error() {
        let (_d, mut log, path) = log(1 << 20, 2);
        // Every write to it fails with ENOSPC.
        log.file.as_mut().unwrap().open = appending(Path::new("/dev/full")).unwrap();
        let e = log.begin(change(1)).unwrap_err();
        let wanted = format!("audit log {}: write: No space left", path.display());
        assert!(e.to_string().starts_with(&wanted), "{e}");
        let p = Privilege { audit: Some("/dev/null".into()), ..Privilege::default() };
        assert!(Log::open(&p).unwrap_err().to_string().starts_with("audit log /dev/null: use as"));
        let p = Privilege { audit: Some("/proc/none/log".into()), ..Privilege::default() };
        assert!(Log::open(&p).unwrap_err().to_string().contains("make its directory"));
    }

    #[test]
    fn refusals_are_counted_rather_than_told_when_there_are_many() {
        let (_d, mut log, _path) = log(1 << 20, 2);
        for _ in 0..100 {
            log.refusal(change(1)).unwrap();
        }
        log.refusal(change(2)).unwrap();
        let page = log.read(&AuditQuery::default()).unwrap();
        assert_eq!(page.records.len(), REFUSALS_PER_MINUTE as usize + 1);
        assert_eq!(log.refused[&1].untold, 70);
        log.refused.get_mut(&1).unwrap().told = 0;
        log.refusal(change(1)).unwrap();
        let page = log.read(&AuditQuery::default()).unwrap();
        assert_eq!(page.records.last().unwrap().untold, Some(70));
    }

    #[test]
    fn long_values_are_cut_and_broken_lines_passed_over() {
        let (_d, mut log, path) = log(1 << 20, 2);
        let mut r = change(1);
        r.request = serde_json::json!({ "command": "apply", "text": "x".repeat(5000) });
        r.before = Value::from("é".repeat(VALUE_BYTES_MAX));
        log.begin(r).unwrap();
        std::fs::OpenOptions::new()
            .append(true)
            .open(&path)
            .unwrap()
            .write_all(b"{\"ti\n")
            .unwrap();
        log.begin(change(2)).unwrap();
        let page = log.read(&AuditQuery::default()).unwrap();
        assert_eq!(page.records.len(), 2);
        assert_eq!(page.records[0].request["text"], "(5000 bytes)");
        let before = page.records[0].before.as_str().unwrap();
        assert!(before.ends_with("... and 65536 more bytes"), "{}", &before[before.len() - 40..]);
    }
}
