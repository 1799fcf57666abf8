"""State that outlives a step."""

from .class_queues import ClassQueues, Keys
from .hash import hash_below, hash_uint32
from .ring import ClassRing
from .row_queue import RowQueue

__all__ = ['ClassQueues', 'ClassRing', 'Keys', 'RowQueue', 'hash_below', 'hash_uint32']
