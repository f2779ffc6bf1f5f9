//! Whole command lines: what they mean, and how the wrong ones end.

use std::path::PathBuf;
use std::time::Duration;

use clap::CommandFactory;

use super::*;

fn typed(line: &[&str]) -> Result<Command, Unparsed> {
    parse(std::iter::once("pgrecast").chain(line.iter().copied()))
}

fn alter(options: &[&str]) -> Alter {
    let line: Vec<&str> = ["alter", "t", ""].iter().chain(options).copied().collect();
    match typed(&line) {
        Ok(Command::Alter(alter)) => *alter,
        other => panic!("{line:?}: {other:?}"),
    }
}

/// The text that a line which runs nothing ends with, and its exit status.
fn ends(line: &[&str]) -> (u8, String) {
    match typed(line) {
        Ok(command) => panic!("{line:?}: {command:?}"),
        Err(unparsed) => {
            let code = unparsed.code();
            match unparsed {
                Unparsed::Asked(text) | Unparsed::Wrong(text) => (code, text),
                Unparsed::Refused(failure) => (code, failure.primary),
            }
        }
    }
}

#[test]
fn the_definitions_hold_together() {
    CommandLine::command().debug_assert();
}

#[test]
fn nothing_typed_means_the_defaults_of_the_contract() {
    let options = alter(&[]).options;
    assert_eq!(options, MigrateOptions::default());
    assert_eq!(options.jobs, 2);
    assert!(options.verify && !options.vacuum && !options.failover_slot);
    assert_eq!(options.max_runtime, None);
    assert_eq!(options.cutover.lock_timeout, Duration::from_millis(250));
    assert_eq!(options.cutover.timeout, Duration::from_secs(1));
    assert_eq!(options.cutover.attempts, 60);
    assert_eq!(options.cutover.terminate_blockers, None);
    assert_eq!(options.throttle.max_lag, Duration::from_secs(10));
    assert_eq!(options.throttle.max_slot_wal, 10 * 1024 * 1024 * 1024);
    assert_eq!(options.throttle.nice, 0.0);
}

#[test]
fn every_option_reaches_its_field() {
    let read = alter(&[
        "--dsn=postgres://u:secret@h/d",
        "--dry-run",
        "--sample=5s",
        "--no-trial",
        "--jobs=4",
        "--max-runtime=1h",
        "--lock-timeout=100ms",
        "--cutover-timeout=500ms",
        "--cutover-attempts=7",
        "--postpone-cutover",
        "--postpone-file=/tmp/hold",
        "--terminate-blockers=1m 30s",
        "--max-lag=3s",
        "--max-slot-wal=1TB",
        "--max-active=20",
        "--throttle-query=SELECT false",
        "--throttle-file=/tmp/stop",
        "--nice=0.5",
        "--no-verify",
        "--vacuum",
        "--primary-key=id,\"At\"",
        "--setting=TimeZone=UTC",
        "--setting",
        "lc_monetary=C",
        "--rollback-window=2h",
        "--failover-slot",
        "--on-error=quarantine",
        "--reverse=total = round(price * 100)",
        "--lag-replica=one",
        "--lag-replica=two",
        "--critical-lag=1m",
        "--critical-slot-wal=2TB",
        "--critical-active=200",
        "--window=22:00-06:00 UTC",
        "--window=Sat,Sun 00:00-24:00 UTC",
        "--cutover-window=03:00-04:00 UTC",
        "--outside-window=exit",
        "--report=out.json",
        "--format=json",
    ]);
    assert!(read.dry_run);
    assert_eq!(read.connection.dsn.as_deref(), Some("postgres://u:secret@h/d"));
    assert_eq!(read.output, Output { format: Format::Json, report: Some(PathBuf::from("out.json")), listen: None });
    let setting = |name: &str, value: &str| Setting { name: name.to_owned(), value: value.to_owned() };
    let expected = MigrateOptions {
        jobs: 4,
        max_runtime: Some(Duration::from_secs(3_600)),
        verify: false,
        vacuum: true,
        primary_key: Some(vec!["id".to_owned(), "At".to_owned()]),
        settings: vec![setting("timezone", "UTC"), setting("lc_monetary", "C")],
        cutover: Cutover {
            lock_timeout: Duration::from_millis(100),
            timeout: Duration::from_millis(500),
            attempts: 7,
            postpone: true,
            postpone_file: Some(PathBuf::from("/tmp/hold")),
            terminate_blockers: Some(Duration::from_secs(90)),
        },
        throttle: Throttle {
            max_lag: Duration::from_secs(3),
            replicas: vec!["one".to_owned(), "two".to_owned()],
            max_slot_wal: 1 << 40,
            max_active: Some(20),
            query: Some("SELECT false".to_owned()),
            file: Some(PathBuf::from("/tmp/stop")),
            nice: 0.5,
        },
        critical: Critical { lag: Some(Duration::from_secs(60)), slot_wal: Some(1 << 41), active: Some(200) },
        hours: Hours {
            windows: vec![
                "22:00-06:00 UTC".parse().expect("a window"),
                "Sat,Sun 00:00-24:00 UTC".parse().expect("a window"),
            ],
            cutover_windows: vec!["03:00-04:00 UTC".parse().expect("a window")],
            outside: Outside::Exit,
        },
        rollback_window: Some(Duration::from_secs(7_200)),
        failover_slot: true,
        on_error: OnError::Quarantine,
        dry_run: DryRun { sample: Duration::from_secs(5), trial: false },
    };
    let reverse = Reverse { column: "total".to_owned(), expression: "round(price * 100)".to_owned() };
    assert_eq!(read.reverse, [reverse]);
    assert_eq!(read.options, expected);
}

#[test]
fn each_command_reads() {
    let lines: [&[&str]; 17] = [
        &["alter", "public.t", "ADD COLUMN x int"],
        &["run", "orders.toml", "--jobs", "4"],
        &["resume"],
        &["resume", "7", "--jobs", "4"],
        &["list", "--format", "json"],
        &["status"],
        &["status", "7"],
        &["pause"],
        &["unpause", "7"],
        &["set", "7", "max-lag=30s", "jobs=4"],
        &["cutover", "7"],
        &["abort"],
        &["verify", "7", "--report", "r.json"],
        &["finish", "7"],
        &["rollback", "7", "--report", "r.json"],
        &["demo"],
        &["demo", "--rows", "10000", "--seconds", "1", "--report", "r.json"],
    ];
    for line in lines {
        let command = typed(line).unwrap_or_else(|error| panic!("{line:?}: {error:?}"));
        assert_eq!(command.name(), line[0]);
        let json = line.contains(&"json");
        assert_eq!(command.format(), if json { Format::Json } else { Format::Text });
    }
}

#[test]
fn the_demo_has_three_million_rows() {
    match typed(&["demo"]) {
        Ok(Command::Demo(demo)) => assert_eq!(demo.rows, 3_000_000),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_resumed_migration_keeps_what_is_not_typed_again() {
    let Ok(Command::Resume(resume)) = typed(&["resume", "7", "--max-lag", "1s"]) else { panic!("not a resume") };
    let kept = alter(&["--jobs=8", "--postpone-cutover"]).options;
    let changed = resume.changes.apply(kept.clone()).expect("a valid change");
    let throttle = Throttle { max_lag: Duration::from_secs(1), ..kept.throttle.clone() };
    assert_eq!(changed, MigrateOptions { throttle, ..kept });
}

#[test]
fn a_wrong_command_line_ends_with_2_and_says_what_is_wrong() {
    let cases: [(&[&str], &str); 30] = [
        (&[], "Usage:"),
        (&["frobnicate"], "unrecognized subcommand"),
        (&["alter"], "<TABLE>"),
        (&["alter", "t"], "<CLAUSES>"),
        (&["alter", "a.b.c", ""], "SCHEMA.NAME"),
        (&["alter", "t", "", "more"], "unexpected argument"),
        (&["alter", "t", "", "--bogus"], "--bogus"),
        (&["alter", "t", "", "--jobs", "0"], "1..=64"),
        (&["alter", "t", "", "--jobs", "65"], "1..=64"),
        (&["alter", "t", "", "--max-lag", "10"], "time unit needed"),
        (&["alter", "t", "", "--lock-timeout", "0s"], "longer than zero"),
        (&["alter", "t", "", "--lock-timeout", "2s"], "shorter than --cutover-timeout"),
        (&["alter", "t", "", "--max-slot-wal", "10XB"], "unknown unit"),
        (&["alter", "t", "", "--nice=-1"], "between 0 and 100"),
        (&["alter", "t", "", "--cutover-attempts", "0"], "--cutover-attempts"),
        (&["alter", "t", "", "--primary-key", "a,a"], "named twice"),
        (&["alter", "t", "", "--setting", "TimeZone"], "NAME=VALUE"),
        (&["alter", "t", "", "--setting", "a=1", "--setting", "A=2"], "given twice"),
        (&["alter", "t", "", "--format", "xml"], "xml"),
        (&["alter", "t", "", "--on-error", "ignore"], "ignore"),
        (&["status", "seven"], "seven"),
        (&["alter", "t", "", "--reverse", "a = b"], "--rollback-window"),
        (&["alter", "t", "", "--rollback-window", "1h", "--reverse", "a=1", "--reverse", "a=2"], "given twice"),
        (&["run"], "<SPEC.toml>"),
        (&["alter", "t", "", "--print-spec", "--dry-run"], "cannot be used with"),
        (&["alter", "t", "", "--sample", "5s"], "--dry-run"),
        (&["alter", "t", "", "--no-trial"], "--dry-run"),
        (&["rollback"], "<ID>"),
        (&["finish"], "<ID>"),
        (&["finish", "0"], "1.."),
    ];
    for (line, part) in cases {
        let (code, text) = ends(line);
        assert_eq!(code, 2, "{line:?}");
        assert!(text.contains(part), "{line:?}: {text}");
    }
}

#[test]
fn the_status_is_served_at_an_address_of_this_machine() {
    for line in [&["alter", "t", ""][..], &["resume"], &["run", "x.toml"]] {
        let (code, said) = ends(&[line, &["--status-listen", "9187"]].concat());
        assert!(code == 2 && said.contains("--status-listen"), "{said}");
    }
    let read = alter(&["--status-listen", "127.0.0.1:9187"]);
    assert_eq!(read.output.listen, Some(([127, 0, 0, 1], 9187).into()));
}

#[test]
fn help_is_short_and_shows_what_works() {
    let (code, help) = ends(&["--help"]);
    assert_eq!(code, 0);
    assert!(help.lines().count() <= 33, "{help}");
    let commands = [
        "alter",
        "partition",
        "split",
        "widen",
        "run",
        "resume",
        "list",
        "status",
        "cutover",
        "abort",
        "verify",
        "finish",
    ];
    for command in commands.into_iter().chain(["rollback", "pause", "unpause", "set", "demo"]) {
        assert!(help.contains(&format!("\n  {command} ")), "{command}: {help}");
    }
}

#[test]
fn the_help_of_alter_names_the_defaults() {
    let (code, help) = ends(&["alter", "--help"]);
    assert_eq!(code, 0);
    for default in ["default: 2]", "250ms]", "default: 1s]", "60]", "10s]", "10GB]", "default: 0]"] {
        assert!(help.contains(default), "{default}: {help}");
    }
}

#[test]
fn the_version_is_the_crates() {
    assert_eq!(ends(&["--version"]), (0, format!("pgrecast {}\n", env!("CARGO_PKG_VERSION"))));
}

#[test]
fn no_debug_output_shows_a_password() {
    let read = alter(&["--dsn=postgres://u:secret@h/d"]);
    assert!(!format!("{read:?}").contains("secret"));
}

fn partition(options: &[&str]) -> Result<Partition, String> {
    let line: Vec<&str> = ["partition", "t"].iter().chain(options).copied().collect();
    match typed(&line) {
        Ok(Command::Partition(partition)) => Ok(*partition),
        Ok(other) => panic!("{line:?}: {other:?}"),
        Err(Unparsed::Asked(text) | Unparsed::Wrong(text)) => Err(text),
        Err(Unparsed::Refused(failure)) => Err(failure.primary),
    }
}

#[test]
fn a_table_is_partitioned_in_one_way() {
    let columns = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
    let by = |options: &[&str]| partition(options).expect("a partitioning").by;
    assert_eq!(
        by(&["--range", "At", "--every", "1 month", "--zone", "Europe/Berlin", "--premake", "0"]),
        PartitionBy::Every {
            column: "at".to_owned(),
            every: "1 month".to_owned(),
            zone: Some("Europe/Berlin".to_owned()),
            premake: 0
        }
    );
    assert_eq!(
        by(&["--range", "a,\"B\"", "--bounds", "(-1,a),(2,b)"]),
        PartitionBy::Bounds { columns: columns(&["a", "B"]), bounds: "(-1,a),(2,b)".to_owned(), zone: None }
    );
    assert_eq!(
        by(&["--list", "a", "--values", "-1;b,c"]),
        PartitionBy::List { column: "a".to_owned(), values: "-1;b,c".to_owned() }
    );
    assert_eq!(
        by(&["--hash", "a,b", "--partitions", "8"]),
        PartitionBy::Hash { columns: columns(&["a", "b"]), partitions: 8 }
    );
    assert_eq!(by(&["--none"]), PartitionBy::Nothing);
    let below = |options: &[&str]| {
        partition(&[&["--hash", "a", "--partitions", "8"], options].concat()).expect("a partitioning").below
    };
    assert_eq!(below(&[]), []);
    assert_eq!(
        below(&["--sub-hash", "c,d", "--sub-partitions", "2"]),
        [PartitionBy::Hash { columns: columns(&["c", "d"]), partitions: 2 }]
    );
    assert_eq!(
        below(&["--sub-list", "c", "--sub-values", "-1;2"]),
        [PartitionBy::List { column: "c".to_owned(), values: "-1;2".to_owned() }]
    );
    let levels = below(&["--sub", "range at every 1 month premake 1", "--sub", "list c values x"]);
    assert_eq!(levels.len(), 2, "{levels:?}");
    let more = ["--hash", "a", "--partitions", "8", "--drop-constraint", "x,\"Y\"", "--drop-constraint", "z"];
    let read = partition(&[&more[..], &["--default-partition", "--primary-key", "a", "--dry-run"]].concat());
    let read = read.expect("a partitioning");
    assert_eq!(read.drop_constraints, columns(&["x", "Y", "z"]));
    assert_eq!(read.options.primary_key, Some(columns(&["a"])));
    assert!(read.default_partition && read.dry_run);
}

#[test]
fn ways_to_partition_are_not_mixed() {
    for (options, words) in [
        (&[][..], "one of --range, --list, --hash and --none"),
        (&["--none", "--range", "a"], "--range is not for --none"),
        (&["--range", "a"], "--every or --bounds"),
        (&["--range", "a", "--every", "1 day", "--bounds", "1,2"], "exclude each other"),
        (&["--range", "a", "--hash", "b", "--partitions", "2"], "exclude each other"),
        (&["--range", "a,b", "--every", "1 day"], "takes one column"),
        (&["--range", "a", "--bounds", "1,2", "--premake", "2"], "--premake is not for"),
        (&["--list", "a"], "--list needs --values"),
        (&["--list", "a", "--values", "1", "--sub-list", "b"], "--sub-list needs --sub-values"),
        (&["--list", "a", "--values", "1", "--sub-values", "b"], "--sub-values needs --sub-list"),
        (
            &["--list", "a", "--values", "1", "--sub-hash", "b", "--sub-values", "1"],
            "--sub-values is not for --sub-hash",
        ),
        (
            &["--list", "a", "--values", "1", "--sub", "hash b partitions 2", "--sub-list", "c", "--sub-values", "1"],
            "--sub excludes --sub-hash",
        ),
        (&["--list", "a", "--values", "1", "--sub", "hash b"], "--hash needs --partitions"),
        (&["--none", "--sub", "hash b partitions 2"], "--none excludes --sub"),
        (&["--list", "a", "--values", "1", "--zone", "UTC"], "--zone is not for"),
        (&["--hash", "a"], "--hash needs --partitions"),
        (&["--hash", "a", "--partitions", "2", "--values", "1"], "--values is not for"),
    ] {
        let said = partition(options).expect_err("a refusal");
        assert!(said.contains(words), "{options:?}: {said}");
    }
}
