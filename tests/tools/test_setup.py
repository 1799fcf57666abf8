"""tools/setup.sh in environments of small stand-ins, without a network.

The script and the pins are the real ones; the packages are wheels of a line or two, with the
versions and requirements that matter.
"""

import os
import shutil
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path
from zipfile import ZipFile

import pytest

REAL = ('pip', 'setuptools', 'wheel', 'packaging')
for _name in REAL:
    pytest.importorskip(_name)

ROOT = Path(__file__).resolve().parents[2]
NMS = """
class Kept:
    def tolist(self):
        return [0, 2]


def nms(boxes, scores, iou_threshold):
    return None, Kept()
"""
TORCH = """
__version__ = {version!r}
tensor = list


def from_numpy(array):
    import numpy

    if numpy.__version__ >= '2' and int(__version__.split('.')[1]) < 3:
        raise RuntimeError('Numpy is not available')
    return array
"""
NUMPY = """
__version__ = {version!r}


class zeros:
    def __init__(self, length):
        self.sum = lambda: 0
"""
PLAIN = '__version__ = {version!r}\n'
MODULES = {
    'torch': {'torch/__init__.py': TORCH, 'torch/version.py': 'cuda = {cuda!r}\n'},
    'numpy': {'numpy/__init__.py': NUMPY},
    'mmcv': {'mmcv/__init__.py': PLAIN, 'mmcv/ops.py': NMS},
    'mmseg': {'mmseg/__init__.py': PLAIN, 'mmseg/models.py': ''},
    'xtcocotools': {'xtcocotools/__init__.py': '', 'xtcocotools/mask.py': ''},
}
NAMES = {
    'opencv-python': 'cv2', 'opencv-python-headless': 'cv2', 'onedl-mmengine': 'mmengine',
    'onedl-mmcv': 'mmcv', 'onedl-mmsegmentation': 'mmseg', 'onedl-mmdetection': 'mmdet',
    'onedl-mmpretrain': 'mmpretrain', 'mmsegmentation': 'mmseg',
}  # fmt: skip


def wheel(
    folder: Path, name: str, version: str, requires: str = '', cuda: str | None = None
) -> Path:
    """Write a wheel that holds the stand-in of a distribution."""
    module, file = NAMES.get(name, name), name.replace('-', '_')
    info = f'{file}-{version}.dist-info'
    entries = {
        path: text.format(version=version, cuda=cuda)
        if path.endswith(('__init__.py', 'version.py'))
        else text
        for path, text in MODULES.get(module, {f'{module}/__init__.py': PLAIN}).items()
    }
    needs = f'Requires-Dist: {requires}\n' if requires else ''
    entries[f'{info}/METADATA'] = (
        f'Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}'
    )
    entries[f'{info}/WHEEL'] = 'Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n'
    entries[f'{info}/RECORD'] = ''.join(f'{path},,\n' for path in [*entries, f'{info}/RECORD'])
    path = folder / f'{file}-{version}-py3-none-any.whl'
    with ZipFile(path, 'w') as archive:
        for target, text in entries.items():
            archive.writestr(target, text)
    return path


class World:
    """A checkout with the real script, a folder of wheels, and an environment."""

    def __init__(self, root: Path) -> None:
        self.index, self.checkout = root / 'index', root / 'parent' / 'kdmm'
        self.index.mkdir()
        for name, text in {
            'kdmm/__init__.py': PLAIN.format(version='1'),
            'kdmm/datasets/__init__.py': '',
            'kdmm/datasets/integrations.py': '',
            'pyproject.toml': '[build-system]\nrequires = ["setuptools"]\n'
            'build-backend = "setuptools.build_meta"\n[project]\nname = "kdmm"\nversion = "1"\n'
            '[tool.setuptools]\npackages = ["kdmm", "kdmm.datasets"]\npackage-dir = { "" = "." }\n',
        }.items():
            (self.checkout / name).parent.mkdir(parents=True, exist_ok=True)
            (self.checkout / name).write_text(text)
        for name in ('tools/setup.sh', 'requirements.txt'):
            (self.checkout / name).parent.mkdir(exist_ok=True)
            shutil.copy2(ROOT / name, self.checkout / name)
        subprocess.run([sys.executable, '-m', 'venv', '--without-pip', root / 'env'], check=True)
        self.python = root / 'env' / 'bin' / 'python'
        (self.site,) = (root / 'env' / 'lib').glob('*/site-packages')
        self.prefix = root / 'env'
        base = (
            root / 'base'
        )  # of the interpreter that runs the tests, out of reach of pip's uninstall
        base.mkdir()
        for name in REAL:
            for top in {file.parts[0] for file in distribution(name).files or ()} - {'..'}:
                found = Path(str(distribution(name).locate_file(top)))
                if found.is_dir() and top != '__pycache__':
                    os.symlink(found, base / top)
        (self.site / 'base.pth').write_text(f'{base}\n')
        for line in (ROOT / 'requirements.txt').read_text().splitlines():
            name, _, version = line.partition('#')[0].strip().partition('==')
            if name and name.isascii() and not name.startswith('numpy'):
                wheel(self.index, name, version or '1.0', self.requires(name), cuda='13.0')
        for name in ('opencv-python', 'opencv-python-headless'):
            wheel(self.index, name, '4.11.0.86', 'numpy')
        for name, version in dict(numpy='2.2.6', mmpose='1.3.2', cython='3').items():
            wheel(self.index, name, version)

    @staticmethod
    def requires(name: str) -> str:
        return 'numpy>=2' if name.startswith('opencv') else ''

    def installed(self, *names: str) -> dict[str, str]:
        """Versions in the environment."""
        code = (
            'import sys; from importlib.metadata import distributions as d;'
            'print(*(f"{x.name} {x.version}" for x in d() if x.name in sys.argv[1:]), sep="\\n")'
        )
        done = subprocess.run(
            [self.python, '-c', code, *names], capture_output=True, text=True, check=True
        )
        return dict(line.split() for line in done.stdout.splitlines() if line)

    def has(self, **versions: str) -> None:
        """Put distributions into the environment, as an earlier user did."""
        for name, version in versions.items():
            file = wheel(self.index, name, version)
            with ZipFile(file) as archive:
                archive.extractall(self.site)
            file.unlink()

    def __call__(self, *flags: str, **environment: str) -> subprocess.CompletedProcess[str]:
        env = {k: v for k, v in os.environ.items() if not k.startswith(('PIP_', 'PYTHON', 'KDMM'))}
        env |= dict(PYTHON=str(self.python), PIP_NO_INDEX='1', PIP_CONFIG_FILE=os.devnull)
        env |= dict(PIP_FIND_LINKS=str(self.index)) | environment
        return subprocess.run(
            ['bash', self.checkout / 'tools' / 'setup.sh', '--here', *flags],
            env=env, cwd=self.checkout, capture_output=True, text=True,
        )  # fmt: skip


UPSTREAM = dict(
    numpy='1.26.4', torch='2.1.2', torchvision='0.16.2', mmengine='0.10.7', mmcv='2.1.0',
    mmsegmentation='1.2.2',
)  # fmt: skip


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.mark.slow
def test_the_upstream_line_keeps_its_versions(world: World) -> None:
    there = UPSTREAM | dict(torch='2.5.1', torchvision='0.20.1')  # built for either numpy
    world.has(**there)
    wheel(world.index, 'xtcocotools', '1.14.3')  # for numpy 1 the wheel will do
    wheel(world.index, 'json-tricks', '9.0', 'numpy>=2')  # an older release goes with numpy 1
    done = world('--here')
    assert done.returncode == 0, done.stderr
    assert world.installed(*there) == there
    opencv = ('opencv-python', 'opencv-python-headless')
    assert world.installed(*opencv) == dict.fromkeys(opencv, '4.11.0.86')
    assert world.installed('xtcocotools', 'ftfy', 'mmpose', 'kdmm').keys() == {
        'xtcocotools', 'ftfy', 'mmpose', 'kdmm',
    }  # fmt: skip
    assert not world.installed(*(name for name in NAMES if name.startswith('onedl')))
    assert 'up to date' in world('--here').stdout


@pytest.mark.slow
def test_without_cuda_and_without_xtcocotools(world: World, tmp_path: Path) -> None:
    """torch comes from the folder although the index has it too; pose is left out in one line."""
    builds = tmp_path / 'cpu builds'
    builds.mkdir()
    for name, version in dict(torch='2.14.1+cpu', torchvision='0.29.1+cpu').items():
        wheel(builds, name, version)
    done = world('--cpu', KDMM_TORCH_INDEX=str(builds))
    assert done.returncode == 0, done.stderr
    found = world.installed('torch', 'torchvision', 'numpy', 'opencv-python', 'onedl-mmcv')
    assert found['torch'] == '2.14.1+cpu' and found['torchvision'] == '0.29.1+cpu'
    assert (found['numpy'], found['opencv-python']) == ('2.2.6', '4.12.0.88')
    (line,) = done.stderr.strip().splitlines()
    assert 'all but pose estimation is set up: xtcocotools could not be installed' in line


@pytest.mark.slow
def test_what_this_run_changed_is_named_when_a_check_fails(world: World) -> None:
    world.has(**UPSTREAM, pillow='9.0')
    (world.site / 'mmseg' / 'models.py').write_text(
        "import pillow\nassert pillow.__version__ < '10', 'pillow is too new'\n"
    )
    wheel(world.index, 'pillow', '11.0')
    wheel(world.index, 'munkres', '1.0', 'pillow>=10')
    done = world('--here')
    assert done.returncode == 1
    assert 'import mmseg.models fails: AssertionError: pillow is too new' in done.stderr
    assert 'this run changed pillow 9.0 -> 11.0\n' in done.stderr
    assert world.installed(*UPSTREAM) == UPSTREAM


@pytest.mark.parametrize(
    'index, there, told',
    [
        ({}, {}, 'set KDMM_TORCH_INDEX'),
        (dict(KDMM_TORCH_INDEX='/nowhere'), {}, "KDMM_TORCH_INDEX='/nowhere' is neither a folder"),
        (dict(KDMM_TORCH_INDEX='.'), dict(cuda='13.0'), 'with CUDA or ROCm 13.0: uninstall torch'),
        (
            dict(KDMM_TORCH_INDEX='.'),
            {},
            'no torch==2.14.1 torchvision==0.29.1 in KDMM_TORCH_INDEX',
        ),
    ],
)
def test_what_cpu_needs(world: World, index: dict, there: dict, told: str) -> None:
    if there:
        with ZipFile(wheel(world.index, 'torch', '2.14.1', **there)) as archive:
            archive.extractall(world.site)
    done = world('--cpu', **index)
    assert done.returncode == 1 and told in done.stderr
    assert not world.installed('onedl-mmcv', 'kdmm')
