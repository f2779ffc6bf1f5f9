//! `ALTER TABLE` clauses as typed: cut apart and classified by PostgreSQL's own scanner and parser. Pure.
//!
//! PostgreSQL's grammar has RENAME as a statement of its own; here it may stand in the list with the others, and the
//! clauses then take effect in the order they are written, each run of non-RENAME clauses as one ALTER TABLE.

use pg_query::protobuf::{AlterTableCmd, AlterTableType, ConstrType, ObjectType, RenameStmt, Token};
use pg_query::{NodeEnum, ParserOptions};

use crate::error::Failure;

/// All clauses, in order.
#[derive(Debug, Clone, Default)]
pub struct Clauses {
    /// As written, in order.
    pub list: Vec<Clause>,
}

/// One clause.
#[derive(Debug, Clone)]
pub struct Clause {
    /// The text as typed.
    pub text: String,
    /// What it does to the columns, as far as the plan must know before the server is asked.
    pub kind: ClauseKind,
}

/// What a clause does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClauseKind {
    /// RENAME COLUMN or RENAME CONSTRAINT.
    Rename {
        /// Old and new name, for a column.
        column: Option<(String, String)>,
    },
    /// ALTER COLUMN … TYPE.
    Type {
        /// The column.
        column: String,
        /// The expression after USING, as typed.
        using: Option<String>,
    },
    /// Any other the shadow can take.
    Other,
}

/// A run of clauses that go to the server as one ALTER TABLE.
pub type Statement<'a> = Vec<&'a Clause>;

impl Clauses {
    /// Cuts and classifies. An empty text means a plain rewrite.
    ///
    /// # Errors
    /// Exit 2 for what PostgreSQL's grammar refuses, exit 3 for clauses that make no sense for a shadow.
    pub fn parse(text: &str) -> Result<Clauses, Failure> {
        let mut list = Vec::new();
        for piece in split(text)? {
            list.push(classify(piece)?);
        }
        Ok(Clauses { list })
    }

    /// The statements, in order.
    pub fn statements(&self) -> Vec<Statement<'_>> {
        let mut statements: Vec<Statement<'_>> = Vec::new();
        let mut joinable = false;
        for clause in &self.list {
            let rename = matches!(clause.kind, ClauseKind::Rename { .. });
            match statements.last_mut() {
                Some(last) if joinable && !rename => last.push(clause),
                _ => statements.push(vec![clause]),
            }
            joinable = !rename;
        }
        statements
    }
}

fn wrong(text: &str, why: impl std::fmt::Display) -> Failure {
    Failure::usage(format!("cannot read the ALTER TABLE clauses: {why}"))
        .detail(format!("The clause is: {}", text.trim()))
        .hint("Write them as PostgreSQL spells them behind ALTER TABLE name, comma separated.")
}

/// Cuts the text at commas outside of parentheses and brackets.
fn split(text: &str) -> Result<Vec<&str>, Failure> {
    let scanned = pg_query::scan(text).map_err(|e| wrong(text, e))?;
    let (mut pieces, mut depth, mut start, mut any) = (Vec::new(), 0i32, 0usize, false);
    for token in &scanned.tokens {
        let at = usize::try_from(token.start).unwrap_or(0);
        match Token::try_from(token.token) {
            Ok(Token::Ascii40 | Token::Ascii91) => depth += 1,
            Ok(Token::Ascii41 | Token::Ascii93) => depth -= 1,
            Ok(Token::Ascii59) => return Err(wrong(text, "a semicolon is not part of a clause")),
            Ok(Token::Ascii44) if depth == 0 => {
                pieces.push(&text[start..at]);
                start = at + 1;
            }
            Ok(Token::SqlComment | Token::CComment) => continue,
            _ => {}
        }
        any = true;
    }
    if any {
        pieces.push(&text[start..]);
    }
    Ok(pieces)
}

fn classify(text: &str) -> Result<Clause, Failure> {
    // The newline ends a comment that a clause may close with.
    let parsed =
        pg_query::parse(&format!("ALTER TABLE t {text}\n"), ParserOptions::default()).map_err(|e| wrong(text, e))?;
    let node = match &parsed.protobuf.stmts[..] {
        [only] => only.stmt.as_ref().and_then(|s| s.node.as_ref()),
        _ => None,
    };
    let kind = match node {
        Some(NodeEnum::AlterTableStmt(statement)) => match &statement.cmds[..] {
            [one] => match &one.node {
                Some(NodeEnum::AlterTableCmd(command)) => command_kind(text, command)?,
                _ => return Err(wrong(text, "not an ALTER TABLE clause")),
            },
            _ => return Err(wrong(text, "one clause was expected")),
        },
        Some(NodeEnum::RenameStmt(rename)) => rename_kind(text, rename)?,
        Some(NodeEnum::AlterObjectSchemaStmt(_)) => return Err(refused(text, "SET SCHEMA", INSTANT)),
        _ => return Err(wrong(text, "not an ALTER TABLE clause")),
    };
    Ok(Clause { text: text.trim().to_owned(), kind })
}

const INSTANT: &str = "It needs no rewrite: run it as a plain ALTER TABLE.";
const UNSEEN: &str = "The change stream shows only permanent, logged tables.";

fn refused(text: &str, what: &str, hint: &str) -> Failure {
    Failure::refused(format!("{what} makes no sense for a shadow table"))
        .detail(format!("The clause is: {}", text.trim()))
        .hint(hint)
}

fn rename_kind(text: &str, rename: &RenameStmt) -> Result<ClauseKind, Failure> {
    match ObjectType::try_from(rename.rename_type) {
        Ok(ObjectType::ObjectColumn) => {
            Ok(ClauseKind::Rename { column: Some((rename.subname.clone(), rename.newname.clone())) })
        }
        Ok(ObjectType::ObjectTabconstraint) => Ok(ClauseKind::Rename { column: None }),
        _ => Err(refused(text, "RENAME TO", INSTANT)),
    }
}

fn command_kind(text: &str, command: &AlterTableCmd) -> Result<ClauseKind, Failure> {
    use AlterTableType as T;
    let subtype = T::try_from(command.subtype).unwrap_or(T::Undefined);
    match subtype {
        T::AtAlterColumnType => {
            Ok(ClauseKind::Type { column: command.name.clone(), using: using_text(text, command)? })
        }
        T::AtAddColumn | T::AtAddConstraint => {
            refuse_foreign_keys(text, command)?;
            Ok(ClauseKind::Other)
        }
        T::AtSetIdentity if sets(command, "restart") => {
            Err(refused(text, "RESTART", "Run it as a plain ALTER TABLE after the migration."))
        }
        T::AtColumnDefault
        | T::AtDropNotNull
        | T::AtSetNotNull
        | T::AtSetExpression
        | T::AtDropExpression
        | T::AtSetStatistics
        | T::AtSetOptions
        | T::AtResetOptions
        | T::AtSetStorage
        | T::AtSetCompression
        | T::AtDropColumn
        | T::AtAlterConstraint
        | T::AtValidateConstraint
        | T::AtAddIndexConstraint
        | T::AtDropConstraint
        | T::AtClusterOn
        | T::AtDropCluster
        | T::AtSetAccessMethod
        | T::AtSetTableSpace
        | T::AtSetRelOptions
        | T::AtResetRelOptions
        | T::AtAddIdentity
        | T::AtSetIdentity
        | T::AtDropIdentity => Ok(ClauseKind::Other),
        T::AtSetLogged => Err(refused(text, "SET LOGGED", UNSEEN)),
        T::AtSetUnLogged => Err(refused(text, "SET UNLOGGED", UNSEEN)),
        T::AtChangeOwner => Err(refused(text, "OWNER TO", INSTANT)),
        T::AtReplicaIdentity => Err(refused(text, "REPLICA IDENTITY", INSTANT)),
        T::AtEnableTrig
        | T::AtEnableAlwaysTrig
        | T::AtEnableReplicaTrig
        | T::AtDisableTrig
        | T::AtEnableTrigAll
        | T::AtDisableTrigAll
        | T::AtEnableTrigUser
        | T::AtDisableTrigUser => Err(refused(text, "ENABLE or DISABLE TRIGGER", INSTANT)),
        T::AtEnableRule | T::AtEnableAlwaysRule | T::AtEnableReplicaRule | T::AtDisableRule => {
            Err(refused(text, "ENABLE or DISABLE RULE", INSTANT))
        }
        T::AtEnableRowSecurity | T::AtDisableRowSecurity | T::AtForceRowSecurity | T::AtNoForceRowSecurity => {
            Err(refused(text, "ROW LEVEL SECURITY", INSTANT))
        }
        T::AtAddInherit | T::AtDropInherit => Err(refused(text, "INHERIT", INSTANT)),
        T::AtAddOf | T::AtDropOf => Err(refused(text, "OF", INSTANT)),
        T::AtAttachPartition | T::AtDetachPartition | T::AtDetachPartitionFinalize => {
            Err(refused(text, "ATTACH or DETACH PARTITION", INSTANT))
        }
        T::AtGenericOptions | T::AtAlterColumnGenericOptions => {
            Err(refused(text, "OPTIONS", "Foreign tables cannot be migrated."))
        }
        T::AtDropOids => Err(refused(text, "SET WITHOUT OIDS", INSTANT)),
        T::Undefined
        | T::AtAddColumnToView
        | T::AtCookedColumnDefault
        | T::AtAddIndex
        | T::AtReAddIndex
        | T::AtReAddConstraint
        | T::AtReAddDomainConstraint
        | T::AtReAddComment
        | T::AtReplaceRelOptions
        | T::AtReAddStatistics => Err(wrong(text, "not an ALTER TABLE clause")),
    }
}

fn sets(command: &AlterTableCmd, option: &str) -> bool {
    let Some(NodeEnum::List(list)) = command.def.as_ref().and_then(|d| d.node.as_ref()) else { return false };
    list.items.iter().any(|i| matches!(&i.node, Some(NodeEnum::DefElem(e)) if e.defname == option))
}

fn refuse_foreign_keys(text: &str, command: &AlterTableCmd) -> Result<(), Failure> {
    let is_foreign =
        |node: &NodeEnum| matches!(node, NodeEnum::Constraint(c) if c.contype == ConstrType::ConstrForeign as i32);
    let found = match command.def.as_ref().and_then(|d| d.node.as_ref()) {
        Some(NodeEnum::ColumnDef(column)) => column.constraints.iter().filter_map(|c| c.node.as_ref()).any(is_foreign),
        Some(node) => is_foreign(node),
        None => false,
    };
    if found {
        return Err(Failure::refused("a foreign key cannot be added by this version")
            .detail(format!("The clause is: {}", text.trim()))
            .hint("Add it after the migration: ALTER TABLE … ADD FOREIGN KEY … NOT VALID, then VALIDATE CONSTRAINT."));
    }
    Ok(())
}

/// The text behind USING, where the parser saw an expression there.
fn using_text(text: &str, command: &AlterTableCmd) -> Result<Option<String>, Failure> {
    let has_using = matches!(command.def.as_ref().and_then(|d| d.node.as_ref()),
        Some(NodeEnum::ColumnDef(c)) if c.raw_default.is_some());
    if !has_using {
        return Ok(None);
    }
    let scanned = pg_query::scan(text).map_err(|e| wrong(text, e))?;
    let mut depth = 0i32;
    for token in &scanned.tokens {
        match Token::try_from(token.token) {
            Ok(Token::Ascii40 | Token::Ascii91) => depth += 1,
            Ok(Token::Ascii41 | Token::Ascii93) => depth -= 1,
            Ok(Token::Using) if depth == 0 => {
                return Ok(usize::try_from(token.end)
                    .ok()
                    .and_then(|end| text.get(end..))
                    .map(|t| t.trim().to_owned()));
            }
            _ => {}
        }
    }
    Err(wrong(text, "USING was not found"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Exit;

    fn kinds(text: &str) -> Vec<ClauseKind> {
        Clauses::parse(text).expect("parses").list.into_iter().map(|c| c.kind).collect()
    }

    #[test]
    fn commas_inside_brackets_strings_and_comments_do_not_cut() {
        let text =
            "ALTER a TYPE numeric(10,2) USING (ARRAY[1,2])[1] /* , */, ADD COLUMN \"x,y\" text DEFAULT 'a,b' -- c, d";
        let clauses = Clauses::parse(text).expect("parses");
        assert_eq!(clauses.list.len(), 2);
        assert_eq!(
            clauses.list[0].kind,
            ClauseKind::Type { column: "a".into(), using: Some("(ARRAY[1,2])[1] /* , */".into()) }
        );
    }

    #[test]
    fn an_empty_text_is_a_plain_rewrite() {
        assert!(Clauses::parse("  ").expect("parses").list.is_empty());
    }

    #[test]
    fn renames_stand_between_other_clauses_and_split_the_statements() {
        let clauses = Clauses::parse(
            "ADD x int, ALTER y DROP DEFAULT, RENAME COLUMN a TO b, RENAME c TO d, ALTER b SET NOT NULL, DROP COLUMN z",
        )
        .expect("parses");
        assert_eq!(clauses.statements().iter().map(Vec::len).collect::<Vec<_>>(), [2, 1, 1, 2]);
        assert_eq!(clauses.list[3].kind, ClauseKind::Rename { column: Some(("c".into(), "d".into())) });
    }

    #[test]
    fn using_is_found_behind_a_type_of_any_form() {
        assert_eq!(
            kinds("ALTER COLUMN c SET DATA TYPE double precision[] COLLATE \"C\" USING f(c, 'USING')"),
            [ClauseKind::Type { column: "c".into(), using: Some("f(c, 'USING')".into()) }]
        );
    }

    #[test]
    fn what_a_shadow_cannot_take_is_refused_by_name() {
        for (text, exit) in [
            ("RENAME TO u", Exit::Refused),
            ("SET SCHEMA s", Exit::Refused),
            ("OWNER TO x", Exit::Refused),
            ("ENABLE TRIGGER ALL", Exit::Refused),
            ("ADD FOREIGN KEY (a) REFERENCES b", Exit::Refused),
            ("ADD COLUMN a int REFERENCES b", Exit::Refused),
            ("ALTER a RESTART", Exit::Refused),
            ("SET UNLOGGED", Exit::Refused),
            ("ATTACH PARTITION p DEFAULT", Exit::Refused),
            ("ALTER a TYPE", Exit::Usage),
            ("FROBNICATE", Exit::Usage),
            ("ADD x int; DROP TABLE t", Exit::Usage),
            ("ADD x int,", Exit::Usage),
            ("ADD x text DEFAULT 'a", Exit::Usage),
        ] {
            match Clauses::parse(text) {
                Err(failure) => assert_eq!(failure.exit, exit, "{text}: {failure}"),
                Ok(_) => panic!("{text} was taken"),
            }
        }
    }
}
