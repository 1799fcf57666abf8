"""kdmm.functional needs PyTorch and nothing else."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
CODE = """
import sys
allowed = sys.stdlib_module_names | {'torch', 'kdmm'}

import torch  # with what it brings
import torch.distributed, torch.nn.functional
brought = {name.partition('.')[0] for name in sys.modules}

class Only:
    # as if nothing else were installed
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        top = name.partition('.')[0]
        return self.finder.find_spec(name, path, target) if top in allowed | brought else None

sys.meta_path[:] = [Only(finder) for finder in sys.meta_path if hasattr(finder, 'find_spec')]
import importlib, pkgutil
import kdmm.functional
for found in pkgutil.walk_packages(kdmm.functional.__path__, 'kdmm.functional.'):
    if not found.name.endswith('.kernels'):  # Triton's, imported on CUDA
        importlib.import_module(found.name)
x = torch.rand(2, 3, 4, 5, requires_grad=True)
kdmm.functional.pixel_to_pixel_kl(x, torch.rand(2, 6, 4, 5)).backward()
kdmm.functional.kl_divergence(x, torch.rand(2, 3, 4, 5)).backward()
print(*sorted(name for name in sys.modules if name.startswith('kdmm.')))
"""


def test_it_imports_and_computes_with_torch_alone():
    """Of kdmm itself it uses the ground floor only."""
    done = subprocess.run(
        [sys.executable, '-c', CODE], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    others = {name for name in done.stdout.split() if not name.startswith('kdmm.functional')}
    assert others <= {'kdmm.errors', 'kdmm.renamed'}
