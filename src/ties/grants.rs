//! Privileges, given again by the roles that gave them. Pure.

use serde::Deserialize;

use crate::pg::Ident;
use crate::preflight::{Finding, Obstacle};

/// A privilege on a relation or one of its columns.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Grant {
    /// The role; `None` for PUBLIC.
    pub grantee: Option<String>,
    /// `SELECT` …
    pub privilege: String,
    /// WITH GRANT OPTION.
    pub grantable: bool,
    /// For a column privilege.
    pub column: Option<String>,
    /// The role that granted it, where that is not the owner.
    pub grantor: Option<String>,
    /// Why that role cannot grant it again; where preflight has asked for it.
    #[serde(default)]
    pub obstacle: Option<Obstacle>,
}

impl Grant {
    /// Whether this one lets its grantee grant the other.
    fn allows(&self, other: &Grant) -> bool {
        self.grantable
            && self.grantee.is_some()
            && self.grantee == other.grantor
            && self.privilege == other.privilege
            && (self.column.is_none() || self.column == other.column)
    }

    /// The privilege on `on`, as SQL; the grantor has to be the role that says it.
    pub fn statements(&self, on: &str, column: Option<&str>, owner: &str) -> Vec<String> {
        let column = column.map(|c| format!(" ({})", Ident(c))).unwrap_or_default();
        let to = crate::pg::sql::grantee(self.grantee.as_deref());
        // An owner always has the grant option; saying so would be kept as a grant to oneself.
        let own = self.grantor.is_none() && self.grantee.as_deref() == Some(owner);
        let option = if self.grantable && self.grantee.is_some() && !own { " WITH GRANT OPTION" } else { "" };
        let grant = format!("GRANT {}{column} ON {on} TO {to}{option}", self.privilege);
        match &self.grantor {
            None => vec![grant],
            Some(grantor) => vec![format!("SET LOCAL ROLE {}", Ident(grantor)), grant, "RESET ROLE".to_owned()],
        }
    }
}

/// The grants on one relation in an order in which each grantor has the option that it needs, as near to theirs as may be.
pub fn in_order<'a>(grants: impl IntoIterator<Item = &'a Grant>) -> Vec<&'a Grant> {
    let mut left: Vec<&Grant> = grants.into_iter().collect();
    let mut ordered: Vec<&Grant> = Vec::with_capacity(left.len());
    while !left.is_empty() {
        let ready = |g: &&Grant| g.grantor.is_none() || ordered.iter().any(|before| before.allows(g));
        // The server takes care that no chain ends in nothing; should one, it says so of the first.
        let next = left.iter().position(ready).unwrap_or(0);
        ordered.push(left.remove(next));
    }
    ordered
}

/// What keeps these privileges on `what`, in `schema`, from being granted again.
pub fn hindered(grants: &[Grant], what: &str, schema: &str) -> Vec<Finding> {
    let mut found: Vec<Finding> =
        grants.iter().filter_map(|g| Some(g.obstacle?.finding(what, schema, g.grantor.as_deref()?))).collect();
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(grantor: Option<&str>, privilege: &str, column: Option<&str>, to: &str, grantable: bool) -> Grant {
        let text = |t: &str| t.to_owned();
        Grant {
            grantee: Some(text(to)),
            privilege: text(privilege),
            grantable,
            column: column.map(text),
            grantor: grantor.map(text),
            obstacle: None,
        }
    }

    #[test]
    fn who_grants_has_the_option_before() {
        let grants = [
            grant(Some("b"), "SELECT", Some("x"), "c", false),
            grant(None, "UPDATE", None, "b", true),
            grant(Some("a"), "SELECT", None, "b", true),
            grant(None, "SELECT", Some("y"), "b", true),
            grant(None, "SELECT", None, "a", true),
        ];
        let order: Vec<usize> = in_order(&grants)
            .into_iter()
            .map(|g| grants.iter().position(|other| other == g).expect("one of them"))
            .collect();
        assert_eq!(order, [1, 3, 4, 2, 0]);
    }

    #[test]
    fn a_grantor_is_become_for_its_own_grant_only() {
        let chained = grant(Some("A \"1\""), "SELECT", Some("x"), "c", true);
        assert_eq!(
            chained.statements("s.t", Some("y"), "o"),
            ["SET LOCAL ROLE \"A \"\"1\"\"\"", "GRANT SELECT (\"y\") ON s.t TO \"c\" WITH GRANT OPTION", "RESET ROLE"]
        );
        assert_eq!(
            grant(None, "SELECT", None, "o", true).statements("s.t", None, "o"),
            ["GRANT SELECT ON s.t TO \"o\""]
        );
    }
}
