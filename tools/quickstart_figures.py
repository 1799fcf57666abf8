"""The two figures of the quick start."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

COUNT = 4
#: Begins the logged name of a term's weighted value.
TERM = 'kd.loss_'
COLOURS = {'teacher': '#444444', 'student': '#1f77b4', 'student_cirkd': '#d62728'}


class Arm(Protocol):
    """Figures of an arm that are drawn; see ``quickstart_report.Arm``."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def title(self) -> str: ...  # noqa: D102
    @property
    def folder(self) -> Path: ...  # noqa: D102
    @property
    def checkpoint(self) -> Path: ...  # noqa: D102
    @property
    def config(self) -> Path: ...  # noqa: D102
    @property
    def miou(self) -> float: ...  # noqa: D102


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    return pyplot


def read_scalars(folder: Path) -> list[dict[str, Any]]:
    """All that a work dir's runs logged; a resumed run replaces what it repeats."""
    found: dict[tuple[int, bool], dict[str, Any]] = {}
    for file in sorted(folder.glob('*/vis_data/scalars.json')):
        for line in file.read_text().splitlines():
            entry = json.loads(line)
            found[entry['step'], 'loss' in entry] = entry
    return [found[key] for key in sorted(found)]


def series(entries: Sequence[dict[str, Any]], key: str) -> tuple[np.ndarray, np.ndarray]:
    """Iterations (N,) and values (N,) of one logged name."""
    pairs = [(entry['step'], entry[key]) for entry in entries if key in entry]
    return tuple(np.array(pairs, dtype=float).reshape(-1, 2).T)  # type: ignore[return-value]


def distillation_terms(entries: Sequence[dict[str, Any]]) -> list[str]:
    """Return the names of the terms whose weighted values were logged, without their shares."""
    names = {key for entry in entries for key in entry if key.startswith(TERM)}
    return sorted(name.removeprefix(TERM) for name in names)


def curves(arms: Sequence[Arm], path: Path) -> None:
    """Task loss and mIoU of every arm and the distillation terms, over the iterations."""
    pyplot = _pyplot()
    figure, (task, terms, metric) = pyplot.subplots(1, 3, figsize=(14, 4))
    for arm in arms:
        entries = read_scalars(arm.folder)
        style = dict(color=COLOURS[arm.name], label=arm.title)
        task.plot(*series(entries, 'decode.loss_ce'), **style)
        metric.plot(*series(entries, 'mIoU'), marker='o', **style)
        for name in distillation_terms(entries):
            terms.plot(*series(entries, f'{TERM}{name}'), label=name)
    task.set(title='cross-entropy of the decode head', ylim=(0, None))
    terms.set(title='weighted terms of CIRKD', yscale='log')
    metric.set(title='mIoU on the validation scenes, %')
    for axes in (task, terms, metric):
        axes.set_xlabel('iteration')
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
    figure.suptitle('one seed')
    _save(figure, path)


def pictures(arms: Sequence[Arm], path: Path) -> None:
    """Picture, truth and every arm's prediction of a few validation scenes, with a legend."""
    from mmengine.config import Config
    from mmengine.registry import DATASETS
    from mmseg.apis import inference_model, init_model

    cfg = Config.fromfile(arms[0].config)
    dataset = DATASETS.build({**cfg.test_dataloader.dataset, '_scope_': 'mmseg'})
    samples = [dataset[number] for number in choose(dataset)]
    palette = np.array([*dataset.metainfo['palette'], [0, 0, 0]], dtype=np.uint8)
    columns = [('image', [sample['inputs'].numpy()[::-1].transpose(1, 2, 0) for sample in samples])]
    truth = [sample['data_samples'].gt_sem_seg.data[0].numpy() for sample in samples]
    columns.append(('truth', [_paint(labels, palette) for labels in truth]))
    files = [sample['data_samples'].img_path for sample in samples]
    for arm in arms:
        model = init_model(str(arm.config), str(arm.checkpoint), device='cpu')
        seen = [inference_model(model, file).pred_sem_seg.data[0].numpy() for file in files]
        columns.append((f'{arm.title} ({arm.miou:.1f})', [_paint(one, palette) for one in seen]))
    _grid(columns, dataset.metainfo['classes'], palette, path)


def choose(dataset: Any, count: int = COUNT) -> list[int]:
    """The pictures with the most classes in their truth; predictions play no part."""
    variety = []
    for number in range(len(dataset)):
        labels = dataset[number]['data_samples'].gt_sem_seg.data.unique()
        variety.append((-int((labels != 255).sum()), number))
    return sorted(number for _, number in sorted(variety)[:count])


def _paint(labels: np.ndarray, palette: np.ndarray) -> np.ndarray:
    return palette[np.where(labels == 255, len(palette) - 1, labels)]


def _grid(
    columns: Sequence[tuple[str, list[np.ndarray]]],
    classes: Sequence[str],
    palette: np.ndarray,
    path: Path,
) -> None:
    pyplot = _pyplot()
    rows = len(columns[0][1])
    figure, grid = pyplot.subplots(
        rows, len(columns), figsize=(3.4 * len(columns), 1.8 * rows + 0.8), squeeze=False
    )
    for column, (title, images) in enumerate(columns):
        grid[0, column].set_title(title)
        for row, image in enumerate(images):
            grid[row, column].imshow(image, interpolation='nearest')
            grid[row, column].axis('off')
    patches = [
        pyplot.Rectangle((0, 0), 1, 1, color=colour / 255)
        for colour in palette[[*range(len(classes)), -1]]
    ]
    figure.legend(
        patches, [*classes, 'void'], loc='lower center', ncols=len(patches), frameon=False
    )
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    _save(figure, path, tight=False)


def _save(figure: Any, path: Path, tight: bool = True) -> None:
    if tight:
        figure.tight_layout()
    figure.savefig(path, dpi=110)
    _pyplot().close(figure)
