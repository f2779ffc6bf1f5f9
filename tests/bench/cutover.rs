//! The swap while eight clients write at full speed.

use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};

use crate::Result;
use crate::lab::{DATABASE, Lab, Sql, wait_for};
use crate::load::{Load, Log};
use crate::migration::{Done, Migration};
use crate::outcome::{Outcome, median, worst};

const TABLE: &str = "pgbench_accounts";

/// The longest that a client may wait beside a reader or an autovacuum, in milliseconds.
const LONGEST_WAIT_MS: f64 = 300.0;

/// Between the end of a run and the window in which its load is measured.
const ASIDE: Duration = Duration::from_secs(1);

/// One cut-over of row 5, and the windows before and after in which nothing else happened.
struct Swap {
    before: (SystemTime, SystemTime),
    done: Done,
    after: (SystemTime, SystemTime),
}

/// Row 5.
pub fn under_load(lab: &mut Lab) -> Result<Outcome> {
    let template = lab.pgbench_template(10)?;
    let (mut blocked, mut ratios, mut longest, mut failed, mut facts) = (vec![], vec![], vec![], 0.0, vec![]);
    for (i, mode) in ["simple", "extended", "prepared"].into_iter().enumerate() {
        // 20 are 7, 7 and 6.
        let count = (usize::from(lab.cutovers) + 2 - i) / 3;
        lab.fresh(&template)?;
        lab.settle()?;
        let load = Load::start(lab, &["-N", "-M", mode])?;
        sleep(lab.span(10.0));
        let swaps = (0..count).map(|number| swap(lab, number)).collect::<Result<Vec<Swap>>>();
        let log = load.stop()?;
        failed += log.failed;
        for swap in swaps? {
            let (before, after) = (log.tps(swap.before.0, swap.before.1), log.tps(swap.after.0, swap.after.1));
            blocked.push(swap.done.blocked_ms());
            ratios.push(after / before);
            longest.push(log.longest_ms(swap.done.begun_at, swap.done.ended_at));
            facts.push(json!({
                "mode": mode, "run": swap.done.facts(), "longest_ms": longest.last(), "tps_before": before,
                "tps_during": log.tps(swap.done.begun_at, swap.done.ended_at), "tps_after": after,
                "longest_before_ms": log.longest_ms(swap.before.0, swap.before.1),
            }));
        }
    }
    let shown = worst(&longest);
    Ok(Outcome::new(5, json!({ "swaps": facts, "longest_ms": shown }))
        .at_most("write_blocked, median", median(&blocked), 25.0, "ms")
        .at_most(format!("write_blocked, worst of {}", blocked.len()), worst(&blocked), 100.0, "ms")
        .at_most("failed transactions", failed, 0.0, "")
        .at_least("throughput after the swap to before, median", median(&ratios), 0.95, "×")
        .shown("longest transaction of a client during a run", shown, "ms"))
}

/// What hangs on the table in row 10: five views, of which one is made again for the new type, three foreign keys each
/// way, two triggers, four policies. pgbench's own tables are among the parents and children.
const TIES: &str = "
    CREATE TABLE flags (flag int PRIMARY KEY);
    INSERT INTO flags VALUES (0);
    ALTER TABLE pgbench_accounts ADD flag int DEFAULT 0, ADD other int REFERENCES flags,
        ADD FOREIGN KEY (flag) REFERENCES flags, ADD FOREIGN KEY (bid) REFERENCES pgbench_branches;
    CREATE TABLE cards (card int PRIMARY KEY, aid int REFERENCES pgbench_accounts);
    INSERT INTO cards SELECT n, n FROM generate_series(1, 10000) n;
    CREATE TABLE letters (aid int REFERENCES pgbench_accounts ON DELETE CASCADE);
    INSERT INTO letters SELECT n FROM generate_series(1, 10000) n;
    ALTER TABLE pgbench_history ADD FOREIGN KEY (aid) REFERENCES pgbench_accounts;
    CREATE VIEW balances AS SELECT bid, sum(abalance) AS total FROM pgbench_accounts GROUP BY bid;
    CREATE VIEW rich AS SELECT * FROM balances WHERE total > 0;
    CREATE VIEW fillers AS SELECT filler FROM pgbench_accounts;
    CREATE VIEW keys AS SELECT aid, bid FROM pgbench_accounts;
    CREATE VIEW of_one AS SELECT aid FROM keys WHERE bid = 1;
    CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
    CREATE TRIGGER before_each BEFORE UPDATE OF bid ON pgbench_accounts FOR EACH ROW EXECUTE FUNCTION note();
    CREATE TRIGGER after_all AFTER INSERT ON pgbench_accounts EXECUTE FUNCTION note();
    CREATE POLICY a ON pgbench_accounts FOR SELECT USING (true);
    CREATE POLICY b ON pgbench_accounts FOR UPDATE USING (aid > 0);
    CREATE POLICY c ON pgbench_accounts FOR INSERT WITH CHECK (bid > 0);
    CREATE POLICY d ON pgbench_accounts AS RESTRICTIVE FOR DELETE USING (abalance = 0);
    ALTER TABLE pgbench_accounts ENABLE ROW LEVEL SECURITY;";

/// Row 10.
pub fn tied(lab: &mut Lab) -> Result<Outcome> {
    let template = lab.pgbench_template(10)?;
    lab.fresh(&template)?;
    lab.sql(DATABASE)?.run(TIES)?;
    lab.settle()?;
    // Its history has a foreign key to the accounts here, so that each transaction locks them in the order of the application.
    let load = Load::start(lab, &["-N", "-M", "prepared"])?;
    sleep(lab.span(10.0));
    let count = usize::from(lab.cutovers).div_ceil(2);
    let swaps = (0..count).map(|number| swap(lab, number)).collect::<Result<Vec<Swap>>>();
    let log = load.stop()?;
    let swaps = swaps?;
    let blocked: Vec<f64> = swaps.iter().map(|swap| swap.done.blocked_ms()).collect();
    let longest: Vec<f64> = swaps.iter().map(|swap| log.longest_ms(swap.done.begun_at, swap.done.ended_at)).collect();
    let facts: Vec<Value> = swaps.iter().map(|swap| swap.done.facts()).collect();
    Ok(Outcome::new(10, json!({ "swaps": facts, "longest_ms": longest }))
        .at_most("write_blocked, median", median(&blocked), 50.0, "ms")
        .shown(format!("write_blocked, worst of {count}"), worst(&blocked), "ms")
        .at_most("failed transactions", log.failed, 0.0, "")
        .shown("longest transaction of a client during a run", worst(&longest), "ms"))
}

/// The tables of row 12 that hold the key of pgbench's accounts, of which its clients write two.
const HOLDERS: &str = "
    ALTER TABLE pgbench_history ADD id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        ADD FOREIGN KEY (aid) REFERENCES pgbench_accounts;
    CREATE TABLE cards (aid int PRIMARY KEY REFERENCES pgbench_accounts);
    INSERT INTO cards SELECT n FROM generate_series(1, 100000) n;
    CREATE TABLE letters (id int PRIMARY KEY, aid int REFERENCES cards);
    INSERT INTO letters SELECT n, n FROM generate_series(1, 100000) n;
    CREATE TABLE visits (id int PRIMARY KEY, aid int REFERENCES pgbench_accounts);
    INSERT INTO visits SELECT n, n FROM generate_series(1, 100000) n;";

/// Row 12.
pub fn together(lab: &mut Lab) -> Result<Outcome> {
    let template = lab.pgbench_template(10)?;
    lab.fresh(&template)?;
    lab.sql(DATABASE)?.run(HOLDERS)?;
    lab.settle()?;
    let load = Load::start(lab, &["-N", "-M", "prepared"])?;
    sleep(lab.span(10.0));
    let count = usize::from(lab.cutovers).div_ceil(2);
    let widened = |number: usize| {
        let kind = if number.is_multiple_of(2) { "bigint" } else { "int" };
        let done = Migration::begin(lab, &["widen", "pgbench_accounts.aid", kind], &["--no-verify"])?.done()?;
        done.finish(lab)?;
        Ok(done)
    };
    let swaps = (0..count).map(widened).collect::<Result<Vec<Done>>>();
    Ok(pauses(12, &swaps?, &load.stop()?, 80.0))
}

/// Row 15: a column moves to a new table, and is there again for the next time.
pub fn apart(lab: &mut Lab) -> Result<Outcome> {
    let template = lab.pgbench_template(10)?;
    lab.fresh(&template)?;
    lab.settle()?;
    let load = Load::start(lab, &["-N", "-M", "prepared"])?;
    sleep(lab.span(10.0));
    let count = usize::from(lab.cutovers).div_ceil(2);
    let split = |_| {
        let command = ["split", TABLE, "--into", "fillers(aid, filler)", "--drop", "filler"];
        let done = Migration::begin(lab, &command, &["--no-verify"])?.done()?;
        done.finish(lab)?;
        lab.sql(DATABASE)?.run(&format!("DROP TABLE fillers; ALTER TABLE {TABLE} ADD filler char(84) DEFAULT ''"))?;
        Ok(done)
    };
    let swaps = (0..count).map(split).collect::<Result<Vec<Done>>>();
    Ok(pauses(15, &swaps?, &load.stop()?, 25.0))
}

/// How long writers waited in several swaps under one load.
fn pauses(row: u8, swaps: &[Done], log: &Log, mark: f64) -> Outcome {
    let blocked: Vec<f64> = swaps.iter().map(Done::blocked_ms).collect();
    let longest: Vec<f64> = swaps.iter().map(|done| log.longest_ms(done.begun_at, done.ended_at)).collect();
    let facts: Vec<Value> = swaps.iter().map(Done::facts).collect();
    Outcome::new(row, json!({ "swaps": facts, "longest_ms": longest }))
        .at_most("write_blocked, median", median(&blocked), mark, "ms")
        .shown(format!("write_blocked, worst of {}", swaps.len()), worst(&blocked), "ms")
        .at_most("failed transactions", log.failed, 0.0, "")
        .shown("longest transaction of a client during a run", worst(&longest), "ms")
}

fn swap(lab: &Lab, number: usize) -> Result<Swap> {
    let kind = if number.is_multiple_of(2) { "bigint" } else { "int" };
    let before = window(lab);
    let done = Migration::run(lab, TABLE, &format!("ALTER COLUMN aid TYPE {kind}"), &["--no-verify"])?;
    sleep(ASIDE);
    let after = window(lab);
    done.finish(lab)?;
    Ok(Swap { before, done, after })
}

/// A time in which only the load runs.
fn window(lab: &Lab) -> (SystemTime, SystemTime) {
    let from = SystemTime::now();
    sleep(lab.span(10.0));
    (from, SystemTime::now())
}

/// A cut-over with something in its way.
struct Obstructed {
    done: Done,
    /// From the moment at which nothing was in the way any more that may be.
    late: Duration,
    longest_ms: f64,
    failed: f64,
    facts: Value,
}

/// Row 6.
pub fn with_reader(lab: &mut Lab) -> Result<Outcome> {
    let template = lab.pgbench_template(10)?;
    let runs = repeated(lab, || obstructed(lab, &template, past_reader))?;
    Ok(held_against(Outcome::new(6, facts_of(&runs)), &runs, "", "the reader's end", 3.0))
}

/// Row 7.
pub fn with_autovacuum(lab: &mut Lab) -> Result<Outcome> {
    let template = slowly_vacuumed(lab)?;
    let running = repeated(lab, || obstructed(lab, &template, past_running_autovacuum))?;
    let starting = repeated(lab, || obstructed(lab, &template, past_starting_autovacuum))?;
    let outcome = Outcome::new(7, json!({ "running": facts_of(&running), "starting": facts_of(&starting) }));
    let outcome = held_against(outcome, &running, "running: ", "the release", 5.0);
    Ok(held_against(outcome, &starting, "starting between attempts: ", "the reader's end", 5.0))
}

/// pgbench's tables, with an autovacuum that is due at once and takes minutes.
fn slowly_vacuumed(lab: &mut Lab) -> Result<String> {
    let plain = lab.pgbench_template(10)?;
    let name = format!("{plain}_vacuumed");
    lab.template(&name, |lab| {
        let sql = lab.sql("postgres")?;
        sql.run(&format!("DROP DATABASE {name}"))?;
        sql.run(&format!("CREATE DATABASE {name} TEMPLATE {plain}"))?;
        lab.sql(&name)?.run(&format!(
            "ALTER TABLE {TABLE} SET (autovacuum_vacuum_threshold = 1, autovacuum_vacuum_scale_factor = 0, \
             autovacuum_vacuum_cost_delay = 20, autovacuum_vacuum_cost_limit = 10)"
        ))
    })?;
    Ok(name)
}

fn repeated(lab: &Lab, mut run: impl FnMut() -> Result<Obstructed>) -> Result<Vec<Obstructed>> {
    (0..lab.runs).map(|_| run()).collect()
}

fn facts_of(runs: &[Obstructed]) -> Value {
    runs.iter().map(|run| run.facts.clone()).collect()
}

/// The worst of all runs counts: a pause is not made good by a shorter one.
fn held_against(outcome: Outcome, runs: &[Obstructed], what: &str, since: &str, seconds: f64) -> Outcome {
    let worst_of = |figure: fn(&Obstructed) -> f64| worst(&runs.iter().map(figure).collect::<Vec<_>>());
    outcome
        .at_most(
            format!("{what}longest transaction of a client"),
            worst_of(|run| run.longest_ms),
            LONGEST_WAIT_MS,
            "ms",
        )
        .at_most(format!("{what}done after {since}"), worst_of(|run| run.late.as_secs_f64()), seconds, "s")
        .at_most(format!("{what}failed transactions"), runs.iter().map(|run| run.failed).sum(), 0.0, "")
        .shown(format!("{what}write_blocked, worst"), worst_of(|run| run.done.blocked_ms()), "ms")
}

/// When nothing that may be in the way was there any more, and what is worth keeping.
type Way = (SystemTime, Value);

/// Brings a run under load to the point where it waits for its release; `meet` releases it and puts something in its way.
fn obstructed(lab: &Lab, template: &str, meet: impl FnOnce(&Lab, &mut Migration) -> Result<Way>) -> Result<Obstructed> {
    lab.autovacuum(None)?;
    lab.fresh(template)?;
    lab.settle()?;
    let load = Load::start(lab, &["-N"])?;
    sleep(lab.span(5.0));
    let mut migration =
        Migration::start(lab, TABLE, "ALTER COLUMN aid TYPE bigint", &["--no-verify", "--postpone-cutover"])?;
    migration.postponed()?;
    let released = SystemTime::now();
    let (free, met) = meet(lab, &mut migration)?;
    let done = migration.done()?;
    sleep(ASIDE);
    let log = load.stop()?;
    lab.autovacuum(None)?;
    let late = done.ended_at.duration_since(free).map_err(|_| "it was done while something was still in its way")?;
    let longest_ms = log.longest_ms(released, done.ended_at);
    let facts = json!({
        "run": done.facts(), "met": met, "done_after": late.as_secs_f64(), "longest_ms": longest_ms,
        "longest_before_release_ms": log.longest_ms(done.begun_at, released), "failed": log.failed,
    });
    done.finish(lab)?;
    Ok(Obstructed { done, late, longest_ms, failed: log.failed, facts })
}

/// A transaction that has read the table and does not end for 20 s.
fn past_reader(lab: &Lab, migration: &mut Migration) -> Result<Way> {
    let seconds = lab.span(20.0).as_secs_f64();
    let reader = reading(lab)?;
    std::thread::scope(|scope| {
        let sleeper = scope.spawn(|| {
            reader.run(&format!("SELECT pg_sleep({seconds})")).map_err(|error| error.to_string())?;
            let ended = SystemTime::now();
            reader.run("COMMIT").map_err(|error| error.to_string())?;
            Ok::<_, String>(ended)
        });
        migration.release()?;
        let ended = sleeper.join().map_err(|_| "the reader broke down")??;
        Ok((ended, json!({ "reader_seconds": seconds })))
    })
}

/// An open transaction that has read the table.
fn reading(lab: &Lab) -> Result<Sql<'_>> {
    let reader = lab.sql(DATABASE)?;
    reader.run("BEGIN")?;
    reader.text(&format!("SELECT abalance FROM {TABLE} LIMIT 1"))?;
    Ok(reader)
}

/// An autovacuum of the table that is at work when the cut-over is released.
fn past_running_autovacuum(lab: &Lab, migration: &mut Migration) -> Result<Way> {
    let watch = Watch::of(lab)?;
    lab.autovacuum(Some("1s"))?;
    watch.until_at_work()?;
    let released = SystemTime::now();
    migration.release()?;
    watch.met_until(released, migration)
}

/// One that begins between two attempts, of which a reader has seen to it that there are several.
fn past_starting_autovacuum(lab: &Lab, migration: &mut Migration) -> Result<Way> {
    let watch = Watch::of(lab)?;
    let reader = reading(lab)?;
    migration.release()?;
    migration.wait_for(&["cutover_attempt"])?;
    lab.autovacuum(Some("1s"))?;
    watch.until_at_work()?;
    reader.run("COMMIT")?;
    watch.met_until(SystemTime::now(), migration)
}

/// Looks at the autovacuum of the source, by its oid, which the swap does not change.
struct Watch<'a> {
    sql: Sql<'a>,
    query: String,
}

impl<'a> Watch<'a> {
    fn of(lab: &'a Lab) -> Result<Self> {
        let sql = lab.sql(DATABASE)?;
        let oid = sql.text(&format!("SELECT '{TABLE}'::regclass::oid"))?;
        let query = format!("SELECT pid || ': ' || phase FROM pg_stat_progress_vacuum WHERE relid = {oid}");
        Ok(Watch { sql, query })
    }

    fn until_at_work(&self) -> Result<()> {
        wait_for("an autovacuum of the table", Duration::from_secs(60), || self.sql.maybe(&self.query))?;
        Ok(())
    }

    /// Follows it until the migration is done; an error where it was not at work when the way was free.
    fn met_until(&self, free: SystemTime, migration: &mut Migration) -> Result<Way> {
        let begun = Instant::now();
        let (mut seen, mut last) = (Vec::new(), None);
        while migration.is_running()? {
            if let Some(now) = self.sql.maybe(&self.query)? {
                last = Some(begun.elapsed().as_secs_f64());
                if seen.last() != Some(&now) {
                    seen.push(now);
                }
            }
            sleep(Duration::from_millis(5));
        }
        let last = last.ok_or("the autovacuum was gone before the cut-over")?;
        Ok((free, json!({ "autovacuum": seen, "seen_for_seconds": last })))
    }
}
