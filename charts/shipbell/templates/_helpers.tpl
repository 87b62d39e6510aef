{{- define "shipbell.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- /* At most 52 characters, so that there is room for -settings and the like. */}}
{{- define "shipbell.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" }}
{{- else if contains (include "shipbell.name" .) .Release.Name }}
{{- .Release.Name | trunc 52 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "shipbell.name" .) | trunc 52 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "shipbell.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (ternary (include "shipbell.fullname" .) "default" .Values.serviceAccount.create) }}
{{- end }}

{{- define "shipbell.selectorLabels" -}}
app.kubernetes.io/name: {{ include "shipbell.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
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

{{- define "shipbell.image" -}}
{{- $image := .Values.image }}
{{- if $image.digest }}
{{- printf "%s@%s" $image.repository $image.digest }}
{{- else }}
{{- printf "%s:%s" $image.repository ($image.tag | default .Chart.AppVersion) }}
{{- end }}
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
- name: SHIPBELL_POD_IP
  valueFrom:
    fieldRef:
      fieldPath: status.podIP
- name: SHIPBELL_DEFAULT_ENVIRONMENT
  value: {{ .Values.defaultEnvironment | quote }}
- name: SHIPBELL_SECRETS_ROLE
  value: {{ include "shipbell.fullname" . }}-secrets
- name: SHIPBELL_SERVICE_ACCOUNT
  value: {{ include "shipbell.serviceAccount" . }}
{{- with .Values.outbound.allow }}
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
{{- with .Values.proxy.noProxy }}
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
