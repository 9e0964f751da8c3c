"""The command line and the terminal chat: knows the agent, nothing below it but errors."""
