"""The work of publish.py: what goes to the hub, held free of this machine's paths and of secrets, and its upload."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.errors import EnvironmentFailure, ExitCode, MissingInputError, SettingsError
from configs.files import atomic_open, read_json
from configs.records import RUNS
from inference.visible_text import clean_line
from scripts.cards import CARD_FILE, check_card, edited_card
from scripts.dataset_card import DATA_FILES, data_licence, dataset_card
from scripts.fetching import HUB_MODELS
from scripts.lineage import lineage, source_folder, stage_of
from scripts.model_card import evaluations_of, model_card
from scripts.report_reading import Stage, items, pick

_MODEL_FILES = (
    *("*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json", "adapter_config.json"),
    *("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab*", "merges.txt", "*.model"),
    *("chat_template.jinja", "prompt.json"),
)
# Fields of configurations that hold the folder a model or tokenizer was loaded from.
_FOLDER_FIELDS = ("_name_or_path", "name_or_path")
_READABLE = (".json", ".jinja", ".md", ".txt", ".yaml")
_VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "merges.txt", "added_tokens.json")
_PRIVATE = {
    "a path of a machine": re.compile(
        r"(?:(?<![\w./])|file://)/(?:[\w.-]+/){0,4}"
        r"(?:home|root|tmp|work|mnt|media|scratch|data|users?|var|opt|srv|gpfs|lustre|lus|nas|nfs|cluster|project)s?/\w",
        re.IGNORECASE,
    ),
    "a path of Windows": re.compile(r"\b[A-Z]:\\\w"),
    "a key": re.compile(r"\b(?:hf_|sk-|ghp_|AKIA|xox[bp]-)[\w-]{16,}|-----BEGIN [A-Z ]*PRIVATE KEY"),
}
_SECRET_NAME = re.compile(r"key|token|secret|password|credential", re.IGNORECASE)


@dataclass(frozen=True)
class Upload:
    """One file: its name in the repository, and its content or where that lies."""

    name: str
    content: bytes | Path

    @property
    def num_bytes(self) -> int:
        return self.content.stat().st_size if isinstance(self.content, Path) else len(self.content)


def publish(settings: Any) -> int:
    """Write the card, show or upload; returns the exit code.

    Raises:
        MissingInputError: the folder is none that can be published.
        SettingsError: licence or base model are not known, the run is not finished, or a file holds what is private.
        EnvironmentFailure: the hub cannot be reached or refuses.
    """
    check_repo(settings.repo)
    folder = settings.folder.resolve()
    stages = lineage(folder)
    kind = kind_of(folder)
    card = edited_card(folder)
    by_hand = card is not None
    base = settings.base_model or (base_model(stages[-1]) if kind == "model" else None)
    _need_base(stages[-1], base)
    if card is None:
        if kind == "model":
            licence = _checked_licence(settings.licence or base_licence(stages), "the base model's is not recorded")
            evaluations = evaluations_of(folder, settings.evaluations, (folder.parent, RUNS))
            card = model_card(settings.repo, stages, base, licence, evaluations)
        else:
            found, why = data_licence(folder)
            licence = _checked_licence(settings.licence or found, why)
            card = dataset_card(settings.repo, stages, licence)
    check_card(card, kind, folder / CARD_FILE)
    uploads = [Upload(CARD_FILE, card.encode()), *files_of(folder, kind, base)]
    refuse_private(uploads, _private_words(stages))
    if not by_hand:
        if "made by scripts/publish.py" not in _text(folder / CARD_FILE) and (folder / CARD_FILE).is_file():
            (folder / CARD_FILE).replace(folder / "README.before.md")  # a program's form, which may be filled in
        with atomic_open(folder / CARD_FILE) as file:
            file.write(card)
    _show(folder, kind, settings, uploads, card, by_hand)
    summary = {"repo": settings.repo, "kind": kind, "num_files": len(uploads), "uploaded": settings.upload}
    if settings.upload:
        summary["url"] = send(settings.repo, kind, uploads, private=settings.private)
    print(json.dumps(summary | {"num_bytes": sum(upload.num_bytes for upload in uploads)}))
    return ExitCode.DONE


def check_repo(repo: str) -> None:
    """Refuse a name that the hub would refuse."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo)
        if "/" not in repo:
            raise HFValidationError("there is no organisation or user in it")
    except HFValidationError as error:
        raise SettingsError(
            "the hub has no such names",
            where="repo",
            found=clean_line(error, 200),
            wanted="ORGANISATION/NAME",
            todo="correct --repo",
        ) from None


def kind_of(folder: Path) -> str:
    """Whether a folder holds a model or a data set.

    Raises:
        MissingInputError: it holds neither.
    """
    if any((folder / name).is_file() for name in ("config.json", "adapter_config.json")):
        if any(folder.glob("*.safetensors")):
            return "model"
    elif any(next(folder.glob(pattern), None) for pattern in DATA_FILES):
        return "dataset"
    raise MissingInputError(
        "there is nothing to publish in this folder",
        where=folder,
        wanted="a model or adapter with *.safetensors, kept/*.parquet, conversations/*.jsonl, or Train/ and Test/ with "
        "*.jsonl",
        todo="give the folder of a finished training, of a step of the corpus, or of a set of questions",
    )


def base_model(stage: Stage) -> str | None:
    """Hub id of the model that training began with, of an adapter of that upon which it is put; None if not known."""
    value = stage.get("settings", "base") or stage.get("settings", "model_name_or_path")
    folder = source_folder(stage, value)
    if folder is None:
        is_id = isinstance(value, str) and re.fullmatch(r"[\w.-]+/[\w.-]+", value) and not value.startswith("models/")
        return value if is_id else None
    if name := _downloaded(folder):
        return HUB_MODELS.get(name, (name,))[0]
    earlier = None if (stage.folder / "adapter_config.json").is_file() else stage_of(folder)
    return base_model(earlier) if earlier else None


def _downloaded(folder: Path) -> str:
    """The name under which scripts/download.py fetched a folder, or ""."""
    path = folder / "download.json"
    return str(items(read_json(path)).get("name") or "") if path.is_file() else ""


def _need_base(stage: Stage, base: str | None) -> None:
    if base is None and (stage.folder / "adapter_config.json").is_file():
        raise SettingsError(
            "an adapter is of no use without its base model",
            where=stage.folder,
            found=f"its base is a folder: {stage.get('settings', 'model_name_or_path')}",
            wanted="the hub id of that model",
            todo="publish the base first and give --base_model ORGANISATION/NAME, or merge both (finetune/merge.py)",
        )


def base_licence(stages: Sequence[Stage]) -> str | None:
    """The licence of the first model of the chain: by its own card, or of the demo model."""
    for stage in stages:
        if folder := source_folder(stage, stage.get("settings", "base") or stage.get("settings", "model_name_or_path")):
            if (name := _downloaded(folder)) in HUB_MODELS:
                return HUB_MODELS[name][1]
            found = re.search(r"^license: *([\w.-]+) *$", _text(folder / CARD_FILE), re.MULTILINE)
            if found:
                return found[1]
    return None


def _checked_licence(licence: str | None, why: str) -> str:
    if licence and re.fullmatch(r"[a-z0-9][a-z0-9.-]*", licence):
        return licence
    raise SettingsError(
        "a licence is needed" if not licence else "this is no licence as the hub writes it",
        where="licence",
        found=licence or why,
        wanted="apache-2.0, mit, cc-by-4.0, cc-by-nc-4.0, llama3, other, ...",
        todo="give --licence; what was trained on data or a model with conditions must keep them",
    )


def files_of(folder: Path, kind: str, base: str | None) -> list[Upload]:
    """The files to upload beside the card; configurations without the folders they were loaded from."""
    patterns = _MODEL_FILES if kind == "model" else DATA_FILES
    paths = sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()})
    uploads = []
    for path in paths:
        name = path.relative_to(folder).as_posix()
        if name in ("config.json", "tokenizer_config.json", "adapter_config.json"):
            uploads.append(Upload(name, _without_folders(path, base)))
        else:
            uploads.append(Upload(name, path))
    return uploads


def _without_folders(path: Path, base: str | None) -> bytes | Path:
    values = read_json(path)
    kept = {name: value for name, value in values.items() if name not in _FOLDER_FIELDS}
    if base and "base_model_name_or_path" in kept:
        kept["base_model_name_or_path"] = base
    return path if kept == values else (json.dumps(kept, indent=2, ensure_ascii=False) + "\n").encode()


def refuse_private(uploads: Sequence[Upload], words: Sequence[str]) -> None:
    """Refuse to publish a text that names this machine or holds a secret.

    Raises:
        SettingsError: naming each file and what is in it; never the secret itself.
    """
    found = []
    for upload in uploads:
        if upload.name in _VOCABULARIES or not upload.name.endswith(_READABLE):
            continue  # words of a language, or data, which are not ours to judge
        content = upload.content.read_bytes() if isinstance(upload.content, Path) else upload.content
        text = content.decode("utf-8", errors="replace")
        found += [f"{upload.name}: {what}" for what, pattern in _PRIVATE.items() if pattern.search(text)]
        if any(word in text for word in words):
            found.append(f"{upload.name}: the name of this machine or user, or a secret of the environment")
    if found:
        raise SettingsError(
            "a file holds what should not be published",
            found="; ".join(found),
            wanted="no paths or names of machines, no keys",
            todo="take it out of the file, then again",
        )


def _private_words(stages: Sequence[Stage]) -> list[str]:
    """Names of machines in the records, the home folder, and the environment's secrets."""
    nodes = {str(pick(stage.record, "machine", "node") or "") for stage in stages}
    secrets = {value for name, value in os.environ.items() if _SECRET_NAME.search(name)}
    # Shorter names, such as "vm", are in ordinary words.
    return [word for word in {str(Path.home()), *nodes} if len(word) >= 5] + [s for s in secrets if len(s) >= 12]


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _show(folder: Path, kind: str, settings: Any, uploads: Sequence[Upload], card: str, by_hand: bool) -> None:
    """The card and the list of files on standard output, and what happens next on standard error."""
    print(card)
    print(f"{kind} {settings.repo} ({'private' if settings.private else 'public'} if it is new), from {folder}:")
    for upload in uploads:
        is_changed = not isinstance(upload.content, Path) and upload.name != CARD_FILE
        changed = "  (without paths of this machine)" if is_changed else ""
        print(f"  {upload.num_bytes:>15,}  {clean_line(upload.name, 200)}{changed}")
    names = {upload.name.split("/")[0] for upload in uploads}
    left = sorted(path.name for path in folder.iterdir() if path.name not in names and not path.name.startswith("."))
    if left:
        print(f"  stays here: {clean_line(', '.join(left), 1000)}")
    if by_hand:
        print("the card was written or changed by hand and is kept; remove it to have it made anew", file=sys.stderr)
    if not settings.upload:
        print("nothing was uploaded; the same command with --upload does it", file=sys.stderr)


def send(repo: str, kind: str, uploads: Sequence[Upload], *, private: bool) -> str:
    """Upload all files in one commit; returns its address.

    Raises:
        EnvironmentFailure: there is no token, no network, or the hub refuses.
    """
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    operations = [CommitOperationAdd(upload.name, upload.content) for upload in uploads]
    try:
        api = HfApi()
        api.create_repo(repo, repo_type=kind, private=private, exist_ok=True)
        commit = api.create_commit(repo, operations, commit_message="Upload with its card", repo_type=kind)
    except (LocalTokenNotFoundError, HfHubHTTPError, OSError) as error:
        raise EnvironmentFailure(
            "the hub did not take the upload",
            where=repo,
            found=clean_line(error, 300),
            todo="set HF_TOKEN to a token that may write, or `hf auth login`; check the network; then again",
        ) from None
    return str(commit.commit_url)
