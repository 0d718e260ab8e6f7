"""Makes ModelPack artifacts of directories (`pack.py`: read this first) and pushes them to registries (`push.py`).

The only package that knows `oras`, and only `client.py` imports it: everything else works where the extra `pack` is not
installed. Pulling, stores and pods are not known here. Used by `cli`; one thread packs, a few upload.
"""
