{{/* The classic sidecars of the node pods; none by default. */}}
{{- define "modelcsi.sidecars" -}}
{{- with .Values.registrar }}
{{- if .enabled }}
- name: model-csi-driver-registrar
  image: {{ include "modelcsi.image" (list .image "") | quote }}
  imagePullPolicy: {{ .image.pullPolicy }}
  args:
    - --csi-address=/csi/csi.sock
    - --kubelet-registration-path={{ include "modelcsi.pluginDir" $ }}/csi.sock
    - --plugin-registration-path=/registration
  securityContext:
    {{- include "modelcsi.sidecarSecurityContext" $ | nindent 4 }}
  resources:
    {{- toYaml .resources | nindent 4 }}
  volumeMounts:
    - {name: plugin-dir, mountPath: /csi}
    - {name: registration-dir, mountPath: /registration}
{{- end }}
{{- end }}
{{- with .Values.livenessprobe }}
{{- if .enabled }}
- name: liveness-probe
  image: {{ include "modelcsi.image" (list .image "") | quote }}
  imagePullPolicy: {{ .image.pullPolicy }}
  args:
    - --csi-address=/csi/csi.sock
    - --http-endpoint=:{{ .port }}
  securityContext:
    {{- include "modelcsi.sidecarSecurityContext" $ | nindent 4 }}
  resources:
    {{- toYaml .resources | nindent 4 }}
  volumeMounts:
    - {name: plugin-dir, mountPath: /csi}
{{- end }}
{{- end }}
{{- end }}
