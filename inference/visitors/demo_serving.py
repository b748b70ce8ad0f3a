"""The demo page on a port: only the routes that the page itself uses, and nothing of any other host."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path
from typing import Any

import gradio as gr
import uvicorn
from fastapi import FastAPI

from configs import records
from configs.errors import EnvironmentFailure, MissingInputError
from configs.progress import log
from inference.visitors.demo_page import Limits, Page, build
from inference.visitors.streaming import Author, load_author
from inference.visitors.waiting_line import Line

LOOPBACK = ("127.0.0.1", "::1")
SHUTDOWN_SECONDS = 3  # for open pages, which hold a connection each
MAX_BODY_BYTES = 1_000_000  # of a request: a question, many times over
# The rest of gradio's routes take uploads, fetch addresses, list functions or edit the page: a visitor needs none.
ROUTES = ("/config", "/theme.css", "/manifest.json", "/favicon.ico")
ROUTE_FOLDERS = ("/assets/", "/static/", "/gradio_api/heartbeat/")
API_ROUTES = ("/gradio_api/queue/join", "/gradio_api/queue/data")
# gradio's HTML component compiles its templates in the browser, which takes 'unsafe-eval'.
CONTENT_SECURITY_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; font-src 'self' data:; connect-src 'self'; object-src 'none'; base-uri 'self'; "
    "form-action 'none'; frame-ancestors 'self'"
)


class Gate:
    """ASGI middleware: other routes are 404, large bodies 413, and every answer says that the page is on its own.

    Asked from this machine by another host's name it is 421: a page that has its name point here would be of the same
    origin, and could read what is answered.
    """

    def __init__(self, app: Any):
        self.app = app

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http" or not _is_open(scope["path"]):
            await _refuse(send, 404)
            return
        headers = dict(scope["headers"])
        asked = headers.get(b"host", b"").decode("latin-1").rsplit(":", 1)[0].strip("[]").lower()
        if (scope.get("client") or ("",))[0] in LOOPBACK and asked not in (*LOOPBACK, "localhost"):
            await _refuse(send, 421)
            return
        length = headers.get(b"content-length", b"0")
        if scope["method"] == "POST" and not (length.isdigit() and 0 < int(length) <= MAX_BODY_BYTES):
            await _refuse(send, 413)
            return

        async def send_with_policy(event: dict[str, Any]) -> None:
            if event["type"] == "http.response.start":
                event["headers"] = [
                    *event.get("headers", ()),
                    (b"content-security-policy", CONTENT_SECURITY_POLICY.encode()),
                    (b"referrer-policy", b"no-referrer"),
                    (b"x-content-type-options", b"nosniff"),
                ]
            await send(event)

        await self.app(scope, receive, send_with_policy)


def _is_open(path: str) -> bool:
    return path == "/" or path in (*ROUTES, *API_ROUTES) or path.startswith(ROUTE_FOLDERS)


async def _refuse(send: Any, status: int) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


def make_app(page: Page) -> FastAPI:
    """The page behind its gate, as an ASGI application."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app = gr.mount_gradio_app(
        app,
        build(page),
        path="/",
        footer_links=[],
        run_history=False,  # it would keep questions in the browser
        show_error=False,
        theme=_theme(),
        css_paths=Path(__file__).with_name("demo_page.css"),
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
    )
    app.add_middleware(Gate)
    return app


def _theme() -> gr.Theme:
    """Fonts of the visitor's own machine, and the colours of the report pages."""
    ours = {
        "body_background_fill": "#fff",
        "body_background_fill_dark": "#14181c",
        "body_text_color": "#1d2329",
        "body_text_color_dark": "#d5dbe1",
        "block_background_fill_dark": "#14181c",
        "input_background_fill": "#fff",
        "input_background_fill_dark": "#14181c",
        "input_border_width": "1px",
        "input_border_color": "#c3cad0",
        "input_border_color_dark": "#3d4750",
        "input_border_color_focus": "#0b6e75",
        "input_border_color_focus_dark": "#5cc3ca",
        "input_placeholder_color": "#667380",
        "input_placeholder_color_dark": "#8d99a5",
        "block_label_text_color": "#4a5560",
        "block_title_text_color": "#4a5560",
        "block_title_text_color_dark": "#b4bec8",
        "block_border_width": "0px",
        "block_padding": "0px",
        "block_shadow": "none",
        "button_primary_background_fill": "#0b6e75",
        "button_primary_background_fill_dark": "#0b6e75",
        "button_primary_background_fill_hover": "#095b61",
        "button_primary_background_fill_hover_dark": "#095b61",
        "button_primary_text_color": "#fff",
        "button_primary_text_color_dark": "#fff",
        "button_secondary_background_fill": "#e8ecef",
        "button_secondary_background_fill_dark": "#2b333a",
        "color_accent": "#0b6e75",
    }
    hues = {"primary_hue": "teal", "secondary_hue": "teal", "neutral_hue": "slate"}
    return gr.themes.Base(**hues, font=["system-ui", "Noto Sans", "sans-serif"], font_mono=["monospace"]).set(**ours)


def listen(host: str, port: int) -> socket.socket:
    """A socket bound to the address, before any model is loaded.

    Raises:
        EnvironmentFailure: the port is taken, or the address is none of this machine's.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        bound = socket.socket(family, socket.SOCK_STREAM)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
    except OSError as error:
        is_taken = error.errno == errno.EADDRINUSE
        raise EnvironmentFailure(
            "the port is taken" if is_taken else "the page cannot listen there",
            where=f"{host}:{port}",
            found=error.strerror or error,
            wanted="a free port of this machine",
            todo="--port ANOTHER, or stop what listens there" if is_taken else "another --host or --port",
        ) from None
    return bound


def authors(settings: Any) -> list[Author]:
    """The one or two models that are asked.

    Raises:
        MissingInputError: none is given and none was fine-tuned here.
    """
    newest = None if settings.model_name_or_path else records.newest_finished("finetune")
    if not settings.model_name_or_path and newest is None:
        raise MissingInputError(
            "there is no fine-tuned model to show",
            where=records.RUNS,
            found="no finished run of finetune/train.py",
            wanted="a model, an adapter or a server's address",
            todo="python finetune/train.py --lora, or --model_name_or_path MODEL for any other model",
        )
    models = [settings.model_name_or_path or str(newest)] + ([settings.compare] if settings.compare else [])
    found = []
    for model in models:
        log.info(f"loading {model}")
        names = ("max_new_tokens", "repetition_penalty", "prompt_style", "extra_body")
        found.append(load_author(model, **{name: getattr(settings, name) for name in names}))
    return found


def serve(settings: Any) -> None:
    """Load the models and show the page until a signal ends it."""
    # The browser asks nobody else (the policy above); here nobody else is asked either.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    bound = listen(settings.host, settings.port)
    limits = Limits(settings.max_question_characters, settings.max_new_tokens, settings.max_seconds)
    line = Line(settings.max_answers_at_once, settings.max_waiting, settings.max_questions_per_minute)
    app = make_app(Page(authors(settings), line, limits, settings.log_file))
    bound.listen()  # whoever reads the address may come at once
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    print(f"http://{host}:{bound.getsockname()[1]}", flush=True)
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=SHUTDOWN_SECONDS, ws="none")
    uvicorn.Server(config).run(sockets=[bound])
