"""The shell commands: parse, call one engine function, print."""
