"""Files for contributors and for citing: equal pins, scripts that exist, required keys."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import kdmm

ROOT = Path(__file__).resolve().parents[1]
RUFF = re.compile(r'ruff==([\d.]+)')


def load(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text())


def test_all_pins_of_ruff_are_the_same() -> None:
    files = ('pyproject.toml', '.pre-commit-config.yaml', '.github/workflows/ci.yml')
    pins = {name: set(RUFF.findall((ROOT / name).read_text())) for name in files}
    assert all(pins.values()) and len(set.union(*pins.values())) == 1, pins


def test_hooks_are_those_of_the_tests() -> None:
    hooks = [hook for repo in load('.pre-commit-config.yaml')['repos'] for hook in repo['hooks']]
    assert [hook['id'] for hook in hooks] == ['ruff', 'ruff-format', 'mypy']
    script = (ROOT / 'tools/run_tests.sh').read_text()
    assert all(f'== {hook["name"]}' in script for hook in hooks)


def test_the_workflow_runs_both_lines() -> None:
    jobs = load('.github/workflows/ci.yml')['jobs']
    rows = jobs['tests']['strategy']['matrix']['include']
    assert {row['line'] for row in rows} == {'maintained', 'upstream'}
    scripts = [re.fullmatch(r'bash (tools/\w+\.sh)', row['command']) for row in rows]
    assert all(script and (ROOT / script[1]).is_file() for script in scripts)
    steps = [step for job in jobs.values() for step in job['steps']]
    assert all('uses' in step or 'run' in step for step in steps)


@pytest.mark.parametrize('key', ['cff-version', 'message', 'title', 'authors'])
def test_the_citation_has_what_is_required(key: str) -> None:
    assert load('CITATION.cff')[key]


def test_the_citation_is_of_this_version() -> None:
    citation = load('CITATION.cff')
    assert citation['cff-version'] == '1.2.0'
    assert citation['authors'] == [dict(name='The kdmm authors')]
    assert citation['version'] == kdmm.__version__
    assert f"license = '{citation['license']}'" in (ROOT / 'pyproject.toml').read_text()
