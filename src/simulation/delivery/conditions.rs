//! What the conditions and the columns of a setting say, whatever can't be read and however long something takes.

use std::{cell::Cell, rc::Rc};

use super::*;
use crate::api::condition::{READY, RECONCILING, STALLED};

/// What was written for this generation of the spec.
fn written_for(it: &Simulation, generation: i64) -> Vec<NotificationSettingStatus> {
    let of = |status: &&NotificationSettingStatus| status.observed_generation == Some(generation);
    it.written.iter().filter(of).cloned().collect()
}

fn slow_destination(by: Duration) -> Box<dyn Fn(&Action) -> Duration> {
    Box::new(move |action| match action {
        Action::ReadDestination(_) => by,
        _ => Duration::ZERO,
    })
}

// ---- Ready ----

#[test]
fn a_new_spec_is_not_called_ready_before_its_destination_is_known() {
    for (takes, reasons) in [
        (millis(500), &["False SecretNotFound"][..]),
        (
            seconds(20),
            &["False DestinationUnknown", "False SecretNotFound"],
        ),
    ] {
        let mut it = with_one_environment(webhook());
        it.start();
        it.run(seconds(5));
        assert_eq!(it.ready(), "True Valid");
        it.slow = slow_destination(takes);
        it.url = None;
        it.edit(|_| ()); // to a Secret that doesn't exist
        it.run(seconds(4));
        assert_eq!(it.ready(), reasons[0], "soon");
        it.run(seconds(60));
        let mut said: Vec<_> = written_for(&it, 2)
            .iter()
            .map(|status| says(status, READY))
            .collect();
        said.dedup();
        assert_eq!(said, reasons);
    }
}

#[test]
fn a_corrected_url_is_not_called_wrong() {
    let mut it = with_one_environment(webhook());
    let set = |spec: &mut NotificationSettingSpec, url: &str| {
        spec.webhook.as_mut().unwrap().url = Some(url.to_owned());
    };
    set(&mut it.setting.spec, "hook.example");
    it.start();
    it.run(seconds(5));
    assert_eq!(it.ready(), "False UrlInvalid");
    assert!(condition::find(&it.status().conditions, STALLED).is_some());
    it.slow = slow_destination(millis(500));
    it.edit(|spec| set(spec, "https://hook.example/b"));
    it.run(seconds(60));
    let statuses = written_for(&it, 2);
    assert!(!statuses.is_empty());
    for status in statuses {
        assert_eq!(says(&status, READY), "True Valid");
        assert!(condition::find(&status.conditions, STALLED).is_none());
    }
}

#[test]
fn a_setting_whose_secret_can_t_be_read_is_not_ready_and_sends_nothing_until_it_can() {
    for known_before in [false, true] {
        let mut it = with_one_environment(webhook());
        if known_before {
            it.start();
            it.run(seconds(60));
            assert_eq!(it.ready(), "True Valid");
        }
        it.faults.secret_fails = 1_000;
        if !known_before {
            it.start();
            it.run(seconds(60));
            assert_eq!(it.ready(), "False DestinationUnknown");
        }
        change(&mut it, "u1", "a");
        it.run(seconds(60));
        assert_eq!(it.ready(), "False DestinationUnknown");
        assert_eq!(it.delivered(), "False NotReady");
        assert_eq!(it.status().pending, Some(1));
        let steps = it.steps;
        it.run(seconds(600));
        assert!(it.heard.is_empty());
        assert!(it.steps - steps < 400, "{} steps", it.steps - steps);
        assert!(condition::find(&it.status().conditions, RECONCILING).is_none());
        it.faults.secret_fails = 0;
        it.run(seconds(20));
        assert_eq!(it.ready(), "True Valid");
        assert_eq!(it.taken(), it.ids_after("u1", 1));
    }
}

#[test]
fn one_read_of_the_secret_that_fails_is_not_reported() {
    let mut it = with_one_environment(webhook());
    it.start();
    it.run(seconds(60));
    it.faults.secret_fails = 1_000;
    change(&mut it, "u1", "a");
    it.run(seconds(1));
    it.faults.secret_fails = 0;
    it.run(seconds(60));
    assert_eq!(it.taken(), it.ids_after("u1", 1));
    let ready = it.written.iter().map(|status| says(status, READY));
    assert_eq!(ready.filter(|ready| ready != "True Valid").count(), 0);
}

#[test]
fn an_operator_that_starts_takes_back_a_problem_that_has_ended() {
    let mut it = with_one_environment(webhook());
    it.url = None;
    it.start();
    it.run(seconds(60));
    assert_eq!(it.ready(), "False SecretNotFound");
    it.kill(0);
    it.url = Some("https://hook.example/a".to_owned());
    it.begin(0);
    it.run(seconds(20));
    assert_eq!(it.ready(), "True Valid");
}

#[test]
fn a_restart_does_not_begin_the_time_anew_in_which_what_is_missing_is_expected() {
    let mut it = with_one_environment(webhook());
    it.url = None;
    it.start();
    it.run(seconds(600));
    assert!(condition::find(&it.status().conditions, RECONCILING).is_none());
    it.restart(0);
    change(&mut it, "u1", "a");
    it.run(seconds(60));
    assert_eq!(it.status().pending, Some(1));
    assert!(condition::find(&it.status().conditions, RECONCILING).is_none());
}

// ---- what waits ----

#[test]
fn what_waits_is_counted_again_after_a_log_could_not_be_read() {
    let mut it = with_one_environment(webhook());
    it.edit(|spec| spec.suspend = Some(true));
    it.start();
    it.run(seconds(10));
    it.faults.read_fails = 1_000;
    change(&mut it, "u1", "a");
    it.run(seconds(60));
    it.faults.read_fails = 0;
    for number in 0..50 {
        change(&mut it, "u1", &format!("image-{number}"));
        it.run(seconds(1));
    }
    it.run(seconds(3_600));
    assert_eq!(it.status().pending, Some(51));
    assert_eq!(it.delivered(), "False Suspended");
}

#[test]
fn a_log_that_was_set_back_and_could_not_be_read_then_is_looked_at_again() {
    let mut it = with_one_environment(webhook());
    it.start();
    it.run(seconds(5));
    for name in ["a", "b", "c"] {
        change(&mut it, "u1", name);
    }
    it.run(seconds(60));
    let log = it.logs.get_mut("u1").unwrap();
    log.entries.retain(|index, _| *index < 3);
    it.faults.read_fails = 1_000;
    it.log_grew("u1");
    it.run(seconds(10));
    it.faults.read_fails = 0;
    it.run(seconds(60));
    assert_eq!(reasons(&it), ["CursorReset"]);
}

#[test]
fn what_was_counted_for_an_earlier_spec_is_counted_again() {
    let mut it = with_one_environment(webhook());
    it.edit(|spec| spec.suspend = Some(true));
    it.start();
    it.run(seconds(10));
    let counting = Rc::new(Cell::new(false));
    let counts = counting.clone();
    it.slow = Box::new(move |action| match action {
        Action::Count(..) => {
            counts.set(true);
            seconds(2)
        }
        _ => Duration::ZERO,
    });
    change(&mut it, "u1", "a");
    while !counting.get() {
        it.run(millis(10));
    }
    it.edit(|spec| spec.event_types = Some(vec![EventType::ArtifactScaled]));
    it.run(seconds(600));
    assert_eq!(it.status().pending, Some(0));
    it.edit(|spec| spec.event_types = None);
    it.run(seconds(600));
    assert_eq!(it.status().pending, Some(1));
}

#[test]
fn what_waits_long_for_its_turn_is_shown_and_is_no_failure() {
    let mut it = with_one_environment(webhook());
    it.start();
    it.run(seconds(5));
    change(&mut it, "u1", "a");
    it.run(seconds(60));
    assert_eq!(it.delivered(), "True UpToDate");
    // Others keep the destination busy for an hour.
    it.turn = Box::new(|_| seconds(3_600));
    change(&mut it, "u1", "b");
    it.run(seconds(30));
    assert_eq!(it.delivered(), "False WaitingForTurn");
    assert_eq!(it.status().pending, Some(1));
    change(&mut it, "u1", "c");
    it.run(seconds(3_000));
    let status = it.status();
    assert_eq!(it.delivered(), "False WaitingForTurn");
    assert_eq!(status.pending, Some(2));
    assert!(status.oldest_pending_time.is_some());
    assert!(status.last_failure.is_none() && status.next_attempt_time.is_none());
    it.turn = Box::new(|_| millis(1));
    it.run(seconds(700));
    assert_eq!(it.taken(), it.ids_after("u1", 1));
    assert_eq!(it.delivered(), "True UpToDate");
    assert_eq!(it.status().pending, Some(0));
    assert!(it.events.is_empty());
}
