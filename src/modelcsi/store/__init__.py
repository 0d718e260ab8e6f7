"""What this node keeps: verified content, content being written, the trees that pods see, and the records about them.

Nothing has its final name before its digest is verified and its bytes are on the disk. No network, no mounts, no kinds of
artifacts: `pull` decides what is stored, `mount` shows it. One process per root directory (`lock`); every class here may be
used by many threads at once unless its docstring says otherwise. `layout.py` decides every path.
"""
