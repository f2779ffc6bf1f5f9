//! The DDL of a table with kin: the shadow beside its future place, the planning copy in a place made like it. Pure.

use super::Kin;
use crate::pg::{Ident, QualifiedName};
use crate::plan::ddl::{self, Purpose};
use crate::plan::shape::{Check, Column, Shape};

/// The CHECK by which ATTACH PARTITION knows without a look at the rows that they belong there (ALTER TABLE, PostgreSQL
/// manual). It goes in the same transaction.
const FITS: &str = "pgrecast_partition";

/// The statements that create the empty table. `stand_in` is the name of the table it inherits from for the time, where
/// it is to inherit at all.
///
/// A column or constraint that comes from parents alone goes with theirs, and stays so only if it has one all the time:
/// NO INHERIT from the last one makes it the table's own. So such columns are made in an empty parent of ours, which
/// passes them on; the true parents come, and then it goes.
pub fn create_table(
    shape: &Shape,
    name: &QualifiedName,
    stand_in: &QualifiedName,
    purpose: Purpose,
    sequences: &[(String, QualifiedName)],
    version: u32,
) -> Vec<String> {
    if shape.kin.parents.is_empty() {
        return vec![ddl::create_table(shape, name, purpose, sequences, version)];
    }
    let (kind, table, above) = match purpose {
        Purpose::Model => {
            ("TEMPORARY TABLE", QualifiedName::temporary(&name.name), QualifiedName::temporary(&stand_in.name))
        }
        Purpose::Shadow => ("TABLE", name.clone(), stand_in.clone()),
    };
    let created = |name: &QualifiedName| match purpose {
        Purpose::Model => Ident(&name.name).to_string(),
        Purpose::Shadow => name.to_string(),
    };
    let mut steps = vec![
        format!("CREATE {kind} {} ()", created(&above)),
        format!("CREATE {kind} {} () INHERITS ({above}){}", created(&table), ddl::storage(shape, purpose)),
    ];
    // A column that the parent gets its child gets behind those it has, or merges with its own.
    let passed_on = format!("ALTER TABLE {above}");
    let own = format!("ALTER TABLE ONLY {table}");
    for column in &shape.columns {
        let sequence = sequences.iter().find(|(c, _)| *c == column.name).map(|(_, n)| n);
        let definition = |not_null: bool, sequence| {
            let column = Column { not_null, ..column.clone() };
            ddl::column_definition(&column, sequence, purpose, version)
        };
        match (column.inherited, own_not_null(column)) {
            (true, None) => steps.push(format!("{passed_on} ADD COLUMN {}", definition(column.not_null, None))),
            (true, Some(constraint)) => {
                steps.push(format!("{passed_on} ADD COLUMN {}", definition(false, None)));
                let (constraint, name) = (Ident(constraint), Ident(&column.name));
                steps.push(format!("{own} ADD CONSTRAINT {constraint} NOT NULL {name}"));
            }
            (false, None) if column.not_null && column.not_null_name.is_some() => {
                steps.push(format!("{own} ADD COLUMN {}", definition(false, sequence)));
                steps.push(format!("{passed_on} ADD COLUMN {}", definition(true, None)));
            }
            (false, _) => steps.push(format!("{own} ADD COLUMN {}", definition(column.not_null, sequence))),
        }
    }
    let checks = shape.checks.iter().filter(|c| c.validated);
    steps.extend(checks.map(|Check { name, definition, inherited, .. }| {
        let table = if *inherited { &passed_on } else { &own };
        format!("{table} ADD CONSTRAINT {} {definition}", Ident(name))
    }));
    steps
}

/// The name of a column's NOT NULL constraint that is the table's own. Before 18 nobody knows whose one is.
fn own_not_null(column: &Column) -> Option<&str> {
    column.not_null_name.as_deref().filter(|_| column.not_null && column.not_null_own)
}

/// What the shadow of a partition needs so that ATTACH PARTITION does not read its rows.
pub fn fits(kin: &Kin, table: &str) -> Option<String> {
    let constraint = kin.partition.as_ref()?.constraint.as_ref()?;
    Some(format!("ALTER TABLE {table} ADD CONSTRAINT {FITS} CHECK ({constraint})"))
}

fn model_parent(n: usize) -> QualifiedName {
    QualifiedName::temporary(format!("pgrecast_parent_{n}"))
}

/// The child of the planning copy by which is seen what a clause would do to children.
pub const MODEL_CHILD: &str = "pgrecast_child";

/// Puts the planning copy in a place like that of the table, so that the server refuses there what it would refuse here.
pub fn place_model(kin: &Kin, table: &QualifiedName, stand_in: &QualifiedName) -> Vec<String> {
    let mut steps = Vec::new();
    let model = QualifiedName::temporary(&table.name);
    let like = |n: usize, name: &QualifiedName, more: &str| {
        let own = model_parent(n);
        format!(
            "CREATE TEMPORARY TABLE {} (LIKE {name} INCLUDING CONSTRAINTS INCLUDING GENERATED{more}",
            Ident(&own.name)
        )
    };
    if let Some(p) = &kin.partition {
        let more = format!(" INCLUDING IDENTITY INCLUDING INDEXES) PARTITION BY {}", p.key);
        steps.push(like(0, &p.parent.name, &more));
        steps.push(format!("ALTER TABLE {} ATTACH PARTITION {model} {}", model_parent(0), p.bound));
    }
    for (n, parent) in kin.parents.iter().enumerate() {
        steps.push(like(n, &parent.name, ")"));
        steps.push(format!("ALTER TABLE {model} INHERIT {}", model_parent(n)));
    }
    if !kin.parents.is_empty() {
        steps.extend(leave_stand_in(&model, &QualifiedName::temporary(&stand_in.name)));
    }
    if let Some(of) = &kin.of_type {
        steps.push(format!("ALTER TABLE {model} OF {of}"));
    }
    if kin.is_parent() {
        steps.push(format!("CREATE TEMPORARY TABLE {MODEL_CHILD} () INHERITS ({model})"));
    }
    steps
}

/// Drops the planning copy and everything around it.
pub fn drop_model(kin: &Kin, table: &QualifiedName) -> String {
    let parents = kin.parents.len().max(usize::from(kin.partition.is_some()));
    let mut all = vec![QualifiedName::temporary(&table.name).to_string()];
    all.extend((0..parents).map(|n| model_parent(n).to_string()));
    format!("DROP TABLE {} CASCADE", all.join(", "))
}

fn leave_stand_in(table: &QualifiedName, stand_in: &QualifiedName) -> [String; 2] {
    [format!("ALTER TABLE {table} NO INHERIT {stand_in}"), format!("DROP TABLE {stand_in}")]
}

/// Two tables that change places.
#[derive(Debug, Clone, Copy)]
pub struct Swapped<'a> {
    /// The one that had the place, under its old name.
    pub old: &'a QualifiedName,
    /// The one that takes it.
    pub new: &'a QualifiedName,
    /// See [`create_table`].
    pub stand_in: &'a QualifiedName,
}

/// While the source has its name still.
pub fn leave(kin: &Kin, source: &QualifiedName) -> Option<String> {
    kin.partition.as_ref().map(|p| format!("ALTER TABLE {} DETACH PARTITION {source}", p.parent.name))
}

/// Once the new table has its name, its constraints and its indexes: it takes the old one's place.
pub fn take_place(kin: &Kin, tables: &Swapped<'_>) -> Vec<String> {
    let Swapped { old, new, stand_in } = tables;
    let mut steps = Vec::new();
    if let Some(p) = &kin.partition {
        steps.push(format!("ALTER TABLE {} ATTACH PARTITION {new} {}", p.parent.name, p.bound));
        if p.constraint.is_some() {
            steps.push(format!("ALTER TABLE {new} DROP CONSTRAINT {FITS}"));
        }
    }
    for parent in &kin.parents {
        steps.push(format!("ALTER TABLE {old} NO INHERIT {}", parent.name));
        steps.push(format!("ALTER TABLE {new} INHERIT {}", parent.name));
    }
    if !kin.parents.is_empty() {
        steps.extend(leave_stand_in(new, stand_in));
    }
    // First to the new one: a column without a parent for a moment would be the child's own for good.
    for child in &kin.children {
        steps.push(format!("ALTER TABLE {} INHERIT {new}", child.name));
        steps.push(format!("ALTER TABLE {} NO INHERIT {old}", child.name));
    }
    if let Some(of) = &kin.of_type {
        steps.push(format!("ALTER TABLE {old} NOT OF"));
        steps.push(format!("ALTER TABLE {new} OF {of}"));
    }
    steps
}
