use std::collections::BTreeSet;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::stream::KeyError;
use crate::stream::fixtures::{any_message, relation, row};
use crate::stream::message::{Delete, Insert, OldRow, Origin, ReplicaIdentity, Update};

const SOURCE: u32 = 1;
const XID: u32 = 700;
const COMMIT: Lsn = Lsn(100);
const END: Lsn = Lsn(140);

fn assembler(part: usize) -> Assembler {
    Assembler::new(KeyReader::new([SOURCE], vec!["id".to_owned()]), part)
}

fn run(assembler: &mut Assembler, messages: &[Message]) -> Result<Vec<Event>, Error> {
    let mut events = Vec::new();
    for message in messages {
        assembler.feed(message, &mut events)?;
    }
    Ok(events)
}

fn begin() -> Message {
    Message::Begin(Begin { final_lsn: COMMIT, commit_time: 0, xid: XID })
}

fn commit() -> Message {
    Message::Commit(Commit { commit_lsn: COMMIT, end_lsn: END, commit_time: 0 })
}

fn source() -> Relation {
    relation(SOURCE, ReplicaIdentity::Default, &[("id", true)])
}

fn insert(id: &str) -> Message {
    Message::Insert(Insert { relation: SOURCE, new: row(&[id]) })
}

fn rekey(from: &str, to: &str) -> Message {
    Message::Update(Update { relation: SOURCE, old: Some(OldRow::Key(row(&[from]))), new: row(&[to]) })
}

fn delete(id: &str) -> Message {
    Message::Delete(Delete { relation: SOURCE, old: OldRow::Key(row(&[id])) })
}

fn truncate() -> Message {
    Message::Truncate(Truncate { relations: vec![9, SOURCE], cascade: false, restart_identity: false })
}

fn note(transactional: bool, prefix: &str, content: &'static [u8]) -> Message {
    let (lsn, prefix, content) = (Lsn(90), prefix.to_owned(), Bytes::from_static(content));
    Message::Logical(LogicalMessage { transactional, lsn, prefix, content })
}

fn changes(ids: &[&str], commit_end: Option<Lsn>) -> Event {
    let keys = ids.iter().map(|&id| Key::new([id]).expect("a key")).collect();
    Event::Changes { xid: XID, commit_lsn: COMMIT, keys, commit_end }
}

fn truncated() -> Event {
    Event::Truncated { relations: vec![SOURCE], xid: XID, commit_lsn: COMMIT }
}

#[test]
fn a_transaction_gives_each_key_once_in_order() {
    let messages =
        [begin(), Message::Relation(source()), insert("2"), insert("1"), rekey("2", "3"), delete("1"), commit()];
    let expected = vec![Event::Schema(source()), changes(&["2", "1", "3"], Some(END))];
    assert_eq!(run(&mut assembler(10), &messages), Ok(expected));
}

#[test]
fn a_large_transaction_leaves_in_parts_and_only_the_last_has_the_end() {
    let mut assembler = assembler(2);
    let messages = [
        begin(),
        Message::Relation(source()),
        insert("1"),
        insert("2"),
        insert("3"),
        rekey("4", "5"),
        insert("6"),
        commit(),
    ];
    let events = run(&mut assembler, &messages).expect("a valid stream");
    let expected =
        [changes(&["1", "2"], None), changes(&["3", "4"], None), changes(&["5"], None), changes(&["6"], Some(END))];
    assert_eq!(events[1..], expected);
    assert!(!assembler.in_transaction());
}

#[test]
fn a_hot_row_is_one_key_however_often_it_changes() {
    let mut messages = vec![begin(), Message::Relation(source())];
    messages.extend((0..1000).map(|_| insert("1")));
    messages.push(commit());
    let events = run(&mut assembler(10), &messages).expect("a valid stream");
    assert_eq!(events[1..], [changes(&["1"], Some(END))]);
}

#[test]
fn a_truncate_keeps_its_place() {
    let messages = [begin(), Message::Relation(source()), insert("1"), truncate(), insert("1"), truncate(), commit()];
    let events = run(&mut assembler(10), &messages).expect("a valid stream");
    let expected = [changes(&["1"], None), truncated(), changes(&["1"], None), truncated(), changes(&[], Some(END))];
    assert_eq!(events[1..], expected);
}

#[test]
fn other_tables_make_an_empty_transaction() {
    let other = relation(2, ReplicaIdentity::Default, &[("x", false)]);
    let messages = [
        begin(),
        Message::Origin(Origin { commit_lsn: Lsn(1), name: "o".to_owned() }),
        Message::Relation(other),
        Message::Insert(Insert { relation: 2, new: row(&["1"]) }),
        Message::Truncate(Truncate { relations: vec![2], cascade: true, restart_identity: true }),
        commit(),
    ];
    assert_eq!(run(&mut assembler(10), &messages), Ok(vec![Event::Empty { commit_end: END }]));
}

#[test]
fn barriers_follow_their_transaction_or_come_at_once() {
    let barrier = |token: &str, end_lsn| Event::Barrier { token: token.to_owned(), end_lsn };
    let messages = [
        note(false, "pgrecast", b"now"),
        note(false, "other", b"not ours"),
        begin(),
        note(true, "pgrecast", b"first"),
        note(true, "other", b"not ours"),
        note(true, "pgrecast", b"\xFF"),
        commit(),
    ];
    let expected = vec![
        barrier("now", Lsn(90)),
        Event::Empty { commit_end: END },
        barrier("first", END),
        barrier("\u{FFFD}", END),
    ];
    assert_eq!(run(&mut assembler(10), &messages), Ok(expected));
}

#[test]
fn illegal_orders_are_errors() {
    let refused = |messages: &[Message]| run(&mut assembler(10), messages).expect_err("an illegal order").to_string();
    assert_eq!(refused(&[commit()]), "Commit message outside of a transaction in the change stream");
    assert_eq!(refused(&[insert("1")]), "Insert message outside of a transaction in the change stream");
    assert_eq!(refused(&[truncate()]), "Truncate message outside of a transaction in the change stream");
    assert_eq!(
        refused(&[Message::Relation(source())]),
        "Relation message outside of a transaction in the change stream"
    );
    let barrier = note(true, "pgrecast", b"t");
    assert_eq!(refused(&[barrier]), "transactional Message message outside of a transaction in the change stream");
    assert_eq!(refused(&[begin(), begin()]), "transaction 700 begins within transaction 700 in the change stream");
    let other = Message::Commit(Commit { commit_lsn: Lsn(1), end_lsn: END, commit_time: 0 });
    assert_eq!(refused(&[begin(), other]), "transaction 700 was announced to commit at 0/64 but did so at 0/1");
    assert_eq!(run(&mut assembler(10), &[begin(), insert("1")]), Err(KeyError::Undescribed.into()));
}

/// One step of a valid transaction.
#[derive(Debug, Clone)]
enum Step {
    Insert(String),
    Rekey(String, String),
    Delete(String),
    Truncate,
}

impl Step {
    fn message(&self) -> Message {
        match self {
            Step::Insert(id) => insert(id),
            Step::Rekey(from, to) => rekey(from, to),
            Step::Delete(id) => delete(id),
            Step::Truncate => truncate(),
        }
    }

    fn keys(&self) -> Vec<String> {
        match self {
            Step::Insert(id) | Step::Delete(id) => vec![id.clone()],
            Step::Rekey(from, to) => vec![from.clone(), to.clone()],
            Step::Truncate => vec![],
        }
    }
}

fn any_step() -> impl Strategy<Value = Step> {
    let id = || "[a-z]".prop_map(String::from);
    prop_oneof![
        8 => id().prop_map(Step::Insert),
        4 => (id(), id()).prop_map(|(from, to)| Step::Rekey(from, to)),
        4 => id().prop_map(Step::Delete),
        1 => Just(Step::Truncate),
    ]
}

/// The keys between truncates.
fn segments(steps: &[Step]) -> Vec<BTreeSet<String>> {
    let segment = |steps: &[Step]| steps.iter().flat_map(Step::keys).collect();
    steps.split(|step| matches!(step, Step::Truncate)).map(segment).collect()
}

#[test]
fn tables_beside_the_source_tell_its_keys_and_values_their_own() {
    const PART: u32 = 5;
    const VALUES: u32 = 6;
    let reader = KeyReader::new([SOURCE], vec!["id".to_owned()]);
    let reader = reader.beside(PART, vec!["of".to_owned()]).values(VALUES, vec!["id".to_owned()]);
    let described = |oid, name| Message::Relation(relation(oid, ReplicaIdentity::Default, &[(name, true)]));
    let updated = |id: &str| Message::Update(Update { relation: VALUES, old: None, new: row(&[id]) });
    let messages = [
        begin(),
        described(PART, "of"),
        described(VALUES, "id"),
        Message::Insert(Insert { relation: VALUES, new: row(&["7"]) }),
        Message::Insert(Insert { relation: PART, new: row(&["3"]) }),
        updated("7"),
        updated("8"),
        updated("7"),
        Message::Delete(Delete { relation: VALUES, old: OldRow::Key(row(&["9"])) }),
        Message::Delete(Delete { relation: PART, old: OldRow::Key(row(&["4"])) }),
        commit(),
    ];
    let mut events = run(&mut Assembler::new(reader, 10), &messages).expect("a valid stream");
    events.retain(|event| !matches!(event, Event::Schema(_)));
    let keys = ["7", "8"].map(|id| Key::new([id]).expect("a key")).to_vec();
    assert_eq!(events, [Event::Values { relation: VALUES, keys, xid: XID }, changes(&["3", "4"], Some(END))]);
}

proptest! {
    #[test]
    fn no_order_of_messages_makes_it_panic(messages in vec(any_message(), 0..40), part in 0..4_usize) {
        let mut assembler = assembler(part);
        let mut events = Vec::new();
        for message in &messages {
            let _ = assembler.feed(message, &mut events);
        }
    }

    #[test]
    fn parts_hold_what_changed_between_truncates(steps in vec(any_step(), 0..60), part in 1..8_usize) {
        let mut messages = vec![begin(), Message::Relation(source())];
        messages.extend(steps.iter().map(Step::message));
        messages.push(commit());
        let events = run(&mut assembler(part), &messages).expect("a valid stream");

        let mut found = vec![BTreeSet::new()];
        let mut ends = 0;
        for event in &events {
            match event {
                Event::Changes { keys, commit_end, .. } => {
                    prop_assert!(keys.len() <= part);
                    prop_assert_eq!(keys.iter().collect::<BTreeSet<_>>().len(), keys.len());
                    prop_assert_eq!(ends, 0, "a part after the last");
                    ends += usize::from(commit_end.is_some());
                    let ids = keys.iter().flat_map(|key| key.columns().map(str::to_owned).collect::<Vec<_>>());
                    found.last_mut().expect("a segment").extend(ids);
                }
                Event::Truncated { .. } => found.push(BTreeSet::new()),
                Event::Empty { .. } => ends += 1,
                Event::Schema(_) | Event::Barrier { .. } | Event::Values { .. } => {}
            }
        }
        prop_assert_eq!(ends, 1);
        prop_assert_eq!(found, segments(&steps));
    }
}
