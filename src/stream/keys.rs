//! From the changes of the source, or of its partitions, to the keys of the rows that changed.
//!
//! An insert names the new row's key, a delete the old row's. An update names both where they differ (rule 8 of the
//! design). Whether they differ can only be told while every key column belongs to the replica identity: pgoutput sends
//! the old row if a column of the identity changed, and otherwise not (manual 55.9, "Update"). So an update or delete
//! under an identity that does not cover the key is an error, never a guess.

use std::collections::{HashMap, HashSet};

use super::key::Key;
use super::message::{Message, OldRow, Relation, Tuple, Value};

/// A change that does not show its key, or a table that does not show its key columns.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// No key column was asked for.
    #[error("the source has no key columns")]
    NoColumns,
    /// The column was dropped, renamed, or left out of the publication's column list.
    #[error("the publication does not show key column \"{0}\"")]
    Hidden(String),
    /// A change came ahead of its table's description.
    #[error("a change of the source came before its description")]
    Undescribed,
    /// A row with another number of columns than its table's description.
    #[error("a row of the source has {found} columns, its description has {expected}")]
    Width {
        /// As described.
        expected: usize,
        /// As received.
        found: usize,
    },
    /// An update or delete cannot show the old key.
    #[error("the replica identity of the source does not cover key column \"{0}\"")]
    Unidentified(String),
    /// A key column without a value.
    #[error("key column \"{0}\" is NULL")]
    Null(String),
    /// The value was not sent, and no old row has it.
    #[error("the value of key column \"{0}\" was not sent")]
    Unsent(String),
    /// The stream was asked for the binary format.
    #[error("key column \"{0}\" was sent in binary format")]
    Binary(String),
    /// The value is no text that a UTF-8 connection can carry.
    #[error("the value of key column \"{0}\" is not valid text")]
    Text(String),
}

/// Reads the keys of the changes of the tables that hold the source's rows: the source itself, or its partitions.
#[derive(Debug, Clone)]
pub struct KeyReader {
    /// Each with the columns that have the key there.
    sources: HashMap<u32, Vec<String>>,
    /// Those of them with values that rows refer to: an update of one is told by its own key.
    values: HashSet<u32>,
    shapes: HashMap<u32, Shape>,
}

/// A table as its latest Relation message described it.
#[derive(Debug, Clone)]
struct Shape {
    relation: Relation,
    /// Where each key column stands in a row.
    positions: Vec<usize>,
}

impl KeyReader {
    /// Reads the changes of the tables with these oids, whose key has these columns in this order.
    pub fn new(sources: impl IntoIterator<Item = u32>, key_columns: Vec<String>) -> Self {
        let sources = sources.into_iter().map(|source| (source, key_columns.clone())).collect();
        KeyReader { sources, values: HashSet::new(), shapes: HashMap::new() }
    }

    /// The same, with a table in which the key stands in these columns.
    pub fn beside(mut self, relation: u32, key_columns: Vec<String>) -> Self {
        self.sources.insert(relation, key_columns);
        self
    }

    /// The same, with a table of values that rows refer to by these columns of it.
    pub fn values(mut self, relation: u32, columns: Vec<String>) -> Self {
        self.values.insert(relation);
        self.beside(relation, columns)
    }

    /// Whether the changes of this table are read.
    pub fn reads(&self, relation: u32) -> bool {
        self.sources.contains_key(&relation)
    }

    /// Takes a table's description; says whether it is the source's and differs from what was known, as the first one
    /// does.
    ///
    /// # Errors
    ///
    /// [`KeyError::Hidden`] where a key column is missing.
    pub fn describe(&mut self, relation: &Relation) -> Result<bool, KeyError> {
        let known = self.shapes.get(&relation.oid).is_some_and(|shape| shape.relation == *relation);
        let Some(names) = self.sources.get(&relation.oid).filter(|_| !known) else { return Ok(false) };
        if names.is_empty() {
            return Err(KeyError::NoColumns);
        }
        let position = |name: &String| {
            let found = relation.columns.iter().position(|column| column.name == *name);
            found.ok_or_else(|| KeyError::Hidden(name.clone()))
        };
        let positions = names.iter().map(position).collect::<Result<_, _>>()?;
        self.shapes.insert(relation.oid, Shape { relation: relation.clone(), positions });
        Ok(true)
    }

    /// Appends the keys that an insert, update or delete of the source changed; any other message has none.
    ///
    /// # Errors
    ///
    /// Any [`KeyError`] but [`KeyError::NoColumns`] and [`KeyError::Hidden`].
    pub fn read(&self, message: &Message, keys: &mut Vec<Key>) -> Result<(), KeyError> {
        if self.is_of_values(message) {
            return Ok(());
        }
        self.read_any(message, keys)
    }

    /// The value that rows refer to, where the message changes one: table and key. Nothing refers to one yet that comes, and
    /// nothing any more to one that goes.
    ///
    /// # Errors
    ///
    /// As [`KeyReader::read`].
    pub fn changed_value(&self, message: &Message) -> Result<Option<(u32, Key)>, KeyError> {
        let Message::Update(update) = message else { return Ok(None) };
        if !self.is_of_values(message) {
            return Ok(None);
        }
        let mut keys = Vec::new();
        self.read_any(message, &mut keys)?;
        Ok(keys.pop().map(|key| (update.relation, key)))
    }

    fn is_of_values(&self, message: &Message) -> bool {
        let relation = match message {
            Message::Insert(insert) => insert.relation,
            Message::Update(update) => update.relation,
            Message::Delete(delete) => delete.relation,
            Message::Begin(_)
            | Message::Commit(_)
            | Message::Origin(_)
            | Message::Relation(_)
            | Message::Type(_)
            | Message::Truncate(_)
            | Message::Logical(_) => return false,
        };
        self.values.contains(&relation)
    }

    fn read_any(&self, message: &Message, keys: &mut Vec<Key>) -> Result<(), KeyError> {
        match message {
            Message::Insert(insert) if self.reads(insert.relation) => {
                keys.push(self.shape(insert.relation)?.key(&insert.new, None)?);
            }
            Message::Update(update) if self.reads(update.relation) => {
                let shape = self.shape(update.relation)?;
                shape.check_identity()?;
                let new = shape.key(&update.new, update.old.as_ref())?;
                if let Some(old) = &update.old {
                    let old = shape.key(old.tuple(), None)?;
                    if old != new {
                        keys.push(old);
                    }
                }
                keys.push(new);
            }
            Message::Delete(delete) if self.reads(delete.relation) => {
                let shape = self.shape(delete.relation)?;
                shape.check_identity()?;
                keys.push(shape.key(delete.old.tuple(), None)?);
            }
            Message::Insert(_)
            | Message::Update(_)
            | Message::Delete(_)
            | Message::Begin(_)
            | Message::Commit(_)
            | Message::Origin(_)
            | Message::Relation(_)
            | Message::Type(_)
            | Message::Truncate(_)
            | Message::Logical(_) => {}
        }
        Ok(())
    }

    fn shape(&self, relation: u32) -> Result<&Shape, KeyError> {
        self.shapes.get(&relation).ok_or(KeyError::Undescribed)
    }
}

impl Shape {
    /// The key of a row; what the row leaves out as unchanged is taken from `old`.
    fn key(&self, row: &Tuple, old: Option<&OldRow>) -> Result<Key, KeyError> {
        self.check_width(row)?;
        if let Some(old) = old {
            self.check_width(old.tuple())?;
        }
        let mut texts = Vec::with_capacity(self.positions.len());
        for &position in &self.positions {
            let value = match (&row.0[position], old) {
                (Value::UnchangedToast, Some(old)) => &old.tuple().0[position],
                (value, _) => value,
            };
            texts.push(self.text(position, value)?);
        }
        // No column holds a zero byte: `text` has looked.
        Key::new(texts).ok_or(KeyError::NoColumns)
    }

    fn text<'a>(&self, position: usize, value: &'a Value) -> Result<&'a str, KeyError> {
        let column = || self.relation.columns[position].name.clone();
        match value {
            Value::Text(bytes) if bytes.contains(&0) => Err(KeyError::Text(column())),
            Value::Text(bytes) => std::str::from_utf8(bytes).map_err(|_| KeyError::Text(column())),
            Value::Null => Err(KeyError::Null(column())),
            Value::UnchangedToast => Err(KeyError::Unsent(column())),
            Value::Binary(_) => Err(KeyError::Binary(column())),
        }
    }

    fn check_width(&self, row: &Tuple) -> Result<(), KeyError> {
        let (expected, found) = (self.relation.columns.len(), row.0.len());
        if expected == found { Ok(()) } else { Err(KeyError::Width { expected, found }) }
    }

    fn check_identity(&self) -> Result<(), KeyError> {
        let columns = self.positions.iter().map(|&position| &self.relation.columns[position]);
        match columns.into_iter().find(|column| !column.is_key) {
            None => Ok(()),
            Some(column) => Err(KeyError::Unidentified(column.name.clone())),
        }
    }
}

#[cfg(test)]
mod tests;
