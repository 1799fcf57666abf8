"""Every loss as the papers write it down: autograd, loops, and maps that stay until the backward.

Measured beside kdmm's forms and compared with them. Features are (B, C, h, w), logits (B, K, h, w),
labels (B, h, w); rows and keys have unit length.
"""

from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORE = 255


def kd(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Logit KD: KL of the softened class distributions, mean over pixels."""
    p_s, p_t = (x / temperature for x in (student, teacher))
    p_s, p_t = p_s.softmax(1), p_t.softmax(1)
    return (p_t * (p_t.log() - p_s.log())).sum(1).mean() * temperature**2


def cwd(student: Tensor, teacher: Tensor, temperature: float = 4.0) -> Tensor:
    """CWD: KL of each channel's distribution over space, mean over channels."""
    p_s, p_t = ((x.flatten(2) / temperature).softmax(2) for x in (student, teacher))
    return (p_t * (p_t.log() - p_s.log())).sum(2).mean() * temperature**2


def attention(x: Tensor) -> Tensor:
    """Unit map of energy over space, (B, h * w)."""
    return F.normalize((x**2).mean(1).flatten(1))


def at(student: Tensor, teacher: Tensor) -> Tensor:
    """AT: squared difference of the attention maps."""
    return ((attention(student) - attention(teacher)) ** 2).mean()


def psd(student: list[Tensor], teacher: list[Tensor]) -> Tensor:
    """DSD's PSD: differences of the attention maps of two layers, pair by pair."""
    losses = []
    for i, j in combinations(range(len(student)), 2):
        paths = (
            F.normalize(attention(maps[j]) - attention(maps[i])) for maps in (student, teacher)
        )
        losses.append(((next(paths) - next(paths)) ** 2).mean())
    return torch.stack(losses).mean()


def csd(student: Tensor, teacher: Tensor, temperature: float = 4.0) -> Tensor:
    """DSD's CSD: every class with every class, image by image."""
    losses = []
    for images in zip(student, teacher, strict=True):
        maps = [
            F.avg_pool2d(x[None], 2, 2, ceil_mode=True)[0].flatten(1) / temperature for x in images
        ]
        rows = [x.softmax(1) for x in maps]  # (K, n)
        classes = range(len(rows[0]))
        grams = [torch.stack([(x[a] * x).sum(1) for a in classes]) for x in rows]
        losses.append(((grams[0] - grams[1]) ** 2).mean())
    return torch.stack(losses).mean()


def weighted(vcl: Tensor, soft_vcl: Tensor, icl: Tensor, soft_icl: Tensor) -> Tensor:
    """MCL's terms with the paper's weights."""
    return 0.1 * vcl + soft_vcl + 0.1 * icl + soft_icl


def mcl(student: Tensor, labels: Tensor, tau: float = 0.1, temperature: float = 3.0) -> Tensor:
    """MCL: four terms for each ordered pair of networks, (networks, B, channels) and (B,)."""
    other = 1 - torch.eye(len(labels), device=labels.device)
    positive = (labels[:, None] == labels) * other

    def hard(logits: Tensor) -> Tensor:
        exp = logits.exp()
        log_p = logits - (exp * other).sum(1, keepdim=True).log()
        return -((log_p * positive).sum(1) / positive.sum(1)).mean()

    def soft(logits: Tensor, target: Tensor) -> Tensor:
        return kd(logits, target.detach(), temperature)

    terms = [[student.new_zeros(())] for _ in range(4)]
    for i, own in enumerate(student):
        terms[0].append(hard(own @ own.T / tau))
        for j, others in enumerate(student):
            if i == j:
                continue
            terms[1].append(soft(own @ own.T / tau, others @ others.T / tau))
            terms[2].append(hard(own @ others.T / tau))
            terms[3].append(soft(own @ others.T / tau, others @ own.T / tau))
    return weighted(*(torch.stack(term).sum() for term in terms))


def lmcl(student: Tensor, labels: Tensor, weights: Tensor, networks: int) -> Tensor:
    """L-MCL: four terms, both ways, for each ordered pair of networks and each pair of stages.

    Rows (networks * stages, B, channels), labels (B,), weights (rows, rows, B).
    """
    tau, temperature = 0.1, 3.0
    other = 1 - torch.eye(len(labels), device=labels.device)
    positive = (labels[:, None] == labels) * other

    def hard(logits: Tensor, weight: Tensor) -> Tensor:
        log_p = logits - (logits.exp() * other).sum(1, keepdim=True).log()
        return -((log_p * positive).sum(1) / positive.sum(1) * weight).mean()

    def soft(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        p_s, p_t = (x / temperature for x in (logits, target.detach()))
        log_s, log_t, p_t = p_s.log_softmax(1), p_t.log_softmax(1), p_t.softmax(1)
        return temperature**2 * (weight[:, None] * p_t * (log_t - log_s)).sum() / len(labels)

    terms = [student.new_zeros(()) for _ in range(4)]
    stages = len(student) // networks
    for a, row in enumerate(student):
        for c, column in enumerate(student):
            if a // stages == c // stages:
                continue
            weight = weights[a, c]
            cross = row @ column.T / tau, column @ row.T / tau
            own = row @ row.T / tau, column @ column.T / tau
            for term, (x, y) in ((0, own), (2, cross)):
                terms[term] = terms[term] + hard(x, weight) + hard(y, weight)
                terms[term + 1] = terms[term + 1] + soft(x, y, weight) + soft(y, x, weight)
    return weighted(*terms)


def mcl_bank(
    student: Tensor, banks: Tensor, index: Tensor, tau: float = 0.07, temperature: float = 3.0
) -> Tensor:
    """MCL with banks (networks, n, C): all rows that `index` (B, 2 + K) names, fetched at once."""

    def scores(i: int, j: int) -> Tensor:
        return (banks[i][index] * student[j][:, None]).sum(2) / tau

    def hard(logits: Tensor, positives: int) -> Tensor:
        return (logits.logsumexp(1) - logits[:, :positives].mean(1)).mean()

    terms = [[student.new_zeros(())] for _ in range(4)]
    for i in range(len(student)):
        own = scores(i, i)[:, 1:]
        terms[0].append(hard(own, 1))
        for j in range(len(student)):
            if i == j:
                continue
            cross = scores(i, j)
            terms[1].append(kd(own, scores(j, j)[:, 1:].detach(), temperature))
            terms[2].append(hard(cross, 2))
            terms[3].append(kd(cross, scores(j, i).detach(), temperature))
    return weighted(*(torch.stack(term).sum() for term in terms))


def crd(student: Tensor, banks: Tensor, index: Tensor, tau: float = 0.07) -> Tensor:
    """CRD's NCE of anchors (2, B, C) with the other's bank (2, n, C): the named rows at once."""
    batch, columns = index.shape
    images, total = banks.shape[1], student.new_zeros(())
    noise = (columns - 1) / images
    for anchors, bank in zip(student, banks.flip(0), strict=True):
        rows = bank.index_select(0, index.flatten()).view(batch, columns, -1)  # (B, 1 + K, C)
        exponent = torch.exp(torch.bmm(rows, anchors[:, :, None])[..., 0] / tau)
        data = exponent / (exponent.detach().mean() * images)
        positive = data[:, 0] / (data[:, 0] + noise)
        negatives = noise / (data[:, 1:] + noise)
        total = total - (positive.log().sum() + negatives.log().sum()) / batch
    return total


def mcl_okd(student: Tensor, banks: Tensor, index: Tensor, tau: float = 0.1) -> Tensor:
    """The same of all pairs of networks."""
    pairs = combinations(range(len(student)), 2)
    return torch.stack([crd(student[[*p]], banks[[*p]], index, tau) for p in pairs]).sum()


def write_banks(student: Tensor, banks: Tensor, index: Tensor) -> None:
    """The rows of the batch, half old and half new."""
    own = index[:, 0]
    with torch.no_grad():
        for rows, new in zip(banks, student, strict=True):
            rows[own] = F.normalize(0.5 * rows[own] + 0.5 * new, dim=1)


def p2p(student: Tensor, teacher: Tensor, tau: float = 0.1) -> Tensor:
    """CIRKD's pixel-to-pixel term: two maps for each ordered pair of images."""
    batch = student.shape[0]
    rows = [F.normalize(x, dim=1).flatten(2).transpose(1, 2) for x in (student, teacher)]
    total = student.new_zeros(())
    for i in range(batch):
        for j in range(batch):
            logits = [x[i] @ x[j].T / tau for x in rows]
            log_s, p_t = F.log_softmax(logits[0], dim=1), F.softmax(logits[1], dim=1)
            total = total + F.kl_div(log_s, p_t, reduction='batchmean')
    return total / batch**2


def memory(
    student: Tensor, teacher: Tensor, keys: Tensor, sections: list[int], tau: float = 0.1
) -> Tensor:
    """CIRKD's memory terms: rows (N, C) against keys (M, C), a softmax for each section of keys."""
    total = student.new_zeros(())
    for part in keys.split(sections):
        logits = [x @ part.T / tau for x in (student, teacher)]
        log_s, p_t = F.log_softmax(logits[0], dim=1), F.softmax(logits[1], dim=1)
        total = total + F.kl_div(log_s, p_t, reduction='batchmean')
    return total


def channel(student: Tensor, teacher: Tensor, tau: float = 0.1) -> Tensor:
    """CIRKDv2's channel relations: maps of channels by channels for each ordered pair of images."""
    batch = student.shape[0]
    rows = [F.normalize(x.flatten(2), dim=2) for x in (student, teacher)]
    total = student.new_zeros(())
    for i in range(batch):
        for j in range(batch):
            logits = [x[i] @ x[j].T / tau for x in rows]
            log_s, p_t = F.log_softmax(logits[0], dim=1), F.softmax(logits[1], dim=1)
            total = total + F.kl_div(log_s, p_t, reduction='batchmean')
    return total / batch**2


def skd(student: Tensor, teacher: Tensor, patch: int = 2) -> Tensor:
    """SKD's pair-wise term: n x n cosines within each image, after max-pooling."""
    pooled = (F.max_pool2d(x, patch, patch, ceil_mode=True) for x in (student, teacher))
    nodes = [F.normalize(x, dim=1).flatten(2) for x in pooled]  # (B, C, n)
    maps = [x.transpose(1, 2) @ x for x in nodes]
    return ((maps[0] - maps[1]) ** 2).mean()


def nst(student: Tensor, teacher: Tensor) -> Tensor:
    """NST: kernels of all pairs of channels from their products, (B, C, C, n)."""
    mine, theirs = (F.normalize(x.flatten(2), dim=2) for x in (student, teacher))
    pairs = ((theirs, theirs, 1), (mine, mine, 1), (mine, theirs, -2))
    terms = [sign * (a[:, :, None] * b[:, None]).sum(3).square().mean() for a, b, sign in pairs]
    return torch.stack(terms).sum()


def rkd_angles(student: Tensor, teacher: Tensor) -> Tensor:
    """RKD's angles from the differences of all pairs, (B, B, d)."""
    angles = []
    for x in (student.flatten(1), teacher.flatten(1)):
        arms = F.normalize(x[None] - x[:, None], dim=2)
        angles.append(arms @ arms.transpose(1, 2))  # (B, B, B)
    return F.smooth_l1_loss(angles[0], angles[1])


def ifvd(student: Tensor, teacher: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """IFVD: the classes one after the other, with masks of the features' size."""
    cosines = []
    for x in (student, teacher):
        centre = x  # a pixel of no class is its own
        for label in range(num_classes):
            mask = (labels == label)[:, None].expand_as(x).to(x.dtype)
            mean = (mask * x).sum((2, 3), keepdim=True) / (mask.sum((2, 3), keepdim=True) + 1e-6)
            centre = (1 - mask) * centre + mask * mean
        cosines.append(F.cosine_similarity(x, centre, dim=1))
    return ((cosines[0] - cosines[1]) ** 2).mean()


class Queues:
    """CIRKD's class queues, written image by image and class by class.

    Args:
        num_classes: K.
        channels: C.
        pixel_size: Rows per class of the pixel queue.
        region_size: Rows per class of the region queue.
        per_image: Pixels of an image and class that enter.
    """

    def __init__(
        self, num_classes: int, channels: int, pixel_size: int, region_size: int, per_image: int
    ) -> None:
        self.per_image = per_image
        self.pixel = torch.zeros(num_classes, pixel_size, channels)
        self.region = torch.zeros(num_classes, region_size, channels)
        self.pixel_ptr = torch.zeros(num_classes, dtype=torch.long)
        self.region_ptr = torch.zeros(num_classes, dtype=torch.long)

    def to(self, device: torch.device) -> 'Queues':
        """Move everything."""
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(self, name, value.to(device))
        return self

    @torch.no_grad()
    def enqueue(self, rows: Tensor, labels: Tensor) -> None:
        """Unit rows (B, A, C) and labels (B, A)."""
        for image, members in zip(rows, labels, strict=True):
            for label in members.unique().tolist():
                if label == IGNORE:
                    continue
                found = image[members == label]
                region = F.normalize(found.mean(0), dim=0)
                at = int(self.region_ptr[label])
                self.region[label, at] = region
                self.region_ptr[label] = (at + 1) % self.region.shape[1]
                chosen = found[torch.randperm(len(found), device=rows.device)[: self.per_image]]
                at = int(self.pixel_ptr[label])
                slots = torch.arange(at, at + len(chosen), device=rows.device)
                self.pixel[label, slots % self.pixel.shape[1]] = chosen
                self.pixel_ptr[label] = (at + len(chosen)) % self.pixel.shape[1]
