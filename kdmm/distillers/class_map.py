"""`ClassMap`, for networks whose sets of classes differ."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kdmm.errors import ConfigError, ShapeError
from kdmm.functional.maps import full_precision, promote
from kdmm.registry import MODELS

Entry = int | Sequence[int] | None


@MODELS.register_module()
class ClassMap(nn.Module):
    """Reduce both logit maps to the classes that the two networks share.

    For each class of the student, ``classes`` says which of the teacher's it is: an index; a list
    of indices that the student does not tell apart (their logits are merged by log-sum-exp, so that
    at temperature 1 their probabilities add up); or None where the teacher does not know it.
    Classes of the teacher that nothing points to are left out. Both softmaxes then run over the
    shared classes, in the student's order.

    Pixels labelled with a class that the teacher does not know become ``ignore_index`` in the
    labels that the loss sees (the others the index among the shared classes), and a loss that
    counts ignored pixels is refused.

    Args:
        classes: One entry for each class of the student.
        student_channels: K_s, filled in by the Distiller.
        teacher_channels: K_t, filled in by the Distiller.
        ignore_index: The ignored label, filled in by the Distiller.

    Raises:
        ConfigError: If the length is not K_s, an index is not in range(K_t) or used twice, nothing
            is shared, or a class is None while ``ignore_index`` is itself a class.
    """

    def __init__(
        self,
        classes: Sequence[Entry],
        student_channels: int,
        teacher_channels: int,
        ignore_index: int = 255,
    ) -> None:
        super().__init__()
        counts = f'the student has {student_channels} classes, the teacher {teacher_channels}'
        groups = [_group(entry, counts) for entry in classes]
        if len(groups) != student_channels:
            problem = f'{len(groups)} entries, but {counts}'
            raise ConfigError(problem, key='classes', got=[*classes])
        used = [index for group in groups for index in group]
        _check_indices(used, teacher_channels, counts)
        self.shared = [k for k, group in enumerate(groups) if group]
        self.groups = [group for group in groups if group]
        self.num_classes = len(self.shared)
        #: Whether the teacher lacks a class of the student's.
        self.absent = self.num_classes < len(groups)
        if self.absent and 0 <= ignore_index < student_channels:
            raise ConfigError(f'it is a class: {counts}', key='ignore_index', got=ignore_index)
        self._add('_of_student', self.shared)
        self._add('_of_teacher', [group[0] for group in self.groups])
        compact = {k: index for index, k in enumerate(self.shared)}
        self._add('_compact', [compact.get(k, ignore_index) for k in range(len(groups))])

    def forward(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """(B, K_s, ...), (B, K_t, ...) -> both (B, K, ...) with the K shared classes.

        Raises:
            ValueError: If the class counts are not those of the map; with both shapes.
        """
        counts = (len(self._compact), max(map(max, self.groups)) + 1)
        if student.shape[1] != counts[0] or teacher.shape[1] < counts[1]:
            raise ShapeError(
                f'ClassMap maps {counts[0]} classes to {counts[1]} or more',
                'declared channels',
                student=student,
                teacher=teacher,
            )
        student = student.index_select(1, self._of_student) if self.absent else student
        return student, self._merge(teacher)

    def remap(self, labels: Tensor) -> Tensor:
        """Labels of the student's classes, any shape -> of the shared ones, others ignored.

        Values that are no class stay as they are.
        """
        known = (labels >= 0) & (labels < len(self._compact))
        return torch.where(known, self._compact[labels.clamp(0, len(self._compact) - 1)], labels)

    def _merge(self, teacher: Tensor) -> Tensor:
        merged = {k: group for k, group in enumerate(self.groups) if len(group) > 1}
        if not merged:
            return teacher.index_select(1, self._of_teacher)
        with full_precision(teacher):
            full = promote(teacher)
            planes = list(full.index_select(1, self._of_teacher).unbind(1))
            for k, group in merged.items():
                planes[k] = full[:, group].logsumexp(1)
            return torch.stack(planes, 1)

    def _add(self, name: str, values: Sequence[int]) -> None:
        self.register_buffer(name, torch.tensor(values), persistent=False)

    _of_student: Tensor
    _of_teacher: Tensor
    _compact: Tensor


def _group(entry: Entry, counts: str) -> list[int]:
    group = [] if entry is None else [entry] if isinstance(entry, int) else list(entry)
    if any(type(index) is not int for index in group) or (entry is not None and not group):
        raise ConfigError(
            counts,
            key='classes',
            got=entry,
            expected='as an entry an index, a list of indices or None',
        )
    return group  # type: ignore[return-value]


def _check_indices(used: Sequence[int], teacher_channels: int, counts: str) -> None:
    if not used:
        raise ConfigError(f'no class is shared: {counts}', key='classes')
    for index in used:
        if not 0 <= index < teacher_channels:
            problem = f'class {index} is none of the teacher: {counts}'
            raise ConfigError(problem, key='classes', got=[*used])
        if used.count(index) > 1:
            problem = f'class {index} of the teacher is used twice: {counts}'
            raise ConfigError(problem, key='classes', got=[*used])
