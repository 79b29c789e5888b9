"""Models from other machines and to them: the registry protocol, and what carries it.

network.py     sockets: proxies, certificates, and no way from the internet into the LAN
transport.py   requests with their redirects
auth.py        what a registry's challenge is answered with
client.py      one repository: its manifest and its blobs
partial.py     a blob that is half there, on disk
download.py    a blob in parts, one download however many ask
upload.py      a blob the other way
pull.py push.py  whole models
hub*.py        the Hugging Face Hub: its API, which files make a model, fetching them
"""
