"""The outlet of a sending link: it sends chunks from their files, in the order in which they were ordered.

It works without a task: each call of `_pump` sends until the kernel takes no more, the bucket lets no more go, or its turn is over, and
leaves behind what will call it again. It writes to a descriptor of its own, because asyncio's `sendfile` stops reading meanwhile, and the
receiver's requests come by the same connection.

    waits for                how it goes on
    work                     `push`, `answer`, `message`, the end of a look-up
    room in the kernel       `_on_writable`; the stall watch runs
    tokens of the bucket     `_timer`; taken only once there is room, so that a stalled child holds none

At each frame boundary control messages go first; pushes and answers are first come, first served, chunk by chunk.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from typing import Final

import structlog

from shardcast.http.bucket import TokenBucket
from shardcast_proto.bulk import End, EndOutcome, Get, encode_head, message_frame
from shardcast_proto.errors import RemoteProtocolError, ShardcastError, TransferError

from .limits import LinkLimits
from .meter import Meter
from .orders import LOOKUP_PUSHES_MAX, Answer, Ending, Found, Located, Order, Push, RunSource, find_at_once, look_up

_MORE: Final = getattr(socket, "MSG_MORE", 0)

_log = structlog.get_logger("shardcast.bulk")


class Outlet:
    """Sends for one link, over `sock`, which it owns.

    Args:
        pool: Where files are looked up.
        on_sent: Told of each piece of a chunk that the kernel took, in bytes.
        on_failed: Told once that the link is of no use any more; nothing is sent afterwards.
    """

    def __init__(
        self,
        sock: socket.socket,
        *,
        source: RunSource,
        pool: Executor,
        bucket: TokenBucket,
        limits: LinkLimits,
        on_sent: Callable[[int], None],
        on_failed: Callable[[ShardcastError], None],
    ) -> None:
        self.sock: Final = sock
        self._loop = asyncio.get_running_loop()
        self._source, self._pool, self._bucket, self._limits = source, pool, bucket, limits
        self._on_sent, self._on_failed = on_sent, on_failed
        self.chunks = Meter(self._loop.time())
        self.control_bytes = 0
        #: Orders whose chunks are not looked up yet, those being looked up now, and what is found.
        self._orders: deque[Order] = deque()
        self._looking_up: list[Order] = []
        self._is_lookup_due = False
        self._ready: deque[Located | Ending] = deque()
        #: Answers whose End is not sent yet, by request.
        self._answers: dict[int, Answer] = {}
        self._messages: deque[bytes] = deque()
        self._message_bytes = 0
        #: Bytes of a head or of a control frame that the kernel has not taken.
        self._small = b""
        #: The chunk being sent, what it lacks, and how much of that the bucket has let go.
        self._chunk: Located | None = None
        self._lacking_bytes = 0
        self._granted_bytes = 0
        #: Runs while tokens are waited for.
        self._timer: asyncio.TimerHandle | None = None
        self._is_watching = False
        #: Whether the kernel has said that there is room since the last byte went.
        self._has_room = False
        self._progress_s = self._loop.time()
        self._stall_timer: asyncio.TimerHandle | None = None
        self._is_closed = False

    def push(self, push: Push) -> None:
        """Queue a push; its future says how it ended."""
        if not self._orders and not self._looking_up and not self._is_closed:
            located = find_at_once(self._source, push)
            if located is not None:
                self._ready.append(located)
                self._pump()
                return
        self._orders.append(push)
        if not self._is_lookup_due:  # those that are ordered in this turn share the way to a worker thread
            self._is_lookup_due = True
            self._loop.call_soon(self._look_up)

    def answer(self, get: Get) -> None:
        """Queue an answer, or refuse it.

        Raises:
            RemoteProtocolError: The request is under way already.
        """
        if get.request in self._answers:
            raise RemoteProtocolError(f"request {get.request} is made twice", request=get.request)
        if len(self._answers) >= self._limits.answers_max:
            self._say(encode_head(End(get.request, EndOutcome.BUSY)), is_owed=True)
            return
        answer = self._answers[get.request] = Answer(get)
        self._orders.append(answer)
        self._look_up()

    def cancel(self, request: int) -> None:
        """Drop what has not begun of an answer; one that is over is none."""
        answer = self._answers.get(request)
        if answer is not None:
            answer.is_cancelled = True
            self._pump()

    def message(self, payload: bytes) -> bool:
        """Queue a control message; returns whether there was room."""
        return self._say(message_frame(payload), is_owed=False)

    def close(self, error: ShardcastError) -> None:
        """Stop, end every push with `error`, let go of all files and of the socket."""
        if self._is_closed:
            return
        self._is_closed = True
        self._unwatch()
        for timer in (self._timer, self._stall_timer):
            if timer is not None:
                timer.cancel()
        self._bucket.refund(self._granted_bytes)
        self.sock.close()
        waiting = [self._chunk, *self._ready] if self._chunk is not None else [*self._ready]
        for item in waiting:
            if isinstance(item, Located):
                item.close()
        for order in _orders_of(waiting, self._looking_up, self._orders):
            if isinstance(order, Push):
                order.fail(error)
        self._ready.clear()
        self._orders.clear()
        self._chunk = None

    # --- finding ----------------------------------------------------------------------------------------------------

    def _look_up(self) -> None:
        self._is_lookup_due = False
        if self._looking_up or not self._orders or len(self._ready) >= self._limits.located_max or self._is_closed:
            return
        batch = self._looking_up
        while self._orders and len(batch) < LOOKUP_PUSHES_MAX:
            order = self._orders.popleft()
            if isinstance(order, Push) and order.is_over:
                continue
            batch.append(order)
            if isinstance(order, Answer):
                break
        if batch:
            work = self._loop.run_in_executor(self._pool, self._find, list(batch))
            work.add_done_callback(self._found)

    def _find(self, orders: list[Order]) -> Found:
        return look_up(self._source, orders, bytes_aim=self._limits.answer_bytes_aim)

    def _found(self, work: asyncio.Future[Found]) -> None:
        if work.cancelled():
            self._fail(TransferError("the node stops", reason="short"))
            return
        failure = work.exception()
        if failure is not None:
            _log.error("lookup_failed", error=repr(failure), exc_info=failure)
            self._fail(TransferError(f"a look-up failed: {failure!r}", reason="short"))
            return
        found = work.result()
        if self._is_closed:
            for item in found.ready:
                if isinstance(item, Located):
                    item.close()
            return
        self._looking_up.clear()
        for push, error in found.failed:
            push.fail(error)
        self._ready.extend(found.ready)
        self._look_up()
        self._pump()

    # --- sending ----------------------------------------------------------------------------------------------------

    def _say(self, frame: bytes, *, is_owed: bool) -> bool:
        is_full = self._message_bytes + len(frame) > self._limits.messages_bytes_max
        if self._is_closed or (is_full and not is_owed):
            return False
        if is_full:  # who makes us owe so many answers reads none
            self._fail(TransferError("the peer asks and does not read", reason="stalled"))
            return False
        self._messages.append(frame)
        self._message_bytes += len(frame)
        self._pump()
        return True

    def _pump(self) -> None:
        """Send what can be sent now."""
        if self._timer is not None or self._is_closed:
            return
        turn_bytes = self._limits.turn_bytes_max
        try:
            while turn_bytes > 0:
                if self._small:
                    self._send_small()
                elif self._chunk is None:
                    if not self._take_next():
                        self._unwatch()
                        return
                elif self._granted_bytes or self._is_granted():
                    turn_bytes -= self._send_piece(self._chunk)
                else:
                    return
        except BlockingIOError:
            self._has_room = False
        except OSError as error:
            self._fail(TransferError(f"the link broke: {error}", reason="short"))
            return
        if not self._is_closed:
            self._watch()

    def _send_small(self) -> None:
        sent = self.sock.send(self._small, _MORE if self._chunk is not None else 0)
        self._small = self._small[sent:]
        self._has_room = False

    def _take_next(self) -> bool:
        """Begin the next frame, and return whether there is one."""
        if self._messages:
            self._small = b"".join(self._messages)
            self.control_bytes += self._message_bytes
            self._messages.clear()
            self._message_bytes = 0
            return True
        while self._ready:
            item = self._ready.popleft()
            if isinstance(item, Ending):
                del self._answers[item.answer.get.request]
                self._small = item.frame
            elif item.order.is_over:
                item.close()
                continue
            else:
                self._chunk, self._small, self._lacking_bytes = item, item.head, item.length
            self._look_up()
            return True
        self._look_up()
        return False

    def _is_granted(self) -> bool:
        """Have the bucket let a slice go, if there is room for it; return whether it may go now."""
        is_paced = self._bucket.rate_bytes_per_s is not None
        if is_paced and not self._has_room:
            self._watch()
            return False
        size = self._bucket.slice_bytes
        if (
            self._lacking_bytes < 1.5 * size
        ):  # a little rest would have to queue again, behind a slice of every other link
            size = self._lacking_bytes
        delay_s = self._bucket.reserve(size)
        self._granted_bytes = size
        if delay_s <= 0:
            return True
        self._unwatch()
        self._timer = self._loop.call_later(delay_s, self._on_tokens)
        return False

    def _send_piece(self, chunk: Located) -> int:
        offset = chunk.offset + chunk.length - self._lacking_bytes
        sent = os.sendfile(self.sock.fileno(), chunk.file.fileno(), offset, self._granted_bytes)
        if not sent:
            self._fail(TransferError(f"a file ends {self._lacking_bytes} bytes early", reason="short"))
            return self._limits.turn_bytes_max
        self._has_room = False
        self._granted_bytes -= sent
        self._lacking_bytes -= sent
        self._progress_s = now_s = self._loop.time()
        self.chunks.add(sent, now_s)
        self._on_sent(sent)
        if not self._lacking_bytes:
            self._chunk = None
            chunk.close()
            if isinstance(chunk.order, Push):
                chunk.order.finish()
        return sent

    def _on_tokens(self) -> None:
        self._timer = None
        self._pump()

    def _on_writable(self) -> None:
        self._has_room = True
        self._pump()

    def _watch(self) -> None:
        """Go on when the kernel has room; from now on the reader must take something."""
        if self._is_watching:
            return
        self._is_watching = True
        self._progress_s = self._loop.time()
        self._loop.add_writer(self.sock.fileno(), self._on_writable)
        if self._stall_timer is None:
            self._stall_timer = self._loop.call_later(self._limits.stall_timeout_s, self._check_stall)

    def _unwatch(self) -> None:
        if self._is_watching:
            self._is_watching = False
            self._loop.remove_writer(self.sock.fileno())

    def _check_stall(self) -> None:
        self._stall_timer = None
        if not self._is_watching:
            return
        left_s = self._progress_s + self._limits.stall_timeout_s - self._loop.time()
        if left_s > 0:
            self._stall_timer = self._loop.call_later(left_s, self._check_stall)
            return
        timeout_s = self._limits.stall_timeout_s
        self._fail(TransferError(f"the peer has taken nothing for {timeout_s:.1f} s", reason="stalled"))

    def _fail(self, error: ShardcastError) -> None:
        if not self._is_closed:
            self.close(error)
            self._on_failed(error)


def _orders_of(waiting: list[Located | Ending], *more: list[Order] | deque[Order]) -> Iterator[Order]:
    for item in waiting:
        yield item.order if isinstance(item, Located) else item.answer
    for orders in more:
        yield from orders
