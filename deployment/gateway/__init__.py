"""The gateway: a model over HTTP, for programs that speak JSON or OpenAI's protocol, and for people by a page."""
