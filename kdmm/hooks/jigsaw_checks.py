"""Checks of a jigsaw run before its first step."""

from collections.abc import Iterator, Mapping
from typing import Any

from kdmm.datasets.puzzle import META_KEYS
from kdmm.datasets.wrappers import inside
from kdmm.errors import ConfigError

MOVERS = ('RandomFlip', 'TopdownAffine')
"""Transforms that would move the patches and not, or wrongly, their labels."""


def puzzles_of(dataset: Any) -> tuple[Any, Any]:
    """Return `ShufflePatches` and the codec of the training data, which its parts share.

    Raises:
        ConfigError: If they are not there, in another order, or differ.
    """
    found = [_puzzle_and_codec(transforms) for transforms in pipelines(dataset)]
    shuffle, codec = found[0]
    for other, _ in found[1:]:
        check_same(shuffle, other, 'train_dataloader.dataset, another part')
        if (shuffle.prior() != other.prior()).any():
            raise ConfigError(
                'its parts have other p_identity or permutations in ShufflePatches, so that '
                'JigsawHook knows of no level',
                key='train_dataloader.dataset',
                fix='Make them equal.',
            )
    return shuffle, codec


def pipelines(dataset: Any) -> Iterator[list[Any]]:
    """Yield the transforms of each data set in wrappers and concatenations."""
    if hasattr(dataset, 'pipeline'):
        yield list(dataset.pipeline.transforms)
        return
    inner = inside(dataset)
    if inner is None:
        yield []
    for part in inner or ():
        yield from pipelines(part)


def _puzzle_and_codec(transforms: list[Any]) -> tuple[Any, Any]:
    names = [type(one).__name__ for one in transforms]
    place = names.index('ShufflePatches') if names.count('ShufflePatches') == 1 else len(names)
    behind = dict(zip(names[place:], transforms[place:], strict=True))
    codec = getattr(behind.get('GenerateTarget'), 'encoder', None)
    if codec is None or isinstance(codec, list) or any(name in behind for name in MOVERS):
        raise ConfigError(
            'for JigsawHook',
            key='train_dataloader.dataset.pipeline',
            got=names,
            expected=f'kdmm.ShufflePatches once, not before {" or ".join(MOVERS)}, and behind it '
            'GenerateTarget with one encoder',
        )
    return behind['ShufflePatches'], codec


def check_same(shuffle: Any, other: Any, place: str) -> None:
    """Refuse puzzles whose channels have another meaning.

    Raises:
        ConfigError: Names what differs.
    """
    for name in ('grid', 'mode'):
        ours, theirs = getattr(shuffle, name), getattr(other, name)
        if ours != theirs:
            raise ConfigError(
                f'ShufflePatches has {name}={_shown(theirs)}, in training it is {_shown(ours)}',
                key=place,
                fix='Make them equal.',
            )


def _shown(value: Any) -> str:
    return repr(value) if isinstance(value, str) else f'({value.rows}, {value.cols})'


def check_validation(shuffle: Any, dataset: Any, test_cfg: Mapping[str, Any] | None) -> None:
    """Refuse validation that `JigsawMetric` cannot measure, before the first epoch.

    Raises:
        ConfigError: Names the key to change.
    """
    if not (test_cfg or {}).get('output_heatmaps'):
        raise ConfigError(
            'JigsawMetric reads heatmaps',
            key='model.test_cfg.output_heatmaps',
            fix='Set it to True.',
        )
    place = 'val_dataloader.dataset'
    check_packed(dataset, place)
    for transforms in pipelines(dataset):
        for other in (one for one in transforms if type(one).__name__ == 'ShufflePatches'):
            check_same(shuffle, other, place)
            if other.seed is None:
                raise ConfigError(
                    'ShufflePatches has no seed, so that each validation would have other puzzles',
                    key=place,
                    fix='Set seed=0.',
                )


def check_packed(dataset: Any, place: str) -> None:
    """Refuse a pipeline whose samples do not say what their puzzle is.

    Raises:
        ConfigError: Names the keys.
    """
    for transforms in pipelines(dataset):
        by_name = {type(one).__name__: one for one in transforms}
        packed = getattr(by_name.get('PackPoseInputs'), 'meta_keys', ())
        if 'ShufflePatches' not in by_name or not set(META_KEYS) <= set(packed):
            raise ConfigError(
                key=f'{place}.pipeline',
                got=[*by_name],
                expected='kdmm.ShufflePatches, and PackPoseInputs with '
                f'{", ".join(META_KEYS)} in its meta_keys',
            )
