{{- define "sluicegate.fullname" -}}
{{- $name := .Values.fullnameOverride | default (contains .Chart.Name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name .Chart.Name)) }}
{{- if not (regexMatch "^[a-z][-a-z0-9]*$" $name) }}
{{- fail (printf "the release's name %s cannot name a Service, which begins with a letter and holds no dot: set fullnameOverride" .Release.Name) }}
{{- end }}
{{- $name | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- define "sluicegate.image" -}}
{{- $image := .Values.image }}
{{- if $image.digest }}{{ $image.repository }}@{{ $image.digest }}
{{- else }}{{ $image.repository }}:{{ $image.tag | default .Chart.AppVersion }}
{{- end }}
{{- end }}

{{- /* Of a part: (dict "root" $ "part" "broker"). */ -}}
{{- define "sluicegate.name" -}}
{{ include "sluicegate.fullname" .root }}-{{ .part }}
{{- end }}

{{- define "sluicegate.selector" -}}
app.kubernetes.io/name: sluicegate
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
app.kubernetes.io/component: {{ .part }}
{{- end }}

{{- define "sluicegate.labels" -}}
{{ include "sluicegate.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/part-of: sluicegate
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- with .root.Values.commonLabels }}
{{- range list "name" "instance" "component" }}
{{- if hasKey $.root.Values.commonLabels (printf "app.kubernetes.io/%s" .) }}
{{- fail (printf "commonLabels: app.kubernetes.io/%s selects the chart's pods and cannot be another" .) }}
{{- end }}
{{- end }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "sluicegate.metadata" -}}
name: {{ include "sluicegate.name" . }}
namespace: {{ .root.Release.Namespace | quote }}
labels:
  {{- include "sluicegate.labels" . | nindent 2 }}
{{- end }}

{{- define "sluicegate.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "sluicegate.containerSecurity" -}}
allowPrivilegeEscalation: false
capabilities: {drop: [ALL]}
readOnlyRootFilesystem: true
{{- end }}

{{- /* Where a part's pods go: (dict "root" $ "part" "broker"). */ -}}
{{- define "sluicegate.scheduling" -}}
{{- $values := get .root.Values .part }}
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . | quote }}
  {{- end }}
{{- end }}
{{- with $values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- end }}

{{- /* Probes on the admin port; `port` is its name. */ -}}
{{- define "sluicegate.probes" -}}
startupProbe:
  httpGet: {path: /livez, port: admin}
  periodSeconds: 1
  failureThreshold: 90
livenessProbe:
  httpGet: {path: /livez, port: admin}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 3
readinessProbe:
  httpGet: {path: /readyz, port: admin}
  periodSeconds: 2
  timeoutSeconds: 2
{{- end }}

{{- define "sluicegate.brokerAddress" -}}
{{ include "sluicegate.fullname" . }}-broker.{{ .Release.Namespace }}.svc:{{ .Values.broker.service.port }}
{{- end }}

{{- /* The ConfigMap with the broker's authorities, as namespace/name. */ -}}
{{- define "sluicegate.authorities" -}}
{{ .Release.Namespace }}/{{ include "sluicegate.fullname" . }}-broker-ca
{{- end }}
