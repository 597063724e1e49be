"""The gateway's page: one file, without anything from elsewhere."""

import secrets

from fastapi.responses import HTMLResponse
from jinja2 import Environment, PackageLoader, StrictUndefined

from registry.records import LabelSet

_PAGES = Environment(loader=PackageLoader("deployment.gateway"), autoescape=True, undefined=StrictUndefined)
_POLICY = (
    "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; img-src data:; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)


def rendered_page(model: str, labels: LabelSet | None, *, needs_key: bool) -> HTMLResponse:
    """The page, which runs and styles itself alone by its Content-Security-Policy."""
    nonce = secrets.token_urlsafe(16)
    text = _PAGES.get_template("page.html.j2").render(
        model=model,
        nonce=nonce,
        intents=list(labels.intents) if labels else [],
        types=list(labels.entities) if labels else [],
        needs_key=needs_key,
    )
    return HTMLResponse(text, headers={"Content-Security-Policy": _POLICY.format(nonce=nonce)})
