{{/* Names and selector labels are those of the upstream chart: a DaemonSet's selector cannot change, and `helm upgrade` finds its
     objects by name. */}}
{{- define "modelcsi.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "modelcsi.fullname" -}}
{{- $name := .Values.nameOverride | default .Chart.Name -}}
{{- $full := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- .Values.fullnameOverride | default $full | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "modelcsi.serviceAccountName" -}}
{{- .Values.serviceAccount.name | default (ternary (include "modelcsi.fullname" .) "default" .Values.serviceAccount.create) }}
{{- end }}

{{- define "modelcsi.controllerName" -}}
{{ include "modelcsi.fullname" . }}-controller
{{- end }}

{{- define "modelcsi.controllerServiceAccountName" -}}
{{- $account := .Values.controller.serviceAccount -}}
{{- $account.name | default (ternary (include "modelcsi.controllerName" .) "default" $account.create) }}
{{- end }}

{{- define "modelcsi.fuseName" -}}
{{ include "modelcsi.fullname" . }}-fuse
{{- end }}

{{- define "modelcsi.selectorLabels" -}}
app.kubernetes.io/name: {{ include "modelcsi.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* Another name, not a further label: the DaemonSet's selector must not match these pods. */}}
{{- define "modelcsi.controllerSelectorLabels" -}}
app.kubernetes.io/name: {{ printf "%s-controller" (include "modelcsi.name" .) | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "modelcsi.fuseSelectorLabels" -}}
app.kubernetes.io/name: {{ printf "%s-fuse" (include "modelcsi.name" . | trunc 58 | trimSuffix "-") }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* Without those of selectors: of objects that no selector may find. (root, labels) -> YAML; what is written here wins over the
     labels, and those over commonLabels, since a key that is there twice makes an object invalid. */}}
{{- define "modelcsi.commonLabelsWith" -}}
{{- $root := index . 0 -}}
{{- $chart := printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" -}}
{{- $own := dict "helm.sh/chart" $chart "app.kubernetes.io/version" $root.Chart.AppVersion "app.kubernetes.io/managed-by" $root.Release.Service -}}
{{- $others := merge (dict) (index . 1 | default dict) ($root.Values.commonLabels | default dict) -}}
{{- toYaml (merge $own (omit $others "app.kubernetes.io/name" "app.kubernetes.io/instance")) }}
{{- end }}

{{- define "modelcsi.commonLabels" -}}
{{- include "modelcsi.commonLabelsWith" (list . dict) }}
{{- end }}

{{- define "modelcsi.labelsWith" -}}
{{ include "modelcsi.selectorLabels" (index . 0) }}
{{ include "modelcsi.commonLabelsWith" . }}
{{- end }}

{{- define "modelcsi.labels" -}}
{{ include "modelcsi.labelsWith" (list . dict) }}
{{- end }}

{{- define "modelcsi.controllerLabels" -}}
{{ include "modelcsi.controllerSelectorLabels" . }}
{{ include "modelcsi.commonLabels" . }}
{{- end }}

{{- define "modelcsi.fuseLabels" -}}
{{ include "modelcsi.fuseSelectorLabels" . }}
{{ include "modelcsi.commonLabels" . }}
{{- end }}

{{/* (image, default tag) -> reference */}}
{{- define "modelcsi.image" -}}
{{- $image := index . 0 -}}
{{- $image.repository }}:{{ $image.tag | default (index . 1) }}{{ with $image.digest }}@{{ . }}{{ end }}
{{- end }}

{{/* The upstream driver's image answers none of this chart's probes. Fatal where running drivers would be replaced by it. */}}
{{- define "modelcsi.driverImage" -}}
{{- if and .Release.IsUpgrade (include "modelcsi.isUpstreamsImage" .) -}}
{{- fail (printf "image.repository: %s is the upstream driver, which cannot run under this chart; set image.repository and image.tag to this driver's image" .Values.image.repository) -}}
{{- end -}}
{{- include "modelcsi.image" (list .Values.image .Chart.AppVersion) }}
{{- end }}

{{- define "modelcsi.isUpstreamsImage" -}}
{{- if eq "ghcr.io/modelpack/model-csi-driver" .Values.image.repository }}yes{{ end }}
{{- end }}

{{/* Of every container that needs no rights. */}}
{{- define "modelcsi.restrictedSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* The sidecars beside the driver open its socket, which is root's; they need nothing else. Where SELinux is enforced, as OpenShift
     does, an ordinary container opens no socket in a host path: spc_t, the type of privileged ones, does. */}}
{{- define "modelcsi.sidecarSecurityContext" -}}
{{ include "modelcsi.restrictedSecurityContext" . }}
runAsUser: 0
runAsGroup: 0
{{- if .Values.openshift.enabled }}
seLinuxOptions: {type: spc_t}
{{- end }}
{{- end }}

{{- define "modelcsi.pluginDir" -}}
{{ .Values.kubeletDir }}/plugins/{{ .Values.config.serviceName }}
{{- end }}

{{/* The one place where the port is read from the address. */}}
{{- define "modelcsi.metricsPort" -}}
{{- regexFind "[0-9]+/?$" .Values.config.metricsAddr | trimSuffix "/" }}
{{- end }}

{{/* Not empty if others than the pod itself reach the address: kubelet, Prometheus. */}}
{{- define "modelcsi.isReachable" -}}
{{- if regexMatch "^tcp://(\\[?\\$(POD_IP|\\{POD_IP\\})\\]?|0\\.0\\.0\\.0|\\[::\\])?:[0-9]+/?$" .Values.config.metricsAddr }}yes{{ end }}
{{- end }}

{{/* (root, path, times) -> how kubelet asks the driver. Without a reachable address: is the socket there? It is while the driver
     answers. */}}
{{- define "modelcsi.probe" -}}
{{- if include "modelcsi.isReachable" (index . 0) -}}
httpGet: {path: {{ index . 1 }}, port: metrics}
{{- else -}}
exec: {command: [stat, /csi/csi.sock]}
{{- end }}
{{- with index . 2 }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* What kubelet would mount into every container: a token of the pod's account, for the one container that asks the API server.
     Renewed by kubelet; both programs read it again. */}}
{{- define "modelcsi.tokenVolume" -}}
- name: api-access
  projected:
    sources:
      - serviceAccountToken: {path: token, expirationSeconds: 3600}
      - configMap: {name: kube-root-ca.crt, items: [{key: ca.crt, path: ca.crt}]}
      - downwardAPI: {items: [{path: namespace, fieldRef: {fieldPath: metadata.namespace}}]}
{{- end }}

{{- define "modelcsi.tokenMount" -}}
- {name: api-access, mountPath: /var/run/secrets/kubernetes.io/serviceaccount, readOnly: true}
{{- end }}
