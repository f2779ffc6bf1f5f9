//! A network between the program and its server that can be cut and can stall.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Condvar, Mutex};

/// All connections through one port.
pub struct Wire {
    port: u16,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    server: AtomicU16,
    stalled: Mutex<bool>,
    flows: Condvar,
    open: Mutex<Vec<TcpStream>>,
}

impl Wire {
    /// Relays to this port of the machine, also after its server was restarted.
    pub fn to(server: u16) -> Wire {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("its number").port();
        let shared = Arc::<Shared>::default();
        shared.server.store(server, Ordering::SeqCst);
        let of_connections = Arc::clone(&shared);
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                // Without a server there, the client is hung up on.
                let server = of_connections.server.load(Ordering::SeqCst);
                let Ok(server) = TcpStream::connect(("127.0.0.1", server)) else { continue };
                of_connections.relay(&client, &server);
                of_connections.relay(&server, &client);
            }
        });
        Wire { port, shared }
    }

    /// The same address over this wire.
    pub fn dsn(&self, dsn: &str, server: u16) -> String {
        let through = dsn.replace(&format!(":{server}/"), &format!(":{}/", self.port));
        assert_ne!(through, dsn, "the address names the server's port");
        through
    }

    /// From now on connections go to the server on this port; those there are stay.
    pub fn lead_to(&self, server: u16) {
        self.shared.server.store(server, Ordering::SeqCst);
    }

    /// Cuts every connection there is.
    pub fn cut(&self) {
        for stream in self.shared.open.lock().expect("no relay panics").drain(..) {
            // It may be gone already.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Nothing passes until it flows again.
    pub fn stall(&self, stalled: bool) {
        *self.shared.stalled.lock().expect("no relay panics") = stalled;
        self.shared.flows.notify_all();
    }
}

impl Shared {
    /// One direction of a connection.
    fn relay(self: &Arc<Self>, from: &TcpStream, to: &TcpStream) {
        let (mut from, mut to) = (from.try_clone().expect("a socket"), to.try_clone().expect("a socket"));
        self.open.lock().expect("no relay panics").push(from.try_clone().expect("a socket"));
        let shared = Arc::clone(self);
        std::thread::spawn(move || {
            let mut buffer = [0; 65_536];
            while let Ok(n @ 1..) = from.read(&mut buffer) {
                let stalled = shared.stalled.lock().expect("no relay panics");
                drop(shared.flows.wait_while(stalled, |stalled| *stalled).expect("no relay panics"));
                if to.write_all(&buffer[..n]).is_err() {
                    break;
                }
            }
            let _ = from.shutdown(Shutdown::Both);
            let _ = to.shutdown(Shutdown::Both);
        });
    }
}
