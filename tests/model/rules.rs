//! Tests of the test: whichever rule the tool breaks, some schedule shows it.

use crate::schedule::Found;
use crate::tool::Broken;

/// Schedules within which it must.
const WITHIN: u64 = 20_000;

fn assert_found(broken: Broken) {
    match crate::search(WITHIN, broken) {
        Ok(met) => panic!("{broken:?} was not noticed: {met:?}"),
        Err(Found { seed, why, .. }) => println!("{broken:?}: seed {seed}: {why}"),
    }
}

#[test]
fn rule_1_possibly_new_rows_are_not_copied() {
    assert_found(Broken::CopiesNewRows);
}

#[test]
fn rule_2_the_copy_waits_for_those_who_were_writing() {
    assert_found(Broken::DoesNotSettle);
}

#[test]
fn rule_3_progress_is_committed_with_the_rows_not_after() {
    assert_found(Broken::ProgressAfterRows);
}

#[test]
fn rule_3_progress_is_committed_with_the_rows_not_before() {
    assert_found(Broken::ProgressBeforeRows);
}

#[test]
fn rule_4_nothing_is_flushed_before_the_copy_is_complete() {
    assert_found(Broken::FlushesDuringCopy);
}

#[test]
fn rule_5_a_key_is_retired_by_a_flush_that_saw_its_change() {
    assert_found(Broken::RetiresUnseen);
}

#[test]
fn rule_5_of_the_changes_of_a_key_the_last_to_commit_counts() {
    assert_found(Broken::CountsHighestXid);
}

#[test]
fn rule_6_one_flusher_has_a_key_at_a_time() {
    assert_found(Broken::TwoFlushersOnOneKey);
}

#[test]
fn rule_8_a_key_change_names_both_keys() {
    assert_found(Broken::DropsOldKeys);
}

#[test]
fn rule_8_truncate_empties_the_shadow() {
    assert_found(Broken::IgnoresTruncate);
}

#[test]
fn rule_9_what_is_only_received_is_not_acknowledged() {
    assert_found(Broken::AcknowledgesReceived);
}

#[test]
fn rule_9_what_is_only_committed_is_not_acknowledged() {
    assert_found(Broken::AcknowledgesCommitted);
}

#[test]
fn rule_9_what_is_remembered_does_not_outlive_a_crash_of_the_server() {
    assert_found(Broken::TrustsMemory);
}
