{{- /* Names and labels, once. The keys are those of platform/goku_platform/jobs/names.py. */ -}}

{{- define "goku.namespace" -}}
{{ .Values.namespace.name | default .Release.Namespace }}
{{- end }}

{{- define "goku.labels" -}}
app.kubernetes.io/name: goku-platform
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "goku.monitoringLabels" -}}
{{ include "goku.labels" . }}
{{- with .Values.monitoring.labels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "goku.clusterName" -}}
{{ include "goku.namespace" . }}-{{ .Values.launcher.serviceAccount.name }}
{{- end }}

{{- /* Selects the pods of every run. */ -}}
{{- define "goku.runPods" -}}
matchExpressions:
  - key: goku.platform/run
    operator: Exists
{{- end }}

{{- /* Where the API server keeps each kind of job. */ -}}
{{- define "goku.resources" -}}
pytorchjob: {group: kubeflow.org, plural: pytorchjobs}
trainjob: {group: trainer.kubeflow.org, plural: trainjobs}
jobset: {group: jobset.x-k8s.io, plural: jobsets}
job: {group: batch, plural: jobs}
rayjob: {group: ray.io, plural: rayjobs}
{{- end }}

{{- /* Who has the launcher's rights. */ -}}
{{- define "goku.launchers" -}}
- kind: ServiceAccount
  name: {{ .Values.launcher.serviceAccount.name }}
  namespace: {{ include "goku.namespace" . }}
{{- with .Values.launcher.subjects }}
{{ toYaml . }}
{{- end }}
{{- end }}
