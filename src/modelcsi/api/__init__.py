"""HTTP on the node: metrics and health over TCP, the control socket of `status` and `cache`, and the socket in each dynamic
volume, whose clients are pods and may be hostile.

Only adapters: what is answered comes from `Metrics`, a readiness question, the `Control` protocol, or a `DynamicVolume`.
Each connection has a thread of its own, answers one request and ends; slow clients cost themselves time, nobody else.
`client` is the other end of the control socket, for the command line.
"""
