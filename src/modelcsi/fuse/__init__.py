"""The processes that answer the kernel for lazy mounts: thin adapters on `view`.

`server` is the loop of one process, `passthrough` the adapter that speaks /dev/fuse itself, `abi` the only place that knows
the kernel's structures. Nothing here fetches, writes to the store or knows a volume. One thread.
"""
