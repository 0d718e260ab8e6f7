"""A tree of files that can be read before all of it is here.

`plan` and `fill` are what the driver tells a FUSE server through files, `wire` what both say over a socket, `view` the reading
itself. Pure Python: no kernel is needed to test it. A server process imports this package and nothing heavy with it.
"""
