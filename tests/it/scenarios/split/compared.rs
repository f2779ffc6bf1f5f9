//! While the window is open, the old table is compared with what the new ones say together.

use super::back::WINDOW;
use super::*;
use crate::harness::migration::phase_of;

/// A table, how it is taken apart, and what somebody does to the old table behind the back of whoever keeps it in step: each
/// with the words by which it is found.
struct Case {
    setup: &'static str,
    split: &'static [&'static str],
    /// What the application does in the new shape before: no difference is to be seen after it.
    meanwhile: &'static str,
    /// Columns that are said to be left out.
    left_out: &'static str,
    planted: &'static [(&'static str, &'static str)],
}

const CASES: &[Case] = &[
    // A default that is another one each time; a value that comes back otherwise than it was; an expression nobody keeps up.
    Case {
        setup: "CREATE TABLE t (id int PRIMARY KEY, d int, body text, made uuid DEFAULT gen_random_uuid(), cents numeric NOT NULL);
                INSERT INTO t SELECT i, i, 'b' || i, gen_random_uuid(), i + 0.005 FROM generate_series(1, 500) i",
        split: &[
            "--into",
            "n(body, made, size = length(body))",
            "--into",
            "price(amount = round(cents, 2))",
            "--drop",
            "body,made,cents",
            "--reverse",
            "cents = amount",
        ],
        meanwhile: "INSERT INTO t VALUES (1001, 1); INSERT INTO price VALUES (1001, 5); UPDATE n SET body = 'longer than it was' WHERE id = 3; \
                    UPDATE t SET d = 0 WHERE id = 4; DELETE FROM n WHERE id = 5",
        left_out: "cents of public.t_old",
        planted: &[
            ("UPDATE t_old SET body = 'x' WHERE id = 7", "id = 7 differs in body"),
            ("DELETE FROM t_old WHERE id = 8", "id = 8 is missing in public.t_old"),
            ("INSERT INTO t_old SELECT 2000, d, body, made, cents FROM t_old WHERE id = 9", "id = 2000 is in public.t_old only"),
            ("UPDATE t_old SET d = 1 WHERE id = 500", "id = 500 differs in d"),
        ],
    },
    Case {
        setup: "CREATE TABLE t (id int, region text, d int, tags text[], lines jsonb, PRIMARY KEY (id, region));
                INSERT INTO t SELECT i, 'r ' || i % 3, i, CASE i % 4 WHEN 0 THEN NULL WHEN 1 THEN '{}' WHEN 2 THEN '[0:1]={a,b}' \
                    ELSE '{{a,NULL},{c,d}}'::text[] END, jsonb_build_array(i, 'x') FROM generate_series(1, 500) i",
        split: &[
            "--into",
            "tag(tag = unnest(tags), at = generate_series(1, cardinality(tags)))",
            "--into",
            "line(at = generate_series(1, jsonb_array_length(lines)), line = jsonb_array_elements(lines))",
            "--drop",
            "tags,lines",
        ],
        meanwhile: "DELETE FROM tag WHERE id = 6; INSERT INTO tag VALUES (8, 'r 2', 'new', 1); UPDATE line SET line = '\"y\"' WHERE id = 9 AND at = 2",
        left_out: "",
        planted: &[
            ("UPDATE t_old SET tags = tags || 'more'::text WHERE id = 2", "id = 2, region = r 2 differs in tags"),
            ("UPDATE t_old SET lines = '[]' WHERE id = 3", "id = 3, region = r 0 differs in lines"),
        ],
    },
    Case {
        setup: "CREATE TABLE t (id int PRIMARY KEY, d int, kind text); INSERT INTO t SELECT i, i, 'k' || i % 5 FROM generate_series(1, 500) i",
        split: &["--into", "few WHERE d < 100", "--into", "many WHERE d > 400", "--lookup", "kind_id = kinds(kind)"],
        meanwhile: "UPDATE kinds SET kind = 'other' WHERE kind = 'k1'; WITH gone AS (DELETE FROM few WHERE id = 4 RETURNING *) \
                    INSERT INTO many SELECT id, 500, kind FROM gone; UPDATE t SET kind_id = NULL WHERE id = 200",
        left_out: "",
        planted: &[
            ("UPDATE t_old SET kind = 'k1' WHERE id = 201", "id = 201 differs in kind"),
            ("DELETE FROM t_old WHERE id = 3", "id = 3 is missing in public.t_old"),
            ("UPDATE t_old SET d = 0 WHERE id = 450", "id = 450 differs in d"),
        ],
    },
];

#[test]
fn what_differs_from_the_new_tables_is_found() {
    for case in CASES {
        let db = Db::new();
        db.sql(case.setup);
        let running = split(&db, &[case.split], WINDOW);
        running.wait_for_window();
        let id = only_migration(&db);
        db.sql(case.meanwhile);
        let compared = command(&db, &["verify", &id]).wait();
        compared.ended(0);
        if !case.left_out.is_empty() {
            running.wait_for_event("what is left out", SOON, |e| {
                e["text"].as_str().is_some_and(|text| text.contains(case.left_out))
            });
        }
        for (sql, _) in case.planted {
            db.sql(sql);
        }
        let found = command(&db, &["verify", &id]).wait();
        found.ended(4);
        let count = format!("differ in {} rows", case.planted.len());
        for words in case.planted.iter().map(|(_, words)| *words).chain([count.as_str(), "public.t and public.t_old"]) {
            assert!(found.stderr.contains(words), "no {words:?} in {}", found.stderr);
        }
        running.wait().ended(4);
        assert_eq!(phase_of(&db), "no way back");
        command(&db, &["rollback", &id]).wait().ended(4);
        finish(&db);
        assert_nothing_left(&db);
    }
}
