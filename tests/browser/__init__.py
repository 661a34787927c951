"""The console in a browser, on the whole stack: what an operator sees and does."""
