"""The part of a model that is exported: a network of one tensor, without data and decoding.

What runs is the base library's own ``forward(mode='tensor')``, or its ``extract_feat``. The data
preprocessor stays outside: its mean and deviation are stated in the file. So do resizing to the
image, softmax, decoding of heatmaps and boxes, and non-maximum suppression.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from torch import Tensor, nn

import kdmm
from kdmm.checkpoints import load_strictly, read_checkpoint, state_dict_of
from kdmm.config import image_size, section_of
from kdmm.distillers.cohort.members import other_configs
from kdmm.distillers.probe import input_channels
from kdmm.downloads import local_file, sha256
from kdmm.engine.build_errors import MISTAKES
from kdmm.engine.plain_model import built_model
from kdmm.errors import ConfigError, about
from kdmm.utils.normalization import Normalization

#: The parts that can be exported.
PARTS = ('network', 'features')
INPUT, BATCH = 'input', 'batch'
#: Images in a batch: the graph is recorded with the first, and compared at the others. One image
#: is none of the recording: `torch.export` takes a size of 1 for a constant.
RECORDED, COMPARED = 2, (1, 3)

#: Base class of a model to the name of its outputs, and the words for them, where it gives one
#: tensor of so many dimensions.
_SINGLE = {
    ('BaseClassifier', 2): ('logits', 'logits (batch, classes), before the softmax'),
    ('BaseSegmentor', 4): (
        'logits',
        'logits (batch, classes, h, w) at the output of the decode head: before they are resized '
        'to the image, and before the softmax',
    ),
    ('BasePoseEstimator', 4): (
        'heatmaps',
        'heatmaps (batch, keypoints, h, w), before they are decoded to coordinates',
    ),
}
_FEATURES = 'features', 'maps of backbone and neck, in its order'
_OUTPUTS = 'outputs', 'raw outputs of the head, in the order of its forward, before decoding'

Shape = tuple[int | str, ...]


class _Tensors(nn.Module):
    """A model as a function of images alone, whose outputs are a flat tuple."""

    def __init__(self, model: nn.Module, part: str) -> None:
        super().__init__()
        self.model, self.part = model, part

    def tree(self, images: Tensor) -> Any:
        """(B, C, H, W) -> the outputs as the model gives them."""
        if self.part == 'features':
            return self.model.extract_feat(images)  # type: ignore[operator]
        return self.model(images, None, mode='tensor')

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(tensor for _, tensor in _leaves(self.tree(images)))


@dataclass(frozen=True)
class Network:
    """A network that is ready to be exported, and the facts that its files state.

    Attributes:
        module: (B, C, H, W) -> a tuple of tensors; on the CPU, in eval mode, without gradients.
        inputs: (C, H, W) of an image.
        batch: Number of images of every batch; None if it may be any.
        outputs: Name to shape, in the order of the tensors; ``'batch'`` and multiples of it, such
            as ``'4*batch'``, stand for sizes that grow with the batch.
        part: Of the model, one of `PARTS`.
        facts: Further entries of a file's metadata: network, meaning of the outputs,
            normalization of the images, config and checkpoint.
    """

    module: nn.Module
    inputs: tuple[int, int, int]
    batch: int | None
    outputs: Mapping[str, Shape]
    part: str
    facts: Mapping[str, str]

    @property
    def input_shape(self) -> Shape:
        """Shape of the input, ``('batch', C, H, W)`` unless the batch is fixed."""
        return (BATCH if self.batch is None else self.batch, *self.inputs)

    @property
    def recorded(self) -> int:
        """Size of the batch with which the graph is recorded."""
        return self.batch or RECORDED

    @property
    def compared(self) -> tuple[int, ...]:
        """Sizes of the batches with which a file is compared."""
        return (self.batch,) if self.batch else COMPARED

    def images(self, number: int) -> Tensor:
        """Noise in place of normalized images, (number, C, H, W), the same at every call."""
        generator = torch.Generator().manual_seed(number)
        return torch.randn(number, *self.inputs, generator=generator)

    def metadata(self, **more: str) -> dict[str, str]:
        """The metadata of a file: the facts, and inputs and outputs as JSON."""
        tensors = {'inputs': {INPUT: self.input_shape}, 'outputs': self.outputs}
        described = {
            key: json.dumps(
                [dict(name=n, dtype='float32', shape=list(s)) for n, s in shapes.items()]
            )
            for key, shapes in tensors.items()
        }
        return {**self.facts, 'part': self.part, **described, **more}

    def __str__(self) -> str:
        lines = [
            f'network: {self.facts["network"]}, {self.part}: {self.facts["meaning"]}',
            f'input: {INPUT}, float32 {_shown(self.input_shape)}, {self.facts["normalization"]}',
        ]
        lines += [
            f'output: {name}, float32 {_shown(shape)}' for name, shape in self.outputs.items()
        ]
        return '\n'.join(lines)


def network_of(
    cfg: Config,
    checkpoint: str,
    part: str | None = None,
    size: Sequence[int] | None = None,
    batch: int | None = None,
    unsafe: bool = False,
) -> Network:
    """Build the model of a config, load a checkpoint strictly, and run the part to be exported.

    Args:
        cfg: Its section ``kd`` is ignored: a checkpoint of kdmm holds the plain network.
        checkpoint: Path or address.
        part: One of `PARTS`: ``'network'``, what ``forward(mode='tensor')`` gives, or
            ``'features'``, what backbone and neck give; default the latter in detectors.
        size: (height, width) of the images; default that of the training images, rounded up to
            what the data preprocessor pads to.
        batch: Fixed number of images; default any.
        unsafe: Read a checkpoint that is more than weights; see `read_checkpoint`.

    Raises:
        ConfigError: If the model cannot be built, loaded, or run on images alone.
    """
    size = _size(cfg, size)
    if batch is not None and batch < 1:
        raise ConfigError(key='--batch', got=batch, expected='at least 1')
    model = built_model(cfg)
    unsafe = unsafe or bool(cfg.get('unsafe_checkpoint', False))
    content = read_checkpoint(checkpoint, unsafe=unsafe, allow='--unsafe')
    with about('checkpoint', str(checkpoint)):
        load_strictly(model, state_dict_of(content, ''), '')
    part = part or ('features' if 'BaseDetector' in _bases(model) else 'network')
    module = _Tensors(model, part).eval().requires_grad_(False)
    facts = dict(
        network=f'{type(model).__name__} of {type(model).__module__.partition(".")[0]}',
        normalization=str(Normalization.of(model.data_preprocessor)),
        config=Path(cfg.filename or '').name,
        checkpoint=Path(checkpoint).name,
        checkpoint_sha256=sha256(local_file(checkpoint)),
        exported_by=f'kdmm {kdmm.__version__}, torch {torch.__version__}',
    )
    network = Network(module, (input_channels(model), *size), batch, {}, part, facts)
    return _with_outputs(network, model)


def peer_config(cfg: Config, number: int) -> None:
    """Put the model of a cohort's ``peer<number>`` in the place of ``cfg.model``.

    Raises:
        ConfigError: If the config trains no cohort, or one without that peer.
    """
    section = section_of(cfg) or {}
    if 'peers' not in section:
        raise ConfigError('the config trains no peers', key='--peer', got=number)
    others, keep = other_configs(section['peers'], cfg.model), section.get('keep', 0)
    places = [place for place in range(len(others) + 1) if place != keep]
    if number not in places:
        raise ConfigError(
            key='--peer', got=number, expected=f'one of {", ".join(map(str, places))}'
        )
    cfg.model = dict(others[places.index(number)])


def _size(cfg: Config, size: Sequence[int] | None) -> tuple[int, int]:
    if size is not None:
        if min(size) < 1:
            raise ConfigError(key='--size', got=tuple(size), expected='two positive numbers')
        return size[0], size[1]
    found = image_size(cfg)
    if found is None:
        raise ConfigError(
            "the config's training pipeline does not say the size of images",
            key='--size',
            fix='Give one: --size HEIGHT WIDTH',
        )
    divisor = (cfg.model.get('data_preprocessor') or {}).get('pad_size_divisor', 1)
    height, width = (-(-side // divisor) * divisor for side in found)
    return height, width


@torch.no_grad()
def _with_outputs(network: Network, model: nn.Module) -> Network:
    """Run the network at two sizes of the batch, and name its outputs and their shapes."""
    sizes = network.compared if network.batch else (RECORDED, RECORDED + 1)
    trees = [_run(network, size) for size in sizes]
    found = [list(_leaves(tree)) for tree in trees]
    shapes = [[tuple(tensor.shape) for _, tensor in leaves] for leaves in found]
    single = isinstance(trees[0], Tensor)
    base, meaning = _FEATURES if network.part == 'features' or not _has_head(model) else _OUTPUTS
    if network.part == 'network' and single:
        kinds = [(name, trees[0].ndim) for name in _bases(model)]
        base, meaning = next((_SINGLE[kind] for kind in kinds if kind in _SINGLE), (base, meaning))
    names = ['_'.join((base, *path)) for path, _ in found[0]]
    if not names:
        raise ConfigError(
            'it gives no tensors', key='--part', got=network.part, expected=f'one of {PARTS}'
        )
    outputs = {
        name: tuple(_dimension(*ns, *sizes[:2]) for ns in zip(*several, strict=True))
        for name, *several in zip(names, shapes[0], shapes[-1], strict=True)
    }
    return replace(network, outputs=outputs, facts={**network.facts, 'meaning': meaning})


def _run(network: Network, size: int) -> Any:
    """The outputs for a batch.

    Raises:
        ConfigError: If the part does not run on images of this size, without data samples.
    """
    module = network.module
    assert isinstance(module, _Tensors)
    try:
        return module.tree(network.images(size))
    except (*MISTAKES, RuntimeError) as error:
        height, width = network.inputs[1:]
        features = network.part == 'features'
        raise ConfigError(
            f'it does not run on {height}x{width} images alone ({_in_words(error)})',
            key='--part',
            got=network.part,
            fix='Give another --size.'
            if features
            else 'Give another --size, or --part features, for backbone and neck.',
        ) from error


def _leaves(tree: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Tensor]]:
    """The tensors of an output in order, with keys and places on the way to them."""
    if isinstance(tree, Tensor):
        yield path, tree
    elif isinstance(tree, Mapping):
        for key, item in tree.items():
            yield from _leaves(item, (*path, str(key)))
    elif isinstance(tree, list | tuple):
        for place, item in enumerate(tree):
            yield from _leaves(item, (*path, str(place)))


def _dimension(first: int, last: int, few: int, many: int | None = None) -> int | str:
    """A dimension of an output for ``few`` images and for ``many``, as a number or with a name."""
    if first == last or many is None:
        return first
    times = (last - first) // (many - few)
    return BATCH if times == 1 else f'{times}*{BATCH}'


def _bases(model: nn.Module) -> list[str]:
    return [base.__name__ for base in type(model).__mro__]


def _has_head(model: nn.Module) -> bool:
    """Return whether ``forward`` goes on behind the features: not in self-supervised models."""
    return 'BaseSelfSupervisor' not in _bases(model) and getattr(model, 'with_head', True)


def _shown(shape: Shape) -> str:
    return f'({", ".join(map(str, shape))})'


def _in_words(error: BaseException, most: int = 200) -> str:
    """Class and first line of an error."""
    text = ': '.join([type(error).__name__, *str(error).strip().splitlines()[:1]])
    return text if len(text) <= most else f'{text[:most]} ...'
