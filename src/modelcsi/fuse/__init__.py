"""The processes that answer the kernel for lazy mounts: thin adapters on `view`.

`server` is the loop of one process, `passthrough` the adapter that speaks /dev/fuse itself, `abi` the only place that knows
the kernel's structures; `portable` is the other adapter, the only one that imports pyfuse3 and trio. Nothing here fetches,
writes to the store or knows a volume. One thread.
"""
