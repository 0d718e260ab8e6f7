"""Brings artifacts into the store: resolves, joins or starts the one job per artifact, moves and verifies the bytes.

A pull outlives the call that asked for it (`puller.py`: read this first). Knows registries and the store; knows no mounts,
no pods and no CSI. `ensure` may be called by any number of threads; every other thread here is the package's own and a
daemon: the process may end, or be killed, at any moment, and what was received is resumed.
"""
