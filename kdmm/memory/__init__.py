"""State that outlives a step."""

from .class_queues import ClassQueues, ClassRing, Keys
from .hash import hash_below, hash_uint32
from .instance_bank import InstanceBank
from .row_queue import RowQueue
from .sample_rows import SampleRows

__all__ = [
    'ClassQueues',
    'ClassRing',
    'InstanceBank',
    'Keys',
    'RowQueue',
    'SampleRows',
    'hash_below',
    'hash_uint32',
]
