"""The node's mounts: the mount table, read-only bind mounts on descriptors, and unmounting by what the kernel says.

Knows no volumes, artifacts or records; `volume` calls it. Nothing here follows a symlink, and nothing is removed recursively.
Everything takes descriptors at the point where it matters, so that the calls can move into a smaller, privileged process.
No state: safe from any thread; two calls on the same target must be kept apart by the caller.
"""
