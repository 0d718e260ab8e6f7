"""A tar of one file, with the same bytes for the same file everywhere.

As modctl writes it: one regular member under its full relative path, no directories, POSIX ustar, a pax header only where
ustar cannot say it (over 8 GiB, long or non-ASCII names), two zero blocks at the end. Other than modctl, owners are 0 and
nameless: who packed a model does not change its digest. The standard library writes the header; only reading tars is own
code (`artifact.tar`), because only that meets hostile input.
"""

from __future__ import annotations

import tarfile

from modelcsi.pack.walk import SourceFile


def tar_head(file: SourceFile, mtime_seconds: int) -> bytes:
    """What comes before the file's bytes."""
    member = tarfile.TarInfo(file.path)
    member.size = file.size
    member.mode = file.mode
    member.mtime = mtime_seconds
    try:
        # ASCII: ustar has no encoding, and readers disagree about it. UnicodeEncodeError is a ValueError.
        return member.tobuf(tarfile.USTAR_FORMAT, encoding="ascii", errors="strict")
    except ValueError:
        return member.tobuf(tarfile.PAX_FORMAT, encoding="utf-8", errors="strict")


def tar_tail(file: SourceFile) -> bytes:
    """What comes after them: padding to a whole block, and the end."""
    return bytes(-file.size % tarfile.BLOCKSIZE + 2 * tarfile.BLOCKSIZE)
