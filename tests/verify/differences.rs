//! What is planted is found, and named by its key.

use pgrecast::verify::statements::{Blocks, Buckets, Part, Side, Statements};
use pgrecast::verify::{Kind, Verdict};

use super::pair::Pair;
use super::{Restless, Still};

const ROWS: &str = "CREATE TABLE t (id int PRIMARY KEY, a int, b int, note text);
    INSERT INTO t SELECT i, i % 100, i % 50, 'note ' || i FROM generate_series(1, 30000) i;";

/// Kind, key and columns of what was found, in the order of the keys.
fn found(verdict: &Verdict) -> Vec<(Kind, &str, Vec<&str>)> {
    assert_eq!(verdict.difference_count, verdict.differences.len() as u64);
    let mut found: Vec<_> = verdict
        .differences
        .iter()
        .map(|d| (d.kind, d.key.as_str(), d.columns.iter().map(String::as_str).collect()))
        .collect();
    found.sort_by_key(|(_, key, _)| *key);
    found
}

#[tokio::test]
async fn rows_missing_extra_and_changed_are_found() {
    let pair = Pair::new("planted", ROWS, "ALTER COLUMN id TYPE bigint").await;
    pair.plant(
        "DELETE FROM shadow WHERE id = 11;
         INSERT INTO shadow VALUES (77777, 1, 1, 'x'), (9999999999, 1, 1, 'beyond the source''s type');
         UPDATE shadow SET note = NULL WHERE id = 12;
         -- two columns of a row change places
         UPDATE shadow SET a = b, b = a WHERE id = 60;
         -- two rows trade a value
         UPDATE shadow SET note = CASE id WHEN 21 THEN 'note 22' ELSE 'note 21' END WHERE id IN (21, 22);",
    )
    .await;
    assert_eq!(
        found(&pair.verify().await),
        [
            (Kind::Missing, "id = 11", vec![]),
            (Kind::Different, "id = 12", vec!["note"]),
            (Kind::Different, "id = 21", vec!["note"]),
            (Kind::Different, "id = 22", vec!["note"]),
            (Kind::Different, "id = 60", vec!["a", "b"]),
            (Kind::Extra, "id = 77777", vec![]),
            (Kind::Extra, "id = 9999999999", vec![]),
        ]
    );
}

#[tokio::test]
async fn rows_of_one_bucket_that_trade_a_value_are_found() {
    let pair = Pair::new("traded", ROWS, "ALTER COLUMN id TYPE bigint").await;
    // All rows at once: every pair of neighbours trades its notes, so that some of them share a bucket.
    pair.plant("UPDATE shadow SET note = 'note ' || CASE WHEN id % 2 = 1 THEN id + 1 ELSE id - 1 END WHERE id <= 2000")
        .await;
    let verdict = pair.verify().await;
    assert_eq!((verdict.difference_count, verdict.differences.len()), (2000, 100));
}

#[tokio::test]
async fn a_row_that_the_shadow_holds_twice_is_found() {
    let pair = Pair::new("twice", ROWS, "ALTER COLUMN id TYPE bigint").await;
    pair.plant("DROP INDEX shadow_key; INSERT INTO shadow SELECT * FROM shadow WHERE id = 5").await;
    assert_eq!(found(&pair.verify().await), [(Kind::Extra, "id = 5", vec![])]);
}

#[tokio::test]
async fn an_extra_row_is_found_where_no_source_key_makes_its_key() {
    let pair = Pair::new("shifted", ROWS, "ALTER COLUMN id TYPE bigint USING id + 100000").await;
    pair.plant(
        "INSERT INTO shadow VALUES (5, 1, 1, 'x');
         UPDATE shadow SET note = 'y' WHERE id = 100007;
         UPDATE shadow SET id = 200000 WHERE id = 100009;",
    )
    .await;
    assert_eq!(
        found(&pair.verify().await),
        [
            (Kind::Extra, "id = 200000", vec![]),
            (Kind::Extra, "id = 5", vec![]),
            (Kind::Different, "id = 7", vec!["note"]),
            (Kind::Missing, "id = 9", vec![]),
        ]
    );
}

#[tokio::test]
async fn a_key_that_several_spellings_make_is_looked_for_in_the_source() {
    let create = "CREATE TABLE t (id text PRIMARY KEY, note text);
        INSERT INTO t SELECT to_char(i, 'FM000000'), 'note ' || i FROM generate_series(1, 5000) i;";
    let pair = Pair::new("spelled", create, "ALTER COLUMN id TYPE int USING id::int").await;
    assert_eq!(found(&pair.verify().await), []);
    pair.plant("INSERT INTO shadow VALUES (77777, 'x'); DELETE FROM shadow WHERE id = 5").await;
    assert_eq!(
        found(&pair.verify().await),
        [(Kind::Missing, "id = 000005", vec![]), (Kind::Extra, "id = 77777", vec![])]
    );
}

#[tokio::test]
async fn a_key_of_many_columns_has_the_text_that_the_stream_gives_it() {
    let create =
        "CREATE TABLE \"t\" (region char(4), ip inet, flag boolean, \"Wert\" text, PRIMARY KEY (region, ip, flag));
        INSERT INTO t SELECT 'EU', '10.0.0.0'::inet + i, i % 2 = 0, 'x' FROM generate_series(1, 200) i;";
    let pair =
        Pair::new("many_columns", create, "ALTER COLUMN region TYPE text, ALTER COLUMN \"Wert\" TYPE varchar(9)").await;
    pair.plant("UPDATE shadow SET \"Wert\" = 'y' WHERE ip IN ('10.0.0.1', '10.0.0.2', '10.0.0.3')").await;
    pair.plant("INSERT INTO shadow VALUES ('US', '10.0.0.9', true, 'extra'), ('UK', '10.0.0.9', true, 'extra')").await;
    let stream = Restless::new(&[&["EU  ", "10.0.0.1", "f"], &["EU  ", "10.0.0.3", "f"], &["UK  ", "10.0.0.9", "t"]]);
    assert_eq!(
        found(&pair.verify_with(&stream).await),
        [
            (Kind::Different, "region = EU  , ip = 10.0.0.2, flag = t", vec!["Wert"]),
            (Kind::Extra, "region = US  , ip = 10.0.0.9, flag = t", vec![]),
        ]
    );
}

#[tokio::test]
async fn a_key_that_the_stream_keeps_bringing_is_no_difference() {
    let pair = Pair::new("restless", ROWS, "ALTER COLUMN id TYPE bigint").await;
    pair.plant("UPDATE shadow SET a = -1 WHERE id IN (3, 4); DELETE FROM shadow WHERE id IN (5, 6)").await;
    pair.plant("INSERT INTO shadow VALUES (70001, 1, 1, 'x'), (70002, 1, 1, 'x')").await;
    let verdict = pair.verify_with(&Restless::new(&[&["3"], &["5"], &["70001"]])).await;
    assert_eq!(
        found(&verdict),
        [
            (Kind::Different, "id = 4", vec!["a"]),
            (Kind::Missing, "id = 6", vec![]),
            (Kind::Extra, "id = 70002", vec![]),
        ]
    );
}

#[tokio::test]
async fn an_empty_table_and_a_full_one() {
    let pair =
        Pair::new("empty", "CREATE TABLE t (id int PRIMARY KEY, note text)", "ALTER COLUMN id TYPE bigint").await;
    assert_eq!(pair.verify_with(&Still).await, Verdict::default());
    pair.plant("INSERT INTO shadow VALUES (1, 'x')").await;
    assert_eq!(found(&pair.verify().await), [(Kind::Extra, "id = 1", vec![])]);
}

#[tokio::test]
async fn many_suspects_are_divided_again_and_taken_in_slices() {
    let create = "CREATE TABLE t (id int PRIMARY KEY, a int);
        INSERT INTO t SELECT i, 0 FROM generate_series(1, 1200000) i;";
    let pair = Pair::new("suspects", create, "ALTER COLUMN id TYPE bigint").await;
    pair.plant("UPDATE shadow SET a = 1 WHERE id <= 9900").await;
    let verdict = pair.verify().await;
    assert_eq!((verdict.rows_compared, verdict.difference_count), (1_200_000, 9_900));
}

#[tokio::test]
async fn blocks_are_read_by_their_place() {
    let pair = Pair::new("place", ROWS, "ALTER COLUMN id TYPE bigint").await;
    let statements = Statements::new(&pair.plan, &pair.shadow, std::slice::from_ref(&pair.shadow)).expect("statements");
    for side in [Side::Source, Side::Shadow] {
        for end in [Some(20), None] {
            let part = Part { side, table: 0, blocks: Blocks { first: 10, end } };
            let sql = statements.digest(part, Buckets { bits: 14, level: 0 });
            let plan = pair.sql.query(&format!("EXPLAIN (COSTS OFF) {sql}"), &[]).await.expect("a plan");
            let plan: Vec<String> = plan.iter().map(|row| row.get(0)).collect();
            let plan = plan.join("\n");
            assert!(plan.contains("Tid Range Scan") && plan.contains("HashAggregate"), "{plan}");
            assert!(!plan.contains("Sort"), "{plan}");
        }
    }
}
