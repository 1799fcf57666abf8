"""The holistic term of structured distillation (arXiv 1903.04197)."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..functional import (
    distributed,
    hinge_discriminator,
    hinge_generator,
    sum_over_ranks,
    world_size,
)
from ..registry import MODELS
from .checks import check_channels, check_maps, check_positive
from .discriminator import Discriminator, too_small


@MODELS.register_module()
class AdversarialLoss(nn.Module):
    """Minus a discriminator's mean score of the student's logits, in which the teacher's are real.

    The discriminator D learns in :meth:`after_step`, with Adam, from ``d_weight`` times its hinge
    loss (of which Adam sees the factor only beside its epsilon). Outside that method none of its
    parameters requires a gradient: the student's optimizer, its DDP and its backward pass leave
    them alone. D's gradient is the mean over all ranks. D, its moments and its spectral vectors are
    part of the state, so a resumed run goes on to the bit.

    As CIRKD's code for the baselines, except that there every rank trains a D of its own. The
    authors of SKD, IFVD and CWD use a Wasserstein D with gradient penalty instead.

    While its weight is 0 the term is not computed and D does not learn.

    Args:
        student_channels: Classes K of the logits.
        d_weight: Factor of D's loss.
        lr: D's learning rate.
        betas: Decay rates of Adam's moments.
        width: Of D, see :class:`Discriminator`.
        norm_cfg: Norm of D's input; ``'auto'``: SyncBN on several GPUs, else BN. None: no norm.
    """

    needs: ClassVar[tuple[str, ...]] = ()
    stateful: ClassVar[bool] = False
    moment: Tensor
    square: Tensor
    steps: Tensor

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
        check_positive('AdversarialLoss', d_weight=d_weight, lr=lr)  # else D would never learn
        self.channels = (student_channels, student_channels)
        self.d_weight, self.lr, self.betas = d_weight, lr, betas
        self.discriminator = Discriminator(student_channels, width, norm_cfg).requires_grad_(False)
        size = sum(parameter.numel() for parameter in self.discriminator.parameters())
        self.register_buffer('moment', torch.zeros(size))
        self.register_buffer('square', torch.zeros(size))
        self.register_buffer('steps', torch.zeros((), dtype=torch.long))
        self.logged: dict[str, Tensor] = {}
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
            raise ValueError(
                'AdversarialLoss: the discriminator needs logits of at least '
                f'{Discriminator.min_side} x {Discriminator.min_side}, got student '
                f'{tuple(student.shape)}, teacher {tuple(teacher.shape)}. Train on larger crops '
                '(at stride 8 of 512 x 512) or leave this term out'
            )

    def forward(self, student: Tensor, teacher: Tensor, **_: Any) -> Tensor:
        """Student and teacher logits (B, K, h, w) -> a scalar, mean over B and D's positions.

        In training, the pair is kept for :meth:`after_step`.

        Raises:
            ValueError: See :meth:`check`.
            RuntimeError: If nobody called :meth:`after_step` since the last training batch.
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
        return hinge_generator(self.discriminator(student))

    def after_step(self) -> None:
        """One step of D on the logits of the last training batch, if there was one.

        ``logged`` then holds D's loss ``d`` and its mean scores ``real`` (teacher) and ``fake``
        (student), of this rank's images.
        """
        if self._pair is None:
            return
        (student, teacher), self._pair = self._pair, None
        self.discriminator.requires_grad_(True)
        try:
            with torch.enable_grad():
                real, fake = self.discriminator(teacher), self.discriminator(student)
                loss = self.d_weight * hinge_discriminator(fake, real)
                grads = torch.autograd.grad(loss, list(self.discriminator.parameters()))
        finally:
            self.discriminator.requires_grad_(False)
        mean = sum_over_ranks(torch.cat([grad.flatten() for grad in grads])) / world_size()
        self._adam(mean)
        self.logged = dict(d=loss.detach(), real=real.detach().mean(), fake=fake.detach().mean())

    def _agree(self) -> None:
        """Once: let all ranks have the first one's D.

        DDP sends them its parameters, but not the spectral vectors: MMEngine tells it to leave
        buffers alone.
        """
        if not self._agreed and distributed():
            for tensor in self.state_dict().values():
                dist.broadcast(tensor, 0)
        self._agreed = True

    @torch.no_grad()
    def _adam(self, grad: Tensor, eps: float = 1e-8) -> None:
        """Adam (arXiv 1412.6980) on all of D's parameters as one vector.

        Its state is three buffers and no ``torch.optim`` object, so that it moves, is saved and is
        sent to other ranks with the module.
        """
        self.steps += 1
        beta_m, beta_s = self.betas
        self.moment.lerp_(grad, 1 - beta_m)
        self.square.mul_(beta_s).addcmul_(grad, grad, value=1 - beta_s)
        unbias_m, unbias_s = (1 - beta ** self.steps.double() for beta in self.betas)
        step = self.lr * (self.moment / unbias_m) / ((self.square / unbias_s).sqrt() + eps)
        parameters = list(self.discriminator.parameters())
        parts = step.split([parameter.numel() for parameter in parameters])
        for parameter, part in zip(parameters, parts, strict=True):
            parameter.sub_(part.view_as(parameter))
