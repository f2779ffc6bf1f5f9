//! Everything that speaks against the migration, found at once, before anything is touched.
//!
//! Looks only; takes no lock beyond ACCESS SHARE on catalogs. Findings come in a stable order: the server, the role,
//! the table, what hangs on it.

mod dependents;
mod grantors;
mod kin;
mod server;
mod table;

pub use grantors::Obstacle;
pub use server::ServerFacts;
pub use table::find_table;

use crate::error::Failure;
use crate::pg::Conn;
use crate::plan::tree;

/// One reason not to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What is wrong, as a primary message.
    pub what: String,
    /// What would help.
    pub hint: String,
    /// Another role would do: nothing speaks against the migration itself.
    pub of_role: bool,
}

impl Finding {
    /// A finding.
    pub fn new(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Finding { what: what.into(), hint: hint.into(), of_role: false }
    }

    /// One that is about what the role may do.
    pub fn of_role(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Finding { of_role: true, ..Finding::new(what, hint) }
    }
}

/// Looks at everything; an empty list means go. `failover`: the slots are to be kept on standbys.
pub async fn look(conn: &Conn, facts: &ServerFacts, oid: u32, failover: bool) -> Result<Vec<Finding>, Failure> {
    let mut findings = server::findings(conn, facts).await?;
    if failover {
        findings.extend(server::failover_findings(conn, facts).await?);
    }
    findings.extend(look_again(conn, facts, oid).await?);
    Ok(findings)
}

/// What became of the table since: an empty list means that a swap loses nothing.
pub async fn look_again(conn: &Conn, facts: &ServerFacts, oid: u32) -> Result<Vec<Finding>, Failure> {
    let mut findings = table::findings(conn, facts, oid, false).await?;
    findings.extend(kin::findings(conn, oid).await?);
    findings.extend(grantors::findings(conn, facts, oid).await?);
    findings.extend(dependents::findings(conn, oid).await?);
    for place in tree::places(conn, oid).await? {
        findings.extend(table::findings(conn, facts, place.oid, true).await?);
        findings.extend(dependents::findings(conn, place.oid).await?);
    }
    // What is said of the database is said once.
    let mut seen = Vec::new();
    findings.retain(|finding| {
        let new = !seen.contains(&finding.what);
        seen.push(finding.what.clone());
        new
    });
    Ok(findings)
}

/// All findings as one refusal.
pub fn refusal(findings: Vec<Finding>) -> Result<(), Failure> {
    match &findings[..] {
        [] => Ok(()),
        [only] => Err(Failure::refused(only.what.clone()).hint(only.hint.clone())),
        [first, rest @ ..] => {
            let more: Vec<String> =
                rest.iter().map(|f| format!("{} ({})", f.what, f.hint.trim_end_matches('.'))).collect();
            Err(Failure::refused(first.what.clone())
                .detail(format!("There are {} more reasons: {}.", rest.len(), more.join("; ")))
                .hint(first.hint.clone()))
        }
    }
}
