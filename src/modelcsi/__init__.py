"""A Kubernetes CSI driver that mounts AI models, packaged as OCI artifacts, read-only into pods.

`docs/architecture.md` is the page to read first. Imports between the packages here go down only (`pyproject.toml`, import-linter).
"""
