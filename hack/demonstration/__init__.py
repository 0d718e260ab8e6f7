"""`hack/demo`: the whole way of a model, on real parts: a registry, the driver, its CSI socket, the kernel's mounts.

`__main__.py` is the story; the other modules are its props. Everything lives in one temporary directory, and what is acquired
is registered on one stack, whose unwinding leaves the machine as it was.
"""
