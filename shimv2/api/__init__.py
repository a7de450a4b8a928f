"""The Task API: each request message becomes one call of `task`, each result one response message.

Requests are validated here, errors get their status codes, metrics and events become messages.
Packages below this one never handle a protobuf message.
"""
