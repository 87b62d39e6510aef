//! No default stands in the pages by itself: a test holds it. Those that are numbers are in `limits` and `numbers` besides; the
//! page about fields is generated.

use crate::{
    docs,
    numbers::{pages, tests},
};

/// A page, words of a line of it that speaks of a default, and the test that holds it.
type Default = (&'static str, &'static str, &'static str);

/// Words of lines about defaults of others.
const OF_OTHERS: &[(&str, &str)] = &[
    ("docs/argocd.md", "so put its group (by default"),
    ("docs/environments.md", "`fleet-default`"),
];

const DEFAULTS: &[Default] = &[
    (
        "docs/compliance.md",
        "by default Jobs",
        "pods_that_run_to_completion_are_left_out_unless_asked_for",
    ),
    (
        "docs/environments.md",
        "## The default Environment",
        "the_static_operator_works_with_the_rights_and_variables_of_its_chart",
    ),
    (
        "docs/environments.md",
        "This is done once: the ConfigMap `shipbell-default-environment` marks it",
        "the_static_operator_works_with_the_rights_and_variables_of_its_chart",
    ),
    (
        "docs/environments.md",
        "With `defaultEnvironment: false` in the chart's values",
        "what_is_asked_for_is_in_the_deployment",
    ),
    (
        "docs/environments.md",
        "namespaces that the default Environment leaves out",
        "the_platform_s_namespaces_are_left_out_and_no_others",
    ),
    (
        "docs/environments.md",
        "They are left out by default",
        "pods_that_run_to_completion_are_left_out_unless_asked_for",
    ),
    (
        "docs/environments.md",
        "| field | default | meaning |",
        "what_the_pages_say_of_limits_and_times_is_what_the_source_says",
    ),
    (
        "docs/environments.md",
        "720h by default",
        "what_the_pages_say_of_limits_and_times_is_what_the_source_says",
    ),
    (
        "docs/operations.md",
        "a later installation creates no default Environment",
        "the_static_operator_works_with_the_rights_and_variables_of_its_chart",
    ),
    (
        "docs/read-api.md",
        "| default | each request needs",
        "a_token_has_to_be_for_the_audience_and_of_a_user_with_the_right",
    ),
    (
        "docs/read-api.md",
        "by default the cluster's name",
        "a_cluster_name_is_all_that_has_to_be_given",
    ),
    (
        "docs/read-api.md",
        "15 by default",
        "what_the_pages_say_of_limits_and_times_is_what_the_source_says",
    ),
    (
        "docs/webhooks.md",
        "`key` defaults to `url`",
        "the_key_of_a_secret_is_url_unless_another_is_named",
    ),
    (
        "docs/webhooks.md",
        "by default the cluster's name",
        "a_cluster_name_is_all_that_has_to_be_given",
    ),
    (
        "SECURITY.md",
        "create reviews, by default in any name",
        "a_reviewer_is_tied_to_the_user_only_on_request",
    ),
    (
        "SECURITY.md",
        "create (for the default Environment)",
        "the_operator_may_do_what_it_does_and_nothing_else",
    ),
    (
        "SECURITY.md",
        "get `shipbell-default-environment`",
        "the_operator_may_do_what_it_does_and_nothing_else",
    ),
    (
        "SECURITY.md",
        "By default only public",
        "what_is_named_is_open_and_nothing_else",
    ),
    (
        "SECURITY.md",
        "With `test.enabled` (the default)",
        "the_defaults_in_the_templates_are_those_of_the_values",
    ),
];

#[test]
fn every_default_in_the_pages_is_held_by_a_test() {
    let (tests, mut wrong) = (tests(), vec![]);
    for (page, words, test) in DEFAULTS {
        if !tests.contains(*test) {
            wrong.push(format!("{page}: {words:?}: there is no test {test}"));
        }
        if !crate::file(page).contains(words) {
            wrong.push(format!("{page} does not say {words:?}"));
        }
    }
    for page in pages() {
        let text = crate::file(&page);
        for line in docs::prose(&text) {
            let held = DEFAULTS.iter().map(|(of, words, _)| (*of, *words));
            let mut spoken_of = held.chain(OF_OTHERS.iter().copied());
            let held = spoken_of.any(|(of, words)| of == page && line.contains(words));
            if line.to_lowercase().contains("default") && !held {
                wrong.push(format!("{page}: no test holds {line:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
