"""Checks of annotation files in COCO's format: ids, names and entries.

COCO's reader keeps, of what has one id, the last, and leaves out what it finds no image or category
for. The libraries train on what remains.
"""

import functools
import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from logging import WARNING
from typing import Any

from mmengine.logging import print_log

from kdmm.errors import ConfigError, nearest

#: Files above this many bytes are left to the library: 128 MB are read within about 3 s.
LARGEST = 2**27


def check_coco(content: Any, where: str) -> None:
    """Refuse ids that repeat, and annotations none of which finds its image.

    Where some find none, as in a subset that lists fewer images, a warning says how many.

    Args:
        content: Of a file, parsed.
        where: Names the file in errors.

    Raises:
        ConfigError: Names an id, and how many there are.
    """
    if not isinstance(content, Mapping):
        return
    if 'images' not in content and {'annotations', 'categories'} <= content.keys():
        raise ConfigError('it lists no images, so that its annotations belong to none', key=where)
    if not isinstance(content.get('images'), list):
        return
    _check_entries(content, where)
    images = _ids(content, 'images')
    _refuse_repeated(images, f'{where}: images', 'all its annotations go to the last of them')
    annotations = _ids(content, 'annotations')
    _refuse_repeated(
        annotations, f'{where}: annotations', 'every image would get the box of the last of them'
    )
    categories = _ids(content, 'categories')
    _refuse_repeated(categories, f'{where}: categories', 'only the last name would be known')
    known = set(images)
    strays = [entry for entry in _ids(content, 'annotations', 'image_id') if entry not in known]
    if not strays:
        return
    message = (
        f'{len(strays)} of {len(content["annotations"])} annotations belong to images that are not '
        f'listed, first image_id {strays[0]!r}: they are left out'
    )
    texts = set(map(str, known))
    if len(strays) == len(content['annotations']) or any(str(entry) in texts for entry in strays):
        fix = 'List their images (1 and "1" are different ids).'
        raise ConfigError(message, key=where, fix=fix)
    print_log(f'{where}: {message}', 'current', WARNING)  # a subset that lists fewer images


def check_coco_file(path: Any) -> None:
    """`check_coco` for a local JSON file of at most `LARGEST` bytes; others pass.

    Raises:
        ConfigError: Also for a file that is cut off.
    """
    if not isinstance(path, str) or not path.endswith('.json') or not os.path.isfile(path):
        return
    if os.path.getsize(path) <= LARGEST:
        _categories(path, os.path.getmtime(path))


@functools.lru_cache(maxsize=64)
def _categories(path: str, written: float) -> tuple[str, ...]:
    """The names of a file's categories, after `check_coco`; read once, as long as it stays."""
    try:
        with open(path, encoding='utf-8') as file:
            content = json.load(file)
    except ValueError as error:
        raise ConfigError(
            f'is no whole JSON file in UTF-8 without a byte order mark ({error})', key=repr(path)
        ) from error
    except OSError as error:
        raise ConfigError(f'cannot be read ({error.strerror})', key=repr(path)) from error
    check_coco(content, repr(path))
    entries = content.get('categories') if isinstance(content, Mapping) else None
    return tuple(str(entry['name']) for entry in entries or () if 'name' in entry)


def check_class_names(dataset: Any) -> None:
    """Refuse names of classes that an annotation file does not have (MMDetection's data sets).

    MMDetection leaves such a class out and moves all labels behind it. Where the names are the data
    set's own, as COCO's 80, a file that has some of them passes.

    Raises:
        ConfigError: Names them, with the nearest in the file.
    """
    classes = (getattr(dataset, 'metainfo', None) or {}).get('classes') or ()
    matched, path = (getattr(dataset, name, None) for name in ('cat_ids', 'ann_file'))
    if isinstance(classes, str) or matched is None or len(matched) == len(classes):
        return
    if not path or not os.path.isfile(path):
        return
    in_file = _categories(path, os.path.getmtime(path))
    for where, names in {'metainfo.classes': classes, repr(path): in_file}.items():
        twice = [name for name, count in Counter(names).items() if count > 1 and name in classes]
        if twice:
            raise ConfigError(f'several classes are called {twice[0]!r}', key=where)
    wrong = [name for name in classes if name not in in_file]
    own = tuple(getattr(dataset, 'METAINFO', {}).get('classes') or ())
    if wrong and (tuple(classes) != own or not matched):
        near = '; '.join(f'{name!r}: {nearest(name, in_file)}' for name in wrong[:5])
        raise ConfigError(
            f'{len(wrong)} of {len(classes)} names are no category of {path!r}: {near}',
            key='metainfo.classes',
            fix='Correct them: their objects would be left out, and later classes change places.',
        )


def _check_entries(content: Mapping[str, Any], where: str) -> None:
    """Refuse entries that lack what the libraries read, or have it with another type."""
    for part, check in (('images', _of_image), ('categories', _of_category)):
        _check_each(content.get(part, []), check, f'{where}: {part}')
    names = {entry['id']: entry['name'] for entry in content.get('categories', [])}

    def of_annotation(entry: Mapping[str, Any]) -> str:
        if 'segments_info' in entry:  # panoptic files have masks in place of boxes
            return ''
        category = entry.get('category_id')
        if names and category not in names:
            known = ', '.join(map(repr, list(names)[:5]))
            return f'category_id {category!r} is none of the categories (their ids: {known}, ...)'
        return _of_box(entry)

    _check_each(content.get('annotations', []), of_annotation, f'{where}: annotations')


def _check_each(entries: Any, check: Callable[[Mapping[str, Any]], str], where: str) -> None:
    if not isinstance(entries, list):
        raise ConfigError(f'expected a list, got a {type(entries).__name__}', key=where)
    for place, entry in enumerate(entries):
        fault = check(entry) if isinstance(entry, Mapping) else f'expected a dict, got {entry!r}'
        if fault:
            number = f', id {entry["id"]!r}' if isinstance(entry, Mapping) and 'id' in entry else ''
            raise ConfigError(fault, key=f'{where}[{place}]{number}', fix='Correct the file.')


def _of_image(entry: Mapping[str, Any]) -> str:
    for key in ('width', 'height'):
        value: Any = entry.get(key)
        if not _is_number(value) or value <= 0:
            return f'{key} is {value!r}, expected a number of pixels'
    if not isinstance(entry.get('file_name', entry.get('coco_url')), str):
        return f'file_name is {entry.get("file_name")!r}, expected the name of a picture'
    return '' if 'id' in entry else 'it has no id'


def _of_category(entry: Mapping[str, Any]) -> str:
    if not isinstance(entry.get('name'), str):
        return f'name is {entry.get("name")!r}, expected text'
    return '' if isinstance(entry.get('id'), (int, str)) else f'id is {entry.get("id")!r}'


def _of_box(entry: Mapping[str, Any]) -> str:
    if 'image_id' not in entry or 'id' not in entry:
        return f'it has no {"id" if "image_id" in entry else "image_id"}'
    if 'keypoints' in entry and 'bbox' not in entry:  # MMPose leaves such a person out
        return ''
    box, area = entry.get('bbox'), entry.get('area', 0)
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
        return f'bbox is {box!r}, expected four numbers, x, y, width and height'
    return '' if _is_number(area) else f'area is {area!r}, expected a number'


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _ids(content: Mapping[str, Any], part: str, key: str = 'id') -> list[Any]:
    entries = content.get(part)
    if not isinstance(entries, Sequence):
        return []
    return [entry[key] for entry in entries if isinstance(entry, Mapping) and key in entry]


def _refuse_repeated(ids: Iterable[Any], where: str, therefore: str) -> None:
    repeated = {value: count for value, count in Counter(ids).items() if count > 1}
    if repeated:
        value, count = next(iter(repeated.items()))
        raise ConfigError(
            f'{len(repeated)} id(s) repeat, first id {value!r}, which stands {count} times: '
            f'{therefore}',
            key=where,
            fix='Give each its own id.',
        )
