"""`tools/visualize.py`: what it writes, and what it refuses before a network is built."""

from pathlib import Path
from typing import Any

import cv2
import pytest
import torch

pytest.importorskip('mmpose')

from kdmm.engine import build_runner, load_config  # noqa: E402
from kdmm.engine.visualize import visualize  # noqa: E402
from tests.e2e.tiny_pose import shrink_pose, write_people  # noqa: E402

PRETRAIN = str(Path(__file__).parents[2] / 'configs' / 'small' / 'pose' / 'pretrain.py')


@pytest.fixture(scope='module')
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A config on four persons, and a checkpoint of its network."""
    root = tmp_path_factory.mktemp('visualize')
    write_people(root)
    cfg = load_config(PRETRAIN)
    shrink_pose(cfg, root, root / 'work')
    weights = build_runner(cfg).model.state_dict()
    torch.save(dict(state_dict=weights), root / 'random.pth')
    cfg.dump(str(root / 'config.py'))
    return cfg, root


def test_writes_a_sheet(prepared: tuple[Any, Path], tmp_path: Path) -> None:
    """As many rows as asked for, though a batch has two; no more than there are persons."""
    _, root = prepared
    for count, rows in ((3, 3), (9, 4)):
        out = tmp_path / f'{count}.png'
        options = ('--cfg-options', 'val_dataloader.batch_size=2')
        words = [str(root / 'config.py'), str(root / 'random.pth'), '--out', str(out)]
        visualize([*words, '--num', str(count), *options])
        assert cv2.imread(str(out)).shape == (18 + rows * (128 + 4), 4 * 96 + 3 * 4, 3)


@pytest.mark.parametrize(
    ('words', 'complaint'),
    [
        (['--num', '0'], '--num: expected at least 1, got 0'),
        (['--out', 'gone/a.png'], 'folder that exists'),
        (['--out', 'a.gif'], '.png or .jpg'),
        (['--cfg-options', 'val_dataloader.dataset.pipeline.3.type=RandomFlip'], 'ShufflePatches'),
        (['--cfg-options', 'val_dataloader.dataset.pipeline.4.meta_keys=[id]'], 'meta_keys'),
        (['--cfg-options', 'val_dataloader.dataset.data_root=gone'], 'data_root'),
    ],
)
def test_refuses(
    words: list[str],
    complaint: str,
    prepared: tuple[Any, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    root = prepared[1]
    with pytest.raises(SystemExit) as stop:
        visualize([str(root / 'config.py'), str(root / 'random.pth'), '--out', 'a.png', *words])
    assert stop.value.code == 2
    assert complaint in capsys.readouterr().err
