//! Bytes to [`Message`] (manual 55.9, "Logical Replication Message Formats").
//!
//! Every length is checked against what is left of the input before anything is set aside for it, so hostile bytes
//! cost no more memory than a small multiple of their own size.

use std::fmt;

use bytes::{Buf, Bytes};

use super::message::{
    Begin, Column, Commit, Delete, Insert, LogicalMessage, Message, OldRow, Origin, Relation, ReplicaIdentity,
    Truncate, Tuple, Type, Update, Value,
};
use crate::pg::Lsn;

/// The least bytes a column of a Relation message takes: flags, empty name, type, modifier.
const MIN_COLUMN_BYTES: usize = 1 + 1 + 4 + 4;

/// A message that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("malformed {message} message in the change stream: {reason}")]
pub struct DecodeError {
    /// The message's name in the manual; `unknown` where its kind is.
    pub message: &'static str,
    /// What is wrong with it.
    pub reason: Reason,
}

/// What is wrong with a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// The message ends within this field.
    Short(&'static str),
    /// Bytes are left after the last field.
    Trailing(usize),
    /// This field is no UTF-8.
    Utf8(&'static str),
    /// This field holds a byte that the protocol does not know.
    Byte(&'static str, u8),
    /// This field holds a negative length.
    Negative(&'static str, i32),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Short(field) => write!(f, "it ends within its {field}"),
            Reason::Trailing(bytes) => write!(f, "{bytes} bytes follow its end"),
            Reason::Utf8(field) => write!(f, "its {field} is not UTF-8"),
            Reason::Byte(field, byte) => write!(f, "its {field} is 0x{byte:02X}"),
            Reason::Negative(field, length) => write!(f, "its {field} is {length}"),
        }
    }
}

/// Reads one message, which must fill `data` exactly.
///
/// Column values are views into `data`, so they keep the whole frame alive.
///
/// # Errors
///
/// [`DecodeError`] says which message was cut short, too long, or holds something that protocol version 1 does not.
pub fn decode(data: Bytes) -> Result<Message, DecodeError> {
    let mut reader = Reader { data };
    let mut name = "unknown";
    let message = reader.message(&mut name).and_then(|message| match reader.data.len() {
        0 => Ok(message),
        left => Err(Reason::Trailing(left)),
    });
    message.map_err(|reason| DecodeError { message: name, reason })
}

/// What is left of a message.
struct Reader {
    data: Bytes,
}

impl Reader {
    /// Reads a message; `name` becomes its name as soon as that is known.
    fn message(&mut self, name: &mut &'static str) -> Result<Message, Reason> {
        type Read = fn(&mut Reader) -> Result<Message, Reason>;
        let (known, read): (&'static str, Read) = match self.byte("kind")? {
            b'B' => ("Begin", |r| r.begin().map(Message::Begin)),
            b'C' => ("Commit", |r| r.commit().map(Message::Commit)),
            b'O' => ("Origin", |r| r.origin().map(Message::Origin)),
            b'R' => ("Relation", |r| r.relation().map(Message::Relation)),
            b'Y' => ("Type", |r| r.type_().map(Message::Type)),
            b'I' => ("Insert", |r| r.insert().map(Message::Insert)),
            b'U' => ("Update", |r| r.update().map(Message::Update)),
            b'D' => ("Delete", |r| r.delete().map(Message::Delete)),
            b'T' => ("Truncate", |r| r.truncate().map(Message::Truncate)),
            b'M' => ("Message", |r| r.logical().map(Message::Logical)),
            other => return Err(Reason::Byte("kind", other)),
        };
        *name = known;
        read(self)
    }

    fn begin(&mut self) -> Result<Begin, Reason> {
        Ok(Begin {
            final_lsn: self.lsn("final LSN")?,
            commit_time: self.i64("commit time")?,
            xid: self.u32("transaction id")?,
        })
    }

    fn commit(&mut self) -> Result<Commit, Reason> {
        match self.byte("flags")? {
            0 => {}
            flags => return Err(Reason::Byte("flags", flags)),
        }
        Ok(Commit {
            commit_lsn: self.lsn("commit LSN")?,
            end_lsn: self.lsn("end LSN")?,
            commit_time: self.i64("commit time")?,
        })
    }

    fn origin(&mut self) -> Result<Origin, Reason> {
        Ok(Origin { commit_lsn: self.lsn("commit LSN")?, name: self.string("name")? })
    }

    fn relation(&mut self) -> Result<Relation, Reason> {
        Ok(Relation {
            oid: self.u32("oid")?,
            namespace: self.string("namespace")?,
            name: self.string("name")?,
            replica_identity: self.replica_identity()?,
            columns: self.columns()?,
        })
    }

    fn replica_identity(&mut self) -> Result<ReplicaIdentity, Reason> {
        match self.byte("replica identity")? {
            b'd' => Ok(ReplicaIdentity::Default),
            b'n' => Ok(ReplicaIdentity::Nothing),
            b'f' => Ok(ReplicaIdentity::Full),
            b'i' => Ok(ReplicaIdentity::Index),
            other => Err(Reason::Byte("replica identity", other)),
        }
    }

    fn columns(&mut self) -> Result<Vec<Column>, Reason> {
        let count = usize::from(self.u16("column count")?);
        let mut columns = Vec::with_capacity(count.min(self.data.len() / MIN_COLUMN_BYTES));
        for _ in 0..count {
            columns.push(Column {
                is_key: self.byte("column flags")? & 1 != 0,
                name: self.string("column name")?,
                type_oid: self.u32("column type")?,
                typmod: self.i32("column type modifier")?,
            });
        }
        Ok(columns)
    }

    fn type_(&mut self) -> Result<Type, Reason> {
        Ok(Type { oid: self.u32("oid")?, namespace: self.string("namespace")?, name: self.string("name")? })
    }

    fn insert(&mut self) -> Result<Insert, Reason> {
        let relation = self.u32("relation")?;
        match self.byte("tuple kind")? {
            b'N' => Ok(Insert { relation, new: self.tuple()? }),
            other => Err(Reason::Byte("tuple kind", other)),
        }
    }

    fn update(&mut self) -> Result<Update, Reason> {
        let relation = self.u32("relation")?;
        let mut kind = self.byte("tuple kind")?;
        let mut old = None;
        if kind != b'N' {
            old = Some(self.old_row(kind)?);
            kind = self.byte("tuple kind")?;
        }
        match kind {
            b'N' => Ok(Update { relation, old, new: self.tuple()? }),
            other => Err(Reason::Byte("tuple kind", other)),
        }
    }

    fn delete(&mut self) -> Result<Delete, Reason> {
        let relation = self.u32("relation")?;
        let kind = self.byte("tuple kind")?;
        Ok(Delete { relation, old: self.old_row(kind)? })
    }

    fn old_row(&mut self, kind: u8) -> Result<OldRow, Reason> {
        match kind {
            b'K' => Ok(OldRow::Key(self.tuple()?)),
            b'O' => Ok(OldRow::Full(self.tuple()?)),
            other => Err(Reason::Byte("tuple kind", other)),
        }
    }

    fn tuple(&mut self) -> Result<Tuple, Reason> {
        let count = usize::from(self.u16("column count")?);
        // A value takes one byte at least.
        let mut values = Vec::with_capacity(count.min(self.data.len()));
        for _ in 0..count {
            values.push(self.value()?);
        }
        Ok(Tuple(values))
    }

    fn value(&mut self) -> Result<Value, Reason> {
        match self.byte("value kind")? {
            b'n' => Ok(Value::Null),
            b'u' => Ok(Value::UnchangedToast),
            b't' => Ok(Value::Text(self.counted("value")?)),
            b'b' => Ok(Value::Binary(self.counted("value")?)),
            other => Err(Reason::Byte("value kind", other)),
        }
    }

    fn truncate(&mut self) -> Result<Truncate, Reason> {
        let count = self.i32("relation count")?;
        let count = usize::try_from(count).map_err(|_| Reason::Negative("relation count", count))?;
        let flags = self.byte("flags")?;
        let mut relations = Vec::with_capacity(count.min(self.data.len() / size_of::<u32>()));
        for _ in 0..count {
            relations.push(self.u32("relation")?);
        }
        Ok(Truncate { relations, cascade: flags & 1 != 0, restart_identity: flags & 2 != 0 })
    }

    fn logical(&mut self) -> Result<LogicalMessage, Reason> {
        let transactional = match self.byte("flags")? {
            0 => false,
            1 => true,
            flags => return Err(Reason::Byte("flags", flags)),
        };
        Ok(LogicalMessage {
            transactional,
            lsn: self.lsn("LSN")?,
            prefix: self.string("prefix")?,
            content: self.counted("content")?,
        })
    }

    fn byte(&mut self, field: &'static str) -> Result<u8, Reason> {
        self.data.try_get_u8().map_err(|_| Reason::Short(field))
    }

    fn u16(&mut self, field: &'static str) -> Result<u16, Reason> {
        self.data.try_get_u16().map_err(|_| Reason::Short(field))
    }

    fn u32(&mut self, field: &'static str) -> Result<u32, Reason> {
        self.data.try_get_u32().map_err(|_| Reason::Short(field))
    }

    fn i32(&mut self, field: &'static str) -> Result<i32, Reason> {
        self.data.try_get_i32().map_err(|_| Reason::Short(field))
    }

    fn i64(&mut self, field: &'static str) -> Result<i64, Reason> {
        self.data.try_get_i64().map_err(|_| Reason::Short(field))
    }

    fn lsn(&mut self, field: &'static str) -> Result<Lsn, Reason> {
        self.data.try_get_u64().map(Lsn).map_err(|_| Reason::Short(field))
    }

    /// Bytes that end in a zero byte, as UTF-8.
    fn string(&mut self, field: &'static str) -> Result<String, Reason> {
        let end = self.data.iter().position(|&b| b == 0).ok_or(Reason::Short(field))?;
        let text = std::str::from_utf8(&self.data[..end]).map_err(|_| Reason::Utf8(field))?.to_owned();
        self.data.advance(end + 1);
        Ok(text)
    }

    /// A 32-bit length and as many bytes.
    fn counted(&mut self, field: &'static str) -> Result<Bytes, Reason> {
        let length = self.i32(field)?;
        let length = usize::try_from(length).map_err(|_| Reason::Negative(field, length))?;
        if length > self.data.len() {
            return Err(Reason::Short(field));
        }
        Ok(self.data.split_to(length))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::stream::fixtures::{any_message, encode};

    fn fails(data: &[u8]) -> String {
        decode(Bytes::copy_from_slice(data)).expect_err("malformed").to_string()
    }

    #[test]
    fn errors_name_the_message_and_the_fault() {
        assert_eq!(fails(b""), "malformed unknown message in the change stream: it ends within its kind");
        assert_eq!(fails(b"Z"), "malformed unknown message in the change stream: its kind is 0x5A");
        assert_eq!(fails(b"B\0\0"), "malformed Begin message in the change stream: it ends within its final LSN");
        assert_eq!(
            fails(b"Y\0\0\0\x01a\0b\0!!"),
            "malformed Type message in the change stream: 2 bytes follow its end"
        );
        assert_eq!(
            fails(b"Y\0\0\0\x01\xFF\0b\0"),
            "malformed Type message in the change stream: its namespace is not UTF-8"
        );
        assert_eq!(
            fails(b"I\0\0\0\x01N\0\x01t\xFF\xFF\xFF\xFF"),
            "malformed Insert message in the change stream: its value is -1"
        );
    }

    #[test]
    fn a_count_alone_promises_nothing() {
        let message = fails(b"T\x7F\xFF\xFF\xFF\0");
        assert_eq!(message, "malformed Truncate message in the change stream: it ends within its relation");
        let message = fails(b"I\0\0\0\x01N\xFF\xFFn");
        assert_eq!(message, "malformed Insert message in the change stream: it ends within its value kind");
    }

    #[test]
    fn values_are_views_into_the_frame() {
        let frame = Bytes::from_static(b"I\0\0\0\x01N\0\x01t\0\0\0\x02hi");
        let Ok(Message::Insert(insert)) = decode(frame.clone()) else { panic!("an insert") };
        let Value::Text(text) = &insert.new.0[0] else { panic!("a text") };
        assert!(frame.as_ptr_range().contains(&text.as_ptr()));
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(message in any_message()) {
            prop_assert_eq!(decode(encode(&message)), Ok(message));
        }

        #[test]
        fn no_bytes_make_it_panic(data in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(data.into());
        }

        #[test]
        fn no_damage_makes_it_panic(message in any_message(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let mut data = encode(&message).to_vec();
            let at = at.index(data.len());
            data[at] = byte;
            let _ = decode(data.clone().into());
            data.truncate(at);
            prop_assert!(decode(data.into()).is_err(), "a message cut short was accepted");
        }

        #[test]
        fn nothing_may_follow(message in any_message(), more in prop::collection::vec(any::<u8>(), 1..9)) {
            let mut data = encode(&message).to_vec();
            data.extend_from_slice(&more);
            let refused = decode(data.into()).map_err(|e| e.reason);
            prop_assert_eq!(refused, Err(Reason::Trailing(more.len())));
        }
    }
}
