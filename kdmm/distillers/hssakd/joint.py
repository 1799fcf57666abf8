"""The terms of HSSAKD's objective, by branch."""

from collections.abc import Mapping

from torch import Tensor
from torch.nn import functional as F

from kdmm.functional import kl_divergence, promote


def joint_cross_entropy(joint: Mapping[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
    """CE of each branch's logits (4B, 4C) with the joint labels (4B,)."""
    return {f'joint_{name}': F.cross_entropy(promote(q), labels) for name, q in joint.items()}


def branch_divergence(
    student: Mapping[str, Tensor], teacher: Mapping[str, Tensor], temperature: float
) -> dict[str, Tensor]:
    """``T^2 KL(teacher || student)`` of each pair of branches, matched in order."""
    pairs = zip(student.items(), teacher.values(), strict=True)
    return {name: kl_divergence(mine, theirs, temperature) for (name, mine), theirs in pairs}
