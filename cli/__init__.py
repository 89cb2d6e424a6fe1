"""The command line: one module a command. Reads arguments, calls a room, prints."""
