//! A source and its shadow, made without a migration.

use std::sync::Arc;
use std::time::Duration;

use pgrecast::cli::OnError;
use pgrecast::pg::sql::ident_list;
use pgrecast::pg::{Connector, QualifiedName, Role, Target};
use pgrecast::plan::build::{self, Request};
use pgrecast::plan::ddl::{self, Purpose};
use pgrecast::plan::tree;
use pgrecast::plan::types::{Names, Plan};
use pgrecast::spec::{Clauses, Spec};
use pgrecast::throttle::{Held, Throttle, throttle};
use pgrecast::verify::{self, InStep, Job, Progress, Verdict};
use tokio_postgres::Client;

use super::Still;
use super::server::{PASSWORD, Server};

/// A database of its own, with a source `public.t` and a shadow that holds its rows.
pub struct Pair {
    /// A plain connection.
    pub sql: Client,
    pub connector: Connector,
    pub plan: Arc<Plan>,
    pub shadow: QualifiedName,
    server: Arc<Server>,
}

impl Pair {
    /// `create` makes and fills `public.t`; `clauses` are those of the ALTER TABLE. The shadow has its unique key.
    pub async fn new(name: &str, create: &str, clauses: &str) -> Pair {
        let server = Server::shared();
        server.sql("postgres").await.batch_execute(&format!("CREATE DATABASE {name}")).await.expect("a database");
        let sql = server.sql(name).await;
        sql.batch_execute(create).await.expect("a source");
        let password = PASSWORD.replace('\\', "\\\\").replace('\'', "\\'");
        let dsn = format!(
            "host=127.0.0.1 port={} user=postgres dbname={name} password='{password}' sslmode=disable",
            server.port
        );
        let connector = Connector::new(Target::resolve(Some(&dsn)).expect("a target"), Duration::from_secs(2));
        let plan = plan(&connector, clauses).await;
        let shadow = QualifiedName::new("public", "#shadow of \"t\"");
        let mut pair = Pair { sql, connector, plan: Arc::new(plan), shadow, server };
        pair.fill().await;
        pair
    }

    async fn fill(&mut self) {
        let plan = &self.plan;
        let created = ddl::create_table(&plan.target, &self.shadow, Purpose::Shadow, &[], 150_000);
        let key = ident_list(plan.key.columns.iter().map(|k| k.target.as_str()));
        let fill = format!(
            "{created}; INSERT INTO {} ({}) {}; CREATE UNIQUE INDEX shadow_key ON {0} ({key})",
            self.shadow,
            ident_list(plan.written().iter().map(|(name, _)| *name)),
            self.projection("true"),
        );
        // The settings under which the tool itself copies.
        let copier = self.connector.open(Role::Copier).await.expect("a connection");
        copier.batch("fill", &fill).await.expect("a shadow");
    }

    /// The shadow's rows as the source has them.
    pub fn projection(&self, filter: &str) -> String {
        let values: Vec<String> = self.plan.written().into_iter().map(|(_, e)| e).collect();
        format!("SELECT {} FROM {} WHERE {filter}", values.join(", "), self.plan.source_from())
    }

    /// Runs statements in which `shadow` stands for the shadow.
    pub async fn plant(&self, statements: &str) {
        let path = format!("CREATE OR REPLACE VIEW shadow AS SELECT * FROM {}; {statements}", self.shadow);
        self.sql.batch_execute(&path).await.expect("planted");
    }

    pub async fn verify_with<S: InStep>(&self, in_step: &S) -> Verdict {
        let (gate, throttle) = throttle(0.0);
        gate.set(Held::default());
        verify::run(self.job(throttle), in_step, Arc::new(Progress::default())).await.expect("a verdict")
    }

    /// A comparison by two workers.
    pub fn job(&self, throttle: Throttle) -> Job {
        Job {
            connector: self.connector.clone(),
            plan: self.plan.clone(),
            shadow: self.shadow.clone(),
            shadow_leaves: vec![self.shadow.clone()],
            jobs: 2,
            throttle,
            names: Names::new(0),
            forth: None,
            keep: None,
        }
    }

    pub async fn verify(&self) -> Verdict {
        self.verify_with(&Still).await
    }

    /// Another plain connection.
    pub async fn connect(&self) -> Client {
        self.server.sql(self.connector.target().dbname()).await
    }
}

async fn plan(connector: &Connector, clauses: &str) -> Plan {
    let control = connector.open(Role::Control).await.expect("a connection");
    let oid = control.scalar("find", "SELECT 'public.t'::regclass::oid::text").await.expect("the table");
    let oid = oid.and_then(|text| text.parse().ok()).expect("an oid");
    let source = tree::tree(&control, oid).await.expect("a shape");
    let planner = connector.open(Role::Planner).await.expect("a connection");
    let spec = Spec::Alter(Clauses::parse(clauses).expect("clauses"));
    let request = Request { spec: &spec, text: clauses, primary_key: None, settings: &[], on_error: OnError::Abort };
    build::plan(&planner, source, &request, 150_000).await.expect("a plan")
}
