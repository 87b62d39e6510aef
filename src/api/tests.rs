//! The committed definitions are those that the types generate, and every kind follows the same rules.

use std::{fmt::Write as _, fs, path::Path};

use serde_json::Value;

use crate::api::definitions;

/// Compares a generated file with the committed one. `UPDATE_EXPECT=1` rewrites it.
fn assert_generated(path: &str, want: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, want).unwrap();
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    let hint = "run `make generate` to generate it again";
    assert!(
        found == want,
        "{} differs from the types; {hint}",
        path.display()
    );
}

#[test]
fn the_committed_definitions_are_those_of_the_types() {
    for (file, crd) in definitions() {
        let yaml = serde_saphyr::to_string(&crd).unwrap();
        assert!(
            yaml.len() < 256 * 1024,
            "{file} would not fit into an annotation: {} bytes",
            yaml.len()
        );
        assert_generated(
            &format!("crds/{file}"),
            &format!("# Generated from src/api; do not edit.\n{yaml}"),
        );
        assert_generated(
            &format!("charts/shipbell/templates/crds/{file}"),
            &template(&yaml),
        );
    }
}

/// The same definition as a template of the chart, which the values can switch off.
fn template(yaml: &str) -> String {
    let (before, after) = yaml.split_once("  annotations:\n").unwrap();
    let keep =
        "    {{- if .Values.crds.keep }}\n    helm.sh/resource-policy: keep\n    {{- end }}\n";
    let labels = "  labels:\n    {{- include \"shipbell.labels\" . | nindent 4 }}\n";
    // Descriptions may hold braces that helm would read as its own.
    let after = after.replace("{{", "{{ \"{{\" }}");
    format!(
        "{{{{- /* Generated from src/api; do not edit. */}}}}\n{{{{- include \"shipbell.fillDefaults\" . -}}}}\n{{{{- if .Values.crds.enabled }}}}\n{before}{labels}  annotations:\n{keep}{after}\n{{{{- end }}}}\n"
    )
}

/// Calls `check` with each schema below `schema` and the path that leads to it.
fn walk(schema: &Value, path: &str, below_array: bool, check: &mut impl FnMut(&Value, &str, bool)) {
    check(schema, path, below_array);
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        walk(property, &format!("{path}.{name}"), below_array, check);
    }
    if schema["items"].is_object() {
        walk(&schema["items"], &format!("{path}[]"), true, check);
    }
    if schema["additionalProperties"].is_object() {
        walk(
            &schema["additionalProperties"],
            &format!("{path}{{}}"),
            below_array,
            check,
        );
    }
}

#[test]
fn every_list_is_bounded_and_typed_and_nothing_below_a_list_has_a_default() {
    let mut lists = 0;
    for (file, crd) in definitions() {
        let crd = serde_json::to_value(&crd).unwrap();
        for version in crd["spec"]["versions"].as_array().unwrap() {
            walk(
                &version["schema"]["openAPIV3Schema"],
                file,
                false,
                &mut |schema, path, below_array| {
                    if schema["type"] == "array" {
                        lists += 1;
                        assert!(schema["maxItems"].is_u64(), "{path} has no maxItems");
                        let kind = schema["x-kubernetes-list-type"]
                            .as_str()
                            .unwrap_or_default();
                        assert!(
                            ["set", "map", "atomic"].contains(&kind),
                            "{path} has no list type"
                        );
                    }
                    assert!(
                        !below_array || schema.get("default").is_none(),
                        "{path} has a default below a list"
                    );
                    assert!(
                        path.ends_with("conditions[]")
                            || schema["type"] != "integer"
                            || !schema["format"]
                                .as_str()
                                .unwrap_or("int64")
                                .starts_with('u'),
                        "{path} has an unsigned format"
                    );
                    // What `kubectl explain` prints.
                    let described = schema["description"]
                        .as_str()
                        .is_some_and(|text| !text.is_empty());
                    let own = !path.contains("conditions[]")
                        && !path.ends_with("[]")
                        && !path.ends_with("{}");
                    assert!(described || !own || path == file, "{path} is not described");
                },
            );
        }
    }
    assert!(lists > 20, "the walk found only {lists} lists");
}

#[test]
fn the_committed_list_of_fields_is_that_of_the_types() {
    let mut page = String::from(
        "# Fields\n\nGenerated from the types; `kubectl explain` prints the same. `[]` is a list, `{}` a map of names.\n",
    );
    for (_, crd) in definitions() {
        let scope = if crd.spec.scope == "Cluster" {
            "cluster-wide"
        } else {
            "in a namespace"
        };
        let crd = serde_json::to_value(&crd).unwrap();
        let kind = crd["spec"]["names"]["kind"].as_str().unwrap();
        let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        let text = |schema: &Value| {
            let text = schema["description"].as_str().unwrap_or_default();
            text.replace('\n', " ").replace('|', "\\|")
        };
        write!(page, "\n## {kind}\n\n{} ({scope})\n", text(schema)).unwrap();
        for part in ["spec", "status"] {
            let schema = &schema["properties"][part];
            if schema.is_null() {
                continue;
            }
            write!(
                page,
                "\n### {kind} {part}\n\n| field | type | description |\n|---|---|---|\n"
            )
            .unwrap();
            walk(schema, "", false, &mut |schema, path, _| {
                let path = path.trim_start_matches('.');
                if path.is_empty()
                    || path.ends_with("[]")
                    || path.ends_with("{}")
                    || path.contains("conditions[]")
                {
                    return;
                }
                let values = schema["enum"]
                    .as_array()
                    .or(schema["items"]["enum"].as_array());
                let values = values.map(|values| {
                    values
                        .iter()
                        .filter_map(Value::as_str)
                        .map(|value| format!("`{value}`"))
                        .collect::<Vec<_>>()
                });
                let values = values.map_or(String::new(), |values| {
                    format!(" One of {}.", values.join(", "))
                });
                let kind = match (schema["type"].as_str(), schema["format"].as_str()) {
                    (Some("array"), _) => format!(
                        "list of {}",
                        schema["items"]["type"].as_str().unwrap_or("object")
                    ),
                    (Some("string"), Some("date-time")) => "time".to_owned(),
                    (Some("string"), _) if schema["pattern"] == crate::api::duration::PATTERN => {
                        "length of time".to_owned()
                    }
                    (None, _) if schema["x-kubernetes-int-or-string"] == true => {
                        "integer or string".to_owned()
                    }
                    (kind, _) => kind.unwrap_or("object").to_owned(),
                };
                writeln!(page, "| `{path}` | {kind} | {}{values} |", text(schema)).unwrap();
            });
        }
    }
    assert_generated("docs/fields.md", &page);
}
