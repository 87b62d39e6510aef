//! Reads the lines of a watch. An object that can't be read stops nothing else.

use kube::api::WatchEvent;
use serde::Deserialize;

use crate::cluster::pod_view::{Decoded, SlimView};

/// A line of a watch that holds an object: all but a few.
#[derive(Deserialize)]
struct WatchLine<T> {
    #[serde(rename = "type")]
    change: ChangeType,
    object: T,
}

#[derive(Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum ChangeType {
    Added,
    Modified,
    Deleted,
}

/// Reads a line of a watch: in one pass, or once more if it holds what can't be read so.
pub(crate) fn event<T: SlimView>(line: &[u8]) -> serde_json::Result<WatchEvent<Decoded<T>>> {
    let Ok(WatchLine { change, object }) = serde_json::from_slice::<WatchLine<T>>(line) else {
        return serde_json::from_slice(line);
    };
    let seen = Decoded::Good(object);
    Ok(match change {
        ChangeType::Added => WatchEvent::Added(seen),
        ChangeType::Modified => WatchEvent::Modified(seen),
        ChangeType::Deleted => WatchEvent::Deleted(seen),
    })
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use proptest::{collection::vec, prelude::*, sample::select};
    use serde_json::{Value, json};

    use super::*;
    use crate::api::{
        AllowedArtifact, ArtifactApproval, ArtifactProvenance, Environment, NotificationSetting,
    };
    use crate::cluster::{
        custom_resource_watch::Slim,
        list_page::PageReader,
        pod_view::{DeploymentView, NamespaceView, PodView},
    };

    /// A list as the tolerant way reads it.
    #[derive(Deserialize)]
    struct List<T> {
        items: Vec<T>,
    }

    /// The objects of a page.
    fn page<T: SlimView>(text: &str) -> Vec<Decoded<T>> {
        let mut page = PageReader::default();
        page.receive(text.as_bytes());
        let objects = page.take().unwrap();
        page.finish().unwrap();
        objects
    }

    fn pod(name: &str) -> Value {
        let status = |name: &str| {
            json!({
                "name": name, "imageID": "r.example/a@sha256:1", "containerID": "containerd://1", "restartCount": 0, "ready": true,
                "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}, "lastState": {"terminated": {"exitCode": 1}},
            })
        };
        json!({
            "kind": "Pod", "apiVersion": "v1",
            "metadata": {
                "name": name, "namespace": "shop", "uid": format!("6ba7b810-9dad-11d1-80b4-{name:0>12}"), "resourceVersion": "41",
                "generation": 1, "deletionTimestamp": "2026-01-01T00:00:00Z", "labels": {"app": "web", "pod-template-hash": "x"},
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-x", "controller": true}],
                "managedFields": [{"fieldsV1": {"f:metadata": {"f:labels": {".": {}}}}}],
            },
            "spec": {
                "restartPolicy": "Always", "nodeName": "a",
                "containers": [{"name": "web", "image": "r.example/a:v1", "env": [{"name": "A", "value": "\u{e9}\n"}]}],
                "initContainers": [{"name": "mesh", "image": "m", "restartPolicy": "Always"}], "ephemeralContainers": [{"name": "debug"}],
            },
            "status": {
                "phase": "Running", "containerStatuses": [status("web")], "initContainerStatuses": [status("mesh")],
                "ephemeralContainerStatuses": [status("debug")],
            },
        })
    }

    fn deployment(name: &str) -> Value {
        json!({
            "metadata": {"name": name, "namespace": "shop", "uid": name, "resourceVersion": "7", "generation": 2, "labels": {"app": "web"}},
            "spec": {"paused": false, "replicas": 3},
            "status": {"observedGeneration": 2, "conditions": [{"type": "Progressing", "status": "True", "reason": "ReplicaSetUpdated"}]},
        })
    }

    /// An object of a kind of ours.
    fn own(spec: &Value, status: &Value) -> Value {
        json!({
            "metadata": {
                "name": "a", "namespace": "ci", "uid": "u", "resourceVersion": "7", "generation": 2, "labels": {"app": "web"},
                "annotations": {"shipbell.dev/test-requested-at": "now", "shipbell.dev/replay": "prod/1-2"},
                "creationTimestamp": "2026-01-01T00:00:00Z",
            },
            "spec": spec, "status": status,
        })
    }

    fn environment() -> Value {
        own(
            &json!({
                "namespaces": {"include": ["a*"], "exclude": ["b"]}, "exclude": ["Job.batch"], "visibleTo": ["*"],
                "namespaceSelector": {"matchLabels": {"a": "b"}},
                "podSelector": {"matchExpressions": [{"key": "a", "operator": "In", "values": ["b"]}]},
                "settle": {"quiet": "5s", "max": "30s"}, "history": {"maxAge": "720h"},
                "compliance": {
                    "provenance": {"required": true, "trustedNamespaces": ["ci"]}, "grace": "5m",
                    "exceptions": [{"rules": ["approval"], "images": ["*"], "reason": "r", "expiresAt": "2026-01-01T00:00:00Z"}],
                },
            }),
            &json!({"observedGeneration": 2, "conditions": []}),
        )
    }

    fn setting() -> Value {
        own(
            &json!({
                "environments": ["prod"], "eventTypes": ["ARTIFACT_STARTED"], "suspend": false, "retry": {"maxAge": "72h"},
                "webhook": {"urlFrom": {"secretKeyRef": {"name": "hook", "key": "url"}}},
            }),
            &json!({
                "observedGeneration": 2, "pending": 3,
                "cursors": [{"environment": "prod", "environmentUID": "u", "index": 3, "ordinal": 1}],
            }),
        )
    }

    fn evidence() -> Value {
        own(
            &json!({
                "fingerprint": "a", "aliases": ["b"], "flow": "f", "state": "approved", "reviewer": "r", "number": 1,
                "environments": ["prod"], "artifacts": [{"fingerprint": "a", "name": "n"}], "reason": "r",
                "expiresAt": "2026-01-01T00:00:00Z", "attestations": [{"name": "scan", "compliant": true}],
                "deployments": [{"number": 1, "environment": "prod", "time": "2026-01-01T00:00:00Z"}],
            }),
            &json!({"observedGeneration": 2, "conditions": []}),
        )
    }

    /// All that is in a value, as JSON pointers.
    fn places(value: &Value, at: &str, to: &mut Vec<String>) {
        let parts: Vec<_> = match value {
            Value::Object(fields) => fields.iter().map(|(k, v)| (k.clone(), v)).collect(),
            Value::Array(items) => (0..).map(|n: usize| n.to_string()).zip(items).collect(),
            _ => vec![],
        };
        for (key, part) in parts {
            let at = format!("{at}/{}", key.replace('/', "~1"));
            places(part, &at, to);
            to.push(at);
        }
    }

    /// Replaces what is at a place, or takes it out.
    fn change(value: &mut Value, place: &str, by: Option<Value>) {
        match (by, place.rsplit_once('/')) {
            (Some(by), _) => {
                if let Some(there) = value.pointer_mut(place) {
                    *there = by;
                }
            }
            (None, Some((above, key))) => {
                if let Some(Value::Object(fields)) = value.pointer_mut(above) {
                    fields.remove(key);
                }
            }
            (None, None) => {}
        }
    }

    /// An object of which a few parts are gone, null, of another type, or texts that can't be borrowed.
    fn odd(object: Value) -> impl Strategy<Value = Value> {
        let mut at = vec![];
        places(&object, "", &mut at);
        let by = select(vec![
            None,
            Some(json!(null)),
            Some(json!(7)),
            Some(json!(1.5e300)),
            Some(json!(i64::MIN)),
            Some(json!(u64::MAX)),
            Some(json!(true)),
            Some(json!("")),
            Some(json!("a\"b\\\n\u{1f514}")),
            Some(json!("\u{202e}".repeat(1_000))),
            Some(json!([])),
            Some(json!([null, {}])),
            Some(json!({})),
            Some(json!({"a": "b"})),
        ]);
        vec((select(at), by), 0..4).prop_map(move |changes| {
            let mut object = object.clone();
            for (place, by) in changes {
                change(&mut object, &place, by);
            }
            object
        })
    }

    /// A line of a watch or a page of which a part is overwritten or cut off.
    fn any_line() -> impl Strategy<Value = Vec<u8>> {
        let objects = [
            pod("1"),
            deployment("web"),
            environment(),
            setting(),
            evidence(),
        ];
        let texts = objects.iter().flat_map(|object| {
            let line = json!({"type": "ADDED", "object": object});
            let page = json!({"metadata": {"resourceVersion": "9"}, "items": [object, null]});
            [line.to_string(), page.to_string()]
        });
        let broken = (
            select(texts.collect::<Vec<_>>()),
            any::<usize>(),
            vec(any::<u8>(), 0..8),
            any::<usize>(),
        );
        let broken = broken.prop_map(|(text, at, by, end)| {
            let mut bytes = text.into_bytes();
            let at = at % bytes.len();
            let until = (at + by.len()).min(bytes.len());
            bytes.splice(at..until, by);
            let end = end % (bytes.len() * 2);
            bytes.truncate(end.max(1));
            bytes
        });
        prop_oneof![4 => broken, 1 => vec(any::<u8>(), 0..100)]
    }

    /// What is read in one pass where that can be is what the tolerant way reads.
    fn agree<T: SlimView + PartialEq + Debug>(objects: &[Value]) -> Result<(), TestCaseError> {
        let list =
            json!({"kind": "List", "metadata": {"resourceVersion": "9", "continue": "c"}, "items": objects})
                .to_string();
        let quick = page::<T>(&list);
        let tolerant: List<Decoded<T>> = serde_json::from_str(&list).unwrap();
        prop_assert_eq!(&quick, &tolerant.items);
        prop_assert_eq!(quick.len(), objects.len());
        for (object, seen) in objects.iter().zip(&quick) {
            for kind in ["ADDED", "MODIFIED", "DELETED"] {
                let line = format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n");
                match (kind, event::<T>(line.as_bytes()).unwrap()) {
                    ("ADDED", WatchEvent::Added(told))
                    | ("MODIFIED", WatchEvent::Modified(told))
                    | ("DELETED", WatchEvent::Deleted(told)) => prop_assert_eq!(&told, seen),
                    (kind, told) => prop_assert!(false, "{} became {:?}", kind, told),
                }
            }
        }
        Ok(())
    }

    fn is_read_or_refused<T: SlimView>(line: &[u8]) {
        let _ = event::<T>(line);
        let mut reader = PageReader::default();
        reader.receive(line);
        let _ = reader.take::<T>().map(|_| reader.finish());
    }

    proptest! {
        #![proptest_config(crate::simulation::testing::reader_tries())]

        #[test]
        fn pods_are_read_alike_in_one_pass_and_tolerantly(pods in vec(odd(pod("1")), 1..4)) {
            agree::<PodView>(&pods)?;
        }

        #[test]
        fn objects_of_our_own_kinds_are_too(environment in odd(environment()), setting in odd(setting()), evidence in odd(evidence())) {
            agree::<Slim<Environment>>(&[environment])?;
            agree::<Slim<NotificationSetting>>(&[setting])?;
            let evidence = [evidence];
            agree::<Slim<ArtifactProvenance>>(&evidence)?;
            agree::<Slim<ArtifactApproval>>(&evidence)?;
            agree::<Slim<AllowedArtifact>>(&evidence)?;
        }

        #[test]
        fn whatever_comes_in_a_watch_or_a_page_is_read_or_refused(line in any_line()) {
            is_read_or_refused::<PodView>(&line);
            is_read_or_refused::<DeploymentView>(&line);
            is_read_or_refused::<NamespaceView>(&line);
            is_read_or_refused::<Slim<Environment>>(&line);
            is_read_or_refused::<Slim<NotificationSetting>>(&line);
            is_read_or_refused::<Slim<ArtifactProvenance>>(&line);
            is_read_or_refused::<Slim<ArtifactApproval>>(&line);
            is_read_or_refused::<Slim<AllowedArtifact>>(&line);
        }

        #[test]
        fn deployments_and_namespaces_are_too(objects in vec(odd(deployment("web")), 1..4)) {
            agree::<DeploymentView>(&objects)?;
            agree::<NamespaceView>(&objects)?;
        }
    }

    #[test]
    fn sound_objects_are_good_and_a_bad_one_among_them_is_named() {
        let bad = |change: fn(&mut Value)| {
            let mut pod = pod("2");
            change(&mut pod);
            pod
        };
        for (bad, name) in [
            (
                bad(|pod| pod["metadata"]["labels"] = json!(["no", "map"])),
                "2",
            ),
            (bad(|pod| pod["spec"]["containers"] = json!("none")), "2"),
            (bad(|pod| pod["metadata"]["uid"] = json!(null)), "2"),
            (bad(|pod| pod["metadata"] = json!(7)), ""),
            (json!(null), ""),
            (json!([[[["deep"]]]]), ""),
        ] {
            let items = [pod("1"), bad.clone(), pod("3")];
            agree::<PodView>(&items).unwrap();
            let list = json!({"metadata": {}, "items": items}).to_string();
            let page = page::<PodView>(&list);
            let told: Vec<_> = page
                .iter()
                .map(|seen| (matches!(seen, Decoded::Good(_)), seen.meta().name.as_str()))
                .collect();
            assert_eq!(told, [(true, "1"), (false, name), (true, "3")], "{bad}");
        }
    }

    #[test]
    fn what_is_no_object_is_told_by_a_watch_as_it_is() {
        let bookmark = br#"{"type":"BOOKMARK","object":{"kind":"Pod","apiVersion":"v1","metadata":{"resourceVersion":"12","creationTimestamp":null}}}"#;
        assert!(
            matches!(event::<PodView>(bookmark), Ok(WatchEvent::Bookmark(b)) if b.metadata.resource_version == "12")
        );
        let error = br#"{"type":"ERROR","object":{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"too old","reason":"Expired","code":410}}"#;
        assert!(
            matches!(event::<PodView>(error), Ok(WatchEvent::Error(status)) if status.code == 410)
        );
        for broken in [
            &b"{\"type\":\"ADDED\",\"object\":{\"metadata\""[..],
            b"",
            b"\n",
            b"no",
        ] {
            assert!(event::<PodView>(broken).is_err());
        }
    }
}
