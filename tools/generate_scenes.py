"""Write the generated street scenes of the quick start, or scenes of your own settings.

Segmentation finds labels in ``ann_dir``, pose COCO keypoints of the persons in ``annotations``.
Half of the persons are lower than a fifth of the picture: for crops of them take ``--size 256 512``
or more.
"""

import argparse
import sys
import time

from scenes import write_scenes


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('root', help='folder to create, for instance data/quickstart')
    parser.add_argument('--train', type=int, default=400, help='pictures to train on')
    parser.add_argument('--val', type=int, default=80, help='pictures to validate on')
    parser.add_argument('--size', type=int, nargs=2, default=(128, 256), metavar=('H', 'W'))
    parser.add_argument('--seed', type=int, default=0)
    return parser.parse_args()


def main() -> int:
    """Write the scenes, or say that they are there; 1 when something else is in the way."""
    args = parse_args()
    start = time.perf_counter()
    try:
        written = write_scenes(args.root, args.train, args.val, tuple(args.size), args.seed)
    except (OSError, ValueError) as error:
        print(f'generate_scenes: {error}', file=sys.stderr)
        return 1
    took = f'written in {time.perf_counter() - start:.0f} s' if written else 'already there'
    print(f'{args.root}: {args.train} + {args.val} scenes of {args.size[1]}x{args.size[0]}, {took}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
