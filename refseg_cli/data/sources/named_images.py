"""Which image of `instances.json` a row of somebody's table means."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Any

from refseg_cli.data.picture_names import PictureNames
from refseg_cli.data.sources import Reason, Unusable
from refseg_cli.data.sources.instances import Instances
from refseg_cli.data.sources.rows import first
from refseg_cli.data.sources.values import brief

IMAGES = ("image", "file_name", "image_id")  # of these columns the first that is there counts


class NamedImages:
    """Finds images by file name, with or without folders and ending, or by id."""

    def __init__(self, found: Instances) -> None:
        self._found = found
        named = ((image_id, photo[0]) for image_id, photo in found.photos.items())
        self._names = PictureNames(chain(named, found.namesakes))

    def id_of(self, cells: Mapping[str, Any]) -> int:
        """The id of the image that the row names.

        Raises:
            Unusable: it names none, or one that is not there.
        """
        image = first(cells, IMAGES)
        if isinstance(image, float) and image.is_integer():  # as pandas writes ids where one is missing
            image = int(image)
        if image is None or not isinstance(image, int | str) or isinstance(image, bool):
            raise Unusable(Reason.UNKNOWN_IMAGE, "no image" if image is None else brief(image))
        ids = self._names.find(image.strip() if isinstance(image, str) else image) or self._by_id(image)
        if len(ids) != 1:
            several = f", which is the name of {len(ids)} pictures" if ids else ""
            raise Unusable(Reason.UNKNOWN_IMAGE, f"{brief(image)}{several}")
        return ids[0]

    def _by_id(self, image: int | str) -> tuple[int, ...]:
        """The image of that id, which may be text."""
        try:
            number = self._found.number(image, "image")
        except ValueError:
            return ()
        if number in self._found.broken_photos:
            detail = f"image {brief(image)}: {self._found.broken_photos[number]}"
            raise Unusable(Reason.BROKEN_ANNOTATION, detail)
        return (number,) if number in self._found.photos else ()
