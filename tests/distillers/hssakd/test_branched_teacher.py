"""A teacher is its classifier and its branches, from one file."""

import pytest
import torch

pytest.importorskip('mmpretrain')

from kdmm.checkpoints import ENTRY  # noqa: E402
from kdmm.distillers.hssakd import BranchedTeacher  # noqa: E402
from tests.errors import refused  # noqa: E402

from .classifiers import build, classifier_config  # noqa: E402


@pytest.fixture
def trained(tmp_path):
    """A model in training and the file that its run would write."""
    model = build('HSSAKDTeacher', joint=True)
    state = model.state_dict()
    plain = {key: value for key, value in state.items() if not key.startswith('kd.')}
    entry = {key.removeprefix('kd.'): value for key, value in state.items() if key not in plain}
    path = tmp_path / 'teacher.pth'
    torch.save({'state_dict': plain, ENTRY: entry}, path)
    return model, path


def teacher(path, **options) -> BranchedTeacher:
    return BranchedTeacher(model=classifier_config(), checkpoint=str(path), **options)


def test_all_branches_of_the_file(trained):
    model, path = trained
    made = teacher(path)
    made.prepare_for(model)
    views = torch.rand(8, 3, 8, 8)
    logits, joint = made.branch_outputs(views)
    model.eval()
    assert torch.equal(logits, model(views))
    for name, expected in model.kd.branched.branch_logits(views).items():
        assert torch.equal(joint[name], expected)


def test_chosen_branches_of_the_file(trained):
    model, path = trained
    made = teacher(path, stages=(0, 2))
    assert list(made.branches) == ['stage1', 'stage3']
    assert torch.equal(made.branches['stage3'].fc.weight, model.kd.branches['stage3'].fc.weight)


def test_branches_that_the_file_does_not_have(trained):
    _, path = trained
    content = torch.load(path)
    for key in [key for key in content[ENTRY] if key.startswith('branches.stage2')]:
        del content[ENTRY][key]
    torch.save(content, path)
    assert list(teacher(path).branches) == ['stage1', 'stage3']
    with refused(key='kd.teacher.stages', got=[0, 1], problem='behind [0, 2]'):
        teacher(path, stages=(0, 1))


def test_a_branch_that_is_not_whole(trained):
    _, path = trained
    content = torch.load(path)
    del content[ENTRY]['branches.stage2.fc.bias']
    torch.save(content, path)
    with refused(problem=('does not fit', 'stage2.fc.bias')) as caught:
        teacher(path)
    assert caught.value.key.endswith('its set of branches')


def test_branches_of_other_names(trained):
    _, path = trained
    content = torch.load(path)
    content[ENTRY] = {key.replace('stage', 'level'): v for key, v in content[ENTRY].items()}
    torch.save(content, path)
    told = ('branches.level1.', ' in it is no branch')
    with refused(key='kd.teacher.checkpoint', problem=told):
        teacher(path)


@pytest.mark.parametrize('entry', [None, {}, {'peers.0.branches.stage1.fc.bias': torch.zeros(1)}])
def test_a_classifier_without_branches(trained, entry):
    _, path = trained
    content = torch.load(path)
    content.pop(ENTRY)
    torch.save(content if entry is None else {**content, ENTRY: entry}, path)
    told = dict(problem='without trained auxiliary branches', fix="'HSSAKDTeacher'")
    with refused(key='kd.teacher.checkpoint', **told):
        teacher(path)


def test_its_own_dtype(trained):
    model, path = trained
    made = teacher(path, dtype='bfloat16')
    made.prepare_for(model)
    logits, joint = made.branch_outputs(torch.rand(8, 3, 8, 8))
    assert {value.dtype for value in (logits, *joint.values())} == {torch.bfloat16}
