"""The holistic term of structured distillation (arXiv 1903.04197)."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from kdmm.errors import ShapeError

from ..functional import distributed, hinge_discriminator, hinge_generator
from ..registry import MODELS
from .base import Batch, DistillLoss, OwnedOptimizer
from .checks import check_channels, check_maps, check_positive
from .discriminator import Discriminator, too_small


@MODELS.register_module()
class AdversarialLoss(DistillLoss):
    """Negative mean score of the student's logits by a discriminator; the teacher's are real.

    The discriminator D learns in :meth:`after_step`, with Adam, from ``d_weight`` times its hinge
    loss (Adam removes the factor up to its epsilon). Its gradient is the mean over all
    ranks. Its optimizer is the loss's own, see `OwnedOptimizer`. D, the optimizer's state and D's
    spectral vectors are part of the state, so a resumed run goes on to the bit.

    In CIRKD's code for the baselines every rank trains its own D. The authors of SKD, IFVD and CWD
    use a Wasserstein D with gradient penalty.

    While its weight is 0 the term is not computed and D does not learn.

    Args:
        student_channels: Classes K of the logits.
        d_weight: Factor of D's loss.
        lr: D's learning rate.
        betas: Decay rates of Adam's moments.
        width: Of D, see :class:`Discriminator`.
        norm_cfg: Norm of D's input; ``'auto'``: SyncBN on several GPUs, else BN. None: no norm.
    """

    one_activation = True

    def __init__(
        self,
        student_channels: int,
        d_weight: float = 0.1,
        lr: float = 4e-4,
        betas: Sequence[float] = (0.9, 0.99),
        width: int = 64,
        norm_cfg: dict[str, Any] | str | None = 'auto',
    ) -> None:
        super().__init__()
        check_positive(d_weight=d_weight, lr=lr)  # else D would never learn
        self.channels = (student_channels, student_channels)
        self.d_weight, self.lr = d_weight, lr
        self.discriminator = Discriminator(student_channels, width, norm_cfg)
        self.optimizer = OwnedOptimizer(
            self.discriminator, partial(torch.optim.Adam, lr=lr, betas=(betas[0], betas[1]))
        )
        self._pair: tuple[Tensor, Tensor] | None = None
        self._agreed = False

    def check(self, student: Tensor, teacher: Tensor) -> None:
        """Refuse logits that cannot be compared or are too small for D.

        Raises:
            ValueError: With both shapes.
        """
        check_maps('AdversarialLoss', student, teacher, channels=True)
        check_channels('AdversarialLoss', student, teacher, self.channels)
        if too_small(student.shape):
            raise ShapeError(
                'AdversarialLoss: the discriminator needs logits of at least '
                f'{Discriminator.min_side} x {Discriminator.min_side}',
                'small',
                'Give larger maps.',
                student=student,
                teacher=teacher,
            )

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Student and teacher logits (B, K, h, w) -> a scalar, mean over B and D's positions.

        In training, the pair is kept for :meth:`after_step`.

        Raises:
            ValueError: See :meth:`check`.
            RuntimeError: If :meth:`after_step` was not called since the last training batch.
        """
        self.check(student, teacher)
        if self.training and torch.is_grad_enabled():
            if self._pair is not None:
                raise RuntimeError(
                    'AdversarialLoss: a second training batch came before after_step(), so its '
                    'discriminator would never learn. kdmm.DistillHook calls it after every '
                    "iteration: add it to custom_hooks, or train with kdmm's tools/train.py"
                )
            self._pair = (student.detach(), teacher.detach())
            self._agree()
        # (B, K, h, w) -> scores (B, 1, h // 16 - 3, w // 16 - 3) -> ()
        return hinge_generator(self.discriminator(student))

    def after_step(self, batch: Batch) -> None:
        """Train D by one step on the logits of the last training batch, if there was one.

        ``logged`` then holds D's loss ``d`` and its mean scores ``real`` (teacher) and ``fake``
        (student), of this rank's images.
        """
        if self._pair is None:
            return
        (student, teacher), self._pair = self._pair, None
        with self.optimizer.learning():
            # (B, K, h, w) -> (B, 1, h // 16 - 3, w // 16 - 3), each
            real, fake = self.discriminator(teacher), self.discriminator(student)
            loss = self.d_weight * hinge_discriminator(fake, real)
            for group in self.optimizer.optimizer.param_groups:
                group['lr'] = self.lr  # may be a schedule
            self.optimizer.step(loss)
        self.logged = dict(d=loss.detach(), real=real.detach().mean(), fake=fake.detach().mean())

    def upgrade(self, state: dict[str, Any], prefix: str) -> None:
        """Turn the three buffers of kdmm 0.1 into the state of `torch.optim.Adam`.

        ``moment`` and ``square`` were the moments of all of D's parameters as one vector.
        """
        if f'{prefix}moment' not in state:
            return
        moment, square, steps = (
            state.pop(f'{prefix}{key}') for key in ('moment', 'square', 'steps')
        )
        parameters = list(self.discriminator.parameters())
        sizes = [parameter.numel() for parameter in parameters]
        adam = self.optimizer.optimizer.state_dict()
        if int(steps):
            adam['state'] = {
                index: dict(
                    step=torch.tensor(float(steps)),
                    exp_avg=first.view_as(parameter).clone(),
                    exp_avg_sq=second.view_as(parameter).clone(),
                )
                for index, (parameter, first, second) in enumerate(
                    zip(parameters, moment.split(sizes), square.split(sizes), strict=True)
                )
            }
        state[f'{prefix}optimizer._extra_state'] = adam

    def _agree(self) -> None:
        """Broadcast the first rank's D, once.

        DDP sends its parameters but not the spectral vectors, since MMEngine switches buffers off.
        """
        if not self._agreed and distributed():
            for tensor in self.discriminator.state_dict().values():
                dist.broadcast(tensor, 0)
        self._agreed = True
