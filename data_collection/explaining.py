"""The work of rationales.py: what a server is asked, what its answer must be, and the attempts until it is.

MMedBench's rationales were written by GPT-4, which was given the question and its right answer, and a part of them was
checked by people. The checks here are those that a program can make before.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from configs import records
from configs.errors import EnvironmentFailure, FailedItems, MissingInputError
from configs.files import Journal, fingerprint, read_json
from configs.languages import language
from configs.progress import Progress, log
from data_collection import quality
from data_collection.benchmark import write_benchmark
from data_collection.detection import MIN_OWN_PROBABILITY, own_probability
from data_collection.questions.answers import parse_answer, split_answer
from data_collection.questions.mmedbench import Split, find_files, read_questions
from data_collection.questions.question import Question
from data_collection.server_settings import ServerSettings
from data_collection.servers import Answer, Request, Server

_JOURNAL = "attempts.jsonl"
_ANSWER = "### Answer:"
LATER_TEMPERATURE = 0.7  # the first attempt is greedy; the same again would be the same

# What is asked, in the question's own language; {letters} are the right options'.
_INSTRUCTIONS = {
    "en": (
        "The right answer to this medical question is {letters}. Explain in English, step by step, why it is right and "
        "why the other options are not. Do not doubt the given answer. End with the line “{answer} {letters}”."
    ),
    "zh": (
        "这道医学题的正确答案是 {letters}。请用中文逐步说明它为什么正确，其他选项为什么不正确。"
        "不要质疑给定的答案。最后一行写“{answer} {letters}”。"
    ),
    "ja": (
        "この医学の問題の正解は {letters} です。なぜそれが正しく、ほかの選択肢が正しくないのかを、"
        "日本語で順を追って説明してください。与えられた正解を疑わないでください。"
        "最後の行に「{answer} {letters}」と書いてください。"
    ),
    "fr": (
        "La bonne réponse à cette question de médecine est {letters}. Expliquez en français, pas à pas, pourquoi elle "
        "est juste et pourquoi les autres options ne le sont pas. Ne mettez pas en doute la réponse donnée. Terminez "
        "par la ligne « {answer} {letters} »."
    ),
    "ru": (
        "Правильный ответ на этот медицинский вопрос — {letters}. Объясните по-русски, шаг за шагом, почему он верен "
        "и почему другие варианты неверны. Не подвергайте данный ответ сомнению. Закончите строкой "
        "«{answer} {letters}»."
    ),
    "es": (
        "La respuesta correcta a esta pregunta de medicina es {letters}. Explique en español, paso a paso, por qué es "
        "correcta y por qué las demás opciones no lo son. No ponga en duda la respuesta dada. Termine con la línea "
        "«{answer} {letters}»."
    ),
    "ar": (
        "الإجابة الصحيحة عن هذا السؤال الطبي هي {letters}. اشرح بالعربية خطوة بخطوة لماذا هي صحيحة ولماذا الخيارات "
        "الأخرى غير صحيحة. لا تشكك في الإجابة المعطاة. اختم بالسطر «{answer} {letters}»."
    ),
    "hi": (
        "इस चिकित्सा प्रश्न का सही उत्तर {letters} है। हिन्दी में क्रमशः समझाइए कि यह सही क्यों है और अन्य विकल्प सही क्यों "
        "नहीं हैं। दिए गए उत्तर पर संदेह न करें। अंत में यह पंक्ति लिखिए: “{answer} {letters}”।"
    ),
    "de": (
        "Die richtige Antwort auf diese medizinische Frage ist {letters}. Erklären Sie auf Deutsch Schritt für "
        "Schritt, warum sie richtig ist und die anderen Optionen nicht. Zweifeln Sie die gegebene Antwort nicht an. "
        "Schließen Sie mit der Zeile „{answer} {letters}“."
    ),
}

# How a model says that it will not answer, near the beginning of what it writes.
_REFUSAL = re.compile(
    r"\bas an ai\b|\bi(?:'m| am) (?:sorry|unable)|\bi apologi[sz]e"
    r"|\bi (?:can(?:no|')t|am not able to) (?:help|assist|provide|answer|give)"
    r"|\bje suis désolé|\bje ne peux pas (?:répondre|fournir|vous aider)|\ben tant qu['’](?:ia|intelligence)"
    r"|\blo siento|\bno puedo (?:ayudar|responder|proporcionar)|\bcomo (?:una? )?(?:ia|inteligencia artificial)\b"
    r"|\bизвините|\bя не могу (?:ответить|помочь|предоставить)|\bкак (?:ии\b|языковая модель)"
    r"|\bes tut mir leid|\bich kann (?:ihnen )?(?:leider )?nicht (?:helfen|antworten)|\bals ki\b"
    r"|抱歉|对不起|我无法(?:回答|提供|帮助)|作为(?:一个)?(?:人工智能|AI|语言模型)"
    r"|申し訳(?:ありません|ございません)|お答えできません|AIとして"
    r"|عذر[اًا]|آسف|لا أستطيع (?:الإجابة|المساعدة)|क्षमा करें|मैं .{0,20}असमर्थ",
    re.IGNORECASE,
)
_REFUSAL_WITHIN = 200  # characters from the start
_KANA, _HAN = re.compile("[\u3041-\u30fa\uff66-\uff9d]"), re.compile("[\u3400-\u9fff]")
_SENTENCE_END = tuple('.!?。！？؟।…)）」』”"»*:：')


def rationale_request(question: Question, max_new_tokens: int, attempt: int) -> Request:
    """What is asked for a question's rationale; later attempts are sampled, each with a seed of its own."""
    letters = ", ".join(question.answers)
    instruction = _INSTRUCTIONS[question.lang].format(letters=letters, answer=_ANSWER)
    options = "\n".join(f"{letter}. {text}" for letter, text in question.options.items())
    message = {"role": "user", "content": f"{question.question}\n{options}\n\n{instruction}"}
    options_of_request = {"temperature": LATER_TEMPERATURE, "seed": attempt} if attempt else {}
    return Request(question.id, [message], max_new_tokens, options_of_request)


def check_rationale(text: str, hit_limit: bool, question: Question) -> tuple[str, str]:
    """The rationale in what a server wrote, and what is wrong with it ("" for nothing).

    Wrong is: cut at the limit; a refusal; no answer at the end, or another one than the question's; too short or full
    of repetitions (`quality.problem`); in another language; broken off.
    """
    if hit_limit:
        return "", "cut at the limit"
    rationale = split_answer(text)[0].strip("*#“«「 \n")
    if _REFUSAL.search(text[:_REFUSAL_WITHIN]):
        return rationale, "a refusal"
    answer = parse_answer(text, question.options)
    if answer is None:
        return rationale, "does not end with an answer"
    if answer != question.answers:
        return rationale, f"argues for {', '.join(answer)} instead of {', '.join(question.answers)}"
    reason, number = quality.problem(rationale, question.lang)
    if reason:
        return rationale, f"{reason} ({number:.3g})"
    if not _in_language(rationale, question.lang):
        return rationale, "in another language"
    if not rationale.endswith(_SENTENCE_END):
        return rationale, "broken off"
    return rationale, ""


def _in_language(text: str, lang: str) -> bool:
    # The model takes short Chinese texts for Japanese (2 of 42 in our sample); their characters tell them apart.
    if lang in ("zh", "ja"):
        num_kana, num_han = len(_KANA.findall(text)), len(_HAN.findall(text))
        own = num_han + num_kana
        return 2 * own > sum(map(str.isalpha, text)) and (num_kana > 0.1 * own) == (lang == "ja")
    return own_probability(text, lang, "fasttext") >= MIN_OWN_PROBABILITY["fasttext"]


def write_rationales(settings: Any, server_settings: ServerSettings) -> int:
    """Ask, check, ask again, write; returns the exit code (5: some questions have no good rationale)."""
    failed = FailedItems()
    splits = _read(settings.input, settings.languages, failed)
    questions = {question.id: question for rows in splits.values() for question in rows}
    wanted = [question for question in questions.values() if settings.replace or not question.rationale]
    server = None
    model = _model_of_finished(settings.output_dir, server_settings.server_model)
    if model is None:
        server = Server(server_settings)
        model = server.model
    identity = {
        "questions": fingerprint([[q.id, q.question, q.options, q.answers, q.rationale] for q in questions.values()]),
        "prompts": fingerprint([_INSTRUCTIONS, LATER_TEMPERATURE]),
        "model": model,
        **{name: getattr(settings, name) for name in ("max_new_tokens", "max_attempts", "replace")},
    }
    done = records.already_done(settings.output_dir, identity)
    if done:
        log.info(f"already done: {settings.output_dir}")
        return records.exit_code(done)
    server = server or Server(server_settings)
    described = {**records.plain(settings), **records.plain(server_settings)}
    with records.run_record(settings.output_dir, "rationales", described, identity) as record:
        journal = Journal(settings.output_dir / _JOURNAL)
        good_before = {row["id"] for row in journal.rows if not row["problem"]}
        _log_cost(server, [question for question in wanted if question.id not in good_before], settings)
        good = ask_until_good(server, wanted, journal, settings.max_new_tokens, settings.max_attempts)
        journal.close()
        last = {row["id"]: row["problem"] for row in journal.rows}
        for question in wanted:
            if question.id not in good:
                tried = f"no good rationale in {settings.max_attempts} attempts"
                failed.add(question.id, f"{tried}; the last: {last[question.id]}")
        filled = {
            split: [_with(question, good.get(question.id), server.model) for question in rows]
            for split, rows in splits.items()
        }
        write_benchmark(filled, settings.output_dir)
        failed.write(settings.output_dir / "failures.jsonl")
        problems = Counter(re.sub(r" \(.*| [A-H](?:,| instead).*", "", row["problem"]) for row in journal.rows)
        figures = {"asked": len(wanted), "written": len(good), "attempts": len(journal.rows)}
        cost = round(sum(row["cost"] for row in journal.rows), 6)
        record.finish("finished", len(failed), model=server.model, problems=dict(problems), cost=cost, **figures)
    log.info(f"{len(good):,} of {len(wanted):,} rationales written, {server.spent:.4f} spent now")
    print(settings.output_dir)
    return failed.exit_code


def _read(folder: Path, languages: list[str] | None, failed: FailedItems) -> dict[Split, list[Question]]:
    """The questions of both splits, in the languages asked for.

    Raises:
        MissingInputError: there are none, or none in one of the languages.
    """
    splits: dict[Split, list[Question]] = {}
    wanted = {language(name).code for name in languages or ()}
    for split in ("Train", "Test"):
        try:
            files = find_files(folder, split)
        except MissingInputError:
            continue
        chosen = [path for code, path in files.items() if not wanted or code in wanted]
        splits[split] = [question for path in chosen for question in read_questions(path, split, failed)]
    missing = wanted - {question.lang for rows in splits.values() for question in rows}
    if missing or not any(splits.values()):
        raise MissingInputError(
            "there are no questions" + (f" in {', '.join(sorted(missing))}" if missing else ""),
            where=folder,
            wanted="Train/LANGUAGE.jsonl or Test/LANGUAGE.jsonl",
            todo="give a folder of questions in MMedBench's layout to --input",
        )
    return splits


def _model_of_finished(output_dir: Path, asked: str | None) -> str | None:
    """The model of a finished run in the folder, where it may be the one asked for: its server need not answer."""
    path = output_dir / "run.json"
    old = read_json(path) if path.is_file() else {}
    model = (old.get("identity") or {}).get("model")
    return model if old.get("status") == "finished" and asked in (None, model) else None


def _log_cost(server: Server, wanted: list[Question], settings: Any) -> None:
    requests = (rationale_request(question, settings.max_new_tokens, 0) for question in wanted)
    cost = server.estimate(requests)
    log.info(
        f"{len(wanted):,} rationales to write with {server.model}"
        + (f", about {cost:.2f} at most when each is good at the first attempt" if cost else "")
    )


def ask_until_good(
    server: Server, questions: list[Question], journal: Journal, max_new_tokens: int, max_attempts: int
) -> dict[str, str]:
    """Question id to its good rationale; attempts that the journal has are not made again.

    In rounds: all questions once, then those without a good rationale again, up to `max_attempts` times. A request that
    the server did not answer at all is no attempt.

    Raises:
        EnvironmentFailure: there are such questions; all others had their attempts.
    """
    by_id = {question.id: question for question in questions}
    attempts: Counter[str] = Counter()
    good: dict[str, str] = {}
    for row in journal.rows:
        attempts[row["id"]] += 1
        if not row["problem"]:
            good[row["id"]] = row["rationale"]
    progress = Progress("rationales", len(questions), "questions", done=len(good))

    unanswered: dict[str, str] = {}

    def on_answer(answer: Answer) -> None:
        if answer.text is None and not answer.is_final:
            unanswered[answer.key] = answer.error or ""
            return
        question = by_id[answer.key]
        rationale, problem = "", answer.error or ""
        if answer.text is not None:
            rationale, problem = check_rationale(answer.text, answer.hit_limit, question)
        row = {
            "id": answer.key,
            "attempt": attempts[answer.key],
            "problem": problem,
            "rationale": rationale,
            "output": answer.text,
            "model": answer.model,
            "num_prompt_tokens": answer.num_prompt_tokens,
            "num_new_tokens": answer.num_new_tokens,
            "num_tries": answer.num_tries,
            "cost": server.cost(answer.num_prompt_tokens, answer.num_new_tokens),
            "seconds": round(answer.seconds, 3),
        }
        journal.append([row])
        attempts[answer.key] += 1
        if not problem:
            good[answer.key] = rationale
            progress.advance(1)

    for attempt in range(max_attempts):
        left = (q for q in questions if q.id not in good and q.id not in unanswered and attempts[q.id] <= attempt)
        server.ask((rationale_request(question, max_new_tokens, attempts[question.id]) for question in left), on_answer)
    progress.close()
    if unanswered:
        key, error = next(iter(unanswered.items()))
        raise EnvironmentFailure(
            f"{len(unanswered):,} questions were not answered",
            where=server.settings.server_url,
            found=f"{key}: {error}",
            wanted="an answer to each",
            todo="the same command asks these again, and only these",
        )
    return good


def _with(question: Question, rationale: str | None, model: str) -> Question:
    if rationale is None:
        return question
    checked = {"human_checked": False, "human_check_passed": False}
    return replace(question, rationale=rationale, meta={**question.meta, "rationale_model": model}, **checked)
