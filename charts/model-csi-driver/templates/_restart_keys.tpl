{{/* Written by hack/gen-chart from src/modelcsi/config/model.py: the keys that are read at start only. */}}
{{- define "modelcsi.restartKeys" -}}
- csi_endpoint
- fuse.adapter
- fuse.holder
- kubelet_registration_dir
- kubelet_registration_path
- kubernetes.events
- kubernetes.kubeconfig
- kubernetes.node_labels
- kubernetes.pull_secrets
- kubernetes.watch_pods
- metrics_addr
- publish_slots
- pull_config.memory_budget
- pull_config.parallel_pulls
- root_dir
- service_name
{{- end }}
