"""The language of a text, by both detectors."""

import json
import socket
from pathlib import Path

import pytest

from configs.languages import LANGUAGES
from data_collection.selection.detection import MIN_OWN_PROBABILITY, own_probability

SAMPLE = Path(__file__).parents[1] / "assets" / "sample" / "documents"


@pytest.mark.parametrize("detector", MIN_OWN_PROBABILITY)
def test_language_of_the_sample(detector, monkeypatch):
    def refuse(*_):
        raise AssertionError("a detector wants the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    least = MIN_OWN_PROBABILITY[detector]
    for lang in LANGUAGES:
        path = SAMPLE / f"{lang}.medical.jsonl"
        for line in path.read_text(encoding="utf-8").splitlines()[:4] if path.exists() else ():
            text = json.loads(line)["text"]
            assert own_probability(text, lang, detector) > 0.5
            assert own_probability(text.upper(), lang, detector) >= least
            assert all(own_probability(text, other, detector) < least for other in LANGUAGES if other != lang)


@pytest.mark.parametrize("detector", MIN_OWN_PROBABILITY)
def test_what_has_no_language_is_not_rejected_for_it(detector):
    for text in ("12345 !!!", "", "\n\n"):
        assert own_probability(text, "fr", detector) == 1.0


def test_langdetect_gives_the_same_every_time():
    text = "Le patient has a fever и кашель, y también dolor."
    found = {own_probability(text, "fr", "langdetect") for _ in range(5)}
    assert len(found) == 1


@pytest.mark.parametrize("detector", MIN_OWN_PROBABILITY)
def test_traditional_chinese_is_chinese(detector):
    """langdetect alone is sure that this is Korean."""
    assert own_probability("本院提供心導管檢查、冠狀動脈支架置放術及繞道手術。", "zh", detector) > 0.5
    assert own_probability("患者は発熱と咳嗽を訴えて来院した。胸部の画像では肺炎を認める。", "zh", detector) < 0.1
