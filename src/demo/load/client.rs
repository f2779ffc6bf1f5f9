//! What one client does: random statements, each answer checked against what the client knows of the table.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use jiff::Timestamp;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::speaker::{Ask, SCANNED, Speaker};
use super::{Account, CLIENTS, Pause, Shared, THINK};
use crate::demo::table::{customers, first_cents};

/// Errors whose words are kept; more of them say nothing new.
const KEPT_ERRORS: usize = 3;

/// The longest answer of each such time is kept, in milliseconds: enough to find it again beside the swap.
const SLOT: i64 = 100;

/// What an order costs at most, in cents.
const MOST_CENTS: i64 = 100_000;

/// One client. Each writes only orders that no other one does, so it knows what they are.
pub struct Client {
    speaker: Speaker,
    number: i64,
    rows: i64,
    customers: i64,
    rng: StdRng,
    account: Account,
}

impl Client {
    /// The client of that number, on a table with the keys 1 to `rows`.
    pub fn new(speaker: Speaker, number: usize, rows: u64) -> Client {
        Client {
            speaker,
            number: i64::try_from(number).unwrap_or_default(),
            rows: rows.cast_signed(),
            customers: customers(rows).cast_signed(),
            rng: StdRng::seed_from_u64(number as u64),
            account: Account::default(),
        }
    }

    /// Works until told to stop, or until the connection is gone.
    pub async fn run(mut self, shared: &Arc<Shared>) -> Client {
        while !shared.stop.load(Ordering::Relaxed) && !self.speaker.is_closed() {
            self.step(shared).await;
            tokio::time::sleep(THINK).await;
        }
        self
    }

    /// One statement, weighted like an application's.
    async fn step(&mut self, shared: &Shared) {
        let cents = self.rng.random_range(0..MOST_CENTS);
        let (ask, numbers) = match self.rng.random_range(0..100) {
            0..45 => (Ask::Read, [self.some_order(), 0]),
            45..50 => (Ask::Scan, [self.rng.random_range(1..=self.rows - SCANNED), 0]),
            50..65 => (Ask::Customer, [self.rng.random_range(1..=self.customers), 0]),
            65..80 => (Ask::Insert, [self.rng.random_range(1..=self.customers), cents]),
            _ => (Ask::Update, [self.some_order(), cents]),
        };
        let (stage, at, begun) = (shared.stage(), Timestamp::now(), Instant::now());
        let answer = self.speaker.ask(ask, numbers).await;
        self.time(Pause { at, took: begun.elapsed(), stage });
        if let Err(wrong) = answer.and_then(|answer| self.check(ask, numbers, answer)) {
            self.fail(format!("{ask:?} {}: {wrong}", numbers[0]));
        }
    }

    /// One of the orders that were there at first, of which each client has its share.
    fn some_order(&mut self) -> i64 {
        let clients = CLIENTS as i64;
        let turn = self.rng.random_range(0..(self.rows - self.number - 1) / clients);
        turn * clients + self.number + 1
    }

    /// Enters what was written, and compares what was read.
    fn check(&mut self, ask: Ask, numbers: [i64; 2], answer: Option<i64>) -> Result<(), String> {
        let expected = match ask {
            Ask::Read => self.account.book.get(&numbers[0]).copied().or(Some(first_cents(numbers[0]))),
            Ask::Scan => Some(SCANNED),
            // Other clients give orders to a customer as well.
            Ask::Customer => answer.filter(|orders| *orders > 0).or(Some(1)),
            Ask::Insert => {
                self.account.inserted += 1;
                let key = answer.filter(|key| *key > self.rows).ok_or("no new key")?;
                self.account.book.insert(key, numbers[1]);
                answer
            }
            Ask::Update => {
                self.account.updated += 1;
                self.account.book.insert(numbers[0], numbers[1]);
                Some(numbers[0])
            }
        };
        if answer == expected { Ok(()) } else { Err(format!("answered {answer:?}, not {expected:?}")) }
    }

    fn time(&mut self, pause: Pause) {
        self.account.statements[pause.stage as usize] += 1;
        let slot = |p: &Pause| (p.stage, p.at.as_millisecond() / SLOT);
        match self.account.pauses.last_mut().filter(|last| slot(last) == slot(&pause)) {
            Some(last) if last.took >= pause.took => {}
            Some(last) => *last = pause,
            None => self.account.pauses.push(pause),
        }
    }

    fn fail(&mut self, error: String) {
        self.account.failed += 1;
        if self.account.errors.len() < KEPT_ERRORS {
            self.account.errors.push(error);
        }
    }

    /// Adds what this client saw and wrote to what others did.
    pub fn enter_into(self, all: &mut Account) {
        let mine = self.account;
        for (sum, statements) in all.statements.iter_mut().zip(mine.statements) {
            *sum += statements;
        }
        all.failed += mine.failed;
        all.errors.extend(mine.errors);
        all.pauses.extend(mine.pauses);
        all.inserted += mine.inserted;
        all.updated += mine.updated;
        all.book.extend(mine.book);
    }
}
