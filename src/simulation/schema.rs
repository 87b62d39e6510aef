//! Judges objects by the definitions in `crds/`, as the API server does.

use std::{collections::BTreeMap, fs, sync::LazyLock};

use jsonschema::Validator;
use serde::Serialize;
use serde_json::Value;

/// The schemas of the served versions, by file, each with its validator.
static SCHEMAS: LazyLock<BTreeMap<String, (Value, Validator)>> = LazyLock::new(|| {
    let files = fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/crds")).unwrap();
    let schema = |path: std::path::PathBuf| {
        let crd: Value = serde_saphyr::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        assert!(schema["properties"]["spec"].is_object(), "{path:?}");
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let validator = jsonschema::validator_for(schema).unwrap();
        (name, (schema.clone(), validator))
    };
    files.map(|file| schema(file.unwrap().path())).collect()
});

/// Why the API server would refuse a `part` (spec or status) of an object of this kind.
pub fn refusal(kind: &str, part: &str, content: &impl Serialize) -> Option<String> {
    let mut object = serde_json::json!({"apiVersion": "shipbell.dev/v1alpha1", "kind": "Any", "metadata": {}, "spec": {}});
    object[part] = serde_json::to_value(content).unwrap();
    let (schema, validator) = &SCHEMAS[kind];
    let mut errors = validator.iter_errors(&object).filter(|error| {
        let place = error.instance_path().to_string();
        place.starts_with(&format!("/{part}"))
    });
    let error = errors
        .next()
        .map(|error| format!("{}: {error:.200}", error.instance_path()));
    error.or_else(|| {
        repeated_key(
            &schema["properties"][part],
            &object[part],
            &format!("/{part}"),
        )
    })
}

/// Where a list that is a map has two elements of one key: the API server refuses that, beyond what JSON Schema knows.
fn repeated_key(schema: &Value, value: &Value, place: &str) -> Option<String> {
    if schema["x-kubernetes-list-type"] == "map" {
        let keys = schema["x-kubernetes-list-map-keys"].as_array().unwrap();
        let of = |element: &Value| -> Vec<Value> {
            let parts = keys
                .iter()
                .map(|key| element[key.as_str().unwrap()].clone());
            parts.collect()
        };
        let all: Vec<_> = value.as_array().into_iter().flatten().map(of).collect();
        let twice = all
            .iter()
            .enumerate()
            .find(|(at, key)| all[..*at].contains(key));
        if let Some((at, key)) = twice {
            return Some(format!("{place}/{at}: Duplicate value: {key:?}"));
        }
    }
    let parts: Vec<(String, &Value, &Value)> = match value {
        Value::Array(elements) => elements
            .iter()
            .enumerate()
            .map(|(at, element)| (at.to_string(), &schema["items"], element))
            .collect(),
        Value::Object(fields) => fields
            .iter()
            .map(|(name, field)| (name.clone(), &schema["properties"][name], field))
            .collect(),
        _ => vec![],
    };
    let mut parts = parts.into_iter();
    parts.find_map(|(name, schema, part)| repeated_key(schema, part, &format!("{place}/{name}")))
}

#[test]
fn the_schemas_refuse_what_the_api_server_refuses() {
    let snapshot = super::testing::snapshot(7, &[("web", 0, 1)]);
    let refused = |spec| refusal("environmentsnapshots", "spec", &spec);
    assert_eq!(refused(snapshot.clone()), None);
    let mut long = snapshot.clone();
    long.changes[0].workloads[0].name = "x".repeat(254);
    let why = refused(long).unwrap();
    assert!(why.starts_with("/spec/changes/0/workloads/0/name"), "{why}");
    let mut nameless = snapshot;
    nameless.environment = String::new();
    assert!(refused(nameless).is_some());
    let running =
        serde_json::json!({"environment": "prod", "fingerprint": "", "compliance": "Unknown"});
    let status = |count| serde_json::json!({"runningIn": vec![running.clone(); count]});
    let refused = |count| refusal("artifactprovenances", "status", &status(count));
    assert_eq!(refused(1), None);
    let why = refused(2).unwrap();
    assert!(
        why.starts_with("/status/runningIn/1: Duplicate value"),
        "{why}"
    );
}
