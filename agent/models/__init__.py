"""Language models and embedders: a pinned catalogue, the hub, local files, LangChain providers."""
