use bytes::Bytes;

use super::*;
use crate::stream::fixtures::{relation, row};
use crate::stream::message::{Delete, Insert, ReplicaIdentity, Update};

const SOURCE: u32 = 16_384;

/// A reader of `key_columns` that knows the source as having these columns, flagged if in the identity.
fn reader(key_columns: &[&str], columns: &[(&str, bool)]) -> KeyReader {
    let mut reader = KeyReader::new([SOURCE], key_columns.iter().map(|&name| name.to_owned()).collect());
    assert_eq!(reader.describe(&relation(SOURCE, ReplicaIdentity::Default, columns)), Ok(true));
    reader
}

fn keys(reader: &KeyReader, message: Message) -> Result<Vec<Vec<String>>, KeyError> {
    let mut keys = Vec::new();
    reader.read(&message, &mut keys)?;
    Ok(keys.iter().map(|key| key.columns().map(str::to_owned).collect()).collect())
}

fn insert(new: Tuple) -> Message {
    Message::Insert(Insert { relation: SOURCE, new })
}

fn update(old: Option<OldRow>, new: Tuple) -> Message {
    Message::Update(Update { relation: SOURCE, old, new })
}

fn delete(old: OldRow) -> Message {
    Message::Delete(Delete { relation: SOURCE, old })
}

/// A row of texts in which `-` stands for NULL and `~` for an unchanged value.
fn sparse(values: &[&str]) -> Tuple {
    let mut tuple = row(values);
    for (value, text) in tuple.0.iter_mut().zip(values) {
        match *text {
            "-" => *value = Value::Null,
            "~" => *value = Value::UnchangedToast,
            _ => {}
        }
    }
    tuple
}

const PLAIN: &[(&str, bool)] = &[("note", false), ("id", true)];
const COMPOSITE: &[(&str, bool)] = &[("day", true), ("note", false), ("region", true)];

#[test]
fn each_change_names_its_key() {
    let reader = reader(&["id"], PLAIN);
    assert_eq!(keys(&reader, insert(row(&["x", "1"]))), Ok(vec![vec!["1".to_owned()]]));
    assert_eq!(keys(&reader, update(None, row(&["y", "1"]))), Ok(vec![vec!["1".to_owned()]]));
    assert_eq!(keys(&reader, delete(OldRow::Key(sparse(&["-", "1"])))), Ok(vec![vec!["1".to_owned()]]));
}

#[test]
fn a_key_change_names_both_keys() {
    let reader = reader(&["id"], PLAIN);
    let moved = update(Some(OldRow::Key(sparse(&["-", "1"]))), row(&["x", "2"]));
    assert_eq!(keys(&reader, moved), Ok(vec![vec!["1".to_owned()], vec!["2".to_owned()]]));
}

#[test]
fn a_full_old_row_with_the_same_key_names_it_once() {
    let reader = reader(&["id"], &[("note", true), ("id", true)]);
    let changed = update(Some(OldRow::Full(row(&["x", "1"]))), row(&["y", "1"]));
    assert_eq!(keys(&reader, changed), Ok(vec![vec!["1".to_owned()]]));
    assert_eq!(keys(&reader, delete(OldRow::Full(row(&["y", "1"])))), Ok(vec![vec!["1".to_owned()]]));
}

#[test]
fn a_composite_key_keeps_the_order_of_the_key() {
    let reader = reader(&["region", "day"], COMPOSITE);
    let both = Ok(vec![vec!["eu".to_owned(), "mon".to_owned()]]);
    assert_eq!(keys(&reader, insert(row(&["mon", "x", "eu"]))), both);
}

#[test]
fn an_unchanged_key_column_comes_from_the_old_row() {
    let reader = reader(&["day", "region"], COMPOSITE);
    let expected = Ok(vec![vec!["mon".to_owned(), "eu".to_owned()], vec!["tue".to_owned(), "eu".to_owned()]]);
    let new = sparse(&["tue", "~", "~"]);
    assert_eq!(keys(&reader, update(Some(OldRow::Key(sparse(&["mon", "-", "eu"]))), new.clone())), expected);
    assert_eq!(keys(&reader, update(Some(OldRow::Full(row(&["mon", "x", "eu"]))), new.clone())), expected);
    assert_eq!(keys(&reader, update(None, new)), Err(KeyError::Unsent("region".to_owned())));
}

#[test]
fn other_tables_are_not_read() {
    let mut reader = KeyReader::new([SOURCE], vec!["id".to_owned()]);
    assert_eq!(reader.describe(&relation(SOURCE + 1, ReplicaIdentity::Default, &[])), Ok(false));
    let elsewhere = Message::Insert(Insert { relation: SOURCE + 1, new: row(&[]) });
    assert_eq!(keys(&reader, elsewhere), Ok(vec![]));
}

#[test]
fn a_description_is_news_once() {
    let mut reader = reader(&["id"], PLAIN);
    assert_eq!(reader.describe(&relation(SOURCE, ReplicaIdentity::Default, PLAIN)), Ok(false));
    let wider = [("id", true), ("note", false), ("more", false)];
    assert_eq!(reader.describe(&relation(SOURCE, ReplicaIdentity::Default, &wider)), Ok(true));
    assert_eq!(keys(&reader, insert(row(&["7", "x", "y"]))), Ok(vec![vec!["7".to_owned()]]));
}

#[test]
fn a_missing_key_column_is_an_error() {
    let mut reader = KeyReader::new([SOURCE], vec!["id".to_owned(), "day".to_owned()]);
    let error = reader.describe(&relation(SOURCE, ReplicaIdentity::Default, PLAIN)).expect_err("no column day");
    assert_eq!(error.to_string(), "the publication does not show key column \"day\"");
    let mut reader = KeyReader::new([SOURCE], vec![]);
    assert_eq!(reader.describe(&relation(SOURCE, ReplicaIdentity::Default, PLAIN)), Err(KeyError::NoColumns));
}

#[test]
fn an_identity_beside_the_key_allows_inserts_only() {
    let reader = reader(&["id"], &[("note", true), ("id", false)]);
    assert_eq!(keys(&reader, insert(row(&["x", "1"]))), Ok(vec![vec!["1".to_owned()]]));
    let uncovered = Err(KeyError::Unidentified("id".to_owned()));
    assert_eq!(keys(&reader, update(None, row(&["x", "1"]))), uncovered);
    assert_eq!(keys(&reader, delete(OldRow::Key(sparse(&["x", "-"])))), uncovered);
}

#[test]
fn what_is_no_key_is_an_error() {
    let named = || "id".to_owned();
    let reader = reader(&["id"], PLAIN);
    assert_eq!(keys(&reader, insert(sparse(&["x", "-"]))), Err(KeyError::Null(named())));
    assert_eq!(keys(&reader, insert(row(&["x"]))), Err(KeyError::Width { expected: 2, found: 1 }));
    assert_eq!(keys(&reader, insert(row(&["x", "1\x002"]))), Err(KeyError::Text(named())));
    let odd = |value| insert(Tuple(vec![Value::Null, value]));
    assert_eq!(keys(&reader, odd(Value::Text(Bytes::from_static(b"\xFF")))), Err(KeyError::Text(named())));
    assert_eq!(keys(&reader, odd(Value::Binary(Bytes::from_static(b"\0\0\0\x01")))), Err(KeyError::Binary(named())));
    let undescribed = KeyReader::new([SOURCE], vec![named()]);
    assert_eq!(keys(&undescribed, insert(row(&["x", "1"]))), Err(KeyError::Undescribed));
}
