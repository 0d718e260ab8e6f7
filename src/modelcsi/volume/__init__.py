"""The use cases of a CSI volume: publish, unpublish, stats, restore at start. Read `volumes.py` first.

Joins pull jobs, views and mounts; knows nothing of gRPC, of Kubernetes' API, or of how a model arrives. Every method may
be called by any number of threads and repeated: each step can be done again, and a kill between any two is repaired by
`Volumes.restore`.
"""
