//! Queries of plans as `split` makes them.

use serde_json::json;

use super::*;
use crate::error::Exit;
use crate::plan::lookups::Lookup;
use crate::plan::parts::Reference;
use crate::plan::types::{Key, Writing};

fn column(name: &str, type_sql: &str, not_null: bool) -> Column {
    serde_json::from_value(json!({
        "number": 1, "name": name, "inherited": false, "type_sql": type_sql, "base_type_sql": type_sql, "type_oid": 0,
        "collation": null, "not_null": not_null, "not_null_name": null, "not_null_no_inherit": false,
        "not_null_own": true, "not_null_comment": null, "default": null, "origin": "Plain", "storage": null,
        "compression": null, "statistics": null, "options": [], "comment": null, "sequence": null
    }))
    .expect("a column")
}

fn table(name: &str, columns: Vec<Column>) -> Shape {
    let kin = serde_json::to_value(crate::plan::kin::Kin::default()).expect("no kin");
    let mut shape: Shape = serde_json::from_value(json!({
        "oid": 1, "name": {"schema": "s", "name": name}, "owner": "o", "access_method": "heap", "tablespace": null,
        "options": [], "columns": [], "checks": [], "indexes": [], "replica_identity": "d", "comment": null, "kin": kin
    }))
    .expect("a table");
    shape.columns = columns;
    shape
}

fn key(target: &str, writing: Writing) -> Key {
    let column = KeyColumn {
        source: "id".to_owned(),
        source_type: "integer".to_owned(),
        source_equal: "=".to_owned(),
        target: target.to_owned(),
        target_equal: "=".to_owned(),
        expression: "\"id\"".to_owned(),
        canonical: true,
    };
    Key { columns: vec![column], writing, together: Vec::new(), needs_helper_index: false }
}

fn copied(name: &str, source: &str) -> TargetColumn {
    TargetColumn { name: name.to_owned(), source: Some(source.to_owned()), value: Value::Copied }
}

fn converted(name: &str, expression: &str) -> TargetColumn {
    TargetColumn { name: name.to_owned(), source: None, value: Value::Converted { expression: expression.to_owned() } }
}

fn part(name: &str, columns: Vec<TargetColumn>, writing: Writing) -> Part {
    Part {
        target: table(name, Vec::new()),
        columns,
        key: key("t_id", writing),
        rows: None,
        takes_rows: false,
        foreign_key: None,
    }
}

/// `s.t(id integer, body text, tags text[])`, of which `id` and what else is said remains.
fn plan(kept: &[&str], parts: Vec<Part>) -> Plan {
    let columns = vec![column("id", "integer", true), column("body", "text", true), column("tags", "text[]", false)];
    let remains = columns.iter().filter(|c| kept.contains(&c.name.as_str())).cloned().collect();
    let values = kept.iter().map(|name| copied(name, name)).collect();
    let (source, target) = (table("t", columns), table("t", remains));
    Plan { parts, ..Plan::plain(source, target, values, key("id", Writing::OnKey)) }
}

fn read(plan: &Plan) -> String {
    Former::of(plan, &[]).expect("a way to read").select()
}

#[test]
fn columns_come_from_the_table_that_has_them() {
    let notes = part("t", vec![copied("t_id", "id"), copied("Note", "body"), copied("x", "tags")], Writing::OnKey);
    let plan = plan(&["id", "tags"], vec![notes]);
    let former = Former::of(&plan, &[]).expect("a way to read");
    let with = "WITH \"t1\" AS NOT MATERIALIZED (SELECT \"t_id\", \"Note\" FROM \"s\".\"t\")\n";
    let from = "FROM \"s\".\"t\" AS \"t\"\n LEFT JOIN \"t1\" ON \"t1\".\"t_id\" = \"t\".\"id\"";
    let select = "SELECT \"t\".\"id\" AS \"id\",\n    \"t1\".\"Note\" AS \"body\",\n    \"t\".\"tags\" AS \"tags\"\n ";
    assert_eq!(former.select(), format!("{with}{select}{from}"));
    let one = former.select_where(|key| format!("{} = 7", key[0]));
    assert_eq!(one, format!("{with}{select}{from}\n WHERE \"t\".\"id\" = 7"));
}

#[test]
fn elements_are_collected_in_their_order() {
    let tag = vec![converted("tag", "unnest(t.tags)"), converted("at", "generate_subscripts(t.tags, 1)")];
    let read = read(&plan(&["id", "body"], vec![part("tag", tag, Writing::All)]));
    let array = "CAST(ARRAY(SELECT \"tag\".\"tag\" FROM \"s\".\"tag\" AS \"tag\" WHERE \"tag\".\"t_id\" = \"t\".\"id\" ORDER BY \"tag\".\"at\") AS text[])";
    assert!(read.contains(array) && !read.contains("JOIN"), "{read}");
}

#[test]
fn values_come_by_their_number() {
    let lookup = Lookup {
        target: table("kinds", Vec::new()),
        source: "body".to_owned(),
        value: "name".to_owned(),
        reference: "body_id".to_owned(),
        foreign_key: Reference { name: String::new(), definition: String::new() },
    };
    let read = read(&Plan { lookups: vec![lookup], ..plan(&["id", "tags"], Vec::new()) });
    assert!(read.contains("\"kinds\".\"name\" AS \"body\""), "{read}");
    assert!(read.ends_with("LEFT JOIN \"kinds\" ON \"kinds\".\"id\" = \"t\".\"body_id\""), "{read}");
}

#[test]
fn rows_are_those_of_all_tables() {
    let all = vec![copied("t_id", "id"), copied("body", "body"), copied("tags", "tags")];
    let rows = Some("(t.body = 'x'::text) IS TRUE".to_owned());
    let closed = Part { rows: rows.clone(), takes_rows: true, ..part("closed", all.clone(), Writing::OnKey) };
    let whole = Plan { rows, ..plan(&["id", "body", "tags"], vec![closed.clone()]) };
    let former = Former::of(&whole, &[]).expect("a way to read");
    let some = former.select_where(|key| format!("{} IN (1)", key[0]));
    let halves: Vec<&str> = some.split("\nUNION ALL\n").collect();
    assert_eq!(halves.len(), 2, "{some}");
    assert!(halves[0].ends_with("WHERE \"t\".\"id\" IN (1)"), "{some}");
    assert!(halves[1].ends_with("WHERE \"closed\".\"t_id\" IN (1)"), "{some}");
    let lacks = Part { columns: all[..2].to_vec(), ..closed };
    let failure = Former::of(&Plan { parts: vec![lacks], ..whole }, &[]).expect_err("a column that is nowhere");
    assert_eq!(failure.primary, "column tags cannot be given back: rows leave for s.closed without it");
}

#[test]
fn what_cannot_be_given_back_is_named_unless_it_is_said_how() {
    let unordered = part("tag", vec![converted("tag", "unnest(t.tags)")], Writing::All);
    let upper = part("notes", vec![converted("big", "upper(t.body)")], Writing::OnKey);
    let some = part("notes", vec![copied("body", "body")], Writing::OnKey);
    let some = Part { rows: Some("(t.id > 3) IS TRUE".to_owned()), ..some };
    for (plan, column, why) in [
        (plan(&["id", "body"], vec![unordered]), "tags", "in which order"),
        (plan(&["id", "tags"], vec![upper]), "body", "what an expression makes of it"),
        (plan(&["id", "tags"], vec![some]), "body", "only some rows"),
        (plan(&["id", "tags"], Vec::new()), "body", "no new table has it"),
    ] {
        let failure = Former::of(&plan, &[]).expect_err("a column that is lost");
        assert_eq!(failure.exit, Exit::Refused);
        assert!(failure.primary.starts_with(&format!("column {column} cannot be given back")), "{failure}");
        assert!(failure.primary.contains(why), "{failure}");
        let given = [(column.to_owned(), "NULL".to_owned())];
        let read = Former::of(&plan, &given).expect("it is said how").select();
        assert!(read.contains("CAST((NULL\n) AS "), "{read}");
        let unknown = [("x".to_owned(), "1".to_owned())];
        assert_eq!(Former::of(&plan, &unknown).expect_err("no such column").exit, Exit::Usage);
    }
}
