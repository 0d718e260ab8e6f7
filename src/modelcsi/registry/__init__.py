"""The OCI distribution protocol, the pull side: hosts, TLS, credentials, tokens, manifests and blobs (distribution-spec, "Pull").

What belongs elsewhere: what a manifest means (`oci`, `artifact`), where bytes go (`store`), when to ask again (`pull`).
Called by `pull`, `volume` and `cli`. Every foreign exception ends here as one of `errors`. All objects may be shared by
threads; a `BlobStream` is read by one thread, and may be closed by another.
"""
