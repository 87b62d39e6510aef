//! What the operator may do with the rights that the chart gives it, and no more; and what those rights add to Kubernetes' own roles.

use crate::{
    file,
    helm::{REQUIRED, objects, rendered, template},
    install::asked,
    start, story,
};
use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::authorization::v1::SubjectAccessReview;
use kit::{
    Actor, Cluster, HOME, Receiver, apply,
    cluster::{PATIENCE, runtime},
    eventually, hears,
    stage::{Cast, alone, operator},
};
use kube::{Api, Client, api::PostParams};
use serde_json::{Value, json};
use std::{collections::BTreeSet, fs, time::Duration};

const VERBS: [&str; 8] = [
    "get",
    "list",
    "watch",
    "create",
    "update",
    "patch",
    "delete",
    "deletecollection",
];

/// What is asked for, as `group/resource`: what the operator needs, and what an attacker would like.
const RESOURCES: [&str; 32] = [
    "/pods",
    "/pods/exec",
    "/pods/log",
    "/namespaces",
    "/nodes",
    "/secrets",
    "/configmaps",
    "/serviceaccounts",
    "/serviceaccounts/token",
    "/events",
    "apps/deployments",
    "apps/replicasets",
    "apps/daemonsets",
    "batch/jobs",
    "shipbell.dev/environments",
    "shipbell.dev/environments/status",
    "shipbell.dev/environmentsnapshots",
    "shipbell.dev/notificationsettings",
    "shipbell.dev/notificationsettings/status",
    "shipbell.dev/artifactprovenances",
    "shipbell.dev/artifactprovenances/status",
    "shipbell.dev/artifactapprovals",
    "shipbell.dev/artifactapprovals/status",
    "shipbell.dev/allowedartifacts",
    "shipbell.dev/allowedartifacts/status",
    "events.k8s.io/events",
    "authentication.k8s.io/tokenreviews",
    "authorization.k8s.io/subjectaccessreviews",
    "rbac.authorization.k8s.io/clusterroles",
    "rbac.authorization.k8s.io/rolebindings",
    "coordination.k8s.io/leases",
    "apiextensions.k8s.io/customresourcedefinitions",
];

/// What the operator may do in every namespace.
const EVERYWHERE: [(&str, &[&str]); 15] = [
    ("/pods", &["list", "watch"]),
    ("/namespaces", &["list", "watch"]),
    ("apps/deployments", &["list", "watch"]),
    (
        "shipbell.dev/environments",
        &["get", "list", "watch", "create"],
    ),
    ("shipbell.dev/environments/status", &["patch"]),
    (
        "shipbell.dev/environmentsnapshots",
        &["get", "list", "create", "delete"],
    ),
    (
        "shipbell.dev/notificationsettings",
        &["get", "list", "watch"],
    ),
    (
        "shipbell.dev/notificationsettings/status",
        &["update", "patch"],
    ),
    ("shipbell.dev/artifactprovenances", &["list", "watch"]),
    ("shipbell.dev/artifactprovenances/status", &["patch"]),
    ("shipbell.dev/artifactapprovals", &["list", "watch"]),
    ("shipbell.dev/artifactapprovals/status", &["patch"]),
    ("shipbell.dev/allowedartifacts", &["list", "watch"]),
    ("shipbell.dev/allowedartifacts/status", &["patch"]),
    ("events.k8s.io/events", &["create", "patch"]),
];

/// And to answer those who ask the read API.
const FOR_THE_API: [(&str, &[&str]); 2] = [
    ("authentication.k8s.io/tokenreviews", &["create"]),
    ("authorization.k8s.io/subjectaccessreviews", &["create"]),
];

const RECORDS: &str = "shipbell.dev/artifactprovenances";
const REVIEWS: &str = "shipbell.dev/artifactapprovals";
const ALLOWED: &str = "shipbell.dev/allowedartifacts";

type Rights = BTreeSet<(String, String)>;

fn rights(table: &[(&str, &[&str])]) -> Rights {
    let pairs = table.iter().flat_map(|(resource, verbs)| {
        let pair = |verb: &&str| ((*resource).to_owned(), (*verb).to_owned());
        verbs.iter().map(pair)
    });
    pairs.collect()
}

/// Somebody who asks.
struct Who {
    client: Client,
    user: String,
    groups: Vec<String>,
}

impl Who {
    fn service_account(cluster: &Cluster, namespace: &str, name: &str) -> Self {
        let groups = [
            "system:serviceaccounts".to_owned(),
            format!("system:serviceaccounts:{namespace}"),
            "system:authenticated".to_owned(),
        ];
        Who {
            client: cluster.client(),
            user: format!("system:serviceaccount:{namespace}:{name}"),
            groups: groups.into(),
        }
    }

    fn user(cluster: &Cluster, name: &str) -> Self {
        Who {
            client: cluster.client(),
            user: name.to_owned(),
            groups: vec!["system:authenticated".to_owned()],
        }
    }

    /// Whether the API server would let them; an empty namespace is the cluster as a whole.
    async fn may(&self, verb: &str, resource: &str, namespace: &str, name: &str) -> Result<bool> {
        let (group, resource) = resource.split_once('/').unwrap();
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let review = json!({"metadata": {}, "spec": {
            "user": self.user, "groups": self.groups,
            "resourceAttributes": {
                "verb": verb, "group": group, "resource": resource, "subresource": subresource,
                "namespace": namespace, "name": name,
            },
        }});
        let review: SubjectAccessReview = serde_json::from_value(review)?;
        let api: Api<SubjectAccessReview> = Api::all(self.client.clone());
        let answer = api.create(&PostParams::default(), &review).await?;
        Ok(answer.status.is_some_and(|status| status.allowed))
    }

    /// All that they may do, of what is asked for above.
    async fn all(&self, namespace: &str) -> Result<Rights> {
        let mut all = Rights::new();
        for resource in RESOURCES {
            for verb in VERBS {
                if self.may(verb, resource, namespace, "").await? {
                    all.insert((resource.to_owned(), verb.to_owned()));
                }
            }
        }
        Ok(all)
    }
}

#[test]
fn the_operator_may_do_what_it_does_and_nothing_else() {
    story(async |cluster| {
        let home = cluster.namespace("home").await?;
        let team = cluster.namespace("team").await?;
        let other = cluster.namespace("other").await?;
        let settings = format!("--set=settingsNamespaces={{{team}}}");
        let url = "--set=externalUrl=https://shipbell.example.com";
        let operator = Who::service_account(cluster, &home, "rights-shipbell");
        for more in [&[][..], &[url]] {
            let given = [
                "rights",
                REQUIRED[0],
                REQUIRED[1],
                "-n",
                &home,
                "--set=crds.enabled=false",
                &settings,
            ];
            let yaml = template(&[&given[..], more].concat())?;
            let strictly = ["apply", "--server-side", "--validate=strict", "-f", "-"];
            cluster.plane.kubectl_with_input(&strictly, &yaml).await?;

            let mut everywhere = rights(&EVERYWHERE);
            if !more.is_empty() {
                everywhere.extend(rights(&FOR_THE_API));
            }
            let mut with_secrets = everywhere.clone();
            with_secrets.extend(rights(&[("/secrets", &["get"])]));
            let mut at_home = with_secrets.clone();
            at_home.extend(rights(&[
                ("/configmaps", &["create"]),
                ("coordination.k8s.io/leases", &["create"]),
            ]));
            for (namespace, wanted) in [
                ("", &everywhere),
                (&*other, &everywhere),
                ("kube-system", &everywhere),
                (&*team, &with_secrets),
                (&*home, &at_home),
            ] {
                let found = eventually(PATIENCE, "the rights", async || {
                    let found = operator.all(namespace).await?;
                    let many: Vec<_> = found.difference(wanted).collect();
                    let few: Vec<_> = wanted.difference(&found).collect();
                    ensure!(found == *wanted, "too many: {many:?}, too few: {few:?}");
                    Ok(())
                });
                found
                    .await
                    .map_err(|error| error.context(format!("in {namespace:?}")))?;
            }
        }
        // The marker of the default Environment and the Lease, by their names alone.
        let (marker, lease) = ("shipbell-default-environment", "shipbell");
        let (configmaps, leases) = ("/configmaps", "coordination.k8s.io/leases");
        for (verb, resource, name, namespace, wanted) in [
            ("get", configmaps, marker, &home, true),
            ("get", configmaps, "kube-root-ca.crt", &home, false),
            ("update", configmaps, marker, &home, false),
            ("delete", configmaps, marker, &home, false),
            ("get", configmaps, marker, &team, false),
            ("get", leases, lease, &home, true),
            ("update", leases, lease, &home, true),
            ("update", leases, "other", &home, false),
            ("delete", leases, lease, &home, false),
            ("get", leases, lease, &team, false),
        ] {
            let may = operator.may(verb, resource, namespace, name).await?;
            ensure!(
                may == wanted,
                "{verb} {resource} {name} in {namespace}: {may}"
            );
        }
        // As a user would ask.
        let account = format!("--as={}", operator.user);
        let ask = |namespace| ["auth", "can-i", "get", "secrets", "-n", namespace, &account];
        ensure!(cluster.plane.kubectl(&ask(&team)).await?.trim() == "yes");
        cluster.plane.kubectl_fails(&ask(&other), "").await?;
        Ok(())
    });
}

#[test]
fn a_binding_made_by_hand_as_the_operator_advises_opens_a_namespace_and_does_not_hinder_the_chart()
{
    story(async |cluster| {
        let home = cluster.namespace("advised").await?;
        let team = cluster.namespace("advised-team").await?;
        let given = |more: &[&str]| {
            let args = [
                "advised",
                REQUIRED[0],
                REQUIRED[1],
                "-n",
                &home,
                "--set=crds.enabled=false",
            ];
            template(&[&args[..], more].concat())
        };
        apply(&cluster.client(), given(&[])?.as_str()).await?;
        let operator = Who::service_account(cluster, &home, "advised-shipbell");
        ensure!(!operator.may("get", "/secrets", &team, "").await?);
        let account = format!("--serviceaccount={home}:advised-shipbell");
        let role = "--clusterrole=advised-shipbell-secrets";
        let by_hand = [
            "-n",
            &team,
            "create",
            "rolebinding",
            "shipbell-secrets",
            role,
            &account,
        ];
        cluster.plane.kubectl(&by_hand).await?;
        eventually(PATIENCE, "the right to read secrets", async || {
            operator.may("get", "/secrets", &team, "").await
        })
        .await?;
        // Helm refuses to take over what it has not made, so the chart's binding has another name.
        let settings = format!("--set=settingsNamespaces={{{team}}}");
        let yaml = given(&[&settings])?;
        ensure!(yaml.contains("name: advised-shipbell-settings"), "{yaml}");
        ensure!(!yaml.contains("name: shipbell-secrets\n"), "{yaml}");
        Ok(())
    });
}

#[test]
fn a_secret_that_may_not_be_read_shows_on_the_setting_with_the_line_that_mends_it() {
    alone(async |cluster| {
        let given = [
            "shipbell",
            REQUIRED[0],
            REQUIRED[1],
            "-n",
            HOME,
            "--set=crds.enabled=false",
        ];
        apply(&cluster.client(), template(&given)?.as_str()).await?;
        let kubeconfig = cluster
            .plane
            .service_account_kubeconfig(HOME, "shipbell")
            .await?;
        let cast = Cast {
            kubeconfig: Some(kubeconfig),
            ..Cast::default()
        };
        let _operator = operator(cluster, &cast).await?;
        let actor = Actor::new(cluster, "unbound").await?;
        let receiver = Receiver::start();
        actor.secret("hook", &receiver.url("/hook")).await?;
        actor
            .setting("hook", "webhook: {urlFrom: {secretKeyRef: {name: hook}}}")
            .await?;
        let message = actor
            .condition("hook", "Ready", "False SecretForbidden")
            .await?;
        actor.starts("web").await?;
        actor
            .status_when("hook", "one event waits", |it| it.pending == Some(1))
            .await?;

        // To the letter. It heals by itself, within seconds.
        let (_, line) = message.split_once("or kubectl ").context(message.clone())?;
        let line: Vec<_> = line.split_whitespace().collect();
        cluster.plane.kubectl(&line).await?;
        receiver.wait_for_count(Duration::from_secs(20), 1).await?;
        hears(&receiver, &["STARTED web:v1 0 to 1"]).await?;
        actor.condition("hook", "Ready", "True Valid").await?;
        Ok(())
    });
}

#[test]
fn the_roles_of_the_chart_have_no_wildcards() {
    for object in rendered(&["--set=externalUrl=https://shipbell.example.com"]) {
        let kind = object["kind"].as_str().unwrap();
        if kind.ends_with("Role") {
            let rules = object["rules"].to_string();
            assert!(
                !rules.contains('*') && !rules.contains("escalate"),
                "{object}"
            );
        }
    }
}

#[test]
fn those_who_may_view_or_edit_a_namespace_may_view_or_edit_its_settings() {
    story(async |cluster| {
        let home = cluster.namespace("aggregate").await?;
        let team = cluster.namespace("aggregate-team").await?;
        let yaml = template(&[
            "aggregate",
            REQUIRED[0],
            REQUIRED[1],
            "-n",
            &home,
            "--set=crds.enabled=false",
        ])?;
        apply(&cluster.client(), yaml.as_str()).await?;
        let bind = |kind: &str, role: &str, user: &str| -> Value {
            json!({
                "apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind,
                "metadata": {"name": format!("aggregate-{role}-{user}"), "namespace": (kind == "RoleBinding").then_some(&team)},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
                "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
            })
        };
        let bindings = vec![
            bind("RoleBinding", "view", "viewer"),
            bind("RoleBinding", "edit", "editor"),
            bind("RoleBinding", "admin", "owner"),
            bind("ClusterRoleBinding", "view", "onlooker"),
        ];
        apply(&cluster.client(), bindings).await?;
        let settings = "shipbell.dev/notificationsettings";
        let [viewer, editor, admin, onlooker] =
            ["viewer", "editor", "owner", "onlooker"].map(|name| Who::user(cluster, name));
        let cases = [
            (&viewer, "list", settings, &*team, true),
            (&viewer, "create", settings, &*team, false),
            (&viewer, "list", settings, &*home, false),
            (&viewer, "get", "/secrets", &*team, false),
            (&editor, "list", settings, &*team, true),
            (&editor, "create", settings, &*team, true),
            (&editor, "delete", settings, &*team, true),
            (&editor, "patch", settings, &*home, false),
            (
                &editor,
                "update",
                "shipbell.dev/notificationsettings/status",
                &*team,
                false,
            ),
            (&editor, "create", "shipbell.dev/environments", "", false),
            (
                &editor,
                "create",
                "shipbell.dev/environmentsnapshots",
                "",
                false,
            ),
            // What makes an environment compliant may be read by everybody, and is written by those who were given that.
            (&viewer, "list", RECORDS, &*team, true),
            (&viewer, "list", REVIEWS, &*team, true),
            (&viewer, "create", REVIEWS, &*team, false),
            (&editor, "create", RECORDS, &*team, false),
            (&editor, "patch", RECORDS, &*team, false),
            (&editor, "delete", RECORDS, &*team, false),
            (&editor, "create", REVIEWS, &*team, false),
            (&editor, "delete", REVIEWS, &*team, false),
            (&admin, "list", REVIEWS, &*team, true),
            (&admin, "create", RECORDS, &*team, false),
            (&admin, "create", REVIEWS, &*team, false),
            (&admin, "create", ALLOWED, "", false),
            (&onlooker, "list", ALLOWED, "", true),
            (&onlooker, "list", RECORDS, &*home, true),
            (&onlooker, "create", ALLOWED, "", false),
            (&onlooker, "list", "shipbell.dev/environments", "", true),
            (
                &onlooker,
                "get",
                "shipbell.dev/environmentsnapshots",
                "",
                true,
            ),
            (
                &onlooker,
                "delete",
                "shipbell.dev/environmentsnapshots",
                "",
                false,
            ),
        ];
        for (who, verb, resource, namespace, wanted) in cases {
            let what = format!(
                "{} to {verb} {resource} in {namespace:?}: {wanted}",
                who.user
            );
            // Kubernetes adds to its roles a moment later.
            eventually(PATIENCE, &what, async || {
                Ok::<_, anyhow::Error>(who.may(verb, resource, namespace, "").await? == wanted)
            })
            .await?;
        }
        // Nor can a namespace's owner take the role of CI.
        let bind = [
            "create",
            "rolebinding",
            "mine",
            "--clusterrole=aggregate-shipbell-ci",
            "--user=owner",
            "--as=owner",
            "-n",
            &team,
        ];
        let refused = cluster.plane.kubectl_fails(&bind, "").await?;
        ensure!(
            refused.contains("attempting to grant RBAC permissions not currently held"),
            "{refused}"
        );
        Ok(())
    });
}

#[test]
fn each_who_writes_a_kind_may_write_that_kind_and_no_other() {
    const WRITE: &[&str] = &[
        "get", "list", "watch", "create", "update", "patch", "delete",
    ];
    story(async |cluster| {
        let home = cluster.namespace("writers").await?;
        let trusted = cluster.namespace("writers-ci").await?;
        let yaml = template(&[
            "writers",
            REQUIRED[0],
            REQUIRED[1],
            "-n",
            &home,
            "--set=crds.enabled=false",
        ])?;
        apply(&cluster.client(), yaml.as_str()).await?;
        for (role, clusterwide, wanted) in [
            (
                "ci",
                false,
                &[(RECORDS, &["get", "create", "patch"][..])][..],
            ),
            (
                "approver",
                false,
                &[(REVIEWS, &["get", "list", "create"][..])],
            ),
            ("security", true, &[(ALLOWED, WRITE)]),
            (
                "platform",
                true,
                &[
                    ("shipbell.dev/environments", WRITE),
                    ("shipbell.dev/notificationsettings", WRITE),
                ],
            ),
        ] {
            let user = format!("writer-{role}");
            let by = [
                format!("--clusterrole=writers-shipbell-{role}"),
                format!("--user={user}"),
            ];
            let kind = if clusterwide {
                "clusterrolebinding"
            } else {
                "rolebinding"
            };
            let mut bind = vec!["create", kind, &user, &by[0], &by[1]];
            if !clusterwide {
                bind.extend(["-n", &trusted]);
            }
            cluster.plane.kubectl(&bind).await?;
            let who = Who::user(cluster, &user);
            let elsewhere = if clusterwide {
                rights(wanted)
            } else {
                Rights::new()
            };
            for (namespace, wanted) in [(&trusted, rights(wanted)), (&home, elsewhere)] {
                eventually(PATIENCE, &format!("{user} in {namespace}"), async || {
                    let found = who.all(namespace).await?;
                    ensure!(found == wanted, "{found:?}, not {wanted:?}");
                    Ok(())
                })
                .await?;
            }
        }
        Ok(())
    });
}

/// What the API server's audit log says that somebody has asked of these kinds.
fn used(cluster: &Cluster, user: &str, resources: &[&str]) -> Result<Rights> {
    let log = fs::read_to_string(cluster.plane.audit_log())?;
    let mut used = Rights::new();
    for line in log.lines().filter(|line| line.contains(user)) {
        let entry: Value = serde_json::from_str(line)?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let object = &entry["objectRef"];
        let mut resource = format!(
            "{}/{}",
            text(&object["apiGroup"]),
            text(&object["resource"])
        );
        if !resources.contains(&resource.as_str()) || entry["user"]["username"] != user {
            continue;
        }
        if let Some(part) = object["subresource"].as_str() {
            resource = format!("{resource}/{part}");
        }
        used.insert((resource, text(&entry["verb"])));
    }
    Ok(used)
}

#[test]
fn the_operator_uses_every_right_that_it_has_on_what_is_said_of_images_and_is_refused_none() {
    let life = async {
        let cluster = start().await?;
        kit::stage::install(&cluster).await?;
        let client = cluster.client();
        let given = [
            "shipbell",
            REQUIRED[0],
            REQUIRED[1],
            "-n",
            HOME,
            "--set=crds.enabled=false",
        ];
        apply(&client, template(&given)?.as_str()).await?;
        let kubeconfig = cluster
            .plane
            .service_account_kubeconfig(HOME, "shipbell")
            .await?;
        let cast = Cast {
            kubeconfig: Some(kubeconfig),
            ..Cast::default()
        };
        let operator = operator(&cluster, &cast).await?;
        let trusted = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "ci"}});
        apply(&client, trusted).await?;
        for example in [
            "environment-compliance",
            "provenance",
            "approval",
            "allowed-artifact",
        ] {
            let object = objects(&file(&format!("examples/{example}.yaml")));
            apply(&client, object).await?;
        }
        let ready = "{.status.conditions[?(@.type=='Ready')].reason}";
        for (object, path, wanted) in [
            ("shipprov/runner-1ac1570", ready, "Recorded"),
            ("shipprov/runner-1ac1570", "{.status.state}", "Compliant"),
            ("shipappr/runner-42", ready, "Numbered"),
            ("shipappr/runner-42", "{.status.number}", "42"),
            ("shipallow/nginx-1.27", ready, "Active"),
            ("shipallow/nginx-1.27", "{.status.announced[*]}", "aws-prod"),
            // Nothing runs there.
            ("shipenv/aws-prod", "{.status.compliance}", "Compliant"),
        ] {
            eventually(PATIENCE, &format!("{object} {path}"), async || {
                let path = format!("-o=jsonpath={path}");
                let args = ["get", object, "-n", "ci", &path];
                let found = cluster.plane.kubectl(&args).await?;
                ensure!(found == wanted, "{found:?}, not {wanted}");
                Ok(())
            })
            .await
            .with_context(|| operator.log_text())?;
        }
        operator.terminate(PATIENCE).await?;

        let user = format!("system:serviceaccount:{HOME}:shipbell");
        let (count, refused) = asked(&cluster, &user)?;
        ensure!(count > 10 && refused.is_empty(), "{count}: {refused:?}");
        let kinds = [RECORDS, REVIEWS, ALLOWED];
        let given = rights(&EVERYWHERE);
        let given = given
            .into_iter()
            .filter(|(resource, _)| kinds.iter().any(|kind| resource.starts_with(kind)));
        let (given, used) = (given.collect::<Rights>(), used(&cluster, &user, &kinds)?);
        ensure!(used == given, "it used {used:?} of {given:?}");
        anyhow::Ok(())
    };
    if let Err(error) = runtime().block_on(life) {
        panic!("{error:#}");
    }
}
