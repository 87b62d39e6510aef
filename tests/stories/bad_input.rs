//! What the API server refuses at `kubectl apply`, with a message that names the field.

use anyhow::{Result, bail};
use kit::{Actor, Cluster, apply, play};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::json;
use shipbell::api::EnvironmentSnapshot;

/// Checks that a spec is refused, and that the message holds all of these.
async fn refused(
    cluster: &Cluster,
    kind: &str,
    metadata: &str,
    spec: &str,
    words: &[&str],
) -> Result<()> {
    let yaml = format!(
        "apiVersion: shipbell.dev/v1alpha1\nkind: {kind}\nmetadata: {metadata}\nspec: {spec}\n"
    );
    match apply(&cluster.client(), yaml.as_str()).await {
        Ok(_) => bail!("accepted: {yaml}"),
        Err(error) => {
            let message = format!("{error:#}");
            for word in words {
                if !message.contains(word) {
                    bail!("{yaml}\nthe message should hold {word:?}:\n{message}");
                }
            }
            Ok(())
        }
    }
}

#[test]
fn a_setting_that_makes_no_sense_is_refused_with_the_field_that_is_wrong() {
    play(async |cluster| {
        let namespace = cluster.namespace("bad-settings").await?;
        let metadata = format!("{{name: bad, namespace: {namespace}}}");
        let good = "webhook: {url: 'https://a.example/'}";
        let many: Vec<_> = (0..257).map(|n| format!("e{n}")).collect();
        let many = format!("{{environments: [{}], {good}}}", many.join(", "));
        let long = "x".repeat(64);
        let long = format!("{{environments: [{long}], {good}}}");
        let url = "x".repeat(2_048);
        let url = format!("{{webhook: {{url: 'https://a.example/{url}'}}}}");
        let from = "urlFrom: {secretKeyRef: {name: s}}";
        for (spec, words) in [
            (
                format!("{{{good}, slack: {{{from}}}}}"),
                ["spec", "exactly one of webhook and slack"],
            ),
            (
                "{}".to_owned(),
                ["spec", "exactly one of webhook and slack"],
            ),
            (
                format!("{{webhook: {{url: 'https://a.example/', {from}}}}}"),
                ["spec.webhook", "exactly one of url and urlFrom"],
            ),
            (
                "{webhook: {}}".to_owned(),
                ["spec.webhook", "exactly one of url and urlFrom"],
            ),
            (
                "{webhook: {url: 'https://hooks.slack.com/services/T/B/x'}}".to_owned(),
                ["spec.webhook", "use slack.urlFrom"],
            ),
            (
                "{webhook: {url: 'https://hooks.slack-gov.com/services/T/B/x'}}".to_owned(),
                ["spec.webhook", "use slack.urlFrom"],
            ),
            (
                "{webhook: {url: 'HTTPS://HOOKS.SLACK.COM/services/T/B/x'}}".to_owned(),
                ["spec.webhook", "url"],
            ),
            (
                "{webhook: {url: 'https://hooks.slack.com:443/services/T/B/x'}}".to_owned(),
                ["spec.webhook", "use slack.urlFrom"],
            ),
            (
                "{webhook: {url: 'https://me:secret@a.example/'}}".to_owned(),
                ["spec.webhook.url", "should match"],
            ),
            (
                "{webhook: {url: ''}}".to_owned(),
                ["spec.webhook.url", "at least 1"],
            ),
            (
                "{webhook: {url: 'ftp://a.example/'}}".to_owned(),
                ["spec.webhook.url", "should match"],
            ),
            (
                "{webhook: {url: 'a.example/hook'}}".to_owned(),
                ["spec.webhook.url", "should match"],
            ),
            (
                "{webhook: {url: 'https://a.example/two words'}}".to_owned(),
                ["spec.webhook.url", "should match"],
            ),
            (url, ["spec.webhook.url", "2048"]),
            (
                "{slack: {}}".to_owned(),
                ["spec.slack.urlFrom", "Required value"],
            ),
            (
                "{slack: {url: 'https://hooks.slack.com/services/T/B/x'}}".to_owned(),
                ["spec.slack.url", "not declared in schema"],
            ),
            (
                "{slack: {urlFrom: {secretKeyRef: {}}}}".to_owned(),
                ["spec.slack.urlFrom.secretKeyRef.name", "Required value"],
            ),
            (
                "{slack: {urlFrom: {secretKeyRef: {name: ''}}}}".to_owned(),
                ["spec.slack.urlFrom.secretKeyRef.name", "at least 1"],
            ),
            // It would be another path of the API server's.
            (
                "{slack: {urlFrom: {secretKeyRef: {name: '../../other/secrets/hook'}}}}".to_owned(),
                ["spec.slack.urlFrom.secretKeyRef.name", "should match"],
            ),
            (
                "{slack: {urlFrom: {secretKeyRef: {name: Hook}}}}".to_owned(),
                ["spec.slack.urlFrom.secretKeyRef.name", "should match"],
            ),
            (
                "{slack: {urlFrom: {secretKeyRef: {name: s, key: 'a b'}}}}".to_owned(),
                ["spec.slack.urlFrom.secretKeyRef.key", "should match"],
            ),
            (
                "{slack: {urlFrom: {secretKeyRef: {name: s, namespace: other}}}}".to_owned(),
                ["secretKeyRef.namespace", "not declared in schema"],
            ),
            (
                format!("{{eventTypes: [ARTIFACT_VANISHED], {good}}}"),
                ["spec.eventTypes[0]", "ARTIFACT_STARTED"],
            ),
            (
                format!("{{eventTypes: [], {good}}}"),
                ["spec.eventTypes", "at least 1"],
            ),
            (
                format!("{{eventTypes: [ARTIFACT_STARTED, ARTIFACT_STARTED], {good}}}"),
                ["spec.eventTypes", "duplicate"],
            ),
            (
                format!("{{environments: [], {good}}}"),
                ["spec.environments", "at least 1"],
            ),
            (
                format!("{{environments: [''], {good}}}"),
                ["spec.environments[0]", "at least 1"],
            ),
            (
                format!("{{environments: ['*'], {good}}}"),
                ["spec.environments[0]", "should match"],
            ),
            (
                format!("{{environments: [Prod], {good}}}"),
                ["spec.environments[0]", "should match"],
            ),
            (
                format!("{{environments: [prod, prod], {good}}}"),
                ["spec.environments", "duplicate"],
            ),
            (
                format!("{{environments: prod, {good}}}"),
                ["spec.environments", "expected list"],
            ),
            (many, ["spec.environments", "at most 256"]),
            (long, ["spec.environments[0]", "63"]),
            (
                format!("{{suspend: 'yes', {good}}}"),
                ["spec.suspend", "boolean"],
            ),
            (
                format!("{{retry: {{maxAge: 3d}}, {good}}}"),
                ["spec.retry.maxAge", "should match"],
            ),
            (
                format!("{{retry: {{maxAge: 72}}, {good}}}"),
                ["spec.retry.maxAge", "string"],
            ),
            (
                format!("{{retry: {{maxAge: -1h}}, {good}}}"),
                ["spec.retry.maxAge", "should match"],
            ),
            (
                format!("{{retries: 3, {good}}}"),
                ["spec.retries", "not declared in schema"],
            ),
        ] {
            refused(cluster, "NotificationSetting", &metadata, &spec, &words).await?;
        }
        Ok(())
    });
}

#[test]
fn an_environment_that_makes_no_sense_is_refused_with_the_field_that_is_wrong() {
    play(async |cluster| {
        let requirement =
            |rest: &str| format!("{{podSelector: {{matchExpressions: [{{{rest}}}]}}}}");
        let values: Vec<_> = (0..65).map(|n| format!("v{n}")).collect();
        let globs: Vec<_> = (0..257).map(|n| format!("n{n}")).collect();
        for (spec, words) in [
            (
                "{namespaces: {include: ['Prod_*']}}".to_owned(),
                ["spec.namespaces.include[0]", "should match"],
            ),
            (
                "{namespaces: {include: ['prod-[ab]']}}".to_owned(),
                ["spec.namespaces.include[0]", "should match"],
            ),
            (
                "{namespaces: {exclude: ['']}}".to_owned(),
                ["spec.namespaces.exclude[0]", "at least 1"],
            ),
            (
                "{namespaces: {include: []}}".to_owned(),
                ["spec.namespaces.include", "at least 1"],
            ),
            (
                format!("{{namespaces: {{include: [{}]}}}}", globs.join(", ")),
                ["spec.namespaces.include", "at most 256"],
            ),
            (
                "{namespaces: [prod]}".to_owned(),
                ["spec.namespaces", "expected map"],
            ),
            (
                "{exclude: [job]}".to_owned(),
                ["spec.exclude[0]", "should match"],
            ),
            (
                "{exclude: [batch/Job]}".to_owned(),
                ["spec.exclude[0]", "should match"],
            ),
            (
                "{exclude: [Job.batch, Job.batch]}".to_owned(),
                ["spec.exclude", "duplicate"],
            ),
            (
                "{visibleTo: ['team-*']}".to_owned(),
                ["spec.visibleTo[0]", "should match"],
            ),
            (
                format!("{{visibleTo: [{}]}}", globs.join(", ")),
                ["spec.visibleTo", "at most 256"],
            ),
            (
                "{visibleTo: all}".to_owned(),
                ["spec.visibleTo", "expected list"],
            ),
            (
                requirement("key: app, operator: Equals, values: [a]"),
                ["spec.podSelector.matchExpressions[0].operator", "NotIn"],
            ),
            (
                requirement("key: app, operator: Exists, values: [a]"),
                [
                    "spec.podSelector.matchExpressions[0]",
                    "left out with Exists",
                ],
            ),
            (
                requirement("key: app, operator: DoesNotExist, values: [a]"),
                [
                    "spec.podSelector.matchExpressions[0]",
                    "left out with Exists",
                ],
            ),
            (
                requirement("key: app, operator: In"),
                [
                    "spec.podSelector.matchExpressions[0]",
                    "must be given with In",
                ],
            ),
            (
                requirement("key: app, operator: NotIn, values: []"),
                [
                    "spec.podSelector.matchExpressions[0]",
                    "must be given with In",
                ],
            ),
            (
                requirement("key: '', operator: Exists"),
                ["spec.podSelector.matchExpressions[0].key", "at least 1"],
            ),
            (
                requirement("key: 'two words', operator: Exists"),
                ["spec.podSelector.matchExpressions[0].key", "should match"],
            ),
            (
                requirement("key: app, operator: In, values: ['two words']"),
                [
                    "spec.podSelector.matchExpressions[0].values[0]",
                    "should match",
                ],
            ),
            (
                requirement(&format!(
                    "key: app, operator: In, values: [{}]",
                    values.join(", ")
                )),
                ["spec.podSelector.matchExpressions[0].values", "at most 64"],
            ),
            (
                "{namespaceSelector: {matchExpressions: [{key: team, operator: In}]}}".to_owned(),
                [
                    "spec.namespaceSelector.matchExpressions[0]",
                    "must be given with In",
                ],
            ),
            (
                "{namespaceSelector: {team: gold}}".to_owned(),
                ["spec.namespaceSelector.team", "not declared in schema"],
            ),
            (
                "{namespaceSelector: {matchLabels: {team: 'two words'}}}".to_owned(),
                ["spec.namespaceSelector.matchLabels.team", "should match"],
            ),
            (
                "{settle: {quiet: 5}}".to_owned(),
                ["spec.settle.quiet", "string"],
            ),
            (
                "{settle: {quiet: soon}}".to_owned(),
                ["spec.settle.quiet", "should match"],
            ),
            (
                "{settle: {quiet: 31s, max: 30s}}".to_owned(),
                ["spec.settle", "quiet must not be longer than max"],
            ),
            (
                "{settle: {quiet: 1m}}".to_owned(),
                ["spec.settle", "quiet must not be longer than max"],
            ),
            (
                "{settle: {max: 1s500}}".to_owned(),
                ["spec.settle.max", "should match"],
            ),
            (
                "{settle: {rollout: 15}}".to_owned(),
                ["spec.settle.rollout", "string"],
            ),
            (
                "{settle: {scaling: -30s}}".to_owned(),
                ["spec.settle.scaling", "should match"],
            ),
            (
                "{history: {maxAge: 30d}}".to_owned(),
                ["spec.history.maxAge", "should match"],
            ),
            (
                "{history: {maxAge: 5m}}".to_owned(),
                ["spec.history", "at least 1h"],
            ),
            (
                "{compliant: true}".to_owned(),
                ["spec.compliant", "not declared in schema"],
            ),
        ] {
            refused(cluster, "Environment", "{name: bad}", &spec, &words).await?;
        }
        let long = format!("{{name: {}}}", "e".repeat(64));
        refused(
            cluster,
            "Environment",
            &long,
            "{}",
            &["metadata.name", "63"],
        )
        .await?;
        Ok(())
    });
}

#[test]
fn a_snapshot_is_never_edited() {
    play(async |cluster| {
        let actor = Actor::new(cluster, "edited").await?;
        let api: Api<EnvironmentSnapshot> = Api::all(cluster.client());
        let name = format!("{}-0000000001", actor.name);
        for spec in [
            json!({"totals": {"instances": 9}}),
            json!({"causes": ["Restored"]}),
            json!({"checkpoint": null}),
        ] {
            let patch = Patch::Merge(json!({"spec": spec}));
            let edited = api.patch(&name, &PatchParams::default(), &patch).await;
            let message = edited.map_or_else(|error| error.to_string(), |_| "edited".to_owned());
            assert!(message.contains("a snapshot is never edited"), "{message}");
        }
        // Labels and annotations are no part of what was recorded.
        let patch = Patch::Merge(json!({"metadata": {"labels": {"example.com/kept": "yes"}}}));
        api.patch(&name, &PatchParams::default(), &patch).await?;
        Ok(())
    });
}
