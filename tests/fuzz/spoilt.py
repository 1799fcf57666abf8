"""Bad inputs that are files, places or environment: what is done to them, and the tables."""

import json
import os
import pickle
import resource
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests.fuzz.bad_inputs import QUICK, Case, Spoil


def text(path: str, content: str | bytes) -> Spoil:
    """Write a file."""

    def spoil(root: Path) -> None:
        data = content if isinstance(content, bytes) else content.encode()
        (root / path).write_bytes(data)

    return spoil


def cut(path: str, size: int = 0) -> Spoil:
    """Keep the first bytes of a file."""
    return lambda root: os.truncate(root / path, size)


def coco(change: Callable[[Any], Any]) -> Spoil:
    """Change the parsed annotations, or give others."""

    def spoil(root: Path) -> None:
        path = root / 'coco/annotations/train.json'
        content = json.loads(path.read_text())
        content = change(content) or content
        path.write_text(json.dumps(content))

    return spoil


def each(part: str, **values: Any) -> Spoil:
    """Set entries of all images, annotations or categories; ... deletes them."""

    def change(content: Any) -> None:
        for entry in content[part]:
            for key, value in values.items():
                entry.pop(key, None)
                if value is not ...:
                    entry[key] = value

    return coco(change)


def saved(path: str, change: Callable[[Any], Any]) -> Spoil:
    """Change what a checkpoint holds, or give something else."""

    def spoil(root: Path) -> None:
        content = torch.load(root / path, weights_only=False)
        changed = change(content)
        torch.save(content if changed is None else changed, root / path)

    return spoil


def flip(path: str) -> Spoil:
    """Change one byte of a record of an archive."""

    def spoil(root: Path) -> None:
        with zipfile.ZipFile(root / path) as archive:
            largest = max(archive.infolist(), key=lambda info: info.file_size)
        data = bytearray((root / path).read_bytes())
        data[largest.header_offset + 400] ^= 255
        (root / path).write_bytes(bytes(data))

    return spoil


def nobody(*paths: str) -> Spoil:
    """Be a user who may read everything and write nothing but ``paths``."""

    def spoil(root: Path) -> None:
        for path in paths:
            (root / path).mkdir(exist_ok=True)
            (root / path).chmod(0o777)
        if os.geteuid() == 0:
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
        else:
            root.chmod(0o555)

    return spoil


def both(*spoils: Spoil) -> Spoil:
    """One after the other."""

    def spoil(root: Path) -> None:
        for each_one in spoils:
            each_one(root)

    return spoil


def largest(size: int) -> Spoil:
    """No file can grow beyond ``size`` bytes, as on a full disk."""
    return lambda root: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def delete(key: str) -> Callable[[dict], None]:
    """Remove an entry."""

    def change(content: dict) -> None:
        del content[key]

    return change


class Code:
    """Runs when it is unpickled without care."""

    def __reduce__(self) -> Any:
        return os.system, ('touch ran',)


def files(config: str, rows: list[tuple[str, Spoil, str, str]]) -> list[Case]:
    """Spoilt files under training: (name, what is done, word, more arguments)."""
    return [
        Case(f'file {name}', 'train', (config, '--work-dir', 'w', *more.split()), word, spoil)
        for name, spoil, word, more in rows
    ]


CONFIGS = [
    Case(f'config {name}', 'train', ('bad.py', '--work-dir', 'w'), word, text('bad.py', content))
    for name, content, word in [
        ('with a syntax error', "_base_ = './plain.py'\nmodel = dict(\n", 'bad.py'),
        ('that raises', "_base_ = './plain.py'\nx = 1 / 0\n", 'ZeroDivisionError'),
        ('with an unknown name', "_base_ = './plain.py'\nx = gone\n", 'gone'),
        ('with a missing base', "_base_ = './gone.py'\n", 'gone.py'),
        ('that is its own base', "_base_ = './bad.py'\n", 'bad.py'),
        ('with a base that is a folder', "_base_ = './data'\n", 'data'),
        ('with a base that is no text', '_base_ = 5\n', 'bad.py'),
        ('with two bases of one key', "_base_ = ['./plain.py', './cls.py']\n", 'bad.py'),
        ('that is no config', 'import no_such_module\n', 'model'),
        ('that exits', 'raise SystemExit(0)\n', 'bad.py'),
        ('that is empty', '', 'model'),
        ('without data', "model = dict(type='EncoderDecoder')\n", 'train'),
        ('of bytes', bytes(range(256)), 'bad.py'),
        ('in another encoding', "x = 'é'\n".encode('latin-1'), 'bad.py'),
        ('over a None', "_base_ = './plain.py'\nload_from = dict(x=1)\n", 'load_from'),
        ('with dict over str', "_base_ = './plain.py'\ndefault_scope = dict(x=1)\n",
         'default_scope'),
        ('with a model that is a list', "_base_ = './plain.py'\nmodel = [1]\n", 'model'),
        ('with two objectives', "_base_ = './kd.py'\nmodel = dict(_delete_=True, "
         "type='kdmm.Distiller', student=dict(type='x'), teacher=dict())\n", 'kd'),
    ]
]  # fmt: skip

CONFIGS += [
    Case('config with a misspelt section', 'train',
         ('bad.py', '--work-dir', 'w', '--cfg-options', *QUICK), 'kd_',
         text('bad.py', "_base_ = './plain.py'\nkd_ = dict(teacher={}, taps={})\n"), warns=True),
    Case('config that is text', 'train', ('notes.txt',), 'notes.txt', text('notes.txt', 'x = 1')),
    Case('config that is broken JSON', 'train', ('c.json',), 'c.json', text('c.json', '{"a": ')),
    Case('config that may not be read', 'train', ('kd.py',), 'kd.py',
         both(lambda root: (root / 'kd.py').chmod(0), nobody('w'))),
    Case('config of a list', 'train', ('c.json',), 'c.json', text('c.json', '[1]')),
]  # fmt: skip

SEGMENTATION = files('plain.py', [
    ('an empty image', cut('data/img/3.png'), '3.png', ''),
    ('a broken image', cut('data/img/3.png', 60), '3.png', ''),
    ('an image that is text', text('data/img/3.png', 'no picture'), '3.png', ''),
    ('an image in a worker', text('data/img/3.png', 'no picture'), '3.png',
     '--cfg-options train_dataloader.num_workers=1'),
    ('an empty label map', cut('data/ann/3.png'), '3.png', ''),
    ('a broken label map', cut('data/ann/3.png', 60), '3.png', ''),
    ('a label map in a worker', cut('data/ann/3.png'), '3.png',
     '--cfg-options train_dataloader.num_workers=1'),
    ('a missing label map', lambda root: (root / 'data/ann/3.png').unlink(), '3.png', ''),
    ('a label map that is a folder', both(lambda root: (root / 'data/ann/3.png').unlink(),
     lambda root: (root / 'data/ann/3.png').mkdir()), '3.png', ''),
    ('a colour label map', lambda root: (root / 'data/ann/3.png').write_bytes(
        (root / 'data/img/3.png').read_bytes()), '3.png', ''),
    ('no images', lambda root: [p.unlink() for p in (root / 'data/img').iterdir()] and None,
     'train_dataloader', ''),
    ('an image of a validation', text('data/img/3.png', 'x'), '3.png',
     '--cfg-options train_cfg.val_interval=1 train_dataloader.dataset.indices=[0,1]'),
])  # fmt: skip

DETECTION = files('det.py', [
    ('coco with a BOM', lambda root: (root / 'coco/annotations/train.json').write_bytes(
        b'\xef\xbb\xbf' + (root / 'coco/annotations/train.json').read_bytes()), 'train.json', ''),
    ('coco that is empty', cut('coco/annotations/train.json'), 'train.json', ''),
    ('coco that is cut', cut('coco/annotations/train.json', 300), 'train.json', ''),
    ('coco that is a list', text('coco/annotations/train.json', '[]'), 'train.json', ''),
    ('coco that is text', text('coco/annotations/train.json', 'boxes'), 'train.json', ''),
    ('coco without images', coco(delete('images')), 'images', ''),
    ('coco without categories', coco(delete('categories')), 'categories', ''),
    ('coco with no image', coco(lambda c: dict(c, images=[], annotations=[])), 'train.json', ''),
    ('coco without width', each('images', width=...), 'width', ''),
    ('coco without height', each('images', height=...), 'height', ''),
    ('coco with width as text', each('images', width='96'), 'width', ''),
    ('coco with width 0', each('images', width=0), 'width', ''),
    ('coco without file_name', each('images', file_name=...), 'file_name', ''),
    ('coco with an unknown file_name', each('images', file_name='gone.jpg'), 'gone.jpg', ''),
    ('coco with file_name as number', each('images', file_name=5), 'file_name', ''),
    ('coco with an empty box', each('annotations', bbox=[]), 'bbox', ''),
    ('coco with a box of text', each('annotations', bbox='1,2,3,4'), 'bbox', ''),
    ('coco with a box of texts', each('annotations', bbox=['1', '2', '3', '4']), 'bbox', ''),
    ('coco with a box of three', each('annotations', bbox=[1, 2, 3]), 'bbox', ''),
    ('coco with a box of nan', each('annotations', bbox=[1, 2, float('nan'), 3]), 'bbox', ''),
    ('coco without bbox', each('annotations', bbox=...), 'bbox', ''),
    ('coco with boxes that are None', each('annotations', bbox=None), 'bbox', ''),
    ('coco without image_id', each('annotations', image_id=...), 'image_id', ''),
    ('coco without category_id', each('annotations', category_id=...), 'category_id', ''),
    ('coco with category_id as text', each('annotations', category_id='1'), 'category_id', ''),
    ('coco with an unknown category_id', each('annotations', category_id=99), 'category_id', ''),
    ('coco with ids of categories as text', coco(
        lambda c: dict(c, categories=[dict(x, id=str(x['id'])) for x in c['categories']])),
     'categor', ''),
    ('coco without names', each('categories', name=...), 'name', ''),
    ('coco with categories of text', coco(lambda c: dict(c, categories=['dog', 'person'])),
     'categories', ''),
    ('coco without ids of annotations', each('annotations', id=...), 'id', ''),
    ('coco without area', each('annotations', area=...), 'area', ''),
    ('coco without iscrowd and area as text', each('annotations', area='big'), 'area', ''),
    ('coco with a broken picture', cut('coco/train/2.jpg', 40), '2.jpg', ''),
    ('coco with an empty picture', cut('coco/train/2.jpg'), '2.jpg', ''),
    ('coco with an unlisted class', coco(lambda c: None), 'cat',
     '--cfg-options train_dataloader.dataset.metainfo.classes=[dog,cat]'),
])  # fmt: skip

CLASSIFICATION = files('cls.py', [
    ('folders with a last batch of one', lambda root: (root / 'folders/train/class_00/0000.jpg')
     .unlink(), 'drop_last', ''),
    ('folders with batches of one', lambda root: None, 'batch_size',
     '--cfg-options train_dataloader.batch_size=1'),
    ('folders with an empty picture', cut('folders/train/class_01/0001.jpg'), '0001.jpg', ''),
    ('folders with a broken picture in a worker', cut('folders/train/class_01/0001.jpg', 30),
     '0001.jpg', '--cfg-options train_dataloader.num_workers=2'),
    ('folders with another class', lambda root: (root / 'folders/train/class_00').rename(
        root / 'folders/elsewhere'), 'num_classes', ''),
    ('folders without classes', lambda root: None, 'folders/test/class_00',
     '--cfg-options train_dataloader.dataset.data_prefix=test/class_00'),
])  # fmt: skip

CHECKPOINTS = [
    *files('plain.py', [
        ('resume of a cut checkpoint', cut('run/iter_2.pth', 3000), 'iter_2.pth',
         '--resume run/iter_2.pth'),
        ('resume of an empty checkpoint', cut('run/iter_2.pth'), 'iter_2.pth',
         '--resume run/iter_2.pth'),
        ('resume of a flipped byte', flip('run/iter_2.pth'), 'iter_2.pth',
         '--resume run/iter_2.pth'),
        ('resume of weights alone', lambda root: None, 'student.pth', '--resume student.pth'),
        ('resume without meta', saved('run/iter_2.pth', delete('meta')), 'iter_2.pth',
         '--resume run/iter_2.pth'),
        ('resume without message_hub', saved('run/iter_2.pth', delete('message_hub')),
         'iter_2.pth', '--resume run/iter_2.pth'),
        ('resume with another optimizer', lambda root: None, 'iter_2.pth',
         '--resume run/iter_2.pth --cfg-options optim_wrapper.paramwise_cfg.bias_lr_mult=2.0'),
        ('resume with another width', lambda root: None, 'iter_2.pth',
         '--resume run/iter_2.pth --cfg-options model.decode_head.channels=24'),
        ('resume of a list', saved('run/iter_2.pth', lambda c: [1]), 'iter_2.pth',
         '--resume run/iter_2.pth'),
        ('resume of a work dir of rubbish', both(text('run/last_checkpoint', 'iter_9.pth'),
         cut('run/iter_2.pth', 100)), 'iter_2.pth', '--resume --work-dir run'),
        ('load_from weights of nan', saved('student.pth', lambda c: [
            v.fill_(float('nan')) for v in c['state_dict'].values() if v.is_floating_point()]
            and None), 'finite', '--cfg-options load_from=student.pth'),
        ('load_from code', lambda root: torch.save(dict(state_dict=Code()), root / 'code.pth'),
         'code.pth', '--cfg-options load_from=code.pth'),
        ('load_from a pickle of code', lambda root: (root / 'code.pth').write_bytes(
            pickle.dumps(Code())), 'code.pth', '--cfg-options load_from=code.pth'),
    ]),
    *files('kd.py', [
        ('teacher that is cut', cut('teacher.pth', 5000), 'teacher.pth', ''),
        ('teacher that is empty', cut('teacher.pth'), 'teacher.pth', ''),
        ('teacher with a flipped byte', flip('teacher.pth'), 'teacher.pth', ''),
        ('teacher without weights', saved('teacher.pth', lambda c: {}), 'teacher.pth', ''),
        ('teacher of a tensor', saved('teacher.pth', lambda c: torch.zeros(3)), 'teacher.pth', ''),
        ('teacher without a key', saved('teacher.pth', lambda c: c['state_dict'].popitem() and
         None), 'teacher.pth', ''),
        ('teacher with keys that are numbers', saved('teacher.pth', lambda c: {1: 2}),
         'teacher.pth', ''),
        ('teacher of nan', saved('teacher.pth', lambda c: [v.fill_(float('nan')) for v in
         c['state_dict'].values() if v.is_floating_point()] and None), 'teacher.pth', ''),
        ('teacher of code', lambda root: torch.save(dict(state_dict=Code()), root / 'teacher.pth'),
         'teacher.pth', ''),
        ('teacher config without model', text('teacher.py', 'x = 1\n'), 'teacher.py', ''),
        ('teacher config that raises', text('teacher.py', 'x = 1 / 0\n'), 'teacher.py', ''),
        ('teacher that may not be read', both(lambda root: (root / 'teacher.pth').chmod(0),
         nobody('w')), 'teacher.pth', ''),
    ]),
]  # fmt: skip


ELSEWHERE = [
    Case('file resume without optimizer', 'train',
         ('plain.py', '--work-dir', 'w', '--resume', 'run/iter_2.pth'), 'no state of the optimizer',
         saved('run/iter_2.pth', delete('optimizer')), warns=True),
    Case('file coco without annotations', 'train', ('det.py', '--work-dir', 'w'),
         'no label', coco(delete('annotations')), warns=True),
    Case('place a work dir that is read-only', 'train', ('plain.py', '--work-dir', 'w'), "'w'",
         both(lambda root: (root / 'w').mkdir(), nobody())),
    Case('place no right to make the work dir', 'train', ('plain.py', '--work-dir', 'a/b'), 'a/b',
         nobody()),
    Case('place a test in a read-only work dir', 'test',
         ('plain.py', 'student.pth', '--work-dir', 'w'), "'w'", nobody()),
    Case('place a full disk', 'train', ('plain.py', '--work-dir', 'w'), "'w'", largest(4000)),
    Case('place a disk that fills up with checkpoints', 'train',
         ('plain.py', '--work-dir', 'w', '--cfg-options', *QUICK,
          'default_hooks.checkpoint.interval=1'), 'iter_1.pth', largest(200_000)),
    Case('place a log that cannot grow', 'train',
         ('plain.py', '--work-dir', 'w', '--cfg-options', *QUICK,
          'default_hooks.checkpoint.interval=100', 'default_hooks.checkpoint.save_last=False'),
         'log', largest(20_000), warns=True),
    Case('place convert into a read-only folder', 'convert',
         ('student.pth', '--to', 'mmdet', '--out', 'o.pth', '--source-config', 'plain.py'),
         'o.pth', nobody()),
    Case('place init_checkpoint into a read-only folder', 'init_checkpoint',
         ('plain.py', '--out', 'o.pth', '--seed', '0'), 'o.pth', nobody()),
    Case('place init_checkpoint on a full disk', 'init_checkpoint',
         ('plain.py', '--out', 'o.pth', '--seed', '0'), 'o.pth', largest(4000)),
    Case('place a metric into a missing folder', 'test',
         ('plain.py', 'student.pth', '--out', 'plain.py/o'), '--out'),
    Case('env RANK without WORLD_SIZE', 'train', ('plain.py', '--launcher', 'pytorch'),
         'WORLD_SIZE', env=(('RANK', '0'),)),
    Case('env RANK that is text', 'train', ('plain.py', '--launcher', 'pytorch'), 'RANK',
         env=(('RANK', 'one'), ('WORLD_SIZE', '1'), ('MASTER_ADDR', '127.0.0.1'),
              ('MASTER_PORT', '29511'))),
    Case('env MASTER_PORT that is text', 'train', ('plain.py', '--launcher', 'pytorch'),
         'MASTER_PORT', env=(('RANK', '0'), ('WORLD_SIZE', '1'), ('MASTER_ADDR', '127.0.0.1'),
                             ('MASTER_PORT', 'http'))),
    Case('env no MASTER_ADDR', 'train', ('plain.py', '--launcher', 'pytorch'), 'MASTER_ADDR',
         env=(('RANK', '0'), ('WORLD_SIZE', '1'))),
    Case('env LOCAL_RANK that is text', 'train', ('plain.py', '--launcher', 'pytorch'),
         'LOCAL_RANK', env=(('RANK', '0'), ('WORLD_SIZE', '1'), ('LOCAL_RANK', 'x'),
                            ('MASTER_ADDR', '127.0.0.1'), ('MASTER_PORT', '29511'))),
    Case('env GPUS missing', 'dist_train.sh', ('plain.py',), 'GPUS'),
    Case('env GPUS that is text', 'dist_train.sh', ('plain.py', 'two'), 'GPUS'),
    Case('env PORT that is text', 'dist_train.sh', ('plain.py', '2'), 'PORT',
         env=(('PORT', 'http'),)),
    Case('env PORT too high', 'dist_train.sh', ('plain.py', '2'), 'PORT',
         env=(('PORT', '70000'),)),
    Case('env NNODES without MASTER_ADDR', 'dist_train.sh', ('plain.py', '2'), 'MASTER_ADDR',
         env=(('NNODES', '2'),)),
    Case('env NODE_RANK that is text', 'dist_train.sh', ('plain.py', '2'), 'NODE_RANK',
         env=(('NODE_RANK', 'first'),)),
    Case('env dist_train with a missing config', 'dist_train.sh', ('gone.py', '2'), 'gone.py'),
    Case('env dist_test without a checkpoint', 'dist_test.sh', ('plain.py', '2'), 'CHECKPOINT'),
    Case('env slurm_train without a work dir', 'slurm_train.sh', ('p', 'j', 'c.py'), 'WORK_DIR'),
    Case('env slurm_test without a checkpoint', 'slurm_test.sh', ('p', 'j'), 'CHECKPOINT'),
    Case('env slurm_train without srun', 'slurm_train.sh', ('p', 'j', 'c.py', 'w'), 'srun'),
]  # fmt: skip

SPOILT = [*CONFIGS, *SEGMENTATION, *DETECTION, *CLASSIFICATION, *CHECKPOINTS, *ELSEWHERE]
