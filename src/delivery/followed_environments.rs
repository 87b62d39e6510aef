//! Which environments a setting follows, and why it can't follow others that it asks for.

use std::collections::BTreeMap;

use crate::{
    api::condition::{MESSAGE, shorten},
    delivery::{conditions::NotReady, reasons::NotReadyReason},
    snapshot::environments::EnvironmentInfo,
};

/// More environments than this are not followed by a setting that names none.
const MAX_ENVIRONMENTS: usize = 1_024;

/// The environments that a setting of a namespace asks for and may see, and why it can't follow others. `names`: those
/// that it names; `None`: it asks for all that it may see.
pub(crate) fn followed<'a>(
    names: Option<&'a Vec<String>>,
    all: &'a BTreeMap<String, EnvironmentInfo>,
    namespace: &str,
) -> (Vec<(&'a str, &'a EnvironmentInfo)>, Option<NotReady>) {
    let visible = || {
        all.iter()
            .filter(|(_, known)| known.is_visible_to(namespace))
            .map(|(name, known)| (name.as_str(), known))
    };
    let Some(names) = names else {
        let seen: Vec<_> = visible().collect();
        if seen.len() > MAX_ENVIRONMENTS {
            let message = format!(
                "this namespace may see {} environments, and a setting follows {MAX_ENVIRONMENTS} at most: name them in spec.environments",
                seen.len()
            );
            return (
                vec![],
                Some(NotReady::new(NotReadyReason::TooManyEnvironments, message)),
            );
        }
        let problem = seen.is_empty().then(|| {
            let message = format!(
                "no Environment is visible to namespace {namespace}: add {namespace} to the visibleTo of one"
            );
            NotReady::new(NotReadyReason::NoEnvironments, message)
        });
        return (seen, problem);
    };
    // One reason for those that are hidden and those that do not exist: nobody may find out by it what is hidden.
    let (mut seen, mut missing) = (vec![], vec![]);
    for name in names {
        match all.get(name).filter(|known| known.is_visible_to(namespace)) {
            Some(known) => seen.push((name.as_str(), known)),
            None => missing.push(name.as_str()),
        }
    }
    if missing.is_empty() {
        return (seen, None);
    }
    let there: Vec<_> = visible().map(|(name, _)| name).collect();
    let there = if there.is_empty() {
        "none is visible here".to_owned()
    } else {
        format!("visible here: {}", there.join(", "))
    };
    let message = format!(
        "spec.environments: namespace {namespace} may see no Environment {}: correct the name, or let a platform admin create it or add {namespace} to its spec.visibleTo ({there})",
        missing.join(", ")
    );
    let problem = NotReady::new(
        NotReadyReason::EnvironmentNotFound,
        shorten(&message, MESSAGE),
    );
    (seen, Some(problem))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::environments::Head;

    type Asked = Option<&'static [&'static str]>;

    fn known(visible_to: &[&str]) -> EnvironmentInfo {
        EnvironmentInfo {
            uid: "u".to_owned(),
            generation: 1,
            created: None,
            visible_to: visible_to.iter().map(|&name| name.to_owned()).collect(),
            head: Head::default(),
        }
    }

    #[test]
    fn a_setting_follows_what_it_may_see_and_hears_what_is_problem_with_the_rest() {
        let some: BTreeMap<String, EnvironmentInfo> = [
            ("open", known(&["*"])),
            ("ours", known(&["other", "team"])),
            ("theirs", known(&["other"])),
        ]
        .map(|(name, known)| (name.to_owned(), known))
        .into();
        let none = BTreeMap::new();
        let many = (0..=MAX_ENVIRONMENTS)
            .map(|number| (format!("e{number:04}"), known(&["*"])))
            .collect();
        let cases: [(&BTreeMap<_, _>, Asked, &[&str], &str); 8] = [
            (&some, None, &["open", "ours"], ""),
            (&none, None, &[], "NoEnvironments"),
            (&many, None, &[], "TooManyEnvironments"),
            (&some, Some(&["ours", "open"]), &["ours", "open"], ""),
            (&some, Some(&["theirs"]), &[], "EnvironmentNotFound"),
            (
                &some,
                Some(&["ours", "theirs"]),
                &["ours"],
                "EnvironmentNotFound",
            ),
            (
                &some,
                Some(&["gone", "theirs", "open"]),
                &["open"],
                "EnvironmentNotFound",
            ),
            (&many, Some(&["e0007"]), &["e0007"], ""),
        ];
        for (all, names, follows, reason) in cases {
            let names: Option<Vec<String>> =
                names.map(|names| names.iter().map(|&name| name.to_owned()).collect());
            let (seen, problem) = followed(names.as_ref(), all, "team");
            let seen: Vec<_> = seen.iter().map(|(name, _)| *name).collect();
            assert_eq!(seen, follows, "{names:?}");
            let reason_ = problem.as_ref().map_or("", |why| why.reason.as_str());
            assert_eq!(reason_, reason, "{names:?}: {problem:?}");
        }
    }

    #[test]
    fn a_hidden_environment_is_told_like_one_that_does_not_exist() {
        let hidden: BTreeMap<_, _> = [("x".to_owned(), known(&["other"]))].into();
        let names = vec!["x".to_owned()];
        let (_, of_hidden) = followed(Some(&names), &hidden, "team");
        let (_, of_none) = followed(Some(&names), &BTreeMap::new(), "team");
        assert_eq!(of_hidden, of_none);
        assert!(of_none.is_some());
    }
}
