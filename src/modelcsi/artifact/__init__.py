"""What a manifest means as files: its kind, its layers, their members, and the tree that a pod sees.

Pure: values and bytes in, values and events out. No files, sockets, threads or clocks; all rules about names, links, modes
and hostile archives live here and nowhere else. It fetches, decompresses and writes nothing: `pull` and `store` do.
`store`, `pull`, `view` and everything above may use it; it uses `oci` and `errors`. Values are immutable and thread-safe,
a `TarParser` belongs to one thread.
"""
