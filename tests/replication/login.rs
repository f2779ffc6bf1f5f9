use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use pgrecast::pg::replication::{Login, Replication};
use pgrecast::pg::{Error, Verdict};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::{Site, major};

fn code(error: &Error) -> Option<&str> {
    error.sqlstate.as_ref().map(|state| state.code())
}

#[tokio::test]
async fn scram_logs_in_and_settings_hold() {
    let site = Site::new("login_scram").await;
    let mut replication = site.connect().await;
    let look = "SELECT current_setting('TimeZone'), current_setting('DateStyle'); SELECT NULL, 'ü'";
    let shown = replication.simple_query("look", look).await;
    let text = |text: &str| Some(text.to_owned());
    let expected = vec![vec![text("UTC"), text("ISO, MDY")], vec![None, text("ü")]];
    assert_eq!(shown.expect("rows"), expected);
    assert_eq!(i64::from(replication.server_major()), i64::from(major(&site.sql).await));
    let pid = replication.backend_pid();
    let query = "SELECT application_name FROM pg_stat_activity WHERE pid = $1";
    let name: String = site.sql.query_one(query, &[&pid]).await.expect("the process").get(0);
    assert_eq!(name, "pgrecast login_scram");
    replication.close().await;
    site.wait_for(&format!("SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = {pid})")).await;
}

#[tokio::test]
async fn a_wrong_password_is_told_by_its_sqlstate() {
    let site = Site::new("login_wrong").await;
    let wrong = Login { password: Some("wrong".to_owned()), ..site.login() };
    let error = site.connect_as(wrong).await.err().expect("refused");
    assert_eq!((code(&error), error.verdict()), (Some("28P01"), Verdict::Stop), "{error}");
    let none = Login { password: None, ..site.login() };
    let error = site.connect_as(none).await.err().expect("refused");
    assert_eq!(error.message, "the server asks for a password, and none was given");
}

#[tokio::test]
async fn older_methods_log_in() {
    let site = Site::new("login_older").await;
    site.execute("SET password_encryption = 'md5'; CREATE ROLE md5_user LOGIN REPLICATION PASSWORD 'geheim'").await;
    site.execute("CREATE ROLE plain_user LOGIN REPLICATION PASSWORD 'geheim'").await;
    for (user, known) in [("md5_user", "geheim"), ("plain_user", "geheim")] {
        let login =
            |password: &str| Login { user: user.to_owned(), password: Some(password.to_owned()), ..site.login() };
        assert!(site.connect_as(login(known)).await.is_ok(), "{user}");
        let error = site.connect_as(login("wrong")).await.err().expect("refused");
        assert_eq!(code(&error), Some("28P01"), "{user}: {error}");
    }
}

#[tokio::test]
async fn scram_binds_to_the_tls_channel() {
    let site = Site::new("login_tls").await;
    let folder = site.server.folder.path();
    let end_point = end_point(folder);
    let bound = Login { tls_server_end_point: Some(end_point.clone()), ..site.login() };
    let mut replication = Replication::login(tls(&site).await, bound).await.expect("logged in");
    let rows = replication.simple_query("ssl", "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()").await;
    assert_eq!(rows.expect("rows"), [[Some("t".to_owned())]]);

    let mut other = end_point;
    other[0] ^= 1;
    let elsewhere = Login { tls_server_end_point: Some(other), ..site.login() };
    let error = Replication::login(tls(&site).await, elsewhere).await.err().expect("refused");
    assert!(error.message.contains("channel binding"), "{error}");
}

#[tokio::test]
async fn a_failed_statement_leaves_the_connection_usable() {
    let site = Site::new("login_failed").await;
    let mut replication = site.connect().await;
    let error = replication.simple_query("look", "SELECT ids FROM orders").await.expect_err("no such column");
    assert_eq!(code(&error), Some("42703"));
    assert_eq!(error.hint.as_deref(), Some("Perhaps you meant to reference the column \"orders.id\"."));
    let rows = replication.simple_query("look", "SELECT 1").await;
    assert_eq!(rows.expect("rows"), [[Some("1".to_owned())]]);
}

/// A TLS connection that trusts the server's own certificate.
async fn tls(site: &Site) -> tokio_rustls::client::TlsStream<TcpStream> {
    let der = std::fs::read(site.server.folder.path().join("server.der")).expect("a certificate");
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(der)).expect("a certificate");
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let mut stream = TcpStream::connect(("127.0.0.1", site.server.port)).await.expect("the server listens");
    // SSLRequest (manual 55.2.11).
    stream.write_all(&[0, 0, 0, 8, 4, 210, 22, 47]).await.expect("sent");
    assert_eq!(stream.read_u8().await.expect("an answer"), b'S');
    let name = ServerName::try_from("localhost").expect("a name");
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.expect("TLS")
}

/// The certificate's SHA-256, as openssl prints it: `… Fingerprint=AB:CD:…`.
fn end_point(folder: &Path) -> Vec<u8> {
    let arguments = ["x509", "-inform", "der", "-in", "server.der", "-noout", "-fingerprint", "-sha256"];
    let printed = Command::new("openssl").args(arguments).current_dir(folder).output().expect("openssl runs");
    let printed = String::from_utf8(printed.stdout).expect("text");
    let digits = printed.trim().split_once('=').expect("a fingerprint").1;
    digits.split(':').map(|byte| u8::from_str_radix(byte, 16).expect("hexadecimal")).collect()
}
