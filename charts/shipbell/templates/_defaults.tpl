{{- /* Generated from values.yaml; do not edit. */}}
{{- define "shipbell.defaults" -}}
{
  "affinity": {},
  "api": {
    "acceptClusterTokens": false,
    "behindAuthenticatingProxy": false,
    "proxySecret": {
      "key": "secret",
      "name": ""
    },
    "tokenAudience": "shipbell"
  },
  "approvals": {
    "bots": [],
    "tieReviewerToUser": false
  },
  "clusterName": "",
  "commonLabels": {},
  "crds": {
    "enabled": true,
    "keep": true
  },
  "dashboard": {
    "annotations": {},
    "enabled": false,
    "labels": {
      "grafana_dashboard": "1"
    }
  },
  "defaultEnvironment": true,
  "dnsConfig": {},
  "externalUrl": "",
  "extraCA": {
    "configMap": "",
    "key": "ca.crt",
    "secret": ""
  },
  "extraContainers": [],
  "extraEnv": [],
  "extraObjects": [],
  "extraVolumeMounts": [],
  "extraVolumes": [],
  "fullnameOverride": "",
  "hostAliases": [],
  "httpRoute": {
    "annotations": {},
    "enabled": false,
    "parentRefs": []
  },
  "image": {
    "digest": "",
    "pullPolicy": "IfNotPresent",
    "repository": "",
    "tag": ""
  },
  "imagePullSecrets": [],
  "ingress": {
    "annotations": {},
    "className": "",
    "enabled": false,
    "tlsSecret": ""
  },
  "log": {
    "format": "text",
    "level": "info"
  },
  "nameOverride": "",
  "networkPolicy": {
    "apiFrom": [],
    "egress": [],
    "enabled": false,
    "metricsFrom": []
  },
  "nodeSelector": {},
  "org": "",
  "outbound": {
    "allow": []
  },
  "podAnnotations": {},
  "podDisruptionBudget": {
    "enabled": true,
    "maxUnavailable": 1
  },
  "podLabels": {},
  "podSecurityContext": {
    "runAsGroup": 65532,
    "runAsNonRoot": true,
    "runAsUser": 65532,
    "seccompProfile": {
      "type": "RuntimeDefault"
    }
  },
  "priorityClassName": "",
  "prometheusRule": {
    "alertLabels": {},
    "enabled": false,
    "labels": {}
  },
  "proxy": {
    "http": "",
    "https": "",
    "noProxy": []
  },
  "rbac": {
    "aggregate": true,
    "roles": true
  },
  "replicas": 2,
  "resources": {
    "limits": {
      "memory": "160Mi"
    },
    "requests": {
      "cpu": "10m",
      "memory": "32Mi"
    }
  },
  "securityContext": {
    "allowPrivilegeEscalation": false,
    "capabilities": {
      "drop": [
        "ALL"
      ]
    },
    "readOnlyRootFilesystem": true
  },
  "service": {
    "annotations": {},
    "ipFamilyPolicy": "PreferDualStack"
  },
  "serviceAccount": {
    "annotations": {},
    "create": true,
    "name": ""
  },
  "serviceMonitor": {
    "enabled": false,
    "interval": "",
    "labels": {},
    "metricRelabelings": [],
    "relabelings": [],
    "scrapeTimeout": ""
  },
  "settingsNamespaces": [],
  "test": {
    "enabled": true
  },
  "tolerations": [],
  "topologySpreadConstraints": [
    {
      "maxSkew": 1,
      "topologyKey": "kubernetes.io/hostname",
      "whenUnsatisfiable": "ScheduleAnyway"
    }
  ]
}
{{- end }}
