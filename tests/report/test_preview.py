"""The page of prepared pictures: all phrases and masks on it, nothing of them runs, nothing is loaded."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import numpy as np
import own_layout
import pytest
from PIL import Image

from refseg_cli.app import main
from refseg_cli.errors import FOUND

SCRIPT = "<script>alert(1)</script> & <b>dog</b>"


def prepare(root: Path, *options: str) -> int:
    words = ["prepare", "coco", "--annotations", root / "instances.json", "--images", root / "photos"]
    words += ["--phrases", root / "phrases.csv", "--out", root / "out", *options]
    return main([str(word) for word in words])


def pictures(page: str) -> list[np.ndarray]:
    found = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))) for data in found]


@pytest.fixture
def page(tmp_path: Path) -> str:
    own_layout.write_coco(tmp_path)
    (tmp_path / "phrases.csv").write_text(
        "image,phrase,ann_id,no_target\n"
        f"1,{SCRIPT},11,\n1,left one,11,\n1,both,11 12,\n1,a horse,,yes\n2,the cat,22,\n3,nothing,,yes\n"
    )
    assert prepare(tmp_path, "--preview", "2") == FOUND
    return (tmp_path / "out/_preview.html").read_text("utf-8")


def test_pictures_stand_there_with_their_phrases(page: str) -> None:
    assert page.count("<section>") == 2
    assert all(phrase in page for phrase in ("left one", "both", "a horse", "the cat"))
    assert "nothing" not in page
    assert "2 of 3 pictures, 6 phrases" in page
    assert len(re.findall("<b>no target</b><ul><li>a horse</li></ul>", page)) == 1


def test_masks_are_drawn_where_they_are(page: str) -> None:
    plain, left, both, *_ = pictures(page)
    pink = [picture[..., 0].astype(int) - picture[..., 1] > 60 for picture in (plain, left, both)]  # the photo is grey
    middles = (slice(22, 28), slice(7, 13)), (slice(22, 28), slice(47, 53))  # of annotations 11 and 12
    assert [[bool(p[place].all()) for place in middles] for p in pink] == [[False, False], [True, False], [True, True]]


def test_what_others_wrote_is_text(page: str) -> None:
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; &lt;b&gt;dog&lt;/b&gt;" in page
    assert "default-src 'none'" in page
    assert not re.search(r'(?:src|href)="(?!data:)', page)


def test_a_rerun_shows_more(page: str, tmp_path: Path) -> None:
    assert prepare(tmp_path, "--preview", "9") == FOUND
    assert (tmp_path / "out/_preview.html").read_text("utf-8").count("<section>") == 3
    assert main(["prepare", "check", str(tmp_path / "out")]) == FOUND
