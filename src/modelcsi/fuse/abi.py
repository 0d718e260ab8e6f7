"""What the kernel says on /dev/fuse and how it is answered: linux/fuse.h as far as a read-only filesystem needs it.

The protocol's version 7.40 (Linux 6.9) is answered; what a newer kernel adds is negotiated by flags or met with ENOSYS. Native
byte order; the structures have no implicit padding.
"""

from __future__ import annotations

import enum
from struct import Struct

MAJOR, MINOR = 7, 40

HEADER = Struct("=IIQQIIIHH")  # len opcode unique nodeid uid gid pid total_extlen padding
REPLY = Struct("=IiQ")  # len -errno unique

INIT_IN = Struct("=4I")  # major minor max_readahead flags
INIT_FLAGS2 = Struct("=I")  # behind INIT_IN, with InitFlag.INIT_EXT
INIT_OUT = Struct("=4IHHIIHHIIH22x")
# major minor max_readahead flags max_background congestion_threshold max_write time_gran max_pages map_alignment flags2
# max_stack_depth request_timeout
ATTRIBUTES = Struct(
    "=6Q10I"
)  # ino size blocks atime mtime ctime, their nanoseconds, mode nlink uid gid rdev blksize flags
ENTRY_OUT = Struct(
    "=4Q2I"
)  # nodeid generation entry_valid attr_valid entry_valid_nsec attr_valid_nsec; then ATTRIBUTES
ATTR_OUT = Struct("=Q2I")  # attr_valid attr_valid_nsec 0; then ATTRIBUTES
OPEN_IN = Struct("=2I")  # flags open_flags
OPEN_OUT = Struct("=QIi")  # fh open_flags backing_id
READ_IN = Struct("=QQI")  # fh offset size; more follows. READDIR's and READDIRPLUS' too
RELEASE_IN = Struct("=Q")  # fh; more follows
INTERRUPT_IN = Struct("=Q")  # unique
DIRENT = Struct("=QQII")  # ino offset namelen type; then the name, padded to 8
STATFS_OUT = Struct("=5Q4I24x")  # blocks bfree bavail files ffree bsize namelen frsize 0
NOTIFY_INVAL_INODE = Struct("=Qqq")  # ino offset length

NOTIFY_CODE_INVAL_INODE, NOTIFY_CODE_RESEND = 2, 7
NOTIFY_RESEND = REPLY.pack(REPLY.size, NOTIFY_CODE_RESEND, 0)
"""All requests that were read and not answered come again."""

RESENT = 1 << 63
"""In a request's `unique`: it came before, to somebody who may have died before or after doing it. Answered as it was read."""

READ_BUFFER_BYTES = 16 << 10
"""At least `max_write` + 4 KiB, or read(2) says EINVAL; nothing is ever written, so it may be small."""
MAX_WRITE_BYTES = 4096
MAX_READ_BYTES = 1 << 20
READ_AHEAD_BYTES = 64 << 20
"""No limit: the kernel takes the smaller of this and what the mount's `read_ahead_kb` is when INIT is answered, and offers the
128 KiB from before the driver raised that."""

IOCTL_BACKING_OPEN = 0x4010E501
IOCTL_BACKING_CLOSE = 0x4004E502
BACKING_MAP = Struct("=iIQ")  # fd flags padding
BACKING_ID = Struct("=I")


class Opcode(enum.IntEnum):
    """What is asked."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    READLINK = 5
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    SETXATTR = 21
    GETXATTR = 22
    LISTXATTR = 23
    REMOVEXATTR = 24
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    FSYNCDIR = 30
    ACCESS = 34
    CREATE = 35
    INTERRUPT = 36
    DESTROY = 38
    BATCH_FORGET = 42
    FALLOCATE = 43
    READDIRPLUS = 44
    RENAME2 = 45
    COPY_FILE_RANGE = 47
    TMPFILE = 51


class InitFlag(enum.IntFlag):
    """What both sides can do; from bit 32 on in `flags2`."""

    ASYNC_READ = 1 << 0
    DO_READDIRPLUS = 1 << 13
    READDIRPLUS_AUTO = 1 << 14
    PARALLEL_DIROPS = 1 << 18
    MAX_PAGES = 1 << 22
    CACHE_SYMLINKS = 1 << 23
    NO_OPENDIR_SUPPORT = 1 << 24
    EXPLICIT_INVAL_DATA = 1 << 25
    INIT_EXT = 1 << 30
    DIRECT_IO_ALLOW_MMAP = 1 << 36
    PASSTHROUGH = 1 << 37
    HAS_RESEND = 1 << 39
    ALLOW_IDMAP = 1 << 40


class OpenFlag(enum.IntFlag):
    """How the kernel treats an open file."""

    KEEP_CACHE = 1 << 1
    NOFLUSH = 1 << 5
    """close(2) asks nobody."""
    PASSTHROUGH = 1 << 7
