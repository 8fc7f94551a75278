"""The chat in a browser: a server, a process per window, one engine process behind them all."""
