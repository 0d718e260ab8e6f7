"""HTTP for people and machines on the node: metrics and health over TCP, and the control socket of `status` and `cache`.

Only adapters: what is answered comes from `Metrics`, a readiness question, and the `Control` protocol, which `cli` passes in.
Each connection has a thread of its own, answers one request and ends; slow clients cost themselves time, nobody else.
`client` is the other end of the control socket, for the command line.
"""
