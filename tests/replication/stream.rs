use std::time::{Duration, Instant};

use pgrecast::pg::replication::{Frame, Login};
use pgrecast::pg::{Lsn, Verdict};
use pgrecast::stream::{Event, decode};

use super::{PATIENCE, Site, events_to_barrier, next, texts};

/// What an event says, in short.
fn short(event: &Event) -> String {
    match event {
        Event::Changes { keys, commit_end, .. } => {
            format!("{}{}", texts(keys).join(" "), if commit_end.is_some() { " end" } else { "" })
        }
        Event::Truncated { .. } => "truncated".to_owned(),
        Event::Values { keys, .. } => format!("values {}", texts(keys).join(" ")),
        Event::Barrier { token, .. } => format!("barrier {token}"),
        Event::Schema(relation) => format!("schema {}", relation.name),
        Event::Empty { .. } => "empty".to_owned(),
    }
}

#[tokio::test]
async fn every_kind_of_change_is_seen() {
    let site = Site::new("stream_kinds").await;
    let mut stream = site.start(Lsn::ZERO).await;
    let long = "repeat('x', 100000)";
    for statement in [
        &format!("INSERT INTO orders VALUES ({long}, 'eu', 1), ('y', 'us', 2)"),
        "UPDATE orders SET note = 'z' WHERE id = 1",
        "UPDATE orders SET id = 3 WHERE id = 1",
        "DELETE FROM orders WHERE id = 2",
        "BEGIN; INSERT INTO orders VALUES ('', 'eu', 4); TRUNCATE orders, other; INSERT INTO orders VALUES ('', 'ü', 5); COMMIT",
        "INSERT INTO other VALUES (1); SELECT pg_logical_emit_message(true, 'else', 'no')",
        "SELECT pg_logical_emit_message(false, 'pgrecast', 'now')",
        "BEGIN; SELECT pg_logical_emit_message(true, 'pgrecast', 'done'); INSERT INTO orders VALUES ('', 'eu', 6); COMMIT",
    ] {
        site.execute(statement).await;
    }
    let mut assembler = site.assembler(100).await;
    let events = events_to_barrier(&mut stream, &mut assembler, "done").await;
    // Before PostgreSQL 15, a transaction with nothing published is sent as well.
    let seen: Vec<_> = events.iter().map(short).filter(|event| event != "empty").collect();
    let expected = [
        "schema orders",
        "1/eu 2/us end",
        "1/eu end",
        "1/eu 3/eu end",
        "2/us end",
        "4/eu",
        "truncated",
        "5/ü end",
        "barrier now",
        "6/eu end",
        "barrier done",
    ];
    assert_eq!(seen, expected);
    let end = site.wal_end().await;
    assert!(events.iter().all(|event| !matches!(event, Event::Barrier { end_lsn, .. } if *end_lsn > end)));
}

#[tokio::test]
async fn the_shape_of_the_source_is_told_again_when_it_changes() {
    let site = Site::new("stream_shape").await;
    site.execute("ALTER PUBLICATION \"our's\" SET TABLE orders").await;
    let mut stream = site.start(Lsn::ZERO).await;
    let barrier = "SELECT pg_logical_emit_message(true, 'pgrecast', 'done')";
    site.execute("INSERT INTO orders VALUES ('', 'eu', 1)").await;
    site.execute("ALTER TABLE orders ADD more int").await;
    site.execute(&format!("INSERT INTO orders VALUES ('', 'eu', 2); {barrier}")).await;
    let mut assembler = site.assembler(100).await;
    let events = events_to_barrier(&mut stream, &mut assembler, "done").await;
    let widths: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            Event::Schema(relation) => Some(relation.columns.len()),
            _ => None,
        })
        .collect();
    assert_eq!(widths, [3, 4]);
}

#[tokio::test]
async fn a_full_identity_names_a_row_once() {
    let site = Site::new("stream_full").await;
    site.execute("ALTER TABLE orders REPLICA IDENTITY FULL; ALTER PUBLICATION \"our's\" SET TABLE orders").await;
    let mut stream = site.start(Lsn::ZERO).await;
    site.execute("INSERT INTO orders VALUES (repeat('x', 100000), 'eu', 1)").await;
    site.execute("UPDATE orders SET note = 'short'").await;
    site.execute("UPDATE orders SET region = 'us'").await;
    site.execute("DELETE FROM orders; SELECT pg_logical_emit_message(true, 'pgrecast', 'done')").await;
    let mut assembler = site.assembler(100).await;
    let events = events_to_barrier(&mut stream, &mut assembler, "done").await;
    let seen: Vec<_> = events.iter().map(short).collect();
    assert_eq!(seen, ["schema orders", "1/eu end", "1/eu end", "1/eu 1/us end", "1/us end", "barrier done"]);
}

#[tokio::test]
async fn a_key_that_is_stored_out_of_line_is_found() {
    let site = Site::new("stream_toast").await;
    site.execute("ALTER TABLE orders ALTER region SET STORAGE EXTERNAL").await;
    let mut stream = site.start(Lsn::ZERO).await;
    // Beyond what a row keeps in line, within what an index takes.
    site.execute("INSERT INTO orders VALUES (repeat('x', 1900), repeat('r', 2100), 1)").await;
    site.execute("UPDATE orders SET note = 'other'").await;
    site.execute("UPDATE orders SET id = 2; SELECT pg_logical_emit_message(true, 'pgrecast', 'done')").await;
    let mut assembler = site.assembler(100).await;
    let events = events_to_barrier(&mut stream, &mut assembler, "done").await;
    let (one, two) = (format!("1/{}", "r".repeat(2100)), format!("2/{}", "r".repeat(2100)));
    let seen: Vec<_> = events.iter().map(short).collect();
    let expected =
        ["schema orders", &format!("{one} end"), &format!("{one} end"), &format!("{one} {two} end"), "barrier done"];
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn a_large_transaction_comes_in_parts_through_reads_that_are_dropped() {
    const ROWS: usize = 20_000;
    const PART: usize = 1000;
    let site = Site::new("stream_parts").await;
    let mut stream = site.start(Lsn::ZERO).await;
    site.execute(&format!("INSERT INTO orders SELECT '', 'eu', g FROM generate_series(1, {ROWS}) g")).await;
    let mut assembler = site.assembler(PART).await;
    let mut events = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    while !matches!(events.last(), Some(Event::Changes { commit_end: Some(_), .. })) {
        assert!(Instant::now() < deadline, "{} events", events.len());
        // Whatever is not there at once is dropped and asked for again.
        let frame = tokio::select! {
            biased;
            frame = stream.next() => Some(frame.expect("a frame")),
            () = tokio::task::yield_now() => stream.try_next_buffered().expect("no error"),
        };
        if let Some(Frame::XLogData { data, .. }) = frame {
            assembler.feed(&decode(data).expect("a message"), &mut events).expect("a valid stream");
        }
    }
    let parts: Vec<usize> = events
        .iter()
        .filter_map(|e| if let Event::Changes { keys, .. } = e { Some(keys.len()) } else { None })
        .collect();
    assert_eq!(parts.iter().sum::<usize>(), ROWS);
    assert!(parts.iter().all(|&keys| keys <= PART), "{parts:?}");
}

#[tokio::test]
async fn the_slot_moves_only_when_told_and_the_stream_resumes_there() {
    let site = Site::new("stream_resume").await;
    let mut stream = site.start(Lsn::ZERO).await;
    let created = site.slot("confirmed_flush_lsn").await;
    let insert = |id: u32| {
        format!("INSERT INTO orders VALUES ('', 'eu', {id}); SELECT pg_logical_emit_message(true, 'pgrecast', '{id}')")
    };
    site.execute(&insert(1)).await;
    site.execute(&insert(2)).await;
    let mut assembler = site.assembler(100).await;
    let events = events_to_barrier(&mut stream, &mut assembler, "2").await;
    let ends: Vec<Lsn> = events
        .iter()
        .filter_map(|event| match event {
            Event::Changes { commit_end, .. } => *commit_end,
            _ => None,
        })
        .collect();

    // Received, and nothing flushed: the server takes note of the first, and the slot stays.
    let received = *ends.last().expect("an end");
    stream.status(received, Lsn::ZERO).await.expect("reported");
    site.wait_for(&format!(
        "SELECT bool_and(write_lsn >= '{received}') FROM pg_stat_replication WHERE pid = {}",
        stream.backend_pid()
    ))
    .await;
    assert_eq!(site.slot("confirmed_flush_lsn").await, created);

    stream.status(received, ends[0]).await.expect("reported");
    site.wait_for(&format!(
        "SELECT confirmed_flush_lsn = '{}' FROM pg_replication_slots WHERE slot_name = 'stream_resume'",
        ends[0]
    ))
    .await;
    stream.stop().await.expect("stopped");
    site.wait_for("SELECT NOT active FROM pg_replication_slots WHERE slot_name = 'stream_resume'").await;

    let mut stream = site.start(ends[0]).await;
    let mut assembler = site.assembler(100).await;
    let events = events_to_barrier(&mut stream, &mut assembler, "2").await;
    let seen: Vec<_> = events.iter().map(short).collect();
    assert_eq!(seen, ["schema orders", "2/eu end", "barrier 2"]);
}

#[tokio::test]
async fn a_client_that_answers_keepalives_stays() {
    let site = Site::new("stream_alive").await;
    let login = || Login { options: "-c wal_sender_timeout=500ms".to_owned(), ..site.login() };
    let mut stream = site.start_as(login(), Lsn::ZERO).await.expect("started");
    let mut asked = 0;
    while asked < 4 {
        if let Frame::Keepalive { end, reply_requested } = next(&mut stream).await.expect("a frame") {
            asked += u32::from(reply_requested);
            stream.status(end, Lsn::ZERO).await.expect("reported");
        }
    }
    drop(stream);
    site.wait_for("SELECT NOT active FROM pg_replication_slots WHERE slot_name = 'stream_alive'").await;

    let mut silent = site.start_as(login(), Lsn::ZERO).await.expect("started");
    let error = loop {
        if let Err(error) = next(&mut silent).await {
            break error;
        }
    };
    assert!(error.connection_lost, "{error}");
}

#[tokio::test]
async fn a_terminated_backend_is_a_lost_connection() {
    let site = Site::new("stream_terminated").await;
    let mut stream = site.start(Lsn::ZERO).await;
    site.sql.query_one("SELECT pg_terminate_backend($1)", &[&stream.backend_pid()]).await.expect("terminated");
    let error = loop {
        if let Err(error) = next(&mut stream).await {
            break error;
        }
    };
    assert!(error.connection_lost, "{error}");
    assert_eq!(error.verdict(), Verdict::Reconnect);
}

#[tokio::test]
async fn an_unknown_publication_is_reported_by_the_stream() {
    let site = Site::new("stream_unknown").await;
    let mut stream = site.start(Lsn::ZERO).await;
    site.execute("DROP PUBLICATION \"our's\"; INSERT INTO orders VALUES ('', 'eu', 1)").await;
    let error = tokio::time::timeout(Duration::from_secs(5), async {
        loop {
            match stream.next().await {
                Ok(Frame::Keepalive { end, .. }) => stream.status(end, Lsn::ZERO).await.expect("reported"),
                Ok(Frame::XLogData { .. }) => {}
                Err(error) => break Some(error),
            }
        }
    });
    // From PostgreSQL 18 a missing publication is skipped with a warning.
    match error.await.ok().flatten() {
        Some(error) => assert_eq!(error.sqlstate.as_ref().map(|state| state.code()), Some("42704"), "{error}"),
        None => assert!(super::major(&site.sql).await >= 18),
    }
}
