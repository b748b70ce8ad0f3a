"""Have a language-model server translate questions into other languages and back, and keep those that survive it.

    python data_collection/translate.py --input data/mmedbench --languages en --to ar hi --output_dir DIR \\
        --server_url http://127.0.0.1:8000/v1

Any OpenAI-compatible server; the key comes from the environment. Writes Train/ and Test/LANGUAGE.jsonl in MMedBench's
layout (original_id and original_language say what each was made from), attempts.jsonl (every answer of the server and
what was found wrong with it; the same command goes on from there), failures.jsonl and run.json.
"""

import sys

try:
    from configs.errors import run
except ModuleNotFoundError:
    print(
        "error: the environment is not active\n"
        "  what to do: source .venv/bin/activate (bash scripts/setup.sh makes it), then the same command",
        file=sys.stderr,
    )
    sys.exit(4)

from dataclasses import dataclass
from pathlib import Path

from configs.errors import SettingsError
from configs.languages import language
from configs.settings import parse, setting
from data_collection.llm.server_settings import ServerSettings


@dataclass
class TranslateSettings:
    """Settings of data_collection/translate.py, beside those of the server."""

    input: Path = setting(help="folder of questions in MMedBench's layout")
    output_dir: Path = setting(help="folder of the translated questions")
    to: list[str] = setting(help="languages to translate to: codes or names of configs/languages.py")
    languages: list[str] | None = setting(None, help="languages to translate from; all that are there by default")
    max_new_tokens: int = setting(2048, "limit of a translation; one that was cut is asked for again")
    max_attempts: int = setting(3, "translations asked for before a question is given up")
    min_similarity: float | None = setting(
        None, "least chrF, 0 to 1, of a question translated there and back; .45 by default, .2 in Chinese and Japanese"
    )

    def problems(self) -> list[str]:
        """What is wrong with the values."""
        names = ("max_new_tokens", "max_attempts")
        found = [f"{name} {getattr(self, name)}: wanted 1 or more" for name in names if getattr(self, name) < 1]
        if self.min_similarity is not None and not 0 <= self.min_similarity <= 1:
            found.append(f"min_similarity {self.min_similarity}: wanted 0 to 1")
        for name in self.to:
            try:
                language(name)
            except SettingsError as error:
                found.append(f"to: {error.what}; there are {error.wanted}")
        return found


def main() -> int:
    settings, server = parse(__doc__, TranslateSettings, ServerSettings)
    from data_collection.llm.translating import translate_questions

    return translate_questions(settings, server)


if __name__ == "__main__":
    run(main)
