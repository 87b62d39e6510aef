//! The chart by itself: what it says, what it refuses, what it makes.

use crate::{
    file,
    helm::{REQUIRED, chart, find, helm, objects, rendered, template},
};
use clap::{CommandFactory, Parser};
use expect_test::expect_file;
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
pub const EVERYTHING: [&str; 43] = [
    "--set=org=acme",
    "--set=image.digest=sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
    "--set=imagePullSecrets[0].name=registry",
    "--set=defaultEnvironment=false",
    "--set=settingsNamespaces={team-a,shipbell,team-b}",
    "--set-json=outbound.allow=[\"10.0.0.0/8\", \"hooks.internal.example.com\", {\"to\": \"10.20.0.0/16\", \"namespaces\": [\"team-a\", \"team-b\"]}]",
    "--set=proxy.https=http://proxy.example.com:3128",
    "--set=proxy.http=http://proxy.example.com:3128",
    "--set=proxy.noProxy={.internal.example.com,10.0.0.0/8}",
    "--set=extraCA.configMap=authorities",
    "--set=externalUrl=https://shipbell.example.com",
    "--set=api.behindAuthenticatingProxy=true,api.tokenAudience=readers",
    "--set=api.proxySecret.name=proxy",
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
    "--set-json=topologySpreadConstraints=[{\"maxSkew\": 1, \"topologyKey\": \"topology.kubernetes.io/zone\", \"whenUnsatisfiable\": \"ScheduleAnyway\"}]",
    "--set-json=dnsConfig={\"options\": [{\"name\": \"ndots\", \"value\": \"2\"}]}",
    "--set-json=hostAliases=[{\"ip\": \"10.0.0.5\", \"hostnames\": [\"hooks.internal.example.com\"]}]",
    "--set=extraEnv[0].name=SHIPBELL_LISTEN,extraEnv[0].value=[::]:8080",
    "--set-json=extraVolumes=[{\"name\": \"cache\", \"emptyDir\": {}}]",
    "--set-json=extraVolumeMounts=[{\"name\": \"cache\", \"mountPath\": \"/cache\"}]",
    "--set-json=extraContainers=[{\"name\": \"proxy\", \"image\": \"registry.example.com/proxy:1\"}]",
    "--set-json=extraObjects=[{\"apiVersion\": \"v1\", \"kind\": \"ConfigMap\", \"metadata\": {\"name\": \"{{ .Release.Name }}-extra\", \"labels\": {\"team\": \"platform\"}}}, \"apiVersion: v1\\nkind: ConfigMap\\nmetadata: {name: text, labels: {team: platform}}\"]",
    "--set=podDisruptionBudget.enabled=true",
    "--set=ingress.enabled=true,ingress.className=nginx,ingress.tlsSecret=shipbell-tls",
    "--set=httpRoute.enabled=true,httpRoute.parentRefs[0].name=public,httpRoute.parentRefs[0].namespace=gateways",
    "--set-json=serviceMonitor.relabelings=[{\"action\": \"labeldrop\", \"regex\": \"pod\"}]",
    "--set-json=serviceMonitor.metricRelabelings=[{\"action\": \"labeldrop\", \"regex\": \"kind\"}]",
    "--set=prometheusRule.enabled=true,prometheusRule.labels.release=prometheus,prometheusRule.alertLabels.team=platform",
    "--set=dashboard.enabled=true,dashboard.annotations.grafana_folder=Shipbell",
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
        (
            "--set=externalUrl=https://a.example.com,api.behindAuthenticatingProxy=true",
            "every pod of the cluster could read all",
        ),
        (
            "--set=externalUrl=https://a.example.com,api.behindAuthenticatingProxy=true,networkPolicy.enabled=true",
            "apiFrom:",
        ),
        (
            "--set-json=externalUrl=\"https://a.example.com\",api.behindAuthenticatingProxy=true,networkPolicy.apiFrom=[{\"podSelector\": {}}]",
            "networkPolicy: {enabled: true",
        ),
        (
            "--set=externalUrl=https://a.example.com,api.proxySecret.name=proxy",
            "api.behindAuthenticatingProxy is not",
        ),
        ("--set=api.tokenAudience=", "/api/tokenAudience"),
        ("--set=api.tokenAudience=a b", "/api/tokenAudience"),
        (
            "--set-string=api.acceptClusterTokens=yes",
            "/api/acceptClusterTokens",
        ),
        ("--set=api.acceptClusterTokens=true", "externalUrl is not"),
        (
            "--set=externalUrl=https://a.example.com,api.acceptClusterTokens=true,api.behindAuthenticatingProxy=true,api.proxySecret.name=proxy",
            "no tokens are asked for",
        ),
        ("--set=ingress.enabled=true", "externalUrl is not"),
        ("--set=httpRoute.enabled=true", "externalUrl is not"),
        (
            "--set=httpRoute.enabled=true,externalUrl=https://a.example.com",
            "name the Gateway",
        ),
        (
            "--set=ingress.enabled=true,externalUrl=https://a.example.com/shipbell",
            "with a path",
        ),
        (
            "--set=ingress.enabled=true,externalUrl=https://10.0.0.1",
            "need a host name",
        ),
        (
            "--set-json=outbound.allow=[{\"to\": \"10.0.0.0/8\"}]",
            "/outbound/allow/0",
        ),
        (
            "--set-json=outbound.allow=[{\"to\": \"10.0.0.0/8\", \"namespaces\": []}]",
            "/outbound/allow/0",
        ),
        (
            "--set=outbound.allow={10.0.0.0/8@team-a}",
            "/outbound/allow/0",
        ),
        (
            "--set=podDisruptionBudget.maxUnavailable=0",
            "/podDisruptionBudget/maxUnavailable",
        ),
        (
            "--set=podDisruptionBudget.minAvailable=1",
            "'minAvailable' not allowed",
        ),
        (
            "--set=service.ipFamilyPolicy=Both",
            "/service/ipFamilyPolicy",
        ),
        ("--set=fullnameOverride=1bell", "/fullnameOverride"),
        ("--set=replicas=-1", "/replicas"),
        ("--set-string=replicas=2", "/replicas"),
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
        // A group explains itself by what is in it; what belongs to these four is Kubernetes' own.
        let is_group = lines.get(at + 1).is_some_and(|next| {
            next.starts_with(&" ".repeat(depth + 2)) && next.trim_start().starts_with('#')
        });
        let foreign = [
            "resources",
            "podSecurityContext",
            "securityContext",
            "topologySpreadConstraints",
        ];
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
                Some("metadata.uid") => "6dd5f4a6-6a4c-4e5c-9f8c-3f6c1d0f4a11",
                Some("status.podIPs") => "10.1.2.3,fd00::3",
                Some(other) => panic!("{name} is {other}"),
                None if variable["valueFrom"]["secretKeyRef"].is_object() => "0123456789abcdef",
                None => variable["value"].as_str().unwrap(),
            };
            line.push(format!("--{}={value}", flag.get_long().unwrap()));
        }
        let read = shipbell::config::Flags::try_parse_from(&line);
        assert!(read.is_ok(), "{line:?}: {}", read.unwrap_err());
    }
}

#[test]
fn the_test_of_a_release_is_a_command_of_the_operators_own_image_and_may_reach_it() {
    let objects = rendered(&[]);
    let pod = find(&objects, "Pod", "shipbell-test");
    assert_eq!(pod["metadata"]["annotations"]["helm.sh/hook"], "test");
    let test = &pod["spec"]["containers"][0];
    assert_eq!(test["image"], container(&objects)["image"]);
    let mut line = vec!["shipbell".to_owned()];
    line.extend(serde_json::from_value::<Vec<String>>(test["args"].clone()).unwrap());
    let command = shipbell::config::Flags::command();
    let command = command.find_subcommand(&line[1]).unwrap();
    for variable in test["env"].as_array().unwrap() {
        let (name, value) = (&variable["name"], variable["value"].as_str().unwrap());
        let flag = command.get_arguments().find(|flag| {
            flag.get_env()
                .is_some_and(|env| *name == env.to_str().unwrap())
        });
        let flag = flag.unwrap_or_else(|| panic!("no flag is called {name}"));
        line.push(format!("--{}={value}", flag.get_long().unwrap()));
    }
    let read = shipbell::config::Flags::try_parse_from(&line);
    assert!(read.is_ok(), "{line:?}: {}", read.unwrap_err());
    // The operator may send there, for settings of this namespace alone; the Service leads to the pod and to no other.
    assert_eq!(
        variable(&objects, "SHIPBELL_ALLOW_DESTINATION"),
        "shipbell-test.shipbell.svc@shipbell"
    );
    let selector = |name| find(&objects, "Service", name)["spec"]["selector"].clone();
    let selects = |name, labels: &Value| {
        let selector = selector(name);
        selector
            .as_object()
            .unwrap()
            .iter()
            .all(|(key, value)| labels[key] == *value)
    };
    let labels = &pod["metadata"]["labels"];
    assert!(selects("shipbell-test", labels) && !selects("shipbell", labels));
    let of_the_operator =
        &find(&objects, "Deployment", "shipbell")["spec"]["template"]["metadata"]["labels"];
    assert!(!selects("shipbell-test", of_the_operator));
    // Without the test nothing is open.
    let without = rendered(&["--set=test.enabled=false"]);
    assert_eq!(
        variable(&without, "SHIPBELL_ALLOW_DESTINATION"),
        &Value::Null
    );
    assert!(without.iter().all(|object| object["kind"] != "Pod"));
}

/// The paths of all values, but for those inside of Kubernetes' own objects and of labels.
fn paths(values: &Value, path: &str, found: &mut Vec<String>) {
    let foreign = [
        "resources",
        "podSecurityContext",
        "securityContext",
        "labels",
    ];
    for (key, value) in values.as_object().unwrap() {
        let path = if path.is_empty() {
            key.clone()
        } else {
            format!("{path}.{key}")
        };
        if value.is_object() && !foreign.contains(&key.as_str()) {
            paths(value, &path, found);
        }
        found.push(path);
    }
}

#[test]
fn a_value_that_is_null_or_empty_is_its_default() {
    let values: Value = serde_saphyr::from_str(&file("charts/shipbell/values.yaml")).unwrap();
    let mut all = vec![];
    paths(&values, "", &mut all);
    all.retain(|path| !["clusterName", "image", "image.repository"].contains(&path.as_str()));
    assert!(all.len() > 80, "{all:?}");
    let plain = rendered(&[]);
    // Each value by itself, one group after the other, and all groups of a file left empty.
    let set: Vec<_> = all
        .iter()
        .map(|path| format!("--set={path}=null"))
        .collect();
    let (groups, leaves): (Vec<_>, Vec<_>) = set.iter().map(String::as_str).partition(|set| {
        let path = set["--set=".len()..].trim_end_matches("=null");
        all.iter()
            .any(|other| other.starts_with(&format!("{path}.")))
    });
    assert!(groups.len() > 15, "{groups:?}");
    assert_eq!(rendered(&leaves), plain);
    for group in groups {
        assert_eq!(rendered(&[group]), plain, "{group}");
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("values.yaml");
    let groups = values.as_object().unwrap().keys();
    let groups = groups.filter(|key| !["clusterName", "image"].contains(&key.as_str()));
    let empty: Vec<_> = groups.map(|key| format!("{key}:")).collect();
    std::fs::write(&path, empty.join("\n")).unwrap();
    assert_eq!(rendered(&["-f", path.to_str().unwrap()]), plain);
}

#[test]
fn the_defaults_in_the_templates_are_those_of_the_values() {
    let values: Value = serde_saphyr::from_str(&file("charts/shipbell/values.yaml")).unwrap();
    let values = serde_json::to_string_pretty(&values).unwrap();
    expect_file!["../../charts/shipbell/templates/_defaults.tpl"].assert_eq(&format!(
        "{{{{- /* Generated from values.yaml; do not edit. */}}}}\n{{{{- define \"shipbell.defaults\" -}}}}\n{values}\n{{{{- end }}}}\n"
    ));
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
            "10.0.0.0/8,hooks.internal.example.com,10.20.0.0/16@team-a+team-b,shipbell-test.shipbell.svc@shipbell",
        ),
        ("SHIPBELL_EXTRA_CA_FILE", "/etc/shipbell/ca/ca.crt"),
        ("SHIPBELL_EXTERNAL_URL", "https://shipbell.example.com"),
        ("SHIPBELL_API_BEHIND_AUTHENTICATING_PROXY", "true"),
        ("SHIPBELL_API_TOKEN_AUDIENCE", "readers"),
        ("SHIPBELL_API_ACCEPT_CLUSTER_TOKENS", "false"),
        ("SHIPBELL_LOG", "shipbell=debug,info"),
        ("SHIPBELL_LOG_FORMAT", "json"),
        ("HTTPS_PROXY", "http://proxy.example.com:3128"),
        ("HTTP_PROXY", "http://proxy.example.com:3128"),
        (
            "NO_PROXY",
            ".internal.example.com,10.0.0.0/8,shipbell-test.shipbell.svc",
        ),
        ("SHIPBELL_LISTEN", "[::]:8080"),
    ] {
        assert_eq!(variable(&objects, name), value, "{name}");
    }
    let deployment = find(&objects, "Deployment", "shipbell");
    assert_eq!(deployment["spec"]["replicas"], 2);
    let rolling = json!({"maxSurge": 1, "maxUnavailable": 0});
    assert_eq!(
        deployment["spec"]["strategy"],
        json!({"type": "RollingUpdate", "rollingUpdate": rolling})
    );
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

    assert_eq!(pod["volumes"][1], json!({"name": "cache", "emptyDir": {}}));
    assert_eq!(
        container(&objects)["volumeMounts"][1]["mountPath"],
        "/cache"
    );
    assert_eq!(pod["containers"][1]["name"], "proxy");
    assert_eq!(pod["dnsConfig"]["options"][0]["name"], "ndots");
    assert_eq!(pod["hostAliases"][0]["ip"], "10.0.0.5");
    let spread = &pod["topologySpreadConstraints"][0];
    assert_eq!(spread["topologyKey"], "topology.kubernetes.io/zone");
    let own = &deployment["spec"]["selector"];
    assert_eq!(&spread["labelSelector"], own);
    let secret = json!({"secretKeyRef": {"name": "proxy", "key": "secret"}});
    let all = container(&objects)["env"].as_array().unwrap();
    assert!(
        all.iter()
            .any(|it| it["name"] == "SHIPBELL_API_PROXY_SECRET" && it["valueFrom"] == secret)
    );

    let budget = &find(&objects, "PodDisruptionBudget", "shipbell")["spec"];
    assert_eq!(
        (&budget["maxUnavailable"], &budget["selector"]),
        (&json!(1), own)
    );
    let ingress = &find(&objects, "Ingress", "shipbell")["spec"];
    assert_eq!(ingress["ingressClassName"], "nginx");
    assert_eq!(ingress["rules"][0]["host"], "shipbell.example.com");
    assert_eq!(
        ingress["rules"][0]["http"]["paths"][0]["backend"]["service"],
        json!({"name": "shipbell", "port": {"name": "api"}})
    );
    assert_eq!(ingress["tls"][0]["secretName"], "shipbell-tls");
    let route = &find(&objects, "HTTPRoute", "shipbell")["spec"];
    assert_eq!(route["parentRefs"][0]["name"], "public");
    assert_eq!(route["hostnames"], json!(["shipbell.example.com"]));
    assert_eq!(
        route["rules"][0]["backendRefs"],
        json!([{"name": "shipbell", "port": 80}])
    );
    find(&objects, "ConfigMap", "shipbell-extra");
    find(&objects, "ConfigMap", "text");

    let monitor = find(&objects, "ServiceMonitor", "shipbell");
    let endpoint = &monitor["spec"]["endpoints"][0];
    assert_eq!(endpoint["relabelings"][0]["regex"], "pod");
    assert_eq!(endpoint["metricRelabelings"][0]["regex"], "kind");
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
fn a_route_removes_the_path_of_the_external_url_which_the_operator_does_not_know() {
    let objects = rendered(&[
        "--set=externalUrl=https://example.com:8443/shipbell/",
        "--set=httpRoute.enabled=true,httpRoute.parentRefs[0].name=public",
    ]);
    let route = &find(&objects, "HTTPRoute", "shipbell")["spec"];
    assert_eq!(route["hostnames"], json!(["example.com"]));
    let rule = &route["rules"][0];
    assert_eq!(rule["matches"][0]["path"]["value"], "/shipbell");
    let rewrite = json!({"type": "ReplacePrefixMatch", "replacePrefixMatch": "/"});
    assert_eq!(rule["filters"][0]["urlRewrite"]["path"], rewrite);
}

#[test]
fn on_openshift_the_namespace_s_own_users_are_used_unless_the_values_name_others() {
    let users = |args: &[&str]| {
        let objects = rendered(args);
        let of = |spec: &Value| {
            let context = &spec["securityContext"];
            assert_eq!(context["runAsNonRoot"], true);
            [context["runAsUser"].clone(), context["runAsGroup"].clone()]
        };
        let operator = of(&find(&objects, "Deployment", "shipbell")["spec"]["template"]["spec"]);
        assert_eq!(
            of(&find(&objects, "Pod", "shipbell-test")["spec"]),
            operator
        );
        operator
    };
    let openshift = "--api-versions=security.openshift.io/v1";
    assert_eq!(users(&[]), [json!(65532), json!(65532)]);
    assert_eq!(users(&[openshift]), [Value::Null, Value::Null]);
    assert_eq!(
        users(&[openshift, "--set=podSecurityContext.runAsUser=1000"]),
        [json!(1000), Value::Null]
    );
    assert_eq!(
        users(&["--set=podSecurityContext.runAsUser=null"]),
        [Value::Null, json!(65532)]
    );
}

#[test]
fn it_listens_on_ipv4_and_ipv6_and_the_service_has_what_the_cluster_has() {
    let objects = rendered(&[]);
    let service = &find(&objects, "Service", "shipbell")["spec"];
    assert_eq!(service["ipFamilyPolicy"], "PreferDualStack");
    let command = shipbell::config::Flags::command();
    let run = command.find_subcommand("run").unwrap();
    for flag in ["listen", "api-listen"] {
        let mut flags = run.get_arguments();
        let flag = flags.find(|it| it.get_long() == Some(flag)).unwrap();
        let default = flag.get_default_values()[0].to_str().unwrap();
        assert!(default.starts_with("[::]:"), "{default}");
    }
}

#[test]
fn the_alerts_in_the_documents_are_those_of_the_chart() {
    let alerts = file("charts/shipbell/files/alerts.yaml");
    let (_, groups) = alerts.split_once("groups:\n").unwrap();
    let page = file("docs/operations.md");
    assert!(
        page.contains(&format!("```yaml\ngroups:\n{groups}```")),
        "docs/operations.md does not hold charts/shipbell/files/alerts.yaml"
    );
    // With the release's own Service, and further labels.
    let args = [
        &["bell"][..],
        &REQUIRED[..],
        &["--set=prometheusRule.enabled=true,prometheusRule.alertLabels.team=platform"],
    ];
    let objects = objects(&template(&args.concat()).unwrap());
    let rules = &find(&objects, "PrometheusRule", "bell-shipbell")["spec"]["groups"][0]["rules"];
    let rules = rules.as_array().unwrap();
    assert_eq!(rules.len(), alerts.matches("- alert: ").count());
    assert!(
        rules
            .iter()
            .any(|rule| rule["expr"] == "absent(up{job=\"bell-shipbell\"} == 1)")
    );
    for rule in rules {
        assert_eq!(rule["labels"]["team"], "platform", "{rule}");
        let summary = rule["annotations"]["summary"].as_str().unwrap();
        assert!(alerts.contains(summary), "{summary}");
    }
}

#[test]
fn the_dashboard_is_one_that_a_sidecar_of_grafana_finds() {
    let objects = rendered(&["--set=dashboard.enabled=true"]);
    let map = find(&objects, "ConfigMap", "shipbell-dashboard");
    assert_eq!(map["metadata"]["labels"]["grafana_dashboard"], "1");
    let dashboard: Value =
        serde_json::from_str(map["data"]["shipbell.json"].as_str().unwrap()).unwrap();
    let shipped: Value =
        serde_json::from_str(&file("charts/shipbell/files/dashboard.json")).unwrap();
    assert_eq!(dashboard, shipped);
    for panel in dashboard["panels"].as_array().unwrap() {
        assert!(
            !panel["description"].as_str().unwrap().is_empty(),
            "{panel}"
        );
        for target in panel["targets"].as_array().unwrap() {
            assert!(
                target["expr"].as_str().unwrap().contains("shipbell_"),
                "{target}"
            );
        }
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
    // A Service's name must begin with a letter and have no dot; a release's need not.
    assert_eq!(name("my.bell", &[]), "my-bell-shipbell");
    assert_eq!(name("1.2", &[]), "shipbell-1-2-shipbell");
    assert_eq!(name("7.shipbell", &[]), "shipbell-7-shipbell");
}

#[test]
fn names_that_look_like_numbers_stay_names() {
    let args = [
        &["1.2"][..],
        &REQUIRED[..],
        &[
            "-n",
            "123",
            "--set-string=serviceAccount.name=5,priorityClassName=7,extraCA.secret=9,settingsNamespaces[0]=456",
        ],
    ];
    let objects = objects(&template(&args.concat()).unwrap());
    for object in &objects {
        let labels = object["metadata"]["labels"].as_object().unwrap();
        assert!(labels.values().all(Value::is_string), "{labels:?}");
        let namespace = &object["metadata"]["namespace"];
        assert!(namespace.is_string() || namespace.is_null(), "{object}");
        for subject in object["subjects"].as_array().into_iter().flatten() {
            assert!(
                subject["name"].is_string() && subject["namespace"] == "123",
                "{object}"
            );
        }
    }
    let deployment = find(&objects, "Deployment", "shipbell-1-2-shipbell");
    let pod = &deployment["spec"]["template"]["spec"];
    assert_eq!(pod["serviceAccountName"], "5");
    assert_eq!(pod["priorityClassName"], "7");
    assert_eq!(pod["volumes"][0]["secret"]["secretName"], "9");
    assert_eq!(
        deployment["spec"]["selector"]["matchLabels"]["app.kubernetes.io/instance"],
        "1.2"
    );
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
            // The last one is that of `helm test`, for settings of the release's own namespace.
            assert!(
                ["shipbell", "shipbell-secrets", "shipbell-test"].contains(&role),
                "{object}"
            );
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
