"""Maps services and methods to handlers."""

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from ttrpc.call import Call
from ttrpc.codes import Code
from ttrpc.errors import StatusError
from ttrpc.message import Message
from ttrpc.streams import ServerStream

Req = TypeVar("Req", bound=Message)
Resp = TypeVar("Resp", bound=Message)


@dataclass(frozen=True, slots=True)
class Method:
    request_type: type[Message]
    handler: Callable[..., Any]  # its types are those of the method that registered it
    is_coroutine: bool
    streams: bool
    client_streams: bool = False
    server_streams: bool = False


class Registry:
    """Finds handlers by a service's full name and a method's bare name; both are case-sensitive."""

    def __init__(self) -> None:
        self._services: dict[str, dict[str, Method]] = {}

    def unary(
        self,
        service: str,
        method: str,
        request_type: type[Req],
        handler: Callable[[Req, Call], Awaitable[Resp] | Resp],
    ) -> None:
        """Register a method with one request and one response.

        A plain function is called in the loop's turn that read its request: it must not block.  A
        coroutine function runs in a task, which is cancelled at the call's deadline and when the
        client disconnects.
        """
        is_coroutine = inspect.iscoroutinefunction(handler)
        self._add(service, method, Method(request_type, handler, is_coroutine, streams=False))

    def client_stream(
        self,
        service: str,
        method: str,
        request_type: type[Req],
        handler: Callable[[ServerStream[Req, Resp], Call], Awaitable[Resp]],
    ) -> None:
        """Register a method with many requests and one response."""
        self._add_stream(service, method, request_type, handler, client=True, server=False)

    def server_stream(
        self,
        service: str,
        method: str,
        request_type: type[Req],
        handler: Callable[[ServerStream[Req, Resp], Call], Awaitable[Resp | None]],
    ) -> None:
        """Register a method with one request and many responses.

        The stream's only request is received first.  The handler's return value, if not None, is
        the last response.
        """
        self._add_stream(service, method, request_type, handler, client=False, server=True)

    def bidi(
        self,
        service: str,
        method: str,
        request_type: type[Req],
        handler: Callable[[ServerStream[Req, Resp], Call], Awaitable[Resp | None]],
    ) -> None:
        """Register a method with many requests and many responses, in any order."""
        self._add_stream(service, method, request_type, handler, client=True, server=True)

    def find(self, service: str, method: str) -> Method:
        """Return the method.

        Raises:
            StatusError: UNIMPLEMENTED; the Go implementation's text.
        """
        try:
            methods = self._services[service]
        except KeyError:
            raise StatusError(Code.UNIMPLEMENTED, f"service {service}") from None
        try:
            return methods[method]
        except KeyError:
            raise StatusError(Code.UNIMPLEMENTED, f"method {method}") from None

    def _add_stream(
        self,
        service: str,
        method: str,
        request_type: type[Message],
        handler: Callable[..., Any],
        *,
        client: bool,
        server: bool,
    ) -> None:
        entry = Method(
            request_type,
            handler,
            is_coroutine=True,
            streams=True,
            client_streams=client,
            server_streams=server,
        )
        self._add(service, method, entry)

    def _add(self, service: str, method: str, entry: Method) -> None:
        methods = self._services.setdefault(service, {})
        if method in methods:
            raise ValueError(f"{service}/{method} is registered already")
        methods[method] = entry
