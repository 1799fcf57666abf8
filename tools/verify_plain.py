"""Prove that a checkpoint of kdmm is one of the plain base library.

A process in which ``import kdmm`` is impossible builds the model of the config with MMSegmentation,
loads the checkpoint with ``strict=True`` and predicts a few pictures of the test set; kdmm does the
same with its own runner's model; the logits must be equal to the bit.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import torch


class _NoKdmm:
    """An import hook that knows of no kdmm."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name.split('.')[0] == 'kdmm':
            raise ModuleNotFoundError(f'No module named {name!r} (blocked)', name=name)


class _NotCompiled(ModuleType):
    """Names for ``mmcv._ext``: MMSegmentation 1.2 imports operators that no model here calls."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith('__'):
            raise AttributeError(name)

        def refuse(*args: Any, **kwargs: Any) -> None:
            raise RuntimeError(f'the mmcv operator {name!r} is not compiled')

        return refuse


def plain_logits(config: str, checkpoint: str, count: int) -> dict[str, Any]:
    """Logits from MMSegmentation alone; ends with an error if kdmm could be imported."""
    sys.meta_path.insert(0, _NoKdmm())  # type: ignore[arg-type]
    try:
        import kdmm  # noqa: F401
    except ModuleNotFoundError:
        pass
    else:
        raise RuntimeError('kdmm is imported already')
    if find_spec('mmcv._ext') is None:
        sys.modules['mmcv._ext'] = _NotCompiled('mmcv._ext')
    from mmengine.config import Config
    from mmengine.registry import init_default_scope
    from mmengine.runner import load_checkpoint
    from mmseg.registry import MODELS

    cfg = Config.fromfile(config)
    init_default_scope('mmseg')
    model = MODELS.build(cfg.model)
    load_checkpoint(model, checkpoint, map_location='cpu', strict=True)
    keys = len(model.state_dict())
    return dict(
        keys=keys, logits=_predict(model, cfg, count), without_kdmm='kdmm' not in sys.modules
    )


def kdmm_logits(config: str, checkpoint: str, count: int) -> dict[str, Any]:
    """Logits from the model that kdmm trains: a distilled one if the config has ``kd``."""
    from mmengine.registry import init_default_scope

    import kdmm  # noqa: F401
    from kdmm.checkpoints import load_strictly, read_checkpoint, state_dict_of
    from kdmm.config import load_config, model_config
    from kdmm.distillers.objective import set_aside
    from kdmm.registry import MODELS

    cfg = load_config(config)
    init_default_scope('mmseg')
    model = MODELS.build(model_config(cfg.model, cfg.get('kd')))
    with set_aside(model):
        load_strictly(model, state_dict_of(read_checkpoint(checkpoint)), repr(checkpoint))
    return dict(logits=_predict(model, cfg, count), model=type(model).__name__)


@torch.no_grad()
def _predict(model: Any, cfg: Any, count: int) -> list[torch.Tensor]:
    from mmengine.dataset import pseudo_collate
    from mmengine.registry import DATASETS

    dataset = DATASETS.build({**cfg.test_dataloader.dataset, '_scope_': 'mmseg'})
    model.eval()
    found = []
    for number in range(min(count, len(dataset))):
        batch = model.data_preprocessor(pseudo_collate([dataset[number]]), False)
        found.append(model(batch['inputs'], batch['data_samples'], mode='tensor'))
    return found


def verify(config: str, checkpoint: str, count: int = 4) -> str:
    """Compare both processes.

    Returns:
        One line for a person.

    Raises:
        RuntimeError: The plain process failed, or the logits differ.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / 'plain.pt'
        command = [
            sys.executable,
            __file__,
            config,
            checkpoint,
            '--count',
            str(count),
            '--plain',
            str(out),
        ]
        environment = {key: value for key, value in os.environ.items() if key != 'PYTHONPATH'}
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        if done.returncode:
            raise RuntimeError(f'{checkpoint} does not load without kdmm:\n{done.stderr[-2000:]}')
        plain = torch.load(out, weights_only=True)
    ours = kdmm_logits(config, checkpoint, count)
    for number, (one, other) in enumerate(zip(plain['logits'], ours['logits'], strict=True)):
        if not torch.equal(one, other):
            gap = (one - other).abs().max().item()
            raise RuntimeError(f'{checkpoint}: the logits of picture {number} differ by {gap:.3g}')
    return (
        f'{checkpoint}: all {plain["keys"]} keys load with strict=True into plain MMSegmentation, '
        f'in a process that cannot import kdmm; the logits of {len(plain["logits"])} pictures are '
        "kdmm's to the bit"
    )


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='the resolved config in the work dir')
    parser.add_argument('checkpoint')
    parser.add_argument('--count', type=int, default=4, help='pictures to predict')
    parser.add_argument('--plain', metavar='FILE', help='only write what the plain process finds')
    args = parser.parse_args()
    if args.plain:
        torch.save(plain_logits(args.config, args.checkpoint, args.count), args.plain)
        return 0
    try:
        print(verify(args.config, args.checkpoint, args.count))
    except RuntimeError as error:
        print(f'verify_plain: {error}', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
