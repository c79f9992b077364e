"""One remote call on the server: admission, a time limit, and errors as a code and one sentence."""

import asyncio
import hmac
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from grpc import aio

from .observation_spec import ObservationError
from .settings import ServingError
from .wire import TOKEN_KEY, MessageError

# gRPC carries an error's text in a header, and headers are limited to a few KiB.
_MAX_ERROR_CHARACTERS = 1000

logger = logging.getLogger(__name__)

type Answer = Callable[[AsyncIterator[bytes], aio.ServicerContext], Awaitable[bytes]]


class RequestError(Exception):
    """A request that is refused.

    Args:
        code: What kind of error it is.
        text: One sentence for the client.
    """

    def __init__(self, code: grpc.StatusCode, text: str):
        super().__init__(text)
        self.code = code


def metadata_value(context: aio.ServicerContext, key: str) -> str | None:
    """Return one entry of a request's metadata, if it is there."""
    for name, value in context.invocation_metadata() or ():
        if name == key and isinstance(value, str):
            return value
    return None


async def only_message(requests: AsyncIterator[bytes]) -> bytes:
    """Return the one message of a request; none is an empty one."""
    async for message in requests:
        return message
    return b""


def handler(answer: Answer, *, timeout_s: float, token: str | None) -> Any:
    """Turn a coroutine into what gRPC registers.

    The requests are read as a stream even where there is only one, because a unary handler is called when the message
    is complete: here a client without the token is turned away before its message is read, and a slow upload counts
    toward the time limit.

    Args:
        answer: Reads the requests and returns the response.
        timeout_s: Time limit, seconds.
        token: Secret that the client must present; None for no secret.
    """

    async def handle(requests: AsyncIterator[bytes], context: aio.ServicerContext) -> bytes:
        try:
            async with asyncio.timeout(timeout_s):
                _admit(context, token)
                return await answer(requests, context)
        except RequestError as error:
            code, text = error.code, str(error)
        except (MessageError, ObservationError) as error:
            code, text = grpc.StatusCode.INVALID_ARGUMENT, str(error)
        except ServingError as error:
            code, text = grpc.StatusCode.INTERNAL, str(error)
        except TimeoutError:
            code = grpc.StatusCode.DEADLINE_EXCEEDED
            text = f"The request took longer than {timeout_s:g} s (--request_timeout_s)."
        except Exception:  # one request must not end the server, nor show its insides to the client
            logger.exception("A request failed.")
            code, text = grpc.StatusCode.INTERNAL, "The server failed on this request; its log says why."
        await context.abort(code, " ".join(text.split())[:_MAX_ERROR_CHARACTERS])
        raise AssertionError("abort always raises")

    return grpc.stream_unary_rpc_method_handler(handle)


def _admit(context: aio.ServicerContext, token: str | None) -> None:
    if token is None:
        return
    presented = metadata_value(context, TOKEN_KEY) or ""
    # A comparison that stops at the first difference would tell how much of a guess is right.
    if not hmac.compare_digest(presented.encode(), f"Bearer {token}".encode()):
        raise RequestError(
            grpc.StatusCode.UNAUTHENTICATED,
            "The request must carry the token that the server has (--token).",
        )
