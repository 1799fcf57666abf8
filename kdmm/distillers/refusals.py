"""Turn refusals of losses and connectors into errors of the config that declares them."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from kdmm.errors import ConfigError, Mismatch, ShapeError, rewrapped

#: What a config declares where tensors do not fit; else the advice of the error stands.
REMEDIES: Mapping[Mismatch, str] = {
    'resolution': "Declare connector=dict(type='Resize') on this tap (classifiers: 'Pool'), or tap "
    'layers of the same stride.',
    'channels': "Declare connector=dict(type='Projection', bias=False) on features; logits need "
    "the same classes: connector=dict(type='ClassMap', classes=[...]).",
    'classes': "Declare connector=dict(type='ClassMap', classes=[...]), which says for each class "
    "of the student which of the teacher's it is.",
    'one pixel': 'Tap a layer of larger maps, or train on larger images.',
    'one window': 'Tap a layer of larger maps, pool less, or train on larger images.',
    'one channel': 'Tap features of several channels.',
    'one image': 'Raise train_dataloader.batch_size, with kdmm.PKSampler, which lets images of one '
    'class meet, or take MCLBankLoss, which needs no other image.',
    'few images': "Raise train_dataloader.batch_size, or choose scope='global' on several "
    'processes where the loss has it.',
    'small': 'Train on larger crops (at stride 8 of 512 x 512) or leave this term out.',
    'unpooled': "Tap what the classifier reads, for MMPretrain 'head.fc.in'.",
    'layers': "Give it several different taps: on=['a', 'b', ...].",
    'row length': 'The rows are as long as the pooled maps: the crop size may not change during '
    'training nor over a resume.',
    'ranks': "Crop the training images to one size, or choose scope='local' where the loss has it.",
}


def refusal(where: str, error: BaseException, place: str = '', note: str = '') -> ConfigError:
    """Say what a loss or connector refuses as an error of its config.

    Args:
        where: The config key.
        error: What was raised. One with a key is told of that key below ``where``.
        place: What was read, for errors of shapes, such as a tap.
        note: For which input the shapes are, as the end of the problem.
    """
    error = rewrapped(error) or error
    if isinstance(error, ConfigError):
        return error.under(where)
    problem, fix = str(error).rstrip('.'), ''
    if isinstance(error, ShapeError):
        problem, fix = error.finding, REMEDIES.get(error.mismatch, error.fix)
    problem = ', '.join(filter(None, (place, problem)))
    return ConfigError(f'{problem} {note}'.rstrip(), key=where, fix=fix)


def refuse_mixing(student: nn.Module, reason: str) -> None:
    """Refuse a student whose preprocessor mixes images (Mixup, CutMix), or makes labels soft.

    MMPretrain's does, by ``data_preprocessor.batch_augments`` or the student's ``train_cfg``. Those
    of MMSegmentation and MMDetection change sizes by a ``batch_augments``, and mix nothing.

    Args:
        student: As it was built.
        reason: Who cannot have it, and why.

    Raises:
        ConfigError: With the reason.
    """
    preprocessor = getattr(student, 'data_preprocessor', None)
    if not getattr(preprocessor, 'to_onehot', False):
        return
    if getattr(preprocessor, 'batch_augments', None) is None:
        raise ConfigError(
            f'it gives soft labels, and {reason}',
            key='model.data_preprocessor.to_onehot',
            got=True,
            fix='Leave it out.',
        )
    raise _mixed(f'it gives soft labels, and {reason}')


def refuse_mixed(samples: Sequence[Any], reason: str) -> None:
    """Refuse images that are mixed, or have soft labels: their ``gt_label`` says nothing of that.

    Raises:
        ConfigError: With the reason.
    """
    if any(hasattr(sample, 'gt_score') for sample in samples):
        raise _mixed(f'it, or the data set, gives soft labels, and {reason}')


def _mixed(problem: str) -> ConfigError:
    fix = 'Leave Mixup and CutMix out (model.train_cfg.augments, too).'
    return ConfigError(problem, key='model.data_preprocessor.batch_augments', fix=fix)
