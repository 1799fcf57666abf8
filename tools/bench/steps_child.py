"""Training steps of one config with one set of terms, in a process of its own."""

import contextlib
import sys
import tempfile
from typing import Any

STUDENT, TEACHER, ALL = 'student', '+ teacher forward', '+ all'


def measure_steps(job: dict[str, Any]) -> dict[str, Any]:
    """Times in seconds and memory in MiB of steps on blank images.

    ``job['terms']`` is one of the names above or that of a term.
    """
    with contextlib.redirect_stdout(sys.stderr), tempfile.TemporaryDirectory() as folder:
        return _measure(job, folder)


def _measure(job: dict[str, Any], folder: str) -> dict[str, Any]:
    import kdmm  # noqa: F401  (registers everything)
    from kdmm.engine import build_runner, load_config, use_amp
    from kdmm.engine.meter import MIB
    from kdmm.engine.trial import only_term, to_blank_data, to_trial

    terms = job['terms']
    cfg = load_config(job['config'], job['options'])
    cfg.env_cfg = dict(cfg.get('env_cfg') or {}, cudnn_benchmark=False)
    if terms == STUDENT:
        cfg.pop('kd', None)
    elif terms not in (TEACHER, ALL):
        only_term(cfg, terms)
    if job['dtype'] != 'float32':
        use_amp(cfg, job['dtype'])
    to_blank_data(cfg, job['size'])
    if job['batch']:
        cfg.train_dataloader.batch_size = job['batch']
    cfg.train_dataloader.update(num_workers=0, persistent_workers=False)
    loop = dict(warmup=1, iters=job['iters'], apart=False, teacher_only=terms == TEACHER)
    to_trial(cfg, dict(loop, type='kdmm.ProfileLoop'), folder)
    runner = build_runner(cfg)
    runner.train()
    done: Any = runner.train_loop
    return dict(
        times=done.seconds,
        peak_mib=done.peak / MIB,
        added_mib=done.added / MIB,
        memory_exact=done.meter.exact,
    )
