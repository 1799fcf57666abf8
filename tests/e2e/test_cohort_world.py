"""A cohort learns the same for any number of processes."""

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip('mmpretrain')

from tests.e2e.cohort_world import KINDS, everything  # noqa: E402
from tests.e2e.job import assert_same  # noqa: E402
from tests.e2e.tiny_hssakd import write_images  # noqa: E402
from tests.ranks import on_ranks  # noqa: E402

kinds = pytest.mark.parametrize('kind', KINDS)


@pytest.fixture(scope='module')
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp('images'))


@pytest.fixture(scope='module')
def one(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return everything(data, tmp_path_factory.mktemp('one'))


@pytest.fixture(scope='module')
def two(data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return on_ranks(everything, 2, data, tmp_path_factory.mktemp('two'))


@kinds
def test_two_processes_are_one_with_the_whole_batch(
    one: dict[str, Any], two: list[dict[str, Any]], kind: str
) -> None:
    """And DDP finds no parameter without a gradient (find_unused_parameters=False)."""
    expected, (first, second) = one[kind], (found[kind] for found in two)
    for step in range(3):
        for key, value in expected['losses'][step].items():
            mean = (first['losses'][step][key] + second['losses'][step][key]) / 2
            torch.testing.assert_close(mean, value, rtol=1e-4, atol=1e-5, msg=f'{step} {key}')
            if 'mcl' in key:  # each rank computes the contrast of all images
                torch.testing.assert_close(first['losses'][step][key], value, rtol=1e-4, atol=1e-5)
        grads = expected['gradients'][step]
        assert grads.keys() == first['gradients'][step].keys()
        for key, value in grads.items():
            found = first['gradients'][step][key]
            assert torch.equal(found, second['gradients'][step][key]), f'{step} {key}'
            scale = float(value.abs().max())
            torch.testing.assert_close(
                found, value, rtol=1e-3, atol=1e-4 * scale + 1e-6, msg=f'{step} {key}'
            )
    assert_same(first['state'], second['state'])
    matching = [key for key in expected['state'] if '.matching.' in key]
    assert bool(matching) == ('layers' in kind)
    for key in matching:  # of the phases
        value = expected['state'][key]
        torch.testing.assert_close(first['state'][key], value, rtol=1e-4, atol=1e-6, msg=key)


@kinds
def test_validation_is_of_all_images(
    one: dict[str, Any], two: list[dict[str, Any]], kind: str
) -> None:
    expected = one[kind]['metrics']
    assert {key.split('/')[1] for key in expected} >= {'accuracy', 'peer1', 'ensemble'}
    for rank in two:
        assert rank[kind]['metrics'] == pytest.approx(expected)


@kinds
def test_steps_are_not_trivial(one: dict[str, Any], kind: str) -> None:
    gradients = one[kind]['gradients']
    heads = [key for key in gradients[0] if 'terms.' in key]
    embeddings = dict(layers=4, unrolled_layers=2).get(kind, 1)  # of each network
    assert len(heads) == (2 if kind == 'online' else 4 * embeddings * KINDS[kind]['peers'])
    for step, found in enumerate(gradients):
        silent = kind == 'later' and step < 2
        assert all(bool(found[key].any()) != silent for key in heads)
        assert all(value.any() for key, value in found.items() if key.endswith('fc.weight'))
    for losses in one[kind]['losses']:
        terms = [value for key, value in losses.items() if key != 'loss' and 'loss' in key]
        assert float(losses['loss']) == pytest.approx(float(sum(terms)), rel=1e-5)
