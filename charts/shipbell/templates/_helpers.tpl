{{- /* Every template includes this first: a value that is null gets its default. Helm removes such values before it renders. */}}
{{- define "shipbell.fillDefaults" -}}
{{- include "shipbell.fill" (dict "values" .Values "defaults" (include "shipbell.defaults" . | fromJson)) }}
{{- end }}

{{- define "shipbell.fill" -}}
{{- /* What is in these is Kubernetes' or the user's own: a null in them leaves a field out. */}}
{{- $foreign := list "resources" "podSecurityContext" "securityContext" "labels" }}
{{- $values := .values }}
{{- range $key, $default := .defaults }}
{{- $value := index $values $key }}
{{- if kindIs "invalid" $value }}
{{- $_ := set $values $key $default }}
{{- else if and (kindIs "map" $value) (not (has $key $foreign)) }}
{{- include "shipbell.fill" (dict "values" $value "defaults" $default) }}
{{- end }}
{{- end }}
{{- end }}

{{- define "shipbell.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- /*
A name that every kind accepts, also a Service: no dot, and a letter first. A release may be called 1.2. At most 52
characters, so that there is room for -settings and the like.
*/}}
{{- define "shipbell.fullname" -}}
{{- $name := .Values.fullnameOverride }}
{{- if not $name }}
{{- $release := .Release.Name | replace "." "-" }}
{{- $name = contains (include "shipbell.name" .) $release | ternary $release (printf "%s-%s" $release (include "shipbell.name" .)) }}
{{- if not (regexMatch "^[a-z]" $name) }}
{{- $name = printf "shipbell-%s" $name }}
{{- end }}
{{- end }}
{{- regexReplaceAll "-+$" (trunc 52 $name) "" }}
{{- end }}

{{- define "shipbell.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (ternary (include "shipbell.fullname" .) "default" .Values.serviceAccount.create) }}
{{- end }}

{{- define "shipbell.selectorLabels" -}}
app.kubernetes.io/name: {{ include "shipbell.name" . | toYaml }}
app.kubernetes.io/instance: {{ toYaml .Release.Name }}
{{- end }}

{{- define "shipbell.labels" -}}
{{- $labels := dict
  "helm.sh/chart" (printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-")
  "app.kubernetes.io/version" (.Chart.AppVersion | replace "+" "_")
  "app.kubernetes.io/managed-by" .Release.Service
}}
{{- $labels = merge (include "shipbell.selectorLabels" . | fromYaml) $labels .Values.commonLabels }}
{{- toYaml $labels }}
{{- end }}

{{- /* Those of `helm test`. Another name than the operator's, or its pod would be one of the Service's. */}}
{{- define "shipbell.testSelectorLabels" -}}
app.kubernetes.io/name: {{ include "shipbell.name" . | trunc 58 | trimSuffix "-" }}-test
app.kubernetes.io/instance: {{ toYaml .Release.Name }}
{{- end }}

{{- define "shipbell.testLabels" -}}
{{- merge (include "shipbell.testSelectorLabels" . | fromYaml) (include "shipbell.labels" . | fromYaml) | toYaml }}
{{- end }}

{{- define "shipbell.image" -}}
{{- $image := .Values.image }}
{{- if $image.digest }}
{{- printf "%s@%s" $image.repository $image.digest }}
{{- else }}
{{- printf "%s:%s" $image.repository ($image.tag | default .Chart.AppVersion) }}
{{- end }}
{{- end }}

{{- /* The security context of a pod. OpenShift refuses users that are not of the namespace's own range, and chooses one itself. */}}
{{- define "shipbell.podSecurityContext" -}}
{{- $context := deepCopy .Values.podSecurityContext }}
{{- if .Capabilities.APIVersions.Has "security.openshift.io/v1" }}
{{- range $id := list "runAsUser" "runAsGroup" }}
{{- if eq (index $context $id | toString) "65532" }}
{{- $_ := unset $context $id }}
{{- end }}
{{- end }}
{{- end }}
{{- with $context }}
{{- toYaml . }}
{{- end }}
{{- end }}

{{- /* The Service of the receiver of `helm test`. */}}
{{- define "shipbell.testHost" -}}
{{- printf "%s-test.%s.svc" (include "shipbell.fullname" .) .Release.Namespace }}
{{- end }}

{{- /* Those of settingsNamespaces that do not exist, as a JSON list. Without a cluster (helm template) nothing is known: none. */}}
{{- define "shipbell.missingNamespaces" -}}
{{- $missing := list }}
{{- if .Values.settingsNamespaces }}
{{- if lookup "v1" "Namespace" "" "default" }}
{{- range without .Values.settingsNamespaces .Release.Namespace }}
{{- if not (lookup "v1" "Namespace" "" .) }}
{{- $missing = append $missing . }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- toJson $missing }}
{{- end }}

{{- /* The operator's environment variables, as a list. */}}
{{- define "shipbell.env" -}}
- name: SHIPBELL_CLUSTER_NAME
  value: {{ .Values.clusterName | quote }}
{{- with .Values.org }}
- name: SHIPBELL_ORG
  value: {{ . | quote }}
{{- end }}
- name: SHIPBELL_NAMESPACE
  valueFrom:
    fieldRef:
      fieldPath: metadata.namespace
- name: SHIPBELL_POD_UID
  valueFrom:
    fieldRef:
      fieldPath: metadata.uid
- name: SHIPBELL_POD_IP
  valueFrom:
    fieldRef:
      fieldPath: status.podIPs
- name: SHIPBELL_DEFAULT_ENVIRONMENT
  value: {{ .Values.defaultEnvironment | quote }}
- name: SHIPBELL_SECRETS_ROLE
  value: {{ include "shipbell.fullname" . }}-secrets
- name: SHIPBELL_SERVICE_ACCOUNT
  value: {{ include "shipbell.serviceAccount" . | toYaml }}
{{- $open := list }}
{{- range .Values.outbound.allow }}
{{- if kindIs "map" . }}
{{- $open = append $open (printf "%s@%s" .to (join "+" .namespaces)) }}
{{- else }}
{{- $open = append $open . }}
{{- end }}
{{- end }}
{{- if .Values.test.enabled }}
{{- $open = append $open (printf "%s@%s" (include "shipbell.testHost" .) .Release.Namespace) }}
{{- end }}
{{- with $open }}
- name: SHIPBELL_ALLOW_DESTINATION
  value: {{ join "," . | quote }}
{{- end }}
{{- if or .Values.extraCA.configMap .Values.extraCA.secret }}
- name: SHIPBELL_EXTRA_CA_FILE
  value: /etc/shipbell/ca/{{ .Values.extraCA.key }}
{{- end }}
{{- with .Values.externalUrl }}
- name: SHIPBELL_EXTERNAL_URL
  value: {{ . | quote }}
- name: SHIPBELL_API_BEHIND_AUTHENTICATING_PROXY
  value: {{ $.Values.api.behindAuthenticatingProxy | quote }}
- name: SHIPBELL_API_TOKEN_AUDIENCE
  value: {{ $.Values.api.tokenAudience | quote }}
- name: SHIPBELL_API_ACCEPT_CLUSTER_TOKENS
  value: {{ $.Values.api.acceptClusterTokens | quote }}
{{- end }}
{{- with .Values.api.proxySecret }}
{{- if .name }}
- name: SHIPBELL_API_PROXY_SECRET
  valueFrom:
    secretKeyRef:
      name: {{ toYaml .name }}
      key: {{ toYaml .key }}
{{- end }}
{{- end }}
- name: SHIPBELL_LOG
  value: {{ .Values.log.level | quote }}
- name: SHIPBELL_LOG_FORMAT
  value: {{ .Values.log.format | quote }}
{{- with .Values.proxy.https }}
- name: HTTPS_PROXY
  value: {{ . | quote }}
{{- end }}
{{- with .Values.proxy.http }}
- name: HTTP_PROXY
  value: {{ . | quote }}
{{- end }}
{{- $direct := .Values.proxy.noProxy }}
{{- if and .Values.test.enabled .Values.proxy.http }}
{{- $direct = append $direct (include "shipbell.testHost" .) }}
{{- end }}
{{- with $direct }}
- name: NO_PROXY
  value: {{ join "," . | quote }}
{{- end }}
{{- end }}

{{- /* Reports everything that is wrong with the values at once. */}}
{{- define "shipbell.check" -}}
{{- $wrong := list }}
{{- if not .Values.clusterName }}
{{- $wrong = append $wrong "clusterName is not set. It is shown in every message and names the default Environment:\n    --set clusterName=aws-prod" }}
{{- else if not (regexMatch "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$" .Values.clusterName) }}
{{- $wrong = append $wrong (printf "clusterName is %q: a name of at most 63 lower-case letters, digits and dashes is needed, as in aws-prod." .Values.clusterName) }}
{{- end }}
{{- if not (regexMatch "^[A-Za-z0-9._~-]{0,63}$" .Values.org) }}
{{- $wrong = append $wrong (printf "org is %q: a name of at most 63 letters, digits, dashes, dots, tildes and underscores is needed, as it is a part of URLs." .Values.org) }}
{{- end }}
{{- if not (regexMatch "^(https?://[^/?# ]+[^?# ]*)?$" .Values.externalUrl) }}
{{- $wrong = append $wrong (printf "externalUrl is %q: an http or https URL without query and fragment is needed, as in https://shipbell.example.com." .Values.externalUrl) }}
{{- end }}
{{- if not .Values.image.repository }}
{{- $image := printf "registry.example.com/shipbell:%s" .Chart.AppVersion }}
{{- $wrong = append $wrong (printf "image.repository is not set. Build the image from the source, push it to where your cluster pulls from, and name it:\n    docker build -t %s .\n    docker push %s\n    --set image.repository=registry.example.com/shipbell --set image.tag=%s" $image $image .Chart.AppVersion) }}
{{- else if not (regexMatch "^[a-zA-Z0-9.-]+(:[0-9]+)?(/[a-z0-9._-]+)*$" .Values.image.repository) }}
{{- $wrong = append $wrong (printf "image.repository is %q: a name without scheme, tag and digest is needed, as in registry.example.com/shipbell. The tag goes into image.tag, the digest into image.digest." .Values.image.repository) }}
{{- end }}
{{- if and .Values.extraCA.configMap .Values.extraCA.secret }}
{{- $wrong = append $wrong "extraCA names both a ConfigMap and a Secret: give one of them." }}
{{- end }}
{{- if and .Values.api.behindAuthenticatingProxy (not .Values.externalUrl) }}
{{- $wrong = append $wrong "api.behindAuthenticatingProxy is set but externalUrl is not: without an external URL there is no API." }}
{{- end }}
{{- if and .Values.api.behindAuthenticatingProxy (not .Values.api.proxySecret.name) (not (and .Values.networkPolicy.enabled .Values.networkPolicy.apiFrom)) }}
{{- $wrong = append $wrong "api.behindAuthenticatingProxy is set, so every pod of the cluster could read all without the proxy. Let only the proxy's pods connect:\n    networkPolicy: {enabled: true, apiFrom: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: NAMESPACE}}}]}\nor let the proxy send a secret in the header X-Shipbell-Proxy-Secret, and name the Secret that holds it:\n    --set api.proxySecret.name=NAME" }}
{{- end }}
{{- if and .Values.api.proxySecret.name (not .Values.api.behindAuthenticatingProxy) }}
{{- $wrong = append $wrong "api.proxySecret.name is set but api.behindAuthenticatingProxy is not: without it each request needs a Kubernetes token." }}
{{- end }}
{{- if and .Values.api.acceptClusterTokens (not .Values.externalUrl) }}
{{- $wrong = append $wrong "api.acceptClusterTokens is set but externalUrl is not: without an external URL there is no API." }}
{{- end }}
{{- if and .Values.api.acceptClusterTokens .Values.api.behindAuthenticatingProxy }}
{{- $wrong = append $wrong "api.acceptClusterTokens and api.behindAuthenticatingProxy are both set: behind a proxy no tokens are asked for. Set one of them." }}
{{- end }}
{{- range $kind := list "ingress" "httpRoute" }}
{{- if and (index $.Values $kind).enabled (not $.Values.externalUrl) }}
{{- $wrong = append $wrong (printf "%s.enabled is set but externalUrl is not: without an external URL there is no API, and no host." $kind) }}
{{- end }}
{{- end }}
{{- $url := urlParse .Values.externalUrl }}
{{- if and .Values.ingress.enabled (trimAll "/" $url.path) }}
{{- $wrong = append $wrong (printf "externalUrl is %q, with a path, which not every Ingress controller can remove: use a host without a path, or httpRoute, or an Ingress of your own (extraObjects)." .Values.externalUrl) }}
{{- end }}
{{- if and (or .Values.ingress.enabled .Values.httpRoute.enabled) (regexMatch "^([0-9.]+|\\[.*)$" $url.hostname) }}
{{- $wrong = append $wrong (printf "externalUrl is %q, with an address as its host: an Ingress and an HTTPRoute need a host name." .Values.externalUrl) }}
{{- end }}
{{- if and .Values.httpRoute.enabled (not .Values.httpRoute.parentRefs) }}
{{- $wrong = append $wrong "httpRoute.enabled is set but httpRoute.parentRefs is not: name the Gateway:\n    --set 'httpRoute.parentRefs[0].name=NAME'" }}
{{- end }}
{{- if and .Values.approvals.bots (not .Values.approvals.tieReviewerToUser) }}
{{- $wrong = append $wrong "approvals.bots is set but approvals.tieReviewerToUser is not: without it everyone may name any reviewer." }}
{{- end }}
{{- $own := list }}
{{- range include "shipbell.env" . | fromYamlArray }}
{{- $own = append $own .name }}
{{- end }}
{{- range .Values.extraEnv }}
{{- if has .name $own }}
{{- $wrong = append $wrong (printf "extraEnv sets %s, which the chart sets from another value: use that one." .name) }}
{{- end }}
{{- end }}
{{- if $wrong }}
{{- fail (printf "\n\n%s\n" (join "\n\n" $wrong)) }}
{{- end }}
{{- end }}
