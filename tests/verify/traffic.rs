//! A follower that lags behind its source gives no false alarm, and hides nothing.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pgrecast::error::Failure;
use pgrecast::stream::Key;
use pgrecast::verify::{InStep, Kind};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::Mutex;

use super::pair::Pair;

/// How far the follower is behind.
const LAG: Duration = Duration::from_millis(30);

/// Ids that the traffic leaves alone.
const QUIET: i32 = 100;

const IDS: i32 = 20_000;

#[derive(Default)]
struct Follower {
    state: Mutex<State>,
    over: AtomicBool,
}

#[derive(Default)]
struct State {
    queue: VecDeque<i32>,
    committed: u64,
    flushed: u64,
    watched: HashSet<Key>,
    touched: HashSet<Key>,
}

fn key(id: i32) -> Key {
    Key::new([id.to_string().as_str()]).expect("a key")
}

impl InStep for Follower {
    async fn watch(&self, keys: Vec<Key>) -> Result<(), Failure> {
        let mut state = self.state.lock().await;
        state.watched = keys.into_iter().collect();
        state.touched.clear();
        Ok(())
    }

    async fn settle(&self) -> Result<(), Failure> {
        let committed = self.state.lock().await.committed;
        while self.state.lock().await.flushed < committed {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }

    async fn touched(&self) -> Result<HashSet<Key>, Failure> {
        Ok(self.state.lock().await.touched.clone())
    }
}

/// Changes, deletes, inserts and moves rows of the source; a barrier sees a commit as soon as anybody does.
async fn write(pair: &Pair, follower: &Follower, seed: u64) -> u64 {
    let sql = pair.connect().await;
    let mut random = SmallRng::seed_from_u64(seed);
    let mut writes = 0;
    while !follower.over.load(Ordering::Relaxed) {
        let (id, other) = (random.random_range(QUIET + 1..IDS), random.random_range(QUIET + 1..IDS));
        let width = random.random_range(1..300);
        let statement = match random.random_range(0..6) {
            0 => format!("DELETE FROM t WHERE id = {id}"),
            1 => {
                format!("UPDATE t SET id = {other} WHERE id = {id} AND NOT EXISTS (SELECT 1 FROM t WHERE id = {other})")
            }
            _ => format!(
                "INSERT INTO t VALUES ({id}, repeat('x', {width}), now())
                 ON CONFLICT (id) DO UPDATE SET note = EXCLUDED.note, at = EXCLUDED.at"
            ),
        };
        let mut state = follower.state.lock().await;
        sql.batch_execute(&statement).await.expect("a change");
        for id in [id, other] {
            state.queue.push_back(id);
            state.committed += 1;
            if state.watched.contains(&key(id)) {
                state.touched.insert(key(id));
            }
        }
        drop(state);
        writes += 1;
        tokio::task::yield_now().await;
    }
    writes
}

/// Brings the keys of the queue up to date, as a flush does.
async fn follow(pair: &Pair, follower: &Follower) {
    let sql = pair.connect().await;
    loop {
        tokio::time::sleep(LAG).await;
        let ids: Vec<i32> = follower.state.lock().await.queue.drain(..).collect();
        let count = ids.len() as u64;
        if count == 0 && follower.over.load(Ordering::Relaxed) {
            return;
        }
        let list = ids.iter().map(i32::to_string).collect::<Vec<_>>().join(", ");
        if count > 0 {
            sql.batch_execute(&format!(
                "BEGIN ISOLATION LEVEL REPEATABLE READ; DELETE FROM {0} WHERE id IN ({list}); INSERT INTO {0} {1}; COMMIT",
                pair.shadow,
                pair.projection(&format!("id IN ({list})")),
            ))
            .await
            .expect("a flush");
        }
        follower.state.lock().await.flushed += count;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lagging_follower_gives_no_false_alarm_and_hides_nothing() {
    let create = format!(
        "CREATE TABLE t (id int PRIMARY KEY, note text, at timestamptz);
         INSERT INTO t SELECT i, repeat('x', i % 200), now() FROM generate_series(1, {IDS}, 2) i;"
    );
    let pair = Arc::new(Pair::new("traffic", &create, "ALTER COLUMN id TYPE bigint").await);
    let follower = Arc::new(Follower::default());
    let writer = tokio::spawn({
        let (pair, follower) = (pair.clone(), follower.clone());
        async move { write(&pair, &follower, 7).await }
    });
    let flusher = tokio::spawn({
        let (pair, follower) = (pair.clone(), follower.clone());
        async move { follow(&pair, &follower).await }
    });
    let mut rechecked = 0;
    let mut comparisons = 0;
    // A busy machine may let nothing change while one comparison reads.
    while comparisons < 4 || rechecked == 0 {
        assert!(comparisons < 200, "nothing changed between the readings");
        let verdict = pair.verify_with(&*follower).await;
        assert_eq!(verdict.difference_count, 0, "{verdict:?}");
        rechecked += verdict.rechecked;
        comparisons += 1;
    }
    pair.plant("UPDATE shadow SET note = 'planted' WHERE id = 5; DELETE FROM shadow WHERE id = 7").await;
    pair.plant("INSERT INTO shadow VALUES (8, 'planted', now())").await;
    let verdict = pair.verify_with(&*follower).await;
    follower.over.store(true, Ordering::Relaxed);
    let writes = writer.await.expect("the writer");
    flusher.await.expect("the follower");
    let mut found: Vec<(Kind, String)> = verdict.differences.into_iter().map(|d| (d.kind, d.key)).collect();
    found.sort_by(|a, b| a.1.cmp(&b.1));
    let expected = [(Kind::Different, "id = 5"), (Kind::Missing, "id = 7"), (Kind::Extra, "id = 8")];
    assert_eq!(found, expected.map(|(kind, key)| (kind, key.to_owned())), "after {writes} writes");
}
