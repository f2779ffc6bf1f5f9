//! An encoder and arbitrary messages for the tests of this room.

use bytes::{BufMut, Bytes, BytesMut};
use proptest::collection::vec;
use proptest::prelude::*;

use super::message::{
    Begin, Column, Commit, Delete, Insert, LogicalMessage, Message, OldRow, Origin, Relation, ReplicaIdentity,
    Truncate, Tuple, Type, Update, Value,
};
use crate::pg::Lsn;

/// A message as the server would write it.
pub(super) fn encode(message: &Message) -> Bytes {
    let mut out = BytesMut::new();
    match message {
        Message::Begin(begin) => {
            out.put_u8(b'B');
            out.put_u64(begin.final_lsn.0);
            out.put_i64(begin.commit_time);
            out.put_u32(begin.xid);
        }
        Message::Commit(commit) => {
            out.put_slice(b"C\0");
            out.put_u64(commit.commit_lsn.0);
            out.put_u64(commit.end_lsn.0);
            out.put_i64(commit.commit_time);
        }
        Message::Origin(origin) => {
            out.put_u8(b'O');
            out.put_u64(origin.commit_lsn.0);
            put_string(&mut out, &origin.name);
        }
        Message::Relation(relation) => put_relation(&mut out, relation),
        Message::Type(type_) => {
            out.put_u8(b'Y');
            out.put_u32(type_.oid);
            put_string(&mut out, &type_.namespace);
            put_string(&mut out, &type_.name);
        }
        Message::Insert(insert) => {
            out.put_u8(b'I');
            out.put_u32(insert.relation);
            put_tuple(&mut out, b'N', &insert.new);
        }
        Message::Update(update) => {
            out.put_u8(b'U');
            out.put_u32(update.relation);
            if let Some(old) = &update.old {
                put_old(&mut out, old);
            }
            put_tuple(&mut out, b'N', &update.new);
        }
        Message::Delete(delete) => {
            out.put_u8(b'D');
            out.put_u32(delete.relation);
            put_old(&mut out, &delete.old);
        }
        Message::Truncate(truncate) => {
            out.put_u8(b'T');
            out.put_u32(truncate.relations.len() as u32);
            out.put_u8(u8::from(truncate.cascade) | u8::from(truncate.restart_identity) << 1);
            truncate.relations.iter().for_each(|&oid| out.put_u32(oid));
        }
        Message::Logical(logical) => {
            out.put_u8(b'M');
            out.put_u8(logical.transactional.into());
            out.put_u64(logical.lsn.0);
            put_string(&mut out, &logical.prefix);
            put_counted(&mut out, &logical.content);
        }
    }
    out.freeze()
}

fn put_relation(out: &mut BytesMut, relation: &Relation) {
    out.put_u8(b'R');
    out.put_u32(relation.oid);
    put_string(out, &relation.namespace);
    put_string(out, &relation.name);
    out.put_u8(match relation.replica_identity {
        ReplicaIdentity::Default => b'd',
        ReplicaIdentity::Nothing => b'n',
        ReplicaIdentity::Full => b'f',
        ReplicaIdentity::Index => b'i',
    });
    out.put_u16(relation.columns.len() as u16);
    for column in &relation.columns {
        out.put_u8(column.is_key.into());
        put_string(out, &column.name);
        out.put_u32(column.type_oid);
        out.put_i32(column.typmod);
    }
}

fn put_old(out: &mut BytesMut, old: &OldRow) {
    match old {
        OldRow::Key(tuple) => put_tuple(out, b'K', tuple),
        OldRow::Full(tuple) => put_tuple(out, b'O', tuple),
    }
}

fn put_tuple(out: &mut BytesMut, kind: u8, tuple: &Tuple) {
    out.put_u8(kind);
    out.put_u16(tuple.0.len() as u16);
    for value in &tuple.0 {
        match value {
            Value::Null => out.put_u8(b'n'),
            Value::UnchangedToast => out.put_u8(b'u'),
            Value::Text(text) => {
                out.put_u8(b't');
                put_counted(out, text);
            }
            Value::Binary(bytes) => {
                out.put_u8(b'b');
                put_counted(out, bytes);
            }
        }
    }
}

fn put_string(out: &mut BytesMut, text: &str) {
    out.put_slice(text.as_bytes());
    out.put_u8(0);
}

fn put_counted(out: &mut BytesMut, bytes: &Bytes) {
    out.put_u32(bytes.len() as u32);
    out.put_slice(bytes);
}

/// A relation whose columns of the replica identity are those flagged.
pub(super) fn relation(oid: u32, replica_identity: ReplicaIdentity, columns: &[(&str, bool)]) -> Relation {
    let column = |&(name, is_key): &(&str, bool)| Column { is_key, name: name.to_owned(), type_oid: 25, typmod: -1 };
    Relation {
        oid,
        namespace: "public".to_owned(),
        name: "orders".to_owned(),
        replica_identity,
        columns: columns.iter().map(column).collect(),
    }
}

/// A row of texts.
pub(super) fn row(texts: &[&str]) -> Tuple {
    Tuple(texts.iter().map(|text| Value::Text(Bytes::copy_from_slice(text.as_bytes()))).collect())
}

/// Any message whatever, with few enough different oids and LSNs that some fit together.
pub(super) fn any_message() -> impl Strategy<Value = Message> {
    prop_oneof![
        any_begin().prop_map(Message::Begin),
        any_commit().prop_map(Message::Commit),
        (any_lsn(), any_name()).prop_map(|(commit_lsn, name)| Message::Origin(Origin { commit_lsn, name })),
        any_relation().prop_map(Message::Relation),
        (any_oid(), any_name(), any_name()).prop_map(|(oid, namespace, name)| Message::Type(Type {
            oid,
            namespace,
            name
        })),
        any_change(),
        (vec(any_oid(), 0..4), any::<bool>(), any::<bool>()).prop_map(|(relations, cascade, restart_identity)| {
            Message::Truncate(Truncate { relations, cascade, restart_identity })
        }),
        any_logical().prop_map(Message::Logical),
    ]
}

/// An insert, update or delete.
fn any_change() -> impl Strategy<Value = Message> {
    prop_oneof![
        (any_oid(), any_tuple()).prop_map(|(relation, new)| Message::Insert(Insert { relation, new })),
        (any_oid(), prop::option::of(any_old()), any_tuple())
            .prop_map(|(relation, old, new)| Message::Update(Update { relation, old, new })),
        (any_oid(), any_old()).prop_map(|(relation, old)| Message::Delete(Delete { relation, old })),
    ]
}

fn any_begin() -> impl Strategy<Value = Begin> {
    (any_lsn(), any::<i64>(), any::<u32>()).prop_map(|(final_lsn, commit_time, xid)| Begin {
        final_lsn,
        commit_time,
        xid,
    })
}

fn any_commit() -> impl Strategy<Value = Commit> {
    (any_lsn(), any_lsn(), any::<i64>()).prop_map(|(commit_lsn, end_lsn, commit_time)| Commit {
        commit_lsn,
        end_lsn,
        commit_time,
    })
}

fn any_logical() -> impl Strategy<Value = LogicalMessage> {
    (any::<bool>(), any_lsn(), prop_oneof![Just("pgrecast".to_owned()), any_name()], any_bytes())
        .prop_map(|(transactional, lsn, prefix, content)| LogicalMessage { transactional, lsn, prefix, content })
}

fn any_relation() -> impl Strategy<Value = Relation> {
    let identity = prop::sample::select(vec![
        ReplicaIdentity::Default,
        ReplicaIdentity::Nothing,
        ReplicaIdentity::Full,
        ReplicaIdentity::Index,
    ]);
    let column = (any::<bool>(), any_name(), any::<u32>(), any::<i32>())
        .prop_map(|(is_key, name, type_oid, typmod)| Column { is_key, name, type_oid, typmod });
    (any_oid(), any_name(), any_name(), identity, vec(column, 0..4)).prop_map(
        |(oid, namespace, name, replica_identity, columns)| Relation {
            oid,
            namespace,
            name,
            replica_identity,
            columns,
        },
    )
}

fn any_old() -> impl Strategy<Value = OldRow> {
    prop_oneof![any_tuple().prop_map(OldRow::Key), any_tuple().prop_map(OldRow::Full)]
}

fn any_tuple() -> impl Strategy<Value = Tuple> {
    let value = prop_oneof![
        1 => Just(Value::Null),
        1 => Just(Value::UnchangedToast),
        4 => any_bytes().prop_map(Value::Text),
        1 => any_bytes().prop_map(Value::Binary),
    ];
    vec(value, 0..4).prop_map(Tuple)
}

fn any_bytes() -> impl Strategy<Value = Bytes> {
    prop_oneof!["[a-c]{0,2}".prop_map(Bytes::from), vec(any::<u8>(), 0..20).prop_map(Bytes::from)]
}

fn any_name() -> impl Strategy<Value = String> {
    prop_oneof!["[ab]", "[^\\x00]{0,5}"]
}

fn any_oid() -> impl Strategy<Value = u32> {
    prop_oneof![0..3_u32, any::<u32>()]
}

fn any_lsn() -> impl Strategy<Value = Lsn> {
    prop_oneof![0..3_u64, any::<u64>()].prop_map(Lsn)
}
