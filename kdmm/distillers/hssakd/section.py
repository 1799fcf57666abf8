"""What ``kd.type`` of the roles builds."""

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

from kdmm.distillers.attach import attach
from kdmm.distillers.hssakd.frame import Augmented, SelfSupervised, check_flags
from kdmm.distillers.hssakd.online import PeerTraining
from kdmm.distillers.hssakd.student import StudentTraining
from kdmm.distillers.hssakd.teaching import FrozenTeacherTraining, TeacherTraining
from kdmm.errors import ConfigError, refuse_unknown
from kdmm.registry import MODELS
from kdmm.renamed import renamed

_COMMON = [name for name in inspect.signature(SelfSupervised).parameters if name != 'student']


@MODELS.register_module(name='HSSAKDTeacher')
def hssakd_teacher(
    student: Mapping[str, Any] | nn.Module,
    joint: bool = False,
    random: bool = False,
    **options: Any,
) -> nn.Module:
    """Train the auxiliary branches of a future teacher (HSSAKD, arXiv 2109.03075, section III-B).

    The result is the classifier itself, as with `distill`. The branches are in the checkpoint's
    entry ``kdmm``, where `hssakd` finds them.

    Args:
        student: Model config of an MMPretrain classifier, or the built one.
        joint: Train the classifier together with its branches (the paper's HSSAKD*). False: the
            classifier is a trained one, frozen in eval mode (HSSAKD).
        random: Allow a frozen classifier of random weights.
        options: See `SelfSupervised`.

    Raises:
        ConfigError: Whatever is wrong with the section.
    """
    refuse_unknown('kd', options, _COMMON)
    check_flags(joint=joint, random=random)
    kind = TeacherTraining if joint else FrozenTeacherTraining
    return attach(student, Augmented, lambda model: kind(model, random, **options))


@MODELS.register_module(name='HSSAKD')
@renamed('kd', tau='temperature')
def hssakd(
    student: Mapping[str, Any] | nn.Module,
    teacher: Mapping[str, Any] | None = None,
    temperature: float = 3.0,
    **options: Any,
) -> nn.Module:
    """Distil a student offline (HSSAKD, arXiv 2109.03075, eq. 8 to 10).

    Args:
        student: Model config of an MMPretrain classifier, or the built one.
        teacher: See `BranchedTeacher`.
        temperature: T.
        options: See `SelfSupervised`.

    Raises:
        ConfigError: Whatever is wrong with the section.
    """
    refuse_unknown('kd', options, _COMMON)
    if teacher is None:
        raise ConfigError('kd.teacher: missing')
    return attach(
        student, Augmented, lambda model: StudentTraining(model, teacher, temperature, **options)
    )


@MODELS.register_module(name='HSSAKDOnline')
@renamed('kd', tau='temperature')
def hssakd_online(
    student: Mapping[str, Any], peers: int = 2, temperature: float = 3.0, **options: Any
) -> nn.Module:
    """Train peers that teach each other (HSSAKD online, arXiv 2109.03075, section III-D).

    Args:
        student: Model config of an MMPretrain classifier; every peer is built from it.
        peers: How many networks.
        temperature: T.
        options: See `SelfSupervised`.

    Raises:
        ConfigError: Whatever is wrong with the section.
    """
    refuse_unknown('kd', options, _COMMON)
    if isinstance(student, nn.Module):
        raise ConfigError('kdmm.HSSAKDOnline: expected the config of a model, got a built one')
    return attach(
        student,
        Augmented,
        lambda model: PeerTraining(model, student, peers, temperature, **options),
    )
