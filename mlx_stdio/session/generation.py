"""`generate`, `chat` and `infill`: from a call to a job in the engine.

The short way is taken on the reader's thread: a resident model and a short prompt need a few
hundred microseconds. Anything longer (a card to read, a vocabulary to load, a long prompt to
tokenize) goes to a worker thread, so that cancels and pings behind it are read at once.
"""

from __future__ import annotations

from collections.abc import Callable

from mlx_stdio.engine.engine import Engine
from mlx_stdio.engine.job import GenerateJob
from mlx_stdio.errors import EngineError
from mlx_stdio.marks import mark
from mlx_stdio.models.card import Card, read_card
from mlx_stdio.models.catalog import Catalog
from mlx_stdio.protocol.generation import Generation
from mlx_stdio.protocol.inference import ChatParams, GenerateParams, InfillParams
from mlx_stdio.session.prepare import RANKS, draft_of, max_tokens_of, prompt_of, sampling_of
from mlx_stdio.session.request import GenerationRequest
from mlx_stdio.session.results import BUILDERS
from mlx_stdio.session.workers import Workers
from mlx_stdio.text.model import TextStore

_SHORT_PROMPT = 4096
_FEW_MESSAGES = 64


class Generations:
    """Starts generations."""

    def __init__(
        self,
        engine: Engine,
        catalog: Catalog,
        texts: TextStore,
        workers: Workers,
        default_model: str,
        flush: Callable[[], None],
    ) -> None:
        """Args:
        workers: for slow preparations.
        flush: called after a preparation, which may have answered its request.
        """
        self._engine = engine
        self._catalog = catalog
        self._texts = texts
        self._workers = workers
        self._default_model = default_model
        self._flush = flush

    def start(self, request: GenerationRequest, params: Generation) -> None:
        """Give a request to the engine, or fail it.

        Raises:
            EngineError: the model is not known.
        """
        model_id, folder = self._catalog.resolve(params.model or self._default_model)
        request.model = model_id
        request.build = BUILDERS[type(params)]
        request.stream = params.stream is not False
        request.wants_logprobs = params.logprobs is not None
        job = GenerateJob(request, model_id, rank=RANKS[params.priority], arrived=request.arrived)
        job.kv_bits, job.max_kv_size = params.kv_bits, params.max_kv_size
        job.cache_prompt = params.cache_prompt is not False
        draft_id = draft_folder = None
        if params.draft_model is not None:
            draft_id, draft_folder = self._catalog.resolve(params.draft_model)
        job.draft = draft_of(params, draft_id)
        resident = self._engine.cache.get(model_id)
        text = self._texts.ready(model_id)
        if resident is not None and text is not None and draft_id is None and _is_short(params):
            self._fill(job, params, resident.card)
            job.prompt = prompt_of(params, text)
            self._engine.submit(job)
            return

        def prepare() -> None:
            if request.closed:  # cancelled while it waited for a worker
                return
            try:
                card = resident.card if resident is not None else read_card(model_id, folder)
                if job.draft is not None and draft_id is not None and draft_folder is not None:
                    job.draft.card = read_card(draft_id, draft_folder)
                self._fill(job, params, card)
                mark("prepare: the card is read")
                # The weights are read from now on, while the prompt is tokenized here.
                self._engine.wake()
                text = self._texts.load(card)
                mark("prepare: the vocabulary is loaded")
                if not request.closed:
                    job.prompt = prompt_of(params, text)
                    mark("prepare: the prompt is tokenized")
            except EngineError as error:
                request.fail(error)
            except Exception as error:  # noqa: BLE001 - the one reply must come
                request.fail(EngineError("internalError", f"{type(error).__name__}: {error}"))
            # The job is ready, or its sink is closed; the engine looks at both. The answer to a
            # failure does not wait for the end of its present step.
            self._flush()
            self._engine.wake()

        self._engine.submit(job)
        self._workers.submit(prepare)

    @staticmethod
    def _fill(job: GenerateJob, params: Generation, card: Card) -> None:
        """Check what depends on the card; the card itself comes last, as it makes the job ready."""
        job.sampling = sampling_of(params, card)
        job.max_tokens = max_tokens_of(params, card)
        assert isinstance(job.sink, GenerationRequest)
        job.sink.seed = job.sampling.seed
        job.card = card


def _is_short(params: Generation) -> bool:
    if isinstance(params, GenerateParams):
        return len(params.prompt) <= _SHORT_PROMPT
    if isinstance(params, InfillParams):
        return len(params.prefix) + len(params.suffix) <= _SHORT_PROMPT
    assert isinstance(params, ChatParams)
    if len(params.messages) > _FEW_MESSAGES:
        return False
    if any(isinstance(m.content, list) or m.tool_calls for m in params.messages):
        return False
    return sum(len(m.content or "") + len(m.reasoning or "") for m in params.messages) <= (
        _SHORT_PROMPT
    )
