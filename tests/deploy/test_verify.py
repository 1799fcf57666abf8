"""A proof fails where the file computes something else."""

import pytest
import torch

from kdmm.config import load_config
from kdmm.deploy import network_of, references_of
from kdmm.deploy.verify import Reference, _compare
from kdmm.errors import ProofError
from tests.deploy.nets import CLASSIFIER, write

GIVEN = torch.tensor([[1.0, -4.0, 0.0]])
REFERENCES = [Reference(torch.zeros(1, 3, 2, 2), dict(logits=GIVEN))]


def compare(found):
    return _compare(lambda images: found, REFERENCES, 'runtime 1')


def test_the_error_is_relative_to_the_largest_value():
    proof = compare(dict(logits=GIVEN + torch.tensor([0.0, 0.0, 2e-4])))
    assert proof.error == pytest.approx(5e-5) and proof.batches == (1,)
    assert str(proof) == 'runtime 1 at batch size 1: max relative error 5.0e-05, 1e-04 allowed'
    with pytest.raises(ProofError, match='the output logits differs by 1.3e-04 of its largest'):
        compare(dict(logits=GIVEN + torch.tensor([0.0, 0.0, 5.2e-4])))


@pytest.mark.parametrize(
    'found, told',
    [
        (dict(logits=GIVEN[0]), r'is \(3,\), the network gives \(1, 3\)'),
        (dict(logits=GIVEN * torch.nan), 'differs by inf'),
        (dict(scores=GIVEN), 'outputs scores for logits'),
        ({}, 'outputs  for logits'),
    ],
)
def test_another_output_is_refused(found, told):
    with pytest.raises(ProofError, match=told):
        compare(found)


def test_a_runtime_that_fails_is_named():
    def fail(images):
        raise RuntimeError('no kernel for Foo')

    with pytest.raises(ProofError, match=r'runtime 1 does not run a batch of 1 \(no kernel'):
        _compare(fail, REFERENCES, 'runtime 1')


def test_references_are_two_batches_that_differ_and_are_finite(tmp_path):
    files = write(tmp_path, CLASSIFIER)
    network = network_of(load_config(files.config), files.checkpoint, size=(16, 16))
    one, three = references_of(network)
    assert (len(one.images), len(three.images)) == (1, 3)
    assert not torch.equal(three.images[0], three.images[1])
    assert torch.equal(three.outputs['logits'], files.outputs(three.images))
    network.module.model.head.fc.bias.fill_(torch.inf)
    with pytest.raises(ProofError, match='the output logits of the network is not finite'):
        references_of(network)
