//! What holds of delivery whatever goes wrong: nothing is missing, duplicates only within the window, in order, nothing is
//! sent against the spec, and every state heals.

use proptest::prelude::*;

use super::*;
use crate::simulation::{
    hostile_json::{edited, edits},
    testing::reader_tries,
};

/// A story drawn from a seed: environments that change, a receiver that fails now and then, and faults of all kinds.
fn story(seed: u64, faults: Faults, spec: NotificationSettingSpec, operators: usize) -> Simulation {
    let it = Simulation::new(seed, spec);
    story_of(it, seed, faults, operators)
}

fn story_of(mut it: Simulation, seed: u64, faults: Faults, operators: usize) -> Simulation {
    it.faults = faults;
    for (name, uid) in [("prod", "u1"), ("test", "u2")] {
        it.environment(name, uid);
    }
    it.at += seconds(10);
    it.setting_created = it.at;
    let mut random = seed ^ 0x5151;
    it.receiver = Box::new(move |_, _, _| {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        match (random >> 33) % 20 {
            0 => fails(Reason::ServerError),
            1 => Answer {
                after: seconds(15),
                ..fails(Reason::Timeout)
            },
            2 => Answer {
                outcome: fails(Reason::RateLimited).outcome,
                after: millis(5),
                taken: false,
            },
            3 => Answer {
                after: seconds(9),
                ..takes()
            },
            _ => takes(),
        }
    });
    for _ in 0..operators {
        it.start();
    }
    it.run(seconds(5));
    for round in 0..40 {
        for uid in ["u1", "u2"] {
            for _ in 0..it.random() % 3 {
                let name = format!("image-{round}-{}", it.random() % 1000);
                it.append(uid, &[(&name, 0, 1)]);
            }
        }
        let pause = match it.random() % 4 {
            0 => millis(5),
            1 => millis(200),
            2 => seconds(3),
            _ => seconds(40),
        };
        it.run(pause);
    }
    it.faults = Faults::default();
    it.receiver = Box::new(|_, _, _| takes());
    it.run(seconds(3_600));
    it
}

fn check(it: &Simulation) {
    let taken = it.taken();
    for uid in ["u1", "u2"] {
        let all = it.ids_after(uid, 1);
        let of: Vec<_> = taken
            .iter()
            .filter(|id| all.contains(id))
            .cloned()
            .collect();
        assert_eq!(of, all, "missing, or not in order");
    }
    let status = it.status();
    assert_eq!(status.pending, Some(0));
    assert_eq!(it.delivered(), "True UpToDate");
    assert!(status.dead_letters.is_empty() && status.skipped_ranges.is_empty());
    assert!(status.oldest_pending_time.is_none());
    let duplicates = it.duplicates();
    assert!(
        duplicates <= it.allowed_duplicates(),
        "{duplicates} duplicates after {} kills",
        it.kills
    );
}

/// How wrong wall clocks are that jump several times a minute: by the hour of a time zone or of summer time, by a leap
/// second, and by ten minutes, as two nodes may differ.
fn jumps(seed: u64) -> Box<ClockError> {
    Box::new(move |operator, at| {
        let hours = SignedDuration::from_hours;
        let errors = [
            hours(0),
            hours(1),
            hours(-1),
            SignedDuration::from_mins(10),
            SignedDuration::from_mins(-10),
            SignedDuration::from_secs(1),
            SignedDuration::from_secs(-1),
        ];
        let operator = u64::try_from(operator).unwrap();
        let jump = (seed ^ (operator << 60) ^ (at.as_secs() / 7))
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            >> 32;
        errors[usize::try_from(jump % 7).unwrap()]
    })
}

fn faults() -> impl Strategy<Value = Faults> {
    (
        0..4_u64,
        0..60_u64,
        0..60_u64,
        0..200_u64,
        0..60_u64,
        0..100_u64,
    )
        .prop_map(
            |(kill, lost_reply, write_fails, edit, read_fails, secret_fails)| Faults {
                kill,
                lost_reply,
                write_fails,
                edit,
                read_fails,
                secret_fails,
            },
        )
}

proptest! {
    #![proptest_config(crate::simulation::testing::tries(48))]

    #[test]
    fn nothing_is_missing_and_everything_is_in_order_whatever_goes_wrong(seed: u64, faults in faults()) {
        check(&story(seed, faults, webhook(), 1));
    }

    #[test]
    fn without_a_kill_nothing_is_sent_twice(seed: u64, faults in faults()) {
        let faults = Faults { kill: 0, ..faults };
        let it = story(seed, faults, webhook(), 1);
        check(&it);
        assert_eq!(it.duplicates(), 0);
    }

    // F21: wall clocks that jump.
    #[test]
    fn under_a_wall_clock_that_jumps_nothing_is_missing_and_everything_is_in_order(seed: u64, faults in faults()) {
        let mut it = Simulation::new(seed, webhook());
        it.clock_error = jumps(seed);
        check(&story_of(it, seed, faults, 1));
    }

    // F6: two replicas that both believe they lead; F21: their clocks differ, and jump.
    #[test]
    fn two_operators_that_both_work_miss_nothing_and_stand_back(seed: u64) {
        let faults = Faults { edit: 50, lost_reply: 20, ..Faults::default() };
        let mut it = Simulation::new(seed, webhook());
        it.clock_error = jumps(seed);
        let mut it = story_of(it, seed, faults, 2);
        // One of them goes, in whatever state the two are; the other is enough.
        for uid in ["u1", "u2"] {
            it.append(uid, &[("last but one", 0, 1)]);
        }
        let pause = millis(it.random() % 90_000);
        it.run(pause);
        it.kill(usize::from(seed % 2 == 0));
        for uid in ["u1", "u2"] {
            it.append(uid, &[("last", 0, 1)]);
        }
        it.run(seconds(300));
        let taken = it.taken();
        for uid in ["u1", "u2"] {
            let all = it.ids_after(uid, 1);
            prop_assert!(all.iter().all(|id| taken.contains(id)), "missing");
        }
        prop_assert_eq!(it.status().pending, Some(0));
        prop_assert_eq!(it.delivered(), "True UpToDate");
        let (duplicates, allowed) = (it.duplicates(), it.allowed_duplicates());
        prop_assert!(duplicates <= allowed, "{duplicates} duplicates, {} times", it.stood_back);
    }

    #[test]
    fn edits_of_the_spec_the_secret_and_suspension_never_let_anything_go_the_old_way(seed: u64) {
        let mut it = Simulation::new(seed, webhook());
        it.environment("prod", "u1");
        it.at += seconds(10);
        it.setting_created = it.at;
        it.turn = Box::new(|random| millis(random % 4_000));
        it.start();
        it.run(seconds(5));
        for round in 0..60 {
            let name = format!("image-{round}");
            it.append("u1", &[(&name, 0, 1)]);
            match it.random() % 8 {
                0 => it.edit(|spec| spec.suspend = Some(spec.suspend != Some(true))),
                1 => it.edit(|spec| {
                    if spec.slack.is_some() {
                        *spec = webhook();
                    } else {
                        *spec = slack();
                    }
                }),
                2 => it.url = Some(format!("https://hook.example/{round}")),
                3 => it.url = None,
                _ => {}
            }
            let pause = millis(it.random() % 5_000);
            it.run(pause);
        }
        it.edit(|spec| spec.suspend = None);
        it.url = Some("https://hook.example/last".to_owned());
        it.run(seconds(3_600));
        prop_assert_eq!(it.status().pending, Some(0));
        prop_assert_eq!(it.delivered(), "True UpToDate");
    }
}

// F21
#[test]
fn how_long_a_setting_waits_after_a_failure_does_not_depend_on_the_wall_clock() {
    for (seed, answer) in (0..20).zip([fails(Reason::ServerError), holds()].iter().cycle()) {
        let attempts = |error| {
            let mut it = with_one_environment(webhook());
            it.clock_error = error;
            let answer = answer.clone();
            it.receiver = Box::new(move |_, _, _| answer.clone());
            it.start();
            it.run(seconds(5));
            change(&mut it, "u1", &format!("image-{seed}"));
            it.run(seconds(3_000));
            it.receiver = Box::new(|_, _, _| takes());
            it.run(seconds(700));
            assert_eq!(it.taken(), it.ids_after("u1", 1));
            let heard = it.heard.into_iter();
            heard.map(|heard| heard.at).collect::<Vec<_>>()
        };
        let right = attempts(Box::new(|_, _| SignedDuration::ZERO));
        let wrong = attempts(jumps(seed));
        assert!(right.len() > 7, "{} attempts: no test", right.len());
        assert_eq!(right.len(), wrong.len());
        // Times that are shown may be written once more, which moves what follows by milliseconds.
        let mut pairs = right.iter().zip(&wrong);
        let is_same = pairs.all(|(right, wrong)| right.abs_diff(*wrong) < millis(200));
        assert!(is_same, "{right:?} {wrong:?}");
    }
}

#[test]
fn a_quiet_setting_does_next_to_nothing() {
    let mut it = Simulation::new(1, webhook());
    it.environment("prod", "u1");
    it.start();
    it.append("u1", &[("a", 0, 1)]);
    it.run(seconds(60));
    let (steps, writes) = (it.steps, it.status_writes);
    it.run(seconds(24 * 3_600));
    assert_eq!(it.status_writes, writes, "a heartbeat");
    assert!(
        it.steps < steps + 100,
        "{} steps in a day",
        it.steps - steps
    );
}

proptest! {
    #![proptest_config(reader_tries())]

    #[test]
    fn whatever_a_setting_and_its_status_say_all_is_sent_or_the_status_says_why_not(
        seed in any::<u64>(), of_setting in edits(), again in edits(),
    ) {
        let mut it = Simulation::new(seed, webhook());
        it.environment("prod", "u1");
        it.environment("test", "u2");
        it.at += seconds(10);
        it.setting_created = it.at;
        let operator = it.start();
        it.run(seconds(60));
        for number in 0..2 {
            for uid in ["u1", "u2"] {
                it.append(uid, &[(&format!("image-{number}"), 0, 1)]);
            }
            it.run(seconds(30));
        }
        it.kill(operator);
        for edits in [&of_setting, &again] {
            let setting = serde_json::to_value(&it.setting).unwrap();
            // What is no setting is not given to its task.
            let Ok(mut setting) = serde_json::from_value::<NotificationSetting>(edited(&setting, edits)) else {
                continue;
            };
            // The API server writes the metadata.
            setting.metadata.clone_from(&it.setting.metadata);
            it.setting = setting;
            it.foreign_status = true;
            it.begin(operator);
            it.run(seconds(600));
            for uid in ["u1", "u2"] {
                it.append(uid, &[("later", 0, 1)]);
            }
            it.run(seconds(7_200));
            let well = it.ready().starts_with("True") && it.delivered() == "True UpToDate";
            if well && it.setting.spec.suspend != Some(true) {
                prop_assert_eq!(it.status().pending, Some(0), "{:?}", it.status());
            }
            it.kill(operator);
        }
    }
}
