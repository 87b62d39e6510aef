//! Faults that were found in delivery, each as a scenario that failed before it was mended.

use super::*;
use crate::{
    api::notification_setting::StartReason, config::LogFormat, delivery::reasons::SkipReason,
    http::response::HoldRetry, simulation::testing::Logged,
};

// ---- where a cursor starts ----

#[test]
fn old_history_is_not_sent_though_the_log_could_not_be_found_when_the_setting_was_handled() {
    let mut it = with_one_environment(webhook());
    for name in ["a", "b", "c"] {
        it.at += seconds(10);
        change(&mut it, "u1", name);
    }
    it.at += seconds(10);
    it.setting_created = it.at;
    it.logs.get_mut("u1").unwrap().head_known = false;
    it.faults.read_fails = 1_000;
    it.start();
    it.run(seconds(30));
    let status = it.status();
    assert_eq!(status.observed_generation, Some(1), "it is handled");
    assert_eq!(status.starts[0].reason, StartReason::NewSetting);
    assert_eq!(status.starts[0].index, None, "and the start is still open");
    it.restart(0);
    it.run(seconds(2));
    it.faults.read_fails = 0;
    it.logs.get_mut("u1").unwrap().head_known = true;
    it.environments_changed();
    it.run(seconds(60));
    assert_eq!(it.status().cursors[0].index, 4);
    assert!(it.heard.is_empty(), "nothing old is sent");
    change(&mut it, "u1", "d");
    it.run(seconds(60));
    assert_eq!(it.taken(), it.ids_after("u1", 4));
}

#[test]
fn a_log_is_not_listed_before_its_end_is_known_and_the_start_is_found_then() {
    for spec in [webhook(), slack()] {
        let mut it = with_one_environment(spec);
        it.logs.get_mut("u1").unwrap().head_known = false;
        it.start();
        it.run(seconds(3_600));
        assert_eq!(it.lists, 0);
        assert_eq!(it.status().starts[0].index, None);
        it.logs.get_mut("u1").unwrap().head_known = true;
        it.log_grew("u1");
        it.run(seconds(5));
        assert_eq!((it.lists, it.status().cursors[0].index), (1, 1));
        change(&mut it, "u1", "a");
        it.run(seconds(60));
        assert_eq!((it.lists, it.taken()), (1, it.ids_after("u1", 1)));
    }
}

#[test]
fn a_log_that_can_t_be_listed_for_a_start_is_listed_less_and_less_often() {
    let mut it = with_one_environment(webhook());
    it.faults.read_fails = 1_000;
    it.start();
    it.run(seconds(3_600));
    assert!((60..=90).contains(&it.lists), "{} in an hour", it.lists);
    it.faults.read_fails = 0;
    it.run(seconds(90));
    assert_eq!(it.status().cursors[0].index, 1);
}

#[test]
fn of_more_environments_than_a_setting_may_follow_nothing_old_is_sent_when_one_goes() {
    let mut it = Simulation::new(7, webhook());
    for number in 0..=1_024 {
        it.environment(&format!("e{number}"), &format!("u{number}"));
    }
    change(&mut it, "u7", "old");
    it.at += seconds(3_600);
    it.setting_created = it.at;
    it.start();
    it.run(seconds(60));
    assert_eq!(it.status().reason.as_deref(), Some("TooManyEnvironments"));
    it.at += seconds(3_600);
    change(&mut it, "u7", "also old");
    it.restart(0);
    it.logs.get_mut("u0").unwrap().deleted = true;
    it.environments_changed();
    it.run(seconds(60));
    assert!(it.heard.is_empty());
    change(&mut it, "u7", "new");
    it.run(seconds(60));
    assert_eq!(it.taken(), it.ids_after("u7", 3));
}

#[test]
fn all_of_an_environment_that_was_created_later_is_sent_also_if_nobody_was_there_to_see_it() {
    let mut it = with_one_environment(webhook());
    it.start();
    it.run(seconds(120));
    it.kill(0);
    it.run(seconds(120));
    it.environment("later", "u2");
    it.run(seconds(10));
    change(&mut it, "u2", "a");
    it.run(seconds(10));
    it.begin(0);
    it.run(seconds(60));
    assert_eq!(it.taken(), it.ids_after("u2", 1));
    let start = &it.status().starts;
    let start = start.iter().find(|start| start.environment == "later");
    assert_eq!(start.unwrap().reason, StartReason::NewEnvironment);
}

#[test]
fn an_environment_that_is_opened_to_the_namespace_starts_at_its_newest_snapshot() {
    let mut it = with_one_environment(webhook());
    it.environment("hidden", "u2");
    it.logs.get_mut("u2").unwrap().visible_to = vec!["other".to_owned()];
    it.start();
    it.run(seconds(120));
    change(&mut it, "u2", "unseen");
    let log = it.logs.get_mut("u2").unwrap();
    log.visible_to = vec!["*".to_owned()];
    log.generation = 2;
    it.environments_changed();
    it.run(seconds(10));
    change(&mut it, "u2", "seen");
    it.run(seconds(10));
    assert_eq!(it.taken(), it.ids_after("u2", 2));
}

#[test]
fn nothing_of_an_environment_is_sent_before_its_start_stands_in_the_status() {
    let mut it = with_one_environment(webhook());
    it.start();
    it.run(seconds(5));
    it.faults.write_fails = 1_000;
    it.environment("test", "u2");
    change(&mut it, "u2", "a");
    it.run(seconds(600));
    assert!(it.heard.is_empty());
    it.faults.write_fails = 0;
    it.run(seconds(600));
    assert_eq!(it.taken(), it.ids_after("u2", 1));
}

// ---- turns ----

#[test]
fn waiting_for_a_turn_is_no_failure_and_gives_nothing_up() {
    let mut it = with_one_environment(NotificationSettingSpec {
        retry: Some(crate::api::notification_setting::Retry {
            max_age: Some("1m".parse().unwrap()),
        }),
        ..webhook()
    });
    it.start();
    it.run(seconds(5));
    // Others keep the destination busy for an hour.
    it.turn = Box::new(|_| seconds(3_600));
    change(&mut it, "u1", "a");
    change(&mut it, "u1", "b");
    it.run(seconds(3_000));
    let status = it.status();
    assert!(status.last_failure.is_none() && status.skipped_ranges.is_empty());
    it.turn = Box::new(|_| millis(1));
    it.run(seconds(700));
    assert_eq!(it.taken(), it.ids_after("u1", 1));
}

#[test]
fn what_waits_for_a_turn_is_not_sent_once_the_setting_is_suspended_or_the_program_stops() {
    for stop in [false, true] {
        let mut it = with_one_environment(webhook());
        it.environment("test", "u2");
        it.at += seconds(10);
        it.setting_created = it.at;
        it.start();
        it.run(seconds(5));
        it.turn = Box::new(|_| seconds(3));
        change(&mut it, "u1", "a");
        change(&mut it, "u2", "b");
        it.run(seconds(1));
        if stop {
            it.stop(0);
        } else {
            it.edit(|spec| spec.suspend = Some(true));
        }
        it.run(seconds(3_600));
        assert!(it.heard.is_empty());
        if stop {
            assert!(it.operators[0].state.as_ref().unwrap().is_finished());
            continue;
        }
        assert_eq!(it.delivered(), "False Suspended");
        assert_eq!(it.status().pending, Some(2));
        it.edit(|spec| spec.suspend = None);
        it.run(seconds(60));
        assert_eq!(it.taken().len(), 2);
    }
}

#[test]
fn a_program_that_stops_writes_down_what_was_on_its_way_and_ends_though_more_waits() {
    let mut it = with_one_environment(webhook());
    it.receiver = Box::new(|_, _, _| Answer {
        after: seconds(2),
        ..takes()
    });
    it.start();
    it.run(seconds(5));
    for name in ["a", "b", "c"] {
        change(&mut it, "u1", name);
    }
    it.run(seconds(1));
    it.stop(0);
    it.run(seconds(3));
    assert!(it.operators[0].state.as_ref().unwrap().is_finished());
    assert_eq!(it.heard.len(), 1);
    assert_eq!(it.status().cursors[0].index, 2);
}

#[test]
fn what_waits_for_a_turn_goes_to_the_corrected_url() {
    let mut it = with_one_environment(webhook());
    it.start();
    it.run(seconds(5));
    it.turn = Box::new(|_| seconds(20));
    for name in ["a", "b", "c"] {
        change(&mut it, "u1", name);
    }
    it.run(seconds(1));
    it.url = Some("https://hook.example/corrected".to_owned());
    it.edit(|spec| spec.environments = Some(vec!["prod".to_owned()]));
    it.run(seconds(300));
    assert_eq!(it.taken(), it.ids_after("u1", 1));
    assert!(
        it.heard
            .iter()
            .all(|heard| heard.url.ends_with("corrected"))
    );
}

#[test]
fn an_answer_of_the_old_destination_says_nothing_of_the_new_one() {
    let mut it = with_one_environment(webhook());
    it.receiver = Box::new(|_, url, _| {
        if url.ends_with("/a") {
            Answer {
                outcome: Outcome::Gone {
                    message: "gone".to_owned(),
                },
                after: seconds(10),
                taken: false,
            }
        } else {
            takes()
        }
    });
    it.start();
    it.run(seconds(5));
    change(&mut it, "u1", "a");
    it.run(seconds(1));
    it.url = Some("https://hook.example/b".to_owned());
    it.edit(|spec| spec.environments = Some(vec!["prod".to_owned()]));
    it.run(seconds(60));
    assert_eq!(it.taken(), it.ids_after("u1", 1));
    assert_eq!(it.delivered(), "True UpToDate");
}

#[test]
fn what_waits_long_for_a_turn_goes_to_the_url_that_the_secret_has_by_then() {
    for test in [false, true] {
        let mut it = with_one_environment(webhook());
        it.start();
        it.run(seconds(5));
        it.turn = Box::new(|_| seconds(1_200));
        if test {
            it.request_test("1");
        } else {
            change(&mut it, "u1", "a");
        }
        it.run(seconds(1));
        it.url = Some("https://hook.example/rotated".to_owned());
        it.turn = Box::new(|_| millis(1));
        it.run(seconds(60));
        let urls: Vec<_> = it.heard.iter().map(|heard| heard.url.as_str()).collect();
        assert_eq!(urls, ["https://hook.example/rotated"], "test: {test}");
    }
}

#[test]
fn a_message_whose_turn_comes_when_the_window_is_closed_waits_for_the_write() {
    let mut it = with_one_environment(webhook());
    it.start();
    it.run(seconds(5));
    it.faults.write_fails = 1_000;
    change(&mut it, "u1", "a");
    it.run(millis(900));
    assert_eq!(it.heard.len(), 1);
    let mut first = true;
    it.turn = Box::new(move |_| {
        if std::mem::take(&mut first) {
            millis(1_200)
        } else {
            Duration::ZERO
        }
    });
    change(&mut it, "u1", "b");
    let before = it.steps;
    it.run(seconds(60));
    assert_eq!(it.heard.len(), 1);
    let steps = it.steps - before;
    assert!(steps < 200, "{steps} steps in a minute");
    it.faults.write_fails = 0;
    it.run(seconds(60));
    assert_eq!(it.taken(), it.ids_after("u1", 1));
}

#[test]
fn what_becomes_due_right_after_a_step_is_done() {
    let mut it = with_one_environment(webhook());
    it.start();
    it.run(seconds(5));
    it.receiver = Box::new(|_, _, _| fails(Reason::ServerError));
    change(&mut it, "u1", "a");
    it.run(millis(100));
    assert_eq!(it.heard.len(), 1);
    for _ in 0..20 {
        // When the machine is asked when to wake up, that time has already come.
        let state = it.operators[0].state.as_ref().unwrap();
        let wake = state.wake_at().unwrap() - Moment::ZERO;
        it.run(wake - it.at);
        it.run(millis(20));
    }
    assert!(it.heard.len() > 1);
}

#[test]
fn nothing_more_of_an_environment_goes_out_once_it_may_not_be_seen() {
    let mut it = with_one_environment(webhook());
    it.start();
    it.run(seconds(5));
    it.receiver = Box::new(|_, _, _| Answer {
        after: millis(50),
        ..takes()
    });
    it.slow = Box::new(|action| match action {
        Action::Count(..) => seconds(10),
        _ => Duration::ZERO,
    });
    for number in 0..40 {
        change(&mut it, "u1", &format!("image-{number}"));
    }
    while it.heard.is_empty() {
        it.run(millis(1));
    }
    it.hide("u1");
    it.run(seconds(60));
    assert_eq!(it.heard.len(), 1);
    assert_eq!(reasons(&it), [SkipReason::EnvironmentNotVisible.as_str()]);
}

// ---- the destination ----

#[test]
fn a_destination_that_refuses_different_events_with_one_answer_is_wrong_and_holds_the_setting() {
    let mut it = with_one_environment(webhook());
    it.receiver = Box::new(|_, _, _| refuses("the destination answered 400"));
    it.start();
    it.run(seconds(5));
    for name in ["a", "b", "c", "d"] {
        change(&mut it, "u1", name);
    }
    it.run(seconds(600));
    let status = it.status();
    assert_eq!(it.delivered(), "False PayloadRefused");
    assert_eq!(status.dead_lettered, Some(1), "only the first is given up");
    assert_eq!(status.pending, Some(3));
    let failing = |(reason, _): &&(EventReason, String)| *reason == EventReason::DeliveryFailing;
    assert_eq!(it.events.iter().filter(failing).count(), 1);
    it.restart(0);
    it.run(seconds(600));
    assert_eq!(it.status().dead_lettered, Some(1), "also after a restart");
    it.receiver = Box::new(|_, _, _| takes());
    it.url = Some("https://hook.example/right".to_owned());
    it.run(seconds(120));
    assert_eq!(it.taken(), it.ids_after("u1", 1)[1..]);
    assert_eq!(it.delivered(), "True UpToDate");
}

#[test]
fn one_event_that_is_refused_is_set_aside_and_the_next_go_on() {
    let mut it = with_one_environment(webhook());
    it.start();
    it.run(seconds(5));
    for name in ["a", "b", "c", "d"] {
        change(&mut it, "u1", name);
    }
    let ids = it.ids_after("u1", 1);
    let poison = ids[1].clone();
    it.receiver = Box::new(move |_, _, id| {
        if id == poison {
            refuses("the destination answered 422")
        } else {
            takes()
        }
    });
    it.run(seconds(60));
    assert_eq!(it.taken(), [&ids[0], &ids[2], &ids[3]].map(String::clone));
    assert_eq!(it.status().dead_letters[0].event_id, ids[1]);
    assert_eq!(it.delivered(), "True UpToDate");
}

#[test]
fn what_a_destination_says_is_logged_in_one_line_beside_what_becomes_of_the_message() {
    let said = "it said\nmore";
    let mut retried = fails(Reason::ServerError);
    if let Outcome::Retry { message, .. } = &mut retried.outcome {
        said.clone_into(message);
    }
    for (answer, becomes) in [
        (refuses(said), "refused for good; going on with the next"),
        (retried, "not delivered; trying again later"),
    ] {
        for format in [LogFormat::Text, LogFormat::Json] {
            let mut it = with_one_environment(webhook());
            let answer = answer.clone();
            it.receiver = Box::new(move |_, _, _| answer.clone());
            it.start();
            it.run(seconds(5));
            change(&mut it, "u1", "a");
            let logged = Logged::begin(format);
            it.run(seconds(1));
            let text = logged.text();
            let tells = |line: &str| line.contains(becomes) && line.contains("it said\\nmore");
            assert!(text.lines().any(tells), "{text}");
        }
    }
}

#[test]
fn a_page_instead_of_an_answer_is_not_sent_to_again_until_something_changes() {
    let mut it = with_one_environment(slack());
    it.receiver = Box::new(|_, _, _| Answer {
        outcome: Outcome::Hold {
            retry: HoldRetry::AfterChange,
            reason: Reason::UnexpectedAnswer,
            message: "the destination answered with a page".to_owned(),
        },
        after: millis(3),
        taken: true,
    });
    it.start();
    it.run(seconds(5));
    change(&mut it, "u1", "a");
    it.run(seconds(72 * 3_600));
    assert_eq!(it.heard.len(), 1, "posted once, not for three days");
    assert_eq!(it.delivered(), "False UnexpectedAnswer");
    it.receiver = Box::new(|_, _, _| takes());
    it.url = Some("https://hook.example/right".to_owned());
    it.run(seconds(60));
    assert_eq!(it.delivered(), "True UpToDate");
}

#[test]
fn a_message_whose_form_is_refused_is_sent_once_more_as_plain_text() {
    let mut it = with_one_environment(slack());
    let mut attempts = 0;
    it.receiver = Box::new(move |_, _, _| {
        attempts += 1;
        if attempts == 1 {
            refuses("the destination answered 400")
        } else {
            takes()
        }
    });
    it.start();
    it.run(seconds(5));
    change(&mut it, "u1", "a");
    it.run(seconds(60));
    assert_eq!(it.heard.len(), 2);
    assert_eq!(it.heard[0].id, it.heard[1].id);
    assert!(!it.heard[0].is_plain() && it.heard[1].is_plain());
    assert!(it.status().dead_letters.is_empty());
}

#[test]
fn the_plain_form_of_a_message_is_not_sent_where_the_message_would_not_be_sent_any_more() {
    type Change = fn(&mut Simulation);
    let changes: [(&str, Change); 5] = [
        ("suspended", |it| it.edit(|spec| spec.suspend = Some(true))),
        ("another destination", |it| {
            it.url = Some("https://hook.example/b".to_owned());
            it.edit(|spec| *spec = webhook());
        }),
        ("other events", |it| {
            it.edit(|spec| spec.event_types = Some(vec![EventType::ArtifactScaled]));
        }),
        ("not visible", |it| it.hide("u1")),
        ("stopped", |it| it.stop(0)),
    ];
    for (what, change_it) in changes {
        let mut it = with_one_environment(slack());
        it.start();
        it.run(seconds(5));
        it.receiver = Box::new(|_, _, _| Answer {
            after: seconds(3),
            ..refuses("the destination answered 400")
        });
        it.slow = Box::new(|action| match action {
            Action::Count(..) => seconds(10),
            _ => Duration::ZERO,
        });
        change(&mut it, "u1", "a");
        it.run(seconds(1));
        assert_eq!(it.heard.len(), 1);
        it.receiver = Box::new(|_, _, _| takes());
        change_it(&mut it);
        it.run(seconds(60));
        assert_eq!(it.status().dead_lettered, None, "{what}");
        assert!(!it.heard.iter().any(Heard::is_plain), "{what}");
        match what {
            "suspended" => it.edit(|spec| spec.suspend = None),
            "stopped" => it.begin(0),
            _ => {}
        }
        it.run(seconds(60));
        let wanted = !matches!(what, "not visible" | "other events");
        assert_eq!(it.taken().len(), usize::from(wanted), "{what}");
    }
}

#[test]
fn a_test_message_is_not_counted_among_the_deliveries() {
    let mut it = with_one_environment(webhook());
    it.start();
    it.run(seconds(5));
    it.request_test("1");
    change(&mut it, "u1", "a");
    it.run(seconds(5));
    assert_eq!((it.heard.len(), it.deliveries), (2, 1));
}

#[test]
fn an_event_is_given_up_only_after_an_attempt_that_failed_when_it_was_too_old() {
    let mut it = with_one_environment(NotificationSettingSpec {
        retry: Some(crate::api::notification_setting::Retry {
            max_age: Some("1h".parse().unwrap()),
        }),
        ..webhook()
    });
    it.receiver = Box::new(|_, _, _| holds());
    it.start();
    it.run(seconds(5));
    change(&mut it, "u1", "a");
    it.run(seconds(3_000));
    assert!(it.status().skipped_ranges.is_empty());
    // The operator is down while the event grows old: after the start one attempt comes first.
    it.kill(0);
    it.run(seconds(7_200));
    let before = it.heard.len();
    it.begin(0);
    it.run(seconds(5));
    assert_eq!(it.heard.len(), before + 1);
    it.run(seconds(1_200));
    assert_eq!(reasons(&it), [SkipReason::RetryExpired.as_str()]);
    assert_eq!(it.status().skipped_ranges[0].count, Some(1));
    it.run(seconds(120));
    assert_eq!(it.status().pending, Some(0));
}

// ---- the log ----

#[test]
fn what_is_in_a_log_is_delivered_while_its_environment_can_t_be_recorded() {
    let mut it = with_one_environment(webhook());
    it.start();
    it.run(seconds(5));
    it.receiver = Box::new(|_, _, _| fails(Reason::ServerError));
    change(&mut it, "u1", "a");
    it.run(seconds(60));
    it.kill(0);
    it.receiver = Box::new(|_, _, _| takes());
    it.logs.get_mut("u1").unwrap().head_known = false;
    it.begin(0);
    it.run(seconds(10));
    assert_ne!(
        it.status().pending,
        Some(0),
        "nobody has said that nothing waits"
    );
    // Delivery finds where the log ends.
    it.logs.get_mut("u1").unwrap().head_known = true;
    it.log_grew("u1");
    it.run(seconds(60));
    assert_eq!(it.taken(), it.ids_after("u1", 1));
}

#[test]
fn an_operator_that_stood_back_goes_on_with_what_happened_meanwhile_when_the_other_is_gone() {
    let mut it = with_one_environment(webhook());
    it.start();
    it.start();
    it.run(seconds(5));
    it.turn = Box::new(|random| millis(random % 600));
    let stands_back = |it: &Simulation, at: usize| {
        let state = it.operators[at].state.as_ref();
        state.is_some_and(SettingState::stands_back)
    };
    let mut number = 0;
    while stands_back(&it, 0) == stands_back(&it, 1) {
        number += 1;
        change(&mut it, "u1", &format!("image-{number}"));
        it.run(seconds(1));
    }
    it.kill(usize::from(stands_back(&it, 0)));
    for name in ["d", "e"] {
        change(&mut it, "u1", name);
        it.run(seconds(1));
    }
    it.run(seconds(120));
    assert_eq!(it.taken(), it.ids_after("u1", 1));
    assert_eq!(it.status().pending, Some(0));
}

#[test]
fn a_status_that_the_leader_before_wrote_late_holds_up_nobody() {
    let slow_write = |action: &Action| match action {
        Action::WriteStatus(_) => millis(500),
        _ => Duration::ZERO,
    };
    let slow_secret = |action: &Action| match action {
        Action::ReadDestination(_) => millis(600),
        _ => Duration::ZERO,
    };
    let mut late = 0;
    for seed in 0..32 {
        let mut it = Simulation::new(seed, webhook());
        it.environment("prod", "u1");
        it.at += seconds(10);
        it.setting_created = it.at;
        it.start();
        it.run(seconds(5));
        // Its write is on its way when its term ends. It may be carried out when the next one has read the status.
        it.slow = Box::new(slow_write);
        change(&mut it, "u1", "a");
        it.run(seconds(1));
        it.kill(0);
        // The next one has sent nothing then, or more than that write says.
        it.slow = if seed % 2 == 0 {
            Box::new(slow_secret)
        } else {
            Box::new(slow_write)
        };
        let before = it.written.len();
        let next = it.start();
        change(&mut it, "u1", "b");
        it.run(millis(400));
        late += it.written.len() - before;
        for name in ["c", "d"] {
            change(&mut it, "u1", name);
            it.run(seconds(4));
            assert_eq!(it.taken(), it.ids_after("u1", 1), "{seed}");
        }
        let state = it.operators[next].state.as_ref();
        assert!(!state.unwrap().stands_back(), "{seed}");
        assert_eq!(it.delivered(), "True UpToDate", "{seed}");
        assert_eq!(it.status().pending, Some(0), "{seed}");
        assert!(it.duplicates() <= 1, "{seed}: only what no status told of");
    }
    assert!((8..24).contains(&late), "{late} of 32");
}

#[test]
fn a_log_that_can_t_be_read_is_reported_and_heals() {
    let mut it = with_one_environment(webhook());
    it.start();
    it.run(seconds(5));
    it.logs.get_mut("u1").unwrap().unreadable.insert(2);
    change(&mut it, "u1", "a");
    change(&mut it, "u1", "b");
    it.run(seconds(300));
    assert_eq!(it.delivered(), "False LogUnavailable");
    assert!(it.status().message.unwrap().contains("environment prod"));
    it.logs.get_mut("u1").unwrap().unreadable.clear();
    it.run(seconds(600));
    assert_eq!(it.taken(), it.ids_after("u1", 1));
    assert_eq!(it.delivered(), "True UpToDate");
}

#[test]
fn the_uid_says_of_which_environment_a_cursor_is_whatever_name_stands_there() {
    for other in ["staging", "test", ""] {
        let mut it = with_one_environment(webhook());
        it.environment("test", "u2");
        let operator = it.start();
        it.run(seconds(5));
        change(&mut it, "u1", "a");
        it.run(seconds(60));
        it.kill(operator);
        let status = it.setting.status.as_mut().unwrap();
        for cursor in &mut status.cursors {
            if cursor.environment_uid == "u1" {
                other.clone_into(&mut cursor.environment);
            }
        }
        for start in &mut status.starts {
            other.clone_into(&mut start.environment);
        }
        it.begin(operator);
        change(&mut it, "u1", "b");
        it.run(seconds(600));
        assert_eq!(it.taken(), it.ids_after("u1", 1), "{other}");
        assert_eq!(it.delivered(), "True UpToDate", "{other}");
        let status = it.status();
        assert_eq!(reasons(&it), [""; 0], "{other}");
        let names = status.cursors.iter().map(|it| &it.environment);
        assert!(names.eq(["prod", "test"]), "{other}: {status:?}");
    }
}

#[test]
fn a_start_is_found_whatever_name_of_its_environment_stands_there() {
    let mut it = Simulation::new(7, webhook());
    it.environment("prod", "u1");
    it.logs.get_mut("u1").unwrap().head_known = false;
    it.at += seconds(10);
    it.setting_created = it.at;
    let operator = it.start();
    it.run(seconds(30));
    it.kill(operator);
    let starts = &mut it.setting.status.as_mut().unwrap().starts;
    assert_eq!(starts.len(), 1, "it is not known where the log ends");
    "test".clone_into(&mut starts[0].environment);
    it.logs.get_mut("u1").unwrap().head_known = true;
    it.begin(operator);
    it.run(seconds(60));
    change(&mut it, "u1", "a");
    it.run(seconds(600));
    assert_eq!(it.taken().len(), 1);
    assert_eq!(it.delivered(), "True UpToDate");
    assert_eq!(it.status().cursors[0].environment, "prod");
}

#[test]
fn removed_history_is_reported_once_before_any_later_event() {
    let mut it = with_one_environment(webhook());
    it.receiver = Box::new(|_, _, _| fails(Reason::ServerError));
    it.start();
    it.run(seconds(5));
    for name in ["a", "b", "c", "d"] {
        change(&mut it, "u1", name);
    }
    it.run(seconds(30));
    let log = it.logs.get_mut("u1").unwrap();
    log.entries.retain(|index, _| *index > 4);
    it.faults.kill = 20;
    it.receiver = Box::new(|_, _, _| takes());
    it.run(seconds(600));
    it.faults.kill = 0;
    it.run(seconds(600));
    let taken = it.taken();
    let left = it.ids_after("u1", 1);
    assert_eq!(taken.len(), 1 + left.len(), "a report and what is left");
    assert_eq!(taken[1..], left);
    assert_eq!(reasons(&it), ["HistoryTruncated"]);
    assert_eq!(it.status().skipped_ranges[0].count, None);
    let _ = it.duplicates(); // each with the same bytes
}

#[test]
fn what_went_with_a_deleted_environment_is_reported_as_that() {
    let mut it = with_one_environment(webhook());
    it.receiver = Box::new(|_, _, _| fails(Reason::ServerError));
    it.start();
    it.run(seconds(5));
    for name in ["a", "b"] {
        change(&mut it, "u1", name);
    }
    it.run(seconds(5));
    // Deleted and created anew under its name: the new log takes the names of the old entries.
    let log = it.logs.get_mut("u1").unwrap();
    log.deleted = true;
    log.entries.remove(&2);
    it.environment("prod", "u2");
    it.receiver = Box::new(|_, _, _| takes());
    it.run(seconds(1_200));
    assert_eq!(reasons(&it), [SkipReason::EnvironmentDeleted.as_str()]);
    assert_eq!(it.taken(), it.ids_after("u1", 2));
    let cursors = it.status().cursors;
    let uids: Vec<_> = cursors
        .iter()
        .map(|it| it.environment_uid.as_str())
        .collect();
    assert_eq!(uids, ["u2"]);
}

#[test]
fn a_log_that_cannot_be_compared_with_the_cursor_is_reported() {
    let mut it = with_one_environment(webhook());
    it.start();
    it.run(seconds(5));
    for name in ["a", "b"] {
        change(&mut it, "u1", name);
    }
    it.run(seconds(60));
    assert_eq!(it.delivered(), "True UpToDate");
    let log = it.logs.get_mut("u1").unwrap();
    log.entries.retain(|index, _| *index < 3);
    log.unreadable.insert(3);
    it.log_grew("u1");
    it.run(seconds(120));
    assert_eq!(it.delivered(), "False LogUnavailable");
    it.logs.get_mut("u1").unwrap().unreadable.clear();
    it.run(seconds(600));
    assert_eq!(reasons(&it), ["CursorReset"]);
    assert_eq!(it.delivered(), "True UpToDate");
}

#[test]
fn what_is_recorded_while_a_cursor_ahead_of_its_log_is_compared_is_told() {
    let mut it = with_one_environment(webhook());
    change(&mut it, "u1", "a");
    it.start();
    it.run(seconds(10));
    it.kill(0);
    it.setting.status.as_mut().unwrap().cursors[0].index = 100;
    it.slow = Box::new(|action| match action {
        Action::Compare(..) => millis(500),
        _ => Duration::ZERO,
    });
    let next = it.start();
    it.run(millis(100));
    change(&mut it, "u1", "next");
    it.run(seconds(60));
    assert_eq!(it.taken().last(), it.ids_after("u1", 2).last());
    assert_eq!(reasons(&it), ["CursorReset"]);
    it.kill(next);
}

#[test]
fn a_log_that_was_set_back_starts_at_its_head_and_says_so() {
    let mut it = with_one_environment(webhook());
    it.start();
    it.run(seconds(5));
    for name in ["a", "b", "c"] {
        change(&mut it, "u1", name);
    }
    it.run(seconds(60));
    let taken = it.taken().len();
    it.logs
        .get_mut("u1")
        .unwrap()
        .entries
        .retain(|index, _| *index < 3);
    it.log_grew("u1");
    it.run(seconds(60));
    assert_eq!(reasons(&it), ["CursorReset"]);
    change(&mut it, "u1", "d");
    it.run(seconds(60));
    assert_eq!(it.taken().len(), taken + 1);
}

// ---- the status ----

#[test]
fn a_status_that_the_api_server_refuses_is_reported_and_written_with_short_texts() {
    // Where someone edits the setting all the time, every write on a version conflicts.
    for edit in [0, 1_000] {
        let mut it = with_one_environment(webhook());
        it.start();
        it.run(seconds(5));
        it.longest_status = 2_000;
        it.faults.edit = edit;
        let long = "x".repeat(3_000);
        it.receiver = Box::new(move |_, _, _| Answer {
            outcome: Outcome::Retry {
                after: None,
                reason: Reason::ServerError,
                message: long.clone(),
            },
            after: millis(3),
            taken: false,
        });
        change(&mut it, "u1", "a");
        it.run(seconds(60));
        assert_eq!(it.delivered(), "False ServerError", "{edit}");
        let refused = |(reason, note): &(EventReason, String)| {
            *reason == EventReason::StatusRefused && note.ends_with(TOO_LONG)
        };
        assert!(it.events.iter().any(refused));
        it.receiver = Box::new(|_, _, _| takes());
        it.run(seconds(600));
        assert_eq!(it.taken(), it.ids_after("u1", 1));
    }
}

#[test]
fn while_no_status_can_be_written_only_a_window_is_sent() {
    let mut it = with_one_environment(webhook());
    it.start();
    it.run(seconds(5));
    it.faults.write_fails = 1_000;
    for number in 0..100 {
        change(&mut it, "u1", &format!("image-{number}"));
    }
    it.run(seconds(600));
    assert_eq!(it.taken().len(), usize::try_from(WINDOW).unwrap());
    it.faults.write_fails = 0;
    it.run(seconds(600));
    assert_eq!(it.taken(), it.ids_after("u1", 1));
    assert_eq!(it.duplicates(), 0);
}

#[test]
fn a_spurious_404_stops_nothing() {
    let mut it = with_one_environment(webhook());
    it.start();
    it.run(seconds(5));
    it.spurious_404 = true;
    for name in ["a", "b"] {
        change(&mut it, "u1", name);
    }
    it.run(seconds(120));
    it.spurious_404 = false;
    it.run(seconds(60));
    change(&mut it, "u1", "c");
    it.run(seconds(60));
    assert_eq!(it.taken(), it.ids_after("u1", 1));
    assert_eq!(it.duplicates(), 0);
    assert_eq!(it.status().cursors[0].index, 4);
}

#[test]
fn a_suspended_setting_counts_what_waits_without_a_write_each_second() {
    let mut it = with_one_environment(webhook());
    it.edit(|spec| spec.suspend = Some(true));
    it.start();
    it.run(seconds(60));
    let before = it.status_writes;
    for number in 0..300 {
        change(&mut it, "u1", &format!("image-{number}"));
        it.run(seconds(1));
    }
    it.run(seconds(60));
    assert_eq!(it.status().pending, Some(300));
    assert!(
        it.status_writes - before <= 12,
        "{}",
        it.status_writes - before
    );
}

#[test]
fn a_backlog_is_acknowledged_by_few_writes() {
    let mut it = with_one_environment(webhook());
    it.start();
    it.run(seconds(60));
    let before = it.status_writes;
    for number in 0..10 {
        change(&mut it, "u1", &format!("image-{number}"));
    }
    it.run(seconds(60));
    assert_eq!(it.taken().len(), 10);
    assert!(
        it.status_writes - before <= 2,
        "{}",
        it.status_writes - before
    );
}
