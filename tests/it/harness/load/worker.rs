//! What one connection does: random work on its own rows, each step entered in its book before the next. A change is
//! entered before it is sent: where the answer is lost, the book knows both what was and what may be.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::{MissedTickBehavior, interval};

use super::book::{Book, Row};
use super::shape::{Shape, Statement};
use super::speaker::{Reply, Speaker, TextRow, literal};
use super::{Options, Shared};

/// More failures than this say nothing new.
const ENOUGH_FAILURES: usize = 50;

/// Longer than a server is away, and how often a connection looks for it.
const PATIENCE: Duration = Duration::from_secs(90);
const GLANCE: Duration = Duration::from_millis(20);

/// Why a step did not do what it should have: the server's error, or an answer that the book contradicts.
struct Failed {
    why: String,
    /// No answer came, or that the session ends.
    cut_off: bool,
}

impl Failed {
    fn wrong(why: String) -> Failed {
        Failed { why, cut_off: false }
    }
}

impl From<tokio_postgres::Error> for Failed {
    fn from(error: tokio_postgres::Error) -> Self {
        let error = pgrecast::pg::Error::from_client("load", &error);
        Failed { why: error.to_string(), cut_off: error.connection_lost }
    }
}

type Step = Result<(), Failed>;

pub struct Worker {
    pub speaker: Speaker,
    pub failed: Vec<String>,
    book: Book,
    rng: StdRng,
    shape: Shape,
    options: Options,
    connection: usize,
    dsn: String,
    truncated: u64,
}

impl Worker {
    pub fn new(speaker: Speaker, dsn: &str, shape: Shape, options: Options, connection: usize) -> Worker {
        let rng = StdRng::seed_from_u64(options.seed ^ (connection as u64) << 32);
        let (book, dsn) = (Book::new(options.slots), dsn.to_owned());
        Worker { speaker, failed: Vec::new(), book, rng, shape, options, connection, dsn, truncated: 0 }
    }

    /// The rows as the table must show them.
    pub fn model(&self) -> impl Iterator<Item = TextRow> {
        self.book.rows().map(|(slot, row)| self.as_text(slot, row))
    }

    /// The rows there are at the start.
    pub async fn fill(&mut self) {
        let rows = self.options.rows;
        let filled = self.insert_many(rows).await;
        self.settle("fill", filled).await;
    }

    /// Works until told to stop.
    pub async fn run(mut self, shared: Arc<Shared>) -> Worker {
        let mut pace = self.options.per_second.map(|rate| interval(Duration::from_secs(1) / rate));
        if let Some(pace) = &mut pace {
            pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        }
        while !shared.stop.load(Ordering::Relaxed) && self.failed.len() < ENOUGH_FAILURES {
            if let Some(pace) = &mut pace {
                pace.tick().await;
            }
            let before = self.speaker.statements;
            let truncated = shared.truncated.read().await;
            self.notice(*truncated);
            self.step().await;
            drop(truncated);
            shared.statements.fetch_add(self.speaker.statements - before, Ordering::Relaxed);
        }
        self.notice(*shared.truncated.read().await);
        self
    }

    /// The table is empty since.
    fn notice(&mut self, truncated: u64) {
        if std::mem::replace(&mut self.truncated, truncated) != truncated {
            self.book.clear();
        }
    }

    async fn step(&mut self) {
        let (name, outcome) = match self.rng.random_range(0..1000) {
            0..3 => ("large transaction", self.large().await),
            3..40 => ("rolled back transaction", self.transaction("ROLLBACK").await),
            40..90 => ("transaction", self.transaction("COMMIT").await),
            90..140 => ("savepoint rolled back", self.savepoint().await),
            140..190 => ("unique values swapped", self.swap_unique().await),
            190..220 => ("keys swapped", self.swap_keys().await),
            _ => ("statement", self.any_change().await),
        };
        self.settle(name, outcome).await;
    }

    /// After every step no transaction is open, and the book says what the server committed.
    async fn settle(&mut self, name: &str, outcome: Step) {
        let Err(Failed { why, cut_off }) = outcome else { return self.book.commit() };
        if cut_off && self.options.survives {
            if let Err(Failed { why, .. }) = self.come_back().await {
                self.failed.push(format!("connection {}, {name}, after a lost answer: {why}", self.connection));
            }
            return;
        }
        let (connection, mode) = (self.connection, self.speaker.mode());
        self.failed.push(format!("connection {connection} ({mode:?}), {name}: {why}"));
        self.book.roll_back_to(0);
        if let Err(error) = self.speaker.control("ROLLBACK").await {
            self.failed.push(Failed::from(error).why);
        }
    }

    /// Connects again once the server is back, and reads what became of the step whose answer was lost: all of it or
    /// nothing.
    async fn come_back(&mut self) -> Step {
        let deadline = Instant::now() + PATIENCE;
        while let Err(error) = self.speaker.again(&self.dsn).await {
            if Instant::now() > deadline {
                return Err(error.into());
            }
            tokio::time::sleep(GLANCE).await;
        }
        let changed: Vec<usize> = self.book.changed().into_keys().collect();
        let seen = self.speaker.look(&self.key_list(&changed)).await?;
        let as_seen = |slot: usize, row: Option<&Row>| {
            let key = self.key(slot);
            seen.iter().find(|seen| seen[0] == key) == row.map(|row| self.as_text(slot, row)).as_ref()
        };
        let kept = changed.iter().all(|slot| as_seen(*slot, self.book.get(*slot)));
        let undone = self.book.changed().into_iter().all(|(slot, before)| as_seen(slot, before));
        if kept {
            self.book.commit();
        } else if undone {
            self.book.roll_back_to(0);
        } else {
            return Err(Failed::wrong(format!("a part of it is there: {seen:?}")));
        }
        Ok(())
    }

    /// One statement on one row, weighted like an application's.
    async fn any_change(&mut self) -> Step {
        match self.rng.random_range(0..100) {
            0..25 => self.insert().await,
            25..40 => self.update_one(Statement::UpdateText).await,
            40..50 => self.update_one(Statement::UpdateNumber).await,
            50..58 => self.update_one(Statement::UpdateUnique).await,
            58..64 => self.update_one(Statement::Update).await,
            64..72 => self.update_key().await,
            72..85 => self.delete().await,
            _ => self.read().await,
        }
    }

    async fn insert(&mut self) -> Step {
        let Some(slot) = self.book.free_slot(&mut self.rng) else { return Ok(()) };
        let row = self.random_row();
        let text = self.as_text(slot, &row);
        self.book.put(slot, Some(row));
        self.change(Statement::Insert, text).await
    }

    /// A new value, or NULL, in one column or in all.
    async fn update_one(&mut self, statement: Statement) -> Step {
        let Some(slot) = self.book.some_row(&mut self.rng) else { return Ok(()) };
        let Some(mut row) = self.book.get(slot).cloned() else { return Ok(()) };
        let new = self.random_row();
        let new_text = self.as_text(slot, &new);
        let args = match statement {
            Statement::UpdateUnique => {
                row.u = new.u;
                vec![new_text[0].clone(), new_text[1].clone()]
            }
            Statement::UpdateText => {
                row.v = new.v;
                vec![new_text[0].clone(), new_text[2].clone()]
            }
            Statement::UpdateNumber => {
                row.n = new.n;
                vec![new_text[0].clone(), new_text[3].clone()]
            }
            _ => {
                row = new;
                new_text
            }
        };
        self.book.put(slot, Some(row));
        self.change(statement, args).await
    }

    async fn update_key(&mut self) -> Step {
        let (Some(from), Some(to)) = (self.book.some_row(&mut self.rng), self.book.free_slot(&mut self.rng)) else {
            return Ok(());
        };
        self.move_row(from, to).await
    }

    async fn delete(&mut self) -> Step {
        let Some(slot) = self.book.some_row(&mut self.rng) else { return Ok(()) };
        self.book.put(slot, None);
        self.change(Statement::Delete, vec![self.key(slot)]).await
    }

    /// A session sees its own writes, whatever happens to the table meanwhile.
    async fn read(&mut self) -> Step {
        let slot = self.rng.random_range(0..self.options.slots);
        let key = self.key(slot);
        let seen = match self.speaker.say(Statement::Read, &[key]).await? {
            Reply::Rows(rows) => rows,
            Reply::Affected(_) => Vec::new(),
        };
        let expected: Vec<TextRow> = self.book.get(slot).map(|row| self.as_text(slot, row)).into_iter().collect();
        if seen == expected { Ok(()) } else { Err(Failed::wrong(format!("read {seen:?}, expected {expected:?}"))) }
    }

    async fn transaction(&mut self, end: &str) -> Step {
        self.speaker.control("BEGIN").await?;
        for _ in 0..self.rng.random_range(2..8) {
            self.any_change().await?;
        }
        self.speaker.control(end).await?;
        if end == "ROLLBACK" {
            self.book.roll_back_to(0);
        }
        Ok(())
    }

    async fn savepoint(&mut self) -> Step {
        self.speaker.control("BEGIN").await?;
        self.any_change().await?;
        let mark = self.book.mark();
        self.speaker.control("SAVEPOINT s").await?;
        for _ in 0..3 {
            self.any_change().await?;
        }
        self.speaker.control("ROLLBACK TO SAVEPOINT s").await?;
        self.book.roll_back_to(mark);
        self.any_change().await?;
        self.speaker.control("COMMIT").await?;
        Ok(())
    }

    /// Two rows exchange their unique values, one of them NULL on the way.
    async fn swap_unique(&mut self) -> Step {
        let Some((a, b)) = self.two_rows() else { return Ok(()) };
        let (Some(row_a), Some(row_b)) = (self.book.get(a).cloned(), self.book.get(b).cloned()) else { return Ok(()) };
        self.speaker.control("BEGIN").await?;
        for (slot, row, u) in [(a, &row_a, None), (b, &row_b, row_a.u), (a, &row_a, row_b.u)] {
            let row = Row { u, ..row.clone() };
            let text = self.as_text(slot, &row);
            self.book.put(slot, Some(row));
            self.change(Statement::UpdateUnique, vec![text[0].clone(), text[1].clone()]).await?;
        }
        self.speaker.control("COMMIT").await?;
        Ok(())
    }

    /// Two rows exchange their keys, by way of a free one.
    async fn swap_keys(&mut self) -> Step {
        let Some((a, b)) = self.two_rows() else { return Ok(()) };
        let Some(between) = self.book.free_slot(&mut self.rng) else { return Ok(()) };
        self.speaker.control("BEGIN").await?;
        for (from, to) in [(a, between), (b, a), (between, b)] {
            self.move_row(from, to).await?;
        }
        self.speaker.control("COMMIT").await?;
        Ok(())
    }

    async fn move_row(&mut self, from: usize, to: usize) -> Step {
        let row = self.book.get(from).cloned();
        self.book.put(from, None);
        self.book.put(to, row);
        self.change(Statement::UpdateKey, vec![self.key(from), self.key(to)]).await
    }

    /// Thousands of rows in one transaction: inserted, some of them changed, some of them deleted again, and kept or not.
    async fn large(&mut self) -> Step {
        let count = self.options.large;
        self.speaker.control("BEGIN").await?;
        self.insert_many(count).await?;
        let slots: Vec<usize> = (0..count).filter_map(|_| self.book.some_row(&mut self.rng)).collect();
        let (changed, deleted) = slots.split_at(slots.len() / 2);
        let (table, key) = (self.shape.table.clone(), self.shape.key.name.clone());
        let to = self.random_text();
        let set = format!("UPDATE {table} SET {} = {}", self.shape.text, literal(to.as_deref()));
        self.bulk(&format!("{set} WHERE {key} IN ({})", self.key_list(changed)), changed).await?;
        for slot in changed {
            let row = self.book.get(*slot).map(|row| Row { v: to.clone(), ..row.clone() });
            self.book.put(*slot, row);
        }
        self.bulk(&format!("DELETE FROM {table} WHERE {key} IN ({})", self.key_list(deleted)), deleted).await?;
        for slot in deleted {
            self.book.put(*slot, None);
        }
        if self.rng.random_bool(0.3) {
            self.speaker.control("ROLLBACK").await?;
            self.book.roll_back_to(0);
            return Ok(());
        }
        self.speaker.control("COMMIT").await?;
        Ok(())
    }

    /// Inserts rows in one statement, as many as there is room for.
    async fn insert_many(&mut self, count: usize) -> Step {
        let mut values = Vec::new();
        for _ in 0..count {
            let Some(slot) = self.book.free_slot(&mut self.rng) else { break };
            let row = self.random_row();
            let text = self.as_text(slot, &row);
            let [k, u, v, n] = [0, 1, 2, 3].map(|i| literal(text[i].as_deref()));
            values.push(format!("({k}::{}, {u}::{}, {v}, {n}::numeric)", self.shape.key.cast, self.shape.unique.cast));
            self.book.put(slot, Some(row));
        }
        if values.is_empty() {
            return Ok(());
        }
        let Shape { table, key, unique, text, number } = &self.shape;
        let into = format!("INSERT INTO {table} ({}, {}, {text}, {number})", key.name, unique.name);
        let inserted = self.speaker.bulk(&format!("{into} VALUES {}", values.join(", "))).await?;
        expect_rows(inserted, values.len())
    }

    async fn bulk(&mut self, text: &str, slots: &[usize]) -> Step {
        let distinct: std::collections::HashSet<_> = slots.iter().collect();
        let affected = self.speaker.bulk(text).await?;
        expect_rows(affected, distinct.len())
    }

    /// A statement that must change exactly one row.
    async fn change(&mut self, statement: Statement, args: TextRow) -> Step {
        match self.speaker.say(statement, &args).await? {
            Reply::Affected(1) => Ok(()),
            Reply::Affected(rows) => {
                Err(Failed::wrong(format!("{statement:?} of {:?} changed {rows} rows, not one", args[0])))
            }
            Reply::Rows(_) => Err(Failed::wrong(format!("{statement:?} returned rows"))),
        }
    }

    fn two_rows(&mut self) -> Option<(usize, usize)> {
        let (a, b) = (self.book.some_row(&mut self.rng)?, self.book.some_row(&mut self.rng)?);
        (a != b).then_some((a, b))
    }

    fn random_row(&mut self) -> Row {
        let u = if self.rng.random_bool(0.15) { None } else { self.book.free_unique(&mut self.rng) };
        let n = self
            .rng
            .random_bool(0.8)
            .then(|| format!("{}.{:02}", self.rng.random_range(-9999..9999), self.rng.random_range(0..100)));
        Row { u, v: self.random_text(), n }
    }

    /// NULL, empty, awkward, short, or long enough to be stored out of line.
    fn random_text(&mut self) -> Option<String> {
        match self.rng.random_range(0..100) {
            0..12 => None,
            12..15 => Some(String::new()),
            15..25 => Some(format!(r#"it's "{}" \ ünï → 🐘"#, self.rng.random::<u16>())),
            25..28 => Some((0..300).map(|_| format!("{:016x}", self.rng.random::<u64>())).collect()),
            _ => Some(format!("{:x}", self.rng.random::<u64>())),
        }
    }

    /// A slot's number among those of all connections, from 1.
    fn number(&self, slot: usize) -> u64 {
        (slot * self.options.connections + self.connection + 1) as u64
    }

    fn key(&self, slot: usize) -> Option<String> {
        Some((self.shape.key.render)(self.number(slot)))
    }

    fn key_list(&self, slots: &[usize]) -> String {
        let one = |slot: &usize| format!("{}::{}", literal(self.key(*slot).as_deref()), self.shape.key.cast);
        // Never empty: NULL is in no list, and finds nothing.
        slots.iter().map(one).chain(["NULL".into()]).collect::<Vec<_>>().join(", ")
    }

    fn as_text(&self, slot: usize, row: &Row) -> TextRow {
        let u = row.u.map(|u| (self.shape.unique.render)(self.number(u)));
        vec![self.key(slot), u, row.v.clone(), row.n.clone()]
    }
}

fn expect_rows(affected: u64, expected: usize) -> Step {
    if affected == expected as u64 {
        Ok(())
    } else {
        Err(Failed::wrong(format!("{affected} rows changed, not {expected}")))
    }
}
