"""Thousands of requests that no client should send, at a server of its own: `scripts/fuzz/run --help`.

Half of them are what schemathesis makes of the server's OpenAPI document, right and wrong; the others are written byte
by byte: methods, paths, headers, broken and hostile JSON, and bodies that are nearly right. With --share a third of all
is what one may ask of a registry. Every answer has to be there in time, whole, in the form that its endpoint promises,
without a word about the machine or the code, and a 5xx has to say something that the server says on purpose.
"""
