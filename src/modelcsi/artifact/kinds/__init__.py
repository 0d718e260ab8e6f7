"""The kinds of artifacts, one module for each family of producers, each offering its `Kind` values.

A kind says which manifests are its own and how their layers are to be read. To add one, write its module here and enter it
in the table of `artifact/artifact.py`, whose order decides. Pure, like the package around it, which alone may call it.
"""
