"""`moondream/refcoco-m` on the Hugging Face hub: Parquet with a photo a row, and `samples`, its objects.

A sample has its phrases (`sentences`), `bbox` and `mask`, a compressed RLE.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from refseg_cli.data import tables
from refseg_cli.data.sources import Ref
from refseg_cli.data.sources.gathering import File, Gathering, columns
from refseg_cli.data.sources.refer import parse
from refseg_cli.data.sources.values import brief

tells = columns("image", "samples")


def read(file: File, gathering: Gathering, splits: Collection[str]) -> Iterator[Ref]:
    """The references of one file: one for each sample."""
    rows = enumerate(tables.iter_rows(str(file.path)))
    samples = ({**row, "number": number, "sample": s} for number, row in rows for s in _listed(row["samples"]))

    def ref(row: Any) -> Ref:
        image, sample = row["image"] or {}, row["sample"]
        if not isinstance(sample, dict):
            raise ValueError(f"{brief(sample)} in place of a sample")
        size = sample["mask"]["size"]
        if not isinstance(size, list) or len(size) != 2:
            raise ValueError(f"mask of the size {brief(size)}")
        name = Path(row.get("file_name") or image.get("path") or f"{file.path.stem}-{row['number']}").name
        image_id = gathering.photo(name, size=(size[0], size[1]), data=image.get("bytes"))
        ann_id = gathering.annotation(image_id, sample["mask"], box=sample.get("bbox"))
        return gathering.ref(image_id, [ann_id], sample["sentences"], split=file.split_of(row.get("split")))

    return parse(samples, ref, file=file.path.name, problems=gathering.problems)


def _listed(samples: Any) -> list[Any]:
    return samples if isinstance(samples, list) else [samples]
