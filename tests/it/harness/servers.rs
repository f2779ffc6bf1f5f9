//! The servers of a test process.
//!
//! A server is never shared between processes, for tests on one would meet: a replication slot waits for the open
//! transactions of every database, and some tests stop their server. `initdb` runs once and its result is copied, so a
//! start takes a fraction of a second.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use pgrecast::demo::{Cluster, Server, find_installed};

/// Durability is not what these tests are about; room for many tests in one process is.
const SETTINGS: [(&str, &str); 5] = [
    ("fsync", "off"),
    ("max_connections", "200"),
    ("max_wal_senders", "50"),
    ("max_replication_slots", "50"),
    ("max_prepared_transactions", "20"),
];

/// The server that the tests of this process share, each in a database of its own.
pub fn server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| own_server(&[]))
}

/// A server of the test's own, to stop or to set up differently; `settings` win over the shared server's.
pub fn own_server(settings: &[(&str, &str)]) -> Server {
    let all: Vec<(&str, &str)> = SETTINGS.iter().chain(settings).copied().collect();
    let bin = test_bin();
    let started = Cluster::copy_of(&initialised(&bin), &bin).and_then(|cluster| Server::on(cluster, &all));
    started.unwrap_or_else(|e| panic!("no server from {}: {e}\n{}", bin.display(), e.detail.as_deref().unwrap_or("")))
}

/// A server whose autovacuum comes at once where 20 000 rows are dead, and takes long.
pub fn vacuuming_server() -> Server {
    own_server(&[
        ("autovacuum_naptime", "1s"),
        ("autovacuum_vacuum_threshold", "20000"),
        ("autovacuum_vacuum_insert_threshold", "-1"),
        ("autovacuum_vacuum_scale_factor", "0"),
        ("autovacuum_vacuum_cost_delay", "100ms"),
        ("autovacuum_vacuum_cost_limit", "20"),
    ])
}

/// A standby of `primary`, which has a slot of this name for it, with the same databases, roles and passwords.
pub fn standby_of(primary: &Server, slot: &str, settings: &[(&str, &str)]) -> Server {
    let from = primary.dsn();
    let streams = [("primary_conninfo", from.as_str()), ("primary_slot_name", slot), ("hot_standby_feedback", "on")];
    let all: Vec<(&str, &str)> = SETTINGS.iter().chain(&streams).chain(settings).copied().collect();
    let bin = test_bin();
    // Both began with the same files, and the primary still has all WAL since.
    let cluster = Cluster::copy_of(&initialised(&bin), &bin).expect("a copy of the data directory");
    std::fs::write(cluster.data_dir().join("standby.signal"), "").expect("the mark of a standby");
    Server::on(cluster, &all).unwrap_or_else(|e| panic!("no standby: {e}\n{}", e.detail.as_deref().unwrap_or("")))
}

/// The programs of the server under test.
pub fn test_bin() -> PathBuf {
    std::env::var_os("PGRECAST_TEST_BIN").map(PathBuf::from).or_else(find_installed).expect(
        "no PostgreSQL found; scripts/test fetches one, and PGRECAST_TEST_BIN names the directory of one's programs",
    )
}

/// A data directory made once by these programs, whichever test process comes first.
fn initialised(bin: &Path) -> PathBuf {
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let bin = bin.canonicalize().expect("the directory of the server's programs");
    let name: String = bin.to_string_lossy().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let name = format!("initialised-{}{name}", nix::unistd::geteuid());
    let lock = File::create(cache.join(format!("{name}.lock"))).expect("a lock file in the target directory");
    lock.lock().expect("the lock on the initialised data directory");
    let kept = cache.join(&name);
    if !kept.is_dir() {
        let unfinished = cache.join(format!("{name}.unfinished"));
        let _ = std::fs::remove_dir_all(&unfinished);
        let made = Cluster::initdb(&bin).and_then(|cluster| cluster.save(&unfinished));
        made.unwrap_or_else(|e| panic!("{e}\n{}", e.detail.as_deref().unwrap_or("")));
        std::fs::rename(&unfinished, &kept).expect("the initialised data directory gets its name");
    }
    kept
}
