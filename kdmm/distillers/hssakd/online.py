"""Online HSSAKD: peers learn the joint task and each other's logits, without a teacher."""

from collections.abc import Mapping, Sequence
from itertools import permutations
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from kdmm.distillers.cohort.members import build_peer, refuse_one_start
from kdmm.distillers.hssakd.branches import (
    BranchedForward,
    BranchedOutput,
    branch_divergence,
    joint_cross_entropy,
)
from kdmm.distillers.hssakd.objective import SelfSupervised, check_temperature
from kdmm.distillers.objective import register_objective
from kdmm.distillers.stage_branches import make_branches
from kdmm.errors import ConfigError
from kdmm.functional.divergence import kl_divergence
from kdmm.renamed import renamed


class Peer(nn.Module):
    """Further network of the student's architecture, with its own branches.

    Args:
        config: The student's model config; built and initialised anew.
        owner: Its name in errors.
        options: Of its branches.
    """

    def __init__(self, config: Mapping[str, Any], owner: str, **options: Any) -> None:
        super().__init__()
        self.network = build_peer(config)
        self.branches = make_branches(self.network, owner=owner, per_class=4, **options)
        self.branched = BranchedForward(self.network, self.branches, owner)


@register_objective('HSSAKDOnline')
@renamed('kd', tau='temperature')
class PeerTraining(SelfSupervised):
    """Train peers that learn from each other (HSSAKD online, arXiv 2109.03075, section III-D).

    For each peer the teacher's losses, and both directions of KL between each pair.

    Between N peers the KL terms are the sum over ordered pairs over N - 1, which is the paper's sum
    for two. Each direction gives its gradient to the network that learns.

    Args:
        student: The first peer, the one that the run keeps as its model.
        config: Its model config; the others are built from it.
        peers: How many networks, with the first.
        temperature: T of all KL terms.
        options: See `SelfSupervised`. The parts are ``joint`` (CE of the q_l), ``logits`` (KL of p)
            and ``branches`` (KL of the q_l).
    """

    parts: ClassVar[tuple[str, ...]] = ('joint', 'logits', 'branches')
    from_config = True
    results = ('',)  # branches and peers

    def __init__(
        self,
        student: nn.Module,
        config: Mapping[str, Any],
        peers: int = 2,
        temperature: float = 3.0,
        **options: Any,
    ) -> None:
        if type(peers) is not int or peers < 2:
            raise ConfigError(key='kd.peers', got=peers, expected='2 networks or more')
        check_temperature(temperature)
        super().__init__(student, **options)
        same = {key: options[key] for key in ('stages', 'checkpointing') if key in options}
        self.peers = nn.ModuleList(
            Peer(config, f'peer{index}', **same) for index in range(1, peers)
        )
        if self.channels_last:
            self.peers.to(memory_format=torch.channels_last)
        self.temperature = temperature
        self.hooks.append(dict(type='kdmm.PeersHook'))

    def losses(self, views: Tensor, samples: Sequence[Any], labels: Tensor) -> dict[str, Tensor]:
        """As `SelfSupervised`."""
        outputs = [self.branched(views, samples)]
        outputs += [peer.branched(views, samples) for peer in self.others()]
        self.remember(outputs[0].joint, labels)
        result = dict(outputs[0].losses)
        for index, output in enumerate(outputs):
            result.update(self._own(index, output, labels))
        return {**result, **self._mutual(outputs)}

    def check_start(self, loaded: bool, resumed: bool = False) -> None:
        """Refuse weights for the first network alone."""
        refuse_one_start(loaded, resumed)

    def networks(self) -> dict[str, Any]:
        """``peer1`` and so on."""
        return {f'peer{index}': peer.network for index, peer in enumerate(self.others(), 1)}

    def others(self) -> list[Peer]:
        """The peers but the first, which is the student."""
        return cast(list[Peer], list(self.peers))

    def _own(self, index: int, output: BranchedOutput, labels: Tensor) -> dict[str, Tensor]:
        joint = joint_cross_entropy(output.joint, labels)
        if index == 0:
            return self.weighed('joint', joint)
        prefix = f'peer{index}'
        named = {f'{prefix}_{name}': value for name, value in joint.items()}
        return {
            **{f'kd.{prefix}_{name}': value for name, value in output.losses.items()},
            **self.weighed('joint', named),
        }

    def _mutual(self, outputs: Sequence[BranchedOutput]) -> dict[str, Tensor]:
        """Sums over ordered pairs of peers."""
        share = 1 / (len(outputs) - 1)
        pairs = list(permutations(outputs, 2))
        main = [kl_divergence(a.logits, b.logits, self.temperature) for a, b in pairs]
        every = [branch_divergence(a.joint, b.joint, self.temperature) for a, b in pairs]
        total = share * torch.stack(main).sum()
        branches = {
            name: share * torch.stack([found[name] for found in every]).sum() for name in every[0]
        }
        return {**self.weighed('logits', dict(logits=total)), **self.weighed('branches', branches)}
