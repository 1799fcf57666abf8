"""Layer-wise mutual contrastive learning (L-MCL, arXiv 2207.11518), contrast within the batch.

Every network has several embeddings of an image, one a stage. All of them are A rows, those of a
network one behind the other, shallow stages first: network i has ``stages[i]`` of them. Each pair
of rows of different networks is a pair of MCL, with a weight for each image.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kdmm.errors import ShapeError

from .contrast import same_class, supervised_contrast
from .maps import full_precision, full_product, normalize_rows, promote
from .mutual import MutualContrast


def stage_rows(stages: Sequence[int]) -> list[slice]:
    """Slices of the A rows, one for each network of ``stages[i]`` embeddings."""
    ends = [sum(stages[: i + 1]) for i in range(len(stages))]
    return [slice(end - number, end) for end, number in zip(ends, stages, strict=True)]


def between_networks(weights: Tensor, stages: Sequence[int]) -> Tensor:
    """Weights (A, A, ...) with zeros for the pairs of rows within one network."""
    mask = weights.new_ones(weights.shape[:2], dtype=torch.bool)
    for rows in stage_rows(stages):
        mask[rows, rows] = False
    return torch.where(mask.view(*mask.shape, *[1] * (weights.ndim - 2)), weights, 0)


def learned_matching(projections: Tensor, stages: Sequence[int]) -> Tensor:
    """Weights of all pairs from the cosine of projected embeddings (arXiv 2207.11518, section 3.3).

    Args:
        projections: (A, B, P), of any length.
        stages: Numbers of rows of the networks.

    Returns:
        (A, A, B), at least float32 under any autocast: ``sigmoid(cosine(row a, row c))`` for each
        image, so between 0.269 and 0.731 and symmetric; 0 within a network. Differentiable twice.
    """
    unit = normalize_rows(projections, -1).transpose(0, 1)  # (A, B, P) -> (B, A, P)
    cosines = full_product(unit, unit.mT)  # (B, A, A)
    return between_networks(cosines.sigmoid().permute(1, 2, 0), stages)


def uniform_matching(stages: Sequence[int], like: Tensor) -> Tensor:
    """Weights (A, A, 1) of 0.5 for all pairs, what orthogonal projections give; 0 in a network.

    Args:
        stages: Numbers of rows of the networks.
        like: A tensor of the device and type.
    """
    total = sum(stages)
    return between_networks(like.new_full((total, total, 1), 0.5), stages)


def one_to_one_matching(stages: Sequence[int], like: Tensor) -> Tensor:
    """Weights (A, A, 1) of 1 for stages at the same place in two networks, 0 for all others.

    Args:
        stages: Numbers of rows of the networks, which must be equal.
        like: A tensor of the device and type.

    Raises:
        ValueError: If a network has another number of stages.
    """
    if len(set(stages)) > 1:
        raise ValueError(f'stages can be matched one to one where all have as many, not {stages}')
    same = torch.eye(stages[0], dtype=like.dtype, device=like.device)
    weights = same.repeat(len(stages), len(stages))[..., None]  # (A, A, 1)
    return between_networks(weights, stages)


def pair_weights(weights: Tensor, stages: Sequence[int], double_count: bool = True) -> Tensor:
    """Add up what the ordered pairs of networks weigh, for :func:`layer_contrast`.

    The authors' code runs over ordered pairs of networks and for each of them computes all terms in
    both directions, so every pair of rows counts twice. With symmetric weights that is exactly a
    factor of 2.

    Args:
        weights: (A, A, B) or (A, A, 1), entry ``[a, c]`` that of the ordered pair; what stands
            within a network plays no part.
        stages: Numbers of rows of the networks.
        double_count: Count a pair in both orders. Otherwise once, by the weight ``[a, c]`` where
            ``a`` is of the network before that of ``c``.

    Returns:
        Of the same shape, symmetric in the pair; 0 within a network.
    """
    if not double_count:
        later = torch.ones_like(weights, dtype=torch.bool)
        for rows in stage_rows(stages):
            later[rows, : rows.stop] = False
        weights = torch.where(later, weights, 0)
    return between_networks(weights + weights.transpose(0, 1), stages)


class _Problem(NamedTuple):
    """Labels, networks and temperature, without embeddings and weights.

    Attributes:
        networks: Rows of each.
        share: (B, B), of each positive among an anchor's; rows of zeros where it has none.
        counted: (B,), of each anchor in the mean of a hard term; 0 without a positive.
        temperature: T.
    """

    networks: list[slice]
    share: Tensor
    counted: Tensor
    temperature: float

    def pairs(self) -> Iterator[tuple[slice, slice]]:
        """Rows of the networks i and j, i < j."""
        for j, later in enumerate(self.networks):
            for earlier in self.networks[:j]:
                yield earlier, later


def _diagonal(batch: int, device: torch.device) -> Tensor:
    return torch.eye(batch, dtype=torch.bool, device=device)


def _between(x: Tensor, y: Tensor) -> Tensor:
    """Products of all anchors in both directions, (S, B, D), (Z, B, D) -> (2, S, Z, B, B)."""
    # (S * B, D) @ (D, Z * B) -> (S, B, Z, B) -> (S, Z, B, B)
    flat = full_product(x.flatten(0, 1), y.flatten(0, 1).mT)
    there = flat.view(*x.shape[:2], *y.shape[:2]).transpose(1, 2)
    return torch.stack([there, there.mT])


def _plain(rows: Tensor, weights: Tensor, problem: _Problem) -> tuple[Tensor, ...]:
    """The four terms by operations that autograd differentiates, the weights included."""
    positives = problem.share > 0
    candidates = ~_diagonal(rows.shape[1], rows.device)

    def hard(logits: Tensor, weight: Tensor) -> Tensor:
        found = supervised_contrast(logits, positives, candidates)  # (..., B, B) -> (..., B)
        return (found * weight * problem.counted).sum()

    scale = problem.temperature**2 / rows.shape[1]
    own = full_product(rows, rows.mT)  # (A, B, D) -> (A, B, B)
    vcl = hard(own, weights.sum(1))
    soft_vcl = soft_pairs(own, own, weights, problem.temperature) * scale
    icl, soft_icl = vcl.new_zeros(()), vcl.new_zeros(())
    for i, j in problem.pairs():
        both, weight = _between(rows[i], rows[j]), weights[i, j]  # (2, S, Z, B, B), (S, Z, B)
        icl = icl + hard(both, weight)
        log_p = torch.log_softmax(both / problem.temperature, -1)
        log_t = log_p.detach().flip(0)
        divergence = (log_t.exp() * (log_t - log_p)).sum(-1)  # (2, S, Z, B)
        soft_icl = soft_icl + (divergence * weight).sum() * scale
    return vcl, soft_vcl, icl, soft_icl


def soft_pairs(student: Tensor, target: Tensor, weights: Tensor, temperature: float) -> Tensor:
    """Sum of weighted divergences from each target to each student, image by image.

    ``sum over a, c, b of weights[a, c, b] KL(softmax(target[c, b] / T) || softmax(student[a, b] /
    T))``, the targets detached.

    Args:
        student: Logits (S, B, M).
        target: Logits (Z, B, M).
        weights: (S, Z, B).
        temperature: T.

    Returns:
        A scalar, differentiable any number of times in the students and the weights.
    """
    log_p = torch.log_softmax(student / temperature, -1)
    log_t = torch.log_softmax(target.detach() / temperature, -1)
    t = log_t.exp()
    entropy = -(t * log_t).sum(-1)  # (Z, B, M) -> (Z, B)
    # (B, S, M) @ (B, M, Z) -> (B, S, Z) -> (S, Z, B)
    cross = full_product(log_p.transpose(0, 1), t.permute(1, 2, 0)).permute(1, 2, 0)
    return -(weights * (entropy + cross)).sum()


def _hard(logits: Tensor, scale: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted sum of supervised contrasts (..., B, B), and its gradient."""
    diagonal = _diagonal(share.shape[0], logits.device)
    log_p = logits.masked_fill(diagonal, torch.finfo(logits.dtype).min).log_softmax(-1)
    value = -((log_p * share).sum(-1) * scale).sum()  # (..., B, B) -> (..., B) -> ()
    return value, log_p.exp_().sub_(share).mul_(scale[..., None])


class _Terms(torch.autograd.Function):
    """The four terms with their gradients, which need the logits no more; the weights constants.

    With P = softmax(G / T), P' its target and symmetric weights, KL adds up to
    ``w (P - P') (G - G') / T`` over both directions of a pair, and its gradient, targets detached,
    is ``w (P - P') / T``. As the logits of (c, a) are those of (a, c) transposed, the gradients of
    both are added, and one map a pair is kept for the hard and one for the soft term. A backward
    pass that is recorded starts again from `_plain`.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weights: Tensor, problem: _Problem) -> tuple[Tensor, ...]:
        scale = problem.temperature / rows.shape[1]
        own, total = rows @ rows.mT, weights.sum(1)  # (A, B, B), (A, B)
        vcl, hard = _hard(own, total * problem.counted, problem.share)
        p = (own / problem.temperature).softmax(-1)
        # (B, A, A) @ (B, A, M) -> (B, A, M): the others' distributions, weighted
        others = (weights.permute(2, 0, 1) @ p.transpose(0, 1)).transpose(0, 1)
        soft = p.mul_(total[..., None]).sub_(others).mul_(scale)
        kept = [hard + hard.mT, soft + soft.mT]
        soft_vcl = (soft * own).sum()
        icl, soft_icl = vcl.new_zeros(()), vcl.new_zeros(())
        for i, j in problem.pairs():
            both, weight = _between(rows[i], rows[j]), weights[i, j]
            value, hard = _hard(both, weight * problem.counted, problem.share)
            icl += value
            p = (both / problem.temperature).softmax(-1)
            moved = (p[0] - p[1]).mul_((weight * scale)[..., None])  # (S, Z, B, B)
            soft = moved - moved.mT
            soft_icl += (soft * both[0]).sum()
            kept += [hard[0] + hard[1].mT, soft]
        ctx.save_for_backward(rows, weights, *kept)
        ctx.problem = problem
        return vcl, soft_vcl, icl, soft_icl

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        rows, weights, hard, soft, *between = ctx.saved_tensors
        with full_precision(rows):  # backward may be called under autocast
            if torch.is_grad_enabled():  # create_graph=True
                terms = _plain(rows, weights, ctx.problem)
                (out,) = torch.autograd.grad(terms, rows, grads, create_graph=True)
                return out, None, None
            vcl, soft_vcl, icl, soft_icl = grads
            out = (hard * vcl).addcmul_(soft, soft_vcl) @ rows  # (A, B, B) @ (A, B, D)
            for index, (i, j) in enumerate(ctx.problem.pairs()):
                hard, soft = between[2 * index : 2 * index + 2]
                # (S, Z, B, B) -> (S, B, Z, B) -> (S * B, Z * B)
                both = (hard * icl).addcmul_(soft, soft_icl).transpose(1, 2)
                both = both.flatten(2).flatten(0, 1)
                out[i] += (both @ rows[j].flatten(0, 1)).view_as(out[i])
                out[j] += (both.T @ rows[i].flatten(0, 1)).view_as(out[j])
        return out, None, None


def layer_contrast(
    embeddings: Tensor,
    labels: Tensor,
    weights: Tensor,
    stages: Sequence[int],
    tau: float = 0.1,
    temperature: float = 3.0,
) -> MutualContrast:
    """VCL, SoftVCL, ICL and SoftICL of all pairs of stages of different networks, weighted.

    With ``G[a, c]`` the products of the rows a and c over tau, ``sup`` the supervised contrast of
    an anchor with the batch without itself, ``kl(s, t)`` an anchor's ``T^2 KL(softmax(t / T) ||
    softmax(s / T))``, t detached, and W the weights, sums over a and c of

    - ``vcl``: the mean over anchors of ``W[a, c] sup(G[a, a])``,
    - ``icl``: of ``W[a, c] sup(G[a, c])``,
    - ``soft_vcl``: of ``W[a, c] kl(G[a, a], G[c, c])``,
    - ``soft_icl``: of ``W[a, c] kl(G[a, c], G[c, a])``.

    As in :func:`~kdmm.functional.mutual.mutual_contrast`, an image's own embedding in another
    network is neither a positive nor a negative of ICL, the soft rows have all B columns, and the
    mean of a hard term is over the anchors that have a positive (the authors' over all of a batch
    in which each has one, so that there is no difference); a batch without any gives 0.

    Where no gradient of the weights is needed, the logits are not kept for the backward pass.
    Otherwise, and in the second derivatives, autograd does it all.

    Args:
        embeddings: Unit rows (A, B, D).
        labels: Classes (B,).
        weights: W (A, A, B) or (A, A, 1) of :func:`pair_weights`: symmetric, 0 within a network.
        stages: Numbers of rows of the networks.
        tau: Temperature of the similarities.
        temperature: T of the soft terms, on top of ``tau``.

    Returns:
        Four scalars, at least float32 under any autocast, differentiable any number of times in
        the embeddings and the weights. The paper weighs them 0.1, 1, 0.1, 1.

    Raises:
        ValueError: If shapes do not fit, or a temperature is not positive.
    """
    check_temperatures(tau, temperature)
    if embeddings.ndim != 3 or labels.shape != embeddings.shape[1:2]:
        raise ShapeError(
            'embeddings must be (A, B, D), and labels one class an image, (B,)',
            'labels' if embeddings.ndim == 3 else 'form',
            embeddings=embeddings,
            labels=labels,
        )
    check_weights(weights, embeddings, stages)
    with full_precision(embeddings):
        rows = promote(embeddings) / tau**0.5
        weights = weights.to(rows.dtype).expand(-1, -1, len(labels))
        positives = same_class(labels) & ~_diagonal(len(labels), labels.device)
        count = positives.sum(1)
        some = (count > 0).to(rows.dtype)
        share = positives.to(rows.dtype) / count.clamp_min(1)[:, None]
        counted = some / some.sum().clamp_min(1)
        problem = _Problem(stage_rows(stages), share, counted, temperature)
        if weights.requires_grad:
            return MutualContrast(*_plain(rows, weights, problem))
        return MutualContrast(*_Terms.apply(rows, weights, problem))


def check_temperatures(tau: float, temperature: float) -> None:
    """Refuse temperatures that are not positive (`ValueError`)."""
    for name, value in dict(tau=tau, temperature=temperature).items():
        if not value > 0:
            raise ValueError(f'{name} must be positive, got {value!r}')


def check_weights(weights: Tensor, embeddings: Tensor, stages: Sequence[int]) -> None:
    """Refuse pair weights that are not (A, A, B) or (A, A, 1) for the rows of ``stages``.

    Raises:
        ShapeError: With both shapes.
    """
    total, batch = embeddings.shape[:2]
    if (
        weights.ndim != 3
        or weights.shape[:2] != (total, total)
        or weights.shape[2] not in (1, batch)
        or sum(stages) != total
    ):
        raise ShapeError(
            f'weights must be (A, A, B) of the A embeddings of networks of {list(stages)} stages',
            'form',
            weights=weights,
            embeddings=embeddings,
        )
