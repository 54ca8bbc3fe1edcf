"""The routes. The models live in one worker thread, so that the event loop never waits for MLX."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fastapi import FastAPI, HTTPException
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from bench.proposal.models import Models


class Generation(BaseModel):
    """The body of `/generate` and `/stream`."""

    prompt: str
    max_tokens: int = 256
    model: str = ""


class Load(BaseModel):
    """The body of `/load`."""

    model: str


class Reply(BaseModel):
    """What `/generate` gives."""

    text: str
    tokens: int


def make_app(model: str) -> FastAPI:
    """The application.

    Args:
        model: the folder of requests that name none.
    """
    app = FastAPI(title="MLX server")
    models = Models(model)
    mlx = ThreadPoolExecutor(max_workers=1, thread_name_prefix="mlx")

    async def work(function: Any, *arguments: Any) -> Any:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(mlx, function, *arguments)
        except FileNotFoundError as error:
            raise HTTPException(404, f"no model {error}") from error

    def complete(request: Generation) -> Reply:
        pieces = [
            response.text
            for response in models.stream(request.model, request.prompt, request.max_tokens)
        ]
        return Reply(text="".join(pieces), tokens=len(pieces))

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {"status": "ok", "models": models.names}

    @app.post("/load")
    async def load(request: Load) -> dict[str, str]:
        await work(models.get, request.model)
        return {"loaded": request.model}

    @app.post("/generate")
    async def generate(request: Generation) -> Reply:
        reply: Reply = await work(complete, request)
        return reply

    @app.post("/stream")
    async def stream(request: Generation) -> StreamingResponse:
        await work(models.get, request.model)  # while a status can still be sent
        responses = models.stream(request.model, request.prompt, request.max_tokens)

        async def events() -> AsyncIterator[str]:
            count = 0
            while (response := await work(next, responses, None)) is not None:
                count += 1
                yield _event({"text": response.text})
            yield _event({"done": True, "tokens": count})

        return StreamingResponse(events(), media_type="text/event-stream")

    return app


def _event(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data)}\n\n"
