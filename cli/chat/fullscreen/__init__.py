"""The chat on the full screen, by Textual: the conversation, the memory panel, the sessions."""
