//! The page about Argo CD, and the health script in a Lua like Argo CD's.

use crate::{
    file,
    helm::{objects, template},
    story,
};
use anyhow::{Context, Result};
use mlua::{Lua, LuaOptions, LuaSerdeExt, StdLib, Table, serde::SerializeOptions};
use serde_json::{Value, json};
use std::fs;

/// What Argo CD would show: status and message.
fn health(object: &Value) -> mlua::Result<(String, String)> {
    // Lua 5.1 with what Argo CD gives: base, table, package, and of `os` the clock alone.
    let libraries = StdLib::TABLE | StdLib::PACKAGE | StdLib::OS;
    let lua = Lua::new_with(libraries, LuaOptions::default())?;
    let os: Table = lua.globals().get("os")?;
    let clock = lua.create_table()?;
    for name in ["time", "date"] {
        clock.set(name, os.get::<mlua::Function>(name)?)?;
    }
    lua.globals().set("os", clock)?;
    let nil_for_null = SerializeOptions::new()
        .serialize_none_to_null(false)
        .serialize_unit_to_null(false);
    lua.globals()
        .set("obj", lua.to_value_with(object, nil_for_null)?)?;
    let result: Table = lua.load(file("docs/health.lua")).eval()?;
    Ok((result.get("status")?, result.get("message")?))
}

fn object(observed: Option<i64>, conditions: &[(&str, &str)]) -> Value {
    let conditions: Vec<_> = conditions
        .iter()
        .map(|(kind, status)| json!({"type": kind, "status": status, "reason": format!("{kind}Reason"), "message": format!("{kind} says")}))
        .collect();
    json!({
        "apiVersion": "shipbell.dev/v1alpha1", "kind": "NotificationSetting",
        "metadata": {"name": "slack", "generation": 3},
        "status": {"observedGeneration": observed, "conditions": conditions},
    })
}

#[test]
fn health_follows_the_generation_and_three_conditions() {
    let (ready, not_ready) = (("Ready", "True"), ("Ready", "False"));
    let reconciling = ("Reconciling", "True");
    for (observed, conditions, status, message) in [
        // Not seen yet.
        (None, &[][..], "Progressing", "has not seen"),
        (Some(2), &[ready][..], "Progressing", "has not seen"),
        (
            Some(2),
            &[("Stalled", "True")],
            "Progressing",
            "has not seen",
        ),
        (Some(4), &[ready], "Progressing", "has not seen"),
        // Seen.
        (Some(3), &[ready], "Healthy", "ReadyReason: Ready says"),
        (Some(3), &[not_ready], "Degraded", "ReadyReason: Ready says"),
        (
            Some(3),
            &[not_ready, reconciling],
            "Progressing",
            "ReadyReason: Ready says",
        ),
        (Some(3), &[reconciling], "Progressing", "ReconcilingReason"),
        (
            Some(3),
            &[not_ready, ("Reconciling", "False")],
            "Degraded",
            "ReadyReason",
        ),
        (
            Some(3),
            &[not_ready, ("Stalled", "True")],
            "Degraded",
            "StalledReason: Stalled says",
        ),
        (
            Some(3),
            &[not_ready, ("Stalled", "True"), reconciling],
            "Degraded",
            "StalledReason",
        ),
        (
            Some(3),
            &[ready, ("Stalled", "False")],
            "Healthy",
            "ReadyReason",
        ),
        (
            Some(3),
            &[("Ready", "Unknown")],
            "Progressing",
            "has not reported",
        ),
        (Some(3), &[], "Progressing", "has not reported"),
        // Whether messages arrive plays no part.
        (
            Some(3),
            &[ready, ("Delivered", "False")],
            "Healthy",
            "ReadyReason",
        ),
        (
            Some(3),
            &[ready, ("Delivered", "Unknown")],
            "Healthy",
            "ReadyReason",
        ),
        (
            Some(3),
            &[not_ready, ("Delivered", "True")],
            "Degraded",
            "ReadyReason",
        ),
        (
            Some(3),
            &[("Delivered", "False")],
            "Progressing",
            "has not reported",
        ),
    ] {
        let (found, says) = health(&object(observed, conditions)).unwrap();
        assert_eq!(found, status, "{observed:?} {conditions:?}");
        assert!(
            says.contains(message),
            "{observed:?} {conditions:?}: {says}"
        );
    }
}

#[test]
fn health_of_an_object_that_nobody_has_touched_is_progressing() {
    for status in [
        Value::Null,
        json!({}),
        json!({"observedGeneration": 1, "conditions": null}),
    ] {
        let object = json!({"metadata": {"name": "prod", "generation": 1}, "status": status});
        assert_eq!(health(&object).unwrap().0, "Progressing", "{object}");
    }
    let bare = json!({"metadata": {"name": "prod", "generation": 1}});
    assert_eq!(health(&bare).unwrap().0, "Progressing");
    // A condition whose texts are missing is no error.
    let terse = json!({"metadata": {"generation": 1}, "status": {"observedGeneration": 1, "conditions": [{"type": "Ready", "status": "True"}]}});
    assert_eq!(
        health(&terse).unwrap(),
        ("Healthy".to_owned(), ": ".to_owned())
    );
}

#[test]
fn health_is_not_red_for_what_runs_or_for_what_was_said_of_an_image() {
    let health_of = |kind: &str, ready: (&str, &str), more: Value| {
        let (status, reason) = ready;
        let mut object = json!({
            "apiVersion": "shipbell.dev/v1alpha1", "kind": kind, "metadata": {"name": "a", "generation": 2},
            "status": {"observedGeneration": 2, "conditions": [
                {"type": "Compliant", "status": "False", "reason": "NoProvenance", "message": "web: unknown"},
                {"type": "Ready", "status": status, "reason": reason, "message": "says"},
            ]},
        });
        let fields = more.as_object().unwrap().clone();
        object["status"].as_object_mut().unwrap().extend(fields);
        health(&object).unwrap()
    };
    let (sound, unsound) = (("True", "Fine"), "False");
    for (kind, ready, more, status, message) in [
        (
            "Environment",
            sound,
            json!({"compliance": "Non-Compliant"}),
            "Healthy",
            "Non-Compliant; Fine: says",
        ),
        (
            "Environment",
            sound,
            json!({"compliance": "Compliant"}),
            "Healthy",
            "Compliant; Fine: says",
        ),
        // Without rules there is nothing to tell.
        (
            "Environment",
            sound,
            json!({"compliance": "Unknown"}),
            "Healthy",
            "Fine: says",
        ),
        (
            "Environment",
            (unsound, "LogForbidden"),
            json!({"compliance": "Compliant"}),
            "Degraded",
            "LogForbidden: says",
        ),
        (
            "ArtifactProvenance",
            sound,
            json!({"state": "Non-Compliant", "missing": ["snyk-scan"]}),
            "Healthy",
            "Fine: says",
        ),
        (
            "ArtifactProvenance",
            (unsound, "Conflict"),
            json!({"conflict": "ci/other"}),
            "Degraded",
            "Conflict: says",
        ),
        (
            "ArtifactApproval",
            (unsound, "NamespaceNotTrusted"),
            json!({"number": 1}),
            "Degraded",
            "NamespaceNotTrusted: says",
        ),
        (
            "AllowedArtifact",
            (unsound, "EnvironmentNotFound"),
            json!({"state": "EnvironmentNotFound"}),
            "Degraded",
            "EnvironmentNotFound: says",
        ),
        // Nobody has done anything; its time has come.
        (
            "AllowedArtifact",
            ("True", "Expired"),
            json!({"state": "Expired"}),
            "Healthy",
            "Expired: says",
        ),
    ] {
        let (found, says) = health_of(kind, ready, more);
        assert_eq!(
            (&*found, &*says),
            (status, message),
            "{kind} {ready:?}: {found} {says}"
        );
    }
}

#[test]
fn health_reads_the_conditions_that_the_operator_writes() {
    use shipbell::api::condition::{READY, RECONCILING, STALLED};
    let script = file("docs/health.lua");
    let code: String = script
        .lines()
        .filter(|line| !line.trim_start().starts_with("--"))
        .collect();
    for name in [READY, RECONCILING, STALLED] {
        assert!(code.contains(&format!("{name:?}")), "{name}");
    }
    for left_out in ["Delivered", "Compliant", "string."] {
        assert!(!code.contains(left_out), "{left_out}");
    }
}

/// The YAML blocks of the page.
fn blocks() -> Vec<Value> {
    let page = file("docs/argocd.md");
    let parts = page.split("```yaml\n").skip(1);
    let texts = parts.map(|part| part.split_once("```").unwrap().0);
    texts.flat_map(objects).collect()
}

fn block(kind: &str) -> Value {
    let mut all = blocks();
    all.retain(|object| object["kind"] == kind);
    assert_eq!(all.len(), 1, "{kind}");
    all.remove(0)
}

#[test]
fn the_page_has_the_health_script_for_every_kind_but_snapshots() {
    let data = block("ConfigMap")["data"].clone();
    let script = file("docs/health.lua");
    for kind in [
        "Environment",
        "NotificationSetting",
        "ArtifactProvenance",
        "ArtifactApproval",
        "AllowedArtifact",
    ] {
        let key = format!("resource.customizations.health.shipbell.dev_{kind}");
        let there = data[&key].as_str().unwrap();
        assert!(there == script, "{key} is not docs/health.lua");
    }
    let exclusions: Value =
        serde_saphyr::from_str(data["resource.exclusions"].as_str().unwrap()).unwrap();
    let wanted = json!([{"apiGroups": ["shipbell.dev"], "kinds": ["EnvironmentSnapshot"], "clusters": ["*"]}]);
    assert_eq!(exclusions, wanted);
}

#[test]
fn the_values_on_the_page_are_ones_that_the_chart_takes() {
    let application = block("Application")["spec"]["source"]["helm"]["valuesObject"].clone();
    let release = block("HelmRelease")["spec"]["values"].clone();
    let directory = tempfile::tempdir().unwrap();
    for values in [application, release] {
        let path = directory.path().join("values.json");
        fs::write(&path, values.to_string()).unwrap();
        let yaml = template(&["-f", path.to_str().unwrap()]).unwrap();
        assert!(yaml.contains("kind: Deployment"));
    }
}

#[test]
fn the_objects_on_the_page_are_ones_that_the_api_server_takes() {
    story(async |cluster| {
        let ours: Vec<_> = blocks()
            .into_iter()
            .filter(|object| object["apiVersion"] == "shipbell.dev/v1alpha1")
            .collect();
        assert_eq!(ours.len(), 3);
        let namespace = cluster.namespace("argocd").await?;
        for mut object in ours {
            if object["kind"] == "NotificationSetting" {
                object["metadata"]["namespace"] = json!(namespace);
            }
            check(cluster, &object).await?;
        }
        Ok(())
    });
}

async fn check(cluster: &kit::Cluster, object: &Value) -> Result<()> {
    let strictly = [
        "apply",
        "--server-side",
        "--validate=strict",
        "--dry-run=server",
        "--force-conflicts",
        "-f",
        "-",
    ];
    let text = object.to_string();
    let applied = cluster.plane.kubectl_with_input(&strictly, &text).await;
    applied.map(drop).context(text)
}
