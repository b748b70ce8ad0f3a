"""The work of rewrite.py: passages of documents to questions and answers that say nothing that the passage does not.

Apollo's corpus (Medbase) was text rewritten so by a language model; its prompts and checks are not published with it.
Each passage is asked about in its own language, each pair is checked alone, and a passage is good when a pair is.
"""

from __future__ import annotations

import functools
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from configs.errors import FailedItems
from configs.files import atomic_open, fingerprint
from configs.languages import LANGUAGES
from configs.progress import Progress
from data_collection.corpus.documents import Document, DocumentWriter, Shard, read_shard
from data_collection.llm import faithfulness
from data_collection.llm.asking import LATER_TEMPERATURE, Attempts, ask_until_good, sampling
from data_collection.llm.passages import cut_passages
from data_collection.llm.replies import CUT, REFUSAL, in_language, refuses, text_problem
from data_collection.llm.server_settings import ServerSettings
from data_collection.llm.servers import Request, Server
from data_collection.questions.question_files import Heard
from data_collection.selection import quality
from data_collection.selection.detection import detect

QUESTION, ANSWER = "### Question:", "### Answer:"
MIN_SHARE = 0.25  # of an answer's words are in its passage (README: what answers to this and to other texts have)
REASON = pa.field("reason", pa.string())

# What is asked, in the passage's own language, before the passage.
_INSTRUCTIONS = {
    "en": (
        "Write up to {number} questions in English that a student or a doctor could ask and that this medical text "
        "answers, each with a full answer of one or more sentences. Use only what the text says: keep its numbers, "
        "units, names of drugs and negations. Each question must be understood without the text and must not mention "
        "it. Write each pair as two lines, “{question} ...” and “{answer} ...”, and nothing else."
    ),
    "zh": (
        "请根据下面的医学内容，用中文写出最多 {number} 个学生或医生可能提出的问题，并给出完整的回答（一句或多句）。"
        "只使用其中的信息，数字、单位、药名和否定词要与原来一致。每个问题都要能独立看懂，不要提到原来的内容。"
        "每一对写成两行：“{question} ……”和“{answer} ……”，不要写别的。"
    ),
    "ja": (
        "次の医学の文章で答えられる、学生や医師が尋ねそうな質問を日本語で最大 {number} 個作り、"
        "それぞれに一文以上の完全な答えを付けてください。書かれていることだけを使い、数値、単位、薬の名前、"
        "否定はそのまま保ってください。質問は元の文章がなくても分かるようにし、文章には触れないでください。"
        "一組を「{question} …」と「{answer} …」の二行で書き、ほかには何も書かないでください。"
    ),
    "fr": (
        "Écrivez en français jusqu'à {number} questions qu'un étudiant ou un médecin pourrait poser et auxquelles ce "
        "texte médical répond, chacune avec une réponse complète d'une ou plusieurs phrases. N'utilisez que ce qui y "
        "est dit : gardez les nombres, les unités, les noms de médicaments et les négations. Chaque question doit se "
        "comprendre sans le texte et ne pas en parler. Écrivez chaque paire sur deux lignes, « {question} ... » et "
        "« {answer} ... », et rien d'autre."
    ),
    "ru": (
        "Напишите по-русски до {number} вопросов, которые мог бы задать студент или врач и на которые отвечает этот "
        "медицинский текст, и к каждому полный ответ из одного или нескольких предложений. Пишите только то, что в нём "
        "сказано: сохраните числа, единицы, названия лекарств и отрицания. Каждый вопрос должен быть понятен без "
        "текста и не упоминать его. Каждую пару пишите двумя строками: «{question} ...» и «{answer} ...», и ничего "
        "больше."
    ),
    "es": (
        "Escriba en español hasta {number} preguntas que podría hacer un estudiante o un médico y que este texto de "
        "medicina contesta, cada una con una respuesta completa de una o varias frases. Use solo lo que allí se dice: "
        "conserve los números, las unidades, los nombres de fármacos y las negaciones. Cada pregunta debe entenderse "
        "sin el texto y no mencionarlo. Escriba cada par en dos líneas, «{question} ...» y «{answer} ...», y nada más."
    ),
    "ar": (
        "اكتب بالعربية ما لا يزيد على {number} من الأسئلة التي قد يطرحها طالب أو طبيب ويجيب عنها هذا النص الطبي، ومع "
        "كل سؤال جواب كامل من جملة أو أكثر. استعمل ما ورد فيه فقط، واحتفظ بالأرقام والوحدات وأسماء الأدوية والنفي كما "
        "هي. يجب أن يُفهم كل سؤال من دون النص وألا يشير إليه. اكتب كل زوج في سطرين: «{question} ...» و«{answer} ...»، "
        "ولا شيء غير ذلك."
    ),
    "hi": (
        "नीचे की चिकित्सा सामग्री से हिन्दी में अधिकतम {number} ऐसे प्रश्न लिखिए जो कोई छात्र या चिकित्सक पूछ सकता है और जिनका "
        "उत्तर उसमें है; हर प्रश्न के साथ एक या अधिक वाक्यों का पूरा उत्तर दीजिए। केवल उसमें कही गई बातें लिखिए; संख्याएँ, "
        "इकाइयाँ, दवाओं के नाम और निषेध ज्यों के त्यों रखिए। हर प्रश्न अपने आप में स्पष्ट हो और सामग्री का उल्लेख न करे। हर "
        "जोड़ी दो पंक्तियों में लिखिए: “{question} ...” और “{answer} ...”, और कुछ नहीं।"
    ),
    "de": (
        "Schreiben Sie auf Deutsch bis zu {number} Fragen, die Studierende oder Ärzte stellen könnten und die dieser "
        "medizinische Text beantwortet, jede mit einer vollständigen Antwort aus einem oder mehreren Sätzen. Verwenden "
        "Sie nur, was darin steht: Zahlen, Einheiten, Namen von Arzneimitteln und Verneinungen bleiben erhalten. Jede "
        "Frage muss ohne den Text verständlich sein und darf ihn nicht erwähnen. Schreiben Sie jedes Paar in zwei "
        "Zeilen, „{question} ...“ und „{answer} ...“, und sonst nichts."
    ),
}
_PAIR = re.compile(
    rf"^\W*{QUESTION[4:-1]}\W*[:：](.*?)^\W*{ANSWER[4:-1]}\W*[:：](.*?)(?=^\W*{QUESTION[4:-1]}\W*[:：]|\Z)",
    re.MULTILINE | re.DOTALL | re.IGNORECASE,
)


@dataclass(frozen=True)
class RewriteRules:
    """Everything that decides what comes out.

    Attributes:
        model: the model's name on the server.
        lang: language of documents that state none; "" has it detected.
        layout: what a pair becomes, a conversation of two messages or a document.
        max_passage_tokens: of a passage (`passages.num_tokens`).
        max_pairs: asked for of a passage.
        max_new_tokens, max_attempts: of an answer; of a passage.
        extra_body: further fields of every request.
    """

    model: str
    lang: str
    layout: Literal["conversations", "documents"]
    max_passage_tokens: int
    max_pairs: int
    max_new_tokens: int
    max_attempts: int
    extra_body: dict[str, Any]

    def identity(self) -> dict[str, Any]:
        prompts, checks = [_INSTRUCTIONS, LATER_TEMPERATURE], [MIN_SHARE, faithfulness.words()]
        own = {name: value for name, value in asdict(self).items() if name != "extra_body" or value}
        return {**own, "prompts": fingerprint(prompts), "checks": fingerprint(checks)}

    def outputs(self, output_dir: Path, shard: Shard) -> tuple[Path, Path]:
        """Where a shard's pairs and the passages without one are."""
        pairs = (
            output_dir / "kept" / f"{shard.name}.parquet"
            if self.layout == "documents"
            else output_dir / "conversations" / f"{shard.name}.jsonl"
        )
        return pairs, output_dir / "rejected" / f"{shard.name}.parquet"


@dataclass(frozen=True)
class Passage:
    """A part of a document as something to ask about (`asking.Item`).

    Attributes:
        document: id, language, source and licence of the document it was cut from, with the passage as its text.
        number: of the passage in its document, from 1.
        problem: why it is not asked about, or "".
    """

    document: Document
    number: int
    problem: str
    rules: RewriteRules

    @functools.cached_property
    def id(self) -> str:
        """By what is asked, so that the same passage twice is asked about once."""
        return fingerprint([self.document.lang, self.document.text])

    def request(self, attempt: int, earlier: list[Any]) -> Request:
        instruction = _INSTRUCTIONS[self.document.lang]
        instruction = instruction.format(number=self.rules.max_pairs, question=QUESTION, answer=ANSWER)
        message = {"role": "user", "content": f"{instruction}\n\n{self.document.text}"}
        return Request(self.id, [message], self.rules.max_new_tokens, sampling(attempt))

    def check(self, text: str, hit_limit: bool, earlier: list[Any]) -> tuple[dict[str, Any], str]:
        return check_pairs(text, hit_limit, self.document.text, self.document.lang)


def check_pairs(text: str, hit_limit: bool, passage: str, lang: str) -> tuple[dict[str, Any], str]:
    """The good pairs in what a server wrote with the reasons against the others, and what is wrong with the whole.

    Of an answer that was cut at the limit the last pair is left out.
    """
    if refuses(text):
        return {"pairs": [], "dropped": []}, REFUSAL
    found = [(question.strip(" *\n"), answer.strip(" *\n")) for question, answer in _PAIR.findall(text)]
    if hit_limit:
        found = found[:-1]
    good: list[tuple[str, str]] = []
    dropped = []
    for question, answer in found:
        problem = pair_problem(question, answer, passage, lang)
        if not problem and any(question == other for other, _ in good):
            problem = "asks the same again"
        if problem:
            dropped.append(problem)
        else:
            good.append((question, answer))
    problem = "" if good else dropped[0] if dropped else CUT if hit_limit else "no question with an answer"
    return {"pairs": good, "dropped": dropped}, problem


def pair_problem(question: str, answer: str, passage: str, lang: str) -> str:
    """Why a question and its answer are not to be taught, or ""."""
    if not question or not answer:
        return "an empty question or answer"
    if problem := text_problem(f"{question}\n{answer}", lang):
        return problem
    if not in_language(answer, lang):
        return "in another language"
    for text in (question, answer):
        if faithfulness.refers_to_source(text, lang):
            return "speaks of the passage"
    if problem := faithfulness.unfaithful(answer, passage, lang):
        return problem
    if problem := faithfulness.added(faithfulness.Facts.of(question, lang), faithfulness.Facts.of(passage, lang)):
        return f"the question has {problem}"
    share = faithfulness.share_from(answer, passage, lang)
    return f"not from the passage ({share:.2f})" if share < MIN_SHARE else ""


def read_passages(shard: Shard, rules: RewriteRules, failed: FailedItems) -> Iterator[Passage]:
    """The passages of a shard's documents, those that are not to be asked about among them."""
    for document in read_shard(shard, failed, rules.lang or None):
        lang = document.lang or detect(document.text)
        for number, text in enumerate(cut_passages(document.text, rules.max_passage_tokens), 1):
            part = replace(document, text=text, lang=lang)
            problem = "language without a prompt" if lang not in LANGUAGES else quality.problem(text, lang)[0]
            yield Passage(part, number, problem, rules)


@functools.cache
def _server(settings: str, spent: float) -> Server:
    """One for all shards of a process, so that they share its budget; the settings as JSON, which can be a key."""
    server = Server(ServerSettings(**json.loads(settings)))
    server.spent = spent
    return server


def rewrite_shard(
    shard: Shard,
    failed: FailedItems,
    *,
    output_dir: Path,
    rules: RewriteRules,
    server_settings: ServerSettings,
    spent: float = 0.0,
) -> dict[str, Any]:
    """Ask about the passages of a shard and write its pairs; returns the numbers for its marker.

    `spent` is what shards that are done have cost of this task's budget.
    """
    server = _server(json.dumps(asdict(server_settings)), spent)

    def wanted() -> Iterator[Passage]:
        return (passage for passage in read_passages(shard, rules, Heard()) if not passage.problem)

    attempts = Attempts(output_dir / "attempts" / f"{shard.name}.jsonl")
    try:
        num_wanted = num_over = 0
        for passage in wanted():
            num_wanted += 1
            num_over += attempts.is_good(passage.id) or attempts.tried(passage.id) >= rules.max_attempts
        progress = Progress(f"rewrite {shard.name}", num_wanted, "passages", done=num_over)
        ask_until_good(server, wanted, attempts, rules.max_attempts, progress)
        return _write(shard, failed, output_dir, rules, attempts)
    finally:
        attempts.close()


def _write(
    shard: Shard, failed: FailedItems, output_dir: Path, rules: RewriteRules, attempts: Attempts
) -> dict[str, Any]:
    reasons: Counter[str] = Counter()
    pairs: Counter[str] = Counter()
    dropped: Counter[str] = Counter()
    read = 0
    path, rejected_path = rules.outputs(output_dir, shard)
    made_by = {"stage": "rewrite", "model": rules.model}
    as_documents = rules.layout == "documents"
    with (
        DocumentWriter(path, made_by) if as_documents else atomic_open(path) as kept,
        DocumentWriter(rejected_path, made_by, [REASON]) as rejected,
    ):
        for passage in read_passages(shard, rules, failed):
            read += 1
            document, name = passage.document, f"{passage.document.id}/{passage.number}"
            results = None if passage.problem else attempts.results(passage.id)
            if not results:
                reason = passage.problem or attempts.last_problem(passage.id)
                reasons[_kind(reason)] += 1
                rejected.write(replace(document, id=name), reason=reason)
                continue
            dropped.update(map(_kind, results[-1]["dropped"]))
            for number, (question, answer) in enumerate(results[-1]["pairs"], 1):
                pairs[document.lang] += 1
                made = replace(
                    document,
                    id=f"{name}/{number}",
                    text=f"{question}\n{answer}",
                    meta={**document.meta, "document": document.id, "rewritten_by": rules.model},
                )
                if as_documents:
                    kept.write(made)
                else:
                    kept.write(_conversation(made, question, answer))
    return {
        "passages": read,
        "pairs": dict(pairs),
        "rejected": reasons.total(),
        "rejected_by_reason": dict(reasons),
        "dropped_pairs": dict(dropped),
        "attempts": attempts.num_rows,
        "cost": attempts.cost,
    }


def _conversation(made: Document, question: str, answer: str) -> str:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    row = {"messages": messages, **{name: getattr(made, name) for name in ("id", "lang", "source", "licence", "meta")}}
    return json.dumps(row, ensure_ascii=False, default=str) + "\n"


def _kind(reason: str) -> str:
    """A reason without its particulars, for counting."""
    return re.sub(r"[:(].*", "", reason).strip()


def summarise(marked: Iterable[tuple[Shard, dict[str, Any]]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The totals of all shards: (for stats.json, for the run record)."""
    sums: Counter[str] = Counter()
    counts: dict[str, Counter[str]] = {name: Counter() for name in ("pairs", "rejected_by_reason", "dropped_pairs")}
    for _, marker in marked:
        sums.update({name: marker[name] for name in ("passages", "rejected", "attempts", "cost")})
        for name, counter in counts.items():
            counter.update(marker[name])
    result: dict[str, Any] = {
        "passages": sums["passages"],
        "rewritten": sums["passages"] - sums["rejected"],
        "rejected": sums["rejected"],
        "pairs": counts["pairs"].total(),
        "attempts": sums["attempts"],
        "cost": round(sums["cost"], 6),
        "rejected_by_reason": dict(sorted(counts["rejected_by_reason"].items())),
    }
    languages = {"pairs_by_language": dict(counts["pairs"]), "dropped_pairs": dict(counts["dropped_pairs"])}
    return {**result, **languages}, result


def estimate(server: Server, shards: Iterable[Shard], rules: RewriteRules) -> float:
    """The most that the passages may cost when each is good at the first attempt."""
    return server.estimate(
        passage.request(0, [])
        for shard in shards
        for passage in read_passages(shard, rules, Heard())
        if not passage.problem
    )
