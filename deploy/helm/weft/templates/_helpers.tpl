{{/* Labels of every object. Called with (dict "root" $ "name" "weft-controller"). */}}
{{- define "weft.labels" -}}
{{ include "weft.selector" . }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end }}

{{/* Labels that select a part's pods; they never change. */}}
{{- define "weft.selector" -}}
app.kubernetes.io/name: {{ .name }}
app.kubernetes.io/part-of: weft
{{- end }}

{{/* An image's name. Called with (dict "root" $ "name" "weft-controller" "image" .Values.controller.image). */}}
{{- define "weft.image" -}}
{{- $image := .root.Values.image -}}
{{- $default := printf "%s/%s:%s" $image.repository .name (default .root.Chart.AppVersion $image.tag) -}}
{{- if $image.registry }}{{ $default = printf "%s/%s" $image.registry $default }}{{ end -}}
{{ default $default .image }}
{{- end }}

{{/* Annotations of a part's pods. Called with (dict "root" $ "part" .Values.proxy "port" "15000"). */}}
{{- define "weft.podAnnotations" -}}
{{- $scrape := dict -}}
{{- if .root.Values.scrapeAnnotations -}}
{{- $scrape = dict "prometheus.io/scrape" "true" "prometheus.io/port" .port "prometheus.io/path" "/metrics" -}}
{{- end -}}
{{- merge (dict) .part.podAnnotations $scrape | toYaml -}}
{{- end }}

{{/* Where a part's pods may run, and how important they are. Called with (dict "root" $ "part" .Values.proxy). */}}
{{- define "weft.placement" -}}
{{- include "weft.pullSecrets" .root -}}
{{- with .part.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .part.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .part.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Credentials of the registry. */}}
{{- define "weft.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}

{{/* What a container may do that needs nothing. */}}
{{- define "weft.restricted" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
capabilities: { drop: [ALL] }
seccompProfile: { type: RuntimeDefault }
{{- end }}

{{/* /healthz and /readyz of the admin port.  */}}
{{- define "weft.probes" -}}
livenessProbe:
  httpGet: { path: /healthz, port: admin }
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet: { path: /readyz, port: admin }
  periodSeconds: 5
  timeoutSeconds: 5
{{- end }}

{{/* A duration in seconds, such as 90 for 90s and 120 for 2m; the schema has looked at its form. */}}
{{- define "weft.seconds" -}}
{{- $number := regexFind "[0-9]+" . | int -}}
{{- if hasSuffix "h" . }}{{ mul $number 3600 }}{{ else if hasSuffix "m" . }}{{ mul $number 60 }}{{ else }}{{ $number }}{{ end -}}
{{- end }}

{{/* Annotations of what exists only while the release is being uninstalled. */}}
{{- define "weft.uninstallHook" -}}
helm.sh/hook: pre-delete
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end }}

{{/* Who is meant by the admission policies on agents, and the node that its token names. */}}
{{- define "weft.agentPolicy" -}}
matchConditions:
- name: by-an-agent
  expression: request.userInfo.username == "system:serviceaccount:{{ .Release.Namespace }}:weft-agent"
variables:
- name: node
  expression: >-
    "authentication.kubernetes.io/node-name" in request.userInfo.extra
    ? request.userInfo.extra["authentication.kubernetes.io/node-name"][0] : "no node"
{{- end }}
