"""The losses that are measured: at which shapes, in which forms."""

from collections.abc import Callable
from typing import NamedTuple

from . import floors, inputs, naive, ours
from .inputs import Inputs, Shape
from .ours import Form


class Case(NamedTuple):
    """One loss.

    Attributes:
        what: One line for ``--list``.
        shapes: Measured by default.
        quick: The one shape of ``--quick``, also used to warm up.
        inputs: Shape and generator to keyword arguments of every form.
        naive: The textbook form.
        ours: kdmm's, by name.
        floor: Only the products, and their number of operations, where there are any.
        prepare: State that a form keeps: shape to extra keyword arguments.
        after: What a form does when its gradient is known, timed with it.
    """

    what: str
    shapes: tuple[Shape, ...]
    quick: Shape
    inputs: Callable[..., Inputs]
    naive: Form
    ours: dict[str, Form]
    floor: tuple[Form, Callable[[Shape], int]] | None = None
    prepare: dict[str, Callable[[Shape], Inputs]] = {}
    after: dict[str, Callable[..., None]] = {}

    def forms(self) -> dict[str, Form]:
        """All of them, by name."""
        floor = {} if self.floor is None else dict(products=self.floor[0])
        return {'naive': self.naive, **self.ours, **floor}


def _maps(batch: int, height: int, width: int, **rest: int) -> Shape:
    return dict(batch=batch, height=height, width=width, **rest)


_PAIR = dict(student=128, teacher=256)
_SAME = dict(student=256, teacher=256)
_SMALL = _maps(2, 8, 12, student=6, teacher=10)
_SMALL_SAME = _maps(2, 8, 12, student=6, teacher=6)
_SMALL_LOGITS = _maps(2, 8, 12, classes=5)

CASES: dict[str, Case] = {
    'p2p': Case(
        'CIRKD, pixels of the batch with each other',
        tuple(_maps(batch, 64, 128, **_PAIR) for batch in (1, 2)),
        _SMALL,
        inputs.features,
        naive.p2p,
        dict(ours=ours.form('pixel_to_pixel_kl')),
        (floors.p2p, floors.p2p_flop),
    ),
    'memory': Case(
        'CIRKD, pixels with remembered keys',
        (dict(anchors=16384, keys=5130, channels=256),),
        dict(anchors=40, keys=15, channels=6),
        inputs.memory_rows,
        naive.memory,
        dict(ours=ours.memory),
        (floors.memory, floors.memory_flop),
    ),
    'enqueue': Case(
        'CIRKD, a batch enters the class queues',
        (_maps(16, 64, 128, channels=256, classes=19),),
        _maps(2, 16, 24, channels=6, classes=5),
        inputs.teacher_rows,
        ours.enqueue,
        dict(ours=ours.enqueue),
        prepare=dict(naive=ours.naive_queues, ours=ours.queues),
    ),
    'kd': Case(
        'logit KD',
        tuple(_maps(2, 64, 128, classes=classes) for classes in (19, 150)),
        _SMALL_LOGITS,
        inputs.logits,
        naive.kd,
        dict(ours=ours.form('kl_divergence')),
    ),
    'at': Case(
        'attention transfer',
        (_maps(2, 64, 128, **_PAIR),),
        _SMALL,
        inputs.features,
        naive.at,
        dict(ours=ours.form('attention_transfer')),
    ),
    'cwd': Case(
        'channel-wise distillation of features',
        (_maps(2, 64, 128, **_SAME),),
        _SMALL_SAME,
        inputs.features,
        naive.cwd,
        dict(ours=ours.form('channel_kl')),
    ),
    'skd': Case(
        'SKD, pair-wise: 2048 and 8192 nodes',
        (_maps(2, 64, 128, **_PAIR), _maps(2, 128, 256, **_PAIR)),
        _SMALL,
        inputs.features,
        naive.skd,
        {kind: ours.form('pairwise_similarity_mse', form=kind) for kind in ('streamed', 'gram')},
    ),
    'ifvd': Case(
        'IFVD, pixels with the centre of their class',
        tuple(_maps(2, 64, 128, **_PAIR, classes=classes) for classes in (19, 150)),
        dict(_SMALL, classes=5),
        inputs.labelled_features,
        naive.ifvd,
        dict(ours=ours.form('centre_similarity_mse')),
    ),
    'psd': Case(
        'DSD, how attention moves between layers',
        (_maps(2, 64, 128, **_PAIR, classes=19),),
        dict(_SMALL, classes=5),
        inputs.layers,
        ours.naive_psd,
        dict(ours=ours.psd),
    ),
    'csd': Case(
        'DSD, class-class correlation',
        (_maps(2, 64, 128, classes=150),),
        _SMALL_LOGITS,
        inputs.logits,
        naive.csd,
        dict(ours=ours.form('class_correlation_mse')),
    ),
    'nst': Case(
        'NST, the channel maps of an image with each other',
        (_maps(16, 8, 8, student=64, teacher=256), _maps(16, 32, 32, student=16, teacher=64)),
        _SMALL,
        inputs.features,
        naive.nst,
        dict(ours=ours.form('channel_map_mmd')),
    ),
    'rkd': Case(
        'RKD, angles between the images of a batch',
        tuple(_maps(batch, 1, 1, student=64, teacher=256) for batch in (64, 256)),
        _maps(6, 1, 1, student=6, teacher=10),
        inputs.features,
        naive.rkd_angles,
        dict(ours=ours.form('batch_angles')),
    ),
    'mcl': Case(
        'MCL, contrast between all pairs of networks',
        tuple(dict(networks=networks, batch=128, channels=128) for networks in (2, 4)),
        dict(networks=3, batch=8, channels=6),
        inputs.embeddings,
        naive.mcl,
        dict(ours=ours.mcl),
    ),
    'lmcl': Case(
        'L-MCL, contrast between all pairs of stages of networks',
        tuple(
            dict(networks=networks, stages=stages, batch=128, channels=128)
            for networks, stages in ((2, 3), (2, 4))
        ),
        dict(networks=3, stages=2, batch=8, channels=6),
        inputs.staged,
        naive.lmcl,
        dict(ours=ours.lmcl),
    ),
    'mcl_bank': Case(
        'MCL, contrast with memory banks',
        (dict(networks=2, batch=64, channels=128, images=100000, negatives=4096),),
        dict(networks=3, batch=4, channels=6, images=40, negatives=5),
        inputs.banked,
        naive.mcl_bank,
        dict(ours=ours.mcl_bank),
    ),
    'crd': Case(
        'CRD, contrast with a teacher against memory banks, which are written',
        tuple(
            dict(networks=2, batch=64, channels=128, images=images, negatives=16384 - 1)
            for images in (50_000, 1_281_167)
        ),
        dict(networks=2, batch=4, channels=6, images=40, negatives=5),
        inputs.banked,
        naive.crd,
        dict(ours=ours.crd),
        prepare=dict(ours=ours.instance_bank),
        after=dict(naive=naive.write_banks, ours=ours.write_banks),
    ),
    'mcl_okd': Case(
        'MCL-OKD, contrast between all pairs of networks with memory banks',
        (dict(networks=4, batch=64, channels=128, images=50_000, negatives=16384 - 1),),
        dict(networks=3, batch=4, channels=6, images=40, negatives=5),
        inputs.banked,
        naive.mcl_okd,
        dict(ours=ours.mcl_okd),
    ),
    'channel': Case(
        'CIRKDv2, channels of the batch with each other',
        (_maps(4, 16, 32, **_SAME),),
        _SMALL_SAME,
        inputs.features,
        naive.channel,
        dict(ours=ours.channel),
    ),
}
