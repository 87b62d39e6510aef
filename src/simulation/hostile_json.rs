//! Values of JSON as somebody makes them who wants to do harm: out of a value that is right, with other parts.

use proptest::{collection::vec, prelude::*, sample::select};
use serde_json::{Value, json};

use crate::simulation::testing::digest;

/// What becomes of one part of a value.
#[derive(Clone, Debug)]
pub struct Edit {
    /// Which part it is.
    part: usize,
    number: i64,
    text: String,
    times: usize,
    /// Whatever it was before.
    any: Option<Value>,
}

pub fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let other = select(vec![
        json!(null),
        json!(true),
        json!(1e308),
        json!(-1),
        json!(u64::MAX),
        json!("x"),
        json!([]),
        json!([[[]]]),
        json!({}),
        json!({"x": {"y": []}}),
    ]);
    let edit = (
        any::<usize>(),
        number(),
        text(),
        prop_oneof![0..4_usize, 100..300_usize],
        prop::option::weighted(0.1, other),
    );
    let edit = edit.prop_map(|(part, number, text, times, any)| Edit {
        part,
        number,
        text,
        times,
        any,
    });
    vec(edit, 0..6)
}

fn number() -> impl Strategy<Value = i64> {
    let edges = vec![
        i64::MIN,
        i64::MIN + 1,
        -1,
        0,
        1,
        2,
        i64::from(i32::MAX),
        i64::from(u32::MAX),
        i64::from(u32::MAX) + 1,
        i64::MAX - 1,
        i64::MAX,
    ];
    prop_oneof![4 => select(edges), 1 => any::<i64>()]
}

fn text() -> impl Strategy<Value = String> {
    let odd = vec![
        "",
        "\0",
        "prod",
        "uid-of-prod",
        "prod-0000000001",
        "-9223372036854775808",
        "18446744073709551615",
        "9999-12-31T23:59:59Z",
        "-009999-01-02T01:59:59Z",
        "0000-01-01T00:00:00Z",
        "ffffffffffffffff",
        "NonCompliant",
        "Removed",
        "0s",
        "999999999h",
        "NotIn",
        "Record",
        "\u{202e}<script>\"'&",
        "javascript:alert(1)",
        "https://a.example/\n",
    ];
    prop_oneof![
        6 => select(odd).prop_map(str::to_owned),
        2 => (0..4_u8).prop_map(|number| digest(&format!("v{number}")).to_string()),
        2 => any::<String>(),
        // Longer than anything here is kept.
        1 => "[a-z/:@]{1,3}".prop_map(|text| text.repeat(10_000)),
    ]
}

/// The value with these edits, one after the other.
pub fn edited(value: &Value, edits: &[Edit]) -> Value {
    let mut value = value.clone();
    for edit in edits {
        let mut part = edit.part % parts(&value);
        put(&mut value, &mut part, edit);
    }
    value
}

fn parts(value: &Value) -> usize {
    let below: usize = match value {
        Value::Object(fields) => fields.values().map(parts).sum(),
        Value::Array(items) => items.iter().map(parts).sum(),
        _ => 0,
    };
    1 + below
}

/// Edits one part. Whether it was found.
fn put(value: &mut Value, part: &mut usize, edit: &Edit) -> bool {
    if *part > 0 {
        *part -= 1;
        return match value {
            Value::Object(fields) => fields.values_mut().any(|it| put(it, part, edit)),
            Value::Array(items) => items.iter_mut().any(|it| put(it, part, edit)),
            _ => false,
        };
    }
    *value = match (&edit.any, &*value) {
        (Some(any), _) => any.clone(),
        (None, Value::Number(_)) => json!(edit.number),
        (None, Value::String(_)) => json!(edit.text),
        (None, Value::Bool(it)) => json!(!it),
        (None, Value::Array(items)) if items.len() < 100 => {
            let repeated = std::iter::repeat_n(items, edit.times.min(10_000 / (1 + parts(value))));
            Value::Array(repeated.flatten().cloned().collect())
        }
        (None, other) => other.clone(),
    };
    true
}
