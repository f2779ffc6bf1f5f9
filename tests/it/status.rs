//! `--status-listen`: where a run is, over HTTP.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use serde_json::Value;

use crate::harness::Db;
use crate::harness::load::Shape;
use crate::harness::migration::{command, finish, widen};

/// The head and the body of an answer.
fn get(address: &str, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).expect("somebody who listens");
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n").expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    (head.to_owned(), body.to_owned())
}

#[test]
fn a_run_shows_where_it_is_at_this_address_and_no_other() {
    let db = Db::new();
    db.sql(Shape::plain_ddl());
    db.sql("INSERT INTO t (id, v) SELECT -n, 'x' FROM generate_series(1, 50) AS n");
    let free = TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("its address");
    let address = free.to_string();
    let running = widen(&db, &["--postpone-cutover", "--status-listen", &address]);
    running.wait_for_waiting("pgrecast cutover");
    let (head, body) = get(&address, "/status");
    assert!(head.starts_with("HTTP/1.0 200") && head.contains("application/json"), "{head}");
    let status: Value = serde_json::from_str(&body).expect("an object");
    assert_eq!((&status["phase"], &status["report"]["outcome"]), (&"ready".into(), &"running".into()), "{status}");
    assert_eq!(status["report"]["verify"]["rows_compared"], 50, "{status}");
    assert!(status["waiting"].as_str().is_some_and(|on| on.contains("pgrecast cutover")), "{status}");
    let (head, metrics) = get(&address, "/metrics");
    assert!(head.contains("openmetrics-text"), "{head}");
    assert!(metrics.contains("\npgrecast_phase{phase=\"ready\"} 1\n") && metrics.contains("\npgrecast_running 1.0\n"));
    let (head, page) = get(&address, "/");
    assert!(head.contains("text/html") && page.contains("<td>ready</td>"), "{head}\n{page}");
    assert!(get(&address, "/other").0.starts_with("HTTP/1.0 404"));
    assert!(TcpStream::connect(("127.0.0.2", free.port())).is_err(), "it listens elsewhere as well");
    let second = command(&db, &["resume", "--status-listen", &address]).wait();
    assert!(second.code == Some(3) && second.stderr.contains("cannot listen"), "{}", second.stderr);
    command(&db, &["cutover"]).wait().ended(0);
    running.done();
    assert!(TcpStream::connect(free).is_err(), "it listens when the run is over");
    finish(&db);
}
