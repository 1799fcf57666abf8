"""HSSAKD from the baseline to the students, through the Runner: what is trained and written."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip('mmpretrain')

from mmpretrain.models import ImageClassifier  # noqa: E402

from kdmm.distillers import ConfigError  # noqa: E402
from kdmm.hooks.ownership import objective_of  # noqa: E402
from tests.e2e.job import assert_same  # noqa: E402
from tests.e2e.tiny_hssakd import (  # noqa: E402
    CLASSES,
    MMPRETRAIN,
    SIZE,
    WIDER,
    Run,
    config,
    logits,
    snapshot,
    train,
    write_images,
)

ROLES = ('frozen', 'joint', 'student', 'star', 'online', 'mmpretrain')
#: Student to its teacher.
TAUGHT = dict(student='frozen', star='joint')

WITHOUT_KDMM = """
import sys
sys.modules['kdmm'] = None  # an import fails
import torch
from mmengine.config import Config
from mmengine.runner import load_checkpoint
from mmpretrain.registry import MODELS
from mmpretrain.utils import register_all_modules
config, images, out, *files = sys.argv[1:]
register_all_modules()
model = MODELS.build(Config.fromfile(config).model).eval()
images, found = torch.load(images, weights_only=True), {}
for file in files:
    content = load_checkpoint(model, file, strict=True)
    if 'message_hub' not in content:
        torch.load(file, weights_only=True)
    with torch.no_grad():
        data = model.data_preprocessor(dict(inputs=list(images)), False)
        found[file] = model(data['inputs'], mode='tensor')
torch.save(found, out)
"""


@pytest.fixture(scope='module')
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp('hssakd') / 'data').parent


class Chain(dict[str, Run]):
    """Two epochs of each role, trained when first asked for, teachers before their students."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root = root
        config(root / 'data', root, backbone=WIDER).dump(root / 'teacher.py')

    def __missing__(self, role: str) -> Run:
        kd, options = self.section(role)
        self[role] = train(config(self.root / 'data', self.root / role, kd, **options))
        return self[role]

    def section(self, role: str) -> tuple[dict[str, Any] | None, dict[str, Any]]:
        """``kd``, and what else the config says."""
        wider = dict(backbone=WIDER)
        if role == 'baseline':
            return None, wider
        if role == 'frozen':
            first = str(self['baseline'].folder / 'epoch_2.pth')
            return dict(type='HSSAKDTeacher'), dict(wider, load_from=first)
        if role == 'joint':
            return dict(type='HSSAKDTeacher', joint=True), wider
        if role in TAUGHT:
            file = str(self[TAUGHT[role]].folder / 'epoch_2.pth')
            teacher = dict(config=str(self.root / 'teacher.py'), checkpoint=file)
            return dict(type='HSSAKD', teacher=teacher), {}
        return dict(type='HSSAKDOnline'), dict(backbone=MMPRETRAIN) if role == 'mmpretrain' else {}


@pytest.fixture(scope='module')
def chain(root: Path) -> Chain:
    return Chain(root)


def branches_in(entry: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value for key, value in entry.items() if 'branches.' in key}


def moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {key for key, value in before.items() if not torch.equal(value, after[key])}


def convolutions_and_statistics(entry: dict[str, Tensor]) -> set[str]:
    """Names of the entries that an epoch of training must change."""
    return {key for key, value in entry.items() if value.dim() > 1 or 'running_mean' in key}


# what is trained


def test_frozen_classifier_is_the_baseline_to_the_bit(chain: Chain) -> None:
    """Parameters and BN buffers."""
    first = chain['baseline'].file('epoch_2.pth')['state_dict']
    assert any('running_var' in key for key in first)
    for file in chain['frozen'].files():
        assert_same(dict(chain['frozen'].file(file.name)['state_dict']), dict(first), file.name)
    own = chain['frozen'].model.state_dict()
    assert_same({key: own[key] for key in first}, dict(first))
    head = chain['frozen'].runner.message_hub.get_scalar('train/loss')
    assert len(head.data[0]) == 6


@pytest.mark.parametrize('role', ['frozen', 'joint', 'student', 'star', 'online'])
def test_branches_learn(chain: Chain, role: str) -> None:
    one, two = (branches_in(chain[role].file(f'epoch_{n}.pth')['kdmm']) for n in (1, 2))
    assert len({key.split('branches.')[1].split('.')[0] for key in one}) == 3
    assert convolutions_and_statistics(one) <= moved(one, two)


@pytest.mark.parametrize('role', ['joint', 'student', 'star', 'online'])
def test_classifiers_learn(chain: Chain, role: str) -> None:
    one, two = (chain[role].file(f'epoch_{n}.pth')['state_dict'] for n in (1, 2))
    assert convolutions_and_statistics(one) <= moved(one, two)


def test_peers_learn_and_differ(chain: Chain) -> None:
    prefix = 'peers.0.network.'
    one, two = (chain['online'].file(f'epoch_{n}.pth') for n in (1, 2))
    entry = {key: value for key, value in one['kdmm'].items() if key.startswith(prefix)}
    assert {key.removeprefix(prefix) for key in entry} == set(one['state_dict'])
    assert convolutions_and_statistics(entry) <= moved(entry, two['kdmm'])
    other = {key.removeprefix(prefix): two['kdmm'][key] for key in entry}
    assert convolutions_and_statistics(other) <= moved(other, two['state_dict'])


@pytest.mark.parametrize('role, source', TAUGHT.items())
def test_teacher_stays_as_in_its_file_and_out_of_the_others(
    chain: Chain, role: str, source: str
) -> None:
    """A student's step changes no tensor of its teacher, and its files have none of it."""
    model, content = chain[role].model, chain[source].file('epoch_2.pth')
    module, branches = objective_of(model).teachers[0].parts
    assert_same(snapshot(module), dict(content['state_dict']))
    own = {f'branches.{key}': value for key, value in snapshot(branches).items()}
    assert_same(own, content['kdmm'])
    assert not module.training and not branches.training
    for parameter in (*module.parameters(), *branches.parameters()):
        assert parameter.grad is None and not parameter.requires_grad
    expected = len(list(chain[role].plain('epoch_2.pth').parameters()))
    expected += len(list(objective_of(model).branches.parameters()))
    for file in chain[role].files():
        found = chain[role].file(file.name)
        shapes = {value.shape for value in found['state_dict'].values()}
        assert not {shape for shape in shapes if 12 in shape}  # the teacher's last stage
        assert not any('teacher' in key for key in (*found['state_dict'], *found.get('kdmm', ())))
        for group in found.get('optimizer', {}).get('param_groups', ()):
            assert len(group['params']) == expected


# what is written


@pytest.mark.parametrize('role', ROLES)
def test_every_file_is_the_plain_classifier_of_the_run(chain: Chain, role: str) -> None:
    run = chain[role]
    names = {file.name for file in run.files()}
    (best,) = (name for name in names if name.startswith('best_'))
    alone = {'recalibrated.pth'} if role != 'frozen' else set()
    if run.cfg.kd.type == 'HSSAKDOnline':
        alone |= {'peer1.pth', 'peer1_recalibrated.pth'}
    assert names == {'epoch_1.pth', 'epoch_2.pth', best} | alone
    said = {name: logits(run.plain(name)) for name in names}  # loaded with strict=True
    model = run.model.eval()
    assert torch.equal(said['epoch_2.pth'], logits(model))
    assert torch.equal(said[best], said[f'epoch_{best.split("_")[-1]}'])
    for name, network in networks(model).items():
        if f'{name}.pth' in names:
            assert torch.equal(said[f'{name}.pth'], logits(network.eval()))
            assert not torch.equal(said[f'{name}.pth'], said['epoch_2.pth'])
    for name in alone:
        assert set(run.file(name)) == {'meta', 'state_dict'}, name


def networks(model: nn.Module) -> dict[str, nn.Module]:
    peers = getattr(objective_of(model), 'peers', ())
    return {f'peer{index}': peer.network for index, peer in enumerate(peers, 1)}


@pytest.mark.parametrize('role', ['frozen', 'joint', 'student', 'online'])
def test_best_files_of_teachers_keep_their_branches(chain: Chain, role: str) -> None:
    (best,) = chain[role].folder.glob('best_*.pth')
    content, teaches = chain[role].file(best.name), role != 'student'
    assert 'optimizer' not in content and ('kdmm' in content) == teaches
    if teaches:
        same = chain[role].file(f'epoch_{best.stem.split("_")[-1]}.pth')['kdmm']
        assert_same(content['kdmm'], same)
        assert (set(branches_in(same)) == set(same)) == (role != 'online')  # which has peers


@pytest.mark.parametrize('role', ['frozen', 'joint', 'student', 'online'])
def test_branches_have_no_part_in_prediction(chain: Chain, role: str) -> None:
    """Other weights of the branches leave the predictions as they are."""
    model = chain[role].model.eval()
    before, kept = logits(model), snapshot(model.kd)
    batch = next(iter(chain[role].runner.val_dataloader))
    predicted = [sample.pred_score for sample in model.val_step(batch)]
    with torch.no_grad():
        for value in model.kd.parameters():
            value.copy_(torch.randn_like(value))
    assert torch.equal(logits(model), before)
    for sample, score in zip(model.val_step(batch), predicted, strict=True):
        assert torch.equal(sample.pred_score, score)
    model.kd.load_state_dict(kept)


def test_mmpretrain_alone_reads_every_file(chain: Chain, root: Path, tmp_path: Path) -> None:
    run = chain['mmpretrain']
    images = torch.randint(0, 256, (5, 3, SIZE, SIZE), generator=torch.Generator().manual_seed(3))
    torch.save(images.byte(), tmp_path / 'images.pt')
    (copy,) = run.folder.glob('*/vis_data/config.py')  # what the run leaves
    files = [str(file) for file in run.files()]
    command = [sys.executable, '-c', WITHOUT_KDMM, copy, tmp_path / 'images.pt', tmp_path / 'out']
    done = subprocess.run(
        [*map(str, command), *files], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-3000:]
    assert 'Could not safely load' not in said
    found = torch.load(tmp_path / 'out', weights_only=True)
    assert len(found) == 6
    for file, value in found.items():
        assert torch.equal(value, logits(run.plain(Path(file).name))), file
        assert value.shape == (5, CLASSES)


# resuming


@pytest.mark.parametrize('role', ['frozen', 'joint', 'student', 'online'])
def test_resumed_is_the_uninterrupted_run(
    chain: Chain, root: Path, role: str, tmp_path: Path
) -> None:
    """To the bit, though the one validated between its epochs and the other did not."""
    whole, (kd, options) = chain[role], chain.section(role)
    options |= dict(resume=True, load_from=str(whole.folder / 'epoch_1.pth'))
    rest = train(config(root / 'data', tmp_path, kd, **options))
    assert not (tmp_path / 'epoch_1.pth').exists()
    for name in {file.name for file in rest.files()} - {'epoch_1.pth'}:
        one, other = whole.file(name), rest.file(name)
        assert one.keys() == other.keys()
        for entry in ('state_dict', 'kdmm', 'optimizer', 'param_schedulers'):
            assert_same(one.get(entry), other.get(entry), f'{name} {entry}')


@pytest.mark.parametrize('role', ['joint', 'online'])
def test_a_best_file_cannot_be_resumed(chain: Chain, root: Path, role: str, tmp_path: Path) -> None:
    """It has no optimizer, whether it has branches or not."""
    kd, options = chain.section(role)
    (best,) = chain[role].folder.glob('best_*.pth')
    options |= dict(resume=True, load_from=str(best))
    with pytest.raises(ConfigError, match='written for deployment.*load_from instead of resume'):
        train(config(root / 'data', tmp_path, kd, **options))


@pytest.mark.parametrize('role', ['joint', 'online'])
def test_no_average_beside_branches_or_peers_that_are_none(
    root: Path, tmp_path: Path, role: str
) -> None:
    kd = dict(type='HSSAKDOnline') if role == 'online' else dict(type='HSSAKDTeacher', joint=True)
    with pytest.raises(ConfigError, match='EMAHook: the file would hold'):
        train(config(root / 'data', tmp_path, kd, custom_hooks=[dict(type='EMAHook')]))


def test_average_of_the_student_alone(chain: Chain, root: Path, tmp_path: Path) -> None:
    """The copy is a plain classifier, is validated and written as such, and goes on to the bit.

    Its buffers are averaged, too, beside branches that have some.
    """
    kd = chain.section('student')[0]
    hook = dict(type='EMAHook', momentum=0.1, update_buffers=True)
    whole = train(config(root / 'data', tmp_path / 'whole', kd, custom_hooks=[hook]))
    assert not list(whole.folder.glob('*recalibrated*'))
    (average,) = (hook.ema_model for hook in whole.runner.hooks if hasattr(hook, 'ema_model'))
    copy = average.module
    assert type(copy) is ImageClassifier and not hasattr(copy, 'kd')
    content = whole.file('epoch_2.pth')
    names = {f'module.{key}' for key in content['state_dict']} | {'steps'}
    assert set(content['ema_state_dict']) == names
    assert_same(dict(content['state_dict']), snapshot(copy))
    assert torch.equal(logits(whole.plain('epoch_2.pth')), logits(copy.eval()))
    own, raw = whole.model.state_dict(), content['ema_state_dict']
    for key in content['state_dict']:
        assert torch.equal(own[key], raw[f'module.{key}']), key
    assert_same({key: own[f'kd.{key}'] for key in content['kdmm']}, content['kdmm'])
    middle = dict(resume=True, load_from=str(tmp_path / 'whole' / 'epoch_1.pth'))
    rest = train(config(root / 'data', tmp_path / 'rest', kd, custom_hooks=[hook], **middle))
    for entry in ('state_dict', 'ema_state_dict', 'kdmm', 'optimizer'):
        assert_same(content[entry], rest.file('epoch_2.pth')[entry], entry)
