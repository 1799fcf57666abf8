"""Generated street-like scenes of the quick start: one description, every task's annotations."""

from .classes import CLASSES, IGNORE, JOINTS, KINDS, PALETTE, THINGS
from .description import Scene
from .render import Rendering, Thing, render
from .sampling import sample_scene
from .write import SceneSettings, write_scenes

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
