//! What is refused, by name, and with nothing touched; what is shown and changes nothing.

use super::super::each;
use crate::harness::{Db, assert_nothing_left, dump, pgrecast};

const BASE: &str = "CREATE TABLE t (id int PRIMARY KEY, d int NOT NULL, at timestamptz, v text, tags text[]);";
const V: &[&str] = &["--into", "n(v)", "--drop", "v"];
const WINDOW: &[&str] = &["--rollback-window", "1m"];
const D: &[&str] = &["--into", "n WHERE d = 1"];

#[test]
fn what_cannot_be_done_is_refused_by_name() {
    let cases: &[(&str, &[&str], i32, &[&str])] = &[
        ("CREATE INDEX by_v ON t (d, v)", V, 3, &["by_v", "a column that leaves", "--drop-constraint by_v"]),
        ("ALTER TABLE t ADD CONSTRAINT long CHECK (v > d::text)", V, 3, &["long", "--drop-constraint long"]),
        (
            "CREATE TABLE o (x text PRIMARY KEY); ALTER TABLE t ADD CONSTRAINT to_o FOREIGN KEY (v) REFERENCES o",
            V,
            3,
            &["foreign key to_o", "--drop-constraint to_o"],
        ),
        ("CREATE VIEW w AS SELECT v FROM t", V, 3, &["view public.w", "column v"]),
        ("ALTER TABLE t ADD g text GENERATED ALWAYS AS (v || 'x') STORED", V, 3, &["column v", "depend"]),
        (
            "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'; CREATE TRIGGER g AFTER UPDATE OF v ON t FOR EACH ROW EXECUTE FUNCTION f()",
            V,
            3,
            &["trigger g", "column v"],
        ),
        (
            "CREATE TABLE c (t_id int CONSTRAINT to_t REFERENCES t)",
            D,
            3,
            &["foreign key to_t of public.c", "may leave", "--drop-constraint to_t"],
        ),
        ("ALTER TABLE t ADD up int CONSTRAINT up REFERENCES t", D, 3, &["foreign key up", "may leave"]),
        ("ALTER TABLE t ENABLE ROW LEVEL SECURITY", D, 3, &["row level security"]),
        ("CREATE TABLE n ()", V, 3, &["the name public.n is taken"]),
        ("CREATE VIEW w AS SELECT 1", &[V, &["--compat-view", "w"]].concat(), 3, &["the name public.w is taken"]),
        ("", &[V, &["--compat-view", "n"]].concat(), 3, &["the name public.n is taken"]),
        (
            "",
            &["--into", "n(w = upper(v))", "--drop", "v", "--compat-view", "w"],
            3,
            &["column v cannot be given back", "what an expression makes of it"],
        ),
        (
            "",
            &["--into", "n(v) WHERE d = 1", "--compat-view", "w"],
            3,
            &["column d cannot be given back", "rows leave for public.n without it"],
        ),
        (
            "",
            &["--into", "n(w = unnest(tags))", "--drop", "tags", "--compat-view", "w"],
            3,
            &["column tags cannot be given back", "in which order"],
        ),
        (
            "",
            &["--into", "n(w = v || 'x')", "--drop", "v", "--compat-view", "w", "--reverse", "v = now()::text"],
            3,
            &["depends on session settings", "--reverse of column v"],
        ),
        (
            "",
            &["--into", "n(w = v || 'x')", "--drop", "v", "--compat-view", "w", "--reverse", "v = x"],
            3,
            &["PostgreSQL refuses the --reverse of column v", "\"x\" does not exist"],
        ),
        ("DROP EXTENSION plpgsql", &[V, &["--compat-view", "w"]].concat(), 3, &["plpgsql", "--compat-view"]),
        ("", &[V, &["--reverse", "v = d"]].concat(), 2, &["--reverse is for --compat-view"]),
        (
            "ALTER TABLE t ADD no serial",
            &["--into", "n(no)", "--drop", "no", "--compat-view", "w"],
            3,
            &["column no leaves the table", "a sequence"],
        ),
        ("", &["--into", "nix.n(v)", "--drop", "v"], 3, &["no schema nix"]),
        ("", &["--into", "n(v)", "--drop", "v,w"], 3, &["column \"w\"", "does not exist"]),
        ("", &["--into", "n(w)", "--drop", "v"], 3, &["\"w\" does not exist in public.t"]),
        ("", &["--into", "n(w = x + 1)", "--drop", "v"], 3, &["PostgreSQL refuses the expression", "x + 1"]),
        ("", &["--into", "n(w = (SELECT 1))", "--drop", "v"], 3, &["a subquery"]),
        ("", &["--into", "n(w = max(v))", "--drop", "v"], 3, &["aggregate"]),
        ("", &["--into", "n(w = at::text)", "--drop", "v"], 3, &["depends on session settings", "--setting"]),
        ("", &["--into", "n(w = unnest(tags) || random()::text)", "--drop", "v"], 3, &["\"w\" is volatile"]),
        ("", &["--into", "n WHERE at < now()"], 3, &["does not follow from the row alone"]),
        ("", &["--into", "n WHERE ctid = '(0,1)'"], 3, &["a system column"]),
        ("", &["--into", "n(w = unnest(tags)) WHERE d = 1"], 3, &["rows leave", "any number of rows"]),
        (
            "DROP TABLE t; CREATE TABLE t (id int PRIMARY KEY, v text) PARTITION BY HASH (id)",
            V,
            3,
            &["partitioned", "cannot be taken apart"],
        ),
        (
            "",
            &["--into", "n(v)", "--drop", "v", "--drop-constraint", "t_pkey"],
            2,
            &["t_pkey", "no column of it leaves"],
        ),
        ("ALTER TABLE t ADD n numeric", &["--lookup", "x = y(n)"], 3, &["equal values of column n"]),
        (
            "CREATE TABLE o (v_id int PRIMARY KEY); ALTER TABLE t ADD o int CONSTRAINT t_v_id_fkey REFERENCES o",
            &["--lookup", "v_id = y(v)"],
            3,
            &["t_v_id_fkey"],
        ),
        ("", &["--lookup", "v_id = y(upper(v))"], 2, &["--lookup"]),
        ("", &["--into", "n(v)"], 2, &["nothing would leave"]),
        ("", &["--into", "n(v", "--drop", "v"], 2, &["parenthesis"]),
        // No way back, by name.
        (
            "",
            &[&["--into", "n(w = upper(v))", "--drop", "v"], WINDOW].concat(),
            3,
            &["no way back", "column v", "another form"],
        ),
        (
            "",
            &[&["--into", "n(v) WHERE d = 1", "--drop", "v"], WINDOW].concat(),
            3,
            &["no way back", "column v", "in part"],
        ),
        ("", &[&["--into", "n(d) WHERE d = 1"], WINDOW].concat(), 3, &["no way back", "no copy of column at"]),
        ("", &[&["--into", "n(w = unnest(tags))", "--drop", "tags"], WINDOW].concat(), 3, &["column tags", "place ="]),
        (
            "",
            &[&["--into", "n(v)", "--drop", "v,d"], WINDOW].concat(),
            3,
            &["no way back", "no new table has column d"],
        ),
        (
            "ALTER TABLE t ADD own int GENERATED ALWAYS AS IDENTITY",
            &[&["--into", "n(own)", "--drop", "own"], WINDOW].concat(),
            3,
            &["no way back", "column own", "identity"],
        ),
        (
            "",
            &[&["--into", "n(w = v || '!')", "--drop", "v", "--reverse", "v = rtrim(x, '!')"], WINDOW].concat(),
            3,
            &["no way back", "--reverse of column v", "x"],
        ),
        (
            "ALTER TABLE t ADD UNIQUE (d) DEFERRABLE",
            &[V, WINDOW].concat(),
            3,
            &["no way back", "t_d_key", "deferrable"],
        ),
        ("", &[D, &["--foreign-key=no-action"]].concat(), 2, &["--foreign-key"]),
    ];
    each(
        cases,
        |c| format!("{} {:?}", c.0, c.1),
        |(setup, options, code, words)| {
            let db = Db::new();
            db.sql(&format!("{BASE}{setup}"));
            let output = pgrecast(&db, &[&["split", "t"], *options].concat());
            assert_eq!(output.code, Some(*code), "{}{}", output.stdout, output.stderr);
            for word in *words {
                assert!(output.stderr.contains(word), "no {word:?} in {}", output.stderr);
            }
            assert_nothing_left(&db);
        },
    );
}

#[test]
fn a_dry_run_shows_the_new_tables_and_changes_nothing() {
    let db = Db::new();
    db.sql(BASE);
    let before = dump(&db);
    let output = pgrecast(&db, &[&["split", "t"], V, &["--foreign-key=no-action", "--dry-run"]].concat());
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    for words in [
        "CREATE TABLE \"pgrecast\".\"shadow_0_part_0\"",
        "INSERT INTO \"pgrecast\".\"shadow_0_part_0\" (\"id\", \"v\")",
        "ANALYZE \"pgrecast\".\"shadow_0_part_0\"",
        "RENAME TO \"n\"",
        "ADD CONSTRAINT \"n_id_fkey\" FOREIGN KEY (\"id\") REFERENCES \"public\".\"t\" (\"id\") NOT VALID",
        "VALIDATE CONSTRAINT \"n_id_fkey\"",
    ] {
        assert!(output.stdout.contains(words), "no {words:?} in {}", output.stdout);
    }
    assert_eq!(dump(&db), before);
    assert_nothing_left(&db);
}
