//! Views that are made on the shadow before the swap, under names of ours: materialized views, which are filled there,
//! and the views that those read and that have to be made again as well. Pure.

use std::collections::HashSet;

use super::carry::{Carry, create_statistics};
use super::text::renamed;
use super::views::{self, Fate};
use super::{Stored, Ties, View};
use crate::error::Failure;
use crate::pg::{Ident, Literal, QualifiedName};
use crate::plan::ddl::{self, option_list};
use crate::plan::shape::Index;
use crate::plan::types::{Names, Plan};

/// How one of them is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipe {
    /// The oid of the one whose place it takes.
    pub oid: u32,
    /// What it is called in SQL.
    pub word: &'static str,
    /// Its name until the swap.
    pub name: QualifiedName,
    /// The bare name it has while it is made.
    pub staged: String,
    /// The name of the one whose place it takes, for messages.
    pub shown: String,
    /// Views it reads, by the oids of those whose places they take.
    pub uses: Vec<u32>,
    /// What makes it, empty, under its own name in a schema of its own: see [`Carry::make`].
    pub create: Vec<String>,
    /// What fills it, where it is to be filled.
    pub fill: Option<String>,
    /// What makes it complete once it is filled.
    pub finish: Vec<String>,
    /// What collects its statistics.
    pub analyze: Option<String>,
    /// Its comment once it is complete: whatever it was made from.
    pub mark: String,
}

impl Recipe {
    /// What says that it is complete.
    pub fn complete(&self) -> String {
        format!("COMMENT ON {} {} IS {}", self.word, self.name, Literal(&self.mark))
    }
}

/// The oids of the views in whose places others are made before the swap.
pub(super) fn of(plan: &Plan, ties: &Ties) -> HashSet<u32> {
    let (mut made, mut read) = (HashSet::new(), HashSet::<u32>::new());
    for (view, fate) in ties.views.iter().zip(views::fates(plan, ties)).rev() {
        let early = match fate {
            Fate::Kept | Fate::Replaced => false,
            Fate::Remade => read.contains(&view.oid),
            Fate::Filled => true,
        };
        if early {
            made.insert(view.oid);
            read.extend(&view.uses);
        }
    }
    made
}

/// What gives one its place, as far as its indexes and statistics do not need room for it.
pub(super) fn move_in(view: &View, names: &Names) -> Vec<String> {
    let (word, own) = (view.word(), names.made(view.oid));
    let moved = QualifiedName::new(&view.name.schema, &own.name);
    vec![
        // Until now it was the mark.
        format!("COMMENT ON {word} {own} IS NULL"),
        format!("ALTER {word} {own} SET SCHEMA {}", Ident(&view.name.schema)),
        format!("ALTER {word} {moved} RENAME TO {}", Ident(&view.name.name)),
    ]
}

/// The names of the old one's indexes and statistics become free.
pub(super) fn make_room(stored: &Stored, away: &str) -> Vec<String> {
    let mut steps = Vec::new();
    for (n, index) in stored.shape.indexes.iter().enumerate() {
        let name = stored.shape.name.sibling(&index.name);
        steps.push(format!("ALTER INDEX {name} RENAME TO {}", Ident(&format!("{away}_index_{n}"))));
    }
    for (n, s) in stored.statistics.iter().enumerate() {
        steps.push(format!("ALTER STATISTICS {} RENAME TO {}", s.name, Ident(&format!("{away}_statistics_{n}"))));
    }
    steps
}

/// SQL for those that a migration has made, and the old ones that it took away, furthest first: (schema, name, what they
/// are called in SQL, mark).
pub fn made(names: &Names) -> String {
    format!(
        "WITH RECURSIVE made AS (SELECT c.oid, n.nspname, c.relname, c.relkind FROM pg_catalog.pg_class c \
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         WHERE (n.nspname = 'pgrecast' AND starts_with(c.relname, {})) OR starts_with(c.relname, {})), \
         depths AS (SELECT oid, 1 AS depth FROM made UNION SELECT w.ev_class, s.depth + 1 FROM depths s \
         JOIN pg_catalog.pg_depend d ON d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid = s.oid \
         AND d.classid = 'pg_catalog.pg_rewrite'::regclass \
         JOIN pg_catalog.pg_rewrite w ON w.oid = d.objid AND w.ev_class <> s.oid \
         WHERE w.ev_class IN (SELECT oid FROM made)) \
         SELECT m.nspname, m.relname, CASE m.relkind WHEN 'm' THEN 'MATERIALIZED VIEW' ELSE 'VIEW' END, \
         pg_catalog.obj_description(m.oid, 'pg_class') \
         FROM made m WHERE m.relkind IN ('v', 'm') ORDER BY (SELECT max(s.depth) FROM depths s WHERE s.oid = m.oid) DESC, m.oid DESC",
        Literal(&names.made_prefix()),
        Literal(&names.away_prefix())
    )
}

impl Carry<'_> {
    /// How those are made, nearest first.
    pub fn recipes(&self, names: &Names) -> Result<Vec<Recipe>, Failure> {
        let made = of(self.plan, self.ties);
        let staged = |oid, name: &QualifiedName| QualifiedName::new(names.stage(oid), &name.name);
        let source = &self.plan.source;
        let mut stand_ins = vec![(source.name.clone(), staged(source.oid, &source.name))];
        let mut recipes = Vec::new();
        for view in self.ties.views.iter().filter(|v| made.contains(&v.oid)) {
            let own = staged(view.oid, &view.name);
            let mut text = view.definition.trim_end_matches(';').to_owned();
            for (from, to) in &stand_ins {
                text = renamed(&text, from, to)?;
            }
            recipes.push(recipe(view, names, &own, &text));
            stand_ins.push((view.name.clone(), own));
        }
        Ok(recipes)
    }

    /// What makes some of them, empty; the others are there. A text without an alias calls a relation's columns by its
    /// name, and an alias of ours would stay in it for ever: so for the time of this transaction each relation has its
    /// final name, in a schema of its own, since two of them can have the same.
    pub fn make(&self, names: &Names, all: &[Recipe], missing: &[&Recipe]) -> Vec<String> {
        if missing.is_empty() {
            return Vec::new();
        }
        let source = &self.plan.source;
        let shadow = names.shadow();
        let (mut enter, mut leave, mut creates) = (Vec::new(), Vec::new(), Vec::new());
        let mut stage = |word: &str, oid: u32, ours: &QualifiedName, staged: &str, is_there: bool| {
            let schema = names.stage(oid);
            let (place, name) = (QualifiedName::new(&schema, staged), QualifiedName::new(&schema, &ours.name));
            enter.push(format!("CREATE SCHEMA {}", Ident(&schema)));
            if is_there {
                enter.push(format!("ALTER {word} {ours} SET SCHEMA {}", Ident(&schema)));
                enter.push(format!("ALTER {word} {name} RENAME TO {}", Ident(staged)));
            }
            leave.push(format!("ALTER {word} {place} RENAME TO {}", Ident(&ours.name)));
            leave.push(format!("ALTER {word} {name} SET SCHEMA {}", Ident(&ours.schema)));
            leave.push(format!("DROP SCHEMA {}", Ident(&schema)));
            place
        };
        let source_place = stage("TABLE", source.oid, &shadow, &source.name.name, true);
        for recipe in all {
            let is_missing = missing.iter().any(|m| m.oid == recipe.oid);
            stage(recipe.word, recipe.oid, &recipe.name, &recipe.staged, !is_missing);
            if is_missing {
                creates.extend(recipe.create.iter().cloned());
            }
        }
        let mut steps = enter;
        steps.extend(self.under_old_names(&source_place.to_string(), creates));
        steps.extend(leave);
        steps
    }

    /// What keeps autovacuum away from materialized views, as LOCK TABLE does from tables: the comment they have.
    pub fn quiet(&self) -> Vec<String> {
        let comment = |v: &View| v.comment.as_ref().map_or_else(|| "NULL".to_owned(), |c| Literal(c).to_string());
        let filled = views::with_fate(self.plan, self.ties, Fate::Filled).into_iter().rev();
        filled.map(|v| format!("COMMENT ON MATERIALIZED VIEW {} IS {}", v.name, comment(v))).collect()
    }

    /// Once the old ones are out of the way: the names of indexes and statistics, and autovacuum.
    pub(super) fn settle_in(&self, names: &Names) -> Vec<String> {
        let mut steps = Vec::new();
        for view in views::with_fate(self.plan, self.ties, Fate::Filled) {
            let Some(stored) = &view.stored else { continue };
            steps.extend(ddl::restore_autovacuum(&stored.shape, &view.name.to_string()));
            for (n, index) in stored.shape.indexes.iter().enumerate() {
                let built = view.name.sibling(names.made_index(view.oid, n).name);
                steps.push(format!("ALTER INDEX {built} RENAME TO {}", Ident(&index.name)));
            }
            for s in &stored.statistics {
                steps.extend(self.move_statistics(s, &names.statistics(s.oid)));
            }
        }
        steps
    }
}

fn recipe(view: &View, names: &Names, staged: &QualifiedName, text: &str) -> Recipe {
    let own = names.made(view.oid);
    let mut recipe = Recipe {
        oid: view.oid,
        word: view.word(),
        name: own.clone(),
        staged: view.name.name.clone(),
        shown: view.plain(),
        uses: view.uses.clone(),
        create: Vec::new(),
        fill: None,
        finish: Vec::new(),
        analyze: None,
        mark: String::new(),
    };
    match &view.stored {
        None => recipe.create.push(views::create(view, "CREATE VIEW", staged, text)),
        Some(stored) => {
            recipe.create = create(stored, staged, text);
            recipe.fill = stored.rows.populated.then(|| format!("REFRESH MATERIALIZED VIEW {own}"));
            recipe.finish = indexes(stored, &own, |n| names.made_index(view.oid, n));
            recipe
                .finish
                .extend(stored.statistics.iter().flat_map(|s| create_statistics(s, &names.statistics(s.oid), &own)));
            recipe.analyze = stored.rows.populated.then(|| format!("ANALYZE {own}"));
        }
    }
    // After each REFRESH of the old one the new one is to be filled again: what is seen never goes back in time.
    let stamp = view.stored.as_ref().map(|stored| stored.rows.stamp.clone());
    let all = recipe.create.iter().chain(&recipe.fill).chain(&recipe.finish).chain(&stamp);
    recipe.mark = all.cloned().collect::<Vec<_>>().join(";\n");
    recipe
}

/// The empty one, with what its columns have.
fn create(stored: &Stored, own: &QualifiedName, text: &str) -> Vec<String> {
    let shape = &stored.shape;
    let options = option_list(&ddl::quiet_options(shape));
    let tablespace = shape.tablespace.as_ref().map(|t| format!(" TABLESPACE {}", Ident(t))).unwrap_or_default();
    let using = Ident(&shape.access_method);
    let mut steps = vec![format!(
        "CREATE MATERIALIZED VIEW {own} USING {using} WITH ({options}){tablespace} AS {text} WITH NO DATA"
    )];
    steps.extend(ddl::column_settings(shape, &own.to_string()));
    steps
}

/// Indexes with all they have, under names that `named` gives, and the replica identity.
fn indexes(stored: &Stored, own: &QualifiedName, named: impl Fn(usize) -> QualifiedName) -> Vec<String> {
    let table = own.to_string();
    let mut steps = Vec::new();
    for (n, index) in stored.shape.indexes.iter().enumerate() {
        let name = named(n);
        steps.push(ddl::index_tablespace(index));
        steps.extend(ddl::build_index(index, &table, &name.name));
        steps.extend(ddl::attach_index(&Index { name: name.name.clone(), ..index.clone() }, &table, &name));
        if index.replica_identity {
            steps.push(format!("ALTER MATERIALIZED VIEW {table} REPLICA IDENTITY USING INDEX {}", Ident(&name.name)));
        }
    }
    match stored.shape.replica_identity {
        'f' => steps.push(format!("ALTER MATERIALIZED VIEW {table} REPLICA IDENTITY FULL")),
        'n' => steps.push(format!("ALTER MATERIALIZED VIEW {table} REPLICA IDENTITY NOTHING")),
        _ => {}
    }
    steps
}
