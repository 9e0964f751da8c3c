"""Language models and embedders: the pinned catalogue, the hub, local files, LangChain providers."""
