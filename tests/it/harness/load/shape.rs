//! The table under load: which of its columns are written, and the statements that do it.

/// A column, and how a number becomes a value of it.
#[derive(Debug, Clone)]
pub struct Column {
    /// As SQL spells it.
    pub name: String,
    /// The type that values are cast to from text, on the server. Where a migration changes the column's type, one that
    /// can be assigned to the type before and after: `bigint` for a column that goes from `integer` to `bigint`.
    pub cast: String,
    /// The value for a number as the server prints it; different for different numbers.
    pub render: fn(u64) -> String,
}

impl Column {
    /// A column of whole numbers.
    pub fn whole(name: &str, cast: &str) -> Column {
        Column { name: name.into(), cast: cast.into(), render: |number| number.to_string() }
    }
}

/// Four columns that the load writes; the table may have others, which must have defaults.
#[derive(Debug, Clone)]
pub struct Shape {
    /// As SQL spells it.
    pub table: String,
    /// The primary key.
    pub key: Column,
    /// Unique, may be NULL.
    pub unique: Column,
    /// The name of a text column that may be NULL.
    pub text: String,
    /// The name of a numeric column that may be NULL.
    pub number: String,
}

impl Shape {
    /// `t(id integer or bigint PRIMARY KEY, u integer UNIQUE, v text, n numeric)`.
    pub fn plain() -> Shape {
        Shape {
            table: "public.t".into(),
            key: Column::whole("id", "bigint"),
            unique: Column::whole("u", "bigint"),
            text: "v".into(),
            number: "n".into(),
        }
    }

    /// The statement that makes the table of [`Shape::plain`].
    pub fn plain_ddl() -> &'static str {
        "CREATE TABLE public.t (id integer PRIMARY KEY, u integer UNIQUE, v text, n numeric)"
    }

    /// Reads what [`super::LoadReport::compare`] compares: key, unique, text and number, each as text.
    pub fn select_all(&self) -> String {
        format!("SELECT {} FROM {}", self.columns_as_text(), self.table)
    }

    fn columns_as_text(&self) -> String {
        let (key, unique) = (&self.key.name, &self.unique.name);
        // Cast, so that a prepared statement's result keeps its type when the column does not.
        format!("{key}::text, {unique}::text, {}::text, {}::text", self.text, self.number)
    }

    /// The text of a statement; `value(i)` stands for its argument number `i`, from 1, a text.
    pub fn sql(&self, statement: Statement, value: impl Fn(usize) -> String) -> String {
        let Shape { table, key, unique, text, number } = self;
        let a_key = |i| format!("{}::{}", value(i), key.cast);
        let a_unique = |i| format!("{}::{}", value(i), unique.cast);
        let a_number = |i| format!("{}::numeric", value(i));
        let (k, u) = (&key.name, &unique.name);
        match statement {
            Statement::Insert => format!(
                "INSERT INTO {table} ({k}, {u}, {text}, {number}) VALUES ({}, {}, {}, {})",
                a_key(1),
                a_unique(2),
                value(3),
                a_number(4)
            ),
            Statement::Update => format!(
                "UPDATE {table} SET {u} = {}, {text} = {}, {number} = {} WHERE {k} = {}",
                a_unique(2),
                value(3),
                a_number(4),
                a_key(1)
            ),
            Statement::UpdateUnique => format!("UPDATE {table} SET {u} = {} WHERE {k} = {}", a_unique(2), a_key(1)),
            Statement::UpdateText => format!("UPDATE {table} SET {text} = {} WHERE {k} = {}", value(2), a_key(1)),
            Statement::UpdateNumber => {
                format!("UPDATE {table} SET {number} = {} WHERE {k} = {}", a_number(2), a_key(1))
            }
            Statement::UpdateKey => format!("UPDATE {table} SET {k} = {} WHERE {k} = {}", a_key(2), a_key(1)),
            Statement::Delete => format!("DELETE FROM {table} WHERE {k} = {}", a_key(1)),
            Statement::Read => format!("SELECT {} FROM {table} WHERE {k} = {}", self.columns_as_text(), a_key(1)),
        }
    }
}

/// A statement on one row, whose key is its first argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Statement {
    /// Key, unique, text, number.
    Insert,
    /// Key, unique, text, number.
    Update,
    /// Key, unique.
    UpdateUnique,
    /// Key, text.
    UpdateText,
    /// Key, number.
    UpdateNumber,
    /// Key, new key.
    UpdateKey,
    /// Key.
    Delete,
    /// Key.
    Read,
}

impl Statement {
    pub const ALL: [Statement; 8] = [
        Statement::Insert,
        Statement::Update,
        Statement::UpdateUnique,
        Statement::UpdateText,
        Statement::UpdateNumber,
        Statement::UpdateKey,
        Statement::Delete,
        Statement::Read,
    ];
}
