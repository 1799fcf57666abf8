"""Teacher and student see different inputs of a sample: whole runs, the probe, the template."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner as PlainRunner

pytest.importorskip('mmpretrain')

from mmengine.registry import MODELS  # noqa: E402

from kdmm.engine import build_runner  # noqa: E402
from kdmm.engine.dry_run import to_blank_data, to_dry_run  # noqa: E402
from kdmm.functional.views import chrominance, luminance  # noqa: E402

from .config_table import TABLE, read  # noqa: E402
from .tiny_cifar import walk  # noqa: E402

NAMES = 'crd/cifar10_small_{}.py'
STUDENT, DISTILLED = NAMES.format('chrominance_student'), 'luminance_to_chrominance_fitnet'
PROBE = NAMES.format('chrominance_probe')


def small(name: str, root: Path, folder: str, **changes: Any) -> Config:
    """A config of ours on a few images; its run leaves ``last.pth``'s content in its work dir."""
    cfg = read(name)
    TABLE[name].shrink(cfg, root / 'data', root / folder)
    cfg.experiment_name = str(root / folder)
    cfg.default_hooks.checkpoint = dict(type='CheckpointHook', interval=1)
    cfg.merge_from_dict(changes)
    return cfg


def watched(runner: Any) -> dict[str, list[torch.Tensor]]:
    """The inputs of the student's and the teacher's first layer from now on."""
    found: dict[str, list[torch.Tensor]] = dict(student=[], teacher=[])
    networks = dict(student=runner.model, teacher=runner.model.kd.teachers[0].module)
    for name, network in networks.items():
        network.backbone.stem[0].register_forward_pre_hook(
            lambda _, args, name=name: found[name].append(args[0].detach().clone())
        )
    return found


@pytest.fixture(scope='module')
def distilled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Any]:
    """A run without labels, the folder of all runs, and what the networks saw."""
    root = tmp_path_factory.mktemp('modalities')
    cfg = small(NAMES.format(DISTILLED), root, 'distilled')
    walk(cfg.train_dataloader, _without_labels)
    runner = build_runner(cfg)
    seen = watched(runner)
    before = copy.deepcopy(runner.model.state_dict())
    runner.train()
    return root, (runner, before), seen


def _without_labels(node: Any) -> None:
    if node.get('with_label'):
        node['with_label'] = False
    if node.get('type') == 'kdmm.StratifiedSubset':  # draws by class
        inner = dict(node.pop('dataset'))
        node.clear()
        node.update(inner, with_label=False)


def test_teacher_and_student_see_one_sample_in_two_modalities(distilled: Any) -> None:
    _, (runner, _), seen = distilled
    student = torch.cat(seen['student'])
    teacher = torch.cat(seen['teacher'])
    assert student.shape[1:] == (2, 32, 32) and teacher.shape[1:] == (1, 32, 32)
    images = [
        item['data_samples'].img2 for item in (runner.train_dataloader.dataset[i] for i in range(4))
    ]
    assert all(image.shape == (32, 32, 3) for image in images)
    assert len(student) == len(teacher) >= 4


def test_the_pair_comes_from_one_crop_and_flip(distilled: Any) -> None:
    """From the image in the sample follows what both networks see, to rounding."""
    _, (runner, _), _ = distilled
    item = runner.train_dataloader.dataset[0]
    found = watched(runner)
    runner.model.eval()
    data = runner.model.data_preprocessor(
        dict(inputs=[item['inputs']], data_samples=[item['data_samples']])
    )
    runner.model(**data, mode='loss')
    rgb = torch.from_numpy(item['data_samples'].img2[..., ::-1].copy()).permute(2, 0, 1)[None]
    chroma, light = chrominance(rgb.float()), luminance(rgb.float())
    mean, std = (torch.tensor(read(STUDENT).data_preprocessor[k]).view(1, 2, 1, 1)
                 for k in ('mean', 'std'))  # fmt: skip
    torch.testing.assert_close(found['student'][-1], (chroma - mean) / std)
    norm = read(NAMES.format('luminance_teacher')).data_preprocessor
    expected = (light - norm['mean'][0]) / norm['std'][0]
    torch.testing.assert_close(found['teacher'][-1], expected, rtol=1e-4, atol=1e-4)


def test_it_learns_without_labels_and_its_file_is_a_plain_student(distilled: Any) -> None:
    root, (runner, before), _ = distilled
    assert not any('gt_label' in runner.train_dataloader.dataset[i]['data_samples'] for i in (0, 1))
    after = runner.model.state_dict()
    assert torch.equal(after['head.fc.weight'], before['head.fc.weight'])
    assert not torch.equal(after['backbone.stem.0.weight'], before['backbone.stem.0.weight'])
    cfg = small(STUDENT, root, 'plain')
    cfg.load_from = str(root / 'distilled/epoch_1.pth')
    plain = PlainRunner.from_cfg(cfg)  # the base library's own loop, pipeline and strict loading
    plain.load_or_resume()
    file = torch.load(cfg.load_from, weights_only=False)['state_dict']
    plain.model.load_state_dict(file, strict=True)
    assert 0 <= plain.test()['accuracy/top1'] <= 100


def test_the_probe_trains_a_head_and_nothing_else(distilled: Any) -> None:
    root, (runner, _), _ = distilled
    file = str(root / 'distilled/epoch_1.pth')
    for name, init in (('chrominance_probe', file), ('chrominance_probe_random', None)):
        cfg = small(NAMES.format(name), root, name)
        if init:
            cfg.model.backbone.init_cfg = dict(
                type='Pretrained', checkpoint=init, prefix='backbone.'
            )
        probe = build_runner(cfg)
        probe.train()
        after, start = probe.model.state_dict(), runner.model.state_dict()
        assert not torch.equal(after['head.fc.weight'], start['head.fc.weight'])
        same = [torch.equal(after[key], start[key]) for key in after if key.startswith('backbone.')]
        assert all(same) if init else not all(same)
        trained = {n for n, p in probe.model.named_parameters() if p.requires_grad}
        assert trained == {'head.fc.weight', 'head.fc.bias'}
        fresh = {k: v for k, v in after.items() if 'running_mean' in k}
        if not init:  # BN has moved nowhere
            assert all(not value.any() for value in fresh.values())


def test_a_dry_run_needs_neither_data_nor_weights(tmp_path: Path) -> None:
    cfg = read(NAMES.format(DISTILLED))
    to_blank_data(cfg)
    to_dry_run(cfg, dict(type='kdmm.ProfileLoop', warmup=1, iters=1), str(tmp_path))
    cfg.experiment_name = str(tmp_path)
    cfg.train_dataloader.update(batch_size=4, num_workers=0, persistent_workers=False)
    runner = build_runner(cfg)
    runner.train()
    parts = runner.train_loop.parts
    assert {'student forward', 'teacher forward', 'fitnet forward'} <= set(parts)
    assert not runner.train_loop.estimate.notes


def test_the_template_runs_on_pairs_of_files(tmp_path: Path) -> None:
    """Depth of 16 bits in another place of each image, beside its colours."""
    cfg = small('crd/rgb_to_depth_template.py', tmp_path, 'work')
    runner = build_runner(cfg)
    found: dict[str, list[torch.Tensor]] = dict(student=[], teacher=[])
    networks = dict(student=runner.model, teacher=runner.model.kd.teachers[0].module)
    for name, network in networks.items():
        network.backbone.conv1.register_forward_pre_hook(
            lambda _, args, name=name: found[name].append(args[0].detach().clone())
        )
    runner.train()
    depth = torch.cat(found['student'])[:, 0] * 1000 + 2700
    norm = networks['teacher'].data_preprocessor
    rgb = torch.cat(found['teacher']) * norm.std + norm.mean
    # files are BGR: blue has the low byte, green the high one
    assert torch.equal((rgb[:, 1] * 256 + rgb[:, 2]).round(), depth.round())
    student = MODELS.build(dict(cfg.model, _scope_='mmpretrain', data_preprocessor=None))
    content = torch.load(tmp_path / 'work/epoch_1.pth', weights_only=False)['state_dict']
    student.load_state_dict(content, strict=True)
