//! A relay between the program and its server that cuts the cut-over's connection at its COMMIT.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// When the connection goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Before the server has read COMMIT: it rolls back.
    BeforeCommit,
    /// Once the server has answered COMMIT: nobody hears the answer.
    BeforeItsAnswer,
}

/// COMMIT as a message of the simple protocol.
const COMMIT: &[u8] = b"Q\0\0\0\x0bCOMMIT\0";
/// What only the connection of the cut-over says.
const LOCK: &[u8] = b"IN ACCESS EXCLUSIVE MODE";

/// One relay, which cuts once.
pub struct Proxy {
    port: u16,
    done: Arc<AtomicBool>,
}

impl Proxy {
    /// Relays to this port of the machine.
    pub fn start(server: u16, cut: Cut) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("its number").port();
        let done = Arc::new(AtomicBool::new(false));
        let cut_once = Arc::clone(&done);
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let server = TcpStream::connect(("127.0.0.1", server)).expect("the server listens");
                Relay { client, server, cut, done: Arc::clone(&cut_once), mute: Arc::default() }.start();
            }
        });
        Proxy { port, done }
    }

    /// The same address through the relay.
    pub fn dsn(&self, dsn: &str, server: u16) -> String {
        let through = dsn.replace(&format!(":{server}/"), &format!(":{}/", self.port));
        assert_ne!(through, dsn, "the address names the server's port");
        through
    }

    /// Whether it has cut.
    pub fn has_cut(&self) -> bool {
        self.done.load(Ordering::SeqCst)
    }
}

struct Relay {
    client: TcpStream,
    server: TcpStream,
    cut: Cut,
    done: Arc<AtomicBool>,
    /// Nothing of the server's reaches the client any more.
    mute: Arc<AtomicBool>,
}

impl Relay {
    fn start(self) {
        let other = Relay {
            client: self.client.try_clone().expect("a socket"),
            server: self.server.try_clone().expect("a socket"),
            cut: self.cut,
            done: Arc::clone(&self.done),
            mute: Arc::clone(&self.mute),
        };
        std::thread::spawn(move || {
            self.requests();
            self.hang_up();
        });
        std::thread::spawn(move || {
            other.answers();
            other.hang_up();
        });
    }

    fn hang_up(&self) {
        // Either may be gone already.
        let _ = self.client.shutdown(Shutdown::Both);
        let _ = self.server.shutdown(Shutdown::Both);
    }

    fn requests(&self) {
        let (mut client, mut server) = (&self.client, &self.server);
        let mut buffer = [0; 65_536];
        let mut locks = false;
        while let Ok(n @ 1..) = client.read(&mut buffer) {
            let said = &buffer[..n];
            locks |= said.windows(LOCK.len()).any(|part| part == LOCK);
            if locks && said.ends_with(COMMIT) && !self.done.swap(true, Ordering::SeqCst) {
                match self.cut {
                    Cut::BeforeCommit => return,
                    Cut::BeforeItsAnswer => self.mute.store(true, Ordering::SeqCst),
                }
            }
            if server.write_all(said).is_err() {
                return;
            }
        }
    }

    fn answers(&self) {
        let (mut client, mut server) = (&self.client, &self.server);
        let mut buffer = [0; 65_536];
        while let Ok(n @ 1..) = server.read(&mut buffer) {
            if self.mute.load(Ordering::SeqCst) || client.write_all(&buffer[..n]).is_err() {
                return;
            }
        }
    }
}
