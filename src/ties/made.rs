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
    /// The name of the one whose place it takes, for messages.
    pub shown: String,
    /// Views it reads, by the oids of those whose places they take.
    pub uses: Vec<u32>,
    /// What makes it, empty: the catalog's part.
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

/// SQL for those that migration has, furthest first: (name, kind, mark). `names` tells which.
pub fn made(names: &Names) -> String {
    format!(
        "WITH RECURSIVE made AS (SELECT c.oid, c.relname, c.relkind FROM pg_catalog.pg_class c \
         WHERE c.relnamespace = 'pgrecast'::regnamespace AND starts_with(c.relname, {})), \
         depths AS (SELECT oid, 1 AS depth FROM made UNION SELECT w.ev_class, s.depth + 1 FROM depths s \
         JOIN pg_catalog.pg_depend d ON d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid = s.oid \
         AND d.classid = 'pg_catalog.pg_rewrite'::regclass \
         JOIN pg_catalog.pg_rewrite w ON w.oid = d.objid AND w.ev_class <> s.oid \
         WHERE w.ev_class IN (SELECT oid FROM made)) \
         SELECT m.relname, CASE m.relkind WHEN 'm' THEN 'MATERIALIZED VIEW' ELSE 'VIEW' END, \
         pg_catalog.obj_description(m.oid, 'pg_class') \
         FROM made m WHERE m.relkind IN ('v', 'm') ORDER BY (SELECT max(s.depth) FROM depths s WHERE s.oid = m.oid) DESC, m.oid DESC",
        Literal(&names.made_prefix())
    )
}

impl Carry<'_> {
    /// How those are made, nearest first.
    pub fn recipes(&self, names: &Names) -> Result<Vec<Recipe>, Failure> {
        let made = of(self.plan, self.ties);
        let mut stand_ins = vec![(self.plan.source.name.clone(), names.shadow())];
        let mut recipes = Vec::new();
        for view in self.ties.views.iter().filter(|v| made.contains(&v.oid)) {
            let own = names.made(view.oid);
            let mut text = view.definition.trim_end_matches(';').to_owned();
            for (from, to) in &stand_ins {
                text = renamed(&text, from, to)?;
            }
            recipes.push(recipe(view, names, &own, &text));
            stand_ins.push((view.name.clone(), own));
        }
        Ok(recipes)
    }

    /// Those that read the shadow, made empty.
    pub fn make(&self, names: &Names, recipes: &[&Recipe]) -> Vec<String> {
        let creates = recipes.iter().flat_map(|r| r.create.clone()).collect();
        self.under_old_names(&names.shadow().to_string(), creates)
    }

    /// What keeps autovacuum away from materialized views, as LOCK TABLE does from tables: the comment they have.
    pub fn quiet(&self) -> Vec<String> {
        let comment = |v: &View| v.comment.as_ref().map_or_else(|| "NULL".to_owned(), |c| Literal(c).to_string());
        let filled = views::with_fate(self.plan, self.ties, Fate::Filled).into_iter().rev();
        filled.map(|v| format!("COMMENT ON MATERIALIZED VIEW {} IS {}", v.name, comment(v))).collect()
    }

    /// Once the old ones are gone: the names of indexes and statistics.
    pub(super) fn settle_in(&self, names: &Names) -> Vec<String> {
        let mut steps = Vec::new();
        for view in views::with_fate(self.plan, self.ties, Fate::Filled) {
            let Some(stored) = &view.stored else { continue };
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

fn recipe(view: &View, names: &Names, own: &QualifiedName, text: &str) -> Recipe {
    let mut recipe = Recipe {
        oid: view.oid,
        word: view.word(),
        name: own.clone(),
        shown: view.plain(),
        uses: view.uses.clone(),
        create: Vec::new(),
        fill: None,
        finish: Vec::new(),
        analyze: None,
        mark: String::new(),
    };
    match &view.stored {
        None => recipe.create.push(views::create(view, "CREATE VIEW", own, text)),
        Some(stored) => {
            recipe.create = create(stored, own, text);
            recipe.fill = stored.rows.populated.then(|| format!("REFRESH MATERIALIZED VIEW {own}"));
            recipe.finish = indexes(stored, own, |n| names.made_index(view.oid, n));
            recipe
                .finish
                .extend(stored.statistics.iter().flat_map(|s| create_statistics(s, &names.statistics(s.oid), own)));
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
    let options = match shape.options.is_empty() {
        true => String::new(),
        false => format!(" WITH ({})", option_list(&shape.options)),
    };
    let tablespace = shape.tablespace.as_ref().map(|t| format!(" TABLESPACE {}", Ident(t))).unwrap_or_default();
    let using = Ident(&shape.access_method);
    let mut steps =
        vec![format!("CREATE MATERIALIZED VIEW {own} USING {using}{options}{tablespace} AS {text} WITH NO DATA")];
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
