//! Replays: what an annotation asks for is sent again, once, with the same ids and bodies, beside what happens meanwhile.

use proptest::prelude::*;

use super::*;
use crate::api::{
    REPLAY_ANNOTATION,
    notification_setting::{DeadLetter, Replay},
    start_from::StartFrom,
};

impl Simulation {
    /// Asks for a replay, or, with an empty text, for none any more.
    fn request_replay(&mut self, request: &str) {
        let annotations = &mut self.setting.metadata.annotations;
        let annotations = annotations.get_or_insert_default();
        if request.is_empty() {
            annotations.remove(REPLAY_ANNOTATION);
        } else {
            annotations.insert(REPLAY_ANNOTATION.to_owned(), request.to_owned());
        }
        self.setting_changed();
    }

    fn replay(&self) -> Replay {
        self.status().replay.unwrap_or_default()
    }

    /// The ids of everything that was sent since `heard`.
    fn ids_since(&self, heard: usize) -> Vec<String> {
        let heard = self.heard[heard..].iter();
        heard.map(|heard| heard.id.clone()).collect()
    }

    /// The ids of the events of these snapshots of `u1`.
    fn ids_of(&self, from: i64, to: i64) -> Vec<String> {
        let all = self.ids_after("u1", from - 1);
        let later = self.ids_after("u1", to);
        all.into_iter().filter(|id| !later.contains(id)).collect()
    }
}

/// A setting that was told of `count` changes in the snapshots from 2 on.
fn told(spec: NotificationSettingSpec, count: usize) -> Simulation {
    let mut it = with_one_environment(spec);
    it.start();
    it.run(seconds(5));
    for number in 0..count {
        change(&mut it, "u1", &format!("image-{number}"));
        it.run(seconds(5));
    }
    assert_eq!(it.taken(), it.ids_after("u1", 1));
    it
}

#[test]
fn a_part_of_the_log_is_sent_again_with_the_same_ids_and_bodies_and_the_status_says_so() {
    let mut it = told(webhook(), 6);
    let (told, before) = (it.heard.len(), it.status());
    it.request_replay("prod/3-5");
    it.run(seconds(30));
    assert_eq!(it.ids_since(told), it.ids_of(3, 5));
    assert_eq!(it.duplicates(), 3, "of the same bytes");
    let (status, replay) = (it.status(), it.replay());
    assert_eq!(
        (replay.reason.as_str(), replay.delivered, replay.to),
        ("Delivered", 3, Some(5))
    );
    assert!(replay.end_time.is_some());
    assert_eq!(replay.cursor.unwrap().index, 5);
    assert_eq!(status.last_handled_replay.as_deref(), Some("prod/3-5"));
    assert_eq!(status.cursors, before.cursors, "what is new goes on");
    assert_eq!(it.delivered(), "True UpToDate");
    let events = it.events.iter().map(|(reason, _)| reason.as_str());
    assert!(events.eq(["ReplayStarted", "ReplayDelivered"]));
    let told = it.heard.len();
    it.restart(0);
    it.run(seconds(3_600));
    assert_eq!(it.heard.len(), told, "once");
    it.request_replay("prod/3-5 again");
    it.run(seconds(30));
    assert_eq!(
        it.ids_since(told),
        it.ids_of(3, 5),
        "another word is another request"
    );
}

#[test]
fn what_happens_during_a_replay_is_told_meanwhile_and_in_order() {
    let mut it = told(webhook(), 40);
    it.receiver = Box::new(|_, _, _| Answer {
        after: seconds(2),
        ..takes()
    });
    let told = it.heard.len();
    it.request_replay("prod/2-41");
    it.run(seconds(10));
    change(&mut it, "u1", "new");
    it.run(seconds(5));
    let new = it.ids_of(42, 42);
    assert!(
        it.ids_since(told).contains(&new[0]),
        "it does not wait for the replay"
    );
    assert_eq!(it.replay().reason, "Running");
    it.run(seconds(120));
    assert_eq!(it.replay().reason, "Delivered");
    let again: Vec<_> = it
        .ids_since(told)
        .into_iter()
        .filter(|id| !new.contains(id))
        .collect();
    assert_eq!(again, it.ids_of(2, 41));
}

#[test]
fn what_cannot_be_sent_again_is_refused_with_a_reason_and_sends_nothing() {
    let id = "a".repeat(52);
    for (request, reason) in [
        ("prod", "RequestInvalid"),
        (" ", "RequestInvalid"),
        ("prod/", "RequestInvalid"),
        ("prod/0-3", "RequestInvalid"),
        ("prod/-3", "RequestInvalid"),
        ("prod/4-3", "RequestInvalid"),
        ("prod/1-1001", "RequestInvalid"),
        ("prod/99999999999999999999", "RequestInvalid"),
        ("test/1-2", "EnvironmentNotFollowed"),
        ("prod/3-9", "NotSentYet"),
        ("prod/2-3", "HistoryTruncated"),
        (&*id, "EventNotFound"),
    ] {
        let mut it = told(webhook(), 4);
        it.logs.get_mut("u1").unwrap().entries.remove(&2);
        let told = it.heard.len();
        it.request_replay(request);
        it.run(seconds(30));
        let replay = it.replay();
        assert_eq!(replay.reason, reason, "{request}: {}", replay.message);
        assert!(replay.message.ends_with("Nothing was sent again."));
        assert_eq!(it.status().last_handled_replay.as_deref(), Some(request));
        assert_eq!(it.heard.len(), told, "{request}");
        assert_eq!(it.events.len(), 1, "{request}");
        // It may be corrected.
        it.request_replay("prod/3-5");
        it.run(seconds(30));
        assert_eq!(it.replay().reason, "Delivered");
    }
}

#[test]
fn a_message_is_sent_again_by_the_id_of_its_event_and_nothing_else() {
    let mut it = with_one_environment(webhook());
    it.start();
    it.run(seconds(5));
    it.append("u1", &[("a", 0, 1), ("b", 0, 1), ("c", 0, 1)]);
    it.run(seconds(5));
    let ids = it.ids_of(2, 2);
    for id in &ids {
        let told = it.heard.len();
        it.request_replay(id);
        it.run(seconds(10));
        assert_eq!(it.ids_since(told), std::slice::from_ref(id));
        assert_eq!(it.replay().event_id.as_ref(), Some(id));
    }
    assert_eq!(it.duplicates(), ids.len());
}

#[test]
fn a_dead_letter_leaves_the_list_when_it_is_delivered_and_not_before() {
    for spec in [webhook(), slack()] {
        let mut it = told(spec, 2);
        it.receiver = Box::new(|_, _, _| refuses("the destination answered 400"));
        change(&mut it, "u1", "refused");
        it.run(seconds(30));
        let letters = it.status().dead_letters;
        let [DeadLetter { event_id, .. }] = &letters[..] else {
            panic!("{letters:?}");
        };
        it.request_replay(event_id);
        it.run(seconds(30));
        let (status, replay) = (it.status(), it.replay());
        assert_eq!((replay.reason.as_str(), replay.refused), ("Refused", 1));
        assert_eq!(status.dead_letters.len(), 1, "it is told once");
        assert_eq!(status.dead_lettered, Some(1), "and counted once");
        it.receiver = Box::new(|_, _, _| takes());
        it.request_replay(&format!("{event_id} 2"));
        it.run(seconds(30));
        assert_eq!(it.replay().reason, "Delivered");
        assert!(it.status().dead_letters.is_empty());
        assert_eq!(it.status().dead_lettered, Some(1));
    }
}

#[test]
fn a_part_of_the_log_that_holds_dead_letters_redeems_them() {
    for spec in [webhook(), slack()] {
        let mut it = told(spec, 2);
        it.receiver = Box::new(|_, _, _| refuses("the destination answered 400"));
        change(&mut it, "u1", "refused");
        it.run(seconds(30));
        it.receiver = Box::new(|_, _, _| takes());
        change(&mut it, "u1", "taken");
        it.run(seconds(30));
        assert_eq!(it.status().dead_letters.len(), 1);
        it.request_replay("prod/2-5");
        it.run(seconds(30));
        assert!(it.status().dead_letters.is_empty());
    }
}

#[test]
fn a_digest_that_was_refused_is_sent_again_as_a_whole() {
    let mut it = told(slack(), 1);
    it.url = None;
    it.restart(0);
    it.run(seconds(5));
    for number in 0..20 {
        change(&mut it, "u1", &format!("more-{number}"));
    }
    it.receiver = Box::new(|_, _, _| refuses("invalid_blocks"));
    it.url = Some("https://hook.example/b".to_owned());
    it.run(seconds(60));
    let letters = it.status().dead_letters;
    assert_eq!((letters.len(), letters[0].through), (1, Some(22)));
    let refused = it.heard.last().unwrap().body.clone();
    it.receiver = Box::new(|_, _, _| takes());
    it.request_replay(&letters[0].event_id);
    it.run(seconds(30));
    assert!(it.status().dead_letters.is_empty());
    let body = String::from_utf8(it.heard.last().unwrap().body.to_vec()).unwrap();
    assert!(body.contains("Sent again on request"), "{body}");
    assert!(body.contains("snapshots #3–#22"), "{body}");
    assert!(!refused.is_empty());
}

#[test]
fn a_replay_ends_when_the_annotation_goes_and_another_value_waits_for_its_end() {
    let mut it = told(webhook(), 20);
    it.receiver = Box::new(|_, _, _| Answer {
        after: seconds(2),
        ..takes()
    });
    it.request_replay("prod/2-21");
    it.run(seconds(9));
    it.request_replay("");
    it.run(seconds(5));
    let replay = it.replay();
    assert_eq!(replay.reason, "Canceled");
    assert!((1..=8).contains(&replay.delivered), "{}", replay.message);
    let told = it.heard.len();
    it.run(seconds(60));
    assert_eq!(it.heard.len(), told, "nothing more is sent");

    it.request_replay("prod/2-3");
    it.run(seconds(1));
    it.request_replay("prod/9");
    it.run(seconds(60));
    let again = [it.ids_of(2, 3), it.ids_of(9, 9)].concat();
    assert_eq!(it.ids_since(told), again);
    assert_eq!(it.status().last_handled_replay.as_deref(), Some("prod/9"));
}

#[test]
fn a_replay_that_fails_is_tried_again_less_and_less_often_and_holds_up_nothing_that_is_new() {
    let mut it = told(webhook(), 5);
    let old = it.ids_of(2, 6);
    let fails_of_old = move |_: Duration, _: &str, id: &str| match old.iter().any(|old| old == id) {
        true => fails(Reason::ServerError),
        false => takes(),
    };
    it.receiver = Box::new(fails_of_old);
    it.request_replay("prod/2-6");
    let told = it.heard.len();
    it.run(seconds(3_600));
    let attempts = it.heard.len() - told;
    assert!(
        (5..60).contains(&attempts),
        "{attempts} attempts in an hour"
    );
    assert!(
        it.replay().message.contains("in trouble"),
        "{}",
        it.replay().message
    );
    assert_eq!(it.delivered(), "True UpToDate", "of what is new");
    change(&mut it, "u1", "new");
    it.run(seconds(5));
    assert!(it.taken().contains(&it.ids_of(7, 7)[0]));
    it.run(seconds(73 * 3_600));
    assert_eq!(it.replay().reason, "RetryExpired");
    let told = it.heard.len();
    it.run(seconds(3_600));
    assert_eq!(it.heard.len(), told);
}

#[test]
fn a_replay_waits_while_what_is_new_fails() {
    let mut it = told(webhook(), 5);
    it.receiver = Box::new(|_, _, _| fails(Reason::ServerError));
    change(&mut it, "u1", "new");
    it.run(seconds(30));
    let told = it.heard.len();
    it.request_replay("prod/2-6");
    it.run(seconds(3_600));
    let new = it.ids_of(7, 7);
    assert!(it.ids_since(told).iter().all(|id| *id == new[0]));
    assert!(
        it.replay().message.contains("Delivered"),
        "{}",
        it.replay().message
    );
    it.receiver = Box::new(|_, _, _| takes());
    it.run(seconds(3_600));
    assert_eq!(it.replay().reason, "Delivered");
}

#[test]
fn a_digest_that_ends_within_a_snapshot_is_sent_again_as_a_whole() {
    let mut it = told(slack(), 1);
    it.url = None;
    it.restart(0);
    it.run(seconds(5));
    for number in 0..6 {
        change(&mut it, "u1", &format!("more-{number}"));
    }
    // The last of them also made the environment non-compliant.
    let log = it.logs.get_mut("u1").unwrap();
    let (spec, ..) = log.entries.get_mut(&8).unwrap();
    let mut changed = EnvironmentSnapshotSpec::clone(spec);
    changed.events.push(crate::api::snapshot::Event {
        type_: EventType::EnvironmentNonCompliant,
        change: None,
    });
    changed.content_hash = content_hash(&changed);
    *spec = Arc::new(changed);
    let mut attempts = 0;
    it.receiver = Box::new(move |_, _, _| {
        attempts += 1;
        match attempts {
            1 | 2 => refuses("invalid_blocks"),
            _ => takes(),
        }
    });
    it.url = Some("https://hook.example/b".to_owned());
    it.run(seconds(60));
    let letters = it.status().dead_letters;
    assert_eq!((letters.len(), letters[0].through), (1, Some(8)));
    let told = it.heard.len();
    it.request_replay(&letters[0].event_id);
    it.run(seconds(30));
    assert!(it.status().dead_letters.is_empty());
    assert_eq!(it.heard.len(), told + 1);
    let body = String::from_utf8(it.heard[told].body.to_vec()).unwrap();
    assert!(body.contains("more-5"), "{body}");
}

#[test]
fn a_message_that_is_sent_again_as_many_goes_on_where_it_was_after_a_restart() {
    let mut it = with_one_environment(slack());
    it.start();
    it.run(seconds(5));
    it.receiver = Box::new(|_, _, _| refuses("invalid_blocks"));
    let names: Vec<_> = (0..100).map(|number| format!("image-{number}")).collect();
    let changes: Vec<_> = names.iter().map(|name| (name.as_str(), 0, 1)).collect();
    it.append("u1", &changes);
    it.run(seconds(30));
    let letter = it.status().dead_letters[0].clone();
    assert_eq!(letter.events, Some(100));
    it.receiver = Box::new(|_, _, _| takes());
    it.edit(|spec| *spec = webhook());
    it.run(seconds(30));
    let told = it.heard.len();
    it.request_replay(&letter.event_id);
    while it.heard.len() < told + 90 {
        it.run(millis(1));
    }
    it.restart(0);
    it.run(seconds(60));
    let again = it.ids_since(told);
    assert!((100..=132).contains(&again.len()), "{}", again.len());
    assert_eq!(it.replay().reason, "Delivered");
    assert!(it.status().dead_letters.is_empty());
}

#[test]
fn a_status_of_another_replica_that_has_got_as_far_holds_up_nothing() {
    let mut it = told(webhook(), 2);
    it.restart(0);
    it.run(seconds(5));
    it.slow = Box::new(|action| match action {
        Action::WriteStatus(_) => millis(900),
        _ => Duration::ZERO,
    });
    change(&mut it, "u1", "a");
    while it.heard.len() < 3 {
        it.run(millis(1));
    }
    it.run(millis(20));
    // Another one has sent the same, and has written that and the end of a replay.
    let mut theirs = it.operators[0].state.as_ref().unwrap().status().clone();
    theirs.cursors[0].index = 4;
    theirs.last_handled_replay = Some("prod/2".to_owned());
    it.setting.status = Some(theirs);
    it.watch_is_silent = true;
    it.setting_changed();
    it.run(seconds(10));
    it.watch_is_silent = false;
    it.slow = Box::new(|_| Duration::ZERO);
    change(&mut it, "u1", "b");
    it.run(seconds(5));
    assert_eq!(it.taken(), it.ids_after("u1", 1));
    it.stop(0);
    it.run(seconds(5));
    assert!(it.operators[0].state.as_ref().unwrap().is_finished());
}

#[test]
fn history_that_goes_during_a_replay_and_an_environment_that_is_hidden_end_it() {
    for (reason, happens) in [
        (
            "HistoryTruncated",
            (|it| {
                it.logs
                    .get_mut("u1")
                    .unwrap()
                    .entries
                    .retain(|index, _| *index > 15);
            }) as fn(&mut Simulation),
        ),
        ("EnvironmentNotFollowed", |it| it.hide("u1")),
    ] {
        let mut it = told(webhook(), 20);
        it.receiver = Box::new(|_, _, _| Answer {
            after: seconds(2),
            ..takes()
        });
        it.request_replay("prod/2-21");
        it.run(seconds(5));
        happens(&mut it);
        it.run(seconds(10));
        let replay = it.replay();
        assert_eq!(replay.reason, reason, "{}", replay.message);
        let told = it.heard.len();
        it.run(seconds(60));
        assert_eq!(it.heard.len(), told);
        assert!(
            it.status().skipped_ranges.is_empty(),
            "nothing new was lost"
        );
    }
}

#[test]
fn a_replay_goes_on_where_it_was_when_the_operator_is_killed_and_repeats_no_more_than_the_window() {
    let window = usize::try_from(WINDOW).unwrap();
    for (request, snapshots, events, killed_at) in [
        ("prod/2-101", 100, 1, 99),
        ("prod/2-101", 100, 1, 100),
        ("prod/2", 1, 100, 90),
    ] {
        let mut it = with_one_environment(webhook());
        it.start();
        it.run(seconds(5));
        let names: Vec<_> = (0..events)
            .map(|number| format!("image-{number}"))
            .collect();
        let changes: Vec<_> = names.iter().map(|name| (name.as_str(), 0, 1)).collect();
        for _ in 0..snapshots {
            it.append("u1", &changes);
        }
        it.run(seconds(60));
        let told = it.heard.len();
        assert_eq!(told, 100);
        it.request_replay(request);
        while it.heard.len() < told + killed_at {
            it.run(millis(1));
        }
        it.restart(0);
        it.run(seconds(60));
        assert_eq!(it.replay().reason, "Delivered");
        let again = it.ids_since(told);
        let all: BTreeSet<_> = again.iter().collect();
        assert_eq!(all.len(), 100);
        assert!(again.len() <= 100 + window, "{request}: {}", again.len());
    }
}

#[test]
fn a_write_that_is_carried_out_and_whose_answer_is_lost_stops_no_replay_and_no_stop() {
    for stop in [false, true] {
        let mut it = told(webhook(), 60);
        it.receiver = Box::new(|_, _, _| Answer {
            after: millis(1_200),
            ..takes()
        });
        it.request_replay("prod/2-61");
        it.run(seconds(5));
        it.watch_is_silent = true;
        it.faults.lost_reply = 1_000;
        it.run(seconds(4));
        if stop {
            it.stop(0);
            it.faults.lost_reply = 0;
            it.run(seconds(20));
            assert!(it.operators[0].state.as_ref().unwrap().is_finished());
        } else {
            it.faults.lost_reply = 0;
            it.run(seconds(200));
            assert_eq!(it.replay().reason, "Delivered", "{:?}", it.replay());
        }
    }
}

#[test]
fn what_is_refused_again_says_nothing_of_what_is_new() {
    let mut it = told(webhook(), 2);
    let mut refused = 0;
    it.receiver = Box::new(move |_, _, _| {
        refused += 1;
        match refused {
            2 => takes(),
            _ => refuses("the destination answered 400"),
        }
    });
    for name in ["bad", "good", "bad too"] {
        change(&mut it, "u1", name);
        it.run(seconds(30));
    }
    let letters = it.status().dead_letters;
    assert_eq!(letters.len(), 2);
    it.restart(0);
    it.run(seconds(5));
    it.request_replay(&letters[1].event_id);
    it.run(seconds(10));
    assert_eq!(it.replay().reason, "Refused", "after one attempt");
    assert_ne!(it.delivered(), "False PayloadRefused");
    let told = it.heard.len();
    it.request_replay("prod/2-6");
    it.run(seconds(10));
    assert_eq!(it.replay().reason, "Refused");
    assert_eq!(
        it.heard.len(),
        told + 2,
        "two answers that are the same are enough"
    );
    it.receiver = Box::new(|_, _, _| takes());
    change(&mut it, "u1", "new");
    it.run(seconds(10));
    assert_eq!(it.taken().last(), it.ids_of(7, 7).last());
}

#[test]
fn a_dead_letter_stays_until_all_that_it_held_is_delivered() {
    // A message of Slack's holds many events, a webhook one.
    let mut it = with_one_environment(slack());
    it.start();
    it.run(seconds(5));
    it.receiver = Box::new(|_, _, _| refuses("invalid_blocks"));
    it.append("u1", &[("a", 0, 1), ("b", 0, 1), ("c", 0, 1)]);
    it.run(seconds(30));
    let letters = it.status().dead_letters;
    assert_eq!(letters[0].events, Some(3));
    it.receiver = Box::new(|_, _, _| takes());
    it.edit(|spec| *spec = webhook());
    it.run(seconds(30));
    let told = it.heard.len();
    it.request_replay(&letters[0].event_id);
    it.run(seconds(30));
    assert_eq!(it.ids_since(told), it.ids_of(2, 2));
    assert!(it.status().dead_letters.is_empty());

    // It is not asked for any more, so it isn't delivered with others.
    let mut it = told_of_a_refused_one();
    it.edit(|spec| spec.event_types = Some(vec![EventType::ArtifactStopped]));
    for number in 0..8 {
        it.append("u1", &[(&format!("image-{number}"), 1, 0)]);
    }
    it.run(seconds(30));
    it.request_replay("prod/2-10");
    it.run(seconds(60));
    assert_eq!(it.replay().reason, "Delivered");
    assert_eq!(it.status().dead_letters.len(), 1);
}

/// A setting of Slack's whose only message was refused.
fn told_of_a_refused_one() -> Simulation {
    let mut it = with_one_environment(slack());
    it.start();
    it.run(seconds(5));
    it.receiver = Box::new(|_, _, _| refuses("invalid_blocks"));
    change(&mut it, "u1", "refused");
    it.run(seconds(30));
    assert_eq!(it.status().dead_letters.len(), 1);
    it.receiver = Box::new(|_, _, _| takes());
    it
}

#[test]
fn a_replay_that_waits_says_what_for() {
    // A log that can't be read, before it begins and while it runs.
    let mut it = told(webhook(), 20);
    it.faults.read_fails = 1_000;
    it.request_replay("prod/2-21");
    it.run(seconds(60));
    assert!(
        it.replay().message.contains("can't be read"),
        "{}",
        it.replay().message
    );
    it.faults.read_fails = 0;
    it.logs.get_mut("u1").unwrap().unreadable.insert(9);
    it.run(seconds(120));
    assert!(
        it.replay().message.contains("can't be read"),
        "{}",
        it.replay().message
    );
    assert_eq!(it.replay().delivered, 7);
    it.logs.get_mut("u1").unwrap().unreadable.clear();
    it.run(seconds(1_200));
    assert_eq!(it.replay().reason, "Delivered");
    // What is unreadable hides no event of another snapshot.
    it.logs.get_mut("u1").unwrap().unreadable.insert(20);
    it.request_replay(&it.ids_of(5, 5)[0].clone());
    it.run(seconds(30));
    assert_eq!(it.replay().reason, "Delivered");

    let mut it = told(webhook(), 2);
    it.edit(|spec| spec.suspend = Some(true));
    it.run(seconds(1));
    it.request_replay("prod/2-3");
    it.run(seconds(60));
    assert!(
        it.replay().message.contains("spec.suspend"),
        "{}",
        it.replay().message
    );
    it.edit(|spec| spec.suspend = None);
    it.run(seconds(60));
    assert_eq!(it.replay().reason, "Delivered");
}

#[test]
fn an_environment_without_a_log_holds_up_no_replay_of_another() {
    let mut it = told(webhook(), 3);
    let log = Log {
        name: "new".to_owned(),
        created: it.at,
        generation: 1,
        visible_to: vec!["*".to_owned()],
        ..Log::default()
    };
    it.logs.insert("u2".to_owned(), log);
    it.environments_changed();
    it.run(seconds(5));
    it.request_replay("prod/2-3");
    it.run(seconds(30));
    assert_eq!(it.replay().reason, "Delivered");
}

#[test]
fn the_plain_form_of_a_replayed_message_is_not_sent_once_its_environment_may_not_be_seen() {
    let mut it = told(slack(), 2);
    it.receiver = Box::new(|_, _, _| Answer {
        after: seconds(2),
        ..refuses("invalid_blocks")
    });
    let told = it.heard.len() + 1;
    it.request_replay("prod/2");
    it.run(seconds(2));
    assert_eq!(it.heard.len(), told, "it is on its way");
    it.hide("u1");
    it.run(seconds(60));
    assert_eq!(it.heard.len(), told, "it is not sent once more");
    assert_eq!(it.replay().reason, "EnvironmentNotFollowed");
}

#[test]
fn each_of_two_requests_one_after_the_other_is_answered_in_the_status() {
    let mut it = told(webhook(), 5);
    it.request_replay("prod/2-3");
    it.run(millis(1));
    it.request_replay("prod/9");
    it.run(seconds(30));
    let ended = |request| {
        let mut written = it
            .written
            .iter()
            .filter_map(|status| status.replay.as_ref());
        written.any(|replay| replay.request == request && replay.end_time.is_some())
    };
    assert!(ended("prod/2-3") && ended("prod/9"));
}

#[test]
fn what_none_of_the_events_asks_for_is_said_so() {
    let mut it = told(webhook(), 3);
    it.edit(|spec| spec.event_types = Some(vec![EventType::ArtifactStopped]));
    it.run(seconds(1));
    it.request_replay("prod/2-3");
    it.run(seconds(30));
    assert_eq!(it.replay().reason, "Delivered");
    assert!(it.replay().message.contains("spec.eventTypes"));
}

proptest! {
    #![proptest_config(crate::simulation::testing::tries(48))]

    #[test]
    fn a_replay_misses_nothing_of_its_part_whatever_goes_wrong_and_ends(
        seed: u64, kill in 0..6_u64, lost in 0..60_u64, fails in 0..200_u64, from in 2..20_i64, length in 0..20_i64,
    ) {
        let mut it = told(webhook(), 40);
        it.random = seed;
        it.faults = Faults {
            kill,
            lost_reply: lost,
            write_fails: fails,
            read_fails: fails / 4,
            secret_fails: fails / 4,
            ..Faults::default()
        };
        let mut random = seed;
        it.receiver = Box::new(move |_, _, _| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            match (random >> 33) % 8 {
                0 => super::fails(Reason::ServerError),
                _ => takes(),
            }
        });
        let told = it.heard.len();
        it.request_replay(&format!("prod/{from}-{}", from + length));
        for number in 0..10 {
            it.append("u1", &[(&format!("new-{number}"), 0, 1)]);
            let pause = millis(it.random() % 3_000);
            it.run(pause);
        }
        it.faults = Faults::default();
        it.receiver = Box::new(|_, _, _| takes());
        it.run(seconds(3_600));
        prop_assert_eq!(it.replay().reason, "Delivered", "{:?}", it.replay());
        let again: Vec<_> = it.heard[told..].iter().filter(|heard| heard.taken).map(|heard| heard.id.clone()).collect();
        let part = it.ids_of(from, from + length);
        prop_assert!(part.iter().all(|id| again.contains(id)), "missing");
        let others = it.ids_of(2, 41);
        let others = others.iter().filter(|id| !part.contains(id));
        for id in others {
            prop_assert!(!again.contains(id), "nothing else that is old");
        }
        prop_assert_eq!(it.taken(), it.ids_after("u1", 1), "what is new is told, and in order");
        prop_assert!(it.duplicates() <= part.len() + 2 * it.allowed_duplicates(), "{} of {}", it.duplicates(), part.len());
    }
}

#[test]
fn a_new_setting_starts_where_its_spec_says() {
    for (from, index, told) in [
        (StartFrom::Now, 4, 4),
        (StartFrom::Oldest, 2, 2),
        (StartFrom::Snapshot(4), 3, 3),
        (StartFrom::Snapshot(99), 4, 4),
    ] {
        let mut it = with_one_environment(webhook());
        for name in ["a", "b", "c"] {
            change(&mut it, "u1", name);
            it.at += seconds(10);
        }
        it.logs
            .get_mut("u1")
            .unwrap()
            .entries
            .retain(|index, _| *index > 2);
        it.setting_created = it.at;
        it.setting.spec.start_from = Some(from);
        it.faults.kill = 100;
        it.start();
        it.run(seconds(60));
        it.faults.kill = 0;
        it.run(seconds(60));
        let start = &it.status().starts[0];
        assert_eq!(start.index, Some(index), "{from:?}");
        assert_eq!(it.taken(), it.ids_after("u1", told), "{from:?}");
        it.edit(|spec| spec.start_from = Some(StartFrom::Oldest));
        it.run(seconds(60));
        assert_eq!(
            it.taken(),
            it.ids_after("u1", told),
            "a later edit changes nothing"
        );
    }
}

#[test]
fn a_new_setting_that_starts_from_what_is_gone_is_told_so() {
    let mut it = with_one_environment(webhook());
    for name in ["a", "b", "c"] {
        change(&mut it, "u1", name);
    }
    it.logs
        .get_mut("u1")
        .unwrap()
        .entries
        .retain(|index, _| *index > 3);
    it.setting.spec.start_from = Some(StartFrom::Snapshot(2));
    it.start();
    it.run(seconds(60));
    assert_eq!(reasons(&it), ["HistoryTruncated"]);
    assert_eq!(it.heard.len(), 2, "the report, and the event that is left");
    assert_eq!(it.ids_since(1), it.ids_after("u1", 3));
}
