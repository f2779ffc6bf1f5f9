//! The verification against a real server.

mod differences;
mod held;
mod pair;
#[path = "../replication/server.rs"]
mod server;
mod traffic;
mod types;

use std::collections::HashSet;
use std::sync::Mutex;

use pgrecast::error::Failure;
use pgrecast::stream::Key;
use pgrecast::verify::InStep;

/// Nothing changes meanwhile.
struct Still;

impl InStep for Still {
    async fn watch(&self, _: Vec<Key>) -> Result<(), Failure> {
        Ok(())
    }

    async fn settle(&self) -> Result<(), Failure> {
        Ok(())
    }

    async fn touched(&self) -> Result<HashSet<Key>, Failure> {
        Ok(HashSet::new())
    }
}

/// The stream brings these keys, and no others, again and again.
struct Restless {
    keys: HashSet<Key>,
    watched: Mutex<HashSet<Key>>,
}

impl Restless {
    fn new(keys: &[&[&str]]) -> Self {
        let keys = keys.iter().map(|k| Key::new(k.iter().copied()).expect("a key")).collect();
        Restless { keys, watched: Mutex::default() }
    }
}

impl InStep for Restless {
    async fn watch(&self, keys: Vec<Key>) -> Result<(), Failure> {
        *self.watched.lock().expect("no panic") = keys.into_iter().collect();
        Ok(())
    }

    async fn settle(&self) -> Result<(), Failure> {
        Ok(())
    }

    async fn touched(&self) -> Result<HashSet<Key>, Failure> {
        Ok(self.keys.intersection(&self.watched.lock().expect("no panic")).cloned().collect())
    }
}
