"""Backbones from one library to another, with proof."""

from kdmm.transfer.convert import convert
from kdmm.transfer.fresh import fresh_state, write_fresh
from kdmm.transfer.proof import ProofError
from kdmm.transfer.report import Report
from kdmm.transfer.request import Request

__all__ = [
    'ProofError',
    'Report',
    'Request',
    'convert',
    'fresh_state',
    'write_fresh',
]
