"""The kinds of artifacts, one module for each family of producers, each offering its `Kind` values.

A kind says which manifests are its own and how their layers are to be read. To add one: write its module here, with the
helpers of `reading` and `names`; enter it in the table of `artifact/artifact.py`, whose order decides; add what it pushes
to tests/producers.py and a row to docs/artifacts.md, which a test compares. Pure, like the package around it, which alone
may call it.
"""
