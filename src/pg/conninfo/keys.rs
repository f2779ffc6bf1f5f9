//! The connection options of libpq (PostgreSQL manual, 34.1.2 and 34.15): which are honoured, which are refused, and
//! the variable behind each.

use std::collections::BTreeMap;

use crate::error::Failure;

/// One connection option.
#[derive(Debug)]
pub(super) struct Key {
    /// As it is written in a DSN and in the service file.
    pub(super) name: &'static str,
    /// The environment variable that sets it.
    pub(super) variable: Option<&'static str>,
    /// For options that are not honoured: the values under which that makes no difference.
    harmless: Option<&'static [&'static str]>,
}

const fn honoured(name: &'static str, variable: Option<&'static str>) -> Key {
    Key { name, variable, harmless: None }
}

const fn refused(name: &'static str, variable: Option<&'static str>, harmless: &'static [&'static str]) -> Key {
    Key { name, variable, harmless: Some(harmless) }
}

/// Every option that libpq 15 to 18 knows and a DSN may thus carry.
pub(super) const KEYS: &[Key] = &[
    honoured("service", Some("PGSERVICE")),
    honoured("host", Some("PGHOST")),
    honoured("hostaddr", Some("PGHOSTADDR")),
    honoured("port", Some("PGPORT")),
    honoured("dbname", Some("PGDATABASE")),
    honoured("user", Some("PGUSER")),
    honoured("password", Some("PGPASSWORD")),
    honoured("passfile", Some("PGPASSFILE")),
    honoured("channel_binding", Some("PGCHANNELBINDING")),
    honoured("connect_timeout", Some("PGCONNECT_TIMEOUT")),
    honoured("options", Some("PGOPTIONS")),
    honoured("application_name", Some("PGAPPNAME")),
    honoured("fallback_application_name", None),
    honoured("keepalives", None),
    honoured("keepalives_idle", None),
    honoured("keepalives_interval", None),
    honoured("keepalives_count", None),
    honoured("tcp_user_timeout", None),
    honoured("sslmode", Some("PGSSLMODE")),
    honoured("sslrootcert", Some("PGSSLROOTCERT")),
    honoured("sslcert", Some("PGSSLCERT")),
    honoured("sslkey", Some("PGSSLKEY")),
    honoured("sslsni", Some("PGSSLSNI")),
    honoured("requirepeer", Some("PGREQUIREPEER")),
    honoured("target_session_attrs", Some("PGTARGETSESSIONATTRS")),
    // Taken, and of no consequence: text is UTF-8 whatever is asked, GSSAPI is never used, and no TLS library of today
    // compresses.
    honoured("client_encoding", Some("PGCLIENTENCODING")),
    honoured("gsslib", Some("PGGSSLIB")),
    honoured("krbsrvname", Some("PGKRBSRVNAME")),
    honoured("gssdelegation", Some("PGGSSDELEGATION")),
    honoured("sslcompression", Some("PGSSLCOMPRESSION")),
    refused("load_balance_hosts", Some("PGLOADBALANCEHOSTS"), &["disable"]),
    refused("gssencmode", Some("PGGSSENCMODE"), &["disable", "prefer"]),
    refused("replication", None, &["0", "false", "off", "no"]),
    refused("requiressl", Some("PGREQUIRESSL"), &["0"]),
    refused("require_auth", Some("PGREQUIREAUTH"), &[]),
    refused("sslcertmode", Some("PGSSLCERTMODE"), &["allow"]),
    refused("sslcrl", Some("PGSSLCRL"), &[]),
    refused("sslcrldir", Some("PGSSLCRLDIR"), &[]),
    refused("sslkeylogfile", None, &[]),
    refused("sslnegotiation", Some("PGSSLNEGOTIATION"), &["postgres"]),
    refused("sslpassword", None, &[]),
    // TLS 1.2 and 1.3 are what there is here.
    refused("ssl_min_protocol_version", Some("PGSSLMINPROTOCOLVERSION"), &["tlsv1", "tlsv1.1", "tlsv1.2"]),
    refused("ssl_max_protocol_version", Some("PGSSLMAXPROTOCOLVERSION"), &["tlsv1.3"]),
    refused("min_protocol_version", Some("PGMINPROTOCOLVERSION"), &["3.0"]),
    refused("max_protocol_version", Some("PGMAXPROTOCOLVERSION"), &["3.0", "3.2", "latest"]),
    refused("scram_client_key", None, &[]),
    refused("scram_server_key", None, &[]),
    refused("oauth_issuer", None, &[]),
    refused("oauth_client_id", None, &[]),
    refused("oauth_client_secret", None, &[]),
    refused("oauth_scope", None, &[]),
    refused("servicefile", None, &[]),
];

/// Options by name. An empty value means the default, but keeps sources of lower rank from setting the option.
#[derive(Default, Clone, PartialEq, Eq)]
pub(super) struct Settings(BTreeMap<&'static str, String>);

impl Settings {
    /// Sets an option; within one source the last one written wins.
    ///
    /// # Errors
    /// An unknown option, or one whose value asks for what is not supported; the value is never repeated.
    pub(super) fn set(&mut self, name: &str, value: String) -> Result<(), Failure> {
        let key = KEYS.iter().find(|key| key.name == name).ok_or_else(|| {
            Failure::usage(format!("unknown connection option \"{name}\""))
                .hint("Connection options are those of libpq; special characters in a URI are percent-encoded.")
        })?;
        if let Some(harmless) = key.harmless
            && !value.is_empty()
            && !harmless.contains(&value.to_ascii_lowercase().as_str())
        {
            return Err(unsupported(key, harmless));
        }
        self.0.insert(key.name, value);
        Ok(())
    }

    /// Sets an option unless a source of higher rank did.
    pub(super) fn set_default(&mut self, name: &str, value: String) -> Result<(), Failure> {
        if self.0.contains_key(name) { Ok(()) } else { self.set(name, value) }
    }

    /// The option's value, where it is set and not empty.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }
}

fn unsupported(key: &Key, harmless: &[&str]) -> Failure {
    let failure = Failure::usage(format!("connection option \"{}\" is not supported", key.name));
    let failure = match key.variable {
        Some(variable) => failure.detail(format!("The environment variable {variable} sets it too.")),
        None => failure,
    };
    if harmless.is_empty() {
        failure.hint("Leave it out.")
    } else {
        failure.hint(format!("Leave it out, or set it to one of: {}.", harmless.join(", ")))
    }
}
