//! Rows that were frozen in an earlier epoch of transaction ids (rule 1): their xmin lies ahead of every snapshot, in
//! 32-bit terms, and they are as old as any.

use pgrecast::demo::Server;

use crate::harness::migration::{command, finish};
use crate::harness::{Db, Session, client, own_server, test_bin};

/// Transactions of one file of `pg_xact`, and its size: two bits for each (PostgreSQL manual, pg_resetwal).
const SEGMENT: u32 = 1 << 20;

/// It must be the server's own major. The packages of 14, 16 and 17 come without it; what is tested here is arithmetic of
/// ours, and the same on each.
fn pg_resetwal(db: &Db) -> Option<String> {
    let own = test_bin().join("pg_resetwal");
    match db.major() {
        14 | 16 | 17 => own.exists().then_some(own),
        18 if !own.exists() => Some(client("pg_resetwal")),
        _ => Some(own),
    }
    .map(|path| path.to_string_lossy().into_owned())
}

/// Stops the server, lets it go on at this transaction id, and starts it.
fn advance(server: &mut Server, pg_resetwal: &str, epoch: u32, xid: u32) {
    server.stop();
    let data = server.data_dir();
    let segment = data.join("pg_xact").join(format!("{:04X}", xid / SEGMENT));
    std::fs::write(&segment, vec![0; SEGMENT as usize / 4]).expect("a file for the new transactions");
    let owner = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(&data).expect("the data directory"));
    std::os::unix::fs::chown(&segment, Some(owner), None).expect("it is the server's");
    let mut reset = server.command(pg_resetwal);
    reset.args(["-e", &epoch.to_string(), "-x", &xid.to_string(), "-D"]).arg(&data);
    let output = reset.output().expect("pg_resetwal runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    server.restart().expect("a start at the new transaction id");
}

/// No row of any database is of this age any more.
fn freeze(server: &Server) {
    let databases = Session::connect(&server.dsn());
    databases.sql("UPDATE pg_database SET datallowconn = true");
    for name in databases.rows("SELECT datname FROM pg_database").into_iter().flatten().flatten() {
        Session::connect(&server.dsn_of(&name)).sql("VACUUM (FREEZE)");
    }
}

#[test]
fn rows_of_an_earlier_epoch_are_old() {
    let mut server = own_server(&[("autovacuum", "off")]);
    let db = Db::on(&server);
    let Some(pg_resetwal) = pg_resetwal(&db) else { return };
    advance(&mut server, &pg_resetwal, 0, 1_500_000_000);
    let db = db.again();
    db.sql("CREATE TABLE t (id int PRIMARY KEY, v text)");
    db.sql("INSERT INTO t SELECT n, 'v' || n FROM generate_series(1, 5000) n");
    freeze(&server);
    advance(&mut server, &pg_resetwal, 0, 3_400_000_000);
    freeze(&server);
    advance(&mut server, &pg_resetwal, 1, 1_000);
    let db = db.again();
    let ahead = "SELECT count(*) FROM t WHERE age(xmin) < 0";
    assert_eq!(db.query_one_text(ahead), "5000", "their xmin lies ahead");
    let running = command(&db, &["alter", "t", "ALTER id TYPE bigint", "--postpone-cutover"]);
    running.wait_for_waiting("pgrecast cutover");
    db.sql("UPDATE t SET v = 'new' WHERE id <= 10; DELETE FROM t WHERE id = 11; INSERT INTO t VALUES (6000, 'more')");
    let rows = "SELECT md5(string_agg(concat_ws(' ', id, v), ',' ORDER BY id)) FROM t";
    let expected = db.query_one_text(rows);
    command(&db, &["cutover"]).wait().ended(0);
    let report = running.done();
    // The copy took every one of them: only what was changed afterwards went through the journal.
    assert_eq!(report["rows_copied"], 5_000, "{report}");
    assert_eq!(report["keys_journaled"], 12, "{report}");
    assert_eq!(db.query_one_text(rows), expected);
    finish(&db);
}
