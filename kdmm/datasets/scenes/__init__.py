"""Generated street-like scenes: one description, every task's annotations."""

from .classes import CLASSES, IGNORE, JOINTS, KINDS, PALETTE, THINGS
from .description import Scene
from .render import Rendering, Thing, render
from .sampling import sample_scene
from .settings import SceneSettings
from .write import write_scenes

__all__ = [
    'CLASSES',
    'IGNORE',
    'JOINTS',
    'KINDS',
    'PALETTE',
    'THINGS',
    'Rendering',
    'Scene',
    'SceneSettings',
    'Thing',
    'render',
    'sample_scene',
    'write_scenes',
]
