//! Foreign keys on their way to the new table: added without a look at the rows in the swap, completed after it. Pure.

use serde::{Deserialize, Serialize};

use super::{Carry, ForeignKey};
use crate::pg::sql::ident_list;
use crate::pg::{Ident, Literal, QualifiedName};

/// What is left to do for a foreign key after the swap. The control row has these, so that a resumed run does them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owed {
    /// The table that has it, as SQL.
    pub table: String,
    /// Its name.
    pub key: String,
    /// For a key of a partitioned table that only its partitions have so far; the others are to be validated.
    pub whole: Option<Whole>,
}

/// The foreign key of a partitioned table before PostgreSQL 18, which takes none there that is NOT VALID. Its partitions
/// are given theirs in the swap, and once these are validated the table's own takes them over without a look at the rows
/// (`tryAttachPartitionForeignKey` in `tablecmds.c`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Whole {
    /// `FOREIGN KEY …`.
    pub definition: String,
    /// Its columns.
    pub columns: Vec<String>,
    /// The table it refers to, as SQL.
    pub refers_to: String,
    /// Its comment.
    pub comment: Option<String>,
}

impl Owed {
    /// The statement that completes it.
    pub fn statement(&self) -> String {
        match &self.whole {
            None => validate(&self.table, &self.key),
            Some(whole) => add(&self.table, &self.key, &whole.definition, "", &whole.comment).join("; "),
        }
    }
}

impl Whole {
    /// Partitions of `table` that came after the swap, as rows of (partition, whether its key is there and to be
    /// validated only). One where another constraint has the name is left to the last step.
    pub fn late_partitions(&self, table: &str, key: &str) -> String {
        let names: Vec<String> = self.columns.iter().map(|c| Literal(c).to_string()).collect();
        let columns = format!(
            "(SELECT array_agg(a.attname::text ORDER BY x.n) FROM unnest(k.conkey) WITH ORDINALITY AS x(num, n) \
             JOIN pg_catalog.pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = x.num) = ARRAY[{}]",
            names.join(", ")
        );
        let refers_to = Literal(&self.refers_to);
        let (table, key) = (Literal(table), Literal(key));
        format!(
            "SELECT format('%I.%I', n.nspname, c.relname), coalesce(named.contype = 'f' AND NOT named.convalidated, false) \
             FROM pg_catalog.pg_partition_tree(to_regclass({table})) p \
             JOIN pg_catalog.pg_class c ON c.oid = p.relid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
             LEFT JOIN pg_catalog.pg_constraint named ON named.conrelid = c.oid AND named.conname = {key} \
             WHERE p.isleaf AND c.relkind = 'r' AND CASE WHEN named.oid IS NOT NULL \
                 THEN named.contype = 'f' AND NOT named.convalidated AND named.confrelid = to_regclass({refers_to}) \
                 ELSE NOT EXISTS (SELECT 1 FROM pg_catalog.pg_constraint k WHERE k.conrelid = c.oid AND k.contype = 'f' \
                     AND k.confrelid = to_regclass({refers_to}) AND {columns}) END ORDER BY 1"
        )
    }

    /// A partition's share, before its parent has the key.
    pub fn share(&self, partition: &str, key: &str) -> String {
        add(partition, key, &self.definition, " NOT VALID", &None).concat()
    }
}

/// VALIDATE CONSTRAINT: reads the table that has the key, and takes no lock that stops reads or writes.
pub fn validate(table: &str, key: &str) -> String {
    format!("ALTER TABLE {table} VALIDATE CONSTRAINT {}", Ident(key))
}

fn add(table: &str, key: &str, definition: &str, validity: &str, comment: &Option<String>) -> Vec<String> {
    let key = Ident(key);
    let mut steps = vec![format!("ALTER TABLE {table} ADD CONSTRAINT {key} {definition}{validity}")];
    steps.extend(comment.as_ref().map(|c| format!("COMMENT ON CONSTRAINT {key} ON {table} IS {}", Literal(c))));
    steps
}

impl Carry<'_> {
    /// The name of the table that has a key afterwards.
    fn holder<'k>(&'k self, key: &'k ForeignKey) -> &'k QualifiedName {
        if key.table.oid == self.plan.source.oid { &self.plan.target.name } else { &key.table.name }
    }

    /// The name of the table that a key refers to afterwards.
    fn referred<'k>(&'k self, key: &'k ForeignKey) -> &'k QualifiedName {
        if key.refers_to.oid == self.plan.source.oid { &self.plan.target.name } else { &key.refers_to.name }
    }

    /// New rows are checked at once; those there have been checked before, so nobody looks at them now. See
    /// [`Carry::owed`].
    pub(super) fn foreign_key(&self, key: &ForeignKey) -> Vec<String> {
        let definition = self.definition(key, self.referred(key));
        let validity = if key.enforced { " NOT VALID" } else { " NOT ENFORCED" };
        let at_once = |kind: char| kind != 'p' || key.takes_partitions_unseen;
        let shares = key.shares.iter().filter(|s| at_once(s.kind));
        let mut steps: Vec<String> =
            shares.flat_map(|s| add(&s.table.to_string(), &s.name, &definition, validity, &s.comment)).collect();
        if at_once(key.table.kind) {
            steps.extend(add(&self.holder(key).to_string(), &key.name, &definition, validity, &key.comment));
        }
        steps
    }

    /// What is left to do for the foreign keys after the swap, in this order.
    pub fn owed(&self) -> Vec<Owed> {
        let keys = self.kept_keys().filter(|k| k.enforced);
        keys.flat_map(|key| self.owed_for(key)).collect()
    }

    fn owed_for(&self, key: &ForeignKey) -> Vec<Owed> {
        let whole = |comment: &Option<String>| Whole {
            definition: self.definition(key, self.referred(key)),
            columns: key.columns.clone(),
            refers_to: self.referred(key).to_string(),
            comment: comment.clone(),
        };
        let owed =
            |table: &QualifiedName, name: &str, whole| Owed { table: table.to_string(), key: name.to_owned(), whole };
        let own = (self.holder(key), key.name.as_str());
        if key.table.kind != 'p' || key.takes_partitions_unseen {
            // Validated with all its shares; one that is not may have shares that are.
            return match key.validated {
                true => vec![owed(own.0, own.1, None)],
                false => key.shares.iter().filter(|s| s.validated).map(|s| owed(&s.table, &s.name, None)).collect(),
            };
        }
        let (inner, leaves): (Vec<_>, Vec<_>) = key.shares.iter().partition(|s| s.kind == 'p');
        let mut all: Vec<Owed> = leaves.iter().map(|s| owed(&s.table, &s.name, None)).collect();
        all.extend(inner.iter().map(|s| owed(&s.table, &s.name, Some(whole(&s.comment)))));
        all.push(owed(own.0, own.1, Some(whole(&key.comment))));
        all
    }

    fn names_after(&self, columns: &[String]) -> String {
        ident_list(columns.iter().filter_map(|c| self.plan.name_after(c)))
    }

    /// `FOREIGN KEY … DEFERRABLE` that refers to `parent`, with columns as they are called afterwards.
    pub(super) fn definition(&self, key: &ForeignKey, parent: &QualifiedName) -> String {
        let source = self.plan.source.oid;
        let side = |ours: bool, columns: &[String]| match ours {
            true => self.names_after(columns),
            false => ident_list(columns.iter().map(String::as_str)),
        };
        let columns = side(key.table.oid == source, &key.columns);
        let referred = side(key.refers_to.oid == source, &key.key);
        let mut text = format!("FOREIGN KEY ({columns}) REFERENCES {parent} ({referred})");
        if !key.actions.is_empty() {
            text.push_str(&format!(" {}", key.actions));
        }
        if let Some(action) = &key.on_delete {
            text.push_str(&format!(" ON DELETE {action}"));
        }
        if let Some(only) = &key.on_delete_columns {
            text.push_str(&format!(" ({})", side(key.table.oid == source, only)));
        }
        if key.deferrable {
            text.push_str(" DEFERRABLE");
        }
        if key.deferred {
            text.push_str(" INITIALLY DEFERRED");
        }
        text
    }
}
