import pytest
import torch

from kdmm.errors import ConfigError
from kdmm.transfer.compose import compose
from kdmm.transfer.proof import ProofError

FULL = {
    'backbone.x': torch.zeros(2),
    'head.deconv.x': torch.zeros(3),
    'head.final.x': torch.tensor([torch.nan, 1.0]),
    'backbone.y': torch.zeros(1),
}
NEW = {'y': torch.ones(1), 'x': torch.ones(2)}
SOURCE = {
    'backbone.x': torch.ones(2),
    'head.deconv.x': torch.ones(3),
    'head.final.x': torch.ones(9),
}


def test_exactly_the_backbone_changes():
    made = compose(FULL, NEW, 'backbone.', SOURCE)
    assert list(made.state) == list(FULL) and sorted(made.replaced) == ['backbone.x', 'backbone.y']
    assert made.state['backbone.x'].sum() == 2 and made.state['head.deconv.x'].sum() == 0
    assert made.also == [] and made.state['head.final.x'].isnan().any()
    made.check(made.state)


def test_more_can_be_carried_over():
    made = compose(FULL, NEW, 'backbone.', SOURCE, ['head.deconv'])
    assert made.also == ['head.deconv.x'] and made.state['head.deconv.x'].sum() == 3


def test_the_kind_of_number_stays():
    made = compose(FULL, {key: value.half() for key, value in NEW.items()}, 'backbone.', {})
    assert made.state['backbone.x'].dtype == torch.float32


@pytest.mark.parametrize(
    'new, also, message',
    [
        (dict(x=torch.ones(2)), (), r'its 2 entries backbone\.\* .*1 not replaced: backbone.y'),
        (NEW | dict(z=torch.ones(2)), (), '1 not in it: backbone.z'),
        (NEW | dict(x=torch.ones(5)), (), r'1 of another shape: backbone.x \(5,\) for \(2,\)'),
        (NEW | dict(x=torch.ones(2).long()), (), '1 of another type: backbone.x torch.int64 for'),
        (NEW, ['head'], r'head.final.x \(9,\) for \(2,\)'),
        (NEW, ['neck'], r"no key under 'neck.'; its keys start with backbone. \(1\), head. \(2\)"),
        (NEW, ['backbone'], 'overlaps backbone., which is converted'),
        (NEW, ['backbone.x'], 'overlaps'),
    ],
)
def test_what_does_not_fit_is_refused(new, also, message):
    with pytest.raises(ConfigError, match=message):
        compose(FULL, new, 'backbone.', SOURCE, also)


def test_what_was_written_is_checked_to_the_bit():
    made = compose(FULL, NEW, 'backbone.', SOURCE)
    for key, value in (
        ('head.deconv.x', torch.tensor([0.0, 0.0, -0.0])),
        ('backbone.x', torch.zeros(2)),
    ):
        with pytest.raises(ProofError, match=key):
            made.check(made.state | {key: value})
    with pytest.raises(ProofError, match='head.final.x'):
        made.check({key: value for key, value in made.state.items() if 'final' not in key})
    with pytest.raises(ProofError, match='more entries'):
        made.check(made.state | {'extra': torch.ones(1)})
