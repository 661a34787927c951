"""A lean HTTP/1.1 client: one request and one answer over kept connections, and nothing that nobody asked for.

No redirects, cookies, decompression or pipelining, and no proxy but the one that a setting names. What is not certain
costs the connection, never an answer.
"""
