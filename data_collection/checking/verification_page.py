"""The page on which checkers mark rationales: a small HTTP server on the standard library.

Whoever opens the link that the program prints, which holds a key, gets a cookie and may give a name; the name's cookie
is signed. A form is taken only with a token that the page was given, and only under a host name that the server knows,
so that no other page in the browser can mark anything. All texts are escaped; nothing is loaded from elsewhere.
"""

from __future__ import annotations

import hmac
import os
import re
import secrets
import socket
import sqlite3
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from configs.files import REPOSITORY
from configs.languages import LANGUAGES, language
from configs.progress import log
from data_collection.checking.agreement import CRITERIA, VALUES
from data_collection.checking.marks import COMMENT, MAX_COMMENT, Asked, MarkStore
from data_collection.questions.question import Question
from data_collection.questions.question_figures import NOTICE

MAX_BODY = 1 << 16  # bytes of a form
MAX_NAME = 60  # characters
IDLE_SECONDS = 30  # a connection that says nothing is closed
KEY_FILE = "access_key"
_RIGHT_TO_LEFT = {"ar"}
# Control characters, and those that turn the direction of what follows them; marks of direction are text.
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\ud800-\udfff]")
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # with none at all a form would come with the origin "null"
    "Cache-Control": "no-store",
}
_FILES = {"/page.css": "text/css", "/verify_page.css": "text/css", "/verify_page.js": "text/javascript"}


class VerificationServer(ThreadingHTTPServer):
    """Serves the questions to checkers until it is shut down.

    Args:
        address: host and port; port 0 takes a free one.
        store: where marks go.
        questions: what is checked, in the order in which it is given out, and whether each is shared.
        key: what opens the page; `access_key` keeps one in a folder.
        hosts: further host names under which browsers may reach it.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(
        self,
        address: tuple[str, int],
        store: MarkStore,
        questions: Sequence[tuple[Question, bool]],
        key: str,
        hosts: Sequence[str] = (),
    ):
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, _Handler)
        self.store, self.key = store, key
        self.questions = [question for question, _ in questions]
        self.asked = [Asked(question.id, question.lang, shared) for question, shared in questions]
        self.languages = [code for code in LANGUAGES if any(question.lang == code for question in self.questions)]
        self.hosts = {"127.0.0.1", "localhost", "::1", address[0].lower(), *(host.lower() for host in hosts)}
        self._link_host = hosts[0] if hosts else address[0]
        self.cookie = f"verify_{self.server_port}"  # a browser sends cookies to every port of a host

    @property
    def link(self) -> str:
        """What the checkers open."""
        host = f"[{self._link_host}]" if ":" in self._link_host else self._link_host
        return f"http://{host}:{self.server_port}/?{urlencode({'key': self.key})}"

    def sign(self, text: str) -> str:
        """A signature that only who has the key can make."""
        return hmac.digest(self.key.encode(), text.encode(), "sha256").hex()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that goes away in the middle of an answer is no error; anything else is a bug, and the next
        request is served all the same."""
        if not isinstance(sys.exception(), (ConnectionError, TimeoutError)):
            log.exception("a page could not be made")


def access_key(folder: Path) -> str:
    """The key of a folder's page, made once: after a restart links and cookies are good as before."""
    path = folder / KEY_FILE
    if not path.exists():
        handle, temporary = tempfile.mkstemp(dir=folder)  # readable for nobody else from the beginning
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_urlsafe(24))
        os.replace(temporary, path)
    return path.read_text(encoding="utf-8").strip()


@cache
def _template() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        finalize=lambda value: value if hasattr(value, "__html__") else _UNSEEN.sub("�", str(value)),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("verify_page.html")


class _Handler(BaseHTTPRequestHandler):
    server: VerificationServer
    timeout = IDLE_SECONDS
    server_version, sys_version = "verify", ""

    def log_message(self, *_: Any) -> None:
        """Addresses hold the key; nothing is logged."""

    # What comes in

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def _answer(self, method: Any) -> None:
        if not self._host_is_known():
            return self._refuse(421, "This page is not known under this address.")
        try:
            url = urlsplit(self.path)
        except ValueError:
            return self._refuse(400, "There is no such page.")
        try:
            method(url)
        except sqlite3.Error as error:
            log.warning(f"a mark could not be saved or read: {error}")
            self._refuse(503, "The marks cannot be saved or read now; what you marked is kept in this page.")

    def _host_is_known(self) -> bool:
        host = self.headers.get("Host", "")
        origin = self.headers.get("Origin")
        try:
            if origin is not None and urlsplit(origin).netloc != host:
                return False
            return (urlsplit(f"//{host}").hostname or "") in self.server.hosts
        except ValueError:
            return False

    def _cookies(self) -> dict[str, str]:
        # Not SimpleCookie, which gives all up at one odd cookie, and those of other ports of this host come here too.
        pairs = (part.strip().partition("=") for part in self.headers.get("Cookie", "").split(";"))
        return {name: value for name, _, value in pairs}

    def _signed_in(self) -> tuple[bool, str | None]:
        """(the link was opened, the checker's name)."""
        value = self._cookies().get(self.server.cookie, "")
        signature, _, name = value.partition(".")
        try:
            name = bytes.fromhex(name).decode()
        except ValueError:
            return False, None
        good = hmac.compare_digest(signature.encode(), self.server.sign(f"checker:{name}").encode())
        known = good and name and self.server.store.languages(name) is not None
        return good, name if known else None

    def _form(self) -> dict[str, list[str]] | None:
        """The fields of a form with a right token; None when it was refused."""
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > MAX_BODY:
            self._refuse(413, "The form is too large.")
            return None
        form = parse_qs(self.rfile.read(int(length)).decode("utf-8", "replace"), keep_blank_values=True)
        opened, name = self._signed_in()
        token = form.get("token", [""])[0]
        if not opened or not hmac.compare_digest(token.encode(), self._token(name).encode()):
            self._refuse(403, "This page is too old or was not made by this program. Open it again.")
            return None
        return form

    def _token(self, name: str | None) -> str:
        return self.server.sign(f"form:{name or ''}")

    # Pages

    def _get(self, url: Any) -> None:
        if url.path in _FILES:
            folder = REPOSITORY / "configs" if url.path == "/page.css" else Path(__file__).parent
            return self._send(200, (folder / url.path[1:]).read_bytes(), _FILES[url.path])
        key = parse_qs(url.query).get("key", [""])[0]
        opened, name = self._signed_in()
        if key and hmac.compare_digest(key.encode(), self.server.key.encode()):
            return self._redirect("/", cookie=self._cookie_of(name or ""))
        if not opened:
            return self._refuse(403, "Open the link that the program has printed: it holds a key.")
        if name is None or url.path == "/name":
            return self._show("name", name=name, known="", chosen=self._languages(name))
        if url.path in ("/", "/next"):
            return self._next(name)
        if url.path == "/mine":
            return self._mine(name)
        place = self._place(url.path)
        if place is None:
            return self._refuse(404, "There is no such page.")
        return self._question(name, place)

    def _post(self, url: Any) -> None:
        form = self._form()
        if form is None:
            return
        _, name = self._signed_in()
        if url.path == "/name":
            return self._join(form)
        place = self._place(url.path)
        if name is None or place is None:
            return self._refuse(404, "There is no such page.")
        fields = {field: form[field][0] for field in (*CRITERIA, COMMENT) if field in form}
        if COMMENT in fields:
            fields[COMMENT] = fields[COMMENT].replace("\r\n", "\n")
        try:
            self.server.store.mark(self.server.asked[place].id, name, fields)
        except ValueError:
            return self._refuse(400, "There is no such mark.")
        if form.get("then") == ["stay"]:
            return self._send(204, b"")
        return self._redirect("/next")

    def _place(self, path: str) -> int | None:
        found = re.fullmatch(r"/question/([1-9][0-9]{0,8})", path)
        place = int(found[1]) - 1 if found else -1
        return place if 0 <= place < len(self.server.asked) else None

    def _languages(self, name: str | None) -> list[str]:
        """Codes that a checker has chosen; of a new one the only language, where there is but one."""
        known = self.server.store.languages(name) if name else None
        return known or (self.server.languages if len(self.server.languages) == 1 else [])

    def _of(self, name: str) -> list[int]:
        """Places of the questions in the languages of a checker."""
        languages = self._languages(name)
        return [place for place, asked in enumerate(self.server.asked) if asked.lang in languages]

    def _next(self, name: str) -> None:
        places = self._of(name)
        found = self.server.store.next_of(name, [self.server.asked[place] for place in places])
        if found is None:
            return self._show("done", name=name, num_done=sum(self.server.store.marked(name).values()))
        return self._redirect(f"/question/{places[found] + 1}")

    def _join(self, form: dict[str, list[str]]) -> None:
        name = " ".join(_UNSEEN.sub("", form.get("name", [""])[0]).split())[:MAX_NAME]
        languages = [code for code in form.get("language", []) if code in self.server.languages]
        if not name or not languages:
            return self._show("name", name=name or None, known="", chosen=languages)
        _, signed_in = self._signed_in()
        if name != signed_in and self.server.store.languages(name) is not None and form.get("go_on") != [name]:
            return self._show("name", name=name, known=name, chosen=languages)
        self.server.store.join(name, languages)
        return self._redirect("/next", cookie=self._cookie_of(name))

    def _question(self, name: str, place: int) -> None:
        question, asked = self.server.questions[place], self.server.asked[place]
        store = self.server.store
        if asked.lang not in self._languages(name) or not store.claim(name, asked):
            return self._redirect("/next")
        own = [self.server.asked[i] for i in self._of(name)]
        self._show(
            "question",
            name=name,
            place=place,
            storage=self.server.sign(f"storage:{name}")[:16],
            question=question,
            language=language(question.lang).name,
            direction="rtl" if question.lang in _RIGHT_TO_LEFT else "ltr",
            marks=store.fields(asked.id, name),
            criteria=CRITERIA,
            values=VALUES,
            max_comment=MAX_COMMENT,
            num_done=sum(store.marked(name).values()),
            num_left=store.num_left(name, own),
        )

    def _mine(self, name: str) -> None:
        places = {asked.id: place for place, asked in enumerate(self.server.asked)}
        marked = self.server.store.marked(name)
        rows = [
            (places[question], self.server.questions[places[question]], complete)
            for question, complete in reversed(marked.items())
            if question in places
        ]
        self._show("mine", name=name, rows=rows)

    # What goes out

    def _show(self, page: str, status: int = 200, **values: Any) -> None:
        languages = {code: language(code).name for code in self.server.languages}
        _, signed_in = self._signed_in()
        values = {"page": page, "notice": NOTICE, "languages": languages, "token": self._token(signed_in), **values}
        self._send(status, _template().render(values).encode("utf-8", "replace"), "text/html")

    def _refuse(self, status: int, message: str) -> None:
        self.close_connection = True
        self._send(status, _template().render(page="refused", notice=NOTICE, message=message).encode(), "text/html")

    def _cookie_of(self, name: str) -> str:
        value = f"{self.server.sign(f'checker:{name}')}.{name.encode().hex()}"
        # Strict would lose it when the link is opened from a mail or a chat; forms have their token beside it.
        return f"{self.server.cookie}={value}; HttpOnly; SameSite=Lax; Path=/; Max-Age=31536000"

    def _redirect(self, path: str, cookie: str = "") -> None:
        self._send(303, b"", headers={"Location": path, **({"Set-Cookie": cookie} if cookie else {})})

    def _send(self, status: int, body: bytes, kind: str = "", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for header, value in {**_HEADERS, **(headers or {})}.items():
            self.send_header(header, value)
        if kind:
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
