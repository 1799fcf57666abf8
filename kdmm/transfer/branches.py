"""Networks that share a trunk: each has its own last stages in the same file."""

import re
from collections.abc import Iterable

BRANCH = re.compile(r'([a-z]+\d?)_(\d+)\.(.+)')  # layer3_0.1.conv1.weight


def in_branch(key: str, branch: int | None) -> str | None:
    """The key of one network in a file of several that share a trunk; None if it is another's.

    MCL's and MCL-OKD's ImageNet ResNets have ``layer3_0.``, ``layer4_0.``, ``classifier_0.`` and so
    on behind a shared ``layer2.``.
    """
    match = BRANCH.fullmatch(key) if branch is not None else None
    if match is None:
        return key
    return f'{match[1]}.{match[3]}' if int(match[2]) == branch else None


def branches(keys: Iterable[str]) -> list[int]:
    """The branches that keys speak of."""
    return sorted({int(match[2]) for key in keys if (match := BRANCH.fullmatch(key))})
