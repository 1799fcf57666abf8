"""`MoCoCohort`: MoCo models that are trained together."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from kdmm.datasets.batches import may_be_uneven
from kdmm.distillers.cohort.members import build_others, other_configs, refuse_one_start
from kdmm.distillers.loss_weights import weights_by_part
from kdmm.distillers.mcl_moco.encoders import check_networks, enqueue, keys_of, queries_of
from kdmm.distillers.objective import Objective, OwnLosses, register_objective
from kdmm.errors import ConfigError
from kdmm.functional import collective, mutual_queue_contrast
from kdmm.schedules import Progress, build_schedule


@register_objective('MCLMoCo')
class MoCoCohort(Objective):
    """N MoCos on two views of a batch: VCL, SoftVCL, ICL and SoftICL (arXiv 2104.12565).

    The student's own loss is its part of VCL, and is not computed again. The temperature of the
    similarities is ``model.head.temperature``. Queues, pointers and key encoders are the networks'
    own buffers and modules, as MMPretrain's MoCo has them.

    Args:
        student: The first MoCo, the one that the run keeps as its model.
        config: Its model config, of which the others are made unless they are given.
        peers: See `other_configs`.
        temperature: T of the soft terms, on top of the head's; a number or a schedule.
        weight: A number or a schedule for all terms, or a dict of those by ``vcl``, ``soft_vcl``,
            ``icl`` and ``soft_icl``.
        channels_last: Use this memory format for the views and all networks.
    """

    parts: ClassVar[tuple[str, ...]] = ('vcl', 'soft_vcl', 'icl', 'soft_icl')
    from_config = True
    results = ('peers.',)
    progress = Progress()

    def __init__(
        self,
        student: nn.Module,
        config: Mapping[str, Any],
        peers: int | Sequence[Any] = 2,
        temperature: Any = 3.0,
        weight: Any = 1.0,
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        check_networks({'the student': student})
        self._student: tuple[Any] = (student,)  # in a tuple, it is no child
        self.peers = nn.ModuleDict(build_others(other_configs(peers, config), 0, student))
        check_networks({'the student': student, **self.peers})
        self.temperature = build_schedule(temperature, 'kd.temperature')
        if not self.temperature(Progress()) > 0:
            raise ConfigError(key='kd.temperature', got=temperature, expected='a positive number')
        self.weights = weights_by_part(weight, self.parts)
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        if channels_last:
            student.to(memory_format=torch.channels_last)
            self.peers.to(memory_format=torch.channels_last)
        self.hooks.append(dict(type='kdmm.PeersHook'))
        self._log_setup(student)

    def forward(
        self, own: OwnLosses, inputs: Any, samples: Sequence[Any] | None
    ) -> dict[str, Tensor]:
        """Compute the weighted terms of one batch, ``kd.loss_<part>``; its keys enter the queues.

        Args:
            own: Not called.
            inputs: The query view and the key view, (B, 3, H, W) each.
            samples: Not read.

        Raises:
            ConfigError: If there are not two views.
        """
        queried, keyed = _two_views(inputs)
        (student,) = self._student
        networks: list[Any] = [student, *self.peers.values()]
        queries = queries_of(networks, queried.contiguous(memory_format=self.layout))
        keys = keys_of(networks, keyed, self.layout)
        queues = torch.stack([net.queue.T for net in networks])  # a copy, (N, K, D)
        temperature = self.temperature(self.progress)
        terms = mutual_queue_contrast(queries, keys, queues, student.head.temperature, temperature)
        enqueue(networks, keys)
        return {
            f'kd.loss_{part}': self.weights.now(part) * value
            for part, value in terms._asdict().items()
        }

    def set_progress(self, progress: Progress) -> None:
        """Move the weights and the temperature."""
        self.progress = progress
        self.weights.set_progress(progress)

    def check_start(self, loaded: bool, resumed: bool = False) -> None:
        """Refuse weights for the student alone."""
        refuse_one_start(loaded, resumed)

    def see_loader(self, loader: Any) -> None:
        """Refuse batches of which MMPretrain's queue would not take a whole number.

        Its shuffle of images across ranks needs equally many of each.
        """
        if may_be_uneven(loader):
            raise ConfigError(
                'ranks may have different numbers of images in a step, and MoCo shuffles them '
                'across ranks',
                key='train_dataloader',
                fix='Set drop_last=True, or round_up=True of its sampler.',
            )
        length = next(iter(self.networks().values())).queue_len
        if loader.batch_size is None:  # a batch sampler's, which may vary
            return
        batch = loader.batch_size * collective.world_size()
        if length % batch:
            raise ConfigError(
                key='model.queue_len',
                got=length,
                expected=f'a multiple of the batch of all ranks, {batch}',
                fix='Change it, or train_dataloader.batch_size.',
            )

    def networks(self) -> dict[str, Any]:
        """The networks beside the student, ``peer1`` and so on."""
        return dict(self.peers.items())

    def facts(self) -> list[str]:
        """As the base, with the parts that are weighted."""
        return [f'parts {" + ".join(self.parts)}', *super().facts()]

    def _log_setup(self, student: Any) -> None:
        size, length = student.queue.shape
        mebibytes = (len(self.peers) + 1) * student.queue.nbytes / 2**20
        print_log(
            f'MCL on {len(self.peers) + 1} MoCos: queues of {length} rows of length {size}, '
            f'{mebibytes:.0f} MiB on each device; temperature {student.head.temperature:g}; '
            f'weights {self.weights.describe()}',
            'current',
        )


def _two_views(inputs: Any) -> Sequence[Tensor]:
    if not isinstance(inputs, list | tuple) or len(inputs) != 2:
        got = f'{len(inputs)} views' if isinstance(inputs, list | tuple) else 'one view'
        raise ConfigError(
            f'it gives {got} of each image',
            key='train_dataloader.dataset.pipeline',
            expected="dict(type='MultiView', num_views=2, transforms=[...]) before PackInputs",
        )
    return inputs
