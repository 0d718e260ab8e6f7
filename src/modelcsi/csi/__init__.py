"""The gRPC side: CSI's Identity, Node and Controller services as thin adapters over the use cases of `volume`.

Here a request becomes values, an error becomes a code, and secrets stay out of logs. What is done with a volume is decided
in `volume`, not here. `cli` builds the server; nobody else imports this package, and `grpc` is imported nowhere else.
Methods of the services run in many threads at once; the services keep no state.
"""
