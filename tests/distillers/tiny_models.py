"""Networks of a few hundred weights, for tests that need any model or a real segmentor."""

from types import SimpleNamespace
from typing import Any

import torch
from mmengine.config import ConfigDict
from mmengine.model import BaseModel
from mmengine.registry import MODELS as ROOT_MODELS
from torch import Tensor, nn

import kdmm  # noqa: F401  (registers everything)
from kdmm.losses import DistillLoss
from kdmm.registry import MODELS

CLASSES = 3


@MODELS.register_module(force=True)
class TinyNet(BaseModel):
    """Any model of the OpenMMLab kind: stem, body, head and an auxiliary head."""

    def __init__(
        self,
        width: int = 4,
        num_classes: int = CLASSES,
        stride: int = 2,
        data_preprocessor: dict | None = None,
    ) -> None:
        super().__init__(data_preprocessor=data_preprocessor)
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 3, stride, 1), nn.BatchNorm2d(width), nn.ReLU(), nn.Dropout(0.5)
        )
        self.body = nn.Conv2d(width, width, 3, 1, 1)
        self.head = nn.Conv2d(width, num_classes, 1)
        self.aux = nn.Conv2d(width, num_classes, 1)

    def forward(self, inputs: Tensor, data_samples: Any = None, mode: str = 'tensor') -> Any:
        features = self.body(self.stem(inputs)).relu()
        logits = self.head(features)
        if mode != 'loss':
            return logits
        labels = torch.stack([s.gt_sem_seg.data[0] for s in data_samples]).long()
        labels = nn.functional.interpolate(labels[:, None].float(), logits.shape[2:])[:, 0].long()
        ce = nn.functional.cross_entropy
        return dict(
            loss_ce=ce(logits.float(), labels, ignore_index=255),
            loss_aux=ce(self.aux(features).float(), labels, ignore_index=255),
        )


@MODELS.register_module(force=True)
class TinySegmentor(TinyNet):
    """Says its number of classes where segmentors do."""

    def __init__(self, **options: object) -> None:
        super().__init__(**options)
        self.decode_head = nn.Identity()
        self.decode_head.num_classes = self.head.out_channels


@MODELS.register_module(force=True)
class SideNet(TinyNet):
    """With a branch that its own losses do not use."""

    def __init__(self, **options: object) -> None:
        super().__init__(**options)
        self.side = nn.Conv2d(3, 2, 1)

    def forward(self, inputs: Tensor, data_samples: Any = None, mode: str = 'tensor') -> Any:
        self.side(inputs)
        return super().forward(inputs, data_samples, mode)


@MODELS.register_module(force=True)
class TinyClassifier(BaseModel):
    """(B, 3, H, W) -> (B, K)."""

    def __init__(self, width: int = 4, num_classes: int = CLASSES) -> None:
        super().__init__()
        self.backbone = nn.Conv2d(3, width, 3)
        self.head = nn.Linear(width, num_classes)

    def forward(self, inputs: Tensor, data_samples: Any = None, mode: str = 'tensor') -> Any:
        logits = self.head(self.backbone(inputs).relu().mean((2, 3)))
        if mode != 'loss':
            return logits
        labels = torch.cat([sample.gt_label for sample in data_samples])
        return dict(loss=nn.functional.cross_entropy(logits, labels))


@MODELS.register_module(force=True)
class Distance(DistillLoss):
    """Mean squared difference, times numbers that schedules may move."""

    def __init__(self, scale: float = 1.0, constructed: float = 1.0) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        return self.scale * (student.float() - teacher.float()).square().mean()


@MODELS.register_module(force=True)
class Parts(DistillLoss):
    """A loss of two parts that asks for labels and has state."""

    needs = ('labels',)
    parts = ('one', 'two')

    def __init__(self, student_channels: int, teacher_channels: int, num_classes: int = 7) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.projector = nn.Conv2d(student_channels, teacher_channels, 1)
        self.register_buffer('queue', torch.zeros(2))

    def forward(self, student: Tensor, teacher: Tensor, labels: Tensor) -> dict:
        self.queue += labels.shape[0]
        value = (self.projector(student) - teacher).square().mean()
        return dict(one=value, two=2 * value)


@MODELS.register_module(force=True)
class Paired(DistillLoss):
    """Reads several taps: the sum of their mean squared differences."""

    def forward(self, student: tuple, teacher: tuple) -> Tensor:
        pairs = zip(student, teacher, strict=True)
        return sum((s.float() - t.float()).square().mean() for s, t in pairs)


def tiny(width: int = 4, **options: object) -> dict:
    return dict(type='kdmm.TinyNet', width=width, **options)


def build(config: dict, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ROOT_MODELS.build(dict(config))


def images(count: int = 2, size: int = 16, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def samples(count: int = 2, size: int = 16, classes: int = CLASSES, seed: int = 0) -> list:
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randint(classes, (count, 1, size, size), generator=generator)
    return [SimpleNamespace(gt_sem_seg=SimpleNamespace(data=m), img_path=f'{i}.png')
            for i, m in enumerate(maps)]  # fmt: skip


def segmentor(base: int = 8, classes: int = CLASSES, aux: bool = True, **preprocessor) -> dict:
    """ResNetV1c-18 at stride 8 with an FCN head, of mmseg."""
    norm = dict(type='BN')
    head = dict(
        type='FCNHead',
        num_convs=1,
        concat_input=False,
        num_classes=classes,
        norm_cfg=norm,
        channels=8,
        loss_decode=dict(type='CrossEntropyLoss'),
    )
    return ConfigDict(
        type='EncoderDecoder',
        _scope_='mmseg',
        data_preprocessor=dict(type='SegDataPreProcessor', pad_val=0, seg_pad_val=255,
                               size=(32, 32), **preprocessor),
        backbone=dict(type='ResNetV1c', depth=18, base_channels=base, stem_channels=8,
                      num_stages=4, strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4),
                      norm_cfg=norm, norm_eval=False),
        decode_head=dict(in_channels=8 * base, in_index=3, dropout_ratio=0.1, **head),
        auxiliary_head=dict(in_channels=4 * base, in_index=2, **head) if aux else None,
        train_cfg=dict(),
        test_cfg=dict(mode='whole'),
    )  # fmt: skip


def seg_samples(count: int = 2, size: int = 32, classes: int = CLASSES, seed: int = 0) -> list:
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    generator = torch.Generator().manual_seed(seed)
    maps = torch.randint(classes, (count, 1, size, size), generator=generator)
    meta = dict(img_shape=(size, size), ori_shape=(size, size), pad_shape=(size, size),
                padding_size=[0] * 4)  # fmt: skip
    return [SegDataSample(gt_sem_seg=PixelData(data=m), metainfo=dict(meta)) for m in maps]


TEACHER = dict(model=tiny(6), random=True)
KD: dict[str, Any] = dict(
    teacher=TEACHER,
    taps=dict(logits='head.out'),
    losses=dict(kd=dict(type='KDLoss', on='logits')),
    probe_size=(16, 16),
)
