"""Conversion of backbones from one library to another, with verification of the features."""

from kdmm.errors import ProofError
from kdmm.transfer.cli import fresh_state, write_fresh
from kdmm.transfer.convert import convert
from kdmm.transfer.plan import Request
from kdmm.transfer.report import Report

__all__ = [
    'ProofError',
    'Report',
    'Request',
    'convert',
    'fresh_state',
    'write_fresh',
]
