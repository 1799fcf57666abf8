from pathlib import Path
from typing import Any

import cv2
import pytest
import torch

pytest.importorskip('mmpretrain')

from kdmm.hooks.ownership import objective_of  # noqa: E402
from tests.e2e.job import assert_same  # noqa: E402
from tests.e2e.tiny_hssakd import CLASSES, IMAGES, Run, config, train, write_images  # noqa: E402
from tests.errors import refused  # noqa: E402

STAGES = ('stage1', 'stage2', 'stage3')


@pytest.fixture(scope='module')
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    root = tmp_path_factory.mktemp('branches')
    kd = dict(type='HSSAKDTeacher', joint=True, evaluate_branches=True)
    options: dict[str, Any] = dict(
        val_dataloader__batch_size=5,  # 12 images
        default_hooks__checkpoint__save_best='joint/sum',
        default_hooks__checkpoint__rule='greater',
        optim_wrapper__optimizer__lr=0.3,
    )
    return train(config(write_images(root / 'data'), root / 'run', kd, epochs=3, **options))


def history(run: Run, name: str) -> list[float]:
    return list(run.runner.message_hub.get_scalar(f'val/{name}').data[0])


@torch.no_grad()
def naive(run: Run, epoch: int) -> dict[str, float]:
    """From the files of an epoch: image by image, in eval mode, without the library's loaders."""
    content = run.file(f'epoch_{epoch}.pth')
    model = run.plain(content['state_dict'])
    branches = objective_of(run.model).branches
    kept = {key: value.clone() for key, value in branches.state_dict().items()}
    entry = {key.removeprefix('branches.'): value for key, value in content['kdmm'].items()}
    branches.load_state_dict(entry)
    branches.eval()
    root = Path(run.cfg.val_dataloader.dataset.data_root) / 'test'
    joint, classes = dict.fromkeys(STAGES, 0), dict.fromkeys(STAGES, 0)
    for label, folder in enumerate(sorted(root.iterdir())):
        for file in sorted(folder.iterdir()):
            image = torch.from_numpy(cv2.imread(str(file))).permute(2, 0, 1)
            x = model.data_preprocessor(dict(inputs=[image]), False)['inputs']
            for turn in range(4):
                h = model.backbone.stem(torch.rot90(x, turn, (2, 3)))
                for index, stage in enumerate(STAGES):
                    h = model.backbone.stages[index](h)
                    found = branches[stage](h)[0]
                    joint[stage] += int(found.argmax()) == 4 * label + turn
                    if turn == 0:
                        classes[stage] += int(found.view(CLASSES, 4).sum(1).argmax()) == label
    branches.load_state_dict(kept)
    scores = {f'joint/{name}': 100 * hits / 4 / IMAGES for name, hits in joint.items()}
    total = sum(scores.values())
    scores.update({f'class/{name}': 100 * hits / IMAGES for name, hits in classes.items()})
    return {**scores, 'joint/sum': total}


def test_it_is_a_naive_loop_over_the_validation_images(run: Run) -> None:
    epochs = [naive(run, epoch) for epoch in (1, 2, 3)]
    for name in epochs[0]:
        expected = [scores[name] for scores in epochs]
        assert history(run, name) == pytest.approx(expected), name
    assert len({round(scores['joint/sum'], 6) for scores in epochs}) > 1


def test_the_best_teacher_is_chosen_by_it(run: Run) -> None:
    sums = history(run, 'joint/sum')
    best = 1 + sums.index(max(sums))
    (file,) = run.folder.glob('best_*.pth')
    assert file.name == f'best_joint_sum_epoch_{best}.pth'
    same = run.file(f'epoch_{best}.pth')
    assert_same(run.file(file.name)['kdmm'], same['kdmm'])
    assert len(history(run, 'accuracy/top1')) == 3


def test_looking_changes_nothing(run: Run, tmp_path: Path) -> None:
    """Neither statistics nor the course of the training."""
    kd = dict(run.cfg.kd.to_dict(), evaluate_branches=False)
    data = Path(run.cfg.train_dataloader.dataset.data_root)
    same: dict[str, Any] = dict(optim_wrapper__optimizer__lr=0.3, val_dataloader__batch_size=5)
    other = train(config(data, tmp_path, kd, epochs=3, **same))
    for entry in ('state_dict', 'kdmm', 'optimizer'):
        assert_same(run.file('epoch_3.pth')[entry], other.file('epoch_3.pth')[entry], entry)
    assert not [key for key in other.runner.message_hub.log_scalars if 'joint/' in key]


def test_a_run_without_validation(tmp_path: Path) -> None:
    kd = dict(type='HSSAKDTeacher', joint=True, evaluate_branches=True)
    cfg = config(write_images(tmp_path / 'data'), tmp_path / 'run', kd, epochs=1)
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    with refused(key='kd.evaluate_branches', problem='the config has no validation'):
        train(cfg)
