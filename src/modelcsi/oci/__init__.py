"""The OCI image and distribution specifications as values: references, digests, descriptors, manifests, indexes.

Pure: bytes and text in, values out. No files, sockets, threads or clocks, so every rule here is tested as a function.
Everybody above may use it; it uses `errors` only. All values are immutable and thread-safe.
"""
