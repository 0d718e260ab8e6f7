"""The command line, and the only place that builds the program's objects (`node.py` for the driver).

A command parses its flags, builds what it needs, runs, and turns errors into an exit status: 0 done, 1 failed, 2 wrong
usage. Everything else is decided in the packages below. Imports of a command happen when it runs, so that `--help` is quick.
"""
