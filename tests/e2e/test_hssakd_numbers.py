"""HSSAKD's numbers do not depend on processes, on recomputation, or on the precision."""

from pathlib import Path
from typing import Any

import cv2
import pytest
import torch
from mmengine.registry import MODELS
from torch import Tensor
from torch.nn import functional as F

from tests.versions import cpu_autocast

pytest.importorskip('mmpretrain')

from kdmm.functional import joint_labels, kl_divergence, unrotated  # noqa: E402
from tests.distillers.hssakd.classifiers import batch, build, random_teacher, total  # noqa: E402
from tests.e2e.hssakd_world import ROLES, everything  # noqa: E402
from tests.e2e.job import assert_same  # noqa: E402
from tests.e2e.tiny_hssakd import classifier, write_images  # noqa: E402
from tests.ranks import on_ranks  # noqa: E402

#: Role to whether its classifier is trained, and how many networks with branches there are.
TRAINED = dict(frozen=(False, 1), joint=(True, 1), student=(True, 1), online=(True, 2))


@pytest.fixture(scope='module')
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp('images'))


@pytest.fixture(scope='module')
def one(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return everything(data, tmp_path_factory.mktemp('one'))


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp('two')


@pytest.fixture(scope='module')
def two(data: Path, folder: Path) -> list[dict[str, Any]]:
    return on_ranks(everything, 2, data, folder)


# two processes


@pytest.mark.parametrize('role', ROLES)
def test_two_processes_are_one_with_the_whole_batch(
    one: dict[str, Any], two: list[dict[str, Any]], role: str
) -> None:
    """And DDP finds no parameter without a gradient (find_unused_parameters=False)."""
    expected, (first, second) = one[role], (found[role] for found in two)
    for step in range(3):
        for key, value in expected['losses'][step].items():
            mean = (first['losses'][step][key] + second['losses'][step][key]) / 2
            torch.testing.assert_close(mean, value, rtol=1e-4, atol=1e-5, msg=f'{step} {key}')
        grads = expected['gradients'][step]
        assert grads.keys() == first['gradients'][step].keys()
        for key, value in grads.items():
            found = first['gradients'][step][key]
            assert torch.equal(found, second['gradients'][step][key]), f'{step} {key}'
            scale = float(value.abs().max())
            torch.testing.assert_close(
                found, value, rtol=1e-3, atol=1e-4 * scale + 1e-6, msg=f'{step} {key}'
            )


def test_validation_of_peers_and_branches_is_of_all_images(
    one: dict[str, Any], two: list[dict[str, Any]]
) -> None:
    """Each rank has seen half of them, and both have the metrics of the whole."""
    names = dict(online='val/peer1/accuracy/top1', joint='val/joint/stage1')
    for role, name in names.items():
        expected = one[role]['metrics']
        assert name in expected and 'val/accuracy/top1' in expected
        for rank in two:
            assert rank[role]['metrics'] == pytest.approx(expected)


@pytest.mark.parametrize('role', ROLES)
def test_steps_are_not_trivial(one: dict[str, Any], role: str) -> None:
    trained, networks = TRAINED[role]
    gradients = one[role]['gradients'][0]
    branches = {key for key in gradients if 'branches.' in key}
    assert len({key.split('.fc.')[0] for key in branches if '.fc.' in key}) == 4 * networks
    own = {key for key in gradients if not key.startswith('kd.')}
    assert bool(own) == trained and len(gradients) > len(branches) - 1
    weights = [value for key, value in gradients.items() if key.endswith('fc.weight')]
    assert all(float(value.abs().max()) > 1e-4 for value in weights)
    losses = one[role]['losses'][0]
    names = [key for key in losses if 'loss' in key]
    assert float(losses['loss']) == pytest.approx(sum(float(losses[key]) for key in names) / 2)
    assert len(names) == dict(frozen=6, joint=6, student=7, online=16)[role]


def test_statistics_of_two_processes_are_written_once(
    two: list[dict[str, Any]], data: Path, folder: Path
) -> None:
    """Of the images of both, with the weights of the last checkpoint."""
    content = torch.load(folder / 'kept' / 'recalibrated.pth', weights_only=True)['state_dict']
    file = torch.load(folder / 'kept' / 'epoch_1.pth', weights_only=False)
    last = file['state_dict']
    assert content.keys() == last.keys()
    for key, value in content.items():
        if 'running' in key:
            assert not torch.equal(value, last[key]), key
        elif 'num_batches' not in key:
            assert torch.equal(value, last[key]), key
    images = [cv2.imread(str(file)) for file in sorted((data / 'train').rglob('*.jpg'))]
    inputs = [torch.from_numpy(image).permute(2, 0, 1) for image in images]
    model = MODELS.build(dict(classifier(), _scope_='mmpretrain'))
    x = model.data_preprocessor(dict(inputs=inputs), False)['inputs']
    rows = F.conv2d(x, content['backbone.stem.0.weight'], padding=1)
    mean = content['backbone.stem.1.running_mean']
    torch.testing.assert_close(mean, rows.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    half = F.conv2d(x[::2], content['backbone.stem.0.weight'], padding=1).mean((0, 2, 3))
    assert (half - mean).abs().max() > 1e-3
    # the run's own statistics stay as each rank counted them
    mine = {key: value for key, value in two[0]['kept']['state'].items() if key in last}
    own = {key: value for key, value in file['kdmm_ranks'][0].items() if key in last}
    assert any('running' in key for key in own)
    assert_same(mine, {**last, **own})


# activation checkpointing


def test_recomputing_changes_nothing(one: dict[str, Any]) -> None:
    """Losses, gradients and running statistics of a run, to the bit."""
    assert_same(one['kept'], one['recomputed'])


def test_recomputing_changes_nothing_through_ddp(two: list[dict[str, Any]]) -> None:
    for rank in two:
        assert_same(rank['kept'], rank['recomputed'])


# mixed precision

SECTIONS: dict[str, dict[str, Any]] = dict(
    frozen=dict(kind='HSSAKDTeacher', random=True),
    joint=dict(kind='HSSAKDTeacher', joint=True),
    student=dict(kind='HSSAKD', teacher=random_teacher()),
    online=dict(kind='HSSAKDOnline'),
)
LABELS = (0, 2, 1, 1)


def losses_of(model: Any, dtype: torch.dtype) -> dict[str, Tensor]:
    images, samples = batch(*LABELS)
    with cpu_autocast(dtype):
        return model(images, samples, mode='loss')


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('role', SECTIONS)
def test_losses_of_halves_are_computed_in_float32(role: str, dtype: torch.dtype) -> None:
    """As from the same halves in double precision."""
    torch.manual_seed(0)
    model = build(**SECTIONS[role]).train()
    outputs, targets = recorded_outputs(model)
    found = losses_of(model, dtype)
    joint = joint_labels(torch.tensor(LABELS))
    mine = outputs[0]
    assert mine.logits.dtype == dtype and all(q.dtype == dtype for q in mine.joint.values())
    expected = {}
    if role == 'student':
        logits, joints = targets[0]
        expected['kd.loss_logits'] = kl_divergence(mine.logits.double(), logits.double(), 3.0)
        for name, q in mine.joint.items():
            expected[f'kd.loss_{name}'] = kl_divergence(q.double(), joints[name].double(), 3.0)
    elif role == 'online':
        a, b = (output.logits.double() for output in outputs)
        expected['kd.loss_logits'] = kl_divergence(a, b, 3.0) + kl_divergence(b, a, 3.0)
    if role != 'student':
        for name, q in mine.joint.items():
            expected[f'kd.loss_joint_{name}'] = F.cross_entropy(q.double(), joint)
    rows = unrotated(mine.logits).double()
    expected['head.loss'] = F.cross_entropy(rows, torch.tensor(LABELS))
    for key, value in expected.items():
        torch.testing.assert_close(found[key].double(), value, rtol=2e-6, atol=2e-6, msg=key)
    total(found).backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients and all(value.isfinite().all() for value in gradients)


def recorded_outputs(model: Any) -> tuple[list[Any], list[Any]]:
    """Lists that get the outputs of the networks, and of the teacher, for the views."""
    outputs: list[Any] = []
    targets: list[Any] = []

    def keep(owner: Any, name: str, into: list[Any]) -> None:
        original = getattr(owner, name)

        def call(*args: Any) -> Any:
            into.append(original(*args))
            return into[-1]

        setattr(owner, name, call)

    keep(model.kd, 'branched', outputs)
    for peer in getattr(model.kd, 'peers', ()):
        keep(peer, 'branched', outputs)
    if model.kd.teachers:
        keep(model.kd.teachers[0], 'branch_outputs', targets)
    return outputs, targets
