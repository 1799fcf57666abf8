import pytest
import torch

from kdmm.transfer.writing import Draft, tidy
from tests.errors import refused


def test_there_is_nothing_before_the_commit_and_no_draft_after_it(tmp_path):
    out = tmp_path / 'a.pth'
    with Draft(str(out)) as draft:
        draft.save(dict(x=torch.ones(2)))
        assert not out.exists() and draft.read()['x'].sum() == 2
        draft.commit()
    assert [file.name for file in tmp_path.iterdir()] == ['a.pth']


@pytest.mark.parametrize('error', [ValueError, KeyboardInterrupt])
def test_a_failure_leaves_what_was_there(tmp_path, error):
    out = tmp_path / 'a.pth'
    out.write_bytes(b'old')
    with pytest.raises(error), Draft(str(out)) as draft:
        draft.save(dict(x=torch.ones(2)))
        raise error
    assert [file.name for file in tmp_path.iterdir()] == ['a.pth'] and out.read_bytes() == b'old'


def test_the_bytes_do_not_depend_on_the_name(tmp_path):
    for name in ('a.pth', 'another.pth'):
        with Draft(str(tmp_path / name)) as draft:
            draft.save(dict(x=torch.ones(2)))
            draft.commit()
    assert (tmp_path / 'a.pth').read_bytes() == (tmp_path / 'another.pth').read_bytes()


def test_a_system_that_refuses(tmp_path):
    out = str(tmp_path / 'none' / 'a.pth')
    with refused(key='--out', got=out, problem='cannot be written'), Draft(out) as draft:
        draft.save({})


def test_tidy_owns_what_it_has():
    whole = torch.randn(4, 3, requires_grad=True)
    made = tidy(dict(view=whole[0], turned=whole.t(), parameter=torch.nn.Parameter(whole.detach())))
    assert list(made) == ['view', 'turned', 'parameter']
    assert torch.equal(made['turned'], whole.t())
    for value in made.values():
        assert value.is_contiguous() and not value.requires_grad and type(value) is torch.Tensor
        assert value.untyped_storage().nbytes() == 4 * value.numel()
