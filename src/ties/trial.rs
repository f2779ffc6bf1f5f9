//! Tries on empty temporary tables, in a transaction that is rolled back, what the swap will do with the ties: what the
//! server would refuse then, it refuses here, before anything is touched.

use super::carry::{self, Carry};
use super::functions;
use super::text::renamed;
use super::views;
use super::{Stored, Ties};
use crate::error::Failure;
use crate::pg::sql::{ident_list, plain_ident};
use crate::pg::{Conn, Ident, QualifiedName};
use crate::plan::ddl::{self, Purpose};
use crate::plan::shape::{Origin, Shape};
use crate::plan::types::Plan;
use crate::preflight::Finding;

/// What the server refuses, in its own words.
pub(super) async fn trial(conn: &Conn, plan: &Plan, ties: &Ties, version: u32) -> Result<Vec<Finding>, Failure> {
    conn.batch("begin trial", "BEGIN; SET LOCAL search_path = ''").await?;
    let carry = Carry { plan, ties, role: "" };
    let tried =
        Trial { conn, plan, ties, carry, model: QualifiedName::temporary(&plan.target.name.name) }.all(version).await;
    conn.batch("discard trial", "ROLLBACK").await?;
    tried
}

/// Something to try: what it is, and statements.
type Probe = (String, Vec<String>);

struct Trial<'a> {
    conn: &'a Conn,
    plan: &'a Plan,
    ties: &'a Ties,
    carry: Carry<'a>,
    model: QualifiedName,
}

impl Trial<'_> {
    async fn all(&self, version: u32) -> Result<Vec<Finding>, Failure> {
        self.conn.batch("create trial table", &self.create(version).join(";\n")).await?;
        let mut found = Vec::new();
        for (what, statements) in self.probes()? {
            let sql = format!("SAVEPOINT trial; {}", statements.join(";\n"));
            if let Err(e) = self.conn.batch("try tie", &sql).await {
                if !e.is_judgement() {
                    return Err(e.into());
                }
                let more = e.detail.as_deref().map(|detail| format!(" ({})", detail.trim_end_matches('.')));
                found.push(Finding::new(
                    format!("{what} does not go with the change: {}{}", e.message, more.unwrap_or_default()),
                    "Drop or change it first.",
                ));
            }
            self.conn.batch("take trial back", "ROLLBACK TO SAVEPOINT trial").await?;
        }
        Ok(found)
    }

    /// The target's columns and unique indexes, and nothing else of it.
    fn create(&self, version: u32) -> Vec<String> {
        // What the server refuses of partitioned tables only, it is to refuse here.
        let made = self.plan.makes_partitions();
        let mut bare: Shape = if made { self.plan.target.clone() } else { self.plan.target.unpartitioned() };
        bare.checks.clear();
        bare.options.clear();
        bare.tablespace = None;
        for column in &mut bare.columns {
            (column.default, column.sequence, column.origin) = (None, None, Origin::Plain);
        }
        let mut steps = vec![ddl::create_table(&bare, &self.model, Purpose::Model, &[], version)];
        let table = self.model.to_string();
        if made {
            let bound = match bare.partition_key.as_deref().is_some_and(|key| key.starts_with("HASH")) {
                true => "FOR VALUES WITH (MODULUS 1, REMAINDER 0)",
                false => "DEFAULT",
            };
            steps.push(format!("CREATE TEMPORARY TABLE pgrecast_trial PARTITION OF {table} {bound}"));
        }
        for (n, index) in bare.indexes.iter().enumerate().filter(|(_, i)| i.unique && i.immediate && !i.partial) {
            let name = format!("pgrecast_trial_{n}");
            if let (true, Some(constraint)) = (made, &index.constraint) {
                steps.push(format!("ALTER TABLE {table} ADD CONSTRAINT {} {}", Ident(&name), constraint.definition));
                continue;
            }
            steps.extend(ddl::build_index(index, &table, &name));
            // Views that group by the key lean on it.
            if index.is_primary() && !index.is_deferred_to_swap() {
                steps.push(format!("ALTER TABLE {table} ADD PRIMARY KEY USING INDEX {}", Ident(&name)));
            }
        }
        steps
    }

    fn probes(&self) -> Result<Vec<Probe>, Failure> {
        let source = &self.plan.source.name;
        let carry = self.carry;
        let mut probes = Vec::new();
        for key in self.ties.outgoing.iter().chain(&self.ties.incoming) {
            let what = format!("foreign key {} of {}", plain_ident(&key.name), key.table.name.plain());
            let statements = match (key.is_to_itself(), key.table.oid == self.plan.source.oid) {
                (true, _) => vec![add(&self.model, &carry.definition(key, &self.model))],
                (false, true) => {
                    let parent = QualifiedName::temporary("pgrecast_parent");
                    let mut steps = vec![empty_copy(&parent, &key.refers_to.name, &key.key)];
                    steps.push(format!("ALTER TABLE {parent} ADD UNIQUE ({})", columns(&key.key)));
                    steps.push(add(&self.model, &carry.definition(key, &parent)));
                    steps
                }
                (false, false) => {
                    let child = QualifiedName::temporary("pgrecast_child");
                    let definition = carry.definition(key, &self.model);
                    vec![empty_copy(&child, &key.table.name, &key.columns), add(&child, &definition)]
                }
            };
            if carry.stays(key) {
                probes.push((what, statements));
            }
        }
        for t in self.ties.triggers.iter().filter(|t| t.above.is_none()) {
            let statement = renamed(&t.definition, source, &self.model)?;
            probes.push(self.of_text(format!("trigger {}", plain_ident(&t.name)), vec![statement]));
        }
        for r in self.ties.rules.iter().filter(|r| r.own) {
            let statement = renamed(r.definition.trim_end_matches(';'), source, &self.model)?;
            probes.push(self.of_text(format!("rule {}", plain_ident(&r.name)), vec![statement]));
        }
        for p in self.ties.policies.iter().filter(|p| p.own) {
            let statements = carry::create_policy(p, &self.model.to_string());
            probes.push(self.of_text(format!("policy {}", plain_ident(&p.name)), statements));
        }
        probes.extend(self.views()?);
        for f in &self.ties.functions {
            probes.push(self.of_text(f.description.clone(), functions::trial(f, source, &self.model)?));
        }
        for d in &self.ties.defaults {
            probes.push((d.what(), d.trial(source, &self.model)?));
        }
        Ok(probes)
    }

    /// Each view that is made again, with those it reads. A table stands for a materialized one.
    fn views(&self) -> Result<Vec<Probe>, Failure> {
        let mut probes = Vec::new();
        let mut so_far: Vec<String> = Vec::new();
        let mut stand_ins: Vec<(QualifiedName, QualifiedName)> =
            vec![(self.plan.source.name.clone(), self.model.clone())];
        for view in views::renewed(self.plan, self.ties) {
            // Under its own name, by which texts without an alias call its columns.
            let taken = stand_ins.iter().any(|(_, to)| to.name == view.name.name);
            let own = match taken {
                true => QualifiedName::temporary(format!("pgrecast_view_{}", view.oid)),
                false => QualifiedName::temporary(&view.name.name),
            };
            let mut text = view.definition.trim_end_matches(';').to_owned();
            for (from, to) in &stand_ins {
                text = renamed(&text, from, to)?;
            }
            let name = Ident(&own.name).to_string();
            let settings = match &view.stored {
                None => {
                    so_far.push(format!("CREATE TEMPORARY VIEW {name} AS {text}"));
                    Vec::new()
                }
                Some(stored) => {
                    so_far.push(format!("CREATE TEMPORARY TABLE {name} AS {text} WITH NO DATA"));
                    self.settings(stored, &own)
                }
            };
            probes.push(self.of_text(view.plain(), so_far.iter().cloned().chain(settings).collect()));
            stand_ins.push((view.name.clone(), own));
        }
        Ok(probes)
    }

    /// What a materialized view has besides its query, on the table that stands for it.
    fn settings(&self, stored: &Stored, own: &QualifiedName) -> Vec<String> {
        let mut steps = ddl::column_settings(&stored.shape, &own.to_string());
        for (n, index) in stored.shape.indexes.iter().enumerate() {
            steps.extend(ddl::build_index(index, &own.to_string(), &format!("pgrecast_index_{n}")));
        }
        for s in &stored.statistics {
            steps.extend(carry::create_statistics(s, &own.sibling(format!("pgrecast_statistics_{}", s.oid)), own));
        }
        steps
    }

    /// What is made of a text of the catalog, under the names that the columns had.
    fn of_text(&self, what: String, statements: Vec<String>) -> Probe {
        (what, self.carry.under_old_names(&self.model.to_string(), statements))
    }
}

fn columns(names: &[String]) -> String {
    ident_list(names.iter().map(String::as_str))
}

/// Its columns' types are all that counts.
fn empty_copy(name: &QualifiedName, of: &QualifiedName, names: &[String]) -> String {
    format!("CREATE TEMPORARY TABLE {} AS SELECT {} FROM ONLY {of} WITH NO DATA", Ident(&name.name), columns(names))
}

fn add(table: &QualifiedName, definition: &str) -> String {
    format!("ALTER TABLE {table} ADD {definition}")
}
