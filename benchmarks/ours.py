"""kdmm's forms, looked up when they run, and what they need to look like the textbook's."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

from torch import Tensor

from . import naive
from .inputs import Inputs, Shape

#: What a form gives: a loss, or named tensors that all forms must agree in.
Result = Tensor | dict[str, Tensor] | None
Form = Callable[..., Result]


def form(name: str, **fixed: Any) -> Form:
    """A function of kdmm.functional, looked up when it is called."""

    def call(**given: Any) -> Result:
        function = getattr(import_module('kdmm.functional'), name)
        return function(given.pop('student'), given.pop('teacher'), **given, **fixed)

    return call


def channel(student: Tensor, teacher: Tensor) -> Tensor:
    """CIRKDv2's channel relations of maps."""
    relation = import_module('kdmm.functional').channel_relation_kl
    return relation(student.flatten(2), teacher.flatten(2))


def memory(student: Tensor, teacher: Tensor, keys: Tensor, sections: list[int]) -> Tensor:
    """CIRKD's memory terms, both sections in one call."""
    memory_kl = import_module('kdmm.functional').memory_kl
    return memory_kl(student, teacher, keys, sections=sections).sum()


def naive_psd(student: Tensor, others: list[Tensor], teacher: list[Tensor]) -> Tensor:
    """The textbook's; only the middle map is differentiated."""
    return naive.psd([others[0], student, others[1]], teacher)


def psd(student: Tensor, others: list[Tensor], teacher: list[Tensor]) -> Tensor:
    """DSD's PSD; only the middle map is differentiated."""
    path_differences = import_module('kdmm.functional').path_differences
    return path_differences([others[0], student, others[1]], teacher)


def mcl(student: Tensor, labels: Tensor) -> Tensor:
    """MCL's four terms with the paper's weights, all pairs of networks at once."""
    return naive.weighted(*import_module('kdmm.functional').mutual_contrast(student, labels))


def lmcl(student: Tensor, labels: Tensor, weights: Tensor, networks: int) -> Tensor:
    """L-MCL's four terms with the paper's weights, all pairs of stages at once."""
    functional, stages = import_module('kdmm.functional'), [len(student) // networks] * networks
    pairs = functional.pair_weights(weights, stages)
    return naive.weighted(*functional.layer_contrast(student, labels, pairs, stages))


def mcl_bank(student: Tensor, banks: Tensor, index: Tensor) -> Tensor:
    """The same against memory banks."""
    terms = import_module('kdmm.functional').mutual_bank_contrast(student, banks, index)
    return naive.weighted(*terms)


def instance_bank(shape: Shape) -> Inputs:
    """Of one image, until `crd` gives it the inputs' rows."""
    made = import_module('kdmm.memory').InstanceBank
    return dict(bank=made(shape['networks'], 1, shape['channels']))


def crd(student: Tensor, banks: Tensor, index: Tensor, bank: Any) -> Tensor:
    """CRD's NCE of both networks; the batch is kept for the bank."""
    functional = import_module('kdmm.functional')
    bank.rows = banks
    bank.remember(index[:, 0].contiguous(), student)
    scores = functional.cross_bank_scores(student, banks, index)
    images = banks.shape[1]
    log_z = functional.log_partition(scores, images)
    return functional.noise_contrast(scores, log_z, images).sum()


def mcl_okd(student: Tensor, banks: Tensor, index: Tensor) -> Tensor:
    """MCL-OKD's NCE of all ordered pairs of networks."""
    functional = import_module('kdmm.functional')
    return functional.mutual_noise_contrast(student, banks, index).sum()


def write_banks(bank: Any, **given: Any) -> None:
    """Write what was kept."""
    bank.after_step()


_QUEUES = dict(pixel_size=2000, region_size=200, per_image=16)


def queues(shape: Shape) -> Inputs:
    """Empty queues of kdmm."""
    made = import_module('kdmm.memory').ClassQueues
    return dict(queues=made(shape['classes'], shape['channels'], **_QUEUES))


def naive_queues(shape: Shape) -> Inputs:
    """Empty queues of the textbook."""
    return dict(queues=naive.Queues(shape['classes'], shape['channels'], **_QUEUES))


def enqueue(queues: Any, rows: Tensor, labels: Tensor) -> Result:
    """A batch enters; which pixels is random, how many and which regions is not."""
    queues.enqueue(rows, labels)
    if isinstance(queues, naive.Queues):
        return dict(region=queues.region[:, 0].sum(0), written=queues.pixel_ptr)
    region = queues.region.rows[:-1].unflatten(0, (queues.num_classes, -1))
    return dict(region=region[:, 0].sum(0), written=queues.pixel.ptr)
