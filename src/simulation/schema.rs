//! Judges objects by the definitions in `crds/`, as the API server does.

use std::{collections::BTreeMap, fs, sync::LazyLock};

use jsonschema::Validator;
use serde::Serialize;
use serde_json::Value;

/// The schemas of the served versions, by file.
static SCHEMAS: LazyLock<BTreeMap<String, Validator>> = LazyLock::new(|| {
    let files = fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/crds")).unwrap();
    let schema = |path: std::path::PathBuf| {
        let crd: Value = serde_saphyr::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        assert!(schema["properties"]["spec"].is_object(), "{path:?}");
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        (name, jsonschema::validator_for(schema).unwrap())
    };
    files.map(|file| schema(file.unwrap().path())).collect()
});

/// Why the API server would refuse a `part` (spec or status) of an object of this kind.
pub fn refusal(kind: &str, part: &str, content: &impl Serialize) -> Option<String> {
    let mut object = serde_json::json!({"apiVersion": "shipbell.dev/v1alpha1", "kind": "Any", "metadata": {}, "spec": {}});
    object[part] = serde_json::to_value(content).unwrap();
    let mut errors = SCHEMAS[kind].iter_errors(&object).filter(|error| {
        let place = error.instance_path().to_string();
        place.starts_with(&format!("/{part}"))
    });
    let error = errors.next()?;
    Some(format!("{}: {error:.200}", error.instance_path()))
}

#[test]
fn the_schemas_refuse_what_the_api_server_refuses() {
    let snapshot = super::testing::snapshot(7, &[("web", 0, 1)]);
    let refused = |spec| refusal("environmentsnapshots", "spec", &spec);
    assert_eq!(refused(snapshot.clone()), None);
    let mut long = snapshot.clone();
    long.changes[0].workloads[0].name = "x".repeat(254);
    let refusal = refused(long).unwrap();
    assert!(
        refusal.starts_with("/spec/changes/0/workloads/0/name"),
        "{refusal}"
    );
    let mut nameless = snapshot;
    nameless.environment = String::new();
    assert!(refused(nameless).is_some());
}
