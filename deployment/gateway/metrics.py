"""What a gateway counts, as Prometheus reads it; named by OpenTelemetry's conventions where they have a name."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from deployment.answers.answer import Answer

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_TOKENS = (4, 8, 16, 32, 64, 128, 256, 512)
_SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
_MOST_INTENTS = 100  # a free answer can hold any; the rest is counted together
_OTHER = "other"
_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"}
_OTHER_METHOD = "_OTHER"  # as OpenTelemetry has it; a client can send any


class Metrics:
    """The counters of one gateway."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self._intents: set[str] = set()
        self._requests = Histogram(
            "http_server_request_duration_seconds", "Seconds of requests, by route and status.",
            ("http_request_method", "http_route", "http_response_status_code"), buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self.active = Gauge("http_server_active_requests", "Requests under way.", registry=registry)
        self._answers = Histogram(
            "gen_ai_server_request_duration_seconds", "Seconds that the model took for an answer.",
            ("gen_ai_operation_name", "gen_ai_request_model"), buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self._tokens = Histogram(
            "gen_ai_client_token_usage", "Tokens of an answer.",
            ("gen_ai_operation_name", "gen_ai_request_model", "gen_ai_token_type"), buckets=_TOKENS, registry=registry,
        )  # fmt: skip
        self._by_intent = Counter("gemmill_answers", "Answers, by intent.", ("intent",), registry=registry)
        self._out_of_scope = Counter("gemmill_out_of_scope", "Answers that are out of scope.", registry=registry)
        self._repairs = Counter(
            "gemmill_repairs", "Answers that were no JSON until they were mended.", registry=registry
        )
        self._confidence = Histogram(
            "gemmill_confidence", "How sure answers are that they are right.", buckets=_SHARES, registry=registry
        )
        self._low = Counter("gemmill_low_confidence", "Answers for which a person is to be asked.", registry=registry)
        self._failures = Counter("gemmill_failures", "Commands that the model has no answer to.", registry=registry)
        self._refused = Counter(
            "gemmill_refused", "Requests that were refused, by reason.", ("reason",), registry=registry
        )
        self._feedback = Counter("gemmill_feedback", "Answers that people corrected.", registry=registry)

    def watch(self, *, queue: Callable[[], float], openings: Callable[[], float]) -> None:
        """Show what others count too."""
        Gauge("gemmill_line", "Requests at the model or waiting for it.", registry=self._registry).set_function(queue)
        Gauge(
            "gemmill_model_openings", "How often the model was opened: first, for a new version, after it ended.",
            registry=self._registry,
        ).set_function(openings)  # fmt: skip

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        method = method if method in _METHODS else _OTHER_METHOD
        self._requests.labels(method, route, str(status)).observe(seconds)

    def answered(self, model: str, answer: Answer) -> None:
        """Count a whole answer of ``model``."""
        self._answers.labels("chat", model).observe(answer.seconds)
        if answer.tokens:
            self._tokens.labels("chat", model, "output").observe(answer.tokens)
        if answer.intent is None:
            self._failures.inc()
            return
        self._by_intent.labels(self._known(answer.intent)).inc()
        self._out_of_scope.inc(answer.out_of_scope)
        self._repairs.inc(answer.repaired)
        if answer.confidence is not None:
            self._confidence.observe(answer.confidence)
            self._low.inc(answer.ask_person)

    def refused(self, reason: str) -> None:
        self._refused.labels(reason).inc()

    def corrected(self) -> None:
        self._feedback.inc()

    def text(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self._registry)

    def _known(self, intent: str) -> str:
        if len(self._intents) < _MOST_INTENTS:
            self._intents.add(intent)
        return intent if intent in self._intents else _OTHER
