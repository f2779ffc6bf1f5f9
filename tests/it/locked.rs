//! Somebody holds a lock on the table when a run begins: it waits, and does not end.

use pgrecast::demo::Server;

use crate::harness::load::Shape;
use crate::harness::migration::{SOON, command, finish, widen};
use crate::harness::{Db, Running, own_server, wait_for};

/// Starts something, and lets go of the table once that has waited for it in vain.
fn held(server: &Server, db: &Db, begin: impl FnOnce() -> Running) -> Running {
    let in_vain = || server.log().matches("canceling statement due to lock timeout").count();
    let (holder, before) = (db.connect(), in_vain());
    holder.sql("BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE");
    let mut running = begin();
    wait_for("a wait in vain, or the end", SOON, || match in_vain() > before || running.is_over() {
        true => Ok(()),
        false => Err("neither".to_owned()),
    });
    holder.sql("COMMIT");
    running
}

#[test]
fn a_lock_in_the_way_of_a_beginning_is_waited_for() {
    let server = own_server(&[]);
    let db = Db::on(&server);
    db.sql(Shape::plain_ddl());
    db.sql("INSERT INTO t (id, u) SELECT n, n FROM generate_series(1, 100) n");
    let first = widen(&db, &["--postpone-cutover", "--rollback-window", "10m"]);
    first.wait_for_waiting("pgrecast cutover");
    first.kill();
    let id = db.query_one_text("SELECT id FROM pgrecast.migration");
    let resumed = held(&server, &db, || command(&db, &["resume", &id]));
    resumed.wait_for_waiting("pgrecast cutover");
    command(&db, &["cutover", &id]).wait().ended(0);
    resumed.wait_for_phase("keep");
    resumed.kill();
    let keeper = held(&server, &db, || command(&db, &["resume", &id]));
    keeper.wait_for_event("the old table that follows", SOON, |e| e["event"] == "notice");
    held(&server, &db, || command(&db, &["rollback", &id])).wait().ended(0);
    keeper.wait().ended(0);
    finish(&db);
}

/// The n-th ALTER TABLE of the database waits for a lock of the test's.
const HELD: &str = "
    CREATE SEQUENCE public.altered;
    CREATE TABLE public.held_at (n int); INSERT INTO public.held_at VALUES (0);
    CREATE FUNCTION public.hold() RETURNS event_trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF pg_catalog.nextval('public.altered') = (SELECT n FROM public.held_at) THEN
            PERFORM pg_catalog.pg_advisory_xact_lock_shared(4711);
        END IF;
    END $$;
    CREATE EVENT TRIGGER hold ON ddl_command_start WHEN TAG IN ('ALTER TABLE') EXECUTE FUNCTION public.hold();";

#[test]
fn a_lock_in_the_way_of_the_planning_is_no_refusal() {
    let db = Db::new();
    db.sql(Shape::plain_ddl());
    db.sql(HELD);
    let holder = db.connect();
    holder.sql("SELECT pg_advisory_lock(4711)");
    let clauses = "ALTER id TYPE bigint, ALTER v TYPE int USING length(v), ADD COLUMN x int";
    let reverse = "v=v::text";
    for n in 1.. {
        db.sql(&format!("SELECT setval('altered', 1, false); UPDATE held_at SET n = {n}"));
        let output =
            command(&db, &["alter", "t", clauses, "--rollback-window", "1h", "--reverse", reverse, "--dry-run"]).wait();
        if output.code == Some(0) {
            assert!(n > 4, "few statements were held: {n}");
            break;
        }
        assert!(output.stderr.contains("canceling statement due to lock timeout"), "{n}: {}", output.stderr);
        output.ended(1);
    }
}
