use pgrecast::pg::Lsn;
use pgrecast::pg::replication::SlotOptions;

use super::Site;

#[tokio::test]
async fn a_slot_is_made_and_starts_where_it_says() {
    let site = Site::new("slot_made").await;
    let mut replication = site.connect().await;
    let slot = replication.create_slot("slot_made", SlotOptions::default()).await.expect("made");
    assert_eq!(slot.name, "slot_made");
    assert_eq!(site.slot("confirmed_flush_lsn").await, Some(slot.consistent_point.to_string()));
    assert_eq!(site.slot("plugin").await.as_deref(), Some("pgoutput"));
    let again = replication.create_slot("slot_made", SlotOptions::default()).await.expect_err("it exists");
    assert_eq!(again.sqlstate.as_ref().map(|state| state.code()), Some("42710"));
}

#[tokio::test]
async fn a_temporary_slot_goes_with_its_connection() {
    let site = Site::new("slot_temporary").await;
    let mut replication = site.connect().await;
    let options = SlotOptions { temporary: true, failover: false };
    replication.create_slot("slot_temporary", options).await.expect("made");
    assert_eq!(site.slot("temporary").await.as_deref(), Some("true"));
    drop(replication);
    site.wait_for("SELECT NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = 'slot_temporary')").await;
}

#[tokio::test]
async fn failover_is_asked_only_of_a_server_that_has_it() {
    let site = Site::new("slot_failover").await;
    let mut replication = site.connect().await;
    let options = SlotOptions { temporary: false, failover: true };
    let made = replication.create_slot("slot_failover", options).await;
    if replication.server_major() < 17 {
        let error = made.expect_err("not known");
        assert!(error.message.ends_with("has no failover slots"), "{error}");
    } else {
        made.expect("made");
        assert_eq!(site.slot("failover").await.as_deref(), Some("true"));
    }
}

#[tokio::test]
async fn waiting_for_a_slot_can_be_canceled() {
    let site = Site::new("slot_canceled").await;
    let writer = site.server.sql("postgres").await;
    writer.batch_execute("BEGIN; SELECT txid_current()").await.expect("a transaction with an id");
    let mut replication = site.connect().await;
    let pid = replication.backend_pid();
    let waiting = tokio::spawn(async move {
        let made = replication.create_slot("slot_canceled", SlotOptions::default()).await;
        (made, replication)
    });
    let waits = format!("SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = {pid} AND wait_event_type = 'Lock')");
    site.wait_for(&waits).await;
    site.sql.query_one("SELECT pg_cancel_backend($1)", &[&pid]).await.expect("canceled");
    let (made, mut replication) = waiting.await.expect("no panic");
    let error = made.expect_err("canceled");
    assert_eq!(error.sqlstate.as_ref().map(|state| state.code()), Some("57014"));
    assert_eq!(site.slot("slot_name").await, None);
    writer.batch_execute("ROLLBACK").await.expect("rolled back");
    replication.create_slot("slot_canceled", SlotOptions::default()).await.expect("made");
}

#[tokio::test]
async fn an_abandoned_command_is_not_mistaken_for_the_next_one() {
    let site = Site::new("slot_abandoned").await;
    let mut replication = site.connect().await;
    tokio::select! {
        biased;
        _ = replication.simple_query("sleep", "SELECT pg_sleep(60)") => panic!("it sleeps"),
        () = std::future::ready(()) => {}
    }
    let error = replication.simple_query("next", "SELECT 1").await.expect_err("refused");
    assert_eq!(error.message, "an earlier command on this connection was abandoned");
}

#[tokio::test]
async fn a_missing_slot_is_named_by_the_server() {
    let site = Site::new("slot_missing").await;
    let replication = site.connect().await;
    let error = replication.start("slot_missing", Lsn::ZERO, &[("proto_version", "1")]).await.err().expect("missing");
    assert_eq!(error.sqlstate.as_ref().map(|state| state.code()), Some("42704"), "{error}");
    assert_eq!(error.statement, "start replication");
}
