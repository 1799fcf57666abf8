"""Errors of a ``kd.type='Cohort'`` section."""

import copy

import pytest

pytest.importorskip('mmpretrain')

from kdmm.distillers import cohort as build_cohort  # noqa: E402
from kdmm.errors import ConfigError  # noqa: E402
from tests.distillers.hssakd.classifiers import build  # noqa: E402

from .networks import DML, MCL, TAPS, classifier_config, cohort  # noqa: E402

WIDER = classifier_config(widths=(4, 4, 8, 12))
OTHER_IMAGES = dict(classifier_config(), data_preprocessor=dict(mean=[9.0] * 3, std=[2.0] * 3))


@pytest.mark.parametrize(
    'section, message',
    [
        (dict(peers=1), r'kd\.peers: expected the number of networks'),
        (dict(peers='x'), r'kd\.peers: expected the number of networks'),
        (dict(peers=[OTHER_IMAGES]), r'kd\.peers: the data_preprocessor of peer1'),
        (dict(keep=5), r'kd\.keep: expected a place from 0 to 1, got 5'),
        (dict(trunk=['backbone.stem1']), r"kd\.trunk: no module 'backbone\.stem1'; nearest"),
        (dict(teacher=dict(config='x')), r"kd: unknown key 'teacher'; nearest: .*peers"),
        (dict(loses=DML), r"kd: unknown key 'loses'; nearest: losses"),
        (dict(taps=dict(z=['head.fc.out'])), r'kd\.taps\.z: expected a path or a list of 2'),
        (dict(taps=dict(z=[3, 'head.fc.out'])), r'kd\.taps\.z: expected a path or a list of 2'),
        (dict(taps=dict(z=dict(student='head.fc.out', teacher='head.fc.out'))),
         r'kd\.taps\.z: expected a path or a list of 2'),
        (dict(taps=dict(z='head.fx.out')), r"kd\.taps\.z: the student \(ImageClassifier\) has no mo"
         r"dule 'head\.fx'; nearest: head\.fc"),
        (dict(taps=dict(z=['head.fc.out', 'head.fx.out'])), r'kd\.taps\.z: the peer1 \(Image'),
        (dict(taps=dict(z='head.fc')), r"kd\.taps\.z: expected a module.*'head\.fc'"),
        (dict(taps=dict(z='backbone.stem.out'), trunk=['backbone.stem']),
         r"kd\.taps\.z: 'backbone\.stem' is part of kd\.trunk"),
        (dict(taps=['head.fc.out']), r'kd\.taps: expected a dict'),
        (dict(taps=dict(logits='head.fc.out'), losses=DML['dml']), r'kd\.losses\.type: expected'),
        (dict(losses=['dml']), r'kd\.losses: expected a dict'),
        (dict(losses=dict(it='KDLoss')), r'kd\.losses\.it: expected dict\(type='),
        (dict(losses=dict(it=dict(DML['dml'], on='logit'))), r"kd\.losses\.it\.on: no tap 'logit'"),
        (dict(losses=dict(it=dict(DML['dml'], teacher=0))), r'kd\.losses\.it\.teacher: a cohort'),
        (dict(losses=dict(it=dict(DML['dml'], weight='auto:0.1'))), r'kd\.losses\.it\.weight: '),
        (dict(taps=dict(embedding='backbone.out[0]'), losses=MCL), r'kd\.losses\.mcl on tap'),
        (dict(taps=dict(embedding='neck.out'), losses=MCL), r'kd\.losses\.mcl on tap .*got \['),
        (dict(peers=[WIDER], losses=dict(it=dict(type='KDLoss', on='map')),
              taps=dict(map='backbone.out[0]')), r"kd\.losses\.it on tap 'map': KDLoss"),
    ],
)  # fmt: skip
def test_one_message_names_the_key(section, message):
    section = copy.deepcopy(section)
    if isinstance(section.get('taps'), dict) and 'z' in section['taps']:
        section['losses'] = dict(it=dict(type='KDLoss', on='z'))
    elif section.get('losses'):
        section.setdefault('taps', TAPS)
    with pytest.raises(ConfigError, match=message) as error:
        build('Cohort', **section)
    assert len(str(error.value).splitlines()) == 1


def test_a_built_model_is_refused():
    """The others are built from its config."""
    with pytest.raises(ConfigError, match='expected the config of a model, not a built one'):
        build_cohort(student=build())


def test_a_tap_that_nothing_reads_is_checked_too():
    with pytest.raises(ConfigError, match=r"kd\.taps\.z: the student .* no module 'head\.fx'"):
        cohort(2, taps=dict(z='head.fx.out'))
    with pytest.raises(ConfigError, match=r'kd\.taps\.z: expected a path or a list of 2'):
        cohort(2, taps=dict(z=['head.fc.out']))


def test_a_loss_of_weight_0_is_not_built():
    model = cohort(2, losses=dict(DML, off=dict(type='NoSuchLoss', on='logits', weight=0)))
    assert list(model.kd.terms) == ['dml']
