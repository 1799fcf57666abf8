import pytest
import torch

from kdmm.hooks.buffers import common_buffers, differing
from tests.engine.tiny_run import runner
from tests.hooks.buffers_world import on_two_ranks

STATISTICS = ('stem.1.running_mean', 'stem.1.running_var')


@pytest.fixture(scope='module')
def found():
    return on_two_ranks()


def plain(state: dict) -> dict:
    return {key: value for key, value in state.items() if not key.startswith('kd.')}


def same(first: dict, second: dict) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


@pytest.mark.parametrize('run', ['whole', 'average', 'buffers', 'resumed', 'buffers_resumed'])
def test_all_ranks_evaluate_the_file_that_is_written(found, run):
    (first, second), files = found
    names = [4] if run.endswith('resumed') else [2, 4]
    assert len(first[run]['validated']) == len(names)
    for place, name in enumerate(names):
        written = files[f'{run}/iter_{name}']['state_dict']
        for rank in (first, second):
            assert same(plain(rank[run]['validated'][place]), written)


def test_what_is_written_is_the_mean(found):
    ranks, files = found
    for key in STATISTICS:
        own = [rank['whole']['end'][key].double() for rank in ranks]
        assert not torch.equal(*own)
        mean = (sum(own) / 2).float()
        torch.testing.assert_close(
            files['whole/iter_4']['state_dict'][key], mean, rtol=0, atol=1e-7
        )
        copy = files['average/iter_4']['ema_state_dict'][f'module.{key}']
        torch.testing.assert_close(copy, mean, rtol=0, atol=1e-7)


def test_training_goes_on_with_each_ranks_own(found):
    """However often is validated or saved, to the bit."""
    for rank in found[0]:
        assert same(rank['whole']['end'], rank['unseen']['end'])
        assert same(rank['whole']['trained'][-1], rank['whole']['end'])


def test_a_resumed_run_goes_on_with_each_ranks_own(found):
    ranks, files = found
    for rank in ranks:
        assert same(rank['resumed']['end'], rank['whole']['end'])
    whole, again = files['whole/iter_4'], files['resumed/iter_4']
    assert same(whole['state_dict'], again['state_dict']) and same(whole['kdmm'], again['kdmm'])
    for rank, own in zip(ranks, whole['kdmm_ranks'], strict=True):
        assert set(own) == set(STATISTICS)
        assert all(torch.equal(own[key], rank['whole']['end'][key]) for key in own)


def test_averaged_buffers_are_each_ranks_own_too(found):
    """They go on to the bit, however often is validated and after a file was read again."""
    ranks, files = found
    whole, again = files['buffers/iter_4'], files['buffers_resumed/iter_4']
    for part in ('state_dict', 'ema_state_dict', 'kdmm'):
        assert same(whole[part], again[part]), part
    for rank, own, other in zip(ranks, whole['kdmm_ranks'], again['kdmm_ranks'], strict=True):
        assert same(own, other)
        assert set(own) == {*STATISTICS, *(f'EMAHook:0.{key}' for key in STATISTICS)}
        for run in ('buffers_unseen', 'buffers_resumed'):
            assert same(rank[run]['end'], rank['buffers']['end'])
    for key in STATISTICS:
        own = [file[f'EMAHook:0.{key}'] for file in whole['kdmm_ranks']]
        assert not torch.equal(*own)
        torch.testing.assert_close(whole['state_dict'][key], sum(own) / 2)
        assert not torch.equal(whole['state_dict'][key], whole['ema_state_dict'][f'module.{key}'])


def test_without_the_section_each_rank_has_its_own(found):
    (first, second), files = found
    assert same(files['plain/iter_4']['state_dict'], first['plain']['end'])
    assert 'kdmm_ranks' not in files['plain/iter_4']
    for rank in (first, second):
        assert same(rank['plain']['validated'][-1], rank['plain']['end'])
    assert not same(first['plain']['end'], second['plain']['end'])


def test_what_differs_and_what_it_becomes(found):
    for rank in found[0]:
        names, common = rank['pieces'].values()
        assert names == ['third', 'half', 'count', 'flag', 'swapped']
        assert common['third'].float().tolist() == torch.tensor([1 / 3, 0.5]).tolist()
        assert common['half'].tolist() == [1.5, 1.0]
        assert common['count'] == 7 and common['flag'].tolist() == [0, 1]
        assert common['swapped'].tolist() == [0, 1]


def test_alone_nothing_is_looked_at(tmp_path):
    made = runner(tmp_path)
    before = {key: value.clone() for key, value in made.model.state_dict().items()}
    assert differing(dict(made.model.named_buffers())) == []
    with common_buffers(made) as own:
        assert own == {} and same(dict(made.model.state_dict()), before)


def test_a_file_of_another_number_of_ranks(tmp_path):
    """All begin with the means that it holds."""
    runner(tmp_path).train()
    content = torch.load(tmp_path / 'iter_4.pth', weights_only=False)
    key = STATISTICS[0]
    content['kdmm_ranks'] = [{key: torch.full((4,), 9.0 + rank)} for rank in range(2)]
    torch.save(content, tmp_path / 'two.pth')
    made = runner(tmp_path, iters=4, resume=True, load_from=str(tmp_path / 'two.pth'))
    made.train()
    assert torch.equal(made.model.state_dict()[key], content['state_dict'][key])
