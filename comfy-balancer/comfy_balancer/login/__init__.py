"""Who may come in, the same for every door: the operator's log-in, API keys, tickets, and the port without a log-in.

`api_keys`: made and revoked by `comfyctl keys`; `tickets`: for browsers, which cannot put a header on a websocket;
`check`: what a request shows → the caller.
"""
