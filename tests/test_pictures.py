"""The pictures: the overview is drawn from the tree as it is, and everything in it lies where it should."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from scripts.pipeline_picture import PICTURE, commands, draw

ROOT = Path(__file__).parents[1]
SVG = "{http://www.w3.org/2000/svg}"
STAGES = ("data_collection", "pretrain", "finetune", "inference", "scripts")


def test_the_overview_is_that_of_this_tree():
    assert (ROOT / PICTURE).read_text(encoding="utf-8") == draw(ROOT), "python scripts/overview.py draws it again"


def test_commands_are_those_that_can_be_started(tmp_path):
    (tmp_path / "b.py").write_text('"""Does b.\n\nMore."""\n\nif __name__ == "__main__":\n    run(main)\n')
    (tmp_path / "a.py").write_text('"""A module that speaks of `if __name__ == "__main__":`."""\n')
    (tmp_path / "empty.py").write_text("")
    (tmp_path / "run.sh").write_text("#!/usr/bin/env bash\n# A job.\n")
    (tmp_path / "c.sh").write_text("#!/usr/bin/env bash\n# Does c.\n# More.\n")
    (tmp_path / "sourced.sh").write_text("# What c shares.\n# More.\n")
    assert [(command.name, command.about) for command in commands(tmp_path)] == [
        ("b.py", "Does b."),
        ("c.sh", "Does c."),
    ]


def boxes(svg, name):
    found = [box for box in svg.iter(f"{SVG}rect") if box.get("class") == name]
    return [tuple(float(box.get(side)) for side in ("x", "y", "width", "height")) for box in found]


def test_every_command_is_in_the_picture_inside_its_band_and_on_no_other():
    svg = ElementTree.fromstring(draw(ROOT))
    shown = [text.text for text in svg.iter(f"{SVG}text")]
    wanted = [command.name for stage in STAGES for command in commands(ROOT / stage)]
    assert {"filter.py", "eval.py", "chain.sh"} <= set(wanted) and all(name in shown for name in wanted)
    chips, bands = boxes(svg, "chip"), boxes(svg, "band")
    assert len(chips) == len(wanted)
    for x, y, width, height in chips:
        assert any(x >= a and y >= b and x + width <= a + w and y + height <= b + h for a, b, w, h in bands)
        assert sum(x < a + w and a < x + width and y < b + h and b < y + height for a, b, w, h in chips) == 1
    assert svg.find(f"{SVG}title").text and "prefers-color-scheme:dark" in svg.find(f"{SVG}style").text


@pytest.mark.parametrize("name", ["logo.svg", "overview.svg"])
def test_pictures_load_nothing_and_run_nothing(name):
    text = (ROOT / "assets" / name).read_text(encoding="utf-8")
    svg = ElementTree.fromstring(text)
    assert not {element.tag.removeprefix(SVG) for element in svg.iter()} & {
        "script",
        "image",
        "use",
        "a",
        "foreignObject",
    }
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "") and "url(" not in text
