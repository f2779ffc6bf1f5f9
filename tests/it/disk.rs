//! A disk that is full, and freed again. These need a small file system of their own: scripts/full-disk makes it.

use std::os::unix::fs::{MetadataExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use pgrecast::demo::Server;
use tempfile::NamedTempFile;

use crate::harness::migration::{SOON, command, finish};
use crate::harness::{Db, Running, own_server, wait_for};

/// What is copied and its indexes take some 20 MB.
const TABLE: &str = "
    CREATE TABLE t (id int PRIMARY KEY, v text);
    INSERT INTO t SELECT n, repeat('x', 400) FROM generate_series(1, 30000) n";

const ROWS: &str = "SELECT md5(string_agg(t::text, ',' ORDER BY id)) FROM t";

/// A directory on the small file system, which the server's user may write to.
fn small(server: &Server, name: &str) -> PathBuf {
    let place = std::env::var_os("PGRECAST_SMALL_DISK").expect("scripts/full-disk names a small file system");
    let place = PathBuf::from(place).join(name);
    std::fs::create_dir(&place).expect("a directory on the small disk");
    let owner = server.data_dir().metadata().expect("the server's data");
    chown(&place, Some(owner.uid()), Some(owner.gid())).expect("the directory for the server's user");
    place
}

/// What takes all the room there is, until it is dropped.
struct Filler(PathBuf);

impl Filler {
    fn fill(beside: &Path) -> Filler {
        let file = beside.with_extension("filler");
        // It ends where the disk does.
        let _ = Command::new("dd").args(["if=/dev/zero", "bs=64k", &format!("of={}", file.display())]).output();
        Filler(file)
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A run that stays in the copy until the file goes.
fn held(db: &Db, clauses: &str, hold: &NamedTempFile) -> Running {
    let file = hold.path().to_string_lossy();
    let running = command(db, &["alter", "t", clauses, "--throttle-file", &file]);
    running.wait_for_phase("copy");
    running
}

fn says(running: &Running, words: &str) {
    wait_for(words, SOON, || {
        let said = running.said();
        if said.contains(words) { Ok(()) } else { Err(said) }
    });
}

#[test]
#[ignore = "needs a small file system: scripts/full-disk"]
fn a_full_disk_of_the_tables_is_waited_for() {
    let server = own_server(&[]);
    let db = Db::on(&server);
    db.sql(TABLE);
    let expected = db.query_one_text(ROWS);
    let place = small(&server, "tables");
    db.sql(&format!("CREATE TABLESPACE small LOCATION '{}'", place.display()));
    let hold = tempfile::NamedTempFile::new().expect("the throttle file");
    let running = held(&db, "SET TABLESPACE small", &hold);
    let filler = Filler::fill(&place);
    drop(hold);
    says(&running, "No space left on device");
    // The application's own table is elsewhere.
    db.sql("UPDATE t SET v = v WHERE id = 1");
    drop(filler);
    running.done();
    assert_eq!(db.query_one_text(ROWS), expected);
    finish(&db);
}

#[test]
#[ignore = "needs a small file system: scripts/full-disk"]
fn a_full_disk_of_the_wal_stops_the_server_and_costs_nothing() {
    let mut server = own_server(&[("max_wal_size", "64MB"), ("min_wal_size", "32MB")]);
    let place = small(&server, "log");
    server.stop();
    let wal = server.data_dir().join("pg_wal");
    let moved = Command::new("mv").arg(&wal).arg(&place).status().expect("mv");
    assert!(moved.success());
    symlink(place.join("pg_wal"), &wal).expect("a link to the small disk");
    server.restart().expect("the server");
    let db = Db::on(&server);
    db.sql(TABLE);
    let expected = db.query_one_text(ROWS);
    let hold = tempfile::NamedTempFile::new().expect("the throttle file");
    let running = held(&db, "ALTER id TYPE bigint", &hold);
    let writer = db.connect();
    // What is written now stops the server.
    let filler = Filler::fill(&place);
    while writer.try_sql("UPDATE t SET v = v || '' WHERE id <= 3000").is_ok() {}
    wait_for(
        "the server to stop",
        SOON,
        || {
            if server.log().contains("PANIC") { Ok(()) } else { Err(server.log_tail()) }
        },
    );
    drop((filler, hold));
    server.stop_immediate();
    server.restart().expect("the server with room again");
    running.wait().ended(1);
    command(&db, &["resume"]).done();
    let after = db.again();
    assert_eq!(after.query_one_text(ROWS), expected);
    assert_eq!(after.query_one_text("SELECT pg_typeof(max(id)) FROM t"), "bigint");
    finish(&after);
}
