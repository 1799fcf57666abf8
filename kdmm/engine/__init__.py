"""From a config file to a running job."""

from kdmm.config import load_config, model_config, use_amp
from kdmm.engine.checks import check_data
from kdmm.engine.launch import start_process_group, stop_process_group
from kdmm.engine.runner import Runner, build_runner

__all__ = [
    'Runner',
    'build_runner',
    'check_data',
    'load_config',
    'model_config',
    'start_process_group',
    'stop_process_group',
    'use_amp',
]
