//! The chart by itself: what it says, what it refuses, what it makes.

use crate::{
    file,
    helm::{REQUIRED, chart, find, helm, objects, rendered, template},
};
use clap::{CommandFactory, Parser};
use serde_json::{Value, json};
use std::collections::BTreeSet;

fn container(objects: &[Value]) -> &Value {
    &find(objects, "Deployment", "shipbell")["spec"]["template"]["spec"]["containers"][0]
}

fn variable<'a>(objects: &'a [Value], name: &str) -> &'a Value {
    let all = container(objects)["env"].as_array().unwrap();
    all.iter()
        .find(|variable| variable["name"] == name)
        .map_or(&Value::Null, |variable| &variable["value"])
}

/// Everything that can be turned on.
const EVERYTHING: [&str; 28] = [
    "--set=org=acme",
    "--set=image.digest=sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
    "--set=imagePullSecrets[0].name=registry",
    "--set=defaultEnvironment=false",
    "--set=settingsNamespaces={team-a,shipbell,team-b}",
    "--set=outbound.allow={10.0.0.0/8,hooks.internal.example.com}",
    "--set=proxy.https=http://proxy.example.com:3128",
    "--set=proxy.http=http://proxy.example.com:3128",
    "--set=proxy.noProxy={.internal.example.com,10.0.0.0/8}",
    "--set=extraCA.configMap=authorities",
    "--set=externalUrl=https://shipbell.example.com",
    "--set=api.behindAuthenticatingProxy=true",
    "--set=approvals.tieReviewerToUser=true",
    "--set=approvals.bots={shipbell:approval-bots,the \"other\" bots}",
    "--set=log.level=shipbell=debug\\,info",
    "--set=log.format=json",
    "--set=podAnnotations.note=x",
    "--set=podLabels.team=platform",
    "--set=nodeSelector.disk=ssd",
    "--set=tolerations[0].operator=Exists",
    "--set-json=affinity={\"nodeAffinity\": {}}",
    "--set=priorityClassName=high",
    "--set=extraEnv[0].name=SHIPBELL_LISTEN,extraEnv[0].value=[::]:8080",
    "--set=commonLabels.team=platform",
    "--set=serviceMonitor.enabled=true,serviceMonitor.interval=30s,serviceMonitor.labels.release=prometheus",
    "--set=networkPolicy.enabled=true",
    "--set-json=networkPolicy.metricsFrom=[{\"namespaceSelector\": {}}]",
    "--set-json=networkPolicy.egress=[{\"ports\": [{\"port\": 443}]}]",
];

#[test]
fn helm_lint_has_no_complaint() {
    let lint = |values: &[&str]| {
        let chart = chart();
        let mut args = vec!["lint", "--strict", &chart];
        args.extend(values);
        helm(&args).unwrap()
    };
    for printed in [
        lint(&REQUIRED),
        lint(&[&REQUIRED[..], &EVERYTHING[..]].concat()),
    ] {
        assert!(
            !printed.contains("[ERROR]") && !printed.contains("[WARNING]"),
            "{printed}"
        );
    }
}

#[test]
fn without_values_the_chart_says_what_to_set_and_how_to_get_an_image() {
    let error = template(&[]).unwrap_err().to_string();
    for part in [
        "clusterName is not set",
        "--set clusterName=aws-prod",
        "image.repository is not set",
        "docker build -t registry.example.com/shipbell:0.1.0 .",
        "docker push registry.example.com/shipbell:0.1.0",
        "--set image.repository=registry.example.com/shipbell --set image.tag=0.1.0",
    ] {
        assert!(error.contains(part), "{part} is missing in {error}");
    }
    for (given, missing) in [
        (REQUIRED[0], "image.repository is not set"),
        (REQUIRED[1], "clusterName is not set"),
    ] {
        let error = template(&[given]).unwrap_err().to_string();
        assert!(error.contains(missing), "{error}");
        assert_eq!(error.matches("is not set").count(), 1, "{error}");
    }
}

#[test]
fn values_that_make_no_sense_are_refused_by_name() {
    for (value, words) in [
        ("--set=clusterNam=x", "'clusterNam' not allowed"),
        ("--set=image.repo=x", "'repo' not allowed"),
        ("--set=clusterName=5", "/clusterName"),
        (
            "--set=clusterName=AWS prod",
            "lower-case letters, digits and dashes",
        ),
        ("--set=clusterName=-a", "clusterName is \"-a\""),
        ("--set=org=a/b", "a part of URLs"),
        (
            "--set=image.repository=registry.example.com/shipbell:1",
            "without scheme, tag and digest",
        ),
        (
            "--set=image.repository=https://registry.example.com/shipbell",
            "without scheme, tag and digest",
        ),
        ("--set=image.tag=a b", "/image/tag"),
        ("--set=image.digest=0123", "/image/digest"),
        ("--set=image.pullPolicy=Sometimes", "/image/pullPolicy"),
        (
            "--set=externalUrl=shipbell.example.com",
            "https://shipbell.example.com",
        ),
        (
            "--set=externalUrl=https://a.example.com/?x=1",
            "without query and fragment",
        ),
        ("--set=settingsNamespaces={Team A}", "/settingsNamespaces/0"),
        ("--set=settingsNamespaces=a", "/settingsNamespaces"),
        ("--set=outbound.allow={a b}", "/outbound/allow/0"),
        ("--set=proxy.https=proxy.example.com:3128", "/proxy/https"),
        ("--set=log.format=xml", "/log/format"),
        ("--set=log.level=", "/log/level"),
        ("--set-string=crds.enabled=yes", "/crds/enabled"),
        ("--set-string=defaultEnvironment=no", "/defaultEnvironment"),
        ("--set=resources.limit.memory=1", "'limit' not allowed"),
        ("--set=extraEnv[0].value=x", "'name'"),
        (
            "--set=extraEnv[0].name=A,extraEnv[0].value=1",
            "/extraEnv/0/value",
        ),
        (
            "--set=extraEnv[0].name=SHIPBELL_ORG,org=a",
            "extraEnv sets SHIPBELL_ORG",
        ),
        (
            "--set=extraCA.configMap=a,extraCA.secret=a",
            "both a ConfigMap and a Secret",
        ),
        (
            "--set=api.behindAuthenticatingProxy=true",
            "externalUrl is not",
        ),
        ("--set=replicas=2", "'replicas' not allowed"),
        (
            "--set-string=approvals.tieReviewerToUser=yes",
            "/approvals/tieReviewerToUser",
        ),
        ("--set=approvals.bots={a,}", "/approvals/bots/1"),
        (
            "--set=approvals.bots={a}",
            "approvals.tieReviewerToUser is not",
        ),
        ("--set-string=rbac.roles=yes", "/rbac/roles"),
    ] {
        let error = template(&[REQUIRED[0], REQUIRED[1], value]).expect_err(value);
        assert!(error.to_string().contains(words), "{value}: {error}");
    }
}

/// Both have the same keys.
fn compare(values: &Value, schema: &Value, path: &str) {
    let Some(properties) = schema["properties"].as_object() else {
        return;
    };
    assert_eq!(schema["additionalProperties"], false, "{path}");
    let has: BTreeSet<_> = values.as_object().unwrap().keys().collect();
    let known: BTreeSet<_> = properties.keys().collect();
    let (unknown, absent): (Vec<_>, Vec<_>) = (
        has.difference(&known).collect(),
        known.difference(&has).collect(),
    );
    assert!(unknown.is_empty(), "{path}: not in the schema: {unknown:?}");
    // Helm's own, and what users may add to what Kubernetes defines.
    let extra = ["global", "claims"];
    assert!(
        absent.iter().all(|key| extra.contains(&key.as_str())),
        "{path}: not in values.yaml: {absent:?}"
    );
    for key in has {
        compare(&values[key], &properties[key], &format!("{path}.{key}"));
    }
}

#[test]
fn every_value_is_explained_and_the_schema_knows_it() {
    let text = file("charts/shipbell/values.yaml");
    let lines: Vec<_> = text.lines().collect();
    for (at, line) in lines.iter().enumerate() {
        let key = line.trim_start();
        let depth = line.len() - key.len();
        // A group explains itself by what is in it; what belongs to the two security contexts is Kubernetes' own.
        let is_group = lines.get(at + 1).is_some_and(|next| {
            next.starts_with(&" ".repeat(depth + 2)) && next.trim_start().starts_with('#')
        });
        let foreign = ["resources", "podSecurityContext", "securityContext"];
        let inside = lines[..at]
            .iter()
            .rev()
            .find(|line| line.starts_with(|c: char| c.is_ascii_lowercase()));
        let inside_foreign =
            depth > 0 && inside.is_some_and(|line| foreign.contains(&line.trim_end_matches(':')));
        if key.starts_with('#') || key.is_empty() || is_group || inside_foreign {
            continue;
        }
        let explained = lines[at - 1].trim_start().starts_with('#');
        assert!(explained, "values.yaml:{}: {line}", at + 1);
    }

    let values: Value = serde_saphyr::from_str(&text).unwrap();
    let schema: Value = serde_json::from_str(&file("charts/shipbell/values.schema.json")).unwrap();
    compare(&values, &schema, "");
}

#[test]
fn the_chart_has_the_version_of_the_operator() {
    let chart: Value = serde_saphyr::from_str(&file("charts/shipbell/Chart.yaml")).unwrap();
    let manifest = file("Cargo.toml");
    let version = manifest
        .lines()
        .find_map(|line| line.strip_prefix("version = "))
        .unwrap()
        .trim_matches('"');
    assert_eq!(chart["version"], version);
    assert_eq!(chart["appVersion"], version);
    let objects = rendered(&[]);
    assert_eq!(
        container(&objects)["image"],
        format!("registry.example.com/shipbell:{version}")
    );
}

#[test]
fn a_digest_wins_over_a_tag() {
    let digest = format!("sha256:{}", "ab".repeat(32));
    let set = format!("--set=image.tag=v9,image.digest={digest}");
    let objects = rendered(&[&set]);
    let image = format!("registry.example.com/shipbell@{digest}");
    assert_eq!(container(&objects)["image"], image);
}

#[test]
fn the_operator_understands_every_variable_that_the_chart_sets() {
    let command = shipbell::config::Flags::command();
    let run = command.find_subcommand("run").unwrap();
    for values in [&[][..], &EVERYTHING[..]] {
        let objects = rendered(values);
        let mut line = vec!["shipbell".to_owned(), "run".to_owned()];
        for variable in container(&objects)["env"].as_array().unwrap() {
            let name = variable["name"].as_str().unwrap();
            let flag = run
                .get_arguments()
                .find(|flag| flag.get_env().is_some_and(|env| env == name));
            let flag = flag.unwrap_or_else(|| panic!("no flag is called {name}"));
            let value = match variable["valueFrom"]["fieldRef"]["fieldPath"].as_str() {
                Some("metadata.namespace") => "shipbell",
                Some("status.podIP") => "10.1.2.3",
                Some(other) => panic!("{name} is {other}"),
                None => variable["value"].as_str().unwrap(),
            };
            line.push(format!("--{}={value}", flag.get_long().unwrap()));
        }
        let read = shipbell::config::Flags::try_parse_from(&line);
        assert!(read.is_ok(), "{line:?}: {}", read.unwrap_err());
    }
}

#[test]
fn what_is_asked_for_is_in_the_deployment() {
    let objects = rendered(&EVERYTHING);
    for (name, value) in [
        ("SHIPBELL_CLUSTER_NAME", "aws-prod"),
        ("SHIPBELL_ORG", "acme"),
        ("SHIPBELL_DEFAULT_ENVIRONMENT", "false"),
        ("SHIPBELL_SECRETS_ROLE", "shipbell-secrets"),
        ("SHIPBELL_SERVICE_ACCOUNT", "shipbell"),
        (
            "SHIPBELL_ALLOW_DESTINATION",
            "10.0.0.0/8,hooks.internal.example.com",
        ),
        ("SHIPBELL_EXTRA_CA_FILE", "/etc/shipbell/ca/ca.crt"),
        ("SHIPBELL_EXTERNAL_URL", "https://shipbell.example.com"),
        ("SHIPBELL_API_BEHIND_AUTHENTICATING_PROXY", "true"),
        ("SHIPBELL_LOG", "shipbell=debug,info"),
        ("SHIPBELL_LOG_FORMAT", "json"),
        ("HTTPS_PROXY", "http://proxy.example.com:3128"),
        ("HTTP_PROXY", "http://proxy.example.com:3128"),
        ("NO_PROXY", ".internal.example.com,10.0.0.0/8"),
        ("SHIPBELL_LISTEN", "[::]:8080"),
    ] {
        assert_eq!(variable(&objects, name), value, "{name}");
    }
    let deployment = find(&objects, "Deployment", "shipbell");
    assert_eq!(deployment["spec"]["replicas"], 1);
    assert_eq!(deployment["spec"]["strategy"], json!({"type": "Recreate"}));
    let template = &deployment["spec"]["template"];
    assert_eq!(template["metadata"]["labels"]["team"], "platform");
    assert_eq!(template["metadata"]["annotations"]["note"], "x");
    let pod = &template["spec"];
    assert_eq!(pod["imagePullSecrets"], json!([{"name": "registry"}]));
    assert_eq!(pod["nodeSelector"], json!({"disk": "ssd"}));
    assert_eq!(pod["tolerations"], json!([{"operator": "Exists"}]));
    assert_eq!(pod["affinity"], json!({"nodeAffinity": {}}));
    assert_eq!(pod["priorityClassName"], "high");
    assert_eq!(pod["enableServiceLinks"], false);
    assert_eq!(pod["volumes"][0]["configMap"]["name"], "authorities");
    let mounted = &container(&objects)["volumeMounts"][0];
    assert_eq!(mounted["mountPath"], "/etc/shipbell/ca");

    let monitor = find(&objects, "ServiceMonitor", "shipbell");
    assert_eq!(monitor["metadata"]["labels"]["release"], "prometheus");
    assert_eq!(monitor["spec"]["endpoints"][0]["interval"], "30s");
    let policy = &find(&objects, "NetworkPolicy", "shipbell")["spec"];
    assert_eq!(policy["policyTypes"], json!(["Ingress", "Egress"]));
    assert_eq!(
        policy["ingress"][0]["from"][0],
        json!({"namespaceSelector": {}})
    );
    assert_eq!(policy["egress"][0]["ports"][0]["port"], 443);
    for object in &objects {
        assert_eq!(object["metadata"]["labels"]["team"], "platform", "{object}");
    }
}

#[test]
fn certificates_come_from_a_secret_as_well() {
    let objects = rendered(&["--set=extraCA.secret=authorities,extraCA.key=bundle.pem"]);
    let pod = &find(&objects, "Deployment", "shipbell")["spec"]["template"]["spec"];
    let items = json!([{"key": "bundle.pem", "path": "bundle.pem"}]);
    assert_eq!(
        pod["volumes"][0]["secret"],
        json!({"secretName": "authorities", "items": items})
    );
    assert_eq!(
        variable(&objects, "SHIPBELL_EXTRA_CA_FILE"),
        "/etc/shipbell/ca/bundle.pem"
    );
}

#[test]
fn without_an_external_url_there_is_no_api() {
    let ports = |objects: &[Value]| -> Vec<String> {
        let service = find(objects, "Service", "shipbell")["spec"]["ports"].clone();
        let policy = &find(objects, "NetworkPolicy", "shipbell")["spec"]["ingress"];
        let names = |list: &Value, key: &str| -> Vec<String> {
            let names = list.as_array().unwrap().iter();
            names
                .map(|port| port[key].as_str().unwrap().to_owned())
                .collect()
        };
        let served = names(&service, "name");
        assert_eq!(names(&container(objects)["ports"], "name"), served);
        assert_eq!(policy.as_array().unwrap().len(), served.len());
        served
    };
    let policy = "--set=networkPolicy.enabled=true";
    assert_eq!(ports(&rendered(&[policy])), ["metrics"]);
    let url = "--set=externalUrl=https://shipbell.example.com";
    assert_eq!(ports(&rendered(&[policy, url])), ["metrics", "api"]);
    assert_eq!(
        variable(&rendered(&[]), "SHIPBELL_API_BEHIND_AUTHENTICATING_PROXY"),
        &Value::Null
    );
}

#[test]
fn the_definitions_are_left_out_or_not_kept_when_the_values_say_so() {
    let definitions = |args: &[&str]| -> Vec<Value> {
        let mut objects = rendered(args);
        objects.retain(|object| object["kind"] == "CustomResourceDefinition");
        objects
    };
    let kept = |objects: &[Value]| -> Vec<Value> {
        let of =
            |object: &Value| object["metadata"]["annotations"]["helm.sh/resource-policy"].clone();
        objects.iter().map(of).collect()
    };
    assert_eq!(kept(&definitions(&[])), ["keep"; 6]);
    assert_eq!(
        kept(&definitions(&["--set=crds.keep=false"])),
        vec![Value::Null; 6]
    );
    assert!(definitions(&["--set=crds.enabled=false"]).is_empty());
    // But for labels and annotations of the chart they are those in crds/.
    for mut object in definitions(&["--set=crds.keep=false"]) {
        let plural = object["spec"]["names"]["plural"].as_str().unwrap();
        let committed = objects(&file(&format!("crds/{plural}.yaml"))).remove(0);
        object["metadata"].as_object_mut().unwrap().remove("labels");
        assert_eq!(object, committed);
    }
}

#[test]
fn there_is_none_of_our_own_objects_in_the_chart() {
    for object in rendered(&EVERYTHING) {
        let version = object["apiVersion"].as_str().unwrap();
        assert!(!version.starts_with("shipbell.dev"), "{object}");
    }
}

#[test]
fn names_follow_the_release() {
    let name = |release: &str, more: &[&str]| {
        let args = [&[release][..], &REQUIRED[..], more].concat();
        let objects = objects(&template(&args).unwrap());
        let deployment = objects.iter().find(|object| object["kind"] == "Deployment");
        deployment.unwrap()["metadata"]["name"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    assert_eq!(name("shipbell", &[]), "shipbell");
    assert_eq!(name("my", &[]), "my-shipbell");
    assert_eq!(name("my", &["--set=fullnameOverride=bell"]), "bell");
    let long = "a-release-of-shipbell-with-a-name-that-is-much-longer";
    assert!(name(long, &[]).len() <= 52);
}

#[test]
fn the_roles_for_those_who_write_and_those_added_to_kubernetes_own_can_be_left_out() {
    let roles = |args: &[&str]| -> BTreeSet<String> {
        let objects = rendered(args);
        let roles = objects.iter().filter(|it| it["kind"] == "ClusterRole");
        roles
            .map(|it| it["metadata"]["name"].as_str().unwrap().to_owned())
            .collect()
    };
    let all = roles(&[]);
    let without = |args: &[&str]| -> Vec<String> {
        let left = roles(args);
        all.difference(&left).cloned().collect()
    };
    assert_eq!(
        without(&["--set=rbac.roles=false"]),
        [
            "shipbell-approver",
            "shipbell-ci",
            "shipbell-platform",
            "shipbell-security"
        ]
    );
    assert_eq!(
        without(&["--set=rbac.aggregate=false"]),
        ["shipbell-edit", "shipbell-view"]
    );
    // Nobody gets one of them by the chart.
    for object in rendered(&[]) {
        if object["kind"].as_str().unwrap().ends_with("RoleBinding") {
            let role = object["roleRef"]["name"].as_str().unwrap();
            assert!(["shipbell", "shipbell-secrets"].contains(&role), "{object}");
        }
    }
}

#[test]
fn a_reviewer_is_tied_to_the_user_only_on_request() {
    let policies = |args: &[&str]| -> Vec<Value> {
        let mut objects = rendered(args);
        objects.retain(|it| it["kind"].as_str().unwrap().starts_with("Validating"));
        objects
    };
    assert!(policies(&[]).is_empty());
    let tie = "--set=approvals.tieReviewerToUser=true";
    let expression = |args: &[&str]| {
        let objects = policies(args);
        assert_eq!(objects.len(), 2);
        objects[0]["spec"]["validations"][0]["expression"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let only = "object.spec.reviewer == request.userInfo.username";
    assert_eq!(expression(&[tie]), only);
    let bots = "--set=approvals.bots={it's,a \"b\"}";
    let groups = r#"exists(g, g in ["it's", "a \"b\""])"#;
    let with_bots = expression(&[tie, bots]);
    assert!(
        with_bots.starts_with(only) && with_bots.contains(groups),
        "{with_bots}"
    );
}

#[test]
fn a_kubernetes_before_1_30_is_refused() {
    let on = |version| template(&[REQUIRED[0], REQUIRED[1], "--kube-version", version]);
    let error = on("1.29.8").unwrap_err().to_string();
    assert!(error.contains(">=1.30.0-0"), "{error}");
    on("1.30.0").unwrap();
}
