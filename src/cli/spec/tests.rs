//! Specs and command lines say the same, and the manual says what there is.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::cli::{Unparsed, parse};
use crate::error::Exit;

const MANUAL: &str = include_str!("../../../docs/spec.md");

/// Options of all commands.
const SHARED: &[&str] = &[
    "--failover-slot",
    "--jobs=4",
    "--max-runtime=1h 30m",
    "--no-verify",
    "--vacuum",
    "--lock-timeout=100ms",
    "--cutover-timeout=500ms",
    "--cutover-attempts=7",
    "--postpone-cutover",
    "--postpone-file=/tmp/hold",
    "--terminate-blockers=1m 30s",
    "--max-lag=3s",
    "--max-slot-wal=1TB",
    "--max-active=20",
    "--throttle-query=SELECT \"a\" = 'b\\'",
    "--throttle-file=C:\\stop",
    "--nice=0.5",
    "--lag-replica=one",
    "--lag-replica=two",
    "--critical-lag=1m",
    "--critical-slot-wal=2TB",
    "--critical-active=200",
    "--window=22:00-06:00 UTC",
    "--window=Sat,Sun 00:00-24:00 Europe/Berlin",
    "--cutover-window=03:00-04:00 UTC",
    "--outside-window=exit",
];

/// What each command can be told, in as many lines as it has ways that exclude each other.
const LINES: &[&[&str]] = &[
    &[
        "alter",
        "public.\"T\"",
        "ALTER a TYPE bigint, ADD b numeric(10, 2) DEFAULT 'x, y'",
        "--primary-key=id,\"At\"",
        "--setting=TimeZone=UTC",
        "--setting=my.x = a=b",
        "--reverse=total = round(price * 100)",
        "--reverse=\"a=B\"=x = 1",
        "--on-error=quarantine",
        "--rollback-window=2h",
    ],
    &[
        "partition",
        "t",
        "--range=at",
        "--every=1 month",
        "--zone=Europe/Berlin",
        "--premake=0",
        "--primary-key=a",
        "--default-partition",
        "--pg-partman",
        "--drop-constraint=x,\"Y\"",
        "--drop-constraint=z",
        "--sub-hash=a,b",
        "--sub-partitions=2",
        "--rollback-window=2h",
    ],
    &["partition", "t", "--range=a,b", "--bounds=(-1,'a,b'),(2,MAXVALUE)"],
    &["partition", "t", "--list=a", "--values=-1;b,c;NULL"],
    &["partition", "t", "--hash=a,b", "--partitions=8", "--sub-list=c", "--sub-values=-1;b,c;NULL"],
    &["partition", "t", "--list=a", "--values=b", "--sub=range c every 1 month", "--sub=hash \"D\" partitions 2"],
    &["partition", "t", "--none"],
    &[
        "split",
        "t",
        "--into=a(id, b = upper('x, y'))",
        "--into=\"B\" WHERE x = 1",
        "--lookup=c = d(e = f)",
        "--drop=b,\"C\"",
        "--foreign-key=cascade",
        "--drop-constraint=x",
        "--setting=TimeZone=UTC",
        "--exhaustive",
        "--rollback-window=2h",
    ],
    &["split", "t", "--into=a(b)", "--drop=b", "--compat-view=app.\"T\"", "--reverse=x = lower(a.b)"],
    &["widen", "public.t.\"Id\"", "numeric(20, 0)", "--also=u.t", "--also=v.t", "--rollback-window=2h"],
    &["widen", "t.id", "bigint", "--one-by-one"],
];

fn command_of(line: &[&str]) -> Command {
    let line = std::iter::once("pgrecast").chain(line.iter().copied());
    parse(line).unwrap_or_else(|e| panic!("{e:?}"))
}

fn printed(line: &[&str]) -> String {
    match command_of(&[line, &["--print-spec"]].concat()) {
        Command::Print(printed) => printed.text,
        other => panic!("{line:?}: {other:?}"),
    }
}

/// What a text says, with options beside it.
fn read_beside(text: &str, beside: &[&str]) -> Result<Spelled, Failure> {
    match command_of(&[&["run", "a.toml"], beside].concat()) {
        Command::Run(run) => run.spelled(text),
        other => panic!("{other:?}"),
    }
}

fn said(text: &str) -> Command {
    read_beside(text, &[]).unwrap_or_else(|e| panic!("{text}\n{e:?}")).command
}

/// Keys of a text, by table.
fn keys_in(text: &str) -> BTreeSet<(String, String)> {
    let tables: toml::Table = text.parse().expect("TOML");
    let keys = |(table, keys): (String, toml::Value)| {
        let keys = keys.as_table().expect("a table").clone();
        keys.into_iter().map(move |(key, _)| (table.clone(), key))
    };
    tables.into_iter().flat_map(keys).collect()
}

/// Whoever adds an option to a command gives a sample here, and sees that it goes into a spec and comes back.
#[test]
fn every_option_goes_into_a_spec_and_comes_back() {
    let mut seen: BTreeMap<String, BTreeSet<(String, String)>> = BTreeMap::new();
    for line in LINES {
        let line = [*line, SHARED].concat();
        let (text, expected) = (printed(&line), command_of(&line));
        assert_eq!(said(&text), expected, "{text}");
        assert_eq!(printed(&line), text);
        seen.entry(line[0].to_owned()).or_default().extend(keys_in(&text));
    }
    for command in keys::commands() {
        let name = command.get_name();
        let keys: BTreeSet<_> = keys::of(&command).into_iter().map(|key| (key.table, key.name)).collect();
        let seen = seen.remove(name).unwrap_or_else(|| panic!("no sample of pgrecast {name}"));
        assert_eq!(seen, keys, "samples of pgrecast {name}, and its options");
    }
}

/// The other way round a key is an option by construction; this is what the construction leaves out.
#[test]
fn what_is_no_key_is_left_out_on_purpose() {
    for command in keys::commands() {
        let keys: BTreeSet<String> = keys::of(&command).into_iter().map(|key| key.id).collect();
        let others = command.get_arguments().filter(|arg| !keys.contains(arg.get_id().as_str()));
        let (hidden, others): (Vec<_>, Vec<_>) = others.partition(|arg| arg.is_hide_set());
        let others: BTreeSet<&str> = others.into_iter().filter_map(|arg| arg.get_long()).collect();
        assert_eq!(others, BTreeSet::from(keys::NOT_IN_A_SPEC));
        assert!(hidden.is_empty());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn any_choice_of_options_comes_back(of in 0..LINES.len(), choice: u64) {
        let (needed, own) = LINES[of].split_at(if LINES[of][0] == "partition" { 2 } else { 3 });
        let options = [own, SHARED].concat();
        let chosen = options.iter().enumerate().filter(|(n, _)| choice >> n & 1 == 1).map(|(_, option)| *option);
        let line: Vec<&str> = needed.iter().copied().chain(chosen).collect();
        if let Ok(expected) = parse(std::iter::once("pgrecast").chain(line.iter().copied())) {
            prop_assert_eq!(said(&printed(&line)), expected);
        }
    }

    #[test]
    fn any_text_comes_back(clauses in "(\\PC|[\n\r\t,'\" -]){0,30}", query in "(\\PC|[\n\r\t'\"\\\\]){1,20}") {
        let query = format!("--throttle-query={query}");
        let line = ["alter", "t", &query, "--", &clauses];
        let spec = match command_of(&[&["alter", "--print-spec"], &line[1..]].concat()) {
            Command::Print(printed) => printed.text,
            other => panic!("{other:?}"),
        };
        prop_assert_eq!(said(&spec), command_of(&line));
    }
}

#[test]
fn what_is_the_default_anyway_is_not_printed() {
    let text = printed(&["alter", "t", "", "--jobs=2", "--max-lag=10s", "--cutover-attempts=60", "--nice=0"]);
    assert_eq!(keys_in(&text).into_iter().map(|(_, key)| key).collect::<Vec<_>>(), ["clauses", "table"]);
    let text =
        printed(&["partition", "t", "--range=a", "--every=1 day", "--premake=4", "--dsn=postgres://u:secret@h/d"]);
    assert!(!text.contains("premake") && !text.contains("secret"), "{text}");
}

#[test]
fn lists_are_the_texts_of_command_lines() {
    let partition = |rest: &str| format!("[partition]\ntable = 't'\n{rest}");
    for (spec, line) in [
        ("[alter]\ntable='t'\nclauses = ['DROP a', 'DROP b']".to_owned(), &["alter", "t", "DROP a, DROP b"][..]),
        ("alter = { table = 't', clauses = [] }".to_owned(), &["alter", "t", ""]),
        (
            "[alter]\ntable='t'\nclauses = ['DROP a -- why', 'DROP b']".to_owned(),
            &["alter", "t", "DROP a -- why\n, DROP b"],
        ),
        (
            partition("range = ['a', '\"B\"']\nbounds = [[1, 'a,b'], [2, 'MAXVALUE'], [3, \"'NULL'\"], [4, '']]"),
            &["partition", "t", "--range=a,\"B\"", "--bounds=(1,'a,b'),(2,MAXVALUE),(3,'NULL'),(4,'')"],
        ),
        (
            partition("range = 'a'\nbounds = [2026-01-01, 2026-02-01T00:00:00Z, 'o''clock']").replace("''", "'"),
            &["partition", "t", "--range=a", "--bounds=2026-01-01,2026-02-01T00:00:00Z,'o''clock'"],
        ),
        (
            partition("list = 'a'\nvalues = ['x', ['y;z', 'NULL'], 0x10, -1.5]"),
            &["partition", "t", "--list=a", "--values=x;'y;z',NULL;16;-1.5"],
        ),
        (
            partition("hash = 'a'\npartitions = '8'\ndrop-constraint = 'x'"),
            &["partition", "t", "--hash=a", "--partitions=8", "--drop-constraint=x"],
        ),
    ] {
        let spec = spec.replace("'o'clock'", "\"o'clock\"");
        assert_eq!(said(&spec), command_of(line), "{spec}");
    }
}

#[test]
fn what_is_typed_beside_the_file_counts_for_more() {
    let text = "[alter]\ntable = 't'\nclauses = ''\n[options]\njobs = 4\nvacuum = true\n[throttle]\nmax-lag = '3s'";
    let beside = ["--jobs=8", "--dry-run", "--dsn=postgres://h/d", "--format=json", "--report=r.json"];
    let read = read_beside(text, &beside).expect("a command").command;
    let line = [&["alter", "t", "", "--jobs=8", "--vacuum", "--max-lag=3s"], &beside[1..]].concat();
    assert_eq!(read, command_of(&line));
    match read_beside(text, &["--jobs=8", "--print-spec"]).expect("a spec").command {
        Command::Print(printed) => {
            assert_eq!(said(&printed.text), command_of(&["alter", "t", "", "--jobs=8", "--vacuum", "--max-lag=3s"]));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_mistake_is_named_with_its_place_and_what_may_have_been_meant() {
    let alter = "[alter]\ntable = 't'\nclauses = ''\n";
    let with = |rest: &str| format!("{alter}{rest}");
    let partition = |rest: &str| format!("[partition]\ntable = 't'\n{rest}");
    for (spec, primary, hint) in [
        (String::new(), "a.toml:1:1: the spec does not say what to do", "[alter], [partition], [split], [widen]"),
        ("[alte]".to_owned(), "a.toml:1:2: the spec does not say", "Did you mean [alter]?"),
        ("jobs = ".to_owned(), "a.toml:1:8: ", "TOML"),
        (with("table = 'u'"), "a.toml:4:1: duplicate key", "TOML"),
        (with("clause = ''"), "a.toml:4:1: unknown key clause in [alter]", "Did you mean clauses?"),
        (with("jobs = 4"), "a.toml:4:1: unknown key jobs in [alter]", "below [options]"),
        (with("premake = 4"), "a.toml:4:1: unknown key premake in [alter]", "for [partition]"),
        (with("xyz = 4"), "a.toml:4:1: unknown key xyz in [alter]", "There is table, clauses, "),
        (with("[options]\nno-verify = true"), "a.toml:5:1: unknown key no-verify", "Write verify = false."),
        (with("[options]\ndsn = 'x'"), "a.toml:5:1: unknown key dsn", "give --dsn beside"),
        (
            with("[options]\nlock_timeout = '1s'"),
            "a.toml:5:1: unknown key lock_timeout",
            "lock-timeout below [cutover]?",
        ),
        (with("[cutover]\nlock_timeout = '1s'"), "a.toml:5:1: unknown key lock_timeout", "mean lock-timeout?"),
        (with("[throtle]\nnice = 1"), "a.toml:4:2: unknown table [throtle]", "Did you mean [throttle]?"),
        ("jobs = 4\n[alter]".to_owned(), "a.toml:1:1: jobs stands in no table", "below [options]"),
        ("alter = 't'".to_owned(), "a.toml:1:1: alter is a table", ""),
        (with("[partition]"), "a.toml:4:2: [alter] and [partition] exclude each other", "one migration"),
        ("# why\n\n[alter]\ntable = 't'".to_owned(), "a.toml:3:2: [alter] needs the key clauses", ""),
        (with("[options]\njobs = 0"), "a.toml:5:8: jobs: 0 is not in 1..=64", ""),
        (with("[options]\njobs = 'two'"), "a.toml:5:8: jobs: invalid digit", ""),
        (with("[options]\njobs = [1]"), "a.toml:5:8: jobs: it takes one value", ""),
        (with("[options]\njobs = true"), "a.toml:5:8: jobs: it takes a value", ""),
        (with("[options]\nvacuum = 1"), "a.toml:5:10: vacuum: it is true or false", ""),
        (with("[throttle]\nmax-lag = 10"), "a.toml:5:11: max-lag: time unit needed", ""),
        (with("setting = ['a=1']"), "a.toml:4:11: setting: it is a table", ""),
        (with("setting = { ok = 'ä', 'b c' = 1 }"), "a.toml:4:23: setting: \"b c\" is not the name", ""),
        (with("[alter.setting]\nok = 1\nmy.x = 1"), "a.toml:6:1: setting: a table is too much", ""),
        (with("[alter.reverse]\na = 'b'"), "a.toml:4:8: --reverse is for --rollback-window", "--rollback-window"),
        ("[alter]\ntable = 'a.b.c'\nclauses = ''".to_owned(), "a.toml:2:9: table: a table is NAME or", ""),
        ("[alter]\ntable = \"a\\u0000b\"\nclauses = ''".to_owned(), "a.toml:2:9: table: the character NUL", ""),
        (partition(""), "a.toml:1:2: one of --range, --list, --hash and --none", ""),
        (partition("hash = 'ä'\nvalues = [1]"), "a.toml:3:1: --values is not for --hash", ""),
        (partition("drop-constraint = ['ä', 'b-c']"), "a.toml:3:25: drop-constraint: '-' can stand", ""),
        (partition("list = ['ö', 1]"), "a.toml:3:8: list: '1' can stand", ""),
    ] {
        match read_beside(&spec, &[]) {
            Err(failure) => {
                let said = failure.hint.clone().unwrap_or_default();
                assert_eq!(failure.exit, Exit::Usage, "{spec}");
                assert!(failure.primary.starts_with(primary), "{spec}\n{}\n{primary}", failure.primary);
                assert!(said.contains(hint), "{spec}\n{said}");
            }
            Ok(read) => panic!("{spec}: {:?}", read.command),
        }
    }
}

#[test]
fn a_contradiction_is_placed_where_it_stands() {
    let text = "[alter]\ntable = 't'\nclauses = ''\n[cutover]\nlock-timeout = '500ms'";
    let failed = |beside: &[&str]| match read_beside(text, beside) {
        Err(failure) => failure.primary,
        Ok(read) => panic!("{:?}", read.command),
    };
    let words = "--lock-timeout must be shorter than --cutover-timeout";
    assert_eq!(failed(&["--cutover-timeout=300ms"]), format!("a.toml:5:1: {words}"));
    assert_eq!(failed(&["--lock-timeout=2s"]), words);
    let spelled = read_beside(text, &[]).expect("a command");
    assert_eq!(spelled.locate(Failure::usage("no clause")).primary, "a.toml:1:2: no clause");
}

#[test]
fn what_no_key_is_to_blame_for_stands_at_the_head() {
    let spec = Spec::read(std::path::Path::new("a.toml"), "\n[alter]\ntable = 't'\nclauses = ''").expect("a spec");
    let line = ["pgrecast", "alter", "t", "", "--format=xml"];
    let error = CommandLine::command().try_get_matches_from(line).expect_err("a wrong value");
    let said = "a.toml:2:2: invalid value 'xml' for '--format <FORMAT>' [possible values: text, json]";
    assert_eq!(spec.misread(&error).primary, said);
}

#[test]
fn a_dsn_beside_a_file_is_not_shown() {
    let run = command_of(&["run", "a.toml", "--dsn=postgres://u:secret@h/d"]);
    let Command::Run(typed) = &run else { panic!("{run:?}") };
    let spelled = typed.spelled("[alter]\ntable = 't'\nclauses = ''").expect("a command");
    assert!(!format!("{run:?}{:?}", spelled.command).contains("secret"));
}

#[test]
fn only_what_begins_a_migration_is_printed() {
    for line in [&["pgrecast", "resume", "--print-spec"][..], &["pgrecast", "list", "--print-spec"]] {
        assert!(matches!(parse(line.iter().copied()), Err(Unparsed::Wrong(_))), "{line:?}");
    }
}

#[test]
fn the_manuals_examples_are_specs() {
    let examples = MANUAL.split("```toml\n").skip(1).filter_map(|block| block.split("```").next());
    let of: BTreeSet<&str> = examples.map(|example| said(example).name()).collect();
    let commands = keys::commands();
    assert_eq!(of, commands.iter().map(clap::Command::get_name).collect::<BTreeSet<_>>());
}

#[test]
fn the_manual_has_every_key() {
    let mut table = None;
    let mut written = BTreeSet::new();
    for line in MANUAL.lines() {
        if let Some(heading) = line.strip_prefix("### `[") {
            table = heading.strip_suffix("]`").map(str::to_owned);
        }
        if let (Some(table), Some(row)) = (&table, line.strip_prefix("| `")) {
            written.insert((table.clone(), row.split('`').next().unwrap_or_default().to_owned()));
        }
    }
    let keys = keys::commands().iter().flat_map(keys::of).map(|key| (key.table, key.name)).collect::<BTreeSet<_>>();
    assert_eq!(written, keys);
}
