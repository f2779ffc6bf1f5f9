//! A comparison waits for the throttle, and reads with several workers at once.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use pgrecast::throttle::{Held, throttle};
use pgrecast::verify::{self, Progress};
use tokio_postgres::Client;

use super::Still;
use super::pair::Pair;

const ROWS: &str = "CREATE TABLE t (id int PRIMARY KEY, v text);
    INSERT INTO t SELECT i, repeat('x', 200) FROM generate_series(1, 30000) i;";

/// Waits until so many sessions of the comparison answer to a condition.
async fn wait_for_workers(sql: &Client, condition: &str, number: i64) {
    let query = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgrecast verifier' AND datname = current_database() \
         AND {condition}"
    );
    let seen = async {
        while sql.query_one(&query, &[]).await.expect("a count").get::<_, i64>(0) != number {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), seen).await.expect("that many workers");
}

#[tokio::test]
async fn nothing_is_read_while_the_throttle_holds_and_two_workers_read_at_once() {
    let pair = Pair::new("held", ROWS, "ALTER COLUMN id TYPE bigint").await;
    let (gate, throttle) = throttle(0.0);
    gate.set(Held { signal: Some("a reason".to_owned()), ..Held::default() });
    let progress = Arc::new(Progress::default());
    let comparison = tokio::spawn(verify::run(pair.job(throttle), &Still, progress.clone()));
    // The tables have been measured, so all that is left is to read them.
    let measured = async {
        while progress.total_blocks.load(Ordering::Relaxed) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), measured).await.expect("the tables' sizes");
    wait_for_workers(&pair.sql, "true", 0).await;
    assert_eq!(progress.blocks.load(Ordering::Relaxed), 0);

    // Somebody has the table for himself: both workers are seen to wait for it.
    let other = pair.connect().await;
    other.batch_execute("BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE").await.expect("the lock");
    gate.set(Held::default());
    wait_for_workers(&pair.sql, "wait_event_type = 'Lock'", 2).await;
    other.batch_execute("ROLLBACK").await.expect("the end");
    let verdict = comparison.await.expect("no panic").expect("a verdict");
    assert_eq!((verdict.rows_compared, verdict.difference_count), (30_000, 0));
    assert!(progress.blocks.load(Ordering::Relaxed) > 0);
}
