//! The SQL that takes ties from the old table to the new one. Pure; every statement changes the catalog only.

use super::functions;
use super::sequences;
use super::views::{self, Fate};
use super::{End, ForeignKey, Policy, Publication, Rule, Statistics, Ties, Trigger};
use crate::pg::sql::ident_list;
use crate::pg::{Ident, Literal, QualifiedName};
use crate::plan::kin;
use crate::plan::types::{Names, Plan};

/// Ties on their way.
#[derive(Debug, Clone, Copy)]
pub struct Carry<'a> {
    /// The migration's plan.
    pub plan: &'a Plan,
    /// The ties of its source.
    pub ties: &'a Ties,
    /// The role that carries them.
    pub role: &'a str,
}

impl Carry<'_> {
    /// The locks of the swap, in the order in which most applications' statements take them: views from the furthest, as
    /// whoever reads them comes to them, then tables that refer to the source, as their writers do, [`Carry::own_lock`],
    /// and the tables it refers to. A statement on a parent holds a lock there before it looks for children: as long as
    /// none does, none has found the old table and waits to write to it.
    pub fn locks(&self) -> Vec<String> {
        let views = views::touched(self.plan, self.ties).into_iter().rev().chain(&self.ties.former);
        // LOCK TABLE would lock everything that the view reads, too, and takes no materialized view.
        views
            .map(|view| format!("ALTER {} {} OWNER TO {}", view.word(), view.name, Ident(&view.owner)))
            .chain(self.children().iter().map(|table| exclusive(table)))
            .chain(self.above().map(|r| exclusive(&r.name.to_string())))
            .chain([self.own_lock()])
            .chain(self.partitions_lock())
            .chain(self.below().map(|r| exclusive(&r.name.to_string())))
            .chain(self.parents().iter().map(|table| exclusive(table)))
            .collect()
    }

    /// The lock on the source.
    pub fn own_lock(&self) -> String {
        exclusive(&format!("ONLY {}", self.plan.source.name))
    }

    /// The lock on its partitions, parents before children, as whoever writes through the source comes to them.
    pub fn partitions_lock(&self) -> Option<String> {
        let names = self.plan.partitions.iter().map(|p| format!("ONLY {}", p.branch.shape.name)).collect::<Vec<_>>();
        (!names.is_empty()).then(|| format!("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE", names.join(", ")))
    }

    /// Tables beside the source of which autovacuum is to keep away, each as LOCK TABLE calls it.
    pub fn tables(&self) -> Vec<String> {
        let kin = self.above().chain(self.below()).map(|r| r.name.to_string());
        distinct(self.children().into_iter().chain(self.parents()).chain(kin))
    }

    /// Everything that is locked besides the source, for whoever looks who is in the way.
    pub fn locked(&self) -> Vec<u32> {
        let views = views::touched(self.plan, self.ties).into_iter().chain(&self.ties.former).map(|view| view.oid);
        let ends = self.ties.incoming.iter().map(|k| &k.table).chain(self.outwards().map(|k| &k.refers_to));
        let keys = ends.flat_map(|end| std::iter::once(end.oid).chain(end.partitions.iter().copied()));
        let kin = self.kin().map(|r| r.oid);
        let mut all: Vec<u32> = views.chain(kin).chain(keys).chain(self.readers().map(|(oid, _)| oid)).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    fn outwards(&self) -> impl Iterator<Item = &ForeignKey> {
        self.ties.outgoing.iter().filter(|k| !k.is_to_itself())
    }

    /// Tables that refer to the source, and those whose rules, policies and defaults name it.
    fn children(&self) -> Vec<String> {
        let readers = self.readers().map(|(_, name)| format!("ONLY {name}"));
        let parts = self.plan.besides().iter().filter(|beside| beside.holds.key().is_some());
        let parts = parts.map(|beside| format!("ONLY {}", beside.shape.name));
        distinct(self.ties.incoming.iter().map(|k| reach(&k.table)).chain(readers).chain(parts))
    }

    fn readers(&self) -> impl Iterator<Item = (u32, &QualifiedName)> {
        let rules = self.ties.rules.iter().filter(|r| !r.own && !r.of_view).map(|r| (r.oid, &r.table));
        let policies = self.ties.policies.iter().filter(|p| !p.own).map(|p| (p.oid, &p.table));
        let defaults = self.ties.defaults.iter().map(|d| (d.oid, &d.table));
        rules.chain(policies).chain(defaults)
    }

    /// A table at both ends is locked among the children.
    fn parents(&self) -> Vec<String> {
        let children = self.children();
        // LOCK TABLE asks for more than a foreign key does; the others are locked by what takes the old one off.
        let owned = self.outwards().filter(|k| k.refers_to.owned);
        let values = self.plan.besides().iter().filter(|beside| beside.holds.key().is_none());
        let values = values.map(|beside| format!("ONLY {}", beside.shape.name));
        let mut all = distinct(owned.map(|k| reach(&k.refers_to)).chain(values));
        all.retain(|p| !children.contains(p));
        all
    }

    /// Takes off the old table, under its name `table`, what was made again for the new one.
    pub fn strip(&self, table: &QualifiedName, old: impl Fn(&QualifiedName) -> String) -> Vec<String> {
        let ties = self.ties;
        let triggers = ties.triggers.iter().map(|t| format!("DROP TRIGGER {} ON {table}", Ident(&t.name)));
        let rules = ties.rules.iter().filter(|r| r.own).map(|r| format!("DROP RULE {} ON {table}", Ident(&r.name)));
        let policies = ties.policies.iter().filter(|p| p.own);
        let policies = policies.map(|p| format!("DROP POLICY {} ON {table}", Ident(&p.name)));
        let statistics = ties.statistics.iter().map(|s| format!("DROP STATISTICS {}", s.name.sibling(old(&s.name))));
        let mut steps: Vec<String> = triggers.chain(rules).chain(policies).chain(statistics).collect();
        if ties.security.enabled {
            steps.push(format!("ALTER TABLE {table} DISABLE ROW LEVEL SECURITY"));
        }
        if ties.security.forced {
            steps.push(format!("ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY"));
        }
        steps
    }

    /// While the source has its name still: what must let go of it.
    pub fn let_go(&self, names: &Names) -> Vec<String> {
        let mut steps = views::away(self.plan, self.ties, names);
        steps.extend(functions::set_aside(&self.ties.functions, names));
        let source = &self.plan.source.name;
        steps.extend(kin::ddl::leave(&self.ties.kin, source));
        for key in self.ties.incoming.iter().chain(&self.ties.outgoing) {
            steps.push(format!("ALTER TABLE {} DROP CONSTRAINT {}", key.table.name, Ident(&key.name)));
        }
        for publication in &self.ties.publications {
            steps.push(format!("ALTER PUBLICATION {} DROP TABLE ONLY {source}", Ident(&publication.name)));
        }
        steps
    }

    /// Columns with another name afterwards that some tie's text calls by the old one: (old, new).
    fn renamed(&self) -> Vec<(&str, &str)> {
        let ties = self.ties;
        let mentioned: Vec<&String> = (ties.triggers.iter().flat_map(|t| &t.mentions))
            .chain(ties.rules.iter().flat_map(|r| &r.mentions))
            .chain(ties.policies.iter().flat_map(|p| &p.mentions))
            .chain(ties.statistics.iter().flat_map(|s| &s.mentions))
            .chain(ties.publications.iter().flat_map(|p| &p.mentions))
            .chain(ties.views.iter().flat_map(|v| &v.mentions))
            .chain(ties.functions.iter().flat_map(|f| &f.mentions))
            .collect();
        let columns = self.plan.columns.iter().filter_map(|c| Some((c.source.as_deref()?, c.name.as_str())));
        columns.filter(|(old, new)| old != new && mentioned.iter().any(|m| m == old)).collect()
    }

    /// The statements under the names that the columns had: the server then keeps up with the renaming in whatever uses
    /// them, as it does in ALTER TABLE.
    pub(super) fn under_old_names(&self, table: &str, statements: Vec<String>) -> Vec<String> {
        let rename =
            |from: &str, to: &str| format!("ALTER TABLE {table} RENAME COLUMN {} TO {}", Ident(from), Ident(to));
        let names = self.renamed();
        if statements.is_empty() {
            return statements;
        }
        let back = names.iter().map(|(old, new)| rename(new, old));
        let forth = names.iter().map(|(old, new)| rename(old, new));
        back.chain(statements).chain(forth).collect()
    }

    /// Once the new table has its name.
    pub fn take_hold(&self, names: &Names) -> Vec<String> {
        let mut steps = Vec::new();
        for key in self.kept_keys() {
            steps.extend(self.foreign_key(key));
        }
        steps.extend(self.under_old_names(&self.plan.target.name.to_string(), self.texts(names)));
        steps.extend(self.ties.defaults.iter().map(|d| d.set()));
        steps.extend(sequences::carry(self.plan, &self.ties.sequences));
        steps.extend(views::drops(self.plan, self.ties, names));
        steps.extend(self.settle_in(names));
        steps
    }

    /// What is made of texts that name columns.
    fn texts(&self, names: &Names) -> Vec<String> {
        let table = self.plan.target.name.to_string();
        let mut steps = functions::creates(&self.ties.functions, self.role);
        for trigger in &self.ties.triggers {
            steps.extend(match trigger.above {
                Some(above) => follow_trigger(trigger, above, &table),
                None => create_trigger(trigger, &table),
            });
        }
        for policy in &self.ties.policies {
            match policy.own {
                true => steps.extend(create_policy(policy, &table)),
                false => steps.push(point_policy(policy)),
            }
        }
        if self.ties.security.enabled {
            steps.push(format!("ALTER TABLE {table} ENABLE ROW LEVEL SECURITY"));
        }
        if self.ties.security.forced {
            steps.push(format!("ALTER TABLE {table} FORCE ROW LEVEL SECURITY"));
        }
        // A view that is made again brings its own rules.
        let remade = views::with_fate(self.plan, self.ties, Fate::Remade);
        for rule in self.ties.rules.iter().filter(|r| !remade.iter().any(|v| v.name == r.table)) {
            steps.extend(create_rule(rule));
        }
        steps.extend(views::creates(self.plan, self.ties, self.role, names));
        for publication in &self.ties.publications {
            steps.push(join_publication(publication, &table));
        }
        steps
    }

    /// Foreign keys that are there afterwards.
    pub(super) fn kept_keys(&self) -> impl Iterator<Item = &ForeignKey> {
        self.ties.outgoing.iter().chain(&self.ties.incoming).filter(|k| self.stays(k))
    }

    /// Whether a foreign key is there afterwards: one of the table's own goes with its column, as in ALTER TABLE, and some
    /// are left off.
    pub(super) fn stays(&self, key: &ForeignKey) -> bool {
        !self.plan.leaves_off(&key.name, [key.table.oid, key.refers_to.oid]) && self.has_columns(key)
    }

    fn has_columns(&self, key: &ForeignKey) -> bool {
        key.table.oid != self.plan.source.oid || key.columns.iter().all(|c| self.plan.name_after(c).is_some())
    }

    /// Makes the shadow's extended statistics what they have to be, under names of ours; `there` are the names of those it
    /// has. Before its ANALYZE, and again for what was made or dropped since.
    pub fn statistics_of_shadow(&self, names: &Names, there: &[String]) -> Vec<String> {
        let shadow = names.shadow();
        let kept: Vec<String> = self.kept_statistics().map(|s| names.statistics(s.oid).name).collect();
        let gone = there.iter().filter(|name| !kept.contains(name));
        let mut steps: Vec<String> = gone.map(|name| format!("DROP STATISTICS {}", shadow.sibling(name))).collect();
        let mut made = Vec::new();
        for s in self.kept_statistics() {
            let own = names.statistics(s.oid);
            if there.contains(&own.name) {
                continue;
            }
            made.extend(create_statistics(s, &own, &shadow));
        }
        steps.extend(self.under_old_names(&shadow.to_string(), made));
        steps
    }

    /// Statistics objects go with their columns, as in ALTER TABLE.
    fn kept_statistics(&self) -> impl Iterator<Item = &Statistics> {
        self.ties.statistics.iter().filter(|s| s.mentions.iter().all(|c| self.plan.name_after(c).is_some()))
    }

    /// The old table's statistics objects make room, the shadow's take their places. `old` gives a free name.
    pub fn swap_statistics(&self, names: &Names, old: impl Fn(&QualifiedName) -> String) -> Vec<String> {
        let mut steps = Vec::new();
        for s in &self.ties.statistics {
            steps.push(format!("ALTER STATISTICS {} RENAME TO {}", s.name, Ident(&old(&s.name))));
        }
        for s in self.kept_statistics() {
            steps.extend(self.move_statistics(s, &names.statistics(s.oid)));
        }
        steps
    }

    /// What was made as `own` takes the place of these.
    pub(super) fn move_statistics(&self, s: &Statistics, own: &QualifiedName) -> Vec<String> {
        let moved = QualifiedName::new(&s.name.schema, &own.name);
        let mut steps = vec![
            format!("ALTER STATISTICS {own} SET SCHEMA {}", Ident(&s.name.schema)),
            format!("ALTER STATISTICS {moved} RENAME TO {}", Ident(&s.name.name)),
        ];
        if let Some(comment) = &s.comment {
            steps.push(format!("COMMENT ON STATISTICS {} IS {}", s.name, Literal(comment)));
        }
        if s.owner != self.role {
            steps.push(format!("ALTER STATISTICS {} OWNER TO {}", s.name, Ident(&s.owner)));
        }
        steps
    }
}

/// The same statistics over another table, under another name.
pub(super) fn create_statistics(s: &Statistics, own: &QualifiedName, table: &QualifiedName) -> Vec<String> {
    let kinds = if s.single { String::new() } else { format!(" ({})", s.kinds.join(", ")) };
    let mut steps = vec![format!("CREATE STATISTICS {own}{kinds} ON {} FROM {table}", s.columns)];
    if let Some(target) = s.target {
        steps.push(format!("ALTER STATISTICS {own} SET STATISTICS {target}"));
    }
    steps
}

fn exclusive(table: &str) -> String {
    format!("LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
}

/// What LOCK TABLE has to call a table at one end of a foreign key: the key is also one of its partitions.
fn reach(end: &End) -> String {
    if end.kind == 'p' { end.name.to_string() } else { format!("ONLY {}", end.name) }
}

fn distinct(names: impl Iterator<Item = String>) -> Vec<String> {
    let mut all: Vec<String> = names.collect();
    all.sort();
    all.dedup();
    all
}

/// `table` is what the trigger is on, as SQL.
pub(super) fn create_trigger(trigger: &Trigger, table: &str) -> Vec<String> {
    let mut steps = vec![trigger.definition.clone()];
    steps.extend(state_and_comment("TRIGGER", &trigger.name, table, trigger.enabled, &trigger.comment));
    for extension in &trigger.extensions {
        steps.push(format!(
            "ALTER TRIGGER {} ON {table} DEPENDS ON EXTENSION {}",
            Ident(&trigger.name),
            Ident(extension)
        ));
    }
    steps
}

/// It came with the partition's place, in the state of the parent's.
fn follow_trigger(trigger: &Trigger, above: char, table: &str) -> Vec<String> {
    let name = Ident(&trigger.name);
    let mut steps = Vec::new();
    if (trigger.enabled, above) != ('O', 'O') {
        steps.push(format!("ALTER TABLE {table} ENABLE TRIGGER {name}"));
    }
    steps.extend(state_and_comment("TRIGGER", &trigger.name, table, trigger.enabled, &trigger.comment));
    steps
}

fn create_rule(rule: &Rule) -> Vec<String> {
    let definition = rule.definition.trim_end_matches(';');
    if !rule.own {
        // It stays the same rule, and with it its state and its comment.
        return vec![definition.replacen("CREATE RULE", "CREATE OR REPLACE RULE", 1)];
    }
    let mut steps = vec![definition.to_owned()];
    steps.extend(state_and_comment("RULE", &rule.name, &rule.table.to_string(), rule.enabled, &rule.comment));
    steps
}

/// Of a trigger or rule, as far as they are not what a new one has; `enabled` as the catalog has it.
fn state_and_comment(
    kind: &str,
    name: &str,
    table: &str,
    enabled: char,
    comment: &Option<String>,
) -> impl Iterator<Item = String> {
    let name = Ident(name);
    let state = match enabled {
        'D' => Some("DISABLE"),
        'R' => Some("ENABLE REPLICA"),
        'A' => Some("ENABLE ALWAYS"),
        _ => None,
    };
    let state = state.map(|state| format!("ALTER TABLE {table} {state} {kind} {name}"));
    let comment = comment.as_ref().map(|c| format!("COMMENT ON {kind} {name} ON {table} IS {}", Literal(c)));
    state.into_iter().chain(comment)
}

/// The same policy of another table, with its text read anew: the table's name means the new one now.
fn point_policy(policy: &Policy) -> String {
    let (using, check) = policy_clauses(policy);
    format!("ALTER POLICY {} ON {}{using}{check}", Ident(&policy.name), policy.table)
}

fn policy_clauses(policy: &Policy) -> (String, String) {
    let clause =
        |word: &str, text: &Option<String>| text.as_ref().map(|t| format!(" {word} ({t})")).unwrap_or_default();
    (clause("USING", &policy.using), clause("WITH CHECK", &policy.check))
}

pub(super) fn create_policy(policy: &Policy, table: &str) -> Vec<String> {
    let name = Ident(&policy.name);
    let kind = if policy.permissive { "PERMISSIVE" } else { "RESTRICTIVE" };
    let roles = match policy.roles.is_empty() {
        true => "PUBLIC".to_owned(),
        false => ident_list(policy.roles.iter().map(String::as_str)),
    };
    let (using, check) = policy_clauses(policy);
    let mut steps =
        vec![format!("CREATE POLICY {name} ON {table} AS {kind} FOR {} TO {roles}{using}{check}", policy.command)];
    if let Some(comment) = &policy.comment {
        steps.push(format!("COMMENT ON POLICY {name} ON {table} IS {}", Literal(comment)));
    }
    steps
}

fn join_publication(publication: &Publication, table: &str) -> String {
    let columns = publication
        .columns
        .as_ref()
        .map(|c| format!(" ({})", ident_list(c.iter().map(String::as_str))))
        .unwrap_or_default();
    let filter = publication.filter.as_ref().map(|f| format!(" WHERE ({f})")).unwrap_or_default();
    format!("ALTER PUBLICATION {} ADD TABLE ONLY {table}{columns}{filter}", Ident(&publication.name))
}
