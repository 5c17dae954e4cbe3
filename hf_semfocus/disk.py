"""Whether writing failed because the disk is full, which three libraries say in three ways."""

from __future__ import annotations

import errno

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
BROKEN = ("basic_ios::clear: iostream error", ". unexpected pos ")


def no_space(error: BaseException) -> bool:
    """Whether an exception says that a disk, a quota or a file-size limit is full.

    The operating system gives a number, safetensors spells it, and PyTorch only tells that its stream broke.
    """
    said = str(error)
    return (
        getattr(error, "errno", None) in FULL
        or any(f"(os error {number})" in said for number in FULL)
        or (isinstance(error, RuntimeError) and any(part in said for part in BROKEN))
    )
