"""Numbers of ``obt.v1``: sizes in bytes, times in seconds unless the name says otherwise."""

from typing import Final

SUBPROTOCOL: Final = "obt.v1"
PROTOCOL_VERSION: Final = 1
CONNECT_PATH: Final = "/api/v1/agents/connect"

# Of a text frame, in UTF-8. A server may take less, but never less than the second.
MAX_FRAME_BYTES: Final = 1 << 20
MIN_FRAME_BYTES: Final = 64 << 10
# Of one message, where somebody on the way cuts it up. An empty fragment costs as much time as a full one.
MAX_FRAGMENTS: Final = 1024
# Received bytes are parsed so many at a time: one read may hold a hundred thousand fragments.
PARSED_AT_ONCE_BYTES: Final = 4 << 10
# Before anybody is known, little is read.
MAX_HELLO_BYTES: Final = 32 << 10
# Of arrays and objects in each other: parsers recurse, and Ollama's own objects stay below ten.
MAX_DEPTH: Final = 64
# What JavaScript holds exactly.
MAX_ID: Final = 2**53 - 1
MAX_ID_CHARS: Final = 64
MAX_JOB_ID_CHARS: Final = 128
BAD_FRAMES_PER_MINUTE: Final = 10

HELLO_WITHIN_S: Final = 10.0
# A server may choose within the bounds: neither a flood, nor none at all.
HEARTBEAT_INTERVAL_S: Final = 15.0
HEARTBEAT_AT_LEAST_S: Final = 1.0
HEARTBEAT_AT_MOST_S: Final = 3600.0
# Either side sends something this often, and gives the other up after three times that and a margin.
ALIVE_INTERVAL_S: Final = 5.0
SILENCE_S: Final = 18.0
# A stream without credit for so long has no reader.
STALLED_STREAM_S: Final = 60.0
STREAMS_ALIVE_INTERVAL_S: Final = 60.0

# Credit before the first grant: some 200 chunks of a stream; four streams at once.
STREAM_CREDIT_BYTES: Final = 32 << 10
LINK_CREDIT_BYTES: Final = 128 << 10
# What a server can make the agent hold for one stream, however much it grants.
MAX_BALANCE_BYTES: Final = 4 << 20
# A larger result or item goes in pieces, so that it passes nobody for long.
INLINE_RESULT_BYTES: Final = 24 << 10
MAX_ITEM_BYTES: Final = 1 << 20
MAX_IN_FLIGHT: Final = 64
# ``cancel`` and ``blob.put`` are not counted there, since they free what others hold; they have as many
# again, enough to cancel everything at once, and no more: each costs a task.
MAX_EXEMPT_IN_FLIGHT: Final = 64
# What waits for a peer in the whole process: requests under way, bodies for Ollama, whole answers. With the
# copies that are made of one at a time (four of the largest body of Ollama, 32 MiB) that is some 200 MiB,
# less than half of what the unit may use (512 MiB).
MAX_WAITING_BYTES: Final = 64 << 20
# What waits in one stream before its handler has to: 64 streams then hold 32 MiB, whatever was granted.
MAX_STREAM_WINDOW_BYTES: Final = 512 << 10
# Whole messages that were received and not handled; reading from the socket pauses above it.
MAX_UNREAD_BYTES: Final = 256 << 10
# Control waits for no credit. A server that reads so little of it is not there.
MAX_CONTROL_BACKLOG_BYTES: Final = 1 << 20
# A data frame holds a quarter of what may be on its way, within these bounds.
MIN_DATA_FRAME_BYTES: Final = 1 << 10
MAX_DATA_FRAME_BYTES: Final = 32 << 10
# Bytes on their way: at first, and within which bounds they follow the link. The queue that they make may
# delay what comes behind it by so many seconds.
SEND_WINDOW_BYTES: Final = 16 << 10
MIN_SEND_WINDOW_BYTES: Final = 4 << 10
MAX_SEND_WINDOW_BYTES: Final = 16 << 20
QUEUE_TARGET_S: Final = 0.75
# A peer that answers no ping in this time, and is alive, never does.
PING_UNANSWERED_S: Final = 30.0

MAX_BLOB_BYTES_PER_SESSION: Final = 16 << 20
BLOB_LIFETIME_S: Final = 60.0
# Answered ids of a session, for a ``cancel`` that crossed the answer.
REMEMBERED_IDS: Final = 1024

# What the conformance kit waits for a redial; ``obt_agent.backoff`` has the schedule.
RECONNECT_MAX_S: Final = 60.0

# How long the agent knows a job that is over, and how far ahead a start may be dated.
TOMBSTONE_DAYS: Final = 90
MAX_NOT_AFTER_S: Final = 7 * 86400.0


class Close:
    """WebSocket close codes of ``obt.v1``."""

    NORMAL: Final = 1000
    GOING_AWAY: Final = 1001
    UNSUPPORTED_DATA: Final = 1003
    TOO_BIG: Final = 1009
    PROTOCOL_ERROR: Final = 4400
    CREDENTIAL_REFUSED: Final = 4401
    SILENT: Final = 4408
    IDENTITY_IN_USE: Final = 4409
    NO_COMMON_VERSION: Final = 4426
    TOO_MUCH: Final = 4429
    DRAINING: Final = 4503
