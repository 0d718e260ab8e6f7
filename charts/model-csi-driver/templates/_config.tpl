{{/* The driver's config.yaml, and what other objects need to know of it. Templates read the merged result, so that `config.extra`
     counts everywhere. */}}
{{- define "modelcsi.config" -}}
{{- $config := .Values.config -}}
{{- $extra := $config.extra | default dict -}}
{{- $decided := dict "service_name" "config.serviceName" "root_dir" "config.rootDir" "metrics_addr" "config.metricsAddr" "csi_endpoint" "" "kubelet_registration_path" "kubeletDir" "kubelet_registration_dir" "kubeletDir" -}}
{{- range $key := keys $extra | sortAlpha -}}
{{- if hasKey $decided $key -}}
{{- with get $decided $key -}}
{{- fail (printf "config.extra.%s: other objects depend on it; set %s instead" $key .) -}}
{{- else -}}
{{- fail (printf "config.extra.%s: the chart decides it" $key) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- include "modelcsi.checkRootDir" . -}}
{{- $file := dict "service_name" $config.serviceName "csi_endpoint" "unix:///csi/csi.sock" "root_dir" $config.rootDir -}}
{{- with $config.metricsAddr }}{{ $_ := set $file "metrics_addr" . }}{{ end -}}
{{- range list .Values.monitoring.podMonitor .Values.monitoring.serviceMonitor -}}
{{- if and .enabled .detail }}{{ $_ := set $file "metrics_detail" true }}{{ end -}}
{{- end -}}
{{- with $config.logLevel }}{{ $_ := set $file "log_level" . }}{{ end -}}
{{- with $config.dynamicCsiEndpoint }}{{ $_ := set $file "dynamic_csi_endpoint" . }}{{ end -}}
{{- with $config.pullConfig }}{{ $_ := set $file "pull_config" . }}{{ end -}}
{{- with $config.features }}{{ $_ := set $file "features" . }}{{ end -}}
{{- with $config.kubernetes }}{{ $_ := set $file "kubernetes" . }}{{ end -}}
{{- with $config.fuse }}{{ $_ := set $file "fuse" . }}{{ end -}}
{{- with include "modelcsi.registryConfig" . | fromYaml }}{{ $_ := set $file "registry" . }}{{ end -}}
{{- if not .Values.registrar.enabled -}}
{{- $_ := set $file "kubelet_registration_path" (printf "%s/csi.sock" (include "modelcsi.pluginDir" .)) -}}
{{- end -}}
{{- $merged := mergeOverwrite (deepCopy $file) (deepCopy $extra) -}}
{{- range $key, $value := $file.registry | default dict -}}
{{- if and (has $key (list "config_path" "credential_provider_config" "credential_provider_bin_dir")) (ne $value (get $merged.registry $key)) -}}
{{- fail (printf "config.extra.registry.%s: other values decide it: %s" $key (ternary "registryHosts" "credentialProvider" (eq $key "config_path"))) -}}
{{- end -}}
{{- end -}}
{{- $fuse := $merged.fuse | default dict -}}
{{- if ne "external" ($fuse.holder | default "external") -}}
{{- fail "config.fuse.holder: the chart decides it; in the driver's pod it would end with that, and every lazy mount with it" -}}
{{- end -}}
{{- $_ := set $merged "fuse" (merge (ternary (dict) (dict "adapter" "none") .Values.lazy.enabled) (dict "holder" "external") $fuse) -}}
{{- toYaml $merged }}
{{- end }}

{{/* kubelet's directories below its root belong to kubelet, and the driver mounts them beside its own. */}}
{{- define "modelcsi.checkRootDir" -}}
{{- $root := printf "%s/" (clean .Values.config.rootDir) -}}
{{- $kubelet := printf "%s/" (clean .Values.kubeletDir) -}}
{{- if hasPrefix $root $kubelet }}{{ fail (printf "config.rootDir: kubeletDir, %s, is within it" .Values.kubeletDir) }}{{ end -}}
{{- range list "pods" "plugins" "plugins_registry" -}}
{{- if hasPrefix (printf "%s%s/" $kubelet .) $root }}{{ fail (printf "config.rootDir: %s%s is kubelet's" $kubelet .) }}{{ end -}}
{{- end -}}
{{- end }}

{{/* The section `registry`, with what follows from other values. */}}
{{- define "modelcsi.registryConfig" -}}
{{- $registry := deepCopy (.Values.config.registry | default dict) -}}
{{- if .Values.registryHosts -}}
{{- if $registry.config_path }}{{ fail "registryHosts and config.registry.config_path: set one of them" }}{{ end -}}
{{- $_ := set $registry "config_path" "/etc/model-csi-driver-hosts" -}}
{{- end -}}
{{- $provider := .Values.credentialProvider -}}
{{- if or $provider.configFile $provider.binDir -}}
{{- if not (and $provider.configFile $provider.binDir) }}{{ fail "credentialProvider.configFile and credentialProvider.binDir need each other" }}{{ end -}}
{{- $_ := set $registry "credential_provider_config" $provider.configFile -}}
{{- $_ := set $registry "credential_provider_bin_dir" $provider.binDir -}}
{{- end -}}
{{- toYaml $registry }}
{{- end }}

{{/* What kubelet shall hand over: csiDriver.tokenRequests, and an entry for each further audience that the configuration uses. */}}
{{- define "modelcsi.tokenRequests" -}}
{{- $requests := .Values.csiDriver.tokenRequests | default list -}}
{{- $audiences := list -}}
{{- range $requests }}{{ $audiences = append $audiences .audience }}{{ end -}}
{{- $config := include "modelcsi.config" . | fromYaml -}}
{{- range dig "registry" "service_account_tokens" list $config -}}
{{- $audience := .audience | default "" -}}
{{- if not (has $audience $audiences) -}}
{{- $audiences = append $audiences $audience -}}
{{- $requests = append $requests (dict "audience" $audience) -}}
{{- end -}}
{{- end -}}
{{- toYaml $requests }}
{{- end }}

{{/* Not empty if the driver on nodes asks the API server anything: the rule of cli/cluster.py. */}}
{{- define "modelcsi.asksApi" -}}
{{- $config := include "modelcsi.config" . | fromYaml -}}
{{- $kubernetes := $config.kubernetes | default dict -}}
{{- $registry := $config.registry | default dict -}}
{{- $features := or $kubernetes.events $kubernetes.watch_pods $kubernetes.pull_secrets $kubernetes.node_labels -}}
{{- if or $features $registry.service_account_tokens (kindIs "map" $registry.node_credentials) }}yes{{ end }}
{{- end }}

{{/* Not empty if it does so with the token of its service account. */}}
{{- define "modelcsi.usesToken" -}}
{{- if and (include "modelcsi.asksApi" .) (not (include "modelcsi.config" . | fromYaml | dig "kubernetes" "kubeconfig" "")) }}yes{{ end }}
{{- end }}

{{/* Changes when the driver must be started again: another value of a key that it reads once. Other keys it reads again by itself,
     so a change of those must not roll the pods. */}}
{{- define "modelcsi.restartChecksum" -}}
{{- $config := include "modelcsi.config" . | fromYaml -}}
{{- $values := dict "caBundle" .Values.caBundle -}}
{{- range $path := include "modelcsi.restartKeys" . | fromYamlArray -}}
{{- $place := $config -}}
{{- range $name := splitList "." $path -}}
{{- $place = ternary (index ($place | default dict) $name) nil (kindIs "map" $place) -}}
{{- end -}}
{{- if not (kindIs "invalid" $place) }}{{ $_ := set $values $path $place }}{{ end -}}
{{- end -}}
{{- toJson $values | sha256sum }}
{{- end }}

{{/* (host, file) -> a key that a ConfigMap may have. */}}
{{- define "modelcsi.hostKey" -}}
{{- printf "%s.%s" (index . 0) (index . 1) | replace ":" "_" | replace "[" "" | replace "]" "" }}
{{- end }}
