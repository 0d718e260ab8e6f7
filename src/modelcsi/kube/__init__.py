"""The Kubernetes API: events on pods, their imagePullSecrets, whether they are being deleted, labels of the node.

All of it is optional: but for `KubeClient` itself nothing raises at its callers, every request is bounded in time, and what the API
server does not give is logged once and left out. `cli` builds the objects; `volume` and `registry` know them by Protocols
of their own. Any thread may call; `events` and `node_labels` each have a thread that speaks to the server for them.
"""
